"""k normals with full or tied covariances and a normal-Wishart prior.

Hidden cells are integrated out: a row's seen slots have the marginal normal, and in
training its hidden ones enter by their conditional mean and covariance (Ghahramani and
Jordan 1994, Supervised learning from incomplete data via an EM approach, NIPS 6).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pyro.distributions as dist
import torch
from torch import Tensor

from probgen.holes import Marginals, Patterns, pattern_groups
from probgen.leaves import gamma_draws
from probgen.normals import Kernel, Moments, Normals, cholesky
from probgen.whole_rows import WholeRows, moments_of

__all__ = ["FullNormals"]


class Wishart(dist.Wishart):
    """Pyro's Wishart without its test for singular draws.

    That test asks for symmetry to 1e-6 whatever the size of the entries, takes large sound
    matrices for singular ones, warns, and draws them again.
    """

    def rsample(
        self,
        sample_shape: torch.Size = torch.Size(),  # noqa: B008
        max_try_correction: int | None = None,
    ) -> Tensor:
        """Draws by Bartlett's decomposition."""
        drawn = self._bartlett_sampling(torch.Size(sample_shape))
        return 0.5 * (drawn + drawn.mT)


class FullNormals(Normals):
    """k normals with full covariances, or one covariance for all (`shared`).

    Prior: precision ~ Wishart(dof, scale matrix inverse of ``spread * I``), and
    mean | precision ~ N(0, (mean_strength * precision)^-1). The prior mean of the
    covariance is ``spread * I``; `dof` counts from
    the least that is proper, d - 1.
    """

    #: a Gibbs sweep must draw hidden cells: covariances couple the slots
    needs_filling = True

    def __init__(
        self,
        k: int,
        d: int,
        shared: bool,
        mean_strength: float,
        dof: float | None,
        spread: float | None,
    ) -> None:
        super().__init__(k, d, shared, mean_strength)
        self._ask(dof, spread)
        self._hold(self.zeros(torch.device("cpu")))

    @property
    def width(self) -> int:
        """All slots."""
        return self.d

    @property
    def dof(self) -> float:
        """Degrees of freedom of the Wishart prior; the setting counts from the least proper."""
        return float(self.variance_prior[0]) + self.d - 1

    @property
    def spread(self) -> float:
        """The inverse scale matrix of the Wishart prior is this times the identity."""
        return float(self.variance_prior[1])

    def zeros(self, device: torch.device) -> Moments:
        """Statistics of no rows."""
        k, d = self.k, self.d
        return Moments(
            torch.zeros(k, dtype=torch.float64, device=device),
            torch.zeros(k, d, dtype=torch.float64, device=device),
            torch.zeros(k, d, d, dtype=torch.float64, device=device),
        )

    def prior_scale(self) -> Tensor:
        """The inverse scale matrix (d, d) of the Wishart prior."""
        return self.spread * torch.eye(self.d, dtype=torch.float64, device=self.count.device)

    def posterior(self, moments: Moments | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(strength (k,), mean (k, d), dof (g,), Cholesky of the inverse scale (g, d, d)).

        g is k, or 1 where the covariance is shared.
        """
        s = self.moments if moments is None else moments
        strength = self.mean_strength + s.count
        mean = s.first / strength[:, None]
        spread = s.second - strength[:, None, None] * mean[:, :, None] * mean[:, None, :]
        dof = self.dof + s.count
        if self.shared:
            spread, dof = spread.sum(0, keepdim=True), self.dof + s.count.sum(0, keepdim=True)
        inverse = self.prior_scale() + 0.5 * (spread + spread.mT)
        return strength, mean, dof, cholesky(inverse)

    def expected(self) -> Kernel:
        """exp(E log N) under the posterior: the kernel of the variational responsibilities."""
        strength, mean, dof, chol = self.posterior()
        log_det_inverse = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        expected_log_det = _digamma_sum(dof, self.d) + self.d * math.log(2) - log_det_inverse
        plain_log_det = self.d * dof.log() - log_det_inverse
        const = 0.5 * (expected_log_det - plain_log_det) - 0.5 * self.d / strength
        precision = torch.cholesky_inverse(chol) * dof[:, None, None]
        return Kernel(mean, precision.expand(self.k, -1, -1), const)

    def predictive(self) -> Kernel:
        """The posterior predictive: Student's t for each component."""
        strength, mean, dof, chol = self.posterior()
        t_dof = (dof - self.d + 1).expand(self.k)
        shrink = strength / (strength + 1) * t_dof
        precision = torch.cholesky_inverse(chol).expand(self.k, -1, -1) * shrink[:, None, None]
        return Kernel(mean, precision, torch.zeros_like(strength), t_dof)

    def kl(self) -> Tensor:
        """KL(posterior || prior), nats."""
        strength, mean, dof, chol = self.posterior()
        d, b0, v0 = self.d, self.mean_strength, self.dof
        scale = torch.cholesky_inverse(chol)  # E[precision] = dof * scale
        quad = torch.einsum("ki,kij,kj->k", mean, scale.expand(self.k, -1, -1), mean)
        means = 0.5 * (
            d * (strength / b0).log() - d + d * b0 / strength + b0 * dof.expand(self.k) * quad
        )
        log_det = -2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1) + d * math.log(self.spread)
        trace = self.spread * scale.diagonal(dim1=-2, dim2=-1).sum(-1)
        v = torch.full_like(dof, v0)
        wishart = (
            -0.5 * v0 * log_det + 0.5 * dof * (trace - d)
            + torch.special.multigammaln(0.5 * v, d) - torch.special.multigammaln(0.5 * dof, d)
            + 0.5 * (dof - v0) * _digamma_sum(dof, d)
        )  # fmt: skip
        return means.sum() + wishart.sum()

    def draw(self, moments: Moments, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One posterior draw of (mean (k, d), precision (k, d, d)), by Bartlett's rule."""
        strength, mean, dof, chol = self.posterior(moments)
        g, d = chol.shape[0], self.d
        lower = torch.randn(g, d, d, generator=generator, dtype=chol.dtype, device=chol.device)
        steps = torch.arange(d, device=chol.device)
        squares = 2 * gamma_draws(0.5 * (dof[:, None] - steps), generator)
        lower = lower.tril(-1) + torch.diag_embed(squares.sqrt())
        root = torch.linalg.solve_triangular(chol.mT, lower, upper=True)  # precision = root root'
        eps = torch.randn(self.k, d, 1, generator=generator, dtype=chol.dtype, device=chol.device)
        step = torch.linalg.solve(root.mT, eps / strength.sqrt()[:, None, None])
        precision = root @ root.mT
        return mean + step[..., 0], precision

    def plugin(self) -> Kernel:
        """Normals at the posterior means of mean and covariance."""
        strength, mean, dof, chol = self.posterior()
        shrink = (dof - self.d - 1).clamp_min(1.0)
        precision = torch.cholesky_inverse(chol) * shrink[:, None, None]
        return Kernel(mean, precision.expand(self.k, -1, -1), torch.zeros_like(strength))

    def unit(self) -> Kernel:
        """Standard normals: they fill holes before anything is known."""
        eye = torch.eye(self.d, dtype=torch.float64, device=self.count.device)
        zero = torch.zeros_like(self.first)
        return Kernel(zero, eye.expand(self.k, -1, -1), zero.sum(-1))

    # --- the globals as Pyro sites: precision (g, d, d) and mean (k, d) ----------------

    def precision_prior(self) -> dist.TorchDistribution:
        """Wishart prior; g is 1 where the covariance is shared, else k."""
        g = 1 if self.shared else self.k
        inverse = self.prior_scale().expand(g, -1, -1)
        df = inverse.new_full((g,), self.dof)
        return Wishart(df, precision_matrix=inverse).to_event(1)

    def precision_posterior(self) -> dist.TorchDistribution:
        """Wishart posterior."""
        _, _, dof, chol = self.posterior()
        return Wishart(dof, precision_matrix=chol @ chol.mT).to_event(1)

    def mean_prior(self, precision: Tensor) -> dist.TorchDistribution:
        """Normal prior of the means given the precisions."""
        scaled = self.mean_strength * self.spread_out(precision)
        zero = torch.zeros_like(self.first)
        return dist.MultivariateNormal(zero, precision_matrix=scaled).to_event(1)

    def mean_posterior(self, precision: Tensor) -> dist.TorchDistribution:
        """Normal posterior of the means given the precisions."""
        strength, mean, _, _ = self.posterior()
        scaled = strength[:, None, None] * self.spread_out(precision)
        return dist.MultivariateNormal(mean, precision_matrix=scaled).to_event(1)

    def spread_out(self, precision: Tensor) -> Tensor:
        """Precisions (k, d, d) from the value of their site."""
        return precision.expand(self.k, -1, -1)

    # --- rows -----------------------------------------------------------------------

    def groups(self, seen: Tensor) -> Iterator[tuple[Tensor | slice, Patterns | None]]:
        """Rows that are worked out together, and their patterns of holes."""
        return pattern_groups(seen, self.k)

    def prepare(
        self, kernel: Kernel, patterns: Patterns | None, exact: bool = True
    ) -> WholeRows | Marginals:
        """What is the same for all rows of a group; `exact` where digits matter (scoring)."""
        return WholeRows(kernel, exact) if patterns is None else Marginals(kernel, patterns, exact)

    def gather_hard(self, x: Tensor, seen: Tensor, r: Tensor) -> Moments:
        """Statistics of rows without holes, with responsibilities r (n, k)."""
        return moments_of(x, r)


def _digamma_sum(dof: Tensor, d: int) -> Tensor:
    """Multivariate digamma at dof / 2."""
    steps = torch.arange(d, device=dof.device)
    return torch.digamma(0.5 * (dof[..., None] - steps)).sum(-1)
