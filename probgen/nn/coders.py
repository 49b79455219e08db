"""Between rows and latents: what an encoder reads, and what a decoder says of the cells.

Encoders and decoders of other architectures have the attributes and methods of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from probgen.columns import Slot
from probgen.nn.cells import Cells
from probgen.nn.heads import Heads
from probgen.nn.pixels import PixelCells

__all__ = ["DenseDecoder", "DenseEncoder", "Layers", "beside"]


class Layers(nn.Module):
    """Hidden layers of rectified units; none at all gives the inputs back."""

    def __init__(self, inputs: int, hidden: Sequence[int], share: float = 0.0) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        self.width, self.share = sizes[-1], share
        layers = [nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
        self.each = nn.ModuleList(layers)
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, h: Tensor) -> Tensor:
        """The last hidden layer (n, width) from inputs (n, inputs)."""
        for layer in self.each:
            h = layer(h).relu()
            if self.share and self.training:
                h = dropout(h, self.share)
        return h


def beside(h: Tensor | None, inputs: Tensor) -> Tensor:
    """What hidden layers make of inputs (n, c), if there are some, and the inputs themselves."""
    # a step of Adam moves all weights alike: of many inputs, that would be a leap
    direct = inputs / math.sqrt(max(1, inputs.shape[1]))
    return direct if h is None else torch.cat([h, direct], 1)


class DenseEncoder(nn.Module):
    """From the seen cells of rows to features that a guide reads.

    Attributes
    ----------
    features : int
        Numbers of a row that the first layer reads, the context aside.
    width : int
        Of what comes out.
    direct : int
        How many of the last of these are the inputs themselves, scaled, so that a guide may be
        linear in them.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        context: int,
        hidden: Sequence[int],
        share: float = 0.0,
        cells: Cells | PixelCells | None = None,
    ) -> None:
        super().__init__()
        self.cells = cells or Cells(slots)
        self.features, self.context = self.cells.width, context
        self.direct = self.features + context
        self.layers = Layers(self.direct, hidden, share)
        self.width = self.direct + (self.layers.width if hidden else 0)
        #: numbers of a row in the widest layer
        self.widest = max(self.width, *hidden, 1)

    def start(self, x: Tensor, seen: Tensor, weight: Tensor) -> None:
        """Read the scales of training rows x (n, m)."""
        self.cells.start(x, seen, weight)

    def read(self, x: Tensor, seen: Tensor) -> Tensor:
        """Features (n, features) of rows x (n, m), 0 where unseen."""
        return self.cells(x, seen)

    def forward(self, features: Tensor, about: Tensor | None) -> Tensor:
        """What comes out (n, width); `about` (n, context) are features of the context."""
        if self.context:
            if about is None:  # a pseudo-row: in the middle of the contexts
                about = features.new_zeros(len(features), self.context)
            features = torch.cat([features, about], 1)
        return beside(self.layers(features) if self.layers.each else None, features)


class DenseDecoder(nn.Module):
    """From latents to the outputs that the heads of all slots read.

    Outputs are a straight line in the latents and the context plus what the hidden layers add.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        size: int,
        context: int,
        hidden: Sequence[int],
        heads: Heads,
        share: float = 0.0,
    ) -> None:
        super().__init__()
        inputs = size + context
        self.layers = Layers(inputs, hidden, share)
        self.line = nn.Linear(inputs, heads.width)
        self.last = nn.Linear(self.layers.width, heads.width, bias=False) if hidden else None
        self.widest = max(heads.width, *hidden, 1)
        with torch.no_grad():
            self.line.bias.zero_()
            if self.last is not None:
                self.last.weight *= 0.1

    def start(self, outputs: Tensor, slope: Tensor) -> None:
        """Start about outputs (width,), with slopes (width, L + context) of the line."""
        with torch.no_grad():
            self.line.bias.copy_(outputs)
            self.line.weight.copy_(slope)

    def forward(self, z: Tensor, about: Tensor | None) -> Tensor:
        """Outputs (n, width) at latents z (n, L) and features of the context (n, context)."""
        h = z if about is None else torch.cat([z, about], 1)
        out = self.line(h)
        if self.last is None:
            return out
        return torch.addmm(out, self.layers(h), self.last.weight.T)
