#!/usr/bin/env bash
# gevent 26.9.0, Python 3.11: monkey.patch_all(thread=False) and thread pools.
# Guess: threads and what is built on them (concurrent.futures.ThreadPoolExecutor) stay as they are.
# What happens: threads stay real, but `queue` is patched on its own switch, and the pool waits in gevent's SimpleQueue.
#   A real worker thread has no event loop to switch to: it takes its first job, and dies of LoopExit while it waits for
#   the next one, so that later jobs are never taken. patch_all(thread=False, queue=False) leaves pools working.
# Whom it hits: who keeps threads real under gunicorn -k gevent for a library that needs them (MLX, CUDA, ONNX).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check gevent==26.9.0
cat > "$folder/pool.py" <<'PY'
import os, sys
from gevent import monkey
monkey.patch_all(thread=False, queue=sys.argv[1] == "patched")
import queue, _queue, threading
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1)
worker = pool.submit(threading.current_thread).result(5)
worker.join(2)
print(f"queue {sys.argv[1]}: SimpleQueue is C's: {queue.SimpleQueue is _queue.SimpleQueue}; "
      f"worker is a real thread: {isinstance(worker, threading.Thread)}; alive after its first job: {worker.is_alive()}")
sys.stdout.flush()
os._exit(0)
PY
patched=$("$folder/venv/bin/python" "$folder/pool.py" patched 2>"$folder/err")
plain=$("$folder/venv/bin/python" "$folder/pool.py" plain 2>/dev/null)
echo "$patched"
grep -m 1 LoopExit "$folder/err"
echo "$plain"
grep -q "C's: False; .*first job: False" <<<"$patched"
grep -q "C's: True; .*first job: True" <<<"$plain"
