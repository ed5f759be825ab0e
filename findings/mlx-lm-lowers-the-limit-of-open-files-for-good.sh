#!/usr/bin/env bash
# mlx-lm 0.32.2 with mlx 0.32.4: importing it changes how many files the process may open.
# Guess: an import leaves the process's limits alone, or raises the soft one at the most.
# What happens: `import mlx_lm` sets RLIMIT_NOFILE to 2,048 with a hard limit of 4,096, whatever stood there. Both are lowered
#   on a machine that allows more, a user without privileges cannot raise them again, and every child inherits them.
# Whom it hits: a server or an ingest that is started by a program which also generates text: connections beyond 4,096 are
#   refused although the machine allows a million.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check mlx-lm==0.32.2 "mlx[cpu]==0.32.4"
ulimit -Sn 8192
"$folder/venv/bin/python" - <<'PY'
import resource
import subprocess
import sys
from importlib.metadata import version

before = resource.getrlimit(resource.RLIMIT_NOFILE)
assert before[1] == resource.RLIM_INFINITY or before[1] >= 8192, "needs a machine that allows 8,192 files"
import mlx_lm

after = resource.getrlimit(resource.RLIMIT_NOFILE)
ask = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))"
child = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
print(f"mlx-lm {version('mlx-lm')}: before {before}, after {after}, in a child {child}")
assert mlx_lm and after == (2048, 4096) and child == "(2048, 4096)"
PY
