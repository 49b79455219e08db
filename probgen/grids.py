"""What repeats in a column of numbers: atoms, rounding, sign, and a robust scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["common_step", "find_atoms", "is_positive", "location"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_ATOMS = 5
#: how many times as often as other values an atom must occur
ATOM_RATIO = 10
#: most steps that may span the interquartile range of a gridded column
MAX_STEPS = 1e6
#: nats a row by which a log-normal must beat a normal
LOG_GAIN = 0.05
#: standard deviation over robust scale, above which the robust one is used
ABSURD = 20.0
#: interquartile range of the standard normal
IQR = 1.3489795003921634


def find_atoms(distinct: Floats, counts: Ints, gridded: bool) -> Bools:
    """Which distinct values carry mass of their own (k,).

    An atom occurs at least ten times, in 1 % of the rows, and ten times as often as the 99th
    percentile of multiplicities of the values that are no atoms. In a gridded column it must
    also occur ten times as often as its neighbours.
    """
    found = np.zeros(len(distinct), bool)
    need = max(10.0, 0.01 * counts.sum())
    order = np.argsort(-counts, kind="stable")
    for size in range(min(MAX_ATOMS, len(distinct) - 2), 0, -1):
        last = counts[order[size - 1]]
        if last < need:
            continue
        others = np.sort(counts[order[size:]])
        typical = others[min(len(others) - 1, int(np.ceil(0.99 * len(others))))]
        if last >= ATOM_RATIO * typical:
            found[order[:size]] = True
            break
    if gridded and found.any():
        plain = np.where(found, 0, counts)
        beside = np.maximum(np.append(plain[1:], 0), np.append(0, plain[:-1]))
        found &= counts >= ATOM_RATIO * beside
    return found


def common_step(distinct: Floats, counts: Ints, single: bool = False) -> float | None:
    """Largest step of which all values are whole multiples, or None.

    Parameters
    ----------
    distinct, counts : ndarray (k,)
        Sorted values and how often each occurs: without repetition there is no rounding to
        speak of.
    single : bool
        Whether the values were stored in single precision.

    Notes
    -----
    Euclid's algorithm on floats: the step is reduced to the largest remainder until all
    remainders are rounding errors. It works in any unit, also where a rounded column was
    multiplied by a constant.

    Examples
    --------
    >>> common_step(np.array([0.3, 0.5, 1.2]), np.array([3, 2, 2]))
    0.1
    """
    if np.count_nonzero(distinct) < 2 or counts.max() < 2:
        return None
    quartiles = np.quantile(np.repeat(distinct, np.minimum(counts, 1000)), [0.25, 0.75])
    spread = float(quartiles[1] - quartiles[0]) or float(distinct[-1] - distinct[0])
    top = max(abs(float(distinct[0])), abs(float(distinct[-1])))
    error = top * (2.0**-22 if single else 2.0**-48)
    least = max(spread / MAX_STEPS, 1000 * error)
    gaps = np.diff(distinct)
    if gaps.min() < least:
        return None
    # small numbers first: a step known with an error spreads it over all its multiples
    gaps = np.append(gaps, np.abs(distinct).min())
    step = float(gaps[:-1].min())
    while step >= least:
        steps = np.rint(gaps / step)
        rest = np.abs(gaps - steps * step)
        wrong = rest > error * (1 + steps)
        if not wrong.any():
            return _refined(distinct, step, error)
        step = float(rest[wrong].max())
    return None


def _refined(distinct: Floats, step: float, error: float) -> float | None:
    """The step by least squares, or the shortest decimal that is as good; None if none is."""
    unit = 2.0 ** int(np.frexp(np.abs(distinct).max())[1])
    scaled = distinct / unit
    steps = np.rint(distinct / step)
    for _ in range(2):
        steps = np.rint(distinct / step)
        step = float((scaled @ steps) / (steps @ steps)) * unit
    if np.abs(distinct - steps * step).max() > error:
        return None
    for digits in range(1, 13):
        short = float(f"{step:.{digits}g}")
        if short > 0 and np.abs(distinct - steps * short).max() <= error:
            return short
    return step


def is_positive(values: Floats) -> bool:
    """Whether all values are above 0 and a log-normal describes them better than a normal.

    Compares the maximised log likelihoods of the two (Box and Cox 1964), which a change of
    unit leaves as they are, on the inner 98 % of the values, so that one extreme value does
    not decide.
    """
    if not len(values) or not values.min() > 0:
        return False
    n = len(values)
    cut = max(1, n // 100) if n >= 10 else 0
    inner = np.partition(values, [cut, n - 1 - cut])[cut : n - cut]
    # in units of the largest value, so that squares do not overflow; logs before it, so that
    # small values do not vanish
    logs = np.log(inner) - np.log(inner.max())
    inner = inner / inner.max()
    plain, log = np.std(inner), np.std(logs)
    if not (plain > 0 and log > 0):
        return False
    gain = np.log(plain) - np.log(log) - np.mean(logs)
    return bool(gain > LOG_GAIN + 2 / n)


def location(u: Floats) -> tuple[float, float, bool]:
    """Centre and scale of numbers, and whether an extreme value forced the robust ones.

    Mean and standard deviation; where the latter is above 20 times the scale that the
    interquartile range suggests (of the innermost spread above 0, if half the values are
    equal), median and that scale. Equivariant: exact when u is multiplied by a power of two.
    """
    if len(u) == 0:
        return 0.0, 1.0, False
    centre = float(np.median(u))
    rest = u - centre
    top = float(np.abs(rest).max())
    if not np.isfinite(top):  # the difference overflows: halve before it
        rest, top = u / 4 - centre / 4, float(np.abs(u / 4 - centre / 4).max())
        return centre, 4 * _robust(rest) or 1.0, True
    if top == 0:
        return centre, 1.0, False
    unit = 2.0 ** int(np.frexp(top)[1] - 1)
    rest = rest / unit
    scale, robust = float(rest.std()), _robust(rest)
    if robust > 0 and scale > ABSURD * robust:
        return centre, robust * unit, True
    return centre + float(rest.mean()) * unit, scale * unit, False


def _robust(values: Floats) -> float:
    """Standard deviation suggested by the innermost quantile range that is not 0."""
    for low, width in ((0.25, IQR), (0.1, 2.5631031310892007), (0.05, 3.2897072539029435)):
        start, stop = np.quantile(values, [low, 1 - low])
        if stop > start:
            return float(stop - start) / width
    return 0.0
