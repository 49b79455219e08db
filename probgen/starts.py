"""Starting labels for mixtures: over-segment by k-means, then merge by likelihood.

k-means++ cuts the rows into more clusters than asked for; pairs are then merged that cost
the classification likelihood least, until k are left. One such start is about as good as
the best of ten from k-means alone (benchmarks/mixture_fit.py). Stock implementations know
neither holes nor mixed columns, which is why the features are built here.

References: Arthur and Vassilvitskii (2007), k-means++: the advantages of careful seeding,
SODA; Fraley (1998), Algorithms for model-based Gaussian hierarchical clustering, SIAM J.
Sci. Comput. 20.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from probgen.columns import Slot

__all__ = ["merged_labels"]

#: levels of a category that get a feature of their own
LEVELS = 8


#: clusters for each component before merging, and rows that a cluster must have on average
SEGMENTS, LEAST_ROWS = 3, 4
#: numbers in the products of a piece of rows: 32 MB of float64
PIECE = 4_000_000
#: one pseudo-row of this variance keeps the covariance of a small cluster from vanishing
PSEUDO_VARIANCE = 0.01


def merged_labels(
    x: Tensor,
    seen: Tensor,
    weight: Tensor,
    slots: Sequence[Slot],
    k: int,
    full: bool,
    generator: torch.Generator,
) -> Tensor:
    """Labels (n,) in 0..k-1 of encoded rows x (n, m); `full` weighs covariances as well.

    The cost is n * features * (clusters + features) and clusters^2 * features^3.
    """
    if k == 1:
        return torch.zeros(len(x), dtype=torch.long, device=x.device)
    parts = _features(x, seen, weight, slots)
    many = max(k, min(SEGMENTS * k, int(weight.sum()) // LEAST_ROWS))
    label = _kmeans(torch.cat(parts, 1), weight, many, generator)
    if many == k:
        return label
    real = [i for i, slot in enumerate(slots) if slot.kind == "real"] if full else []
    return _Merger(parts, real, slots, weight, label, many).merge(k)[label]


def _kmeans(
    z: Tensor, weight: Tensor, k: int, generator: torch.Generator, steps: int = 5
) -> Tensor:
    centre = _seeds(z, weight, k, generator)
    for _ in range(steps):
        label = _nearest(z, centre)
        total = torch.zeros(k, z.shape[1], dtype=z.dtype, device=z.device)
        total.index_add_(0, label, z * weight[:, None])
        mass = torch.zeros(k, dtype=z.dtype, device=z.device).index_add_(0, label, weight)
        centre = torch.where((mass > 0)[:, None], total / mass.clamp_min(1e-300)[:, None], centre)
    return _nearest(z, centre)


class _Merger:
    """Clusters as sums over rows, which add when clusters merge."""

    def __init__(
        self,
        parts: list[Tensor],
        real: list[int],
        slots: Sequence[Slot],
        weight: Tensor,
        label: Tensor,
        many: int,
    ) -> None:
        kinds = [slot.kind for slot in slots]
        self.levels = [p.shape[1] for p, kind in zip(parts, kinds, strict=True)
                       if kind == "category"]  # fmt: skip
        codes = [p for p, kind in zip(parts, kinds, strict=True) if kind == "category"]
        alone = [p for i, (p, kind) in enumerate(zip(parts, kinds, strict=True))
                 if kind != "category" and i not in real]  # fmt: skip
        joint = [parts[i] for i in real]
        none = weight.new_zeros(len(weight), 0)
        y, z = torch.cat(joint or [none], 1), torch.cat(alone or [none], 1)
        self.d, self.e = y.shape[1], z.shape[1]
        width = 1 + self.d + self.d**2 + 2 * self.e + sum(self.levels)
        sums = weight.new_zeros(many, width)
        step = max(1, PIECE // width)
        for at in (slice(i, i + step) for i in range(0, len(weight), step)):
            w, u, v = weight[at, None], y[at], z[at]
            pairs = (u[:, :, None] * u[:, None, :]).flatten(1)
            rows = torch.cat([torch.ones_like(w), u, pairs, v, v.square(),
                              *(code[at] for code in codes)], 1)  # fmt: skip
            sums.index_add_(0, label[at], rows.mul_(w))
        self.alive = (sums[:, 0] > 0).nonzero()[:, 0]
        self.sums = sums[self.alive]
        self.owner = torch.zeros(many, dtype=torch.long, device=label.device)
        self.owner[self.alive] = torch.arange(len(self.alive), device=label.device)

    def loss(self, sums: Tensor) -> Tensor:
        """Negative classification log-likelihood (c,) of clusters given as sums, plus const."""
        d, e = self.d, self.e
        widths = [1, d, d * d, e, e, *self.levels]
        n, y, yy, z, zz, *codes = sums.split(widths, 1)
        n = n[:, 0]
        out = -n * n.clamp_min(1e-300).log()
        if d:
            mean = y / (n + 1)[:, None]
            eye = PSEUDO_VARIANCE * torch.eye(d, dtype=y.dtype, device=y.device)
            cov = (yy.view(-1, d, d) + eye) / (n + 1)[:, None, None]
            out = out + 0.5 * n * torch.logdet(cov - mean[:, :, None] * mean[:, None, :])
        if e:
            mean = z / (n + 1)[:, None]
            var = (zz + PSEUDO_VARIANCE) / (n + 1)[:, None] - mean.square()
            out = out + 0.5 * n * var.clamp_min(1e-12).log().sum(1)
        for code in codes:
            share = code / code.sum(1, keepdim=True).clamp_min(1e-300)
            out = out - torch.xlogy(code, share).sum(1)
        return out

    def merge(self, k: int) -> Tensor:
        """The merged cluster (many,) of each first cluster."""
        sums, owner = self.sums, self.owner
        own = self.loss(sums)
        cost = torch.stack([self._with(sums, own, i) for i in range(len(sums))])
        while len(sums) > k:
            i, j = sorted(divmod(int(cost.argmin()), len(sums)))
            sums[i] += sums[j]
            keep = torch.arange(len(sums), device=sums.device) != j
            owner = torch.where(owner == j, i, owner)
            owner = owner - (owner > j).long()
            sums, own, cost = sums[keep], own[keep], cost[keep][:, keep]
            own[i] = self.loss(sums[i : i + 1])[0]
            cost[i] = self._with(sums, own, i)
            cost[:, i] = cost[i]
        return owner

    def _with(self, sums: Tensor, own: Tensor, i: int) -> Tensor:
        """What merging cluster i with each other costs."""
        cost = self.loss(sums + sums[i]) - own - own[i]
        cost[i] = torch.inf
        return cost


def _features(x: Tensor, seen: Tensor, weight: Tensor, slots: Sequence[Slot]) -> list[Tensor]:
    """Columns of about unit variance; holes sit at the mean; a category gets one a level.

    Moments are weighted, so that a row of weight 2 equals two rows.
    """
    parts = []
    for i, slot in enumerate(slots):
        value, on = x[:, i], seen[:, i]
        if slot.kind == "category":
            size = torch.bincount(value[on].long(), weight[on], minlength=slot.size)
            top = size.argsort(descending=True, stable=True)[:LEVELS]
            hit = (value[:, None].long() == top[None, :]).double()
            parts.append(torch.where(on[:, None], hit, 0.0))
            continue
        if slot.kind == "count":
            value = value.clamp_min(0.0).log1p()
        w = torch.where(on, weight, 0.0)
        n = w.sum().clamp_min(1e-300)
        mean = (w * value).sum() / n
        gap = torch.where(on, value - mean, 0.0)
        parts.append((gap / ((w * gap.square()).sum() / n).sqrt().clamp_min(1e-12))[:, None])
    return parts


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
