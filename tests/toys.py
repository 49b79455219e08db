"""Small pairs with known answers, used by the generic tests: no data files, no schema."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from probgen.batch import Batch
from probgen.family import Family


class RowDist(dist.TorchDistribution):
    """A row distribution given by its log density: stands for a family's own likelihood."""

    arg_constraints = {}

    def __init__(self, log_density, n: int, m: int) -> None:
        self.log_density, self.m = log_density, m
        super().__init__((n,), (m,), validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return self

    @property
    def support(self):
        return dist.constraints.real_vector

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_density(value)


class FactorAnalysis(Family):
    """Probabilistic PCA: z_n ~ N(0, I), x_n | z_n ~ N(W z_n + b, s^2 I); a linear guide.

    The guide holds the true posterior at its optimum, so the best ELBO is the marginal
    log likelihood N(b, W W^T + s^2 I), a closed form.
    """

    density, holes = "estimate", "latent"

    def __init__(self, m: int, latent: int, seed: int = 0, schema: object = None) -> None:
        super().__init__(schema)
        g = torch.Generator().manual_seed(seed)
        self.m, self.latent = m, latent
        self.weight = nn.Parameter(0.3 * torch.randn(m, latent, generator=g))
        self.bias = nn.Parameter(torch.zeros(m))
        self.log_noise = nn.Parameter(torch.zeros(()))
        self.encode = nn.Parameter(0.1 * torch.randn(latent, m, generator=g))
        self.shift = nn.Parameter(torch.zeros(latent))
        self.log_spread = nn.Parameter(torch.zeros(latent))

    def model(self, batch: Batch) -> None:
        with batch.rows():
            zeros = self.bias.new_zeros(len(batch), self.latent)
            z = pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))
            loc = z @ self.weight.T + self.bias
            fn = dist.Normal(loc, self.log_noise.exp()).to_event(1)
            batch.observe("x", fn, range(self.m))

    def guide(self, batch: Batch) -> None:
        with batch.rows():
            loc = batch.x @ self.encode.T + self.shift
            pyro.sample("z", dist.Normal(loc, self.log_spread.exp()).to_event(1))

    def exact_loss(self, x: Tensor) -> Tensor:
        """Negative marginal log likelihood a row, nats."""
        cov = self.weight @ self.weight.T + (2 * self.log_noise).exp() * torch.eye(self.m)
        return -dist.MultivariateNormal(self.bias, cov.to(x)).log_prob(x).mean()


class NormalMixture(Family):
    """A diagonal normal mixture trained by gradients, its label summed out."""

    def __init__(self, m: int, components: int, seed: int = 0, schema: object = None) -> None:
        super().__init__(schema)
        g = torch.Generator().manual_seed(seed)
        self.m, self.components = m, components
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, m, generator=g))
        self.log_scale = nn.Parameter(torch.zeros(components, m))

    def row_log_prob(self, x: Tensor) -> Tensor:
        """Log density (n,) as two matrix products."""
        precision = (-2 * self.log_scale).exp()
        scaled = self.loc * precision
        quadratic = (x * x) @ (-0.5 * precision).T + x @ scaled.T
        constant = (
            -0.5 * (self.loc * scaled).sum(-1)
            - self.log_scale.sum(-1)
            - 0.5 * self.m * math.log(2 * math.pi)
            + self.logits.log_softmax(-1)
        )
        return (quadratic + constant).logsumexp(-1)

    def model(self, batch: Batch) -> None:
        with batch.rows():
            batch.observe("x", RowDist(self.row_log_prob, len(batch), self.m), range(self.m))


class LabelledMixture(NormalMixture):
    """The same mixture with its label as a site: enumerated, or sampled by the guide."""

    def __init__(self, m: int, components: int, seed: int = 0, enumerate_: bool = True) -> None:
        super().__init__(m, components, seed)
        self.enumerate_ = enumerate_
        self.scores = nn.Linear(m, components)

    def model(self, batch: Batch) -> None:
        infer = {"enumerate": "parallel"} if self.enumerate_ else {}
        with batch.rows():
            label = pyro.sample("label", dist.Categorical(logits=self.logits), infer=infer)
            fn = dist.Normal(self.loc[label], self.log_scale.exp()[label]).to_event(1)
            batch.observe("x", fn, range(self.m))

    def guide(self, batch: Batch) -> None:
        if not self.enumerate_:
            with batch.rows():
                pyro.sample("label", dist.Categorical(logits=self.scores(batch.x)))


