"""The pickle in torch.save's zip, read as data: a table of names and steps, and no call of anything. No MLX here.

It is not Python's unpickler with a filter. That one resizes its memo as the pickle says and calls what it is given;
here each step costs the same, a pickle has a greatest number of them, and a name is only a name.
"""

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

from akidb_mlx.checkpoint.torch_archive import NotTensorsError, TornError

__all__ = ["MOST_BYTES", "Storage", "Tensor", "read_pickle"]

# A tensor takes about 30 steps and 150 bytes, so this is some 30,000 tensors in a file.
MOST_BYTES = 8 << 20
_MOST_STEPS = 1_000_000
_MOST_ARGUMENTS = 8


class Storage(NamedTuple):
    """A tensor's bytes: the entry that has them, the storage's dtype (None: untyped), its number of elements."""

    key: str
    dtype: str | None
    elements: int


class Tensor(NamedTuple):
    """A view of a storage as the pickle states it; none of it is checked."""

    storage: Storage
    dtype: str
    offset: Any
    shape: Any
    stride: Any


class _Name(NamedTuple):
    """A class or function of the table below; never the thing itself."""

    kind: str
    dtype: str | None = None


# By safetensors' names of dtypes.
_STORAGES = {
    "BFloat16Storage": "BF16",
    "BoolStorage": "BOOL",
    "ByteStorage": "U8",
    "CharStorage": "I8",
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "ShortStorage": "I16",
}
_DTYPES = {
    "bfloat16": "BF16",
    "bool": "BOOL",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "int8": "I8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "uint8": "U8",
}
_NAMES = {
    "collections OrderedDict": _Name("dict"),
    "torch._utils _rebuild_parameter": _Name("parameter"),
    "torch._utils _rebuild_tensor_v2": _Name("tensor"),
    "torch._utils _rebuild_tensor_v3": _Name("typed tensor"),
    "torch.storage UntypedStorage": _Name("storage"),
    **{f"torch {name}": _Name("storage", dtype) for name, dtype in _STORAGES.items()},
    **{f"torch {name}": _Name("dtype", dtype) for name, dtype in _DTYPES.items()},
}
# Opcodes whose argument is the value.
_VALUES = frozenset(
    {"BINFLOAT", "BININT", "BININT1", "BININT2", "BINUNICODE", "BINUNICODE8", "LONG1", "SHORT_BINUNICODE"}
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_FREE = frozenset({"PROTO", "FRAME", "STOP"})


def read_pickle(pickle: bytes) -> Any:
    """What a pickle of at most MOST_BYTES holds: dicts, lists, tuples, plain values and `Tensor`s.

    Raises:
        NotTensorsError: it names something else, such as a function to call, or takes a step that no tensor needs.
        TornError: it is torn.
    """
    reader = _Reader()
    try:
        for steps, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
            if steps >= _MOST_STEPS:
                raise NotTensorsError(f"has a pickle of more than {_MOST_STEPS:,} steps")
            reader.step(opcode.name, argument)
        return reader.result()
    except (TornError, NotTensorsError):
        raise
    except (IndexError, KeyError, TypeError, ValueError, OverflowError):
        raise TornError("its pickle is torn") from None


class _Reader:
    """The pickle machine's stack, memo and marks."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        """The stacks under each mark."""
        self._memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _VALUES:
            self._stack.append(argument)
        elif opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode])
        elif opcode in _STEPS:
            _STEPS[opcode](self, argument)
        elif opcode not in _FREE:
            raise NotTensorsError(f"has a pickle with {opcode}")

    def result(self) -> Any:
        """What STOP left."""
        if self._below or len(self._stack) != 1:
            raise TornError("its pickle is torn")
        return self._stack[0]

    def _mark(self, _: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _empty_list(self, _: Any) -> None:
        self._stack.append([])

    def _tuple(self, _: Any) -> None:
        items = self._pop_mark()
        self._stack.append(tuple(items))

    def _tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise TornError("its pickle is torn")
        items = tuple(self._stack[-count:])
        self._stack[-count:] = [items]

    def _append(self, _: Any) -> None:
        item = self._stack.pop()
        _expect(self._stack[-1], list).append(item)

    def _appends(self, _: Any) -> None:
        items = self._pop_mark()
        _expect(self._stack[-1], list).extend(items)

    def _set_item(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _set_items(self, _: Any) -> None:
        self._set(self._pop_mark())

    def _set(self, items: list[Any]) -> None:
        target = _expect(self._stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_expect(key, str)] = value

    def _global(self, name: str) -> None:
        if name not in _NAMES:
            raise NotTensorsError(f"names {_plain(name.replace(' ', '.'))}")
        self._stack.append(_NAMES[name])

    def _stack_global(self, _: Any) -> None:
        name, module = _expect(self._stack.pop(), str), _expect(self._stack.pop(), str)
        self._global(f"{module} {name}")

    def _persistent(self, _: Any) -> None:
        """('storage', its class, key, the device it was on, number of elements)."""
        tag, kind, key, _device, count = _expect(self._stack.pop(), tuple)
        if tag != "storage" or _expect(kind, _Name).kind != "storage" or type(count) is not int:
            raise TornError("its pickle is torn")
        self._stack.append(Storage(_expect(key, str), kind.dtype, count))

    def _reduce(self, _: Any) -> None:
        arguments, name = _expect(self._stack.pop(), tuple), _expect(self._stack.pop(), _Name)
        if len(arguments) > _MOST_ARGUMENTS:  # one tuple may be given to many
            raise TornError("its pickle is torn")
        if name.kind == "dict" and not arguments:
            self._stack.append({})
        elif name.kind == "parameter":
            self._stack.append(_expect(arguments[0], Tensor))
        elif name.kind in ("tensor", "typed tensor"):
            self._stack.append(_tensor(name.kind, arguments))
        else:
            raise TornError("its pickle is torn")

    def _build(self, _: Any) -> None:
        """State dicts have one attribute, the versions of their modules."""
        state = _expect(self._stack.pop(), dict)
        _expect(self._stack[-1], dict)
        if len(state) > 1 or "_metadata" not in state:
            raise NotTensorsError("has a pickle that sets attributes")


_STEPS: dict[str, Callable[[_Reader, Any], None]] = {
    "APPEND": _Reader._append,
    "APPENDS": _Reader._appends,
    "BINGET": _Reader._get,
    "BINPERSID": _Reader._persistent,
    "BINPUT": _Reader._put,
    "BUILD": _Reader._build,
    "EMPTY_DICT": _Reader._empty_dict,
    "EMPTY_LIST": _Reader._empty_list,
    "GLOBAL": _Reader._global,
    "LONG_BINGET": _Reader._get,
    "LONG_BINPUT": _Reader._put,
    "MARK": _Reader._mark,
    "MEMOIZE": _Reader._memoize,
    "REDUCE": _Reader._reduce,
    "SETITEM": _Reader._set_item,
    "SETITEMS": _Reader._set_items,
    "STACK_GLOBAL": _Reader._stack_global,
    "TUPLE": _Reader._tuple,
    "TUPLE1": lambda reader, _: reader._tuple_of(1),
    "TUPLE2": lambda reader, _: reader._tuple_of(2),
    "TUPLE3": lambda reader, _: reader._tuple_of(3),
}


def _tensor(kind: str, arguments: tuple[Any, ...]) -> Tensor:
    """(storage, offset, shape, stride, requires_grad, hooks[, dtype][, marks]); marks say that numbers are negated."""
    storage, offset, shape, stride, _gradient, _hooks, *rest = arguments
    storage = _expect(storage, Storage)
    dtype = storage.dtype
    if kind == "typed tensor":
        dtype = _expect(rest.pop(0), _Name).dtype
    if dtype is None or any(rest):
        raise NotTensorsError("has a tensor that is conjugate or negated")
    return Tensor(storage, dtype, offset, shape, stride)


def _expect(value: Any, kind: type) -> Any:
    """The value, if it is of this very type."""
    if type(value) is not kind:
        raise TornError(f"its pickle has a {type(value).__name__.strip('_')} in place of a {kind.__name__.strip('_')}")
    return value


def _plain(name: str) -> str:
    """A name for a message: one line, not long."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:80])
