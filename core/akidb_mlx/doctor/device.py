"""`akidb-mlx doctor --device`: every kernel and the engine, probe by probe, on the device in force."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from akidb_mlx.device.choice import Device
from akidb_mlx.device.precision import float32_error
from akidb_mlx.doctor.environment import Machine, examine_environment
from akidb_mlx.doctor.findings import Case, Finding, Outcome, judge_float32, worst
from akidb_mlx.doctor.limits import LIMITS
from akidb_mlx.engine.device_threads import DEVICE_THREADS

__all__ = ["examine_device"]

_PROBE_S = 120.0
_ROPE_LENGTHS = (64, 512, 8192)
Probe = tuple[str, Callable[[], Outcome]]


def examine_device(machine: Machine) -> Iterator[Finding]:
    """Probe by probe; a failed one does not stop the others, one that hangs does."""
    yield from examine_environment(machine)
    device = machine.device
    if device is None:
        return
    with TemporaryDirectory(prefix="akidb-mlx-") as folder:
        for name, probe in chain(_kernels(device), _engine(machine, device, Path(folder)), _speed(device)):
            try:
                yield Finding(name, *probe())
            except TimeoutError:
                yield Finding(name, False, f"no answer within {_PROBE_S:.0f} s; nothing more is asked of the device")
                return
            except Exception as error:
                yield Finding(name, False, f"{type(error).__name__}: {error}")


# The probes' modules import MLX: not before a device is known, for without a backend there is nothing to import.


def _kernels(device: Device) -> Iterator[Probe]:
    from akidb_mlx.doctor import attention, kernels, packings

    compared = partial(_compared, device)
    yield "precision of float32", partial(_on_device, device, _judge_float32)
    yield from (compared(f"products, {dtype}", kernels.products, dtype) for dtype in LIMITS)
    yield from (compared(f"attention, {dtype}", attention.attentions, dtype, device) for dtype in LIMITS)
    if device.kind == "cpu":
        yield compared("long attention in blocks", attention.block_attentions)
    else:
        yield from (compared(f"long attention, {dtype}", attention.long_attentions, dtype) for dtype in LIMITS)
    yield from (compared(f"rotary positions to {length}", kernels.rotary, length) for length in _ROPE_LENGTHS)
    yield compared("activations", kernels.activations, device)
    yield compared("norms", kernels.norms)
    yield compared("softmax and sums", kernels.sums)
    yield compared("look-ups", kernels.lookups)
    yield compared("pooling", kernels.pooling)
    packed = LIMITS if device.keeps_quantization else ("float32",)  # the tables' rows, where only they stay packed
    yield from (compared(f"packed weights, {dtype}", packings.kept_packed, dtype, device) for dtype in packed)
    yield compared("unpacked weights", packings.unpacked, device)


def _engine(machine: Machine, device: Device, folder: Path) -> Iterator[Probe]:
    from akidb_mlx.doctor import engine

    compared = partial(_compared, device)
    subject = engine.Subject.make(machine, folder)
    yield from (compared(f"rows, {dtype}", engine.rows, subject, dtype) for dtype in LIMITS)
    yield from (compared(f"alone = in a batch, {dtype}", engine.alone_and_together, subject, dtype) for dtype in LIMITS)
    yield "several callers", lambda: worst(engine.several_callers(subject))
    yield "memory of a full batch", partial(_on_device, device, partial(engine.full_batch, subject))
    yield "exit while busy", partial(engine.ends_while_busy, subject)
    yield "forked child", partial(engine.forked_child, subject)


def _speed(device: Device) -> Iterator[Probe]:
    from akidb_mlx.doctor import speed

    for name, measure in speed.FIGURES.items():
        yield name, partial(_on_device, device, partial(measure, device))


def _compared(device: Device, name: str, cases: Callable[..., Iterable[Case]], *arguments: object) -> Probe:
    return name, partial(_on_device, device, lambda: worst(cases(*arguments)))


def _on_device(device: Device, judge: Callable[[], Outcome]) -> Outcome:
    """Compute where models do: on the first device thread."""

    def there() -> Outcome:
        with device.stream():
            return judge()

    return DEVICE_THREADS.run(there).result(_PROBE_S)


def _judge_float32() -> Outcome:
    return judge_float32(float32_error())
