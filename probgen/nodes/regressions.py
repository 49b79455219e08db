"""A normal node: a linear regression on its normal parents in each discrete configuration.

    y | r, configuration c ~ Normal(coefficients_c . (1, r), 1 / precision_c)

with a normal-inverse-gamma posterior for each configuration, exact by conjugacy. The prior is
centred on the regression of all rows together, so that a configuration with few rows falls back
to it.

References: Lauritzen and Wermuth (1989), Graphical models for associations between variables,
some of which are qualitative and some quantitative, Annals of Statistics 17; Gelman et al. (2013),
Bayesian Data Analysis, 3rd edition, chapter 14.

Sizes: c configurations, p normal parents, q = p + 1 coefficients.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import gammaincinv
from torch import Tensor, nn

from probgen.leaves import gamma_draws

__all__ = ["Line", "Potential", "RegressionNode", "T", "potential_of"]

LOG_2PI = math.log(2 * math.pi)


class Line(NamedTuple):
    """Parameters at a point: coefficients (..., c, q), the first being the level; precision."""

    coefficients: Tensor
    precision: Tensor


class Potential(NamedTuple):
    """exp(constant + linear . v - v . quadratic . v / 2) over v = (y, r), for each configuration.

    quadratic (c, p + 1, p + 1), linear (c, p + 1), constant (c,).
    """

    quadratic: Tensor
    linear: Tensor
    constant: Tensor


class T(NamedTuple):
    """Student's t by configuration: what the predictive of a node is given its parents."""

    coefficients: Tensor  # (c, q)
    shape: Tensor  # (c, q, q): the squared scale grows with r . shape . r
    scale2: Tensor  # (c,)
    dof: Tensor  # (c,)

    def at(self, config: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Location, scale and degrees of freedom for rows of configurations and design r (n, q).

        `config` (n, ...) may hold several configurations a row.
        """
        while r.dim() <= config.dim():
            r = r[:, None]
        middle = (self.coefficients[config] * r).sum(-1)
        lever = ((self.shape[config] @ r[..., None])[..., 0] * r).sum(-1)
        return middle, (self.scale2[config] * (1 + lever)).sqrt(), self.dof[config]

    def log_prob(self, y: Tensor, config: Tensor, r: Tensor) -> Tensor:
        """Log density of y (n,) in each configuration of its row."""
        middle, scale, dof = self.at(config, r)
        z = (y.view(-1, *[1] * (config.dim() - 1)) - middle) / scale
        return (
            torch.lgamma((dof + 1) / 2) - torch.lgamma(dof / 2) - 0.5 * (math.pi * dof).log()
            - scale.log() - (dof + 1) / 2 * torch.log1p(z.square() / dof)
        )  # fmt: skip


def potential_of(
    line: Line, spread: Tensor | None = None, log_mean: Tensor | None = None
) -> Potential:
    """The density of y given r as a function of both.

    With `spread` (c, q, q), the covariance of the coefficients times the precision, and
    `log_mean` (c,), the mean of log precision, it is the exponential of the expected log density.
    """
    b, precision = line
    level, u = b[..., 0], torch.cat([torch.ones_like(b[..., :1]), -b[..., 1:]], -1)
    quadratic = precision[..., None, None] * u[..., :, None] * u[..., None, :]
    linear = (precision * level)[..., None] * u
    log_precision = precision.log() if log_mean is None else log_mean
    constant = 0.5 * (log_precision - LOG_2PI - precision * level.square())
    if spread is not None:
        quadratic, linear = quadratic.clone(), linear.clone()
        quadratic[..., 1:, 1:] += spread[..., 1:, 1:]
        linear[..., 1:] -= spread[..., 0, 1:]
        constant = constant - 0.5 * spread[..., 0, 0]
    return Potential(quadratic, linear, constant)


class RegressionNode(nn.Module):
    """Regressions by configuration, as sufficient statistics of (1, r, y)."""

    centre: Tensor  # prior mean of the coefficients (q,)
    pull: Tensor  # prior precision of the coefficients, in rows (q, q)
    shape: Tensor  # of the gamma prior of the precision
    rate: Tensor
    moments: Tensor  # (c, q + 1, q + 1): weighted sums of products of (1, r, y)
    rows: Tensor  # (c,): how many rows the precision was learned from

    def __init__(self) -> None:
        super().__init__()
        one = torch.ones((), dtype=torch.float64)
        self.register_buffer("centre", one.new_zeros(0))
        self.register_buffer("pull", one.new_zeros(0, 0))
        self.register_buffer("shape", one.clone())
        self.register_buffer("rate", one.clone())
        self.register_buffer("moments", one.new_zeros(0, 0, 0))
        self.register_buffer("rows", one.new_zeros(0))

    def lay(self, moments: Tensor, strength: float, dof: float) -> None:
        """Set the prior from moments (c, q + 1, q + 1) of the rows, pooled over configurations.

        The prior knows as much of the coefficients as `strength` rows, and of the variance as
        `dof` rows. It forgets the moments' own rows.
        """
        pooled = moments.sum(0)
        rows = pooled[0, 0].clamp_min(1e-300)
        q = len(pooled) - 1
        ridge = torch.eye(q, dtype=pooled.dtype, device=pooled.device)
        gram = pooled[:q, :q] / rows + 1e-3 * ridge
        self.centre = torch.linalg.solve(gram, pooled[:q, q] / rows)
        left = pooled[q, q] / rows - self.centre @ (pooled[:q, q] / rows)
        # rows that lie on the line exactly would earn an infinite density
        variance = left.clamp_min(1e-4)
        self.pull = strength * ridge
        self.shape = torch.full_like(self.shape, dof / 2)
        self.rate = self.shape * variance
        self.take(torch.zeros_like(moments))

    def take(self, moments: Tensor) -> None:
        """Learn from the moments of some rows, and from nothing else."""
        self.moments, self.rows = moments, moments[:, 0, 0]

    def posterior(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean (c, q), precision matrix over the row precision (c, q, q), gamma shape, rate."""
        q = len(self.centre)
        xx, xy, yy = self.moments[:, :q, :q], self.moments[:, :q, q], self.moments[:, q, q]
        known = xx + self.pull
        right = xy + self.pull @ self.centre
        mean = torch.linalg.solve(known, right)
        a = self.shape + 0.5 * self.rows
        prior = self.centre @ self.pull @ self.centre
        b = self.rate + 0.5 * (yy + prior - (mean * right).sum(-1)).clamp_min(0.0)
        return mean, known, a, b

    def predictive(self) -> T:
        """Student's t of a new row given its parents."""
        mean, known, a, b = self.posterior()
        return T(mean, torch.linalg.inv(known), b / a, 2 * a)

    def point(self) -> Line:
        """Posterior means of the coefficients and of the precision."""
        mean, _, a, b = self.posterior()
        return Line(mean, a / b)

    def expected(self) -> Potential:
        """The exponential of the expected log density under the posterior."""
        mean, known, a, b = self.posterior()
        return potential_of(Line(mean, a / b), torch.linalg.inv(known), torch.digamma(a) - b.log())

    def draws(self, count: int, generator: torch.Generator) -> Line:
        """Posterior draws: coefficients (count, c, q) and precisions (count, c)."""
        mean, known, a, b = self.posterior()
        precision = gamma_draws(a.expand(count, *a.shape), generator) / b
        noise = torch.randn(
            count, *mean.shape, dtype=mean.dtype, device=mean.device, generator=generator
        )
        return Line(mean + self._step(known, noise) / precision.sqrt()[..., None], precision)

    def at_levels(self, u: Tensor) -> Line:
        """The posterior at levels u (s, q + 1) in (0, 1) of its parameters, the same in all c.

        One configuration has a part in each term of a sum over configurations, so that an average
        over `s` needs no independence between them.
        """
        mean, known, a, b = self.posterior()
        shape = a.cpu().numpy()
        gamma = gammaincinv(shape, u[:, -1:].cpu().numpy())
        precision = torch.from_numpy(np.maximum(gamma, 1e-300)).to(mean) / b
        noise = torch.special.ndtri(u[:, :-1])[:, None].expand(-1, len(mean), -1)
        return Line(mean + self._step(known, noise) / precision.sqrt()[..., None], precision)

    @staticmethod
    def _step(known: Tensor, noise: Tensor) -> Tensor:
        """Noise (s, c, q) with covariance the inverse of known (c, q, q)."""
        root = torch.linalg.cholesky(known).mT.expand(len(noise), *known.shape)
        return torch.linalg.solve_triangular(root, noise[..., None], upper=True)[..., 0]

    def at_value(self, place: int, value: float) -> RegressionNode:
        """The regression with one of its normal parents fixed, that at `place`: it is left out.

        The coefficients keep their joint posterior: that of (level + value * slope, the others).
        """
        q = len(self.centre)
        keep = [0, *(i for i in range(1, q) if i != place + 1)]
        merge = torch.eye(q, dtype=self.centre.dtype, device=self.centre.device)[keep]
        merge[0, place + 1] = value

        def merged(known: Tensor) -> Tensor:
            return torch.linalg.inv(merge @ torch.linalg.inv(known) @ merge.T)

        mean, known, _, b = self.posterior()
        found = RegressionNode().to(self.centre.device)
        found.centre, found.pull = merge @ self.centre, merged(self.pull)
        found.shape, found.rate, found.rows = self.shape, self.rate, self.rows
        known, mean = merged(known), mean @ merge.T
        xx = known - found.pull
        right = (known @ mean[..., None])[..., 0]
        xy = right - found.pull @ found.centre
        prior = found.centre @ found.pull @ found.centre
        yy = 2 * (b - found.rate) - prior + (mean * right).sum(-1)
        moments = mean.new_zeros(len(mean), len(keep) + 1, len(keep) + 1)
        moments[:, :-1, :-1], moments[:, :-1, -1], moments[:, -1, -1] = xx, xy, yy
        moments[:, -1, :-1] = xy
        found.moments = moments
        return found

    def in_configurations(self, chosen: Tensor) -> RegressionNode:
        """The regressions of some configurations (k,) only."""
        found = copy.deepcopy(self)
        found.moments, found.rows = self.moments[chosen], self.rows[chosen]
        return found

    def kl(self) -> Tensor:
        """KL(posterior || prior), nats, over all configurations."""
        mean, known, a, b = self.posterior()
        q = len(self.centre)
        gap = mean - self.centre
        far = (a / b) * torch.einsum("ci,ij,cj->c", gap, self.pull, gap)
        trace = (self.pull * torch.linalg.inv(known).mT).sum((-1, -2))
        dets = torch.logdet(known) - torch.logdet(self.pull)
        normal = 0.5 * (far + trace - q + dets)
        a0, b0 = self.shape, self.rate
        gamma = (
            (a - a0) * torch.digamma(a) - torch.lgamma(a) + torch.lgamma(a0)
            + a0 * (b.log() - b0.log()) + a * (b0 - b) / b
        )  # fmt: skip
        return (normal + gamma).sum()
