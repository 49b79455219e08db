"""Guides over the global latents that a user's own guide does not cover.

Each global has one guide site with a density of its own, so that log q is the sum over
sites. Values are drawn in the unconstrained space of the support, measured in the spread of
the prior there: a step of the optimiser then means the same for a coefficient of 0.001 and
for one of 10,000.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import biject_to
from torch.distributions.transforms import ComposeTransform, ReshapeTransform

from probgen.queries.contraction import STILL

__all__ = ["GlobalGuide", "GuideKind"]

GuideKind = Literal["normal", "multivariate"]
#: standard deviation of the guide at first, in those of the prior
NARROW = 0.1


class GlobalGuide(nn.Module):
    """A normal guide over the globals in unconstrained space, mapped to their supports.

    Parameters
    ----------
    draws : dict
        Draws from the prior, ``(S, *shape)``, of each global, by site name.
    supports : dict
        Their supports.
    kind : {"normal", "multivariate"}
        Independent normals, or one normal with a full covariance, factorised over the
        sites in order.
    """

    def __init__(
        self, draws: dict[str, Tensor], supports: dict[str, Any], kind: GuideKind
    ) -> None:
        super().__init__()
        self.names, self.kind = list(draws), kind
        self.transforms = {name: biject_to(support) for name, support in supports.items()}
        self.shapes, self.sizes = {}, []
        centres, spreads = [], []
        for name, value in draws.items():
            free = self.transforms[name].inv(value).double()
            self.shapes[name] = free.shape[1:]
            free = free.reshape(len(free), -1)
            self.sizes.append(free.shape[1])
            low, centre, high = free.quantile(free.new_tensor([0.16, 0.5, 0.84]), 0)
            centres.append(centre)
            spreads.append(((high - low) / 2).clamp(1e-12, 1e12))
        size = sum(self.sizes)
        self.register_buffer("centre", torch.cat(centres))
        self.register_buffer("spread", torch.cat(spreads))
        self.loc = nn.Parameter(torch.zeros(size, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.full((size,), math.log(NARROW), dtype=torch.float64))
        if kind == "multivariate":
            self.lower = nn.Parameter(torch.zeros(size, size, dtype=torch.float64))

    centre: Tensor
    spread: Tensor

    def parts(self) -> list[slice]:
        """The entries of each site in the vector of all."""
        ends = torch.tensor(self.sizes).cumsum(0).tolist()
        return [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]

    def recentre(self) -> None:
        """Measure from the present location, in the present spread; the guide stays the same."""
        with torch.no_grad():
            scale = self.log_scale.exp()
            self.centre.add_(self.spread * self.loc)
            if self.kind == "multivariate":
                # u = centre + spread * (loc + (diag(scale) + lower) eps): rows in units of scale
                self.lower.div_(scale[:, None])
            self.spread.mul_(scale)
            self.loc.zero_()
            self.log_scale.zero_()

    def at(self, eps: Tensor) -> dict[str, Tensor]:
        """The globals at standard noise eps (size,) of independent normals, by site name."""
        free = self.centre + self.spread * (self.loc + self.log_scale.exp() * eps)
        return {
            name: self.transforms[name](free[part].reshape(self.shapes[name]))
            for name, part in zip(self.names, self.parts(), strict=True)
        }

    def forward(self) -> dict[str, Tensor]:
        """Sample every global; the values by site name."""
        found: dict[str, Tensor] = {}
        noise: list[Tensor] = []
        scale = self.log_scale.exp()
        for name, part in zip(self.names, self.parts(), strict=True):
            loc = self.centre[part] + self.spread[part] * self.loc[part]
            if self.kind == "multivariate":
                value, eps = self._joint(name, part, loc, scale, noise)
                noise.append(eps)
            else:
                sd = self.spread[part] * scale[part]
                still = self._mapped(name, dist.Normal(loc.detach(), sd.detach()).to_event(1))
                fn = self._mapped(name, dist.Normal(loc, sd).to_event(1))
                value = pyro.sample(name, fn, infer={STILL: still})
            found[name] = value
        return found

    def _joint(
        self, name: str, part: slice, loc: Tensor, scale: Tensor, noise: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """A site given the noise of those before it, and its own noise."""
        spread = self.spread[part, None]
        root = spread * (torch.diag(scale[part]) + self.lower[part, part].tril(-1))
        before = spread * self.lower[part, : part.start]
        past = torch.cat(noise) if noise else loc.new_zeros(0)
        centre = loc + before @ past
        # past noise is a function of past values: the still guide moves with these only
        rest = loc.detach() + before.detach() @ past
        still = dist.MultivariateNormal(rest, scale_tril=root.detach())
        fn = dist.MultivariateNormal(centre, scale_tril=root)
        value = pyro.sample(name, self._mapped(name, fn), infer={STILL: self._mapped(name, still)})
        free = self.transforms[name].inv(value).reshape(-1).to(loc.dtype)
        gap = (free - rest)[:, None]
        return value, torch.linalg.solve_triangular(root.detach(), gap, upper=False)[:, 0]

    def _mapped(self, name: str, fn: Any) -> Any:
        """A normal vector as the distribution of a site, in the shape and support of it."""
        steps = [ReshapeTransform(fn.event_shape, self.shapes[name])]
        own = self.transforms[name]
        if not (isinstance(own, ComposeTransform) and not own.parts):  # the identity
            steps.append(own)
        return dist.TransformedDistribution(fn, steps)
