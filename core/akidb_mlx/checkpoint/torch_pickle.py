"""The pickle in torch.save's zip, read as data: a table of names and steps, and no call of anything. No MLX here.

It is not Python's unpickler with a filter. That one resizes its memo as the pickle says and calls what it is given;
here each step costs the same, a pickle has a greatest number of them, and a name is only a name.
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from akidb_mlx.checkpoint.torch_archive import NotTensorsError, TornError

__all__ = ["MOST_BYTES", "Storage", "Tensor", "read_pickle"]

# A tensor takes about 30 steps and 150 bytes, so this is some 12,000 tensors in a file.
MOST_BYTES = 4 << 20
_MOST_STEPS = 400_000
_MOST_ARGUMENTS = 8
_LONGEST_LINE = 1000


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
    ("collections", "OrderedDict"): _Name("dict"),
    ("torch._utils", "_rebuild_parameter"): _Name("parameter"),
    ("torch._utils", "_rebuild_tensor_v2"): _Name("tensor"),
    ("torch._utils", "_rebuild_tensor_v3"): _Name("typed tensor"),
    ("torch.storage", "UntypedStorage"): _Name("storage"),
    **{("torch", name): _Name("storage", dtype) for name, dtype in _STORAGES.items()},
    **{("torch", name): _Name("dtype", dtype) for name, dtype in _DTYPES.items()},
}


def read_pickle(pickle: bytes) -> Any:
    """What a pickle of at most MOST_BYTES holds: dicts, lists, tuples, plain values and `Tensor`s.

    Raises:
        NotTensorsError: it names something else, such as a function to call, or takes a step that no tensor needs.
        TornError: it is torn.
    """
    reader = _Reader(pickle)
    try:
        for _ in range(_MOST_STEPS):
            opcode = reader.take(1)
            if opcode == b".":
                return reader.result()
            if opcode not in _STEPS:
                raise NotTensorsError(f"has a pickle with opcode {opcode!a}")
            _STEPS[opcode](reader)
    except (TornError, NotTensorsError):
        raise
    except (IndexError, KeyError, TypeError, ValueError, struct.error):
        raise TornError("its pickle is torn") from None
    raise NotTensorsError(f"has a pickle of more than {_MOST_STEPS:,} steps")


class _Reader:
    """The pickle machine: what is still to be read, its stack, memo and marks."""

    def __init__(self, pickle: bytes) -> None:
        self._pickle = pickle
        self._at = 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        """The stacks under each mark."""
        self._memo: dict[int, Any] = {}

    def take(self, count: int) -> bytes:
        """The next bytes."""
        taken = self._pickle[self._at : self._at + count]
        if len(taken) != count:
            raise TornError("its pickle is cut short")
        self._at += count
        return taken

    def skip(self, count: int) -> None:
        """Over bytes that say nothing of tensors."""
        self.take(count)

    def number(self, form: str) -> Any:
        """The next number, in struct's form."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, form: str) -> str:
        """The next text, behind its length."""
        return self.take(self.number(form)).decode("utf-8")

    def line(self) -> str:
        """The next characters up to the end of a line."""
        end = self._pickle.index(b"\n", self._at, self._at + _LONGEST_LINE)
        return self.take(end + 1 - self._at)[:-1].decode("ascii")

    def push(self, value: Any) -> None:
        """Onto the stack."""
        self._stack.append(value)

    def result(self) -> Any:
        """What STOP left."""
        if self._below or len(self._stack) != 1:
            raise TornError("its pickle is torn")
        return self._stack[0]

    def mark(self) -> None:
        """Begin what a later step takes together."""
        self._below.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def put(self, index: int | None = None) -> None:
        """Remember what is on top, under a number, or the next one."""
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def get(self, index: int) -> None:
        """What was remembered."""
        self._stack.append(self._memo[index])

    def tuple(self) -> None:
        """Of all since the mark."""
        self.push(tuple(self._pop_mark()))

    def tuple_of(self, count: int) -> None:
        """Of the last few."""
        if len(self._stack) < count:
            raise TornError("its pickle is torn")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def append(self) -> None:
        """One item to a list."""
        item = self._stack.pop()
        _expect(self._stack[-1], list).append(item)

    def appends(self) -> None:
        """All since the mark to a list."""
        items = self._pop_mark()
        _expect(self._stack[-1], list).extend(items)

    def set_item(self) -> None:
        """One key and value into a dict."""
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def set_items(self) -> None:
        """Keys and values since the mark into a dict."""
        self._set(self._pop_mark())

    def _set(self, items: list[Any]) -> None:
        target = _expect(self._stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_expect(key, str)] = value

    def name(self, module: str, name: str) -> None:
        """A class or function of the table; nothing is imported."""
        if (module, name) not in _NAMES:
            raise NotTensorsError(f"names {_plain(module)}.{_plain(name)}")
        self.push(_NAMES[module, name])

    def name_on_stack(self) -> None:
        """As `name`."""
        name, module = _expect(self._stack.pop(), str), _expect(self._stack.pop(), str)
        self.name(module, name)

    def storage(self) -> None:
        """('storage', its class, key, the device it was on, number of elements)."""
        tag, kind, key, _device, count = _expect(self._stack.pop(), tuple)
        if tag != "storage" or _expect(kind, _Name).kind != "storage" or type(count) is not int:
            raise TornError("its pickle is torn")
        self._stack.append(Storage(_expect(key, str), kind.dtype, count))

    def reduce(self) -> None:
        """What a name of the table makes of its arguments; nothing is called."""
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

    def build(self) -> None:
        """State dicts have one attribute, the versions of their modules."""
        state = _expect(self._stack.pop(), dict)
        _expect(self._stack[-1], dict)
        if len(state) > 1 or "_metadata" not in state:
            raise NotTensorsError("has a pickle that sets attributes")


