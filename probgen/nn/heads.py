"""From the outputs of a network to the distribution of each cell: a head a kind of slot.

Heads of one form are computed together: binary categories, categories of equal size, reals,
counts. So the logits of categories lie in a row of ragged blocks and are never padded to the
widest.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, logsigmoid, softplus

from probgen.columns import Slot
from probgen.nn.cells import grouped, legal_codes, picked, quantiles

__all__ = ["CategoryHead", "CountHead", "Head", "Heads", "RealHead"]

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
#: a logistic with this scale has standard deviation 1
UNIT_LOGISTIC = math.sqrt(3.0) / math.pi
#: pseudo-count of the reserved level among the rows of a category
RESERVED = 0.3
#: steps and rows of the fit of a marginal mixture that a head starts from
STEPS, ROWS = 30, 5000
#: weight at the start of a part for outlying cells, and its deviation by that of the column
OUTSIDE, WIDER = 0.01, 2.0
#: largest count that is drawn: whole numbers beyond are not exact in float64
LARGEST = 2.0**53
#: quantiles of a part of the mixture of a count by which it is summed up
POINTS = 32
#: rows that a marginal counts for beyond those there are, spread evenly over the levels
LEVEL_ROWS = 0.5


#: where uniforms come from: a generator, torch's global one, or a function of a shape
Source: TypeAlias = torch.Generator | Callable[[Sequence[int]], Tensor] | None


class Head(nn.Module, ABC):
    """The distributions of g slots of one form, each by `width` numbers of the network."""

    width: int

    def __init__(self, members: Sequence[int]) -> None:
        super().__init__()
        self.members = list(members)

    def spreads(self) -> list[bool]:
        """Which of the outputs of a slot say how far it spreads."""
        return [False] * self.width

    @abstractmethod
    def centre_of(self, out: Tensor) -> Tensor:
        """One value (..., n, g) that stands for each cell: the mean, or the likeliest code."""

    @abstractmethod
    def start(self, x: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
        """Read the training cells x (n, g); the outputs (g, width) that give the marginals."""

    @abstractmethod
    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        """Log density (..., n, g) of cells x (n, g) under outputs (..., n, g, width)."""

    @abstractmethod
    def draw(self, out: Tensor, member: int, generator: Source) -> Tensor:
        """Values (n,) of one slot, from outputs (n, width)."""


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
            value = -softplus((1 - 2 * x) * out[..., 0])
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


class MixtureHead(Head):
    """Mixtures of k parts on a standardised scale: logits, places, log scales, a common move.

    The outputs of a slot: k logits, k places, k log scales, then one move and one log
    stretch of all parts together, so that a shift of the whole distribution, the most common
    form of dependence, is one number.
    """

    centre: Tensor
    scale: Tensor
    floor: Tensor

    def __init__(
        self, members: Sequence[int], parts: int, least_scale: float | None = None
    ) -> None:
        super().__init__(members)
        self.parts, self.width = parts, 3 * parts + 2
        if least_scale is not None:
            self.least_scale = least_scale
        g = len(members)
        self.register_buffer("centre", torch.zeros(g, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(g, dtype=torch.float64))
        self.register_buffer("floor", torch.full((g,), 1e-3, dtype=torch.float64))

    def spreads(self) -> list[bool]:
        """The log scales, and the stretch of all together."""
        k = self.parts
        return [False] * 2 * k + [True] * k + [False, True]

    def mixture(self, out: Tensor, member: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights, places and scales (..., k) in standardised units."""
        k = self.parts
        logits, place, log_scale, move = out.split([k, k, k, 2], -1)
        stretch = 3.0 * torch.tanh(move[..., 1:] / 3.0)
        floor = (self.floor if member is None else self.floor[member])[..., None]
        scale = floor + (6.0 * torch.tanh(log_scale / 6.0) + stretch).exp()
        # a single part has all the weight: a tenth of a training step is saved
        weights = torch.zeros_like(logits) if k == 1 else logits.log_softmax(-1)
        return weights, move[..., :1] + place * stretch.exp(), scale

    def standard(self, x: Tensor) -> Tensor:
        """Cells on the scale of the parts, before centring."""
        return x

    def _marginal(self, value: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
        """Outputs (g, width) whose mixtures are fitted to the columns value (n, g)."""
        k = self.parts - (self.parts > 2)
        few = torch.arange(min(ROWS, len(value)), device=value.device)
        few = few * len(value) // max(1, len(few))
        value, seen, weight = value[few], seen[few], weight[few]
        level = (torch.arange(k, dtype=value.dtype, device=value.device) + 0.5) / k
        levels = torch.cat([level.new_tensor([0.1 / k]), level, level.new_tensor([1 - 0.1 / k])])
        found = quantiles(value, seen, weight, levels)
        at = quantiles(value, seen, weight, level.new_tensor([0.02, 0.25, 0.5, 0.75, 0.98]))
        wide = torch.maximum(0.7413 * (at[:, 3] - at[:, 1]), (at[:, 4] - at[:, 0]) / 8)
        wide = torch.where(wide > 1e-9, wide, torch.ones_like(wide))
        self.centre, self.scale = at[:, 2].to(self.centre), wide.to(self.scale)
        z = (value - at[:, 2]) / wide
        place = (found[:, 1:-1] - at[:, 2:3]) / wide[:, None]
        gap = (found[:, 2:] - found[:, :-2]) / (2 * wide[:, None])
        # repeated values leave no gaps; a tenth of an even spacing is a safe least width
        spread = gap.clamp_min(0.1 / k)
        least = self.least * spread
        logit, place, spread = _fitted(z, seen, weight, place, spread, least)
        if k < self.parts:  # a last part is for what lies outside
            mass = weight[:, None] * seen
            size = (mass * z.square()).sum(0) / mass.sum(0).clamp_min(1e-300)
            logit = torch.cat([logit, torch.full_like(logit[:, :1], math.log(OUTSIDE))], 1)
            place = torch.cat([place, torch.zeros_like(place[:, :1])], 1)
            outside = WIDER * size.sqrt().clamp_min(1.0)
            spread = torch.cat([spread, outside[:, None]], 1)
        scale = spread * self.unit
        self.floor = (self.least_scale * scale.amin(1)).to(self.floor)
        log_scale = (scale - self.floor[:, None]).log().clamp(-5.9, 5.9)
        log_scale = 6.0 * torch.atanh(log_scale / 6.0)
        return torch.cat([logit, place, log_scale, logit.new_zeros(len(logit), 2)], 1)

    #: scale of a part by its standard deviation
    unit = 1.0
    #: smallest deviation of a part at the start, relative to the spacing of quantiles there; and
    #: smallest scale ever, relative to the smallest at the start: no density grows without bound
    least, least_scale = 0.3, 0.1

    def _pick(self, out: Tensor, member: int, generator: Source) -> Tensor:
        """Places and scales (2, n) of a part drawn for each row."""
        logits, place, scale = self.mixture(out, member)
        steps = logits.exp().cumsum(-1)
        u = uniform(out[:, 0], generator)
        part = (u[:, None] * steps[:, -1:] >= steps[:, :-1]).sum(1)[:, None]
        return torch.stack([place.gather(1, part)[:, 0], scale.gather(1, part)[:, 0]])


class RealHead(MixtureHead):
    """Reals as mixtures of normals."""

    def start(self, x: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
        return self._marginal(x, seen, weight)

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        logits, place, scale = self.mixture(out)
        z = ((x - self.centre) / self.scale)[..., None]
        unit = (z - place) / scale
        each = -0.5 * unit.square() - scale.log()
        value = each[..., 0] if self.parts == 1 else (logits + each).logsumexp(-1)
        return value - (HALF_LOG_TAU + self.scale.log())

    def draw(self, out: Tensor, member: int, generator: Source) -> Tensor:
        place, scale = self._pick(out, member, generator)
        z = torch.special.ndtri(uniform(place, generator).clamp(1e-300, 1 - 1e-16))
        return self.centre[member] + self.scale[member] * (place + scale * z)

    def centre_of(self, out: Tensor) -> Tensor:
        logits, place, _ = self.mixture(out)
        return self.centre + self.scale * (logits.exp() * place).sum(-1)

    def normals(self, out: Tensor, member: int) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and standard deviations (n, k) of one slot, encoded units."""
        logits, place, scale = self.mixture(out, member)
        wide = self.scale[member]
        return logits.exp(), self.centre[member] + wide * place, wide * scale


class CountHead(MixtureHead):
    """Counts as mixtures of logistics of log(1 + value), cut into the cells of whole numbers.

    With t the standardised logarithm and cell ends a < b, a part at mu with scale s has mass
    sigmoid(b') - sigmoid(a') = sigmoid(b') sigmoid(-a') (1 - exp(-(b - a) / s)), where
    a' = (a - mu) / s: no difference of near-equal numbers is taken, however large the count.
    """

    unit = UNIT_LOGISTIC
    least, least_scale = 0.02, 0.01  # a mass cannot grow beyond one

    def start(self, x: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
        # spread over its cell by an even sequence, so that no noise enters
        n = len(x)
        step = torch.arange(n, dtype=x.dtype, device=x.device)[:, None] * 0.6180339887498949
        return self._marginal((x + 0.5 + step.remainder(1.0)).log(), seen, weight)

    def standard(self, x: Tensor) -> Tensor:
        return x.clamp_min(0.0).log1p()

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        logits, place, scale = self.mixture(out)
        low = ((x + 0.5).log() - self.centre) / self.scale
        high = ((x + 1.5).log() - self.centre) / self.scale
        width = (x + 0.5).reciprocal().log1p() / self.scale
        above = logsigmoid((place - low[..., None]) / scale)
        above = torch.where((x == 0)[..., None], 0.0, above)  # the first cell has no lower end
        inside = torch.where((x == 0)[..., None], 0.0, _log1mexp(width[..., None] / scale))
        return (logits + logsigmoid((high[..., None] - place) / scale) + above + inside).logsumexp(
            -1
        )

    def draw(self, out: Tensor, member: int, generator: Source) -> Tensor:
        place, scale = self._pick(out, member, generator)
        z = torch.logit(uniform(place, generator).clamp(1e-300, 1 - 1e-16))
        return self._whole(place + scale * z, member)

    def points(self, out: Tensor, member: int, count: int = POINTS) -> tuple[Tensor, Tensor]:
        """Counts (n, k count) at even quantiles of each part of one slot, and their weights."""
        logits, place, scale = self.mixture(out, member)
        level = (torch.arange(count, dtype=out.dtype, device=out.device) + 0.5) / count
        t = (place[..., None] + scale[..., None] * level.logit()).flatten(1)
        weights = logits.exp().repeat_interleave(count, 1) / count
        return self._whole(t, member), weights

    def centre_of(self, out: Tensor) -> Tensor:
        """The mean over even quantiles of the parts."""
        found = []
        for member in range(len(self.members)):
            value, weights = self.points(out[..., member, :].flatten(0, -2), member)
            found.append((value * weights).sum(1).unflatten(0, out.shape[:-2]))
        return torch.stack(found, -1)

    def _whole(self, t: Tensor, member: int) -> Tensor:
        """The counts whose cells hold standardised logarithms t."""
        value = (self.centre[member] + self.scale[member] * t).clamp_max(math.log(LARGEST))
        return (value.exp() - 0.5).floor().clamp(0.0, LARGEST)


class Heads(nn.Module):
    """The heads of all slots of a row, over one vector of outputs.

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
        self, slots: Sequence[Slot], parts: int = 8, least_scale: float | None = None
    ) -> None:
        super().__init__()
        found: list[Head] = [
            CategoryHead(slots, own) for own in grouped(slots, "category").values()
        ]
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
        return value if self.straight else value[..., self.back]

    def spreads(self) -> Tensor:
        """Which outputs (width,) say how far a cell spreads, of all heads."""
        marks = [mark for head in self.each() for mark in head.spreads() * len(head.members)]
        return torch.tensor(marks, dtype=torch.bool)

    def draw(self, out: Tensor, slot: int, generator: Source) -> Tensor:
        """Values (n,) of one slot from its outputs (n, width of the slot)."""
        number, place, _ = self.at[slot]
        return self.each()[number].draw(out, place, generator)


def uniform(like: Tensor, generator: Source) -> Tensor:
    """Float64 uniforms of the shape of a tensor; on its device where the generator is."""
    if callable(generator):
        return generator(like.shape)
    source = like.device if generator is None else generator.device
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64, device=source)
    return drawn.to(like.device)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(-x)) for x > 0 with all its digits."""
    small = x < math.log(2)
    return torch.where(
        small,
        (-torch.expm1(-torch.where(small, x, torch.ones_like(x)))).clamp_min(1e-37).log(),
        (-torch.exp(-torch.where(small, torch.ones_like(x), x))).log1p(),
    )


def _fitted(
    z: Tensor, seen: Tensor, weight: Tensor, place: Tensor, spread: Tensor, least: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log weights, means and deviations (g, k) of mixtures of normals, by EM from a start.

    Columns z (n, g); deviations stay above `least`. Cost n g k a step.
    """
    n, k = len(z), place.shape[1]
    share = torch.full_like(place, 1.0 / k)
    mass = weight[:, None, None] * seen[:, :, None]
    total = mass.sum(0).clamp_min(1e-300)
    for _ in range(STEPS if n > 1 else 0):
        unit = (z[:, :, None] - place) / spread
        r = (share.log() - 0.5 * unit.square() - spread.log()).softmax(-1) * mass
        own = r.sum(0)
        # one row in each part at the least, and each a little of all: no part dies
        share = (own + 1.0) / (total + k)
        held = own.clamp_min(1e-12)
        moved = (r * z[:, :, None]).sum(0) / held
        variance = (r * (z[:, :, None] - moved).square()).sum(0) / held
        alive = own > 1.0
        place = torch.where(alive, moved, place)
        spread = torch.where(alive, torch.maximum(variance.sqrt(), least), spread)
    return share.log(), place, spread
