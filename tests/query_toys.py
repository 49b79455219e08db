"""Pairs with closed-form answers, in float64, for the tests of the generic queries."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from probgen.batch import Batch
from probgen.columns import Slot
from probgen.family import Draws, Family

F64 = torch.float64


class Factor(Family):
    """Probabilistic PCA, one site a column; the guide is the exact posterior, widened."""

    density, holes = "estimate", "latent"

    def __init__(self, m: int = 4, latent: int = 2, widen: float = 1.2, guided: bool = True):
        super().__init__(None)
        g = torch.Generator().manual_seed(0)
        self.m, self.latent, self.widen, self.guided = m, latent, widen, guided
        self.weight = nn.Parameter(torch.randn(m, latent, generator=g, dtype=F64))
        self.bias = nn.Parameter(torch.randn(m, generator=g, dtype=F64))
        self.noise = 0.8

    def model(self, batch: Batch) -> None:
        with batch.rows():
            zeros = self.bias.new_zeros(len(batch), self.latent)
            z = pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))
            loc = z @ self.weight.T + self.bias
            for j in range(self.m):
                batch.observe(f"x{j}", dist.Normal(loc[:, j], self.noise), [j])

    def posterior(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n, k) and covariance (n, k, k) of z given the seen cells."""
        weight = self.weight * seen[:, :, None]
        precision = torch.eye(self.latent, dtype=F64) + weight.mT @ weight / self.noise**2
        cov = torch.linalg.inv(precision)
        score = (weight.mT @ (x - self.bias)[:, :, None]) / self.noise**2
        return (cov @ score)[..., 0], cov

    def guide(self, batch: Batch) -> None:
        if not self.guided:
            return
        mean, cov = self.posterior(batch.x, batch.seen)
        root = torch.linalg.cholesky(cov) * self.widen
        with batch.rows():
            pyro.sample("z", dist.MultivariateNormal(mean, scale_tril=root))

    def log_density(self, x: Tensor, seen: Tensor) -> Tensor:
        """Exact marginal log density of the seen cells of each row."""
        cov = self.weight @ self.weight.T + self.noise**2 * torch.eye(self.m, dtype=F64)
        rows = []
        for value, on in zip(x, seen, strict=True):
            if on.any():
                part = dist.MultivariateNormal(self.bias[on], cov[on][:, on])
                rows.append(part.log_prob(value[on]))
            else:
                rows.append(torch.zeros((), dtype=F64))
        return torch.stack(rows)


class Means(Family):
    """A column with an unknown mean: mean ~ N(0, 4), x ~ N(mean, 1). The guide is given."""

    def __init__(self, loc: float = 1.0, scale: float = 0.7) -> None:
        super().__init__(None)
        self.loc = nn.Parameter(torch.tensor(loc, dtype=F64))
        self.scale = scale

    def model(self, batch: Batch) -> None:
        mean = pyro.sample("mean", dist.Normal(self.loc * 0.0, 2.0))
        with batch.rows():
            batch.observe("x", dist.Normal(mean.expand(len(batch)), 1.0), [0])

    def guide(self, batch: Batch) -> None:
        pyro.sample("mean", dist.Normal(self.loc, self.scale))


class ExactMeans(Means):
    """The same pair with closed forms, and a count of the draws it was asked for."""

    def exact_log_prob(self, batch: Batch, draws: Draws | None) -> Tensor | None:
        if draws is None:
            return None
        value = dist.Normal(draws["mean"][:, None], 1.0).log_prob(batch.x[:, 0])
        return value * batch.seen[:, 0]


class Labelled(Family):
    """A diagonal normal mixture; its label is enumerated; the guide may name it too."""

    def __init__(self, m: int = 3, components: int = 4, guided: str = "no") -> None:
        super().__init__(None)
        g = torch.Generator().manual_seed(1)
        self.m, self.components, self.guided = m, components, guided
        self.logits = nn.Parameter(torch.randn(components, generator=g, dtype=F64))
        self.loc = nn.Parameter(3 * torch.randn(components, m, generator=g, dtype=F64))
        self.scale = 0.5 + torch.rand(components, m, generator=g, dtype=F64)

    def model(self, batch: Batch) -> None:
        with batch.rows():
            label = pyro.sample(
                "label", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"}
            )
            for j in range(self.m):
                fn = dist.Normal(self.loc[label, j], self.scale[label, j])
                batch.observe(f"x{j}", fn, [j])

    def guide(self, batch: Batch) -> None:
        if self.guided == "no":
            return
        infer = {"enumerate": "parallel"} if self.guided == "enumerated" else {}
        with batch.rows():
            logits = self.logits.new_zeros(len(batch), self.components)
            pyro.sample("label", dist.Categorical(logits=logits), infer=infer)

    def log_density(self, x: Tensor, seen: Tensor) -> Tensor:
        """Exact marginal log density of the seen cells of each row."""
        cell = dist.Normal(self.loc, self.scale).log_prob(x[:, None])
        joint = (cell * seen[:, None]).sum(-1) + self.logits.log_softmax(-1)
        return joint.logsumexp(-1)


