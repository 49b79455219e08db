"""Pareto shape of importance weights, and their smoothing, for all rows at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["pareto_k", "smoothed"]


def pareto_k(log_weights: Tensor, efficiency: float = 1.0) -> Tensor:
    """Shape k of a generalised Pareto fitted to the largest weights of each row.

    Parameters
    ----------
    log_weights : Tensor (K, n)
        K importance draws of n rows; any constant may be added to a column.
    efficiency : float
        Independent draws that one draw is worth: below 1 for draws of a Markov chain, which
        need a longer tail.

    Returns
    -------
    Tensor (n,)
        Below 0.5 good, above 0.7 not to be trusted; inf where one to four weights stand out
        (as in ArviZ), or all are 0; -inf where all weights are equal, or the largest is shared
        by the whole tail, so that weights are seen to be bounded (hidden cells with few levels).

    References
    ----------
    Zhang and Stephens (2009), A new and efficient estimation method for the generalized
    Pareto distribution. Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed
    importance sampling.
    """
    tail = _tail(len(log_weights), efficiency)
    if tail <= 4 or log_weights.shape[1] == 0:
        return log_weights.new_full((log_weights.shape[1],), math.inf)
    top = log_weights.double().topk(tail + 1, 0).values
    return _judged(log_weights, top, _fits(_excess(top))[0])


def smoothed(log_weights: Tensor, efficiency: float = 1.0) -> tuple[Tensor, Tensor]:
    """Pareto smoothed importance weights, and their shape.

    The largest weights of a row are replaced by quantiles of the Pareto fitted to them, and
    cut off at the largest raw weight.

    Parameters
    ----------
    log_weights : Tensor (K, n)
        As in `pareto_k`.
    efficiency : float
        As in `pareto_k`.

    Returns
    -------
    log_weights : Tensor (K, n) of float64
        Normalised: their exponentials add up to 1 in each column.
    k : Tensor (n,)
        As from `pareto_k`; where it is infinite, the weights are the raw ones.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling,
    JMLR 25.
    """
    raw = log_weights.double()
    tail = _tail(len(raw), efficiency)
    if tail <= 4 or raw.shape[1] == 0:
        return raw.log_softmax(0), raw.new_full((raw.shape[1],), math.inf)
    top, places = raw.topk(tail + 1, 0)
    excess = _excess(top)
    k, sigma = _fits(excess)
    shape = _judged(raw, top, k)
    at = ((torch.arange(tail, device=raw.device) + 0.5) / tail).to(raw)[:, None]
    # ascending quantiles of the tail, measured in the largest weight
    quantile = sigma * torch.expm1(-k * torch.log1p(-at)) / k
    small = k.abs() < 1e-10
    quantile = torch.where(small, -sigma * torch.log1p(-at), quantile)
    floor = (top[-1:] - top[:1]).exp()
    value = (quantile + floor).log().clamp_max(0.0).flip(0) + top[:1]
    fitted = shape.isfinite() & value.isfinite().all(0)
    value = torch.where(fitted, value, top[:-1])
    return raw.scatter(0, places[:-1], value).log_softmax(0), shape


def _tail(particles: int, efficiency: float) -> int:
    """How many of the largest weights the Pareto is fitted to."""
    return math.ceil(min(0.2 * particles, 3 * math.sqrt(particles / efficiency)))


def _excess(top: Tensor) -> Tensor:
    """Weights beyond that below the tail, in the largest, ascending, from (tail + 1, n)."""
    weights = (top - top[:1]).exp()
    return (weights[:-1] - weights[-1:]).flip(0)


def _judged(log_weights: Tensor, top: Tensor, k: Tensor) -> Tensor:
    """The shape, and what stands for it where none can be fitted."""
    excess = _excess(top)
    spread = log_weights.amax(0) - log_weights.amin(0)
    out = (excess > 1e-12).sum(0)
    k = torch.where(out <= 4, torch.full_like(k, math.inf), k)
    k = torch.where((spread < 1e-10) | (out == 0), torch.full_like(k, -math.inf), k)
    # no proposal has any weight: nothing is known
    k = torch.where(top[0].isneginf(), torch.full_like(k, math.inf), k)
    return k.to(log_weights.dtype)


def _fits(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and scale of each column of ascending excesses (tail, n), in pieces."""
    tail = len(excess)
    steps = 2**20 // (tail * (30 + math.isqrt(tail))) + 1
    parts = [_fit(part) for part in excess.split(steps, 1)]
    k, sigma = zip(*parts, strict=True)
    return torch.cat(k), torch.cat(sigma)


def _fit(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean of k, shrunk to 0.5 by ten draws, and the scale without shrinkage."""
    tail, _ = excess.shape
    grid = 30 + math.isqrt(tail)
    number = torch.arange(1, grid + 1, dtype=excess.dtype, device=excess.device)
    quarter = excess[int(tail / 4 + 0.5) - 1].clamp_min(1e-300)
    b = (1 - (grid / (number - 0.5)).sqrt())[:, None] / (3 * quarter)
    b = b + 1 / excess[-1].clamp_min(1e-300)
    k = torch.log1p(-b[:, None] * excess).mean(1)
    profile = tail * (torch.log(-(b / k)) - k - 1)
    b = (b * torch.softmax(profile, 0)).sum(0)
    k = torch.log1p(-b * excess).mean(0)
    return (tail * k + 5.0) / (tail + 10), -k / b
