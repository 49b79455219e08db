"""Monotone maps of single numbers, with few kernels: rational-quadratic splines, affine maps.

The numbers of a map come from a network. The parametrisation is that of zuko, so that its
modules may hold the weights; the way of computing is ours. The bins are the first dimension, so
that every kernel runs along whole rows of memory; widths and heights share their kernels;
the bin of a value is picked by sums over marks, without gathers, whose gradients are slow;
and only the two slopes beside a value are ever exponentiated
(benchmarks/flow_speed.py compares with zuko).

Reference: Durkan, Bekasov, Murray and Papamakarios (2019), Neural spline flows, NeurIPS 32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["BOUND", "affine", "affine_back", "spline", "spline_back"]

#: a spline maps [-BOUND, BOUND] to itself and is the identity outside
BOUND = 5.0
#: minus the log of the least slope of an affine map or of a knot
SOFT = -math.log(1e-3)


class _Bin(NamedTuple):
    """The bin about each value: left edges and sizes, as shares of the interval, and slopes."""

    left: Tensor  # (2, ...): of widths and of heights
    size: Tensor  # (2, ...)
    first: Tensor  # (...): slope at its left end
    last: Tensor  # (...)


def spline(x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """A rational-quadratic spline, and the log of its slope.

    Parameters
    ----------
    x : Tensor (...)
    raw : Tensor (3 * bins - 1, ...)
        Unconstrained widths and heights of the bins, then slopes at the inner knots.

    Returns
    -------
    y, log_slope : Tensor (...)
        Outside [-5, 5] the map is the identity; the slope at both ends is 1.
    """
    place, inside = _placed(x)
    own = _bin(place, raw, 0)
    z = ((place - own.left[0]) / own.size[0]).clamp(0.0, 1.0)
    rest = 1 - z
    steep = own.size[1] / own.size[0]
    bump, square = z * rest, z * z
    below = torch.addcmul(steep, own.first + own.last - 2 * steep, bump)
    up = torch.addcmul(steep * square, own.first, bump)
    y = torch.addcmul(own.left[1], own.size[1], up / below)
    slope = 2 * steep * bump + own.first * (rest * rest) + own.last * square
    share = steep / below
    log_slope = (share * share * slope).log()  # one logarithm: they are slow
    zero = torch.zeros_like(log_slope)
    return torch.where(inside, y * (2 * BOUND) - BOUND, x), torch.where(inside, log_slope, zero)


def spline_back(y: Tensor, raw: Tensor) -> Tensor:
    """The inverse of `spline`: x (...) from y (...), with the same `raw`."""
    place, inside = _placed(y)
    own = _bin(place, raw, 1)
    steep = own.size[1] / own.size[0]
    up = (place - own.left[1]).clamp_min(0.0)
    excess = up * (own.first + own.last - 2 * steep)
    a = own.size[1] * (steep - own.first) + excess
    b = own.size[1] * own.first - excess
    c = steep * up
    # the stable root; b is positive
    z = 2 * c / (b + (b * b + 4 * a * c).clamp_min(0.0).sqrt())
    x = torch.addcmul(own.left[0], z.clamp(0.0, 1.0), own.size[0])
    return torch.where(inside, x * (2 * BOUND) - BOUND, y)


def _placed(value: Tensor) -> tuple[Tensor, Tensor]:
    """Values as shares of the interval, and whether they lie in it."""
    place = (value + BOUND) / (2 * BOUND)
    return place, (place > 0) & (place < 1)


def _bin(place: Tensor, raw: Tensor, side: int) -> _Bin:
    """The bin of each place among the edges of the widths (`side` 0) or the heights (1)."""
    bins = (raw.shape[0] + 1) // 3
    both = raw[: 2 * bins].unflatten(0, (2, bins))
    # between exp(-3.5) and exp(3.5): no maximum to take off, and no bin vanishes
    part = (both / (both.abs() * (2 / SOFT) + 1)).exp()
    total = part.sum(1)
    sums = torch.ones(bins - 1, bins, dtype=raw.dtype, device=raw.device).tril()
    edges = (sums @ part[side].flatten(1)).unflatten(1, place.shape)
    passed = (edges < place * total[side]).to(raw.dtype)
    mark = torch.cat([1 - passed[:1], passed[:-1] - passed[1:], passed[-1:]])
    inner = raw[2 * bins :]
    ends = torch.stack([(inner * mark[1:]).sum(0), (inner * mark[:-1]).sum(0)])
    slope = (ends / (ends.abs() * (1 / SOFT) + 1)).exp()  # 1 at both ends of the interval
    return _Bin(
        (part[:, :-1] * passed).sum(1) / total, (part * mark).sum(1) / total, slope[0], slope[1]
    )


def affine(x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """An affine map, and the log of its slope: `raw` (2, ...) holds shift and log slope."""
    log_slope = _log_slope(raw[1])
    return torch.addcmul(raw[0], x, log_slope.exp()), log_slope


def affine_back(y: Tensor, raw: Tensor) -> Tensor:
    """The inverse of `affine`."""
    return (y - raw[0]) * (-_log_slope(raw[1])).exp()


def _log_slope(free: Tensor) -> Tensor:
    return free / (free.abs() * (1 / SOFT) + 1)