# Every step that is known; whatever else a pickle can do is refused.
_STEPS: dict[bytes, Callable[[_Reader], None]] = {
    b"\x80": lambda reader: reader.skip(1),  # the protocol
    b"\x95": lambda reader: reader.skip(8),  # how long a frame is
    b"N": lambda reader: reader.push(None),
    b"\x88": lambda reader: reader.push(True),
    b"\x89": lambda reader: reader.push(False),
    b"K": lambda reader: reader.push(reader.number("<B")),
    b"M": lambda reader: reader.push(reader.number("<H")),
    b"J": lambda reader: reader.push(reader.number("<i")),
    b"\x8a": lambda reader: reader.push(int.from_bytes(reader.take(reader.number("<B")), "little", signed=True)),
    b"G": lambda reader: reader.push(reader.number(">d")),
    b"\x8c": lambda reader: reader.push(reader.text("<B")),
    b"X": lambda reader: reader.push(reader.text("<I")),
    b"\x8d": lambda reader: reader.push(reader.text("<Q")),
    b")": lambda reader: reader.push(()),
    b"\x85": lambda reader: reader.tuple_of(1),
    b"\x86": lambda reader: reader.tuple_of(2),
    b"\x87": lambda reader: reader.tuple_of(3),
    b"(": _Reader.mark,
    b"t": _Reader.tuple,
    b"]": lambda reader: reader.push([]),
    b"a": _Reader.append,
    b"e": _Reader.appends,
    b"}": lambda reader: reader.push({}),
    b"s": _Reader.set_item,
    b"u": _Reader.set_items,
    b"q": lambda reader: reader.put(reader.number("<B")),
    b"r": lambda reader: reader.put(reader.number("<I")),
    b"\x94": lambda reader: reader.put(),
    b"h": lambda reader: reader.get(reader.number("<B")),
    b"j": lambda reader: reader.get(reader.number("<I")),
    b"c": lambda reader: reader.name(reader.line(), reader.line()),
    b"\x93": _Reader.name_on_stack,
    b"Q": _Reader.storage,
    b"R": _Reader.reduce,
    b"b": _Reader.build,
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
