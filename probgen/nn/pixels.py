"""Cells of a row that are the pixels of an image, and how a network reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from probgen.columns import Slot
from probgen.nn.cells import Cells, legal_codes, picked

__all__ = ["Picture", "PixelCells", "Pixels"]

Pixels: TypeAlias = Literal["auto", "bernoulli", "logistic", "normal"]


@dataclass(frozen=True)
class Picture:
    """Which cells of a row are pixels.

    Attributes
    ----------
    slots : tuple of int
        The slot of each pixel, row after row from the top; -1 where a pixel has none.
    shape : (int, int), optional
        Height and width; convolutions need it.
    pixels : {"auto", "bernoulli", "logistic", "normal"}
    """

    slots: tuple[int, ...]
    shape: tuple[int, int] | None = None
    pixels: Pixels = "auto"

    @property
    def held(self) -> list[int]:
        """The slots of the pixels that have one, in the order of the pixels."""
        return [slot for slot in self.slots if slot >= 0]

    @property
    def places(self) -> list[int]:
        """The pixels of `held`."""
        return [place for place, slot in enumerate(self.slots) if slot >= 0]

    def others(self, count: int) -> list[int]:
        """Those of the first `count` slots that are no pixel."""
        held = set(self.held)
        return [slot for slot in range(count) if slot not in held]


class PixelCells(nn.Module):
    """Encoded cells as features, as `Cells`; pixels as their distance from the mean image.

    The values of all pixels (codes spread over a range of 2, numbers in standard deviations of
    all pixels together), their seen-flags, then the features of the other cells. All are 0 where
    unseen: a hidden pixel reads as the mean image does. So does the reserved code.

    Attributes
    ----------
    width : int
        Features of a row.
    rest : int
        How many of them, the last, are of cells that are no pixels.
    """

    slope: Tensor
    mean: Tensor
    most: Tensor

    def __init__(self, slots: Sequence[Slot], picture: Picture) -> None:
        super().__init__()
        self.held, self.others = picture.held, picture.others(len(slots))
        self.cells = Cells([slots[i] for i in self.others]) if self.others else None
        self.rest = 0 if self.cells is None else self.cells.width
        self.width = 2 * len(self.held) + self.rest
        own = [slots[i] for i in self.held]
        self.numbers = [place for place, slot in enumerate(own) if slot.kind != "category"]
        tops = [float(max(1, legal_codes(slot) - 1)) for slot in own]
        slope = [2 / top if slot.kind == "category" else 1.0
                 for slot, top in zip(own, tops, strict=True)]  # fmt: skip
        most = [top if slot.reserved else float("inf")
                for slot, top in zip(own, tops, strict=True)]  # fmt: skip
        self.reserved = any(slot.reserved for slot in own)
        self.register_buffer("slope", torch.tensor(slope, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros_like(self.slope))
        self.register_buffer("most", torch.tensor(most), persistent=False)

    @torch.no_grad()
    def start(self, x: Tensor, seen: Tensor, weight: Tensor) -> None:
        """Read the mean image and the common scale from training rows x (n, m)."""
        if self.cells is not None:
            self.cells.start(x[:, self.others], seen[:, self.others], weight)
        value, mass = x[:, self.held].double(), weight.double()[:, None] * seen[:, self.held]
        mean = (mass * value).sum(0) / mass.sum(0).clamp_min(1e-300)
        self.mean = mean.to(self.mean)
        if self.numbers:
            value, mass = value[:, self.numbers], mass[:, self.numbers]
            total = mass.sum().clamp_min(1e-300)
            gap = value - (mass * value).sum() / total
            scale = ((mass * gap.square()).sum() / total).sqrt()
            scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale))
            self.slope[self.numbers] = scale.reciprocal().to(self.slope)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Features (n, width) of rows x (n, m)."""
        value, on = picked(x, self.held), picked(seen, self.held)
        if self.reserved:
            on = on & (value <= self.most)
        flag = on.to(self.slope.dtype)
        parts = [(value.to(flag) - self.mean) * self.slope * flag, flag]
        if self.cells is not None:
            parts.append(self.cells(x[:, self.others], seen[:, self.others]))
        return torch.cat(parts, 1)
