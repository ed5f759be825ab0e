"""Is it right here? Probes of a loaded model (`model`) and of the device (`device`), each with a finding."""

from dataclasses import asdict
from typing import Any

from akidb_mlx.doctor.device import examine_device
from akidb_mlx.doctor.environment import Machine, read_machine
from akidb_mlx.doctor.findings import Finding
from akidb_mlx.doctor.model import examine
from akidb_mlx.embedder import Embedder

__all__ = ["Finding", "Machine", "examine", "examine_device", "read_machine", "report"]


def report(findings: list[Finding], embedder: Embedder | None = None, machine: Machine | None = None) -> dict[str, Any]:
    """All findings in plain values, with what was examined."""
    about: dict[str, Any] = {}
    if machine is not None:
        about["environment"] = dict(machine.facts)
    if embedder is not None:
        about["model_name"], about["fingerprint"] = embedder.info()["model_name"], embedder.fingerprint
    return {
        **about,
        "passed": all(finding.passed is not False for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }
