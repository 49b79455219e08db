"""What the ranks of truths among posterior draws say: too high, too low, too wide, too narrow.

If a truth and L draws come from one distribution, the rank of the truth is uniform on 0..L
(Talts, Betancourt, Simpson, Vehtari and Gelman 2018, Validating Bayesian inference algorithms
with simulation-based calibration). Three tests look for what is not uniform: the mean of the
ranks (a biased posterior), their variance (one of the wrong width), and the largest departure
of their empirical distribution function (anything else).

Sizes: N simulations, L draws, Q quantities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["LEVEL", "Judged", "Verdict", "ecdf_band", "judge", "needed", "seen_with"]

Floats = NDArray[np.float64]
Verdict = Literal["ok", "biased", "over-dispersed", "under-dispersed"]

#: chance that some quantity of a sound posterior is called unsound
LEVEL = 0.05
#: places at which the distribution function is looked at, at most
PLACES = 100
#: tables of uniform ranks by which the largest departure is judged
NULL = 4999
#: tests of one quantity: mean, variance, distribution function
TESTS = 3


@dataclass(frozen=True)
class Judged:
    """What the ranks of one quantity say.

    Attributes
    ----------
    p : float
        Chance of ranks as uneven as these if the posterior is right, for this quantity alone.
    bias : float
        How far the posterior lies above the truth, in its standard deviations.
    spread : float
        How wide the posterior is, as a multiple of what it should be.
    kind : str
        What it is if it is not sound.

    Notes
    -----
    `bias` and `spread` take the posterior for a normal; they read off the ranks alone, so that
    a few infinite values do no harm.
    """

    p: float
    bias: float
    spread: float
    kind: Verdict


def judge(ranks: NDArray[np.integer], draws: int) -> Judged:
    """Test the ranks (N,) of a quantity, whole numbers in 0..draws.

    Parameters
    ----------
    ranks : ndarray (N,)
        N >= 2.
    draws : int
        L, the draws among which each truth was ranked.

    Examples
    --------
    >>> ranks = np.random.default_rng(0).integers(0, 101, 200)
    >>> judge(ranks, 100).p > 0.05
    True
    >>> judge(ranks // 2, 100).kind  # truths are low: the posterior is too high
    'biased'
    """
    n = len(ranks)
    u = (ranks + 0.5) / (draws + 1)
    z_mean, z_var, excess = _moments(u, draws)
    p = min(2 * stats.norm.sf(abs(z_mean)), 2 * stats.norm.sf(abs(z_var)), _ecdf_p(ranks, draws))
    kind: Verdict = "biased"
    if abs(z_var) > abs(z_mean):
        kind = "under-dispersed" if z_var > 0 else "over-dispersed"
    edge = 0.5 / n  # all ranks at one end: as far as n simulations can tell
    bias = -math.sqrt(2) * float(stats.norm.ppf(np.clip(u.mean(), edge, 1 - edge)))
    return Judged(min(1.0, TESTS * float(p)), bias, _width(1 / 12 + excess), kind)


def _moments(u: Floats, draws: int) -> tuple[float, float, float]:
    """The mean and the variance of ranks as standard normal scores, and the excess variance."""
    n = len(u)
    gaps = ((np.arange(draws + 1) + 0.5) / (draws + 1) - 0.5) ** 2
    z_mean = (u.mean() - 0.5) * math.sqrt(n / gaps.mean())
    excess = _excess(u, float(gaps.mean()))
    return float(z_mean), excess * math.sqrt(n) / float(gaps.std()), excess


def _excess(u: Floats, uniform: float) -> float:
    """Variance of ranks beyond that of uniform ones, as far as a shift does not explain it.

    A biased posterior narrows the ranks around their mean and spreads them around 1/2: only
    what both measures agree on is the width.
    """
    around_mean = float(u.var(ddof=1)) - uniform
    around_half = float(((u - 0.5) ** 2).mean()) - uniform
    return max(around_mean, 0.0) + min(around_half, 0.0)


def _places(draws: int) -> NDArray[np.int64]:
    """Ranks below which truths are counted."""
    return np.unique(np.linspace(1, draws, min(draws, PLACES)).round().astype(np.int64))


@lru_cache(maxsize=64)
def _null(n: int, draws: int) -> tuple[Floats, Floats]:
    """Tail chances of each count at each place (K, n + 1), and the null of the smallest."""
    places = _places(draws)
    share = places / (draws + 1)
    counts = np.arange(n + 1)
    below = stats.binom.cdf(counts, n, share[:, None])
    above = stats.binom.sf(counts - 1, n, share[:, None])
    tails = np.minimum(1.0, 2 * np.minimum(below, above))
    steps = np.diff(np.concatenate([[0.0], share, [1.0]]))
    drawn = np.random.default_rng(0).multinomial(n, steps, NULL).cumsum(1)[:, :-1]
    least = tails[np.arange(len(places)), drawn].min(1)
    return tails, np.sort(least)


def _ecdf_p(ranks: NDArray[np.integer], draws: int) -> float:
    """Chance of a departure as large anywhere, by the null's own simulations."""
    tails, null = _null(len(ranks), draws)
    places = _places(draws)
    counts = np.searchsorted(np.sort(ranks), places)
    least = tails[np.arange(len(places)), counts].min()
    return float((1 + np.searchsorted(null, least * (1 + 1e-12), side="right")) / (1 + NULL))


def ecdf_band(simulations: int, draws: int, level: float = 0.95) -> tuple[Floats, Floats, Floats]:
    """Where the empirical distribution function of uniform ranks stays with chance `level`.

    Parameters
    ----------
    simulations, draws : int
        N and L.
    level : float
        Chance that it stays inside everywhere.

    Returns
    -------
    place, lower, upper : ndarray (K,)
        The band of the share of ranks below ``place * (L + 1)``, which is `place` on average.

    References
    ----------
    Säilynoja, Bürkner and Vehtari (2022), Graphical test for discrete uniformity and its
    applications in goodness-of-fit evaluation and multiple sample comparison, Statistics and
    Computing 32.

    Examples
    --------
    >>> place, lower, upper = ecdf_band(100, 99)
    >>> bool((lower <= place).all() and (place <= upper).all())
    True
    """
    _, null = _null(simulations, draws)
    tail = float(np.quantile(null, 1 - level)) / 2
    place = _places(draws) / (draws + 1)
    lower = stats.binom.ppf(tail, simulations, place) / simulations
    upper = stats.binom.ppf(1 - tail, simulations, place) / simulations
    return place, lower, upper


def _effect(bias: float, spread: float) -> float:
    """Score of one simulation, of the test that is made for it."""
    if bias:
        return math.sqrt(12) * (float(stats.norm.cdf(abs(bias) / math.sqrt(2))) - 0.5)
    a = spread**-2
    return math.sqrt(180) * abs(math.asin(a / (1 + a)) / (2 * math.pi) - 1 / 12)


def needed(quantities: int, bias: float = 0.0, spread: float = 1.0, power: float = 0.8) -> int:
    """Simulations by which a miscalibration is seen with chance `power`.

    Parameters
    ----------
    quantities : int
        How many are tested together.
    bias : float
        Shift of the posterior in its standard deviations.
    spread : float
        Width of the posterior over the right width; counts where `bias` is 0.

    Examples
    --------
    >>> needed(1, bias=0.5), needed(1, spread=0.8)
    (46, 132)
    """
    effect = _effect(bias, spread)
    return math.ceil((_reach(quantities, power) / effect) ** 2) if effect else 0


def _reach(quantities: int, power: float) -> float:
    """The score that is passed with this chance."""
    tail = LEVEL / (2 * TESTS * max(1, quantities))
    return float(stats.norm.isf(tail) + stats.norm.ppf(power))


def seen_with(simulations: int, quantities: int, power: float = 0.8) -> tuple[float, float, float]:
    """The least bias, and the spreads below and above 1, that are seen with chance `power`.

    Infinite, 0 and infinite where no miscalibration of that kind is.
    """
    reach = _reach(quantities, power) / math.sqrt(max(1, simulations))
    share = 0.5 + reach / math.sqrt(12)
    bias = math.sqrt(2) * float(stats.norm.ppf(share)) if share < 1 else math.inf
    step = reach / math.sqrt(180)
    return bias, _width(1 / 12 + step), _width(1 / 12 - step)


def _width(variance: float) -> float:
    """Width of a normal posterior whose ranks have this variance, over the right width.

    With s the width, the rank of z ~ N(0, 1) is Phi(z / s), whose variance is
    arcsin(a / (1 + a)) / (2 pi) with a = s^-2.
    """
    ratio = math.sin(2 * math.pi * min(variance, 0.25)) if variance > 0 else 0.0
    return math.sqrt((1 - ratio) / ratio) if ratio > 0 else math.inf
