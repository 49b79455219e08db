"""Size and significance: a difference counts only if it has both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

__all__ = ["LEVEL", "NOTED", "WORST", "holm", "judge", "named", "p_value"]

Floats = NDArray[np.float64]
#: of all checks of one finding together
LEVEL = 0.01
#: effects from here on fail, and deserve a note: Cohen's (1988) small effect, and half of it
WORST, NOTED = 0.2, 0.1


def p_value(effect: Floats, error: Floats) -> Floats:
    """Two-sided p-values of effects with normal errors; 1 where the error is not a number."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.abs(effect) / error
    return np.where(np.isfinite(z), 2 * ndtr(-z), np.where(np.isinf(z), 0.0, 1.0))


def holm(p: Floats) -> Floats:
    """P-values adjusted for their number, whatever their dependence (Holm 1979).

    Examples
    --------
    >>> holm(np.array([0.01, 0.04, 0.03])).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    found = np.empty(len(p))
    found[order] = np.minimum(steps, 1.0)
    return found


def judge(effect: Floats, adjusted: Floats, worst: float = WORST) -> tuple[str, NDArray[np.bool_]]:
    """The status of many checks, and which of them count.

    An effect that is significant but smaller than 0.1 is nothing; one of at least
    `worst` fails.
    """
    sure = adjusted < LEVEL
    failed = sure & (np.abs(effect) >= worst)
    if failed.any():
        return "fail", failed
    noted = sure & (np.abs(effect) >= NOTED)
    return ("note", noted) if noted.any() else ("ok", noted)


def named(names: Sequence[str], size: Floats, chosen: NDArray[np.bool_], most: int = 3) -> str:
    """The worst of the chosen by name, and how many more there are."""
    order = [i for i in np.argsort(-np.abs(size)) if chosen[i]]
    shown = ", ".join(names[i] for i in order[:most])
    more = len(order) - most
    return f"{shown} and {more} more" if more > 0 else shown