class GlobalMean(Family):
    """Columns with unknown means, m ~ N(0, 10^2), x_n ~ N(m, 1); a mean-field guide.

    The posterior is normal in closed form, so the guide can reach it.
    """

    def __init__(self, m: int, schema: object = None) -> None:
        super().__init__(schema)
        self.m = m
        self.q_loc = nn.Parameter(torch.zeros(m))
        self.q_log_scale = nn.Parameter(torch.full((m,), -2.0))

    def model(self, batch: Batch) -> None:
        zeros = self.q_loc.new_zeros(self.m)
        mean = pyro.sample("mean", dist.Normal(zeros, 10.0).to_event(1))
        with batch.rows():
            fn = dist.Normal(mean.expand(len(batch), self.m), 1.0).to_event(1)
            batch.observe("x", fn, range(self.m))

    def guide(self, batch: Batch) -> None:
        pyro.sample("mean", dist.Normal(self.q_loc, self.q_log_scale.exp()).to_event(1))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Exact posterior mean and standard deviation of each column's mean."""
        precision = x.shape[0] + 0.01
        return x.sum(0) / precision, torch.full((self.m,), precision**-0.5)


class Regression(Family):
    """x_0 given the other columns, linear with unknown coefficients; a mean-field guide."""

    def __init__(self, m: int, schema: object = None) -> None:
        super().__init__(schema)
        self.m = m
        self.q_loc = nn.Parameter(torch.zeros(m))
        self.q_log_scale = nn.Parameter(torch.full((m,), -2.0))
        self.log_noise = nn.Parameter(torch.zeros(()))

    def model(self, batch: Batch) -> None:
        zeros = self.q_loc.new_zeros(self.m)
        coef = pyro.sample("coef", dist.Normal(zeros, 3.0).to_event(1))
        with batch.rows():
            loc = batch.x[:, 1:] @ coef[1:] + coef[0]
            batch.observe("x0", dist.Normal(loc, self.log_noise.exp()), [0])

    def guide(self, batch: Batch) -> None:
        pyro.sample("coef", dist.Normal(self.q_loc, self.q_log_scale.exp()).to_event(1))


class CountingEM(Family):
    """A mixture of unit normals in one column, moved by closed-form EM updates."""

    updates = True

    def __init__(self, components: int, seed: int = 0, schema: object = None) -> None:
        super().__init__(schema)
        g = torch.Generator().manual_seed(seed)
        self.register_buffer("loc", torch.randn(components, generator=g, dtype=torch.float64))
        self.register_buffer("share", torch.full((components,), 1 / components).double())

    def _joint(self, x: Tensor) -> Tensor:
        return dist.Normal(self.loc, 1.0).log_prob(x) + self.share.log()

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        pick = torch.randperm(len(batch), generator=generator)[: len(self.loc)]
        self.loc = batch.x[pick, 0].double().clone()

    def update(self, batch: Batch, rate: float) -> float:
        joint = self._joint(batch.x[:, :1])
        row = joint.logsumexp(-1, keepdim=True)
        resp = (joint - row).exp() * batch.weight[:, None]
        mass = resp.sum(0) + 1e-9
        self.loc = self.loc + rate * ((resp * batch.x[:, :1]).sum(0) / mass - self.loc)
        self.share = self.share + rate * (mass / mass.sum() - self.share)
        return float(-(row[:, 0] * batch.weight).sum() / batch.weight.sum())

    def exact_log_prob(self, batch: Batch, draws: object) -> Tensor:
        return self._joint(batch.x[:, :1]).logsumexp(-1)


def blobs(n: int, m: int, seed: int = 0, components: int = 3) -> Tensor:
    """Rows (n, m) from well separated unit normals."""
    g = torch.Generator().manual_seed(seed)
    centre = 4.0 * torch.randn(components, m, generator=g, dtype=torch.float64)
    label = torch.randint(components, (n,), generator=g)
    return centre[label] + torch.randn(n, m, generator=g, dtype=torch.float64)


def factors(n: int, m: int, latent: int, seed: int = 0) -> Tensor:
    """Rows (n, m) from a factor model with noise 0.5."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(m, latent, generator=g, dtype=torch.float64)
    z = torch.randn(n, latent, generator=g, dtype=torch.float64)
    return z @ weight.T + 0.5 * torch.randn(n, m, generator=g, dtype=torch.float64)
