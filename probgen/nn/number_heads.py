"""Heads of reals and counts: mixtures whose places and scales a network says."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from probgen.nn.cells import quantiles
from probgen.nn.head import Head, Source, log1mexp, uniform

__all__ = ["CountHead", "MixtureHead", "RealHead"]

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
#: a logistic with this scale has standard deviation 1
UNIT_LOGISTIC = math.sqrt(3.0) / math.pi
#: steps and rows of the fit of a marginal mixture that a head starts from
STEPS, ROWS = 30, 5000
#: weight at the start of a part for outlying cells, and its deviation by that of the column
OUTSIDE, WIDER = 0.01, 2.0
#: largest count that is drawn: whole numbers beyond are not exact in float64
LARGEST = 2.0**53
#: quantiles of a part of the mixture of a count by which it is summed up
POINTS = 32


class MixtureHead(Head):
    """Mixtures of k parts on a standardised scale: logits, places, log scales, a common move.

    The outputs of a slot: k logits, k places, k log scales, then one move and one log
    stretch of all parts together, so that a shift of the whole distribution, the most common
    form of dependence, is one number. A single part has the move and the stretch only.

    Attributes
    ----------
    move : int
        Which output of a slot is the move; the stretch comes next.
    reach : float
        The stretch stays within plus and minus this.
    """

    own: Tensor
    centre: Tensor
    scale: Tensor
    floor: Tensor

    def __init__(
        self, members: Sequence[int], parts: int, least_scale: float | None = None
    ) -> None:
        super().__init__(members)
        self.parts, self.move = parts, 3 * parts if parts > 1 else 0
        self.width, self.reach = self.move + 2, 3.0 if parts > 1 else 6.0
        if least_scale is not None:
            self.least_scale = least_scale
        g = len(members)
        self.register_buffer("centre", torch.zeros(g, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(g, dtype=torch.float64))
        self.register_buffer("floor", torch.full((g,), 1e-3, dtype=torch.float64))
        if parts == 1:  # its scale at the start
            self.register_buffer("own", torch.ones(g, dtype=torch.float64))

    def spreads(self) -> list[bool]:
        """The log scales, and the stretch of all together."""
        k = self.parts
        each = [False] * 2 * k + [True] * k if k > 1 else []
        return [*each, False, True]

    def mixture(self, out: Tensor, member: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights, places and scales (..., k) in standardised units."""
        k = self.parts
        floor = (self.floor if member is None else self.floor[member])[..., None]
        if k == 1:
            own = (self.own if member is None else self.own[member])[..., None]
            place, stretch = out.split([1, 1], -1)
            stretch = self.reach * torch.tanh(stretch / self.reach)
            return torch.zeros_like(place), place, torch.addcmul(floor, own, stretch.exp())
        logits, place, log_scale, move = out.split([k, k, k, 2], -1)
        stretch = self.reach * torch.tanh(move[..., 1:] / self.reach)
        scale = floor + (6.0 * torch.tanh(log_scale / 6.0) + stretch).exp()
        return logits.log_softmax(-1), move[..., :1] + place * stretch.exp(), scale

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
        if self.parts == 1:
            self.own = (scale[:, 0] - self.floor).to(self.own)
            return torch.cat([place, torch.zeros_like(place)], 1)
        log_scale = (scale - self.floor[:, None]).log().clamp(-5.9, 5.9)
        log_scale = 6.0 * torch.atanh(log_scale / 6.0)
        return torch.cat([logit, place, log_scale, logit.new_zeros(len(logit), 2)], 1)

    #: scale of a part by its standard deviation
    unit = 1.0
    #: smallest deviation of a part at the start, relative to the spacing of quantiles there; and
    #: smallest scale ever, relative to the smallest at the start: no density grows without bound
    least, least_scale = 0.3, 0.1

    def alike(self, out: Tensor, floor: float) -> None:
        """Set outputs (g, width) to a scale of one on that of encoded cells, for all columns."""
        place = self.centre_of(out)
        self.centre.zero_()
        self.scale.fill_(1.0)
        self.floor.fill_(floor)
        out[..., self.parts if self.parts > 1 else 0 :] = 0.0
        out[..., self.move] = place
        if self.parts == 1:
            self.own.fill_(1.0)

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
        each = torch.addcmul(scale.log().neg(), unit, unit, value=-0.5)
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
        inside = torch.where((x == 0)[..., None], 0.0, log1mexp(width[..., None] / scale))
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
