"""Unseen cells given the seen ones of their row, one cell at a time, as distributions.

A family with closed forms states each unseen cell as a finite mixture; means, medians, modes
and quantiles follow from it here, exactly. Families without get the same from draws. Several
fits of one family are mixed by joining their parts.

Sizes: c cells of one slot, k parts of a mixture, b basis densities, s draws.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy.special import stdtr, stdtrit
from torch import Tensor

from probgen.columns import Slot
from probgen.counts import CountLeaf
from probgen.leaves import Leaf, RealLeaf
from probgen.likelihoods import Components, MixedRows

__all__ = [
    "Cells", "Conditionals", "Counts", "Drawn", "Levels", "Reals", "atom_slots", "conditionals",
    "from_draws", "mixed", "unseen_rows",
]  # fmt: skip

#: share of the weight of a mixture whose parts are left out where quantiles are solved for
NEGLIGIBLE = 1e-10
#: width, relative to the scale of the parts, at which solving for a quantile stops
PRECISION = 1e-9
#: halvings at most: a bracket of 1e6 scales shrinks to 1e-12 of one
HALVINGS = 60
#: quantiles of each part over which a function of the value is averaged
POINTS = 64


# The masses of the cells of a column with atoms are the probabilities of no atom: all classes
# below keep what is not normalised, so that fits are joined by their masses.


@dataclass
class Reals:
    """Mixtures of Student's t (or normals, dof infinite): weights, mean, scale, dof (c, k)."""

    weights: Tensor
    mean: Tensor
    scale: Tensor
    dof: Tensor

    @classmethod
    def of_leaf(cls, leaf: RealLeaf, weights: Tensor) -> Reals:
        """From basis weights (c, b) of a flexible leaf."""
        shape = weights.shape
        centre, width = leaf.centre.expand(shape), leaf.width.expand(shape)
        return cls(weights, centre, width, torch.full_like(weights, torch.inf))

    def __len__(self) -> int:
        return len(self.weights)

    def scaled(self, share: Tensor) -> Reals:
        """The same with the mass of each cell times share (c,)."""
        return Reals(self.weights * share[:, None], self.mean, self.scale, self.dof)

    def joined(self, other: Reals) -> Reals:
        """The mixture of both."""
        return Reals(*(torch.cat([getattr(self, n), getattr(other, n)], 1)
                       for n in ("weights", "mean", "scale", "dof")))  # fmt: skip

    def centre(self) -> Tensor:
        """The mean (c,)."""
        share = self.weights / self.weights.sum(1, keepdim=True)
        return (share * self.mean).sum(1)

    def average(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The mean (c,) of a function of the value, over `POINTS` quantiles of every part.

        Where the mean is infinite, as of the exponential of a Student's t, the quantiles leave
        the outermost share ``1 / (2 * POINTS)`` of each tail out.
        """
        slim = self._slim()
        level = (np.arange(POINTS) + 0.5) / POINTS
        step = torch.from_numpy(stdtrit(slim.dof.cpu().numpy()[..., None], level))
        value = slim.mean[..., None] + slim.scale[..., None] * step.to(slim.mean.device)
        share = slim.weights / slim.weights.sum(1, keepdim=True)
        return (share * function(value).to(share.device).mean(-1)).sum(1)

    def cdf(self, value: Tensor) -> Tensor:
        """Probability (c,) of at most value (c,)."""
        z = (value[:, None] - self.mean) / self.scale
        below = torch.from_numpy(stdtr(self.dof.cpu().numpy(), z.cpu().numpy())).to(z.device)
        return (self.weights * below).sum(1) / self.weights.sum(1)

    def quantile(self, level: Tensor) -> Tensor:
        """The value (c,) below which lies level (c,), 0 < level < 1: by halving."""
        slim = self._slim()
        low, high = slim._bracket(level)
        size = torch.where(slim.weights > 0, slim.scale, torch.inf).amin(1)
        active = torch.arange(len(level), device=level.device)
        for _ in range(HALVINGS):
            middle = 0.5 * (low[active] + high[active])
            above = slim._take(active).cdf(middle) >= level[active]
            high[active] = torch.where(above, middle, high[active])
            low[active] = torch.where(above, low[active], middle)
            active = active[(high - low)[active] > PRECISION * size[active]]
            if not len(active):
                break
        return 0.5 * (low + high)

    def _take(self, rows: Tensor) -> Reals:
        return Reals(self.weights[rows], self.mean[rows], self.scale[rows], self.dof[rows])

    def _slim(self) -> Reals:
        """Without parts of negligible weight: their distribution functions cost the most."""
        if not len(self.weights):
            return self
        weights, order = self.weights.sort(1, descending=True)
        rest = weights.flip(1).cumsum(1).flip(1) / weights.sum(1, keepdim=True)
        keep = max(1, int((rest > NEGLIGIBLE).sum(1).max()))
        order = order[:, :keep]
        return Reals(weights[:, :keep], *(
            value.gather(1, order) for value in (self.mean, self.scale, self.dof)
        ))  # fmt: skip

    def _bracket(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Values (c,) between which the quantile lies."""
        spread = self.scale.amax(1)
        low, high = self.mean.amin(1) - spread, self.mean.amax(1) + spread
        for _ in range(HALVINGS):
            under, over = self.cdf(low) > level, self.cdf(high) < level
            if not bool((under | over).any()):
                break
            low, high = (
                torch.where(under, low - spread, low),
                torch.where(over, high + spread, high),
            )
            spread = 2 * spread
        return low, high


@dataclass
class Levels:
    """Probabilities (c, size) of codes, not normalised; codes that may not be named have 0."""

    probs: Tensor

    def __len__(self) -> int:
        return len(self.probs)

    def scaled(self, share: Tensor) -> Levels:
        """The same with the mass of each cell times share (c,)."""
        return Levels(self.probs * share[:, None])

    def joined(self, other: Levels) -> Levels:
        """The mixture of both."""
        return Levels(self.probs + other.probs)

    def mode(self) -> Tensor:
        """The most probable code (c,)."""
        return self.probs.argmax(1).double()

    def quantile(self, level: Tensor) -> Tensor:
        """The least code (c,) that reaches the level (c,)."""
        below = self.probs.cumsum(1)
        code = (below < level[:, None] * below[:, -1:]).sum(1)
        return code.clamp_max(self.probs.shape[1] - 1).double()


@dataclass
class Counts:
    """Mixtures over the bases of one leaf a fit: a list of (leaf, basis weights (c, b))."""

    parts: list[tuple[CountLeaf, Tensor]]

    def __len__(self) -> int:
        return len(self.parts[0][1])

    def scaled(self, share: Tensor) -> Counts:
        """The same with the mass of each cell times share (c,)."""
        return Counts([(leaf, weights * share[:, None]) for leaf, weights in self.parts])

    def joined(self, other: Counts) -> Counts:
        """The mixture of both."""
        return Counts(self.parts + other.parts)

    def _mass(self) -> Tensor:
        return torch.stack([weights.sum(1) for _, weights in self.parts]).sum(0)

    def centre(self) -> Tensor:
        """The mean (c,), not rounded."""
        total = torch.stack([weights @ leaf.basis_means() for leaf, weights in self.parts]).sum(0)
        return total / self._mass()

    def cdf(self, value: Tensor) -> Tensor:
        """Probability (c,) of at most value (c,)."""
        values, back = value.unique(return_inverse=True)
        total = torch.zeros_like(value)
        for leaf, weights in self.parts:
            below = leaf.cumulative(values)
            total += (weights * below[back]).sum(1)
        return total / self._mass()

    def quantile(self, level: Tensor) -> Tensor:
        """The least count (c,) whose probability of at most it reaches the level (c,)."""
        low = torch.full_like(level, -1.0)  # below every count
        high = self.centre().clamp_min(1.0).ceil()
        while bool((under := self.cdf(high) < level).any()):
            high = torch.where(under, 2 * high, high)
        while bool((high - low > 1).any()):
            middle = ((low + high) / 2).floor()
            above = self.cdf(middle) >= level
            high, low = torch.where(above, middle, high), torch.where(above, low, middle)
        return high


@dataclass
class Drawn:
    """Equally likely draws (c, s) of numbers, of which `weights` (c, s) count."""

    values: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def scaled(self, share: Tensor) -> Drawn:
        """The same with the mass of each cell times share (c,)."""
        return Drawn(self.values, self.weights * share[:, None])

    def joined(self, other: Drawn) -> Drawn:
        """The mixture of both."""
        return Drawn(
            torch.cat([self.values, other.values], 1), torch.cat([self.weights, other.weights], 1)
        )

    def centre(self) -> Tensor:
        """The mean (c,)."""
        return (self.values * self.weights).sum(1) / self.weights.sum(1).clamp_min(1e-300)

    def average(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The mean (c,) of a function of the value."""
        share = self.weights / self.weights.sum(1, keepdim=True).clamp_min(1e-300)
        return (share * function(self.values).to(share.device)).sum(1)

    def cdf(self, value: Tensor) -> Tensor:
        """Share (c,) of draws of at most value (c,)."""
        below = (self.values <= value[:, None]) * self.weights
        return below.sum(1) / self.weights.sum(1).clamp_min(1e-300)

    def quantile(self, level: Tensor) -> Tensor:
        """The least draw (c,) that reaches the level (c,)."""
        values, order = self.values.sort(1)
        below = self.weights.gather(1, order).cumsum(1)
        place = (below < level[:, None] * below[:, -1:]).sum(1, keepdim=True)
        return values.gather(1, place.clamp_max(values.shape[1] - 1))[:, 0]


Cells: TypeAlias = Reals | Levels | Counts | Drawn
#: by slot: the rows (c,) whose cell is unseen, and what the cell may hold
Conditionals: TypeAlias = dict[int, tuple[Tensor, Cells]]


def atom_slots(slots: Sequence[Slot]) -> dict[int, int]:
    """By real slot of a column with atoms, the slot that says which atom a row holds."""
    return {
        i: i - 1
        for i, slot in enumerate(slots)
        if i and slot.kind == "real" and slots[i - 1].column == slot.column
    }


def unseen_rows(slots: Sequence[Slot], seen: Tensor) -> dict[int, Tensor]:
    """By slot, the rows (c,) whose cell is unseen; of a seen atom nothing is left open."""
    atoms = atom_slots(slots)
    off = ~seen
    found = {i: off[:, i] & off[:, atoms.get(i, i)] for i in range(len(slots))}
    return {i: mask.nonzero()[:, 0] for i, mask in found.items() if bool(mask.any())}


def conditionals(
    rows: MixedRows, slots: Sequence[Slot], x: Tensor, seen: Tensor, components: Components
) -> Conditionals:
    """Every unseen cell of rows x (n, m) under k components, given the seen cells of its row."""
    atoms = atom_slots(slots)
    parts: dict[int, list[tuple[Tensor, Cells]]] = {}
    number = torch.arange(len(x), device=x.device)
    for chunk in rows.chunks(x.double(), seen, components):
        r = chunk.logits.softmax(-1)
        hidden = None
        for i, off in unseen_rows(slots, chunk.seen).items():
            own = r[off]
            if i in atoms:  # the number counts where no atom is drawn
                own = own * components.leaves[atoms[i]].exp()[:, 0]
            if i in components.leaves:
                cells = _leaf_cells(rows.leaf(i), own @ components.leaves[i].exp())
            else:
                hidden = hidden or chunk.prepared.conditional(
                    chunk.piece.block, chunk.piece.block_seen
                )
                at = rows.real.index(i)
                cells = Reals(own, *(value[off][:, :, at] for value in hidden))
            parts.setdefault(i, []).append((number[chunk.at][off], cells))
    return {i: _stacked(found) for i, found in parts.items()}


def _leaf_cells(leaf: Leaf, weights: Tensor) -> Cells:
    if isinstance(leaf, RealLeaf):
        return Reals.of_leaf(leaf, weights)
    if isinstance(leaf, CountLeaf):
        return Counts([(leaf, weights)])
    return Levels(leaf.legal(weights))


def _stacked(parts: list[tuple[Tensor, Any]]) -> tuple[Tensor, Cells]:
    """Cells of several chunks as those of one, in the order of their rows."""
    at = torch.cat([rows for rows, _ in parts])
    order = at.argsort()
    each: list[Any] = [cells for _, cells in parts]
    if isinstance(each[0], Counts):
        leaf = each[0].parts[0][0]
        weights = torch.cat([cells.parts[0][1] for cells in each])[order]
        return at[order], Counts([(leaf, weights)])
    names = [f.name for f in fields(each[0])]
    return at[order], type(each[0])(
        *(torch.cat([getattr(cells, name) for cells in each])[order] for name in names)
    )


def from_draws(draws: Tensor, slots: Sequence[Slot], seen: Tensor) -> Conditionals:
    """Every unseen cell of n rows from s completions of them, draws (s, n, m)."""
    atoms = atom_slots(slots)
    found: Conditionals = {}
    for i, off in unseen_rows(slots, seen).items():
        values = draws[:, off, i].double().T
        if slots[i].kind == "category":
            codes = torch.nn.functional.one_hot(values.long(), slots[i].size).double()
            found[i] = off, Levels(codes.mean(1))
            continue
        weights = torch.full_like(values, 1 / len(draws))
        if i in atoms:
            weights = weights * (draws[:, off, atoms[i]].T == 0)
        found[i] = off, Drawn(values, weights)
    return found


def mixed(each: Sequence[Conditionals], share: Tensor) -> Conditionals:
    """Conditionals of several fits of one family as one; share (fits, n) weighs them by row."""
    found: Conditionals = {}
    for i, (off, _) in each[0].items():
        # all of one class: slots of one kind, fits of one family
        cells: list[Any] = [own[i][1].scaled(w[off]) for own, w in zip(each, share, strict=True)]
        found[i] = off, functools.reduce(lambda one, two: one.joined(two), cells)
    return found
