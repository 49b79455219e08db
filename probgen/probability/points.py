"""The columns of an event one by one: which values are gone through, which are integrated."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probgen.columns import Column
from probgen.events import Event
from probgen.events.nodes import Node
from probgen.probability.quadrature import Axis, Lattice, Line
from probgen.probability.source import Rows, Source, TooHard

__all__ = ["Points", "axis_of", "entangled", "is_hard", "left_out", "plain", "points_of"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: values of one column that are gone through, at most
MOST = 4096
#: levels from which those that the event does not tell apart are put together
FEW = 8
#: mass that a truncated count may leave out; it is part of the stated error
LEFT_OUT = 1e-9


@dataclass
class Points:
    """Values of one discrete column.

    Attributes
    ----------
    values : ndarray (k,)
        Plain values. With `rest`, the last one stands for all that are not listed, which the
        event does not tell apart: their mass is what the others leave.
    truncated : bool
        Whether values of small mass are left out.
    """

    column: Column
    slot: int
    values: Floats
    rest: bool = False
    truncated: bool = False

    @property
    def encoded(self) -> Floats:
        """Of each value."""
        lower = self.column.support()[0] if self.column.kind == "count" else 0.0
        return self.values - lower


def entangled(event: Event, name: Hashable) -> bool:
    """Whether a comparison ties a column to others."""
    return any(name in part.columns and len(part.columns) > 1 for part in event.comparisons)


def _turns(event: Event, name: Hashable) -> Floats | None:
    """Where comparisons of the column alone change; None where that is not known."""
    parts: Sequence[Node] = [part for part in event.comparisons if name in part.columns]
    found = [part.turns(name, {}) for part in parts if part.columns == {name}]
    if any(turns is None for turns in found):
        return None
    flat = np.concatenate([np.zeros(0), *(np.ravel(t) for t in found if t is not None)])
    return flat[~np.isnan(flat)]


def is_hard(event: Event, column: Column, most: int = MOST // 2) -> bool:
    """Whether a column is integrated: real, or a count tied to others or of many values."""
    if column.real_like:
        return True
    if column.kind != "count":
        return False
    if entangled(event, column.name):
        return True
    turns = _turns(event, column.name)
    if turns is None or not len(turns):
        return False
    lower, upper = column.support()
    if min(turns.max(), upper) - lower > 64 * MOST:
        return True
    return len(_apart(event, column, turns)[0]) > most


def _apart(event: Event, column: Column, turns: Floats) -> tuple[Floats, Floats]:
    """Values that the event tells from all values beyond the last turn, and these or none."""
    lower, upper = column.support()
    last = np.floor(np.clip(turns.max(initial=lower), lower, upper)) + 1
    values = np.arange(lower, min(last + 1, upper) + 1)
    told = _told(event, column.name, values)
    same = (told == told[:, -1:]).all(0)
    return values[~same], values[same][-1:]


def _told(event: Event, name: Hashable, values: Floats) -> Bools:
    """What the comparisons with a column make of its values, (comparisons, values)."""
    parts = [part for part in event.comparisons if name in part.columns]
    each = [np.broadcast_to(part.holds({name: values})[0], values.shape) for part in parts]
    return np.stack(each)


def axis_of(column: Column) -> Axis:
    """How to integrate along a column."""
    if column.real_like:
        return Line()
    lower, upper = column.support()
    return Lattice(upper - lower)


def points_of(source: Source, event: Event, column: Column, whole: bool) -> Points:
    """The values of a discrete column that the event tells apart.

    With `whole` every value stands for itself: nothing is put together, and the reserved
    level, which cannot be named, is left out.
    """
    slot = source.schema.slots_of([column.name])[0]
    tied = entangled(event, column.name)
    if column.labelled:
        return _levels(event, column, slot, tied, whole, source.reserves)
    turns = None if tied else _turns(event, column.name)
    lower, upper = column.support()
    if turns is None:
        return _truncated(source, column, slot)
    if min(turns.max(initial=lower), upper) - lower > 64 * MOST:
        raise TooHard
    apart, alike = _apart(event, column, turns)
    if whole:  # each value by itself, up to the last that is told apart
        apart = np.arange(lower, apart.max(initial=lower - 1) + 1)
        alike = np.array([apart.max(initial=lower - 1) + 1])
        alike = alike[alike <= upper]
    if len(apart) > MOST:
        raise TooHard
    return Points(column, slot, np.append(apart, alike), rest=len(alike) > 0)


def _levels(
    event: Event, column: Column, slot: int, tied: bool, whole: bool, reserves: bool
) -> Points:
    size = len(column.levels or ()) + (column.kind != "boolean" and reserves and not whole)
    codes = np.arange(size, dtype=np.float64)
    if not (tied or whole or size <= FEW):
        told = _told(event, column.name, codes)
        _, group, count = np.unique(told, axis=1, return_inverse=True, return_counts=True)
        group = group.reshape(-1)
        large = int(count.argmax())
        if count[large] > FEW:
            alike = codes[group == large]
            codes = np.append(codes[group != large], alike[0])
            if len(codes) > MOST:
                raise TooHard
            return Points(column, slot, codes, rest=True)
    if size > MOST:
        raise TooHard
    return Points(column, slot, codes)


def _truncated(source: Source, column: Column, slot: int) -> Points:
    """A count up to where almost all of its mass is."""
    lower, upper = column.support()
    size = 64
    while True:
        values = np.arange(min(size, upper - lower + 1))
        rows = source.none(len(values))
        rows.put(slot, values)
        mass = float(np.exp(source.log_prob(rows)).sum())
        if len(values) < size:
            return Points(column, slot, values + lower)
        if 1 - mass < LEFT_OUT:
            return Points(column, slot, values + lower, truncated=True)
        size *= 2
        if size > MOST:
            raise TooHard


def left_out(source: Source, points: Points, rows: Rows, reference: Floats) -> Floats:
    """Mass (r,) of the values that a truncated column leaves out, relative to the reference."""
    if not points.truncated:
        return np.zeros(len(rows))
    k = len(points.values)
    each = rows.take(np.repeat(np.arange(len(rows)), k))
    each.put(points.slot, np.tile(points.encoded, len(rows)))
    inside = np.exp(source.log_prob(each).reshape(len(rows), k) - reference[:, None]).sum(1)
    return np.maximum(np.exp(source.log_prob(rows) - reference) - inside, 0.0)


def plain(values: Mapping[Hashable, Floats], dims: int) -> dict[Hashable, Floats]:
    """Values (r,) of rows with `dims` more axes of length 1."""
    return {name: np.asarray(v).reshape(-1, *[1] * dims) for name, v in values.items()}