class ExactLabelled(Labelled):
    """The mixture with its closed forms: what a family's overrides look like."""

    row_cost = 12

    def exact_log_prob(self, batch: Batch, draws: Draws | None) -> Tensor:
        return self.log_density(batch.x, batch.seen)

    def complete(self, batch: Batch, generator: torch.Generator) -> Tensor:
        cell = dist.Normal(self.loc, self.scale).log_prob(batch.x[:, None])
        joint = (cell * batch.seen[:, None]).sum(-1) + self.logits
        label = torch.multinomial(joint.softmax(-1), 1, generator=generator)[:, 0]
        eps = torch.randn(batch.x.shape, generator=generator, dtype=F64)
        return torch.where(batch.seen, batch.x, self.loc[label] + self.scale[label] * eps)


class Repeated(Family):
    """A row of m repeated readings in an inner plate, each with a label of its own,
    under one label of the row: both are enumerated."""

    def __init__(self, m: int = 3) -> None:
        super().__init__(None)
        self.m = m
        self.outer = torch.tensor([0.3, 0.7], dtype=F64)
        self.inner = torch.tensor([[0.2, 0.8], [0.6, 0.4]], dtype=F64)
        self.loc = torch.tensor([[-2.0, 1.0], [0.5, 3.0]], dtype=F64)

    def model(self, batch: Batch) -> None:
        infer = {"enumerate": "parallel"}
        with batch.rows():
            a = pyro.sample("a", dist.Categorical(self.outer), infer=infer)
            with pyro.plate("readings", self.m, dim=-2):
                b = pyro.sample("b", dist.Categorical(self.inner[a]), infer=infer)
                fn = dist.Normal(self.loc[a, b], 1.0).mask(batch.seen.T)
                pyro.sample("x", fn, obs=batch.x.T)

    def log_density(self, x: Tensor, seen: Tensor) -> Tensor:
        cell = dist.Normal(self.loc, 1.0).log_prob(x[:, :, None, None]) * seen[:, :, None, None]
        reading = (cell + self.inner.log()).logsumexp(-1)
        return (reading.sum(1) + self.outer.log()).logsumexp(-1)


def table(n: int, m: int, holes: float = 0.0, seed: int = 0) -> Batch:
    """Random rows with holes; unseen cells hold 0."""
    g = torch.Generator().manual_seed(seed)
    x = 1.5 * torch.randn(n, m, generator=g, dtype=F64)
    seen = torch.rand(n, m, generator=g) >= holes
    return Batch.of(torch.where(seen, x, torch.zeros_like(x)), seen)


def entropy_gap(value: Tensor, entropy: float) -> float:
    """How many standard errors the mean of -log p lies from an entropy."""
    value = value.detach()
    return abs(-float(value.mean()) - entropy) / (float(value.std()) / math.sqrt(len(value)))


class Chain(Family):
    """Each row is a hidden Markov chain of m steps, its states enumerated with recycled dims."""

    def __init__(self, m: int = 6, states: int = 3) -> None:
        super().__init__(None)
        g = torch.Generator().manual_seed(2)
        self.m = m
        self.move = torch.rand(states, states, generator=g, dtype=F64).softmax(-1)
        self.loc = torch.linspace(-2, 2, states, dtype=F64)

    def model(self, batch: Batch) -> None:
        with batch.rows():
            state = 0
            for t in pyro.markov(range(self.m)):
                state = pyro.sample(
                    f"s{t}", dist.Categorical(self.move[state]), infer={"enumerate": "parallel"}
                )
                batch.observe(f"x{t}", dist.Normal(self.loc[state], 1.0), [t])

    def log_density(self, x: Tensor, seen: Tensor) -> Tensor:
        """By the forward algorithm."""
        cell = dist.Normal(self.loc, 1.0).log_prob(x[:, :, None]) * seen[:, :, None]
        alpha = self.move[0].log() + cell[:, 0]
        for t in range(1, self.m):
            alpha = (alpha[:, :, None] + self.move.log()).logsumexp(1) + cell[:, t]
        return alpha.logsumexp(-1)


class Mixed(Family):
    """z ~ N(0, 1) decides a real slot and a category; a context column shifts the real one."""

    density, holes = "estimate", "latent"

    def __init__(self) -> None:
        super().__init__(None)
        slots = [Slot("a", 0, "real"), Slot("b", 1, "category", 3)]
        self.schema = SimpleNamespace(slots=slots, context_slots=[Slot("c", 2, "real")])
        self.sharp = nn.Parameter(torch.tensor([-8.0, 0.0, 8.0], dtype=F64))

    def model(self, batch: Batch) -> None:
        with batch.rows():
            z = pyro.sample("z", dist.Normal(batch.context[:, 0] * 0, 1.0))
            batch.observe("a", dist.Normal(z + batch.context[:, 0], 0.1), [0])
            batch.observe("b", dist.Categorical(logits=z[:, None] * self.sharp), [1])

    def guide(self, batch: Batch) -> None:
        shift = torch.where(batch.seen[:, 0], batch.x[:, 0] - batch.context[:, 0], 0.0)
        spread = torch.where(batch.seen[:, 0], 0.1, 1.0)
        with batch.rows():
            pyro.sample("z", dist.Normal(shift, spread))
