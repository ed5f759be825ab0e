"""Make the files beside this script with torch, and expected.npz with the numbers that torch says they hold.

    python make.py

Needs torch (CPU) and safetensors; made with torch 2.13. bfloat16 is in expected.npz as its bits.
"""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
REFERENCE = HERE.parents[1] / "reference"
FLOATS, INTEGERS = ("bfloat16", "float16", "float32", "float64"), ("int8", "int16", "int32", "int64")
DTYPES = (*FLOATS, *INTEGERS, "bool", "uint8", "uint16", "uint32", "uint64")


def numbers(tensor):
    bits = tensor.detach().contiguous()
    return (bits.view(torch.uint16) if bits.dtype == torch.bfloat16 else bits).numpy()


def tensors():
    """Every dtype, every layout, shared storages."""
    base = torch.arange(120.0).reshape(4, 5, 6) / 7
    found = OrderedDict({f"dtype.{name}": (base[0] * 9).to(getattr(torch, name)) for name in DTYPES})
    tied = torch.nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    found |= {
        "layout.whole": base,
        "layout.transposed": base[1].t(),
        "layout.permuted": base.permute(2, 0, 1),
        "layout.slice": base[1:3, 2],
        "layout.steps": base[::2, ::3, 1::4],
        "layout.one_number": base[3, 4, 5],
        "layout.scalar": torch.tensor(2.5),
        "layout.scalar_bfloat16": torch.tensor(2.5, dtype=torch.bfloat16),
        "layout.scalar_bool": torch.tensor(True),
        "layout.empty": torch.zeros(0, 3),
        "layout.empty_slice": base[:, 5:],
        "layout.row": base[2, 3][None, :, None],
        "layout.expanded_row": torch.arange(8).expand(1, -1),
        "layout.channels_last": torch.arange(48.0).reshape(2, 2, 3, 4).to(memory_format=torch.channels_last),
        "layout.bfloat16_transposed": base[2].to(torch.bfloat16).t(),
        "tied.a": tied,
        "tied.b": tied,
        "tied.data": tied.data,
        "buffer": torch.nn.Parameter(torch.arange(3.0), requires_grad=False),
    }
    return found


class OfItsOwn:
    """A class that no tensor needs."""


def refused():
    """Files that torch writes and that are not read, each for one reason."""
    layer = torch.nn.Linear(2, 2)
    return {
        "module": layer,
        "complex": {"a": torch.ones(2, dtype=torch.complex64)},
        "float8": {"a": torch.ones(2).to(torch.float8_e4m3fn)},
        "sparse": {"a": torch.eye(2).to_sparse()},
        "expanded": {"a": torch.ones(1, 3).expand(4, 3)},
        "conjugate": {"a": torch.view_as_complex(torch.ones(2, 2)).conj().imag},
        "number": {"a": torch.ones(2), "epoch": 3},
        "nested": {"state_dict": layer.state_dict()},
        "tensor": torch.ones(2),
        "empty": {},
        "training": {"a": torch.ones(2), "arguments": OfItsOwn()},
    }


def main():
    found = tensors()
    torch.save(found, HERE / "tensors.bin")
    torch.save(found, HERE / "tensors-protocol-4.bin", pickle_protocol=4)
    np.savez_compressed(HERE / "expected.npz", **{name: numbers(tensor) for name, tensor in found.items()})
    layer = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.arange(float(parameter.numel())).reshape(parameter.shape))
    with (HERE / "state-dict.bin").open("wb") as stream:  # without a name the archive's folder is `archive`
        torch.save(layer.state_dict(), stream)
    torch.save(layer.state_dict(), HERE / "before-1.6.bin", _use_new_zipfile_serialization=False)
    for name, content in refused().items():
        torch.save(content, HERE / f"refused-{name}.bin")
    torch.jit.script(torch.nn.Linear(2, 2)).save(HERE / "refused-torchscript.bin")

    weights = load_file(REFERENCE / "bert-dense" / "model.safetensors")
    torch.save(weights, HERE / "bert-dense.bin")
    torch.save(load_file(REFERENCE / "bert-dense" / "2_Dense" / "model.safetensors"), HERE / "bert-dense-2_Dense.bin")
    torch.save(load_file(REFERENCE / "static-root" / "model.safetensors"), HERE / "static-root.bin")
    weights = load_file(REFERENCE / "bert-cls" / "model.safetensors")
    torch.save(weights, HERE / "bert-cls.bin")
    shards = HERE / "bert-cls-shards"
    shards.mkdir(exist_ok=True)
    names = sorted(weights)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save(OrderedDict((name, weights[name]) for name in part), shards / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (shards / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
