"""P-values from ranks, and the false discovery rate: plain arrays, no models."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["TIE", "adjusted", "at_least", "flags_needed", "p_values"]

Floats = NDArray[np.float64]
#: relative difference below which two surprisals are a tie: the same row scored in other company
TIE = 1e-9


def at_least(scores: Floats, reference: Floats) -> NDArray[np.int64]:
    """How many reference scores are as large as each score (n,), ties included.

    >>> at_least(np.array([1.0, 2.5]), np.array([1.0, 2.0, 3.0]))
    array([3, 1])
    """
    room = np.where(np.isfinite(scores), TIE * np.maximum(1.0, np.abs(scores)), 0.0)
    return len(reference) - np.searchsorted(np.sort(reference), scores - room)


def p_values(scores: Floats, reference: Floats) -> Floats:
    """Conformal p-values (n,): (1 + number of reference scores as large) / (1 + their number).

    If a score and the reference scores are exchangeable, ``P(p <= a) <= a`` for every a: its rank
    among them is uniform, and ties only make p larger. The smallest value is
    1 / (1 + len(reference)).

    Parameters
    ----------
    scores : ndarray (n,)
        Larger is stranger.
    reference : ndarray (c,)

    References
    ----------
    Vovk, Gammerman and Shafer (2005), Algorithmic Learning in a Random World.

    Examples
    --------
    >>> p_values(np.array([0.5, 9.0]), np.array([1.0, 2.0, 3.0]))
    array([1.  , 0.25])
    """
    return (1 + at_least(scores, reference)) / (1 + len(reference))


def adjusted(p: Floats) -> Floats:
    """P-values adjusted for the false discovery rate (n,): the least `fdr` that flags the row.

    Flagging the rows with ``adjusted(p) <= fdr`` is the step-up rule of Benjamini and Hochberg.
    It keeps the expected share of false flags below `fdr` for independent p-values, and for
    conformal p-values of new rows that share their calibration rows.

    References
    ----------
    Benjamini and Hochberg (1995), Controlling the false discovery rate, JRSS B 57.
    Bates, Candès, Lei, Romano and Sesia (2023), Testing for outliers with conformal p-values,
    Annals of Statistics 51.

    Examples
    --------
    >>> adjusted(np.array([0.01, 0.02, 0.5, 0.03])).round(3)
    array([0.04, 0.04, 0.5 , 0.04])
    """
    n = len(p)
    order = np.argsort(p, kind="stable")
    stepped = p[order] * n / np.arange(1, n + 1)
    out = np.empty(n)
    out[order] = np.minimum(1.0, np.minimum.accumulate(stepped[::-1])[::-1])
    return out


def flags_needed(least: float, n: int, fdr: float) -> int:
    """How many of n rows must have the least possible p-value before any of them is flagged.

    >>> flags_needed(1 / 101, 500, 0.05), flags_needed(1 / 11, 20, 0.05)
    (100, 37)
    """
    return max(1, math.ceil(least * n / fdr - 1e-9))
