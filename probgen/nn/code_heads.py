"""Heads of categories: from the outputs of a network to the probabilities of codes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, logsigmoid, softplus

from probgen.columns import Slot
from probgen.nn.cells import legal_codes
from probgen.nn.head import Head, Source, log1mexp, uniform

__all__ = ["CategoryHead", "CodeHead", "LogisticHead"]

#: pseudo-count of the reserved level among the rows of a category
RESERVED = 0.3
#: rows that a marginal counts for beyond those there are, spread evenly over the levels
LEVEL_ROWS = 0.5
#: logarithms of the scale of a logistic, in half ranges of the codes, stay within plus and minus
#: this; and its least scale, in the distance of two codes
WIDEST, SHARPEST = 8.0, 0.02


class CodeHead(Head):
    """Slots of equally many legal codes, and perhaps a reserved one beside them.

    A reserved code has a fixed mass, that of `RESERVED` pseudo-rows.
    """

    floor: Tensor
    held: Tensor

    def __init__(self, slots: Sequence[Slot], members: Sequence[int]) -> None:
        super().__init__(members)
        self.size = legal_codes(slots[members[0]])
        self.reserved = any(slots[i].reserved for i in members)
        held = torch.tensor([slots[i].reserved for i in members])
        self.register_buffer("held", held, persistent=False)
        self.register_buffer("floor", torch.full((len(members),), -20.0, dtype=torch.float64))

    @abstractmethod
    def probs(self, out: Tensor) -> Tensor:
        """Probabilities (n, size) of the legal codes of one slot, by outputs (n, width)."""

    def _hold(self, total: Tensor) -> None:
        """Set the mass of the reserved codes of slots (g,) that were seen in so many rows."""
        self.floor = (RESERVED / (total + RESERVED * (self.size + 1))).log().to(self.floor)

    def _beside(self, value: Tensor, x: Tensor) -> Tensor:
        """Log masses (..., n, g) of codes x, from those with nothing beside the legal codes."""
        if not self.reserved:
            return value
        rare = torch.where(self.held, self.floor, -torch.inf)
        return torch.where(self.held & (x >= self.size), rare, value + (-rare.exp()).log1p())


class CategoryHead(CodeHead):
    """Categories of equally many legal codes.

    Two codes need one number, others one a code. Logits of ordered codes have a line and a
    parabola over the rank besides, by which neighbouring codes move together.
    """

    shape: Tensor

    def __init__(self, slots: Sequence[Slot], members: Sequence[int]) -> None:
        super().__init__(slots, members)
        self.ordered = slots[members[0]].ordered and self.size > 2
        self.width = 1 if self.size == 2 else self.size + 2 * self.ordered
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
        self._hold(total)
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
            value = -softplus((1 - 2 * x) * out[..., 0])
        else:
            code = x.long().clamp(max=self.size - 1)[..., None]
            code = code.expand(*out.shape[:-1], 1)  # one row may have several outputs
            value = log_softmax(self.logits(out), -1).gather(-1, code)[..., 0]
        return self._beside(value, x)

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
        if self.size == 2:
            return torch.cat([(-out).sigmoid(), out.sigmoid()], 1)
        return self.logits(out).softmax(-1)


class LogisticHead(CodeHead):
    """Ordered codes as a logistic that is cut into cells: two numbers, however many codes.

    Codes are spread evenly over [-1, 1]; the first and the last take what lies beyond (Salimans,
    Karpathy, Chen and Kingma 2017, PixelCNN++), so that the masses of the legal codes sum to one.
    An inner cell from a to b has mass sigmoid(b') - sigmoid(a') = sigmoid(b') sigmoid(-a')
    (1 - exp(a' - b')) with a' = (a - place) / scale: no difference of near-equal numbers is taken.
    The outputs of a slot are the place and the logarithm of the scale.
    """

    width = 2

    def __init__(self, slots: Sequence[Slot], members: Sequence[int]) -> None:
        super().__init__(slots, members)
        #: distance of two codes
        self.step = 2.0 / (self.size - 1)

    def spreads(self) -> list[bool]:
        return [False, True]

    def start(self, x: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
        """The line through the logits of the shares up to each cell's end, by least squares."""
        mass = weight[:, None] * seen
        self._hold(mass.sum(0))
        counts = mass.new_zeros(x.shape[1], self.size + 1)
        counts.scatter_add_(1, x.long().clamp(0, self.size).T, mass.T.contiguous())
        below = (counts[:, : self.size] + LEVEL_ROWS / self.size).cumsum(1)
        below = (below / below[:, -1:])[:, :-1]
        end = self._low(torch.arange(1, self.size, device=x.device, dtype=x.dtype))
        share = below * (1 - below)
        share = share / share.sum(1, keepdim=True)
        middle, logit = (share * end).sum(1, keepdim=True), below.logit()
        average = (share * logit).sum(1, keepdim=True)
        rise = (share * (end - middle) * (logit - average)).sum(1, keepdim=True)
        scale = (share * (end - middle).square()).sum(1, keepdim=True) / rise
        place = middle - scale * average
        log_scale = (scale - SHARPEST * self.step).clamp_min(1e-9).log()
        log_scale = WIDEST * torch.atanh((log_scale / WIDEST).clamp(-0.99, 0.99))
        return torch.cat([place, log_scale], 1)

    def standard(self, x: Tensor) -> Tensor:
        """Codes on the scale of places, from -1 to 1."""
        return x * self.step - 1

    def _low(self, code: Tensor) -> Tensor:
        """Lower ends of the cells of codes."""
        return (code - 0.5) * self.step - 1

    def _logistic(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Places and scales (...) by outputs (..., width)."""
        log_scale = WIDEST * torch.tanh(out[..., 1] / WIDEST)
        return out[..., 0], SHARPEST * self.step + log_scale.exp()

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        return self._beside(self._log_mass(out, x), x)

    def _log_mass(self, out: Tensor, x: Tensor) -> Tensor:
        place, scale = self._logistic(out)
        low = (place - self._low(x)) / scale
        width = self.step / scale
        first, last = x <= 0, x >= self.size - 1
        below = torch.where(last, 0.0, logsigmoid(width - low))
        above = torch.where(first, 0.0, logsigmoid(low))
        inside = torch.where(first | last, 0.0, log1mexp(width))
        return below + above + inside

    def draw(self, out: Tensor, member: int, generator: Source) -> Tensor:
        place, scale = self._logistic(out)
        u = uniform(place, generator).clamp(1e-300, 1 - 1e-16)
        return self._code(place + scale * torch.logit(u)).to(out)

    def _code(self, t: Tensor) -> Tensor:
        """The codes whose cells hold places t."""
        return ((t + 1) / self.step).round().clamp(0, self.size - 1)

    def centre_of(self, out: Tensor) -> Tensor:
        """The median."""
        return self._code(out[..., 0])

    def probs(self, out: Tensor) -> Tensor:
        code = torch.arange(self.size, device=out.device, dtype=out.dtype)
        return self._log_mass(out[:, None], code).exp()
