"""A discrete node with normal parents: a softmax regression in each discrete configuration.

    node | configuration c, normal parents r ~ Categorical(softmax(weights_c (1, r)))

The weights have independent normal priors; their posterior is Laplace's approximation about the
mode. An unseen normal parent has no exact integral here.

References: Koller and Friedman (2009), Probabilistic Graphical Models, section 5.5; Böhning
(1992), Multinomial logistic regression algorithm, Annals of the Institute of Statistical
Mathematics 44.

Sizes: n rows, c configurations, k states, q = 1 + normal parents.
"""

from __future__ import annotations

import copy
import math
from typing import ClassVar, NamedTuple

import torch
from pyro.distributions import MultivariateNormal, TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

__all__ = ["Softmax", "SoftmaxNode", "WeightsOfCurve"]

#: standard deviations of the prior, for standardised parents: of the levels, of the slopes
#: (Gelman et al. 2008, A weakly informative default prior for logistic regression). With wider
#: levels Laplace's approximation gave states without rows several per cent
LEVEL, SLOPE = 2.5, 2.5
#: draws of the weights over which the predictive is averaged
DRAWS = 32
#: halvings of a Newton step that does not gain
HALVINGS = 20
#: numbers in the blocks of a Hessian that are made at once
WIDE = 2**22


class Softmax(NamedTuple):
    """Weights (s, c, k, q) to average over, and the mass (c,) of a state that has no name.

    That state comes after the k others; a mass of None says that there is none.
    """

    weights: Tensor
    rare: Tensor | None

    def log_probs(self, r: Tensor) -> Tensor:
        """Log probabilities (n, c, states) for parents r (n, q)."""
        log_p = log_softmax_rows(r, self.weights)
        if self.rare is None:
            return log_p
        rare = self.rare[:, None].expand(*log_p.shape[:-1], 1)
        return torch.cat([log_p + torch.log1p(-rare), rare.log()], -1)


def log_softmax_rows(r: Tensor, weights: Tensor) -> Tensor:
    """Log probabilities (n, c, k) for parents r (n, q), averaged over weights (s, c, k, q)."""
    log_p = torch.einsum("nq,sckq->snck", r, weights).log_softmax(-1)
    return log_p[0] if len(weights) == 1 else log_p.logsumexp(0) - math.log(len(weights))


