"""Which device is in force, whether that is the one to expect here, and what else decides how it computes."""

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from akidb_mlx.device import blas
from akidb_mlx.device.choice import Device, choose_device
from akidb_mlx.doctor.findings import Finding
from akidb_mlx.errors import AkiDBMLXError, BackendError

__all__ = ["Machine", "examine_environment", "read_machine"]

_PACKAGES = ("akidb-mlx", "mlx", "mlx-metal", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13", "mlx-lm")
_VARIABLES = ("MLX_", "METAL_", "AGX_", "CUDA_", "OMP_NUM_THREADS", "OPENBLAS_")
_PRIVATE = {"uuid", "pci_bus_id"}  # reports are for others to read: no folders either
# Apple's GPUs by generation: 13 is the M1's, 17 the M5's, which has matrix units that only this wheel uses.
_MATRIX_UNITS, _THEIR_WHEEL = 17, "macosx_26"
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Machine:
    """What is known before anything is computed; no device where MLX finds none that works."""

    requested: Literal["gpu", "cpu"] | None
    device: Device | None
    finding: Finding
    facts: Mapping[str, Any]


def read_machine(requested: Literal["gpu", "cpu"] | None = None) -> Machine:
    """Choose the device as a load would; computes nothing."""
    facts: dict[str, Any] = {
        "system": platform.platform(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _installed(name))},
        "blas": blas.status().reason,
        "device": {},
    }
    try:
        device = choose_device(requested)
    except (AkiDBMLXError, RuntimeError) as error:  # MLX's own, on a Mac without a GPU
        reason = None if isinstance(error, BackendError) else _gpu_expected()
        remedy = f"; {_REMEDIES[reason]}" if reason else ""
        return Machine(requested, None, Finding("device", False, f"none: {error}{remedy}"), facts)
    finally:  # with those that choosing sets
        facts["variables"] = {key: value for key, value in sorted(os.environ.items()) if key.startswith(_VARIABLES)}
    facts["device"] = {"kind": device.kind, **_device_info(device)}
    return Machine(requested, device, _judge(device, requested), facts)


def examine_environment(machine: Machine) -> list[Finding]:
    """The device, the wheel that a Mac's GPU needs, and the facts in a line."""
    findings = [machine.finding]
    if machine.device is not None and machine.device.kind == "metal":
        findings.append(Finding("wheel", *_judge_wheel(machine.facts)))
    facts = machine.facts
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    variables = " ".join(f"{name}={value}" for name, value in facts["variables"].items())
    about = f"{facts['system']}, Python {facts['python']}; {packages}; {variables or 'no variables set'}"
    return [*findings, Finding("environment", None, about)]


def _judge(device: Device, requested: str | None) -> Finding:
    reason = _gpu_expected()
    if device.kind == "cpu" and requested != "cpu" and reason:
        return Finding("device", False, f"{reason}, but MLX finds no GPU and computes on the CPU; {_REMEDIES[reason]}")
    return Finding("device", True, f"{device.kind}: {device.name}")


_MAC, _CUDA_BUILD, _DRIVER = "this is a Mac", "MLX's CUDA build is installed", "an NVIDIA driver is installed"
_REMEDIES = {
    _MAC: "start it where the GPU is visible: in a login session, not in a sandbox, container or virtual machine",
    _CUDA_BUILD: "see what nvidia-smi shows, and CUDA_VISIBLE_DEVICES; --device cpu examines the CPU",
    _DRIVER: 'pip install "akidb-mlx[cuda13]" (or cuda12) in place of [cpu]; --device cpu examines the CPU',
}


def _gpu_expected() -> str | None:
    """Why there should be a GPU here; None where nothing speaks for one."""
    if sys.platform == "darwin":
        return _MAC
    if any(_installed(name) for name in ("mlx-cuda-12", "mlx-cuda-13")):
        return _CUDA_BUILD
    return _DRIVER if _NVIDIA_DRIVER.exists() else None


def _judge_wheel(facts: Mapping[str, Any]) -> tuple[bool | None, str]:
    wheel = facts["packages"].get("mlx-metal", "not from a wheel")
    digits = str(facts["device"].get("architecture", ""))[-3:-1]  # applegpu_g17s
    if not digits.isdecimal() or int(digits) < _MATRIX_UNITS:
        return None, f"mlx-metal {wheel}: this GPU needs none in particular"
    good = _THEIR_WHEEL in wheel
    remedy = "" if good else ", which pip of a recent Python takes: pip install --force-reinstall mlx mlx-metal"
    return good, f"mlx-metal {wheel}: this GPU's matrix units need the {_THEIR_WHEEL} wheel{remedy}"


def _installed(package: str) -> str | None:
    """Version and the wheel's tags; None where it is not installed."""
    try:
        found = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None
    wheel = (found.read_text("WHEEL") or "").splitlines()
    tags = [line.removeprefix("Tag: ") for line in wheel if line.startswith("Tag: ")]
    return " ".join([found.version, *(tag for tag in tags if not tag.endswith("-any"))])


def _device_info(device: Device) -> dict[str, str | int]:
    import mlx.core as mx

    said = mx.device_info(mx.cpu if device.kind == "cpu" else mx.gpu)
    return {name: value for name, value in said.items() if name not in _PRIVATE}
