"""What probes find: a finding for each, and the worst of many cases beside their limit."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.device.precision import FLOAT32_ERROR, describe_error

__all__ = ["Case", "Exact", "Finding", "Outcome", "judge_float32", "relative_error", "worst"]

Outcome = tuple[bool | None, str]
Exact = NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """What one probe found; `passed` is None where it does not apply, or only informs."""

    probe: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Case:
    """One computation: where it stands, how far it is from the exact numbers, how far it may be."""

    where: str
    error: float
    limit: float


def worst(cases: Iterable[Case]) -> Outcome:
    """Pass or fail by the largest error under each limit."""
    largest: dict[float, Case] = {}
    for case in cases:
        if case.limit not in largest or case.error > largest[case.limit].error or np.isnan(case.error):
            largest[case.limit] = case
    details = (f"{case.error:.1e} at {case.where} (at most {case.limit:g})" for case in largest.values())
    return all(case.error <= case.limit for case in largest.values()), "; ".join(details)


def judge_float32(error: float) -> Outcome:
    """Pass or fail by an error of `float32_error`'s kind."""
    return error <= FLOAT32_ERROR, f"{describe_error(error)} (relative error {error:.1e})"


def relative_error(got: NDArray[Any], exact: NDArray[Any]) -> float:
    """Largest difference by the largest exact number; infinite where a number is not finite or the shapes differ."""
    if got.shape != exact.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got - exact).max() / max(np.abs(exact).max(), np.finfo(np.float32).tiny))
