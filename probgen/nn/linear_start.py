"""Where an autoencoder starts: at factor analysis of the cells, seen through linear heads.

Numbers are taken on the scale of their head, the codes of categories as indicators. The factors
become latents: loadings set the straight lines of the decoder, a ridge regression of the
factors on the inputs of the guide sets its own. Hidden layers start small beside that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probgen.nn.code_heads import CategoryHead, LogisticHead
from probgen.nn.factors import Factors, ridge
from probgen.nn.heads import Heads
from probgen.nn.number_heads import MixtureHead

__all__ = ["LinearStart", "log_scale"]

#: pseudo-share of a code by which its logit is found from its probability
RARE = 0.02
#: logits move at most so far with a step of one standard deviation along all factors
STEEPEST = 2.0
#: a scale is not shrunk below this share at the start: within the soft bound of a stretch, e^-3
TIGHTEST = 0.06


@dataclass
class LinearStart:
    """Cells on linear scales.

    Attributes
    ----------
    y : Tensor (n, p)
        Standardised numbers and indicators, 0 where unseen.
    on : Tensor (n, p)
        Which of them are seen.
    weight : Tensor (n,)
    place : Tensor (p,) of int64
        The output of the heads that each moves.
    unit : Tensor (p,)
        How far it moves that output.
    stretch : Tensor (p,) of int64
        The output that scales its spread; -1 where there is none.
    reach : float
        The bound of that, as `MixtureHead.reach`.
    """

    y: Tensor
    on: Tensor
    weight: Tensor
    place: Tensor
    unit: Tensor
    stretch: Tensor
    reach: float = 3.0

    @classmethod
    @torch.no_grad()
    def of(cls, heads: Heads, x: Tensor, seen: Tensor, weight: Tensor) -> LinearStart:
        """From training rows x (n, m), on the scales that `heads` have been started with."""
        x, weight = x.double(), weight.double()
        parts, ons, places, units, stretches = [], [], [], [], []
        start, reach = 0, 3.0
        for head in heads.each():
            g, width = len(head.members), head.width
            cells, on = x[:, head.members], seen[:, head.members]
            block = start + width * torch.arange(g, device=x.device)
            none = torch.full_like(block, -1)
            if isinstance(head, MixtureHead):
                t = (head.standard(cells) - head.centre) / head.scale
                parts.append(t)
                ons.append(on)
                places.append(block + head.move)
                stretches.append(block + head.move + 1)
                reach = head.reach
                units.append(torch.ones_like(head.centre))
            elif isinstance(head, LogisticHead):
                parts.append(head.standard(cells))
                ons.append(on)
                places.append(block)
                stretches.append(none)
                units.append(cells.new_ones(g))
            elif isinstance(head, CategoryHead):
                codes = (1,) if head.size == 2 else range(head.size)
                for code in codes:
                    hit = (cells == code).double()
                    mass = (weight[:, None] * on).sum(0).clamp_min(1e-12)
                    share = (weight[:, None] * on * hit).sum(0) / mass
                    parts.append(hit)
                    ons.append(on)
                    places.append(block + (0 if head.size == 2 else code))
                    stretches.append(none)
                    rare = share + RARE
                    slope = rare * (1 + RARE - share) if head.size == 2 else rare
                    units.append(1 / slope)
            start += g * width
        if not parts:
            empty = x.new_zeros(len(x), 0)
            none = torch.zeros(0, dtype=torch.int64, device=x.device)
            return cls(empty, empty.bool(), weight, none, empty[0], none)
        y, on = torch.cat(parts, 1), torch.cat(ons, 1)
        share = weight[:, None] * on
        mass = share.sum(0).clamp_min(1e-12)
        centre = (share * torch.where(on, y, 0.0)).sum(0) / mass
        gap = torch.where(on, y - centre, 0.0)
        size = ((share * gap.square()).sum(0) / mass).sqrt()
        size = torch.where(size > 1e-9, size, torch.ones_like(size))
        return cls(gap / size, on, weight, torch.cat(places), torch.cat(units) * size,
                   torch.cat(stretches), reach)  # fmt: skip

    def take(self, rows: Tensor) -> LinearStart:
        """The same of some rows."""
        return replace(self, y=self.y[rows], on=self.on[rows], weight=self.weight[rows])

    def regress(self, about: Tensor) -> tuple[Tensor, LinearStart]:
        """Slopes (c, p) of the cells on features of the context (n, c), and what they leave."""
        slope, level = ridge(about.double(), self.y, self.weight)
        rest = torch.where(self.on, self.y - about.double() @ slope - level, 0.0)
        return slope, replace(self, y=rest)

    def factors(self, size: int, shared: bool) -> Factors:
        """Factor analysis of the cells."""
        return Factors.fit(self.y, self.on, self.weight, size, shared)

    def slopes(self, loadings: Tensor, width: int) -> Tensor:
        """What a step along each factor adds to the outputs (width, L), by loadings (p, L)."""
        step = loadings * self.unit[:, None]
        codes = self.stretch < 0
        far = step.norm(dim=1, keepdim=True).clamp_min(1e-12)
        step = torch.where(codes[:, None], step * (STEEPEST / far).clamp(max=1.0), step)
        return loadings.new_zeros(width, loadings.shape[1]).index_add(0, self.place, step)

    def tightened(self, outputs: Tensor, own: Tensor) -> Tensor:
        """The outputs (width,) with spreads shrunk to the variances that factors leave (p,)."""
        held = self.stretch >= 0
        ratio = own[held].sqrt().clamp(TIGHTEST, 1.0).log()
        out = outputs.clone()
        out[self.stretch[held]] = self.reach * torch.atanh(ratio / self.reach)
        return out


def log_scale(variance: Tensor, widest: float) -> Tensor:
    """What a guide must say for a log scale: the inverse of its soft bound."""
    value = 0.5 * variance.clamp_min(1e-6).log()
    return widest * torch.atanh((value / widest).clamp(-0.99, 0.99))
