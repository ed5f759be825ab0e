"""What only a loaded model shows: right rows, alone as in a batch, for several callers; memory; ends and forks."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from akidb_mlx.checkpoint.facts import read_checkpoint
from akidb_mlx.checkpoint.heads import PooledHead
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.doctor.environment import Machine
from akidb_mlx.doctor.findings import Case, Exact, Outcome
from akidb_mlx.doctor.limits import LIMITS
from akidb_mlx.doctor.tiny_model import LONGEST, TinyModel, make_text, write_tiny_model
from akidb_mlx.embedder import Embedder
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.loading import load_model
from akidb_mlx.model.network import Network
from akidb_mlx.model.padded_batch import pad_batch
from akidb_mlx.vectors import Embeddings, finish

__all__ = ["Subject", "alone_and_together", "ends_while_busy", "forked_child", "full_batch", "rows", "several_callers"]

# Kernels change between 8 and 9 tokens and at tiles of 32 and 64.
_TOKENS = (3, 8, 9, 33, 65)
_CALLERS, _TEXTS_EACH = 4, 6
_CHILD = (sys.executable, "-W", "ignore", "-m", "akidb_mlx.doctor.child")
_CHILD_S = 30.0


@dataclass(frozen=True)
class Subject:
    """The tiny model in a folder, and the machine that it runs on."""

    machine: Machine
    folder: Path
    exact: TinyModel
    texts: list[str]
    rows: Exact

    @classmethod
    def make(cls, machine: Machine, folder: Path) -> "Subject":
        """Write the model's files to `folder`."""
        exact, rng = write_tiny_model(folder), np.random.default_rng(9)
        texts = [make_text(rng, tokens) for tokens in _TOKENS]
        return cls(machine, folder, exact, texts, exact.rows(texts))

    def config(self) -> EmbedderConfig:
        """How to load it, whatever the user's environment and files say."""
        return EmbedderConfig.exact(model=str(self.folder), device=self.machine.requested)

    def load(self, dtype: str) -> Network:
        """The bare model; on a device thread."""
        assert self.machine.device is not None
        return load_model(read_checkpoint(self.folder), PooledHead(("mean",)), self.machine.device, dtype)


def rows(subject: Subject, dtype: str) -> Iterator[Case]:
    """Each text alone against its exact row."""
    model = subject.load(dtype)
    for text, exact in zip(subject.texts, subject.rows, strict=True):
        error = _difference(_embed(model, [text]), exact[None])
        yield Case(f"{len(text.split())} tokens", error, LIMITS[dtype].rows)


def alone_and_together(subject: Subject, dtype: str) -> Iterator[Case]:
    """The same texts in one padded batch, against each alone."""
    model = subject.load(dtype)
    for text, together in zip(subject.texts, _embed(model, subject.texts), strict=True):
        error = _difference(together[None], _embed(model, [text]))
        yield Case(f"{len(text.split())} tokens", error, LIMITS[dtype].rows)


def several_callers(subject: Subject) -> Iterator[Case]:
    """Threads that embed at once, through the engine, against exact rows."""
    rng = np.random.default_rng(10)
    texts = [[make_text(rng, int(rng.integers(1, 66))) for _ in range(_TEXTS_EACH)] for _ in range(_CALLERS)]
    with Embedder.load(subject.config()) as embedder, ThreadPoolExecutor(_CALLERS) as callers:
        dtype = embedder.info()["dtype"]
        for caller, found in enumerate(callers.map(embedder.encode, texts)):
            error = _difference(found, subject.exact.rows(texts[caller]))
            yield Case(f"caller {caller}", error, LIMITS[dtype].rows)


def full_batch(subject: Subject) -> Outcome:
    """Peak memory of a batch that fills the device, beside what batches may take there."""
    device = subject.machine.device
    assert device is not None
    model = subject.load(device.dtype("float32", None))
    count = max(1, device.max_batch_tokens // LONGEST)
    rng = np.random.default_rng(11)
    texts = [make_text(rng, LONGEST) for _ in range(count)]
    room, limit = device.memory.possible()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    embedded = _embed(model, texts)
    peak = mx.get_peak_memory() - before
    finite = bool(np.isfinite(embedded).all())
    detail = f"{count} × {LONGEST} tokens of a model of 128 channels take {peak / 1e6:,.0f} of {room / 1e6:,.0f} MB"
    return finite and peak <= room, f"{detail} ({limit}){'' if finite else ', and give rows that are not finite'}"


def ends_while_busy(subject: Subject) -> Outcome:
    """A process whose threads embed while it ends."""
    code, out, err = _run_child("busy", subject)
    if code is None:
        return False, f"the process does not end within {_CHILD_S:.0f} s"
    if (code, out.strip(), err) != (0, "embeds", ""):
        return False, f"the process ends with code {code}: {_last_line(err) or out.strip() or 'it says nothing'}"
    return True, "a process whose threads embed ends with code 0 and says nothing"


def forked_child(subject: Subject) -> Outcome:
    """A child that is forked from a process with a loaded model: refused on a GPU, right on a CPU."""
    if not hasattr(os, "fork"):
        return None, "this system does not fork"
    assert subject.machine.device is not None
    code, out, err = _run_child("fork", subject)
    if code is None:
        return False, f"the forked child neither answers nor refuses within {_CHILD_S:.0f} s"
    if code:
        return False, f"the process ends with code {code}: {_last_line(err)}"
    wanted = "right" if subject.machine.device.survives_fork else "refused"
    said = json.loads(out)
    return said == wanted, f"a forked child is {said}" + ("" if said == wanted else f" instead of {wanted}")


def _run_child(task: str, subject: Subject) -> tuple[int | None, str, str]:
    """(exit code, standard output, standard error) of akidb_mlx.doctor.child; no code where it does not end."""
    command = [*_CHILD, task, str(subject.folder), subject.machine.requested or "any"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_CHILD_S, check=False)
    except subprocess.TimeoutExpired:
        return None, "", ""
    return done.returncode, done.stdout, done.stderr


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def _embed(model: Network, texts: list[str]) -> Embeddings:
    """Unit rows of one batch, padded to its longest text; on a device thread."""
    encodings = [Encoding(np.array([int(word[1:]) for word in text.split()], np.int32)) for text in texts]
    found = model(pad_batch(encodings, max(map(len, encodings))))
    return finish(np.array(found), model.dimension, normalize=True)


def _difference(found: Embeddings, wanted: Embeddings | Exact) -> float:
    """Largest, of unit rows."""
    return float(np.abs(found - wanted).max()) if np.isfinite(found).all() else float("inf")
