#!/usr/bin/env bash
# torch 2.13.0: torch.onnx.export(…, dynamo=False) of a model in eval mode within a small module of one's own, as encoders
#   are exported whose forward gives more than one tensor. The small module was made and not put into eval mode itself.
# Guess: an export leaves the model as it was; its mode is the one it had. What is exported is right, and so is what the
#   model gives afterwards, for a look at how far the two are apart.
# What happens: the export is right. But the mode of the outermost module, "training" by default, is set for all within it at
#   the end: the model that was in eval mode has its dropout on from then on. The exporter by dynamo=True leaves it.
# Whom it hits: who exports an embedding model and compares, or goes on embedding with it: the vectors differ by noise, which
#   looks as if the exported file were wrong.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > compare.py <<'PY'
import warnings

import onnxruntime
import torch

warnings.simplefilter("ignore")
print("torch", torch.__version__, "onnxruntime", onnxruntime.__version__)


class Wrapped(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


found = {}
for dynamo in (False, True):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5)).eval()
    x = torch.ones(2, 8)
    before = model(x).detach()
    torch.onnx.export(Wrapped(model), (x,), "model.onnx", input_names=["x"], dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    exported = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    found[dynamo] = (torch.allclose(exported, before, atol=1e-5), model.training, torch.equal(model(x), before))
    right, training, same = found[dynamo]
    print(f"dynamo={dynamo}: exported right {right}; afterwards training {training}, the model gives the same {same}")
assert found == {False: (True, True, False), True: (True, False, True)}, found
PY
python3 -m venv venv
venv/bin/pip -q install torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 2>&1 | grep -v WARNING || true
venv/bin/python compare.py 2>/dev/null
