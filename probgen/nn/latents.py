"""What a latent row follows: guides q(z | features) and priors p(z).

Latents z are (..., n, L): any number of particles, n rows, L dimensions. A guide is a map of
standard normal noise, one-to-one for every row, so that a draw and its density cost one pass.
Priors may be evaluated anywhere and drawn from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from pyro.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TorchDistribution,
)
from torch import Tensor, nn
from torch.distributions import constraints

from probgen.nn.warps import Warp

__all__ = [
    "FlowPrior", "Guide", "GuideKind", "MixturePrior", "NormalPrior", "Posterior", "Prior",
    "PriorKind",
]  # fmt: skip

GuideKind: TypeAlias = Literal["diagonal", "full", "flow"]
PriorKind: TypeAlias = Literal["normal", "mixture", "flow"]
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
#: log scales of a guide stay within plus and minus this
WIDEST = 7.0
#: steps and hidden units of the flows of guides and priors
STEPS, HIDDEN, BINS = 2, 64, 8
#: draws from which moments of a flow are taken
POINTS = 4096


@dataclass
class Posterior:
    """q(z | x) of n rows: ``z = warp(mean + scale * noise)``.

    Attributes
    ----------
    mean : Tensor (n, L)
    log_scale : Tensor (n, L)
        Logarithm of the diagonal of the scale.
    lower : Tensor (n, L, L), optional
        What the scale matrix has below its diagonal; None where it has nothing there.
    warp : callable, optional
        Maps (N, L) one-to-one, for ``N / n`` particles of all rows, particle-major, and gives
        the log determinant (N,).
    back : callable, optional
        The inverse of that map.
    """

    mean: Tensor
    log_scale: Tensor
    lower: Tensor | None = None
    warp: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    back: Callable[[Tensor], Tensor] | None = None

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """z (..., n, L) from standard normal noise of that shape, and log q(z) (..., n).

        Differentiable in the parameters, along both.
        """
        z = torch.addcmul(self.mean, self.log_scale.exp(), noise)
        if self.lower is not None:
            z = z + (self.lower @ noise.unsqueeze(-1)).squeeze(-1)
        log_q = -(0.5 * noise.square() + self.log_scale).sum(-1) - HALF_LOG_TAU * noise.shape[-1]
        if self.warp is None:
            return z, log_q
        moved, log_det = self.warp(z.reshape(-1, z.shape[-1]))
        return moved.view_as(z), log_q - log_det.view_as(log_q)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) (..., n) anywhere; with a warp at the cost of inverting it."""
        log_det: Tensor | float = 0.0
        if self.warp is not None and self.back is not None:
            z = z.expand(torch.broadcast_shapes(z.shape, self.mean.shape))
            base = self.back(z.reshape(-1, z.shape[-1]))
            log_det = self.warp(base)[1].view(z.shape[:-1])
            z = base.view(z.shape)
        gap = z - self.mean
        if self.lower is None:
            unit = gap * (-self.log_scale).exp()
        else:
            scale = self.scale_tril()
            unit = torch.linalg.solve_triangular(scale, gap.unsqueeze(-1), upper=False)[..., 0]
        log_q = -(0.5 * unit.square() + self.log_scale).sum(-1) - HALF_LOG_TAU * z.shape[-1]
        return log_q - log_det

    def scale_tril(self) -> Tensor:
        """The scale matrix (n, L, L)."""
        diagonal = self.log_scale.exp().diag_embed()
        return diagonal if self.lower is None else diagonal + self.lower

    def still(self) -> Posterior:
        """The same without gradients of its parameters."""
        lower = None if self.lower is None else self.lower.detach()
        return replace(
            self, mean=self.mean.detach(), log_scale=self.log_scale.detach(), lower=lower
        )

    def divergence(self) -> Tensor:
        """KL from a standard normal: (n, L), by dimension of a diagonal scale, else (n, 1)."""
        cells = 0.5 * (self.mean.square() + (2 * self.log_scale).exp() - 1) - self.log_scale
        if self.lower is None:
            return cells
        return (cells + 0.5 * self.lower.square().sum(-1)).sum(-1, keepdim=True)

    def distribution(self) -> TorchDistribution:
        """As a distribution of Pyro, batch shape (n,), event shape (L,)."""
        if self.warp is not None:
            return _Warped(self)
        if self.lower is not None:
            return MultivariateNormal(self.mean, scale_tril=self.scale_tril())
        return Independent(Normal(self.mean, self.log_scale.exp()), 1)


