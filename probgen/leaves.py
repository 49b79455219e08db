"""Leaves: the density of one slot inside a mixture component, with conjugate weights.

A leaf is a finite mixture of *fixed* basis densities; only the weights are learned, and
they have a Dirichlet prior. That makes every kind of column conjugate: a category is the
leaf whose basis is one point mass a level, a count is a weighted grid of point masses,
Poisson, negative-binomial and discretised normal kernels, and a flexible real slot is a
weighted grid of normals at several widths. The posterior of the weights is a Dirichlet,
and the predictive of a leaf stays a finite sum.

Sizes: n rows, k components, b basis densities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = [
    "CategoryLeaf",
    "GridLeaf",
    "Leaf",
    "Look",
    "RealLeaf",
    "gamma_draws",
    "occupied",
    "pick",
    "sorted_mass",
]

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
TINY = 1e-300
#: counts from which ratios of gamma functions are taken by their expansion: exact to 1e-12 there
LARGE = 1e8


def gamma_draws(shape: Tensor, generator: torch.Generator) -> Tensor:
    """Standard gamma draws with the given shapes, from an explicit generator."""
    # torch.distributions draws from the global generator only, which must stay untouched
    return torch._standard_gamma(shape.contiguous(), generator=generator).clamp_min(TINY)


def pick(weights: Tensor, generator: torch.Generator) -> Tensor:
    """One index (n,) from each row of non-negative weights (n, k), by the inverse CDF."""
    cdf = weights.cumsum(-1)
    u = torch.rand(
        len(weights), 1, generator=generator, dtype=weights.dtype, device=weights.device
    )
    return (cdf < u * cdf[:, -1:]).sum(-1).clamp_max(weights.shape[1] - 1)


@dataclass
class Look:
    """Basis densities (n, b) over the largest of their row, and its log (n, 1).

    Of a category, the codes (n,) take the place of the densities.
    """

    scaled: Tensor
    top: Tensor

    def take(self, rows: Tensor) -> Look:
        """The part of some rows."""
        return Look(self.scaled[rows], self.top[rows])


class Leaf(nn.Module):
    """Base: a slot's density is ``sum_b w_b basis_b(x)`` with ``w ~ Dirichlet(prior)``."""

    prior: Tensor
    counts: Tensor
    #: whether the basis densities are levels by code, without an order
    name_by_code = False

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def _lay(self, prior: Tensor) -> None:
        """Set the prior (b,) and forget all counts (k, b)."""
        self.register_buffer("prior", prior)
        self.register_buffer("counts", prior.new_zeros(self.k, len(prior)))

    @property
    def alpha(self) -> Tensor:
        """Dirichlet parameters (k, b) of the posterior."""
        return self.prior + self.counts

    @property
    def size(self) -> int:
        """The number of basis densities, b."""
        return self.prior.shape[0]

    def log_basis(self, x: Tensor) -> Tensor:
        """Log basis densities (n, b) at x (n,), encoded units."""
        raise TypeError(f"{type(self).__name__} must define log_basis")

    def draw_basis(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """One draw (n,) from each basis density named by index (n,)."""
        raise TypeError(f"{type(self).__name__} must define draw_basis")

    def begin(self, x: Tensor, weight: Tensor) -> None:
        """Lay out the basis from the seen training values of the slot."""

    def look(self, x: Tensor) -> Look:
        """What scoring, counting and assigning values x (n,) all need: worked out once."""
        log_basis = self.log_basis(x)
        top = log_basis.amax(-1, keepdim=True)
        return Look((log_basis - top).exp_(), top)

    def log_prob(self, look: Look, log_weights: Tensor) -> Tensor:
        """Log density (n, k) of values under k weight vectors given as logs (k, b)."""
        return (look.scaled @ log_weights.exp().T).clamp_min(TINY).log() + look.top

    def expected_counts(self, look: Look, log_weights: Tensor, r: Tensor) -> Tensor:
        """Expected basis counts (k, b) of values that belong to components with r (n, k)."""
        w = log_weights.exp()
        return w * ((r / (look.scaled @ w.T).clamp_min(TINY)).T @ look.scaled)

    def assign(self, look: Look, weights: Tensor, generator: torch.Generator) -> Tensor:
        """A basis index (n,) drawn for each row given its own weights (n, b)."""
        return pick(look.scaled * weights, generator)

    def draw(self, weights: Tensor, label: Tensor, generator: torch.Generator) -> Tensor:
        """New values (n,) from the leaf of component `label` (n,), weights (k, b)."""
        index = torch.empty_like(label)
        for k in label.unique().tolist():
            rows = label == k
            index[rows] = torch.multinomial(
                self.legal(weights[k]), int(rows.sum()), replacement=True, generator=generator
            )
        return self.draw_basis(index, generator)

    def legal(self, weights: Tensor) -> Tensor:
        """The weights (..., b) of what may be sampled; not normalised."""
        return weights

    def around(self, x: Tensor, seen: Tensor) -> Tensor:
        """Basis weights (k, b): half those of the values x (k,), half the margin's."""
        margin = self.prior / self.prior.sum()
        own = self.look(x).scaled * margin
        own = own / own.sum(-1, keepdim=True).clamp_min(TINY)
        return torch.where(seen[:, None], 0.5 * own + 0.5 * margin, margin)

    def reorder(self, order: Tensor) -> None:
        """Permute the components."""
        self.counts = self.counts[order]

    def centre_of(self, weights: Tensor) -> Tensor:
        """A typical value (k,) of the leaf under weights (k, b): its mean, or its mode."""
        return weights / weights.sum(-1, keepdim=True) @ self.basis_means()

    def basis_means(self) -> Tensor:
        """Mean of each basis density (b,), encoded units."""
        raise TypeError(f"{type(self).__name__} must define basis_means")


class CategoryLeaf(Leaf):
    """A category: one point mass a level; the last code may be reserved for unseen levels.

    `strength` is the Dirichlet pseudo-count of each level.
    """

    name_by_code = True

    def __init__(self, k: int, size: int, reserved: bool, strength: float) -> None:
        super().__init__(k)
        self.reserved = reserved
        self._lay(torch.full((size,), strength, dtype=torch.float64))

    def begin(self, x: Tensor, weight: Tensor) -> None:
        self._lay(self.prior)

    def log_basis(self, x: Tensor) -> Tensor:
        hit = x.long()[:, None] == torch.arange(self.size, device=x.device)
        return torch.where(hit, 0.0, -torch.inf)

    def look(self, x: Tensor) -> Look:
        return Look(x.long(), x)

    def log_prob(self, look: Look, log_weights: Tensor) -> Tensor:
        return log_weights.T[look.scaled]

    def expected_counts(self, look: Look, log_weights: Tensor, r: Tensor) -> Tensor:
        total = torch.zeros(self.size, r.shape[1], dtype=r.dtype, device=r.device)
        return total.index_add_(0, look.scaled, r).T

    def assign(self, look: Look, weights: Tensor, generator: torch.Generator) -> Tensor:
        return look.scaled

    def around(self, x: Tensor, seen: Tensor) -> Tensor:
        margin = self.prior / self.prior.sum()
        own = nn.functional.one_hot(x.long(), self.size).to(margin.dtype)
        return torch.where(seen[:, None], 0.5 * own + 0.5 * margin, margin)

    def legal(self, weights: Tensor) -> Tensor:
        if not self.reserved:
            return weights
        keep = torch.ones_like(weights)
        keep[..., -1] = 0.0  # an unseen level has no name to sample
        return weights * keep

    def draw_basis(self, index: Tensor, generator: torch.Generator) -> Tensor:
        return index.double()

    def centre_of(self, weights: Tensor) -> Tensor:
        return self.legal(weights).argmax(-1).double()


class GridLeaf(Leaf):
    """Shared by leaves whose basis is laid out over the training values.

    The pseudo-counts are ``spread`` times the basis density's `emphasis`, plus ``strength``
    shared out in proportion to the basis weights of the whole column, so that a component
    with few rows falls back to the column's own margin (benchmarks/leaf_priors.py compares both,
    and chose the emphasis).
    """

    #: flexible leaves refuse to grow over this many basis densities
    LIMIT = 400

    def __init__(self, k: int, spread: float, strength: float) -> None:
        super().__init__(k)
        self.spread, self.strength = spread, strength
        self._lay(torch.ones(0, dtype=torch.float64))

    def _set_prior(self, x: Tensor, weight: Tensor) -> None:
        """Prior pseudo-counts, from one averaging step over the column's values."""
        emphasis = self.emphasis()
        flat = emphasis / emphasis.sum()
        # a systematic sample is enough for a prior and keeps (n, b) small
        step = max(1, len(x) // 20_000)
        scaled = self.look(x[::step]).scaled
        w = weight[::step]
        share = flat * ((w / (scaled @ flat).clamp_min(TINY)) @ scaled) / w.sum().clamp_min(TINY)
        self._lay(self.spread * flat * len(flat) + self.strength * share)

    def size_of_basis(self) -> int:
        raise TypeError("a grid leaf must define size_of_basis")

    def emphasis(self) -> Tensor:
        """How much the prior favours each basis density (b,), up to a factor."""
        return torch.ones(self.size_of_basis(), dtype=torch.float64, device=self.prior.device)


class RealLeaf(GridLeaf):
    """A real slot as a weighted grid of normals at several widths (encoded units).

    Widths halve from 1 to 1/32 (in units of the slot's scale), centres stand 1.4 widths
    apart where at least four rows are within 1.5 widths; a few wide normals around the
    centre reach beyond the most extreme training value.
    """

    #: power of its width by which the prior favours a basis density: the narrow ones are
    #: many, and equal favour would fit the noise
    EMPHASIS = 1.0
    WIDTHS = tuple(2.0**-p for p in range(6))
    SPACING = 1.4

    def __init__(self, k: int, spread: float = 0.005, strength: float = 1.0) -> None:
        super().__init__(k, spread, strength)
        self.register_buffer("centre", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("width", torch.zeros(0, dtype=torch.float64))

    def emphasis(self) -> Tensor:
        return self.width.clamp(max=1.0) ** self.EMPHASIS

    def size_of_basis(self) -> int:
        return self.centre.shape[0]

    def begin(self, x: Tensor, weight: Tensor) -> None:
        ordered, mass = sorted_mass(x, weight)
        centres, widths = [], []
        for width in self.WIDTHS:
            grid = occupied(ordered, mass, width, self.SPACING, least=4)
            centres.append(grid)
            widths.append(torch.full_like(grid, width))
        reach = float(x.abs().max()) if len(x) else 0.0
        wide = [3.0]
        while wide[-1] < reach:
            wide.append(wide[-1] * 3.0)
        tail = torch.tensor(wide, dtype=torch.float64, device=x.device)
        self.centre = torch.cat([*centres, torch.zeros_like(tail)])
        self.width = torch.cat([*widths, tail])
        self._set_prior(x, weight)

    def log_basis(self, x: Tensor) -> Tensor:
        z = (x[:, None] - self.centre) / self.width
        return z.square_().mul_(-0.5).sub_(self.width.log() + HALF_LOG_2PI)

    def basis_means(self) -> Tensor:
        return self.centre

    def draw_basis(self, index: Tensor, generator: torch.Generator) -> Tensor:
        eps = torch.randn(
            len(index), generator=generator, dtype=torch.float64, device=index.device
        )
        return self.centre[index] + self.width[index] * eps


def sorted_mass(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Values in ascending order, and the weight of each with all before it."""
    ordered, order = x.sort()
    return ordered, weight[order].cumsum(0)


def occupied(ordered: Tensor, mass: Tensor, width: float, spacing: float, least: int) -> Tensor:
    """Grid centres `spacing` widths apart with a weight of `least` or more within 1.5 widths.

    `mass` is the cumulative weight of the ordered values, so that a row of weight 2 equals
    two rows. Walks over cells that hold data only, so a far outlier costs nothing.
    """
    if not len(ordered):
        return ordered
    cell = torch.floor((ordered - ordered[0]) / (width * spacing))
    cell = torch.cat([cell, cell + 1]).unique()
    centre = ordered[0] + cell * width * spacing
    mass = torch.cat([mass.new_zeros(1), mass])
    inside = (
        mass[torch.searchsorted(ordered, centre + 1.5 * width)]
        - mass[torch.searchsorted(ordered, centre - 1.5 * width)]
    )
    kept = centre[inside >= least]
    if len(kept) > GridLeaf.LIMIT:  # keep the best-filled cells
        best = inside[inside >= least].argsort(descending=True)[: GridLeaf.LIMIT]
        kept = kept[best.sort().values]
    return kept
