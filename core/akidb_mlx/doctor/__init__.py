"""Is it right here? Probes of a model (`model`, `reranker`, `forms`) and of the device (`device`), a finding each."""

from dataclasses import asdict
from typing import Any

from akidb_mlx.any_model import AnyModel
from akidb_mlx.doctor.device import examine_device
from akidb_mlx.doctor.environment import Machine, read_machine
from akidb_mlx.doctor.findings import Finding
from akidb_mlx.doctor.forms import examine_hybrid, examine_multi_vector, examine_sparse
from akidb_mlx.doctor.model import examine
from akidb_mlx.doctor.reranker import examine_reranker

__all__ = [
    "Finding",
    "Machine",
    "examine",
    "examine_device",
    "examine_hybrid",
    "examine_multi_vector",
    "examine_reranker",
    "examine_sparse",
    "read_machine",
    "report",
]


def report(findings: list[Finding], model: AnyModel | None = None, machine: Machine | None = None) -> dict[str, Any]:
    """All findings in plain values, with what was examined."""
    about: dict[str, Any] = {}
    if machine is not None:
        about["environment"] = dict(machine.facts)
    if model is not None:
        about["model_name"], about["fingerprint"] = model.info()["model_name"], model.fingerprint
    return {
        **about,
        "passed": all(finding.passed is not False for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }
