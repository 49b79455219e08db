"""Where a flow ends: normal, heavy-tailed and mixture bases with learned parameters.

A base is a density over d entries, of which some may be absent: what it says is then a normalised
density over those that are there. Entries are the first dimension, rows the last.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from probgen.likelihoods import Components
from probgen.normals import cholesky

__all__ = ["Base", "BaseKind", "MixtureBase", "NormalBase", "StudentBase"]

BaseKind: TypeAlias = Literal["normal", "student", "mixture"]
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
#: degrees of freedom that a heavy-tailed base starts with, and the fewest it can learn
START, LEAST = 10.0, 1.0
#: degrees of freedom from which on a t is started as a normal
MOST = 10_000.0
#: log weight of a component that there is nothing for
NEVER = -20.0


class NormalBase(nn.Module):
    """Independent normals; `loc` (d,) and `log_scale` (d,) are learned."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(size))
        self.log_scale = nn.Parameter(torch.zeros(size))

    def log_prob(self, z: Tensor, present: Tensor | None, gate: Tensor | None) -> Tensor:
        """Log density (n,) of z (d, n); absent entries hold 0 and count nothing."""
        unit = (z - self.loc[:, None]) * (-self.log_scale)[:, None].exp()
        cells = self.unit_log_prob(unit) - self.log_scale[:, None]
        return (cells if present is None else torch.where(present, cells, 0.0)).sum(0)

    def unit_log_prob(self, unit: Tensor) -> Tensor:
        """Log density of each entry, in units of its scale about its centre."""
        return -0.5 * unit * unit - HALF_LOG_TAU

    def draw(self, n: int, present: Tensor | None, gate: Tensor | None) -> Tensor:
        """z (d, n) from torch's global generator; 0 where absent."""
        z = self.loc[:, None] + self.log_scale.exp()[:, None] * self.unit_draw(n)
        return z if present is None else torch.where(present, z, 0.0)

    def unit_draw(self, n: int) -> Tensor:
        """Noise (d, n) of centre 0 and scale 1."""
        return torch.randn(len(self.loc), n, dtype=self.loc.dtype, device=self.loc.device)


