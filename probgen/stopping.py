"""When a sequence of losses says that there is nothing more to gain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["flat", "trend"]


def flat(losses: list[float], tolerance: float) -> str:
    """Whether deterministic updates have converged: the reason, or ''.

    Closed-form updates converge linearly, so a small change may hide a long way to go.
    What is left is estimated by Aitken's rule, change * ratio / (1 - ratio) (Böhning et
    al. 1994, The distribution of the likelihood ratio for mixtures of densities).
    """
    if len(losses) < 3:
        return ""
    first, second = losses[-3] - losses[-2], losses[-2] - losses[-1]
    if abs(second) > tolerance:
        return ""
    ratio = second / first if first else 0.0
    left = abs(second) * ratio / (1 - ratio) if 0 < ratio < 1 else 0.0
    speeding = ratio >= 1 and abs(second) > 1e-3 * tolerance
    return "" if left > tolerance or speeding else "loss flat: less than tolerance to gain"


def trend(losses: Sequence[float]) -> tuple[float, float, float]:
    """Slope of a line through noisy losses, its t statistic, and the noise around it.

    Returns
    -------
    slope : float
        Change of the loss an epoch.
    t : float
        Slope over its standard error; below -2 the loss is taken to be falling still.
    noise : float
        Standard deviation of single losses around the line.

    Examples
    --------
    >>> slope, t, noise = trend([3.0, 2.0, 1.1, 0.0])
    >>> round(slope, 2), t < -10, noise < 0.1
    (-0.99, True, True)
    """
    y = np.asarray(losses, dtype=float)
    time = np.arange(len(y)) - (len(y) - 1) / 2
    spread = float(time @ time)
    slope = float(time @ y) / spread
    rest = y - y.mean() - slope * time
    noise = math.sqrt(float(rest @ rest) / max(len(y) - 2, 1))
    error = noise / math.sqrt(spread)
    return slope, slope / error if error else math.copysign(math.inf, slope), noise
