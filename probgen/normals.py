"""The real slots of a mixture: k normals with conjugate posteriors, holes integrated out.

Two blocks share one interface. `FullNormals` (full or tied covariance) has a
normal-Wishart prior, `DiagonalNormals` (diagonal or spherical) a normal-gamma one. The
state of a block is its expected sufficient statistics, so the posterior is prior plus
statistics, a natural-gradient step is a blend of statistics, and EM, variational Bayes
and Gibbs sampling differ only in the weights of the rows (Bishop 2006, chapter 10;
Hoffman et al. 2013).

Sizes: n rows, k components, d slots. All tensors are float64, encoded units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from probgen.leaves import gamma_draws

__all__ = [
    "DiagonalNormals",
    "Hidden",
    "Kernel",
    "Moments",
    "Normals",
    "cholesky",
    "log_det_of",
    "log_kernel",
]

LOG_2PI = math.log(2 * math.pi)


@dataclass
class Moments:
    """Weighted sums over rows for each component: count, first and second moments.

    count is (k,) for `FullNormals` and (k, d), one a slot, for `DiagonalNormals`; second
    is (k, d, d) or (k, d).
    """

    count: Tensor
    first: Tensor
    second: Tensor

    def blend(self, other: Moments, rate: float) -> Moments:
        """``(1 - rate) * self + rate * other``."""
        return Moments(
            self.count.lerp(other.count, rate),
            self.first.lerp(other.first, rate),
            self.second.lerp(other.second, rate),
        )

    def __iadd__(self, other: Moments) -> Moments:
        self.count += other.count
        self.first += other.first
        self.second += other.second
        return self


@dataclass
class Kernel:
    """k densities over d slots: normals, or Student's t where `dof` is given.

    `log_const` (k,) or (k, d) is added to the log density: the part of a variational
    expectation that a plain normal with the same mean and precision lacks.
    """

    mean: Tensor
    precision: Tensor
    log_const: Tensor
    dof: Tensor | None = None
    _root: Tensor | None = None

    def root(self) -> Tensor:
        """Lower Cholesky factors of full precisions (k, d, d), worked out once."""
        if self._root is None:
            self._root = cholesky(self.precision)
        return self._root


class Hidden(NamedTuple):
    """Hidden slots of rows given the seen ones, under each component: Student's t or normals.

    All are (n, k, d); what they hold of seen slots means nothing. dof is infinite for normals.
    """

    mean: Tensor
    scale: Tensor
    dof: Tensor


class Normals(nn.Module):
    """State and interface shared by the two blocks."""

    count: Tensor
    first: Tensor
    second: Tensor
    variance_prior: Tensor

    def __init__(self, k: int, d: int, shared: bool, mean_strength: float) -> None:
        super().__init__()
        self.k, self.d, self.shared, self.mean_strength = k, d, shared, mean_strength

    def _ask(self, dof: float | None, spread: float | None) -> None:
        """Settings of the variance prior; None is settled by `begin`."""
        self._asked = dof, spread
        self.register_buffer("variance_prior", torch.zeros(2, dtype=torch.float64))
        self._settle(0.0)

    def _settle(self, sparse: float) -> None:
        """Degrees of freedom, and the variance times what exceeds two of them.

        `sparse` is how few rows there are for each number of a covariance: 0 for plenty, 1
        for so few that the prior, as strong as d rows of the column's own variance, decides.
        """
        dof, spread = self._asked
        dof = 3.0 + sparse * self.width if dof is None else dof
        spread = 0.1 ** (1.0 - sparse) if spread is None else spread
        scaled = spread * (dof - 2.0 if dof > 2.0 else 1.0)
        self.variance_prior = self.variance_prior.new_tensor([dof, scaled])

    @property
    def width(self) -> int:
        """Slots whose covariance is learned jointly."""
        raise TypeError(f"{type(self).__name__} must define width")

    def begin(self, rows: float) -> None:
        """Forget all rows, and settle the prior for a table of so many.

        Three rows for each component and joint slot count as few: a rule of thumb that mended
        tables with about as many slots as rows; benchmarks/mixture_defaults.py compares it.
        """
        k = 1 if self.shared and self.width > 1 else self.k
        self._settle(min(1.0, 3.0 * k * self.width / max(rows, 1.0)))
        self.reset()

    def _hold(self, moments: Moments) -> None:
        self.register_buffer("count", moments.count)
        self.register_buffer("first", moments.first)
        self.register_buffer("second", moments.second)

    @property
    def moments(self) -> Moments:
        """The current expected sufficient statistics."""
        return Moments(self.count, self.first, self.second)

    def set(self, moments: Moments) -> None:
        """Replace the sufficient statistics."""
        self.count, self.first, self.second = moments.count, moments.first, moments.second

    def zeros(self, device: torch.device) -> Moments:
        """Statistics of no rows."""
        raise TypeError(f"{type(self).__name__} must define zeros")

    def reset(self) -> None:
        """Forget all rows."""
        self.set(self.zeros(self.count.device))

    def reorder(self, order: Tensor) -> None:
        """Permute the components."""
        m = self.moments
        self.set(Moments(m.count[order], m.first[order], m.second[order]))


class DiagonalNormals(Normals):
    """k products of d normals; one variance a component where `shared` (spherical).

    Prior: precision ~ Gamma(dof / 2, spread / 2) for each slot (or component), and
    mean | precision ~ N(0, 1 / (mean_strength * precision)).
    """

    #: a hidden cell says nothing about any other slot of a product
    needs_filling = False

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
        """One: slots are independent."""
        return 1

    @property
    def shape0(self) -> float:
        """Shape of the gamma prior."""
        return 0.5 * float(self.variance_prior[0])

    @property
    def rate0(self) -> float:
        """Rate of the gamma prior."""
        return 0.5 * float(self.variance_prior[1])

    def zeros(self, device: torch.device) -> Moments:
        """Statistics of no rows."""
        zeros = torch.zeros(3, self.k, self.d, dtype=torch.float64, device=device)
        return Moments(zeros[0], zeros[1], zeros[2])

    def posterior(self, moments: Moments | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(strength, mean (k, d), shape, rate of the gamma (k, d) or (k, 1))."""
        s = self.moments if moments is None else moments
        strength = self.mean_strength + s.count
        mean = s.first / strength
        half = 0.5 * (s.second - strength * mean.square()).clamp_min(0.0)
        count = 0.5 * s.count
        if self.shared:
            half, count = half.sum(-1, keepdim=True), count.sum(-1, keepdim=True)
        return strength, mean, self.shape0 + count, self.rate0 + half

    def expected(self) -> Kernel:
        """exp(E log N) under the posterior."""
        strength, mean, shape, rate = self.posterior()
        const = 0.5 * (torch.digamma(shape) - shape.log()) - 0.5 / strength
        return Kernel(mean, (shape / rate).expand(self.k, self.d), const)

    def predictive(self) -> Kernel:
        """The posterior predictive: t for each slot, or jointly where the variance is shared."""
        strength, mean, shape, rate = self.posterior()
        precision = shape / rate * strength / (strength + 1)
        return Kernel(mean, precision, torch.zeros_like(mean), 2 * shape)

    def kl(self) -> Tensor:
        """KL(posterior || prior), nats."""
        strength, mean, a, b = self.posterior()
        b0 = self.mean_strength
        means = 0.5 * ((strength / b0).log() - 1 + b0 / strength + b0 * (a / b) * mean.square())
        a0, r0 = torch.full_like(a, self.shape0), torch.full_like(b, self.rate0)
        gamma = (
            (a - a0) * torch.digamma(a) - torch.lgamma(a) + torch.lgamma(a0)
            + a0 * (b / r0).log() + a * (r0 - b) / b
        )  # fmt: skip
        return means.sum() + gamma.sum()

    def draw(self, moments: Moments, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One posterior draw of (mean (k, d), precision (k, d))."""
        strength, mean, shape, rate = self.posterior(moments)
        precision = gamma_draws(shape, generator) / rate
        eps = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + eps / (strength * self.spread_out(precision)).sqrt(), precision

    def plugin(self) -> Kernel:
        """Normals at the posterior means of mean and variance."""
        _, mean, shape, rate = self.posterior()
        precision = (shape - 1).clamp_min(0.5) / rate
        return Kernel(mean, precision.expand(self.k, self.d), torch.zeros_like(mean))

    def unit(self) -> Kernel:
        """Standard normals: they fill holes before anything is known."""
        zero = torch.zeros_like(self.first)
        return Kernel(zero, zero + 1.0, zero)

    # --- the globals as Pyro sites: precision (k, d) or (k, 1), and mean (k, d) ---------

    def _gamma(self, shape: Tensor, rate: Tensor) -> dist.TorchDistribution:
        return dist.Gamma(shape, rate).to_event(2)

    def precision_prior(self) -> dist.TorchDistribution:
        """Gamma prior, one a slot or one a component where `shared`."""
        _, _, shape, _ = self.posterior()
        return self._gamma(torch.full_like(shape, self.shape0), torch.full_like(shape, self.rate0))

    def precision_posterior(self) -> dist.TorchDistribution:
        """Gamma posterior."""
        _, _, shape, rate = self.posterior()
        return self._gamma(shape, rate)

    def mean_prior(self, precision: Tensor) -> dist.TorchDistribution:
        """Normal prior of the means given the precisions."""
        sd = (self.mean_strength * self.spread_out(precision)).rsqrt()
        return dist.Normal(torch.zeros_like(self.first), sd).to_event(2)

    def mean_posterior(self, precision: Tensor) -> dist.TorchDistribution:
        """Normal posterior of the means given the precisions."""
        strength, mean, _, _ = self.posterior()
        return dist.Normal(mean, (strength * self.spread_out(precision)).rsqrt()).to_event(2)

    def spread_out(self, precision: Tensor) -> Tensor:
        """Precisions (k, d) from the value of their site."""
        return precision.expand(self.k, self.d)

    # --- rows -----------------------------------------------------------------------

    def groups(self, seen: Tensor) -> Iterator[tuple[Tensor | slice, None]]:
        """All rows at once: a product needs no patterns."""
        yield slice(0, len(seen)), None

    def prepare(self, kernel: Kernel, patterns: object, exact: bool = True) -> ProductRows:
        """What is the same for all rows; `exact` where digits matter (scoring)."""
        return ProductRows(kernel, self.shared, exact)

    def gather_hard(self, x: Tensor, seen: Tensor, r: Tensor) -> Moments:
        """Statistics of the seen cells, with responsibilities r (n, k)."""
        second, first, count = (r.T @ _diagonal_features(x, seen)).split(self.d, -1)
        return Moments(count, first, second)


class ProductRows:
    """k products of densities over rows with any pattern of holes."""

    def __init__(self, kernel: Kernel, shared: bool, exact: bool) -> None:
        self.kernel, self.shared = kernel, shared
        self.weights: Tensor | None = None
        if kernel.dof is None and not exact:
            p, m = kernel.precision, kernel.mean
            const = kernel.log_const + 0.5 * (p.log() - LOG_2PI) - 0.5 * p * m.square()
            self.weights = torch.cat([-0.5 * p, p * m, const], -1)

    def log_rows(self, x: Tensor, seen: Tensor) -> Tensor:
        """Log density (n, k) of the seen slots of rows x (n, d)."""
        if self.weights is not None:
            return _diagonal_features(x, seen) @ self.weights.T
        kernel = self.kernel
        root = kernel.precision.sqrt()
        quad = (x[:, None] * root - kernel.mean * root).square_() * seen[:, None]
        if kernel.dof is None:
            const = 0.5 * (kernel.precision.log() - LOG_2PI) + kernel.log_const
            return seen.to(x.dtype) @ const.T - 0.5 * quad.sum(-1)
        if self.shared:
            log_det = seen.to(x.dtype) @ kernel.precision.log().T
            return student(quad.sum(-1), log_det, seen.sum(-1, keepdim=True), kernel.dof[:, 0])
        each = student(quad, kernel.precision.log(), 1, kernel.dof)
        return (each * seen[:, None]).sum(-1)

    def accumulate(self, x: Tensor, seen: Tensor, r: Tensor) -> Moments:
        """Expected statistics of the seen cells, with responsibilities r (n, k)."""
        second, first, count = (r.T @ _diagonal_features(x, seen)).split(x.shape[1], -1)
        return Moments(count, first, second)

    def conditional(self, x: Tensor, seen: Tensor) -> Hidden:
        """The unseen slots given the seen ones; these matter where the variance is shared."""
        kernel = self.kernel
        shape = (len(x), *kernel.mean.shape)
        mean, scale = kernel.mean.expand(shape), kernel.precision.rsqrt().expand(shape)
        if kernel.dof is None:
            return Hidden(mean, scale, torch.full_like(mean, torch.inf))
        dof = kernel.dof
        if self.shared:
            gap = (x[:, None] - kernel.mean).square() * kernel.precision * seen[:, None]
            known = dof + seen.sum(-1)[:, None, None]
            scale = scale * ((dof + gap.sum(-1, keepdim=True)) / known).sqrt()
            dof = known
        return Hidden(mean, scale, dof.expand(shape))

    def fill(self, x: Tensor, seen: Tensor, label: Tensor, g: torch.Generator) -> Tensor:
        """x (n, d) with its unseen slots drawn given the seen ones and the component."""
        kernel = self.kernel
        mean, precision = kernel.mean[label], kernel.precision[label]
        step = torch.randn(x.shape, generator=g, dtype=x.dtype, device=x.device)
        step = step / precision.sqrt()
        if kernel.dof is not None:
            dof = kernel.dof[label].expand(len(x), -1)
            distance = torch.zeros_like(dof)
            if self.shared:
                gap = (x - mean).square() * precision * seen
                distance, extra = gap.sum(-1, keepdim=True), seen.sum(-1, keepdim=True)
                chi = 2 * gamma_draws(0.5 * (dof + extra), g)
            else:
                chi = 2 * gamma_draws(0.5 * dof, g)
            step = step * ((dof + distance) / chi).sqrt()
        return torch.where(seen, x, mean + step)


def _diagonal_features(x: Tensor, seen: Tensor) -> Tensor:
    """(n, 3 d): squares, values and ones, 0 where unseen."""
    on = seen.to(x.dtype)
    x = x * on
    return torch.cat([x.square(), x, on], 1)


def student(quad: Tensor, log_det: Tensor, d: Tensor | int, dof: Tensor) -> Tensor:
    """Log density of Student's t; quad is the squared Mahalanobis distance."""
    half = 0.5 * (dof + d)
    const = torch.lgamma(half) - torch.lgamma(0.5 * dof) - 0.5 * d * (dof * math.pi).log()
    return const + 0.5 * log_det - half * torch.log1p(quad / dof)


def log_kernel(quad: Tensor, log_det: Tensor, d: Tensor | int, kernel: Kernel) -> Tensor:
    """Log density from squared Mahalanobis distances (n, k) and log det of the precision."""
    if kernel.dof is not None:
        return student(quad, log_det, d, kernel.dof)
    return 0.5 * (log_det - d * LOG_2PI) + kernel.log_const - 0.5 * quad


def log_det_of(root: Tensor) -> Tensor:
    """Log determinant of ``root root'``."""
    return 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def cholesky(matrix: Tensor) -> Tensor:
    """Cholesky with the least relative jitter that works: collinear columns are a real case.

    Each matrix of a batch gets its own, so that no row depends on others. Where none works
    the factor is NaN: a loss made from it is caught, one made from a broken factor is not.
    """
    root, info = torch.linalg.cholesky_ex(matrix)
    jitter = 1e-12
    while bool((info > 0).any()):
        left = (info > 0)[..., None, None]
        if jitter >= 1e-3:
            return torch.where(left, torch.nan, root)
        scale = matrix.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-300)
        bump = torch.diag_embed((jitter * scale)[..., None].expand(matrix.shape[:-1]))
        again, found = torch.linalg.cholesky_ex(matrix + bump)
        root = torch.where(left, again, root)
        info = torch.where(info > 0, found, info)
        jitter *= 10
    return root
