"""The conditional table of a discrete node: Dirichlet posteriors, one a parent configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from probgen.leaves import gamma_draws

__all__ = ["TableNode", "best_sample_size"]

#: equivalent sample sizes that are tried by their evidence
SIZES = tuple(2.0**p for p in range(-3, 11))


class TableNode(nn.Module):
    """A table (size, c), one column a configuration of the parents, each with a Dirichlet.

    The prior is that of the BDeu score: `strength` rows, shared out evenly over the states and
    the configurations that have a name (Heckerman, Geiger and Chickering 1995, Learning Bayesian
    networks: the combination of knowledge and statistical data, Machine Learning 20).
    """

    prior: Tensor
    counts: Tensor
    given: Tensor

    def __init__(self) -> None:
        super().__init__()
        nothing = torch.zeros(0, 0, dtype=torch.float64)
        self.register_buffer("prior", torch.ones((), dtype=torch.float64))
        self.register_buffer("counts", nothing)
        #: a table that is known, in place of the posterior; empty where it is learned
        self.register_buffer("given", nothing.clone())

    @property
    def fixed(self) -> bool:
        """Whether the table is known and not learned."""
        return self.given.numel() > 0

    def lay(self, counts: Tensor, named: int, strength: float) -> None:
        """Start from counts (size, c); `named` cells share the prior out."""
        self.counts = counts
        self.prior = torch.full_like(self.prior, strength / named)

    @property
    def alpha(self) -> Tensor:
        """Dirichlet parameters (size, c) of the posterior."""
        return self.counts + self.prior

    def mean(self) -> Tensor:
        """The posterior mean: the table of the predictive."""
        if self.fixed:
            return self.given
        alpha = self.alpha
        return alpha / alpha.sum(0)

    def expected(self) -> Tensor:
        """exp(E log table) under the posterior; sums to less than one."""
        if self.fixed:
            return self.given
        alpha = self.alpha
        return (torch.digamma(alpha) - torch.digamma(alpha.sum(0))).exp()

    def draws(self, count: int, generator: torch.Generator) -> Tensor:
        """Posterior draws (count, size, c)."""
        gamma = gamma_draws(self.alpha.expand(count, *self.alpha.shape), generator)
        return gamma / gamma.sum(1, keepdim=True)

    def kl(self) -> Tensor:
        """KL(posterior || prior), nats, over all configurations."""
        if self.fixed:
            return self.counts.new_zeros(())
        alpha = self.alpha
        total, base = alpha.sum(0), self.prior * len(alpha)
        gap = torch.digamma(alpha) - torch.digamma(total)
        own = torch.lgamma(total) - torch.lgamma(base)
        each = torch.lgamma(alpha) - torch.lgamma(self.prior)
        return own.sum() - each.sum() + (self.counts * gap).sum()


def best_sample_size(counts: Sequence[tuple[Tensor, int]]) -> float:
    """The equivalent sample size of highest evidence, one for all tables.

    Parameters
    ----------
    counts : sequence of (counts (size, configurations), cells over which the prior is shared)
        Only of named states and configurations.

    Returns
    -------
    float
        One of powers of two from 1/8 to 1024; 1 where there is no table.
    """
    if not counts:
        return 1.0
    values = [sum(_log_evidence(n, size / cells) for n, cells in counts) for size in SIZES]
    return SIZES[max(range(len(SIZES)), key=values.__getitem__)]


def _log_evidence(counts: Tensor, prior: float) -> float:
    """Log marginal likelihood of the counts (size, configurations), nats."""
    base = prior * len(counts)
    total = torch.lgamma(counts + prior).sum() - math.lgamma(prior) * counts.numel()
    rows = torch.lgamma(counts.sum(0) + base).sum() - math.lgamma(base) * counts.shape[1]
    return float(total - rows)
