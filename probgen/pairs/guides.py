"""Guides over the global latents that a user's own guide does not cover.

Each global has one guide site with a density of its own, so that log q is the sum over
sites. Values are drawn in the unconstrained space of the support, measured in the spread of
the prior there: a step of the optimiser then means the same for a coefficient of 0.001 and
for one of 10,000.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any, Literal, get_args

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import biject_to
from torch.distributions.transforms import ComposeTransform, ReshapeTransform

from probgen.pairs.flow import Bend, Joint
from probgen.queries.contraction import STILL

__all__ = ["GUIDES", "GlobalGuide", "GuideKind", "chosen"]

#: guides of the globals by name; "auto" goes by their number
GuideKind = Literal["auto", "mean_field", "multivariate", "flow"]
GUIDES: tuple[str, ...] = get_args(GuideKind)
#: globals up to which "auto" takes the multivariate guide: there it costs 1.2 to 1.5 times the
#: mean field and finds the correlations (benchmarks/guides.py --only cost); its k-hat of 500
#: draws fails from about 20 on
FEW = 50
#: standard deviation of the guide at first, in those of the prior
NARROW = 0.1


def chosen(kind: GuideKind, size: int) -> GuideKind:
    """The guide that "auto" stands for, of so many globals; any other name itself."""
    if kind != "auto":
        return kind
    return "multivariate" if size <= FEW else "mean_field"


class GlobalGuide(nn.Module):
    """A guide over the globals in unconstrained space, mapped to their supports.

    Parameters
    ----------
    draws : dict
        Draws from the prior, ``(S, *shape)``, of each global, by site name.
    supports : dict
        Their supports.
    kind : {"auto", "mean_field", "multivariate", "flow"}
        Independent normals; one normal with a full covariance, factorised over the sites in
        order; or that normal bent by a flow (see `probgen.pairs.flow`).
    """

    def __init__(
        self, draws: dict[str, Tensor], supports: dict[str, Any], kind: GuideKind
    ) -> None:
        super().__init__()
        self.names = list(draws)
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
        self.kind = kind = chosen(kind, size)
        self.register_buffer("centre", torch.cat(centres))
        self.register_buffer("spread", torch.cat(spreads))
        self.loc = nn.Parameter(torch.zeros(size, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.full((size,), math.log(NARROW), dtype=torch.float64))
        if kind != "mean_field":
            self.lower = nn.Parameter(torch.zeros(size, size, dtype=torch.float64))
        if kind == "flow":
            self.bend = Bend(size)
        #: whether the flow, which starts as the identity, is left out: it costs time
        self.straight = False

    centre: Tensor
    spread: Tensor

    def parts(self) -> list[slice]:
        """The entries of each site in the vector of all."""
        ends = accumulate(self.sizes)
        return [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]

    def recentre(self) -> None:
        """Measure from the present location, in the present spread; the guide stays the same."""
        with torch.no_grad():
            scale = self.log_scale.exp()
            self.centre.add_(self.spread * self.loc)
            if self.kind != "mean_field":
                # u = centre + spread * (loc + (diag(scale) + lower) eps): rows in units of scale
                self.lower.div_(scale[:, None])
            self.spread.mul_(scale)
            self.loc.zero_()
            self.log_scale.zero_()

    def at(self, eps: Tensor) -> dict[str, Tensor]:
        """The globals at standard noise eps (size,) of independent normals, by site name."""
        return self.sites(self.centre + self.spread * (self.loc + self.log_scale.exp() * eps))[0]

    def affine(self) -> tuple[Tensor, Tensor]:
        """Location (d,) and lower triangular root (d, d) of a multivariate guide, or a flow's."""
        root = torch.diag(self.log_scale.exp()) + self.lower.tril(-1)
        return self.centre + self.spread * self.loc, self.spread[:, None] * root

    def sites(self, free: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The globals at an unconstrained vector (d,), and the log volume of the map."""
        found, stretch = {}, free.new_zeros(())
        for name, part in zip(self.names, self.parts(), strict=True):
            own = free[part].reshape(self.shapes[name])
            found[name] = self.transforms[name](own)
            stretch = stretch + self.transforms[name].log_abs_det_jacobian(own, found[name]).sum()
        return found, stretch

    def forward(self) -> dict[str, Tensor]:
        """Sample every global; the values by site name."""
        if self.kind == "flow" and not self.straight:
            return self._bent()
        found: dict[str, Tensor] = {}
        noise: list[Tensor] = []
        scale = self.log_scale.exp()
        for name, part in zip(self.names, self.parts(), strict=True):
            loc = self.centre[part] + self.spread[part] * self.loc[part]
            if self.kind != "mean_field":
                value, eps = self._joint(name, part, loc, scale, noise)
                noise.append(eps)
            else:
                sd = self.spread[part] * scale[part]
                still = self._mapped(name, dist.Normal(loc.detach(), sd.detach()).to_event(1))
                fn = self._mapped(name, dist.Normal(loc, sd).to_event(1))
                value = pyro.sample(name, fn, infer={STILL: still})
            found[name] = value
        return found

    def _bent(self) -> dict[str, Tensor]:
        """The sites of a flow: shares of one joint draw."""
        joint = Joint(self.bend, *self.affine())
        found: dict[str, Tensor] = {}
        for name, part in zip(self.names, self.parts(), strict=True):
            share = joint.site(part, self.transforms[name], self.shapes[name])
            found[name] = pyro.sample(name, share, infer={STILL: share.still})
            share.follow(found[name])
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