class StudentBase(NormalBase):
    """Independent Student's t, each with degrees of freedom of its own, learned, above 1.

    Tails fall as a power: a row far outside the training range is improbable, not impossible.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.log_dof = nn.Parameter(torch.full((size,), math.log(START - LEAST)))

    def dof(self) -> Tensor:
        """Degrees of freedom (d,)."""
        return LEAST + self.log_dof.exp()

    def unit_log_prob(self, unit: Tensor) -> Tensor:
        """Log density of each entry, in units of its scale about its centre."""
        dof = self.dof()
        half = 0.5 * (dof + 1)
        constant = torch.lgamma(half) - torch.lgamma(0.5 * dof) - 0.5 * (math.pi * dof).log()
        bent = (unit * unit / dof[:, None]).log1p()
        return constant[:, None] - half[:, None] * bent

    def unit_draw(self, n: int) -> Tensor:
        """Noise (d, n) of centre 0 and scale 1."""
        half = (0.5 * self.dof()).detach()[:, None].expand(-1, n)
        gamma = torch._standard_gamma(half).clamp_min(1e-300)
        return super().unit_draw(n) * (half / gamma).sqrt()


class MixtureBase(nn.Module):
    """k Student's t with full scale matrices; all their parameters are learned.

    Component c is the density of u = W_c (z - mean_c), u spherical, with W_c lower triangular
    and the positive diagonal `log_diagonal`. Where entries are absent they are put at
    the mean, and what is left of W_c is still lower triangular: each entry goes by those before
    it that are there. With many degrees of freedom a component is a normal.

    Attributes
    ----------
    logits : Parameter (k,)
    mean : Parameter (k, d)
    lower : Parameter (k, d, d)
        Read below the diagonal only.
    log_diagonal : Parameter (k, d)
    log_dof : Parameter (k,)
    """

    mask: Tensor

    def __init__(self, size: int, components: int) -> None:
        super().__init__()
        k = components
        self.logits = nn.Parameter(torch.zeros(k))
        self.mean = nn.Parameter(torch.zeros(k, size))
        self.lower = nn.Parameter(torch.zeros(k, size, size))
        self.log_diagonal = nn.Parameter(torch.zeros(k, size))
        self.log_dof = nn.Parameter(torch.full((k,), math.log(START - LEAST)))
        mask = torch.ones(size, size).tril(-1)
        self.register_buffer("mask", mask, persistent=False)

    @torch.no_grad()
    def set(self, components: Components) -> None:
        """Start as a mixture of k components at most; the rest keep next to no weight."""
        kernel = components.kernel
        assert kernel is not None and kernel.dof is not None  # t of some real slots
        k = len(components.log_weights)
        root = cholesky(kernel.precision.flip(-1, -2)).mT.flip(-1, -2)  # root' root = precision
        self.logits.fill_(NEVER)
        self.logits[:k] = components.log_weights.to(self.logits)
        self.mean[:k] = kernel.mean.to(self.mean)
        self.lower[:k] = root.tril(-1).to(self.lower)
        self.log_diagonal[:k] = root.diagonal(dim1=-2, dim2=-1).log().to(self.mean)
        self.log_dof[:k] = (kernel.dof.clamp(LEAST + 0.5, MOST) - LEAST).log().to(self.mean)

    def factor(self) -> Tensor:
        """W (k, d, d)."""
        return self.lower * self.mask + torch.diag_embed(self.log_diagonal.exp())

    def log_parts(self, z: Tensor, present: Tensor | None, gate: Tensor | None) -> Tensor:
        """Log weight plus log density (k, n) of each component."""
        k, d = self.mean.shape
        whiten = self.factor()
        image = (whiten.flatten(0, 1) @ z).unflatten(0, (k, d))
        logits = self.logits[:, None] if gate is None else self.logits[:, None] + gate
        weight = logits.log_softmax(0)
        if present is None:
            image = image - whiten @ self.mean[..., None]
            log_det = self.log_diagonal.sum(1)[:, None]
            return weight + log_det + self._radial((image * image).sum(1), d)
        here = present.to(z.dtype)
        centre = (whiten * self.mean[:, None, :]).flatten(0, 1) @ here
        image = (image - centre.unflatten(0, (k, d))) * here
        log_det = self.log_diagonal @ here
        return weight + log_det + self._radial((image * image).sum(1), here.sum(0))

    def _radial(self, quad: Tensor, width: Tensor | int) -> Tensor:
        """Log density (k, n) at squared distances; what hardly differs is taken in float64."""
        dof = LEAST + self.log_dof.double().exp()[:, None]
        half = 0.5 * (dof + width)
        constant = torch.lgamma(half) - torch.lgamma(0.5 * dof)
        constant = constant - 0.5 * width * (dof * math.pi).log()
        bent = (quad / dof.to(quad.dtype)).log1p()
        return constant.to(quad.dtype) - half.to(quad.dtype) * bent

    def log_prob(self, z: Tensor, present: Tensor | None, gate: Tensor | None) -> Tensor:
        """Log density (n,) of z (d, n); `gate` (k, n) is added to the log weights of a row."""
        return self.log_parts(z, present, gate).logsumexp(0)

    def draw(self, n: int, present: Tensor | None, gate: Tensor | None) -> Tensor:
        """z (d, n) from torch's global generator; 0 where absent."""
        logits = self.logits.expand(n, -1) if gate is None else self.logits + gate.T
        label = torch.multinomial(logits.softmax(-1), 1)[:, 0]
        d, dtype, device = self.mean.shape[1], self.mean.dtype, self.mean.device
        half = 0.5 * (LEAST + self.log_dof.exp())[label]
        stretch = (half / torch._standard_gamma(half).clamp_min(1e-300)).sqrt()
        noise = torch.randn(d, n, dtype=dtype, device=device) * stretch
        z = torch.zeros(d, n, dtype=dtype, device=device)
        for c, whiten in enumerate(self.factor()):
            rows = (label == c).nonzero()[:, 0]
            if len(rows):
                here = None if present is None else present[:, rows]
                z[:, rows] = _solved(whiten, noise[:, rows], here, self.mean[c])
        return z


def _solved(whiten: Tensor, noise: Tensor, present: Tensor | None, mean: Tensor) -> Tensor:
    """W (z - mean) = noise on the entries that are there, entry after entry."""
    if present is None:
        return mean[:, None] + torch.linalg.solve_triangular(whiten, noise, upper=False)
    gap = torch.zeros_like(noise)
    for i in range(len(noise)):
        own = (noise[i] - whiten[i, :i] @ gap[:i]) / whiten[i, i]
        gap[i] = torch.where(present[i], own, 0.0)
    return torch.where(present, gap + mean[:, None], 0.0)


Base: TypeAlias = NormalBase | MixtureBase
