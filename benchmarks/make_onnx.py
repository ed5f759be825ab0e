"""A sentence-transformers folder with a BERT → its onnx/model.onnx, as fastembed's are: hidden states in float32.

    REFERENCE_PYTHON benchmarks/make_onnx.py MODEL_FOLDER [--int8]

Needs torch, transformers, onnx, onnxscript and onnxruntime; `--int8` writes model_int8.onnx too.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel


class States(torch.nn.Module):
    """The last hidden states alone."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """(rows, length, width)."""
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return found.last_hidden_state


def main() -> None:
    """Export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--int8", action="store_true")
    args = parser.parse_args()
    folder = args.folder / "onnx"
    folder.mkdir(exist_ok=True)
    model = States(AutoModel.from_pretrained(args.folder, attn_implementation="eager").eval())
    ids = torch.randint(1000, 2000, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    names = ["input_ids", "attention_mask", "token_type_ids"]
    shape = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        model,
        (ids, mask, torch.zeros_like(ids)),
        str(folder / "model.onnx"),
        input_names=names,
        output_names=["last_hidden_state"],
        dynamic_shapes=dict.fromkeys(names, shape),
        opset_version=18,
        external_data=False,
        dynamo=True,
    )
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    ids, mask = ids[:, :12], mask[:, :12]
    given = dict(zip(names, (ids, mask, torch.zeros_like(ids)), strict=True))
    with torch.no_grad():
        difference = np.abs(session.run(None, {k: v.numpy() for k, v in given.items()})[0] - model(**given).numpy())
    largest = difference[mask.numpy() > 0].max()
    print(f"largest difference to torch, padded rows too: {largest:.1e}")
    assert largest < 1e-4
    if args.int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(folder / "model.onnx", folder / "model_int8.onnx", weight_type=QuantType.QInt8)


if __name__ == "__main__":
    main()
