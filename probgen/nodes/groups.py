"""A column cut into groups: the state of a discrete node, and the density of a value inside it.

A count, or a real column that is to be discretised, is a discrete node whose states are groups
of neighbouring values. Inside a group the value has a density of its own, independent of all
other nodes: the kernels of the column's leaf (see `probgen.leaves`), each cut off at the ends of
the group, with one Dirichlet of weights a group. Both together are a density of the value.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from probgen.counts import CountLeaf
from probgen.leaves import RealLeaf, gamma_draws, pick

__all__ = ["GroupNode", "WeightsByGroup", "cut_points"]

#: kernels with less of their mass in a group are left out of it: what is drawn by rejection
#: would take too long
LEAST = 0.02
#: rounds of rejection, after which the nearest value inside the group is taken
ROUNDS = 2000


def cut_points(values: Tensor, weight: Tensor, groups: int, whole: bool) -> Tensor:
    """At most groups - 1 ascending cuts (k,) between values, with about equal weight between.

    Of few distinct whole values each is a group of its own. A value on a cut lies above it.
    """
    if not len(values):
        return values
    distinct = values.unique()
    if len(distinct) <= groups:
        inner = distinct
    else:
        ordered, order = values.sort()
        mass = weight[order].cumsum(0)
        share = torch.arange(1, groups, dtype=mass.dtype, device=mass.device) / groups
        at = torch.searchsorted(mass, share * mass[-1])
        inner = torch.cat([distinct[:1], ordered[at.clamp_max(len(ordered) - 1)]]).unique()
    cuts = inner[1:]
    if whole:
        return cuts - 0.5
    before = distinct[torch.searchsorted(distinct, cuts) - 1]
    return 0.5 * (before + cuts)


class GroupNode(nn.Module):
    """Groups of a column's values, and a density inside each.

    Sizes: g groups, b pairs of a group and a kernel that reaches into it.
    """

    cuts: Tensor  # (g - 1,)
    kernel: Tensor  # (b,) number of the kernel
    group: Tensor  # (b,) number of the group
    log_mass: Tensor  # (b,) log mass of the kernel inside the group
    means: Tensor  # (b,) of counts: mean of the kernel inside the group
    prior: Tensor  # (b,)
    counts: Tensor  # (b,)

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        self.leaf = CountLeaf(1) if whole else RealLeaf(1)
        empty = torch.zeros(0, dtype=torch.float64)
        for name in ("cuts", "log_mass", "means", "prior", "counts"):
            self.register_buffer(name, empty.clone())
        for name in ("kernel", "group"):
            self.register_buffer(name, empty.long())

    @property
    def size(self) -> int:
        """Number of groups."""
        return len(self.cuts) + 1

    def code(self, x: Tensor) -> Tensor:
        """The group (n,) of values (n,)."""
        return torch.searchsorted(self.cuts, x.double().contiguous(), right=True)

    def lay(self, x: Tensor, weight: Tensor, groups: int) -> None:
        """Lay out groups and kernels over the seen values x (n,); forget all rows."""
        x = x.double()
        self.cuts = cut_points(x, weight, groups, self.whole)
        self.leaf.begin(x, weight)
        below = self._below()
        mass = below.diff(dim=0)  # (g, kernels)
        inside = mass >= LEAST
        best = mass == mass.amax(1, keepdim=True)
        inside |= best & ~inside.any(1, keepdim=True)
        self.group, self.kernel = inside.nonzero(as_tuple=True)
        self.log_mass = mass[inside].clamp_min(1e-300).log()
        # pseudo-counts as in the leaf of the whole column, as far as a kernel lies in the group
        self.prior = (self.leaf.prior * mass)[inside].clamp_min(1e-6)
        self.counts = torch.zeros_like(self.prior)
        self.means = self._means() if self.whole else torch.zeros_like(self.prior)

    def _below(self) -> Tensor:
        """Mass (g + 1, kernels) of each kernel below each group, and all of it."""
        if isinstance(self.leaf, CountLeaf):
            inner = self.leaf.cumulative((self.cuts - 0.5).round())
        else:
            z = (self.cuts[:, None] - self.leaf.centre) / self.leaf.width
            inner = torch.special.ndtr(z)
        zero = inner.new_zeros(1, self.leaf.size)
        return torch.cat([zero, inner, zero + 1])

    def log_basis(self, x: Tensor) -> Tensor:
        """Log density (n, b) of values under each kernel cut off at its group; -inf outside."""
        value = self.leaf.log_basis(x.double())[:, self.kernel] - self.log_mass
        return torch.where(self.code(x)[:, None] == self.group, value, -torch.inf)

    def log_prob(self, x: Tensor, log_weights: Tensor) -> Tensor:
        """Log density (n,) inside the group of each value; weights (b,) sum to 1 in a group."""
        values, back = x.double().unique(return_inverse=True)
        return (self.log_basis(values) + log_weights).logsumexp(-1)[back]

    @property
    def alpha(self) -> Tensor:
        """Dirichlet parameters (b,) of the posterior."""
        return self.prior + self.counts

    def _totals(self, value: Tensor) -> Tensor:
        """Sums (b,) of values (b,) over the group of each."""
        total = value.new_zeros(*value.shape[:-1], self.size)
        return total.index_add(-1, self.group, value)[..., self.group]

    def mean(self) -> Tensor:
        """Log posterior mean of the weights (b,)."""
        return self.alpha.log() - self._totals(self.alpha).log()

    def expected(self) -> Tensor:
        """Posterior mean of the log weights (b,)."""
        return torch.digamma(self.alpha) - torch.digamma(self._totals(self.alpha))

    def learn(self, x: Tensor, weight: Tensor, rate: float, steps: int) -> None:
        """Move the counts by some steps of expectation maximisation over values x (n,)."""
        values, back = x.double().unique(return_inverse=True)
        total = torch.zeros_like(values).index_add(0, back, weight)
        basis = self.log_basis(values)
        for _ in range(steps):
            new = total @ (basis + self.expected()).softmax(-1)
            self.counts = self.counts.lerp(new, rate)

    def draws(self, count: int, generator: torch.Generator) -> Tensor:
        """Posterior draws of the log weights (count, b)."""
        gamma = gamma_draws(self.alpha.expand(count, -1), generator)
        return gamma.log() - self._totals(gamma).log()

    def kl(self) -> Tensor:
        """KL(posterior || prior), nats, over all groups."""
        alpha = self.alpha
        total, base = (
            t.new_zeros(self.size).index_add(0, self.group, t) for t in (alpha, self.prior)
        )
        gap = torch.digamma(alpha) - torch.digamma(total)[self.group]
        each = torch.lgamma(alpha) - torch.lgamma(self.prior)
        own = torch.lgamma(total) - torch.lgamma(base)
        return own.sum() - each.sum() + (self.counts * gap).sum()

    def cumulative(self, v: Tensor) -> Tensor:
        """Probability (c, b) of at most v (c,) under each kernel cut off at its group."""
        assert isinstance(self.leaf, CountLeaf)  # noqa: S101 - asked of counts
        below = self._below()[self.group, self.kernel]
        share = (self.leaf.cumulative(v)[:, self.kernel] - below) / self.log_mass.exp()
        return share.clamp(0.0, 1.0)

    def basis_means(self) -> Tensor:
        """Mean (b,) of each kernel cut off at its group."""
        return self.means

    def _means(self) -> Tensor:
        """The same, over steps of equal width in the group.

        Of the last group, which has no end, what the others leave of the kernel's own mean.
        """
        ends = torch.cat([self.cuts.new_full((1,), -0.5), self.cuts]).tolist()
        means, last = torch.zeros_like(self.log_mass), self.group == self.size - 1
        for g, (low, high) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
            own = self.group == g
            steps = int(min(256, max(1, high - low)))
            grid = torch.linspace(low, high, steps + 1, dtype=torch.float64, device=last.device)
            share = self.cumulative(grid.floor())[:, own].diff(dim=0)
            middle = 0.5 * (grid[1:] + grid[:-1])
            means[own] = (middle @ share) / share.sum(0).clamp_min(1e-300)
        mass, whole = self._below().diff(dim=0), self.leaf.basis_means()
        inner = (self.log_mass.exp() * means)[~last]
        spent = torch.zeros_like(whole).index_add(0, self.kernel[~last], inner)
        k = self.kernel[last]
        rest = (whole - spent)[k] / mass[-1, k].clamp_min(1e-300)
        means[last] = rest.clamp_min(ends[-1])
        return means

    def draw(self, code: Tensor, log_weights: Tensor, generator: torch.Generator) -> Tensor:
        """One value (n,) inside each group code (n,); weights (b,), or (n, b) row by row."""
        weights = log_weights.exp().expand(len(code), -1)
        weights = weights * (self.group == code[:, None])
        basis = self.kernel[pick(weights, generator)]
        out = torch.empty(len(code), dtype=torch.float64, device=code.device)
        left = torch.arange(len(code), device=code.device)
        for _ in range(ROUNDS):
            if not len(left):
                return out
            value = self.leaf.draw_basis(basis[left], generator)
            good = self.code(value) == code[left]
            out[left[good]] = value[good]
            left = left[~good]
        out[left] = self._nearest(code[left])
        return out

    def _nearest(self, code: Tensor) -> Tensor:
        """A value (n,) inside each group, next to a cut."""
        if not len(self.cuts):
            return code.double() * 0
        low = self.cuts[(code - 1).clamp_min(0)]
        return torch.where(code > 0, low + 0.5 * self.whole, self.cuts[0] - 0.5 * self.whole)


class WeightsByGroup(TorchDistribution):
    """Weights (b,) of kernels, those of each group a Dirichlet of its own, as one site."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.positive, 1)

    def __init__(self, alpha: Tensor, group: Tensor) -> None:
        self.alpha, self.group = alpha, group
        super().__init__(torch.Size(), alpha.shape, validate_args=False)

    def _totals(self, value: Tensor) -> Tensor:
        count = int(self.group.max()) + 1 if len(self.group) else 0
        return value.new_zeros(*value.shape[:-1], count).index_add(-1, self.group, value)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's
        """Draws ``(*sample_shape, b)``, from the default generator."""
        gamma = torch._standard_gamma(self.alpha.expand(*sample_shape, -1).contiguous())
        gamma = gamma.clamp_min(1e-300)
        return gamma / self._totals(gamma)[..., self.group]

    def log_prob(self, value: Tensor) -> Tensor:
        """The sum of the log densities of the groups' Dirichlets."""
        each = (self.alpha - 1) * value.clamp_min(1e-300).log() - torch.lgamma(self.alpha)
        return each.sum(-1) + torch.lgamma(self._totals(self.alpha)).sum(-1)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> WeightsByGroup:
        """Itself: one table has one set of weights."""
        if torch.Size(batch_shape):
            raise ValueError("weights by group have no batch")
        return self
