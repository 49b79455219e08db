"""Pareto shape of importance weights, for all rows at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["pareto_k"]


def pareto_k(log_weights: Tensor) -> Tensor:
    """Shape k of a generalised Pareto fitted to the largest weights of each row.

    Parameters
    ----------
    log_weights : Tensor (K, n)
        K importance draws of n rows; any constant may be added to a column.

    Returns
    -------
    Tensor (n,)
        Below 0.5 good, above 0.7 not to be trusted; inf where one to four weights stand out
        (as in ArviZ), or where all weights are 0; -inf where all weights are equal, or the
        largest is shared by the whole tail, so that weights are seen to be bounded (hidden
        cells with few levels).

    References
    ----------
    Zhang and Stephens (2009), A new and efficient estimation method for the generalized
    Pareto distribution. Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed
    importance sampling.
    """
    particles, n = log_weights.shape
    tail = math.ceil(min(0.2 * particles, 3 * math.sqrt(particles)))
    if tail <= 4 or n == 0:
        return log_weights.new_full((n,), math.inf)
    top = log_weights.double().topk(tail + 1, 0).values
    weights = (top - top[:1]).exp()
    excess = (weights[:-1] - weights[-1:]).flip(0)
    steps = 2**20 // (tail * (30 + math.isqrt(tail))) + 1
    k = torch.cat([_fit(part) for part in excess.split(steps, 1)])
    spread = log_weights.amax(0) - log_weights.amin(0)
    out = (excess > 1e-12).sum(0)
    k = torch.where(out <= 4, torch.full_like(k, math.inf), k)
    k = torch.where((spread < 1e-10) | (out == 0), torch.full_like(k, -math.inf), k)
    dead = log_weights.isneginf().all(0)  # nothing was found: no estimate to trust
    return torch.where(dead, math.inf, k).to(log_weights.dtype)


def _fit(excess: Tensor) -> Tensor:
    """Posterior mean of k for ascending excesses (tail, n), shrunk to 0.5 by ten draws."""
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
    return (tail * k + 5.0) / (tail + 10)