class Guide(nn.Module):
    """q(z | h) by features h (n, features) of rows: a linear map to its parameters.

    "diagonal": independent normals. "full": a normal with any covariance. "flow": independent
    normals, bent by affine couplings that see the features too (Dinh et al. 2017); the image is
    z, so that a draw and its density cost one pass (Rezende and Mohamed 2015).
    """

    def __init__(self, kind: GuideKind, size: int, features: int) -> None:
        super().__init__()
        self.kind, self.size = kind, size
        full = kind == "full" and size > 1
        self.below = size * (size - 1) // 2 if full else 0
        self.line = nn.Linear(features, 2 * size + self.below)
        nn.init.normal_(self.line.weight, std=1 / math.sqrt(max(1, features)))
        nn.init.zeros_(self.line.bias)
        with torch.no_grad():
            self.line.weight[size:] *= 0.1
        warped = kind == "flow" and size > 1
        self.warp = (
            Warp("realnvp", size, features, 2 * STEPS, (HIDDEN, HIDDEN)) if warped else None
        )

    @torch.no_grad()
    def start(self, slope: Tensor, level: Tensor) -> None:
        """Means and log scales as straight lines in the last of the features.

        Slopes (direct, 2 L) and levels (2 L,); what the other features say starts small.
        """
        direct = len(slope)
        self.line.weight.mul_(0.1)
        self.line.weight[:, self.line.in_features - direct :] = 0.0
        self.line.weight[: 2 * self.size, self.line.in_features - direct :] = slope.T.to(
            self.line.weight
        )
        self.line.bias[: 2 * self.size] = level.to(self.line.bias)

    def forward(self, h: Tensor) -> Posterior:
        """The distribution of the latents of rows with features h (n, features)."""
        n, size = len(h), self.size
        out = self.line(h)
        mean, log_scale = out[:, :size], out[:, size : 2 * size]
        found = Posterior(mean, WIDEST * torch.tanh(log_scale / WIDEST))
        if self.below:
            rows, columns = torch.tril_indices(size, size, -1, device=h.device)
            found.lower = h.new_zeros(n, size, size).index_put(
                (torch.arange(n, device=h.device)[:, None], rows, columns), out[:, 2 * size :]
            )
        if self.warp is not None:
            found.warp, found.back = self._bent(self.warp, h)
        return found

    @staticmethod
    def _bent(
        warp: Warp, h: Tensor
    ) -> tuple[Callable[[Tensor], tuple[Tensor, Tensor]], Callable[[Tensor], Tensor]]:
        """The warp of rows with features h, and its inverse."""
        context = h.T

        def about(z: Tensor) -> Tensor:
            times = len(z) // max(1, len(h))
            return context if times == 1 else context.repeat(1, times)

        def bend(z: Tensor) -> tuple[Tensor, Tensor]:
            moved, log_det = warp(z.T, about(z))
            return moved.T, log_det

        def unbend(z: Tensor) -> Tensor:
            return warp.back(z.T, about(z)).T

        return bend, unbend


class _Warped(TorchDistribution):
    """A warped `Posterior` as a distribution; remembers the density of its own last draw."""

    arg_constraints: dict = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, own: Posterior) -> None:
        self.own = own
        self._last: tuple[Tensor, Tensor] | None = None
        super().__init__(own.mean.shape[:1], own.mean.shape[1:], validate_args=False)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        noise = torch.randn(
            sample_shape + self.own.mean.shape,
            dtype=self.own.mean.dtype,
            device=self.own.mean.device,
        )
        return self.from_noise(noise)

    def from_noise(self, noise: Tensor) -> Tensor:
        """The draw that standard normal noise is mapped to."""
        self._last = self.own.draw(noise.to(self.own.mean.dtype))
        return self._last[0]

    def log_prob(self, value: Tensor) -> Tensor:
        if self._last is not None and self._last[0] is value:
            return self._last[1]
        return self.own.log_prob(value)


