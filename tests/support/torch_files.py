"""Files as torch.save writes them, and others in their form, made without torch."""

import io
import pickle
import zipfile

import numpy as np


class Names:
    """What a pickle names: a function with its arguments, or a class without any."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


class Stored(tuple):
    """('storage', kind, key, device, number of elements): written as torch writes its storages."""


class Writer(pickle._Pickler):
    """Python's pickler in Python, for whose names nothing has to be importable."""

    def persistent_id(self, value):
        return tuple(value) if isinstance(value, Stored) else None

    def save(self, value, *rest, **named):
        if not isinstance(value, Names):
            return super().save(value, *rest, **named)
        self.write(f"c{value.module}\n{value.name}\n".encode())
        for arguments in value.arguments:
            super().save(arguments)
            self.write(b"R")
        return None


def pickled(content):
    stream = io.BytesIO()
    Writer(stream, 2).dump(content)
    return stream.getvalue()


def archived(entries, folder="archive", compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"{folder}/{name}" if folder else name, content)
    return stream.getvalue()


def tensor(offset=0, shape=(2, 3), stride=(3, 1), key="0", count=6, kind="FloatStorage"):
    storage = Stored(("storage", Names("torch", kind), key, "cpu", count))
    arguments = (storage, offset, shape, stride, False, Names("collections", "OrderedDict", ()))
    return Names("torch._utils", "_rebuild_tensor_v2", arguments)


def torch_file(content=None, numbers=None, **more):
    """Of one tensor, the numbers from 0 to 5, unless told otherwise."""
    numbers = np.arange(6, dtype=np.float32).tobytes() if numbers is None else numbers
    return archived({"data.pkl": pickled({"a": tensor()} if content is None else content), "data/0": numbers, **more})
