"""Where an autoencoder starts: at factor analysis of the cells, seen through linear heads.

Numbers are taken on the scale of their head, the codes of categories as indicators. The factors
become latents: loadings set the straight lines of the decoder, a ridge regression of the
factors on the inputs of the guide sets its own. Hidden layers start small beside that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from probgen.nn.code_heads import CategoryHead, LogisticHead
from probgen.nn.factors import Factors, ridge
from probgen.nn.head import Head
from probgen.nn.heads import Heads
from probgen.nn.number_heads import MixtureHead

__all__ = ["LinearModel", "LinearStart"]

#: pseudo-share of a code by which its logit is found from its probability
RARE = 0.02
#: logits move at most so far with a step of one standard deviation along all factors
STEEPEST = 2.0
#: a scale is not shrunk below this share at the start: within the soft bound of a stretch, e^-3
TIGHTEST = 0.06


class _Block(NamedTuple):
    """Cells of one form on linear scales (n, g), and what they move, each (g,)."""

    y: Tensor
    members: list[int]
    place: Tensor
    unit: Tensor
    stretch: Tensor


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
    slot : Tensor (p,) of int64
        The slot that each belongs to.
    place : Tensor (p,) of int64
        The output of the heads that each moves.
    unit : Tensor (p,)
        How far it moves that output.
    stretch : Tensor (p,) of int64
        The output that scales its spread; -1 where there is none.
    width : int
        Outputs of all heads.
    reach : float
        The bound of a stretch, as `MixtureHead.reach`.
    """

    y: Tensor
    on: Tensor
    weight: Tensor
    slot: Tensor
    place: Tensor
    unit: Tensor
    stretch: Tensor
    width: int
    reach: float = 3.0

    @classmethod
    @torch.no_grad()
    def of(cls, heads: Heads, x: Tensor, seen: Tensor, weight: Tensor) -> LinearStart:
        """From training rows x (n, m), on the scales that `heads` have been started with."""
        x, weight = x.double(), weight.double()
        blocks, start, reach = [], 0, cls.reach
        for head in heads.each():
            blocks += _blocks(head, x, seen, weight, start)
            start += len(head.members) * head.width
            reach = getattr(head, "reach", reach)
        if not blocks:
            none = torch.zeros(0, dtype=torch.int64, device=x.device)
            empty = x.new_zeros(len(x), 0)
            return cls(empty, empty.bool(), weight, none, none, empty[0], none, heads.width)
        slot = torch.tensor([i for block in blocks for i in block.members], device=x.device)
        y, on = torch.cat([block.y for block in blocks], 1), seen[:, slot]
        share = weight[:, None] * on
        mass = share.sum(0).clamp_min(1e-12)
        centre = (share * torch.where(on, y, 0.0)).sum(0) / mass
        gap = torch.where(on, y - centre, 0.0)
        size = ((share * gap.square()).sum(0) / mass).sqrt()
        size = torch.where(size > 1e-9, size, torch.ones_like(size))
        place, unit, stretch = (
            torch.cat([getattr(block, name) for block in blocks])
            for name in ("place", "unit", "stretch")
        )
        return cls(gap / size, on, weight, slot, place, unit * size, stretch, heads.width, reach)

    @torch.no_grad()
    def fit(self, about: Tensor | None, size: int, shared: bool) -> LinearModel:
        """Regression on features of the context (n, c), factor analysis of what that leaves."""
        slope, y = self.y.new_zeros(0, self.y.shape[1]), self.y
        if about is not None:
            slope, level = ridge(about.double(), y, self.weight)
            y = torch.where(self.on, y - about.double() @ slope - level, 0.0)
        factors = Factors.fit(y, self.on, self.weight, size, shared)
        slopes = torch.cat([self.slopes(factors.loadings), self.slopes(slope.T)], 1)
        return LinearModel(self, y, factors, slopes)

    def slopes(self, loadings: Tensor) -> Tensor:
        """What a step along each factor adds to the outputs (width, L), by loadings (p, L)."""
        step = loadings * self.unit[:, None]
        codes = self.stretch < 0
        far = step.norm(dim=1, keepdim=True).clamp_min(1e-12)
        step = torch.where(codes[:, None], step * (STEEPEST / far).clamp(max=1.0), step)
        return loadings.new_zeros(self.width, loadings.shape[1]).index_add(0, self.place, step)

    def tightened(self, outputs: Tensor, own: Tensor) -> Tensor:
        """The outputs (width,) with spreads shrunk to the variances that factors leave (p,)."""
        held = self.stretch >= 0
        ratio = own[held].sqrt().clamp(TIGHTEST, 1.0).log()
        out = outputs.clone()
        out[self.stretch[held]] = self.reach * torch.atanh(ratio / self.reach)
        return out


@dataclass
class LinearModel:
    """A linear model of the cells: what decoder and guide start at.

    Attributes
    ----------
    cells : LinearStart
    rest : Tensor (n, p)
        The cells without what the context explains.
    factors : Factors
    slope : Tensor (width, L + c)
        What latents and features of the context add to the outputs of the heads.
    """

    cells: LinearStart
    rest: Tensor
    factors: Factors
    slope: Tensor

    @torch.no_grad()
    def line(self, seen: Tensor, inputs: Tensor, widest: float) -> tuple[Tensor, Tensor]:
        """Slopes (f, 2 L) and levels (2 L,) of means and log scales of the factors.

        Regressed on inputs (n, f) of rows of which cells (n, m) are seen. `widest` is the
        soft bound of a log scale.
        """
        on = seen[:, self.cells.slot] & self.cells.on
        mean, variance = self.factors.given(self.rest, on)
        value = 0.5 * variance.clamp_min(1e-6).log()
        value = widest * torch.atanh((value / widest).clamp(-0.99, 0.99))
        return ridge(inputs.double(), torch.cat([mean, value], 1), self.cells.weight)


def _blocks(head: Head, x: Tensor, seen: Tensor, weight: Tensor, start: int) -> list[_Block]:
    """The cells of a head, whose outputs begin at `start`, on linear scales."""
    cells, on = x[:, head.members], seen[:, head.members]
    place = start + head.width * torch.arange(len(head.members), device=x.device)
    none, one = torch.full_like(place, -1), torch.ones_like(cells[0])
    if isinstance(head, MixtureHead):
        t = (head.standard(cells) - head.centre) / head.scale
        return [_Block(t, head.members, place + head.move, one, place + head.move + 1)]
    if isinstance(head, LogisticHead):
        return [_Block(head.standard(cells), head.members, place, one, none)]
    found = []
    if isinstance(head, CategoryHead):
        mass = (weight[:, None] * on).sum(0).clamp_min(1e-12)
        for code in (1,) if head.size == 2 else range(head.size):
            hit = (cells == code).double()
            share = (weight[:, None] * on * hit).sum(0) / mass + RARE
            slope = share * (1 + 2 * RARE - share) if head.size == 2 else share
            own = place + (0 if head.size == 2 else code)
            found.append(_Block(hit, head.members, own, 1 / slope, none))
    return found
