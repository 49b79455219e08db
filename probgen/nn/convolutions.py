"""Encoders and decoders of rows of which some cells are the pixels of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from probgen.columns import Slot
from probgen.nn.cells import Cells, legal_codes
from probgen.nn.coders import DenseDecoder, DenseEncoder, Layers, beside
from probgen.nn.heads import Heads

__all__ = ["ConvDecoder", "ConvEncoder", "Network", "Picture", "Pixels", "coders"]

Network: TypeAlias = Literal["dense", "conv"]
Pixels: TypeAlias = Literal["auto", "bernoulli", "logistic", "normal"]
#: maps of an image after each halving of its sides
MAPS = (32, 64)


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

    def sides(self) -> list[tuple[int, int]]:
        """Height and width of the image, and after each halving; odd sides are rounded up."""
        assert self.shape is not None  # noqa: S101 - checked where the settings are
        found = [self.shape]
        for _ in MAPS:
            height, width = found[-1]
            found.append(((height + 1) // 2, (width + 1) // 2))
        return found


class ConvEncoder(nn.Module):
    """From the seen cells of rows to features: convolutions of the image, then dense layers.

    Of a pixel there are two planes, its value and whether it is seen, both 0 where it is not.
    Other cells and the context join after the convolutions. Attributes and methods are those
    of `DenseEncoder`.
    """

    slope: Tensor
    shift: Tensor
    most: Tensor
    places: Tensor

    def __init__(
        self,
        slots: Sequence[Slot],
        picture: Picture,
        context: int,
        hidden: Sequence[int],
        share: float = 0.0,
    ) -> None:
        super().__init__()
        self.held, self.rest = picture.held, picture.others(len(slots))
        self.cells = Cells([slots[i] for i in self.rest]) if self.rest else None
        self.numbers = [place for place, i in enumerate(self.held) if slots[i].kind != "category"]
        self.context, self.sides = context, picture.sides()
        self.pixels = len(picture.slots)
        self.features = 2 * len(self.held) + (0 if self.cells is None else self.cells.width)
        tops = [max(1, legal_codes(slots[i]) - 1) for i in self.held]
        slope = [1.0 if slots[i].kind != "category" else 2 / top
                 for i, top in zip(self.held, tops, strict=True)]  # fmt: skip
        shift = [0.0 if slots[i].kind != "category" else -1.0 for i in self.held]
        self.register_buffer("slope", torch.tensor(slope, dtype=torch.float64))
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float64))
        self.register_buffer("places", torch.tensor(picture.places), persistent=False)
        most = [top if slots[i].reserved else float("inf")
                for i, top in zip(self.held, tops, strict=True)]  # fmt: skip
        self.reserved = any(slots[i].reserved for i in self.held)
        self.register_buffer("most", torch.tensor(most), persistent=False)
        maps = [2, *MAPS]
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1)
            for a, b in zip(maps[:-1], maps[1:], strict=True)
        )
        for layer in self.down:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        height, width = self.sides[-1]
        inputs = MAPS[-1] * height * width + self.features - 2 * len(self.held) + context
        self.layers = Layers(inputs, hidden, share)
        self.direct = self.features + context
        self.width = self.layers.width + self.direct
        height, width = self.sides[1]
        #: numbers of a row in the widest layer
        self.widest = max(self.width, MAPS[0] * height * width, inputs)

    @torch.no_grad()
    def start(self, x: Tensor, seen: Tensor, weight: Tensor) -> None:
        """Read the scales of training rows x (n, m): one for all pixels that are numbers."""
        if self.cells is not None:
            self.cells.start(x[:, self.rest], seen[:, self.rest], weight)
        if self.numbers:
            own = [self.held[place] for place in self.numbers]
            value, mass = x[:, own].double(), weight.double()[:, None] * seen[:, own]
            total = mass.sum().clamp_min(1e-300)
            mean = (mass * value).sum() / total
            scale = ((mass * (value - mean).square()).sum() / total).sqrt()
            scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale))
            self.slope[self.numbers] = scale.reciprocal().to(self.slope)
            self.shift[self.numbers] = (-mean / scale).to(self.shift)

    def read(self, x: Tensor, seen: Tensor) -> Tensor:
        """Features (n, features) of rows x (n, m), 0 where unseen: values, flags, other cells."""
        value, on = x[:, self.held], seen[:, self.held]
        if self.reserved:
            on = on & (value <= self.most)  # the reserved code reads as unseen
        flag = on.to(self.slope.dtype)
        parts = [(value.to(flag) * self.slope + self.shift) * flag, flag]
        if self.cells is not None:
            parts.append(self.cells(x[:, self.rest], seen[:, self.rest]))
        return torch.cat(parts, 1)

    def forward(self, features: Tensor, about: Tensor | None) -> Tensor:
        """What comes out (n, width); `about` (n, context) are features of the context."""
        n, count = len(features), len(self.held)
        planes = features[:, : 2 * count].view(n, 2, count)
        if count < self.pixels:
            blank = features.new_zeros(n, 2, self.pixels)
            planes = blank.index_copy(2, self.places, planes)
        h = planes.reshape(n, 2, *self.sides[0])
        for layer in self.down:
            h = layer(h).relu()
        parts = [h.flatten(1), features[:, 2 * count :]]
        if self.context:
            if about is None:  # a pseudo-row: in the middle of the contexts
                about = features.new_zeros(n, self.context)
            parts.append(about)
            features = torch.cat([features, about], 1)
        return beside(self.layers(torch.cat(parts, 1)), features)


class ConvDecoder(nn.Module):
    """From latents to the outputs that the heads of all slots read: dense, then convolutions up.

    As in `DenseDecoder`, outputs are a straight line in the latents and the context plus what the
    layers add; so the marginals are there from the start. Methods are those of `DenseDecoder`.
    """

    order: Tensor

    def __init__(
        self,
        slots: Sequence[Slot],
        picture: Picture,
        size: int,
        context: int,
        hidden: Sequence[int],
        heads: Heads,
        share: float = 0.0,
    ) -> None:
        super().__init__()
        inputs = size + context
        self.sides = picture.sides()
        self.layers = Layers(inputs, hidden, share)
        self.line = nn.Linear(inputs, heads.width)
        height, width = self.sides[-1]
        self.seed = nn.Linear(self.layers.width, MAPS[-1] * height * width)
        held = picture.held
        self.each = max((heads.each()[heads.at[i][0]].width for i in held), default=1)
        maps = [*MAPS[::-1], self.each]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 3, stride=2, padding=1)
            for a, b in zip(maps[:-1], maps[1:], strict=True)
        )
        rest = [j for i in picture.others(len(slots)) for j in _outputs(heads, i)]
        self.other = nn.Linear(self.layers.width, len(rest), bias=False) if rest else None
        # outputs of pixel p lie at p * each in the last maps; those of other slots come after
        order = [0] * heads.width
        for place, i in zip(picture.places, held, strict=True):
            for number, j in enumerate(_outputs(heads, i)):
                order[j] = place * self.each + number
        for number, j in enumerate(rest):
            order[j] = len(picture.slots) * self.each + number
        straight = order == list(range(len(picture.slots) * self.each))
        self.straight = straight
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self._begin()
        height, width = self.sides[1]
        #: numbers of a row in the widest layer
        self.widest = max(heads.width, len(picture.slots) * self.each, MAPS[0] * height * width)

    @torch.no_grad()
    def _begin(self) -> None:
        maps = [layer for layer in self.up if isinstance(layer, nn.ConvTranspose2d)]
        nn.init.kaiming_normal_(self.seed.weight, nonlinearity="relu")
        for layer in maps:  # of the 9 weights of a map about 9 / 4 reach a pixel
            nn.init.normal_(layer.weight, std=(2 / (layer.in_channels * 9 / 4)) ** 0.5)
        maps[-1].weight *= 0.1
        self.line.bias.zero_()
        if self.other is not None:
            self.other.weight *= 0.1

    def start(self, outputs: Tensor, slope: Tensor) -> None:
        """Start about outputs (width,), with slopes (width, L + context) of the line."""
        with torch.no_grad():
            self.line.bias.copy_(outputs)
            self.line.weight.copy_(slope)

    def forward(self, z: Tensor, about: Tensor | None) -> Tensor:
        """Outputs (n, width) at latents z (n, L) and features of the context (n, context)."""
        inputs = z if about is None else torch.cat([z, about], 1)
        wide = self.layers(inputs)
        h = self.seed(wide).relu().view(len(z), MAPS[-1], *self.sides[-1])
        for number, layer in enumerate(self.up):
            h = layer(h if not number else h.relu(), output_size=self.sides[-2 - number])
        out = h.permute(0, 2, 3, 1).flatten(1)
        if self.other is not None:
            out = torch.cat([out, self.other(wide)], 1)
        return self.line(inputs) + (out if self.straight else out[:, self.order])


def _outputs(heads: Heads, slot: int) -> range:
    """Numbers of the outputs of one slot."""
    span = heads.at[slot][2]
    return range(span.start, span.stop)


def coders(
    slots: Sequence[Slot],
    picture: Picture | None,
    latents: int,
    context: int,
    hidden: tuple[int, ...],
    heads: Heads,
    share: float = 0.0,
) -> tuple[DenseEncoder | ConvEncoder, DenseDecoder | ConvDecoder]:
    """Encoder and decoder: by convolutions where the picture has a shape, else dense."""
    if picture is None or picture.shape is None:
        ranks = picture.held if picture is not None and picture.pixels == "logistic" else ()
        return (
            DenseEncoder(slots, context, hidden, share, ranks),
            DenseDecoder(slots, latents, context, hidden[::-1], heads, share),
        )
    return (
        ConvEncoder(slots, picture, context, hidden, share),
        ConvDecoder(slots, picture, latents, context, hidden[::-1], heads, share),
    )
