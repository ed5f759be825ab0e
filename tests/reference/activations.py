"""transformers' activations on a grid, as activations.json holds them: python tests/reference/activations.py."""

import json
from pathlib import Path

import torch
from transformers.activations import ACT2CLS, ACT2FN

FILE = Path(__file__).with_name("activations.json")
LEARNT = ("prelu", "xielu")  # they have weights
GRID = [-12.0, -6.5, -3.0, -2.0, -1.0, -0.5, -0.1, 0.0, 0.1, 0.5, 1.0, 2.0, 3.0, 6.5, 12.0]

if __name__ == "__main__":
    x = torch.tensor(GRID, dtype=torch.float64)
    numbers = {name: ACT2FN[name](x).tolist() for name in sorted(ACT2CLS) if name not in LEARNT}
    rows = [f" {json.dumps(name)}: {json.dumps(row)}" for name, row in {"x": GRID, **numbers}.items()]
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
