"""Heads of categories: from the outputs of a network to the probabilities of codes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, softplus

from probgen.columns import Slot
from probgen.nn.cells import legal_codes
from probgen.nn.head import Head, Source, uniform

__all__ = ["CategoryHead"]

#: pseudo-count of the reserved level among the rows of a category
RESERVED = 0.3
#: rows that a marginal counts for beyond those there are, spread evenly over the levels
LEVEL_ROWS = 0.5


class CategoryHead(Head):
    """Categories of equally many legal codes.

    Two codes need one number, others one a code. Logits of ordered codes have a line and a
    parabola over the rank besides, by which neighbouring codes move together. A reserved
    code has a fixed mass, that of `RESERVED` pseudo-rows.
    """

    floor: Tensor
    shape: Tensor
    held: Tensor

    def __init__(self, slots: Sequence[Slot], members: Sequence[int]) -> None:
        super().__init__(members)
        self.size = legal_codes(slots[members[0]])
        self.ordered = slots[members[0]].ordered and self.size > 2
        self.reserved = any(slots[i].reserved for i in members)
        self.width = 1 if self.size == 2 else self.size + 2 * self.ordered
        held = torch.tensor([slots[i].reserved for i in members])
        self.register_buffer("held", held, persistent=False)
        self.register_buffer("floor", torch.full((len(members),), -20.0, dtype=torch.float64))
        rank = torch.linspace(-1, 1, self.size, dtype=torch.float64)
        curve = torch.stack([rank, rank.square() - 0.5])
        self.register_buffer("shape", curve, persistent=False)

    def start(self, x: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
        total = (weight[:, None] * seen).sum(0)
        counts = torch.stack(
            [(weight[:, None] * (seen & (x == code))).sum(0) for code in range(self.size)], 1
        )
        # a level without rows starts at the mass of the reserved one, not at none
        counts = counts + LEVEL_ROWS / self.size
        self.floor = (RESERVED / (total + RESERVED * (self.size + 1))).log().to(self.floor)
        logits = (counts / counts.sum(1, keepdim=True)).log()
        if self.size == 2:
            return logits[:, 1:] - logits[:, :1]
        return nn.functional.pad(logits, (0, 2 * self.ordered))

    def logits(self, out: Tensor) -> Tensor:
        """Logits (..., size) of the legal codes, of more than two."""
        if not self.ordered:
            return out
        return out[..., : self.size] + out[..., self.size :] @ self.shape

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        if self.size == 2:
            value = -softplus(torch.where(x == 1, -out[..., 0], out[..., 0]))
        else:
            code = x.long().clamp(max=self.size - 1)[..., None]
            code = code.expand(*out.shape[:-1], 1)  # one row may have several outputs
            value = log_softmax(self.logits(out), -1).gather(-1, code)[..., 0]
        if not self.reserved:
            return value
        rare = torch.where(self.held, self.floor, -torch.inf)
        return torch.where(self.held & (x >= self.size), rare, value + (-rare.exp()).log1p())

    def draw(self, out: Tensor, member: int, generator: Source) -> Tensor:
        u = uniform(out[:, 0], generator)
        if self.size == 2:
            return (u < out[:, 0].sigmoid()).to(out)
        steps = self.logits(out).softmax(-1).cumsum(-1)
        return (u[:, None] * steps[:, -1:] >= steps[:, :-1]).sum(1).to(out)

    def centre_of(self, out: Tensor) -> Tensor:
        if self.size == 2:
            return (out[..., 0] > 0).to(out)
        return self.logits(out).argmax(-1).to(out)

    def probs(self, out: Tensor) -> Tensor:
        """Probabilities (n, size) of the legal codes of one slot, by outputs (n, width)."""
        if self.size == 2:
            return torch.cat([(-out).sigmoid(), out.sigmoid()], 1)
        return self.logits(out).softmax(-1)
