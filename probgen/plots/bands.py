"""Simultaneous bands of chance for ranks and shares: how far an honest sample strays.

Säilynoja, Bürkner and Vehtari (2022), "Graphical test for discrete uniformity and its
applications in goodness-of-fit evaluation and multiple sample comparison", Statistics and
Computing. Their band covers the whole curve at once; here its coverage is computed exactly:
counts of a multinomial are independent Poisson counts given their sum, so that the probability
of staying inside is a chain of convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["cumulative_band", "share_band"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: halvings of the search for the pointwise level
HALVINGS = 24


@lru_cache(maxsize=64)
def cumulative_band(
    n: int, steps: tuple[float, ...], level: float = 0.95
) -> tuple[Floats, Floats]:
    """Where the cumulative shares of n draws from known probabilities stay, all at once.

    Parameters
    ----------
    n : int
        Number of draws, at least 1.
    steps : tuple of k floats
        Probabilities of k cells in order, which sum to 1.
    level : float
        Probability that the whole curve stays inside.

    Returns
    -------
    lower, upper : ndarray (k,)
        Of the share of draws up to the end of each cell; both 1 at the last. Equal-tailed at
        each place, with the same pointwise level everywhere. Cost is k convolutions of vectors
        of about sqrt(n) numbers, for each of some twenty trial levels.

    Examples
    --------
    >>> lower, upper = cumulative_band(100, (0.25,) * 4)
    >>> (lower.round(2).tolist(), upper.round(2).tolist())
    ([0.15, 0.39, 0.65, 1.0], [0.35, 0.61, 0.85, 1.0])
    """
    p = np.array(steps)
    ends = np.minimum(np.cumsum(p), 1.0)
    ends[-1] = 1.0

    def band(tail: float) -> tuple[Ints, Ints]:
        return _interval(n, ends, tail)

    def stay(low: Ints, high: Ints) -> float:
        return _cumulative_chance(n, p, low, high)

    lower, upper = _widest(band, stay, level)
    return lower / n, upper / n


@lru_cache(maxsize=64)
def share_band(n: int, steps: tuple[float, ...], level: float = 0.95) -> tuple[Floats, Floats]:
    """Where the shares of n draws in cells of known probability stay, all at once.

    Parameters and returns as in `cumulative_band`, but for each cell by itself: the band of a
    histogram.

    Examples
    --------
    >>> lower, upper = share_band(100, (0.25,) * 4)
    >>> (lower.round(2).tolist(), upper.round(2).tolist())
    ([0.15, 0.15, 0.15, 0.15], [0.36, 0.36, 0.36, 0.36])
    """
    p = np.array(steps)

    def band(tail: float) -> tuple[Ints, Ints]:
        return _interval(n, p, tail)

    def stay(low: Ints, high: Ints) -> float:
        return _share_chance(n, p, low, high)

    lower, upper = _widest(band, stay, level)
    return lower / n, upper / n


def _interval(n: int, p: Floats, tail: float) -> tuple[Ints, Ints]:
    """Equal-tailed binomial interval of counts, `tail` outside."""
    low, high = stats.binom.ppf(tail / 2, n, p), stats.binom.isf(tail / 2, n, p)
    return low.astype(np.int64), high.astype(np.int64)


def _widest(
    band: Callable[[float], tuple[Ints, Ints]], stay: Callable[[Ints, Ints], float], level: float
) -> tuple[Ints, Ints]:
    """The narrowest of the bands that the whole curve stays inside with at least `level`."""
    outside = 1 - level
    small, large = np.log(outside) - 12.0, np.log(outside)  # Bonferroni lies between
    for _ in range(HALVINGS):
        middle = (small + large) / 2
        if stay(*band(float(np.exp(middle)))) >= level:
            small = middle
        else:
            large = middle
    return band(float(np.exp(small)))


def _cumulative_chance(n: int, p: Floats, low: Ints, high: Ints) -> float:
    """Probability that the cumulative counts stay in [low, high] at each place."""
    at, mass = 0, np.ones(1)  # mass of the cumulative counts at, at + 1, ...
    for step, lowest, highest in zip(n * p, low.tolist(), high.tolist(), strict=True):
        kernel, first = _poisson(step, n)
        grown = np.convolve(mass, kernel)
        start = at + first
        inside = slice(max(lowest - start, 0), max(highest - start + 1, 0))
        mass, at = grown[inside], max(start, lowest)
        if not len(mass):
            return 0.0
    last = n - at
    return float(mass[last] / stats.poisson.pmf(n, n)) if 0 <= last < len(mass) else 0.0


def _share_chance(n: int, p: Floats, low: Ints, high: Ints) -> float:
    """Probability that each count by itself stays in [low, high]."""
    at, mass = 0, np.ones(1)
    for step, lowest, highest in zip(n * p, low.tolist(), high.tolist(), strict=True):
        mass = np.convolve(mass, stats.poisson.pmf(np.arange(lowest, highest + 1), step))
        at += lowest
        if at > n:
            return 0.0
        mass = mass[: n - at + 1]
    last = n - at
    return float(mass[last] / stats.poisson.pmf(n, n)) if 0 <= last < len(mass) else 0.0


@lru_cache(maxsize=256)
def _poisson(rate: float, n: int) -> tuple[Floats, int]:
    """Nearly all the mass of a Poisson count up to n, and the count that it starts at."""
    first, last = (int(stats.poisson.ppf(q, rate)) for q in (1e-13, 1 - 1e-13))
    counts = np.arange(min(first, n), min(last, n) + 1)
    return stats.poisson.pmf(counts, rate), int(counts[0])