# --- priors ---------------------------------------------------------------------------------


class NormalPrior(nn.Module):
    """Independent standard normals."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) (..., n)."""
        return -0.5 * z.square().sum(-1) - HALF_LOG_TAU * self.size

    def distribution(self, n: int, like: Tensor) -> TorchDistribution:
        """As a distribution of Pyro, batch shape (n,), event shape (L,)."""
        zero = torch.zeros(n, self.size, dtype=like.dtype, device=like.device)
        return Independent(Normal(zero, torch.ones_like(zero)), 1)


class MixturePrior(nn.Module):
    """The mean of the guide over k learned pseudo-rows (Tomczak and Welling 2018, VampPrior).

    Pseudo-rows are features of the encoder's first layer; their weights are learned too.
    """

    def __init__(self, size: int, components: int, features: int) -> None:
        super().__init__()
        self.size = size
        self.rows = nn.Parameter(torch.randn(components, features, dtype=torch.float64))
        self.logits = nn.Parameter(torch.zeros(components, dtype=torch.float64))
        #: encoder and guide of the owner, in a list: they are no modules of this one
        self.encoded: list[nn.Module] = []

    def parts(self) -> Posterior:
        """The components, without what bends them."""
        encoder, guide = self.encoded
        found: Posterior = guide(encoder(self.rows, None))
        return replace(found, warp=None)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) (..., n). Cost: k densities a row."""
        each = self.parts().log_prob(z.unsqueeze(-2))
        return (each + self.logits.log_softmax(0)).logsumexp(-1)

    def distribution(self, n: int, like: Tensor) -> TorchDistribution:
        """As a distribution of Pyro, batch shape (n,), event shape (L,)."""
        weights = Categorical(logits=self.logits.expand(n, -1))
        return MixtureSameFamily(weights, self.parts().distribution().expand((n, len(self.rows))))


class FlowPrior(nn.Module):
    """Standard normals seen through a neural spline flow (Chen et al. 2017)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.warp = Warp("spline", size, 0, STEPS, (HIDDEN, HIDDEN), BINS)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) (..., n)."""
        u, log_det = self.warp(z.reshape(-1, self.size).T)
        value = log_det - 0.5 * u.square().sum(0) - HALF_LOG_TAU * self.size
        return value.reshape(z.shape[:-1])

    def distribution(self, n: int, like: Tensor) -> TorchDistribution:
        """As a distribution of Pyro, batch shape (n,), event shape (L,)."""
        return _Prior(self, n, like)

    @torch.no_grad()
    def points(self, count: int) -> Tensor:
        """Draws (count, L) that cover the prior evenly, the same at each call."""
        like = next(self.parameters())
        engine = torch.quasirandom.SobolEngine(self.size, scramble=True, seed=0)
        u = engine.draw(count, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
        return self.warp.back(torch.special.ndtri(u).to(like).T).T


class _Prior(TorchDistribution):
    """A `FlowPrior` as a distribution."""

    arg_constraints: dict = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, own: FlowPrior, n: int, like: Tensor) -> None:
        self.own, self.like = own, like
        super().__init__(torch.Size([n]), torch.Size([own.size]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.own.log_prob(value)

    @property
    def mean(self) -> Tensor:
        """(n, L), from `POINTS` draws of the prior, as the variance."""
        return self.own.points(POINTS).mean(0).expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        spread = self.own.points(POINTS).var(0, correction=0)
        return spread.expand(self.batch_shape + self.event_shape)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        shape = sample_shape + self.batch_shape + self.event_shape
        return self.from_noise(torch.randn(shape, dtype=self.like.dtype, device=self.like.device))

    def from_noise(self, noise: Tensor) -> Tensor:
        """The draw that standard normal noise is mapped to."""
        flat = noise.to(self.like.dtype).reshape(-1, self.own.size)
        with torch.no_grad():
            found = self.own.warp.back(flat.T)
        return found.T.reshape(noise.shape)


Prior: TypeAlias = NormalPrior | MixturePrior | FlowPrior
