"""The device here, one that waits for the test, and one whose speed plays no role."""

import contextlib
import threading

from akidb_mlx.device.choice import choose_device
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.engine.speed import SpeedMeter
from support.waiting import PATIENCE_S

# Tests choose by what it says (`kind`, `survives_fork`, `keeps_quantization`), so that they hold on every device.
DEVICE = choose_device()


class Gate:
    """In place of a model: batches that reach it wait until it is opened, or those that `which` holds for."""

    def __init__(self, model, which):
        self.model = model
        self.batches = []
        """What has reached it."""
        self.in_vain = False
        """Whether a batch waited until the end of patience; its failure may have been taken for the device's."""
        self._which = which
        self._opened = threading.Event()

    def open(self):
        self._opened.set()

    def why_not_finite(self):
        return self.model.why_not_finite()

    def __call__(self, batch):
        self.batches.append(batch)
        if self._which(batch) and not self._opened.wait(PATIENCE_S):
            self.in_vain = True
            raise AssertionError("waited in vain")
        return self.model(batch)


@contextlib.contextmanager
def model_in_place(embedder, model):
    """The embedder's engine computes with another model."""
    engine = embedder._loaded.engine
    own, engine.model = engine.model, model
    try:
        yield
    finally:
        if engine.model is not None:  # closed meanwhile
            engine.model = own


@contextlib.contextmanager
def stalled(embedder, which=lambda batch: True):
    """The embedder's device, one core of it, computes no such batch until the gate that this gives is opened."""
    engine = embedder._loaded.engine
    gate = Gate(engine.model, which)
    lanes, engine.cpu_lanes = engine.cpu_lanes, min(1, engine.cpu_lanes)  # 0 is a GPU
    try:
        with model_in_place(embedder, gate):
            yield gate
        assert not gate.in_vain, "a batch waited in vain"
    finally:
        gate.open()
        engine.cpu_lanes = lanes


@contextlib.contextmanager
def held_device():
    """The device is busy with something else; what is asked of any model waits until the end of the block."""
    release = threading.Event()
    busy = DEVICE_THREADS.run(lambda: release.wait(PATIENCE_S))
    try:
        yield
    finally:
        release.set()
        busy.result()


class _Unmeasured(SpeedMeter):
    def add(self, *_):
        pass


@contextlib.contextmanager
def unmeasured(embedder):
    """Batches are as large as their budget of tokens, not as short as this machine's speed asks for."""
    scheduler = embedder._loaded.engine.scheduler
    learnt, scheduler.speed = scheduler.speed, _Unmeasured()
    try:
        yield
    finally:
        scheduler.speed = learnt
