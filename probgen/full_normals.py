"""k normals with full or tied covariances; rows are worked out by pattern of holes.

Hidden cells are integrated out: a row's seen slots have the marginal normal, and in
training its hidden ones enter by their conditional mean and covariance (Ghahramani and
Jordan 1994, Supervised learning from incomplete data via an EM approach, NIPS 6).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from probgen.leaves import gamma_draws
from probgen.normals import LOG_2PI, Kernel, Moments, Normals, student

__all__ = ["FullNormals", "pattern_groups"]


def pattern_groups(seen: Tensor) -> Iterator[tuple[Tensor | slice, Tensor]]:
    """Rows (indices, or all of them) that share a pattern of seen slots, and the pattern (d,)."""
    n, d = seen.shape
    if bool(seen.all()):
        yield slice(0, n), torch.ones(d, dtype=torch.bool, device=seen.device)
        return
    if d <= 62:
        powers = 2 ** torch.arange(d, device=seen.device)
        code = (seen * powers).sum(-1)
        values, back, sizes = code.unique(return_inverse=True, return_counts=True)
        patterns = (values[:, None] & powers) > 0
    else:
        patterns, back, sizes = seen.unique(dim=0, return_inverse=True, return_counts=True)
    order = back.argsort(stable=True)
    yield from zip(order.split(sizes.tolist()), patterns, strict=True)


class Wishart(dist.Wishart):
    """Pyro's Wishart without its test for singular draws.

    That test asks for symmetry to 1e-6 whatever the size of the entries, takes large sound
    matrices for singular ones, warns, and draws them again.
    """

    def rsample(
        self,
        sample_shape: torch.Size = torch.Size(),
        max_try_correction: int | None = None,  # noqa: B008
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
        self, k: int, d: int, shared: bool, mean_strength: float, dof: float, spread: float
    ) -> None:
        super().__init__(k, d, shared, mean_strength)
        self.dof = dof + d - 1  # dof counts from the least that is proper
        self.spread = spread * (dof - 2 if dof > 2 else 1.0)
        self._hold(self.zeros(torch.device("cpu")))

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
        return strength, mean, dof, _cholesky(inverse)

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

    def groups(self, seen: Tensor) -> Iterator[tuple[Tensor | slice, Tensor]]:
        """Rows that are worked out together, and their pattern."""
        return pattern_groups(seen)

    def prepare(self, kernel: Kernel, pattern: Tensor, exact: bool = True) -> _Split:
        """What is the same for all rows of a pattern. `exact` whitens; else quadratic features.

        Features are faster and lose digits where a component is much smaller than the
        table, so they serve training and never scoring.
        """
        split = _Split.of(kernel, pattern)
        if split.complete and kernel.dof is None and not exact:
            split.weights = _quadratic_weights(kernel)
        return split

    def log_rows(self, x: Tensor, seen: Tensor, cond: _Split) -> Tensor:
        """Log density (n, k) of the seen slots of rows x (n, d) of one pattern."""
        if cond.weights is not None:
            cond.features = quadratic_features(x)
            return (cond.weights @ cond.features).T
        return _log_density(cond.quad(x), cond.log_det, cond.d_seen, cond.kernel)

    def accumulate(self, x: Tensor, seen: Tensor, r: Tensor, cond: _Split) -> Moments:
        """Expected statistics of rows that share a pattern, with responsibilities r (n, k)."""
        k, d = self.k, self.d
        if cond.complete:
            features = quadratic_features(x) if cond.features is None else cond.features
            sums = (features @ r).T
            return _unpack(sums, d)
        filled = cond.fill(x)  # (k, n, d)
        weighted = filled * r.T[:, :, None]
        second = weighted.mT @ filled
        count = r.sum(0)
        second = second + count[:, None, None] * cond.hidden_covariance(d)
        return Moments(count, weighted.sum(1).reshape(k, d), second)

    def gather_hard(self, x: Tensor, seen: Tensor, r: Tensor) -> Moments:
        """Statistics of rows without holes, with responsibilities r (n, k)."""
        return _unpack((quadratic_features(x) @ r).T, self.d)

    def fill(
        self, x: Tensor, seen: Tensor, label: Tensor, cond: _Split, g: torch.Generator
    ) -> Tensor:
        """x (n, d) with its unseen slots drawn given the seen ones and the component."""
        if cond.complete:
            return x
        out = x.clone()
        hidden = (~cond.pattern).nonzero()[:, 0]
        for k in label.unique().tolist():
            rows = label == k
            out[rows.nonzero(), hidden] = cond.draw_hidden(x[rows], k, g)
        return out

    def expect(self, x: Tensor, seen: Tensor, cond: _Split) -> Tensor:
        """(k, n, d): x with its unseen slots at their mean given the seen ones."""
        return x.expand(self.k, -1, -1) if cond.complete else cond.fill(x)


@dataclass
class _Split:
    """k kernels split into the seen and the hidden slots of one pattern."""

    complete: bool
    d_seen: int
    mean_seen: Tensor
    mean_hidden: Tensor
    root: Tensor  # (k, o, o) lower: precision of the seen slots = root root'
    log_det: Tensor  # (k,) log determinant of the precision of the seen slots
    regression: Tensor  # (k, h, o)
    covariance: Tensor  # (k, h, h) of hidden given seen
    pattern: Tensor
    kernel: Kernel
    weights: Tensor | None = None  # (k, features) where quadratic features are used
    features: Tensor | None = None  # of the last rows scored, for `accumulate`
    _cut: list[tuple[int, int, Tensor]] | None = None

    @classmethod
    def of(cls, kernel: Kernel, pattern: Tensor) -> _Split:
        seen, hidden = pattern.nonzero()[:, 0], (~pattern).nonzero()[:, 0]
        precision, mean = kernel.precision, kernel.mean
        k = precision.shape[0]
        empty = precision.new_zeros(k, 0, 0)
        if not len(hidden):
            root = torch.linalg.cholesky(precision)
            return cls(
                True, len(seen), mean, mean[:, :0], root, _log_det(root), empty, empty, pattern,
                kernel,
            )  # fmt: skip
        # marginal precision: P_oo - P_oh P_hh^-1 P_ho; hidden given seen has precision P_hh
        hh = torch.linalg.cholesky(precision[:, hidden][:, :, hidden])
        covariance = torch.cholesky_inverse(hh)
        if not len(seen):
            return cls(
                False, 0, mean[:, :0], mean, empty, precision.new_zeros(k),
                precision.new_zeros(k, len(hidden), 0), covariance, pattern, kernel,
            )  # fmt: skip
        ho = precision[:, hidden][:, :, seen]
        regression = -covariance @ ho
        oo = precision[:, seen][:, :, seen] + ho.mT @ regression
        root = _cholesky(0.5 * (oo + oo.mT))
        return cls(
            False, len(seen), mean[:, seen], mean[:, hidden], root, _log_det(root),
            regression, covariance, pattern, kernel,
        )  # fmt: skip

    def quad(self, x: Tensor) -> Tensor:
        """Squared Mahalanobis distance (n, k) of the seen slots."""
        k, o = self.mean_seen.shape
        # a row of ones carries the shift: cheaper than adding it to every product
        values = x.new_ones(o + 1, len(x))
        values[:o] = (x if self.complete else x[:, self.pattern]).T
        total = x.new_zeros(k, len(x))
        for first, width, weight in self._blocks():
            white = weight @ values[first:]
            total += white.square_().view(k, width, -1).sum(1)
        return total.T

    def _blocks(self) -> list[tuple[int, int, Tensor]]:
        """(first row, width, weights (k * width, o + 1 - first)) of the whitening.

        The root is lower triangular, so a block of its columns needs only the rows from its
        first on: four blocks save three eighths of the multiplications. The last column
        holds the shift.
        """
        if self._cut is None:
            o = self.d_seen
            step = max(4, -(-o // 4))
            self._cut = []
            for first in range(0, o, step):
                width = min(step, o - first)
                part = self.root[:, first:, first : first + width]
                shift = torch.einsum("kij,ki->kj", part, self.mean_seen[:, first:])
                weight = torch.cat([part.mT, -shift[..., None]], -1)
                self._cut.append((first, width, weight.reshape(-1, o - first + 1).contiguous()))
        return self._cut

    def centred_hidden(self, x: Tensor) -> Tensor:
        """E[hidden | seen] (k, n, h)."""
        gap = x[:, self.pattern] - self.mean_seen[:, None]
        return self.mean_hidden[:, None] + gap @ self.regression.mT

    def fill(self, x: Tensor) -> Tensor:
        """x repeated for each component with hidden slots at their expectation (k, n, d)."""
        out = x.expand(self.mean_seen.shape[0], -1, -1).clone()
        out[:, :, ~self.pattern] = self.centred_hidden(x)
        return out

    def hidden_covariance(self, d: int) -> Tensor:
        """Covariance of hidden given seen inside a (k, d, d) matrix of zeros."""
        out = self.covariance.new_zeros(self.covariance.shape[0], d, d)
        hidden = (~self.pattern).nonzero()[:, 0]
        out[:, hidden[:, None], hidden] = self.covariance
        return out

    def draw_hidden(self, x: Tensor, k: int, g: torch.Generator) -> Tensor:
        """Hidden slots (n, h) drawn given the seen ones for rows of component k."""
        gap = x[:, self.pattern] - self.mean_seen[k]
        mean = self.mean_hidden[k] + gap @ self.regression[k].T
        root = torch.linalg.cholesky(self.covariance[k])
        eps = torch.randn(mean.shape, generator=g, dtype=mean.dtype, device=mean.device)
        step = eps @ root.T
        if self.kernel.dof is not None:  # a t given part of itself is a t with more degrees
            dof = self.kernel.dof[k]
            distance = (gap @ self.root[k]).square().sum(-1)
            chi = 2 * gamma_draws((0.5 * (dof + self.d_seen)).expand(len(x)), g)
            step = step * ((dof + distance) / chi).sqrt()[:, None]
        return mean + step


def quadratic_features(x: Tensor) -> Tensor:
    """(1 + d + d (d + 1) / 2, n): one, the values, and their pairwise products.

    Features come first: each is then written, and read by the products, in one stretch.
    """
    n, d = x.shape
    out = x.new_empty(1 + d + d * (d + 1) // 2, n)
    out[0] = 1.0
    values = out[1 : 1 + d]
    values.copy_(x.T)
    row = 1 + d
    for i in range(d):
        torch.mul(values[i:], values[i], out=out[row : row + d - i])
        row += d - i
    return out


def _quadratic_weights(kernel: Kernel) -> Tensor:
    """Weights (k, 1 + d + d (d + 1) / 2) that turn quadratic features into log densities."""
    p, m = kernel.precision, kernel.mean
    d = m.shape[1]
    i, j = torch.triu_indices(d, d, device=m.device)
    linear = torch.einsum("kij,kj->ki", p, m)
    const = (
        kernel.log_const + 0.5 * _log_det(_cholesky(p)) - 0.5 * d * LOG_2PI
        - 0.5 * (linear * m).sum(-1)
    )  # fmt: skip
    products = p[:, i, j] * torch.where(i == j, -0.5, -1.0)
    return torch.cat([const[:, None], linear, products], 1)


def _unpack(sums: Tensor, d: int) -> Moments:
    """Moments from responsibilities' sums (k, 1 + d + d (d + 1) / 2) of quadratic features."""
    i, j = torch.triu_indices(d, d, device=sums.device)
    second = sums.new_zeros(len(sums), d, d)
    second[:, i, j] = sums[:, 1 + d :]
    second[:, j, i] = sums[:, 1 + d :]
    return Moments(sums[:, 0], sums[:, 1 : 1 + d], second)


def _log_density(quad: Tensor, log_det: Tensor, d_seen: int, kernel: Kernel) -> Tensor:
    if kernel.dof is not None:
        return student(quad, log_det, d_seen, kernel.dof)
    return quad.mul_(-0.5).add_(0.5 * log_det - 0.5 * d_seen * LOG_2PI + kernel.log_const)


def _digamma_sum(dof: Tensor, d: int) -> Tensor:
    """Multivariate digamma at dof / 2."""
    steps = torch.arange(d, device=dof.device)
    return torch.digamma(0.5 * (dof[..., None] - steps)).sum(-1)


def _log_det(root: Tensor) -> Tensor:
    return 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _cholesky(matrix: Tensor) -> Tensor:
    """Cholesky with the least relative jitter that works: collinear columns are a real case."""
    root, info = torch.linalg.cholesky_ex(matrix)
    jitter = 1e-12
    while bool((info > 0).any()) and jitter < 1e-3:
        scale = matrix.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-300)
        bump = torch.diag_embed((jitter * scale)[..., None].expand(matrix.shape[:-1]))
        root, info = torch.linalg.cholesky_ex(matrix + bump)
        jitter *= 10
    return root
