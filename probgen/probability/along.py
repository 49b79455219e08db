"""Densities of cells along one column: panels between turns of an event, and their integrals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from probgen.columns import Column
from probgen.errors import NotSupported
from probgen.events import Event
from probgen.events.nodes import Values
from probgen.events.values import edges_of, from_encoded
from probgen.probability.quadrature import POINTS, Axis, Goal, Panels, integrate
from probgen.probability.source import Rows, Source, TooHard

__all__ = ["Accuracy", "Along", "panel_ends", "plain_along", "relative"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

#: draws that say where the peaks of a cell are, and the ranks among them at which it is cut
DRAWS, RANKS = 48, (0, 6, 12, 18, 24, 30, 36, 42, 47)
#: ends of panels beyond the draws, in multiples of their range
WIDENING = (0.5, 2.0, 8.0, 32.0, 1e3, 1e5)


def relative(source: Source, cells: Rows, reference: Floats) -> Floats:
    """Density (c,) of cells over exp(reference)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.nan_to_num(np.exp(source.log_prob(cells) - reference), posinf=0.0)


def panel_ends(event: Event, along: Column, axis: Axis, values: Values) -> Floats:
    """Ends of panels (1 or r, 1 or cells, e) between which the event does not change.

    Comparisons with columns that `values` lacks are left aside.
    """
    found = [np.full((1, 1, 1), np.nan)]
    for part in event.comparisons:
        if along.name not in part.columns or not part.columns <= {along.name, *values}:
            continue
        turns = part.turns(along.name, values)
        if turns is None:
            raise TooHard
        turns = turns.reshape(*[1] * (4 - turns.ndim), *turns.shape)[:, :, 0, :]
        found.append(turns)
    shape = np.broadcast_shapes(*[t.shape[:2] for t in found])
    turns = np.concatenate([np.broadcast_to(t, (*shape, t.shape[-1])) for t in found], -1)
    if along.real_like:
        encoded = edges_of(along, turns)
    else:
        whole = np.rint(turns) - along.support()[0]
        encoded = np.concatenate([whole - 0.5, whole + 0.5], -1)
    place = np.where(np.isnan(encoded), axis.base[0], axis.place(np.nan_to_num(encoded)))
    place = np.where(np.isposinf(encoded), axis.base[-1], place)
    place = np.where(np.isneginf(encoded), axis.base[0], place)
    base = np.broadcast_to(axis.base, (*shape, len(axis.base)))
    return np.sort(np.concatenate([base, place], -1), -1)


def plain_along(
    column: Column, slots: list[int], axis: Axis, nodes: Floats, low: Floats
) -> Floats:  # fmt: skip
    """Plain values at nodes, as they would be written; of counts, at the first of a panel."""
    if not column.real_like:
        return low + 0.5 + column.support()[0]
    flat = axis.encoded(nodes).ravel()
    x = np.zeros((len(flat), len(slots)))
    x[:, -1] = flat
    seen = np.ones(x.shape, bool)
    return from_encoded(x, seen, column, list(range(len(slots)))).reshape(nodes.shape)


@dataclass(frozen=True)
class Accuracy:
    """How exact integrals must be.

    Attributes
    ----------
    relative, background : float
        As in `Goal`.
    missed : float
        What the panels of a cell may miss of its known total before its peaks are looked for,
        relative to the largest total of a cell of its row.
    shared : bool
        Whether the masses of all rows are summed later: what is small beside the largest may
        then be less exact.
    """

    relative: float = 1e-8
    background: float = 1e-7
    missed: float = 1e-6
    shared: bool = False


@dataclass
class Along:
    """Densities of cells along one slot."""

    source: Source
    cells: Rows
    axis: Axis
    slot: int
    reference: Floats
    owner: Ints
    accuracy: Accuracy

    def height(self, cell: Ints, nodes: Floats) -> Floats:
        """Density relative to the reference, per unit of the node."""
        rows = self.cells.take(np.repeat(cell, POINTS))
        rows.put(self.slot, self.axis.encoded(nodes).ravel())
        found = relative(self.source, rows, np.repeat(self.reference[cell], POINTS))
        return found.reshape(nodes.shape) * self.axis.slope(nodes)

    def panels(self, low: Floats, high: Floats, factor: Floats) -> tuple[Panels, Floats]:
        """Integrals over panels (cells, p), and what each cell's panels miss of its total."""
        total, how = relative(self.source, self.cells, self.reference), self.accuracy
        goal = Goal(self.owner, total, how.relative, how.background, how.shared)
        open_ = np.greater(total, 0) & factor.any(axis=1)
        some = np.greater(high, low) & open_[:, None]
        cell, at = np.nonzero(some)
        start = Panels.of(cell, low[cell, at], high[cell, at], factor[cell, at])
        if not len(start):
            return start, np.zeros(len(total))
        found = integrate(self.axis, start, self.height, goal)
        missed = self._missed(found, total)
        by_row = np.zeros(int(self.owner.max()) + 1)
        np.maximum.at(by_row, self.owner, total)
        scale = np.full(len(total), total.max()) if how.shared else by_row[self.owner]
        bad = np.flatnonzero((missed > how.missed * scale) & some.any(1))
        if len(bad):
            again = integrate(self.axis, self._cut(start, bad), self.height, goal)
            found = Panels.joined([found.take(~np.isin(found.cell, bad)), again])
            missed = self._missed(found, total)
        return found, np.where((missed > 2 * how.missed * scale) & some.any(1), missed, 0.0)

    @staticmethod
    def _missed(found: Panels, total: Floats) -> Floats:
        return np.abs(total - np.bincount(found.cell, found.value, len(total)))

    def _cut(self, start: Panels, bad: Ints) -> Panels:
        """The panels of some cells, cut where draws lie: a narrow peak slips through nodes."""
        try:
            hints = self._hints(bad)
        except NotSupported:
            hints = np.zeros((len(bad), 0))
        parts = []
        for cell, cuts in zip(bad.tolist(), hints, strict=True):
            own = start.take(start.cell == cell)
            ends = np.unique(np.concatenate([own.low, own.high, cuts]))
            low, high = ends[:-1], ends[1:]
            order = own.low.argsort()
            inside = np.searchsorted(own.low[order], (low + high) / 2, "right") - 1
            factor = own.factor[order][inside]
            parts.append(Panels.of(np.full(len(low), cell), low, high, factor))
        return Panels.joined(parts)

    def _hints(self, bad: Ints) -> Floats:
        generator = torch.Generator().manual_seed(0)
        rows = self.cells.take(np.repeat(bad, DRAWS))
        drawn = self.source.completed(rows, generator)[:, self.slot].reshape(len(bad), DRAWS)
        drawn = np.sort(drawn, 1)[:, list(RANKS)]
        # beyond the draws the panels widen, so that no node is far from all mass next to it
        span = np.maximum(drawn[:, -1:] - drawn[:, :1], 1e-12) * np.array(WIDENING)
        wide = np.concatenate([drawn - 0.5, drawn + 0.5], 1) if self.axis.whole else drawn
        ends = [wide, drawn[:, :1] - span, drawn[:, -1:] + span]
        return self.axis.place(np.concatenate(ends, 1))
