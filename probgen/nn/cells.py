"""The cells of a row as numbers that a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from probgen.columns import Slot

__all__ = ["Cells", "grouped", "legal_codes", "picked", "quantiles"]

#: numbers of an embedding at most
WIDEST = 16
#: where the features of real cells begin to grow as a logarithm only, in robust scales
LINEAR = 3.0
#: ratio of the standard deviation of a normal to its interquartile range
NORMAL_RANGE = 0.7413


def legal_codes(slot: Slot) -> int:
    """Codes of a category that the training rows may hold: all but the reserved one."""
    return max(1, slot.size - slot.reserved)


def grouped(slots: Sequence[Slot], key: str) -> dict[tuple[int, bool], list[int]]:
    """Numbers of the slots of kind `key`, by (legal codes, ordered): equal ones go together."""
    found: dict[tuple[int, bool], list[int]] = {}
    for i, slot in enumerate(slots):
        if slot.kind == key:
            found.setdefault((legal_codes(slot), slot.ordered), []).append(i)
    return found


def quantiles(x: Tensor, seen: Tensor, weight: Tensor, levels: Tensor) -> Tensor:
    """Weighted quantiles (m, q) of the seen cells of x (n, m); 0 where a column has none.

    The least cell up to which lies the level's share of the weight: weight 2 equals the cell
    twice. Cost n log n a column.
    """
    ordered, at = torch.where(seen, x, torch.inf).sort(0)
    mass = (weight[:, None] * seen).gather(0, at).cumsum(0)
    wanted = levels.to(mass) * mass[-1:].T * (1 - 1e-12)
    place = torch.searchsorted(mass.T.contiguous(), wanted.contiguous())
    last = (seen.sum(0) - 1).clamp_min(0)[:, None]
    value = ordered.T.gather(1, torch.minimum(place, last))
    return torch.where(seen.any(0)[:, None], value, torch.zeros_like(value))


class Cells(nn.Module):
    """Encoded cells as features: what a network reads of a row, 0 where unseen.

    A real slot gives its value (linear near the median, logarithmic far from it, so that no
    cell is of wild size) and a seen-flag; a count the same of its logarithm; a category of
    two codes gives -1 or 1 and the flag (without which `dna` of benchmarks/binary_density.py
    loses 3 nats); one of more codes an embedding that is looked up, and an ordered one its
    rank besides. The reserved code, which no training row holds, reads as unseen.

    Parameters
    ----------
    slots : sequence of Slot

    Attributes
    ----------
    width : int
        Features of a row.
    owner : Tensor (width,) of int64
        The slot that each feature belongs to; features of one slot need not be neighbours.
    """

    owner: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, slots: Sequence[Slot]) -> None:
        super().__init__()
        self.slots = tuple(slots)
        self.numbers = [i for i, slot in enumerate(slots) if slot.kind != "category"]
        self.counts = [i for i in self.numbers if slots[i].kind == "count"]
        groups = grouped(slots, "category")
        self.pairs = [i for (size, _), own in groups.items() if size == 2 for i in own]
        self.ranked = [i for (size, by_rank), own in groups.items()
                       if by_rank and size > 2 for i in own]  # fmt: skip
        by_width: dict[int, list[int]] = {}
        for (size, _), own in groups.items():
            if size != 2:
                by_width.setdefault(min(size, WIDEST), []).extend(own)
        self.looked_up = list(by_width.values())
        self.embeddings = nn.ParameterList(
            _codes(sum(slots[i].size for i in own), width) for width, own in by_width.items()
        )
        for own, table in zip(self.looked_up, self.embeddings, strict=True):
            self._blank_reserved(own, table)
        for number, own in enumerate(self.looked_up):
            sizes = torch.tensor([slots[i].size for i in own])
            self.register_buffer(f"offset{number}", sizes.cumsum(0) - sizes, persistent=False)
        owner = [*self.numbers, *self.numbers, *self.pairs, *self.pairs, *self.ranked]
        for own, table in zip(self.looked_up, self.embeddings, strict=True):
            owner += [i for i in own for _ in range(table.shape[1])]
        self.width = len(owner)
        self.register_buffer("owner", torch.tensor(owner, dtype=torch.int64), persistent=False)
        d = len(self.numbers)
        self.register_buffer("centre", torch.zeros(d, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(d, dtype=torch.float64))

    def _blank_reserved(self, own: list[int], table: nn.Parameter) -> None:
        place = 0
        for i in own:
            place += self.slots[i].size
            if self.slots[i].reserved:
                table.data[place - 1] = 0.0

    @property
    def widths(self) -> list[int]:
        """Features of each slot."""
        return torch.bincount(self.owner, minlength=len(self.slots)).tolist()

    @torch.no_grad()
    def start(self, x: Tensor, seen: Tensor, weight: Tensor) -> None:
        """Read centre and scale of the numbers from training rows x (n, m)."""
        if not self.numbers:
            return
        value, on = self._scaled_alike(x.double()), seen[:, self.numbers]
        levels = torch.tensor([0.02, 0.25, 0.5, 0.75, 0.98], dtype=torch.float64, device=x.device)
        low, a, middle, b, high = quantiles(value, on, weight.double(), levels).T
        # half of the cells may be equal: the wider range then tells the scale
        scale = torch.maximum(NORMAL_RANGE * (b - a), (high - low) / 8)
        self.centre = middle.to(self.centre)
        self.scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale)).to(self.scale)

    def _scaled_alike(self, x: Tensor) -> Tensor:
        """The numbers (n, d), counts by their logarithm."""
        value = picked(x, self.numbers)
        if not self.counts:
            return value
        if len(self.counts) == len(self.numbers):
            return value.clamp_min(0.0).log1p()
        count = torch.tensor([i in self.counts for i in self.numbers], device=x.device)
        return torch.where(count, value.clamp_min(0.0).log1p(), value)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Features (n, width) of rows x (n, m)."""
        parts = []
        if self.numbers:
            on = picked(seen, self.numbers).to(self.centre.dtype)
            z = (self._scaled_alike(x).to(on) - self.centre) / self.scale
            near = z.clamp(-LINEAR, LINEAR)
            far = z - near
            z = near + torch.copysign(far.abs().log1p(), far)
            parts += [z * on, on]
        if self.pairs:
            code, on = picked(x, self.pairs), picked(seen, self.pairs)
            on = on & (code < 2)
            parts.append(torch.where(on, 2 * code - 1, 0.0).to(self.centre.dtype))
            parts.append(on.to(self.centre.dtype))
        if self.ranked:
            top = x.new_tensor([legal_codes(self.slots[i]) - 1 for i in self.ranked])
            code = picked(x, self.ranked)
            on = picked(seen, self.ranked) & (code <= top)
            rank = torch.where(on, 2 * code / top - 1, 0.0)
            parts.append(rank.to(self.centre.dtype))
        for number, own in enumerate(self.looked_up):
            code = picked(x, own).long() + self.get_buffer(f"offset{number}")
            value = nn.functional.embedding(code, self.embeddings[number])
            parts.append((value * picked(seen, own)[..., None]).flatten(1))
        return torch.cat(parts, 1) if parts else x.new_zeros(len(x), 0).to(self.centre.dtype)


def picked(x: Tensor, columns: list[int]) -> Tensor:
    """Some columns of x (n, m): a view where they are neighbours, else a copy."""
    if columns and columns == list(range(columns[0], columns[-1] + 1)):
        return x[:, columns[0] : columns[-1] + 1]
    return x[:, columns]


def _codes(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(count, width, dtype=torch.float64))
