"""Starting labels for families with several modes: k-means++ and a few Lloyd steps.

Arthur and Vassilvitskii (2007), k-means++: the advantages of careful seeding, SODA. Runs
on any device and with weights; stock k-means implementations know neither holes nor mixed
columns, which is why the features are built here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from probgen.schema import Slot

__all__ = ["kmeans_labels"]

#: levels of a category that get a feature of their own
LEVELS = 8


def kmeans_labels(
    x: Tensor,
    seen: Tensor,
    weight: Tensor,
    slots: Sequence[Slot],
    k: int,
    generator: torch.Generator,
    steps: int = 5,
) -> Tensor:
    """Labels (n,) in 0..k-1 of encoded rows x (n, m); the cost is n * k * features * steps."""
    if k == 1:
        return torch.zeros(len(x), dtype=torch.long, device=x.device)
    z = _features(x, seen, slots)
    centre = _seeds(z, weight, k, generator)
    for _ in range(steps):
        label = _nearest(z, centre)
        total = torch.zeros(k, z.shape[1], dtype=z.dtype, device=z.device)
        total.index_add_(0, label, z * weight[:, None])
        mass = torch.zeros(k, dtype=z.dtype, device=z.device).index_add_(0, label, weight)
        centre = torch.where((mass > 0)[:, None], total / mass.clamp_min(1e-300)[:, None], centre)
    return _nearest(z, centre)


def _features(x: Tensor, seen: Tensor, slots: Sequence[Slot]) -> Tensor:
    """Columns of about unit variance; holes sit at the mean; a category gets one a level."""
    parts = []
    for i, slot in enumerate(slots):
        value, on = x[:, i], seen[:, i]
        if slot.kind == "category":
            size = torch.bincount(value[on].long(), minlength=slot.size)
            top = size.argsort(descending=True, stable=True)[:LEVELS]
            hit = (value[:, None].long() == top[None, :]).double()
            parts.append(torch.where(on[:, None], hit, 0.0))
            continue
        if slot.kind == "count":
            value = value.clamp_min(0.0).log1p()
        n = on.sum().clamp_min(1)
        mean = torch.where(on, value, 0.0).sum() / n
        gap = torch.where(on, value - mean, 0.0)
        parts.append((gap / (gap.square().sum() / n).sqrt().clamp_min(1e-12))[:, None])
    return torch.cat(parts, 1) if parts else x.new_zeros(len(x), 1)


def _seeds(z: Tensor, weight: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k rows, each drawn with probability proportional to its squared distance to the others."""
    chosen = [_draw(weight, generator)]
    distance = (z - z[chosen[0]]).square().sum(1)
    for _ in range(k - 1):
        mass = distance * weight
        chosen.append(_draw(mass if float(mass.sum()) > 0 else weight, generator))
        distance = torch.minimum(distance, (z - z[chosen[-1]]).square().sum(1))
    return z[chosen]


def _draw(mass: Tensor, generator: torch.Generator) -> int:
    """An index by the inverse CDF, so that a row of weight 2 equals two rows of weight 1."""
    cdf = mass.cumsum(0)
    u = torch.rand((), generator=generator, dtype=cdf.dtype, device=cdf.device) * cdf[-1]
    return min(int(torch.searchsorted(cdf, u, right=True)), len(mass) - 1)


def _nearest(z: Tensor, centre: Tensor) -> Tensor:
    score = z @ centre.T - 0.5 * centre.square().sum(1)
    return score.argmax(1)
