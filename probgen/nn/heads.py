"""From the outputs of a network to the distribution of each cell: a head a kind of slot.

Heads of one form are computed together: binary categories, categories of equal size, reals,
counts. So the logits of categories lie in a row of ragged blocks and are never padded to the
widest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor, nn

from probgen.columns import Slot
from probgen.nn.cells import grouped, picked
from probgen.nn.code_heads import CategoryHead, CodeHead, LogisticHead
from probgen.nn.head import Head, Source
from probgen.nn.number_heads import CountHead, RealHead

__all__ = [
    "CategoryHead", "CodeHead", "CountHead", "Head", "Heads", "LogisticHead", "RealHead",
]  # fmt: skip


class Heads(nn.Module):
    """The heads of all slots of a row, over one vector of outputs.

    Parameters
    ----------
    slots : sequence of Slot
    parts : int
        Of the mixture of a real or a count.
    least_scale : float, optional
        Smallest scale of a real, relative to that at the start.
    logistic : collection of int
        Numbers of ordered slots that get a `LogisticHead`; the others have a number a code.

    Attributes
    ----------
    width : int
        Outputs of a row.
    owner : Tensor (width,) of int64
        The slot that each output belongs to.
    """

    owner: Tensor
    back: Tensor

    def __init__(
        self,
        slots: Sequence[Slot],
        parts: int = 8,
        least_scale: float | None = None,
        logistic: Collection[int] = (),
    ) -> None:
        super().__init__()
        found: list[Head] = []
        for (size, ordered), own in grouped(slots, "category").items():
            few = [i for i in own if ordered and size > 2 and i in logistic]
            rest = [i for i in own if i not in few]
            found += [CategoryHead(slots, rest)] if rest else []
            found += [LogisticHead(slots, few)] if few else []
        real = [i for i, slot in enumerate(slots) if slot.kind == "real"]
        count = [i for i, slot in enumerate(slots) if slot.kind == "count"]
        found += [RealHead(real, parts, least_scale)] if real else []
        found += [CountHead(count, parts)] if count else []
        self.heads = nn.ModuleList(found)
        owner: list[int] = []
        #: by slot: its head, its place there, and where its outputs lie
        self.at: dict[int, tuple[int, int, slice]] = {}
        for number, head in enumerate(found):
            for place, i in enumerate(head.members):
                self.at[i] = number, place, slice(len(owner), len(owner) + head.width)
                owner += [i] * head.width
        self.width = len(owner)
        self.register_buffer("owner", torch.tensor(owner, dtype=torch.int64), persistent=False)
        order = [i for head in found for i in head.members]
        back = torch.tensor(order, dtype=torch.int64).argsort()
        self.straight = order == sorted(order)
        self.register_buffer("back", back, persistent=False)

    def each(self) -> list[Head]:
        """The heads, one a form."""
        return [head for head in self.heads if isinstance(head, Head)]

    @torch.no_grad()
    def start(self, x: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
        """Outputs (width,) that give the marginals of training rows x (n, m)."""
        x, weight = x.double(), weight.double()
        parts = [
            head.start(x[:, head.members], seen[:, head.members], weight).flatten()
            for head in self.each()
        ]
        return torch.cat(parts) if parts else x.new_zeros(0)

    def log_probs(self, out: Tensor, x: Tensor) -> Tensor:
        """Log densities (..., n, m) of all cells of x (n, m) under outputs (..., n, width)."""
        parts = []
        for head, own in self.split(out):
            parts.append(head.log_prob(own, picked(x, head.members)))
        return self._joined(parts, out)

    def centres(self, out: Tensor) -> Tensor:
        """One value (..., n, m) that stands for each cell under outputs (..., n, width)."""
        return self._joined([head.centre_of(own) for head, own in self.split(out)], out)

    def split(self, out: Tensor) -> Iterator[tuple[Head, Tensor]]:
        """The heads, each with its outputs (..., n, g, width)."""
        place = 0
        for head in self.each():
            g = len(head.members)
            yield head, out[..., place : place + g * head.width].unflatten(-1, (g, head.width))
            place += g * head.width

    def _joined(self, parts: list[Tensor], out: Tensor) -> Tensor:
        if not parts:
            return out.new_zeros(*out.shape[:-1], 0)
        value = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return value if self.straight else value.index_select(-1, self.back)

    def spreads(self) -> Tensor:
        """Which outputs (width,) say how far a cell spreads, of all heads."""
        marks = [mark for head in self.each() for mark in head.spreads() * len(head.members)]
        return torch.tensor(marks, dtype=torch.bool)

    def draw(self, out: Tensor, slot: int, generator: Source) -> Tensor:
        """Values (n,) of one slot from its outputs (n, width of the slot)."""
        number, place, _ = self.at[slot]
        return self.each()[number].draw(out, place, generator)
