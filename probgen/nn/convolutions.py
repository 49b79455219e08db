"""Encoders and decoders of rows of which some cells are the pixels of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from probgen.columns import Slot
from probgen.nn.coders import DenseDecoder, DenseEncoder, Layers, beside
from probgen.nn.heads import Heads
from probgen.nn.pixels import Picture, PixelCells

__all__ = ["ConvDecoder", "ConvEncoder", "Network", "coders"]

Network: TypeAlias = Literal["dense", "conv"]
#: maps of an image after each halving of its sides
MAPS = (32, 64)


def _sides(shape: tuple[int, int] | None) -> list[tuple[int, int]]:
    """Height and width of the image, and after each halving; odd sides are rounded up."""
    assert shape is not None  # noqa: S101 - checked where the settings are
    found = [shape]
    for _ in MAPS:
        height, width = found[-1]
        found.append(((height + 1) // 2, (width + 1) // 2))
    return found


class ConvEncoder(nn.Module):
    """From the seen cells of rows to features: convolutions of the image, then dense layers.

    Of a pixel there are two planes, its value and whether it is seen, both 0 where it is not and
    where a pixel has no slot. Other cells and the context join after the convolutions. Attributes
    and methods are those of `DenseEncoder`.
    """

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
        self.cells = PixelCells(slots, picture)
        self.context, self.sides = context, _sides(picture.shape)
        self.held, self.pixels = len(picture.held), len(picture.slots)
        self.features = self.cells.width
        self.register_buffer("places", torch.tensor(picture.places), persistent=False)
        maps = [2, *MAPS]
        layers = [nn.Conv2d(a, b, 3, stride=2, padding=1)
                  for a, b in zip(maps[:-1], maps[1:], strict=True)]  # fmt: skip
        self.down = nn.ModuleList(layers)
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        height, width = self.sides[-1]
        inputs = MAPS[-1] * height * width + self.cells.rest + context
        self.layers = Layers(inputs, hidden, share)
        self.direct = self.features + context
        self.width = self.layers.width + self.direct
        height, width = self.sides[1]
        #: numbers of a row in the widest layer
        self.widest = max(self.width, MAPS[0] * height * width, inputs)

    def start(self, x: Tensor, seen: Tensor, weight: Tensor) -> None:
        """Read the scales of training rows x (n, m)."""
        self.cells.start(x, seen, weight)

    def read(self, x: Tensor, seen: Tensor) -> Tensor:
        """Features (n, features) of rows x (n, m), 0 where unseen."""
        found: Tensor = self.cells(x, seen)
        return found

    def forward(self, features: Tensor, about: Tensor | None) -> Tensor:
        """What comes out (n, width); `about` (n, context) are features of the context."""
        n = len(features)
        planes = features[:, : 2 * self.held].reshape(n, 2, self.held)
        if self.held < self.pixels:
            blank = features.new_zeros(n, 2, self.pixels)
            planes = blank.index_copy(2, self.places, planes)
        h = planes.reshape(n, 2, *self.sides[0])
        for layer in self.down:
            h = layer(h).relu()
        if self.context:
            if about is None:  # a pseudo-row: in the middle of the contexts
                about = features.new_zeros(n, self.context)
            features = torch.cat([features, about], 1)
        wide = self.layers(torch.cat([h.flatten(1), features[:, 2 * self.held :]], 1))
        return beside(wide, features)


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
        self.sides = _sides(picture.shape)
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
        cells = None if picture is None else PixelCells(slots, picture)
        return (
            DenseEncoder(slots, context, hidden, share, cells),
            DenseDecoder(slots, latents, context, hidden[::-1], heads, share),
        )
    return (
        ConvEncoder(slots, picture, context, hidden, share),
        ConvDecoder(slots, picture, latents, context, hidden[::-1], heads, share),
    )