class SoftmaxNode(nn.Module):
    """Weights of one node: their mode, and the precision of their posterior there."""

    weights: Tensor  # (c, k, q), k states with a name
    rare: Tensor  # (c,) mass of a state without a name; (0,) where there is none
    precision: Tensor  # (c, k * q, k * q)

    def __init__(self) -> None:
        super().__init__()
        nothing = torch.zeros(0, 0, 0, dtype=torch.float64)
        self.register_buffer("weights", nothing)
        self.register_buffer("precision", nothing.clone())
        self.register_buffer("rare", nothing.new_zeros(0))

    def lay(self, configurations: int, named: int, inputs: int, reserved: bool) -> None:
        """Forget all rows; `reserved` is whether there is a state without a name."""
        device = self.weights.device
        shape = configurations, named, 1 + inputs
        share = torch.full((configurations,), 1 / (1 + named), dtype=torch.float64, device=device)
        self.rare = share if reserved else share[:0]
        self.weights = torch.zeros(shape, dtype=torch.float64, device=device)
        self.precision = torch.diag_embed(self.pull().expand(configurations, -1, -1).flatten(1))

    def pull(self) -> Tensor:
        """Precisions (k, q) of the prior."""
        sd = torch.full(self.weights.shape[1:], SLOPE, dtype=torch.float64)
        sd[:, 0] = LEVEL
        return sd.pow(-2).to(self.weights.device)

    def learn(self, r: Tensor, share: Tensor, steps: int) -> None:
        """Newton steps of the weights for rows r (n, q) that are in states by share (n, c, k).

        A state without a name gets the share of one pseudo-count among as many as there are
        states, one row together: as a table's does.
        """
        weights = self.weights
        if len(self.rare):
            share = share[..., : weights.shape[1]]
            states = weights.shape[1] + 1
            self.rare = 1 / (states * (share.sum((0, 2)) + 1))
        for _ in range(steps):
            gradient, precision = self._slopes(weights, r, share)
            step = torch.linalg.solve(precision, gradient.flatten(1)).view_as(weights)
            weights, done = self._further(weights, step, r, share)
            if done:
                break
        self.weights = weights
        self.precision = self._slopes(weights, r, share)[1]

    def approach(self, r: Tensor, share: Tensor, rate: float) -> None:
        """Move a part of the way to what some rows say."""
        before = self.weights
        self.learn(r, share, 1)
        self.weights = before.lerp(self.weights, rate)

    def _further(
        self, weights: Tensor, step: Tensor, r: Tensor, share: Tensor
    ) -> tuple[Tensor, bool]:
        """The weights after a step, halved until it gains; whether there was nothing to gain."""
        now = self._gain(weights, r, share)
        size = torch.ones_like(now)
        for _ in range(HALVINGS):
            tried = weights + size[:, None, None] * step
            worse = self._gain(tried, r, share) < now - 1e-12 * now.abs()
            if not bool(worse.any()):
                return tried, float((size[:, None, None] * step).abs().max()) < 1e-9
            size = torch.where(worse, 0.5 * size, size)
        return weights, True

    def _gain(self, weights: Tensor, r: Tensor, share: Tensor) -> Tensor:
        """Log posterior density (c,) of weights, up to a constant."""
        fit = (share * log_softmax_rows(r, weights[None])).sum((0, 2))
        return fit - 0.5 * (self.pull() * weights.square()).sum((1, 2))

    def _slopes(self, weights: Tensor, r: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (c, k, q) and negative Hessian (c, k q, k q) of the log posterior density."""
        c, k, q = weights.shape
        pull = self.pull()
        gradient = -pull * weights
        precision = torch.diag_embed(pull.expand(c, -1, -1).flatten(1))
        blocks = precision.view(c, k, q, k, q)
        for rows in torch.arange(len(r), device=r.device).split(max(1, WIDE // (c * k * k))):
            own, some = r[rows], share[rows]
            p, mass = log_softmax_rows(own, weights[None]).exp(), some.sum(2, keepdim=True)
            gradient = gradient + torch.einsum("nck,nq->ckq", some - mass * p, own)
            spread = (
                torch.diag_embed(mass * p) - mass[..., None] * p[..., :, None] * p[..., None, :]
            )
            square = (own[:, :, None] * own[:, None, :]).flatten(1)
            flat = spread.flatten(1).mT @ square
            blocks += flat.view(c, k, k, q, q).permute(0, 1, 3, 2, 4)
        return gradient, precision

    def _at(self, noise: Tensor) -> Tensor:
        """Weights (s, c, k, q) at standard normal noise (s, c or 1, k * q)."""
        root = torch.linalg.cholesky(self.precision).mT
        noise = noise.expand(-1, len(root), -1)
        step = torch.linalg.solve_triangular(
            root.expand(len(noise), *root.shape), noise[..., None], upper=True
        )
        return self.weights + step.view(len(noise), *self.weights.shape)

    def at(self, weights: Tensor) -> Softmax:
        """The node at weights (s, c, k, q)."""
        return Softmax(weights, self.rare if len(self.rare) else None)

    def predictive(self) -> Softmax:
        """At weights that lie evenly over the posterior, the same at every call."""
        engine = torch.quasirandom.SobolEngine(self.precision.shape[1], scramble=True, seed=1)
        u = engine.draw(DRAWS, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
        return self.at(self._at(torch.special.ndtri(u).to(self.weights.device)[:, None]))

    def draws(self, count: int, generator: torch.Generator) -> Tensor:
        """Posterior draws (count, c, k, q)."""
        shape = count, *self.precision.shape[:2]
        noise = torch.randn(
            shape, generator=generator, dtype=torch.float64, device=self.weights.device
        )
        return self._at(noise)

    def kl(self) -> Tensor:
        """What the weights cost in the bound, nats, by Laplace's approximation."""
        pull = self.pull()
        cost = (pull * self.weights.square()).sum()
        dets = torch.logdet(self.precision).sum() - len(self.weights) * pull.log().sum()
        return 0.5 * (cost + dets)

    def in_configurations(self, chosen: Tensor) -> SoftmaxNode:
        """The regressions of some configurations only."""
        found = copy.deepcopy(self)
        found.weights, found.precision = self.weights[chosen], self.precision[chosen]
        found.rare = self.rare[chosen] if len(self.rare) else self.rare
        return found

    def at_value(self, place: int, value: float) -> SoftmaxNode:
        """The regression with one normal parent fixed: it goes into the levels."""
        c, k, q = self.weights.shape
        keep = [0, *(i for i in range(1, q) if i != place + 1)]
        merge = torch.eye(q, dtype=torch.float64, device=self.weights.device)[keep]
        merge[0, place + 1] = value
        spread = torch.linalg.inv(self.precision).view(c, k, q, k, q)
        spread = torch.einsum("iq,ckqlp,jp->ckilj", merge, spread, merge)
        found = SoftmaxNode().to(self.weights.device)
        found.weights, found.rare = self.weights @ merge.T, self.rare
        size = k * len(keep)
        found.precision = torch.linalg.inv(spread.reshape(c, size, size))
        return found


class WeightsOfCurve(TorchDistribution):
    """The posterior of the weights (c, k, q) of a node as one site."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.real, 3)

    def __init__(self, node: SoftmaxNode) -> None:
        self.normal = MultivariateNormal(
            node.weights.flatten(1), precision_matrix=node.precision
        ).to_event(1)
        super().__init__(torch.Size(), node.weights.shape, validate_args=False)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's
        """Draws ``(*sample_shape, c, k, q)``, from the default generator."""
        return self.normal.sample(sample_shape).view(*sample_shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of weights (..., c, k, q)."""
        return self.normal.log_prob(value.flatten(-2))

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> WeightsOfCurve:
        """Itself: one table has one set of weights."""
        if torch.Size(batch_shape):
            raise ValueError("the weights of a table have no batch")
        return self
