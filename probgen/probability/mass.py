"""The mass of an event in encoded rows, as sums over levels and one or two integrals.

For rows with some cells seen, ``mass = p(event, seen cells) / exp(reference)``. Only the columns
of the event matter: a family with exact marginals integrates all others out by itself. Discrete
columns are gone through value by value, those that the event does not tell apart at once;
along one real column, or a count of many values, the exact density is integrated, and along a
second one those integrals are.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from probgen.columns import Column
from probgen.events import Event
from probgen.events.nodes import Values
from probgen.events.values import step_of
from probgen.probability.along import Accuracy, Along, panel_ends, plain_along, relative
from probgen.probability.points import Points, axis_of, is_hard, left_out, plain, points_of
from probgen.probability.quadrature import POINTS, Axis, Goal, Panels, integrate
from probgen.probability.source import Rows, Source, TooDear, TooHard

__all__ = ["Mass", "Pieces", "mass", "pieces", "summed"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]

#: densities that a question may cost before it counts as too hard
DENSITIES = 8_000_000
#: values gone through jointly, at most
CELLS = 20_000
#: accuracy of an integral by itself
ALONE = Accuracy()
#: accuracy of the outer and the inner of two nested integrals
OUTER, INNER = Accuracy(1e-5), Accuracy(1e-6, 1e-4, 1e-3, shared=True)
#: densities that two nested integrals may cost for each row, and in all
NESTED_DENSITIES, NESTED_IN_ALL = 200_000, 4_000_000


@dataclass
class Mass:
    """Masses (r,), bounds of their errors, and whether they are sums of exact numbers."""

    value: Floats
    error: Floats
    exact: bool = True


@dataclass
class Pieces:
    """What a mass is made of: cells, and their panels along an axis.

    Attributes
    ----------
    rows : Rows
        One for each cell: the values of the discrete columns seen, those along the axis not.
    factor, mass, wrong : ndarray (c,)
        Of cells without an integral: what they count with, their mass, and its error.
    owner : ndarray (c,)
        The row of the question that a cell belongs to.
    panels : Panels or None
    """

    rows: Rows
    factor: Floats
    mass: Floats
    owner: Ints
    panels: Panels | None = None
    axis: Axis | None = None
    slot: int = -1
    wrong: Floats | None = None
    left_out: Floats | None = None


def mass(
    source: Source,
    event: Event,
    rows: Rows,
    fixed: Values,
    reference: Floats | None,
    accuracy: Accuracy = ALONE,
) -> Mass:
    """The mass of the event in each row.

    Parameters
    ----------
    source : Source
    event : Event
    rows : Rows of r rows
    fixed : dict of ndarray (r,)
        Plain values of the event's columns that the rows show, and of constant ones.
    reference : ndarray (r,), optional
        Log density that masses are relative to; None for that of each row, so that they are
        conditional probabilities.

    Raises
    ------
    TooHard
        If the event is tied to more columns than can be integrated, or would cost too much.
    """
    n = len(rows)
    holes = {name: np.full(n, np.nan) for name in event.columns}
    yes, no = (np.broadcast_to(h, n) for h in event.holds({**holes, **fixed}))
    ratio = reference is None
    if reference is None:
        reference = source.log_prob(rows) if not (yes | no).all() else np.zeros(n)
    value = np.where(yes, 1.0, 0.0)
    if not ratio and yes.any():
        at = np.flatnonzero(yes)
        value[at] = np.exp(source.log_prob(rows.take(at)) - reference[at])
    found = Mass(value, np.zeros(n))
    at = np.flatnonzero(~(yes | no))
    if len(at):
        open_ = _open(source, event, rows.take(at), _taken(fixed, at), reference[at], accuracy)
        found.value[at], found.error[at] = open_.value, open_.error
        found.exact = open_.exact
    lost = ~np.isfinite(reference)  # what has density 0 cannot be conditioned on
    found.value[lost] = found.error[lost] = np.nan
    return found


def _taken(values: Values, rows: Ints) -> dict[Hashable, Floats]:
    return {name: value[rows] for name, value in values.items()}


def _open(
    source: Source,
    event: Event,
    rows: Rows,
    fixed: Values,
    reference: Floats,
    accuracy: Accuracy,
) -> Mass:
    """The mass where it depends on cells that are not seen."""
    free = [source.schema[name] for name in event.columns if name not in fixed]
    # steps of a rounded column are no trouble along it, and are to the other integral
    hard = sorted((c for c in free if is_hard(event, c)), key=_smoothness)

    def along(column: Column | None) -> Mass:
        made = pieces(source, event, rows, fixed, reference, column, accuracy=accuracy)
        return summed(made, len(rows))

    if len(hard) < 2:
        counts = [c for c in free if c.kind == "count" and is_hard(event, c, 64)]
        more = [column for column in counts if column not in hard]
        try:
            found = along(hard[0] if hard else None)
        except TooHard:
            if not more or len(hard) + len(more) > 2:
                raise
            hard += more
        else:
            counts = [column for column in free if column.kind == "count"]
            if not hard and len(counts) == 1 and (found.error > 1e-6 * found.value).any():
                return along(counts[0])  # a small difference of large sums: add up the tail
            return found
    if len(hard) == 1:
        return along(hard[0])
    if len(hard) > 2:
        raise TooHard
    try:
        return _nested(source, event, rows, fixed, reference, hard[0])
    except TooDear:
        raise
    except TooHard:  # a comparison may be simple in one column and not in the other
        return _nested(source, event, rows, fixed, reference, hard[1])


def _smoothness(column: Column) -> int:
    """Counts come first, then rounded columns."""
    return 0 if not column.real_like else 1 if step_of(column) else 2


def summed(made: Pieces, n: int) -> Mass:
    """The masses of n rows from their parts."""
    signed = made.factor * made.mass
    value = np.bincount(made.owner, signed, n)
    error = 4e-16 * np.bincount(made.owner, np.abs(signed), n)
    if (made.factor >= 0).all():
        error = np.zeros(n)
    exact = made.panels is None
    if made.panels is not None and len(made.panels):
        panels = made.panels
        owner = made.owner[panels.cell]
        value += np.bincount(owner, panels.factor * panels.value, n)
        error += np.bincount(owner, np.abs(panels.factor) * panels.error, n)
        error += 4e-16 * np.bincount(owner, np.abs(panels.factor) * panels.value, n)
    if made.wrong is not None:
        error += np.bincount(made.owner, made.wrong, n)
    if made.left_out is not None:
        error += made.left_out
        exact = exact and not made.left_out.any()
    return Mass(np.maximum(value, 0.0), np.asarray(error, np.float64), exact)


# --- sums over discrete columns, and one integral ---------------------------------------------


def pieces(
    source: Source,
    event: Event,
    rows: Rows,
    fixed: Values,
    reference: Floats,
    along: Column | None,
    whole: bool = False,
    accuracy: Accuracy = ALONE,
) -> Pieces:
    """The parts of a mass; with `whole`, parts that can be drawn from: no negative ones."""
    free = [source.schema[name] for name in event.columns if name not in fixed]
    points = [points_of(source, event, c, whole) for c in free if c is not along]
    sizes = [len(p.values) for p in points]
    count = int(np.prod(sizes, dtype=float))
    if count > CELLS or len(rows) * count > DENSITIES / 16:
        raise TooHard
    places = np.unravel_index(np.arange(count), sizes) if sizes else ()
    values = plain(fixed, 2)
    for point, place in zip(points, places, strict=True):
        values[point.column.name] = point.values[place][None, :, None]
    grid = _Grid(source, event, rows, points, list(places), values, reference, whole, accuracy)
    made = grid.counted() if along is None else grid.integrated(along)
    made.left_out = sum(
        (left_out(source, point, rows, reference) for point in points), np.zeros(len(rows))
    )
    return made


@dataclass
class _Grid:
    """All values of the discrete columns jointly, over all rows."""

    source: Source
    event: Event
    rows: Rows
    points: list[Points]
    places: list[Ints]
    values: dict[Hashable, Floats]
    reference: Floats
    whole: bool
    accuracy: Accuracy

    @property
    def count(self) -> int:
        return len(self.places[0]) if self.places else 1

    def factors(self, values: Values) -> Floats:
        """What each cell and panel counts with, (1 or r, cells, p).

        The last value of a column with a rest is not seen: its density is that of all values,
        so the listed ones count with their difference to the rest.
        """
        yes = np.atleast_3d(self.event.holds(values)[0]).astype(np.float64)
        shape = (yes.shape[0], self.count, yes.shape[2])
        factor = np.broadcast_to(yes, shape).copy()
        sizes = [len(point.values) for point in self.points]
        factor = factor.reshape(shape[0], *sizes, shape[2])
        for axis, point in enumerate(self.points, start=1):
            if not point.rest:
                continue
            last = np.take(factor, [-1], axis)
            if self.whole and last.any():
                raise TooHard
            factor -= last
            where = [slice(None)] * factor.ndim
            where[axis] = slice(-1, None)
            factor[tuple(where)] = last
        return factor.reshape(shape[0], self.count, shape[2])

    def cells(self, kept: Ints) -> Rows:
        """A row for each row and each cell that is kept, (r * kept)."""
        made = self.rows.take(np.repeat(np.arange(len(self.rows)), len(kept)))
        for point, place in zip(self.points, self.places, strict=True):
            at = np.tile(place[kept], len(self.rows))
            seen = at < len(point.values) - 1 if point.rest else np.ones(len(at), bool)
            made.put(point.slot, point.encoded[at], seen)
        return made

    def relative(self, cells: Rows, kept: int) -> Floats:
        """Density (r * kept,) of cells relative to the reference of their row."""
        return relative(self.source, cells, np.repeat(self.reference, kept))

    def counted(self) -> Pieces:
        """Nothing is integrated."""
        factor = self.factors(self.values)[..., 0]
        kept = np.flatnonzero(factor.any(0))
        cells = self.cells(kept)
        factor = np.broadcast_to(factor[:, kept], (len(self.rows), len(kept))).ravel()
        owner = np.repeat(np.arange(len(self.rows)), len(kept))
        return Pieces(cells, factor, self.relative(cells, len(kept)), owner)

    def integrated(self, along: Column) -> Pieces:
        """An integral along one column in each cell."""
        n, axis = len(self.rows), axis_of(along)
        slots = self.source.schema.slots_of([along.name])
        edges = panel_ends(self.event, along, axis, self.values)
        low, high = edges[..., :-1], edges[..., 1:]
        middle = plain_along(along, slots, axis, (low + high) / 2, low)
        factor = self.factors({**self.values, along.name: middle})
        atoms = np.asarray(along.atoms, np.float64)
        at_atoms = self.factors({**self.values, along.name: atoms[None, None, :]})
        inside = np.where(high > low, factor, 0.0)
        kept = np.flatnonzero(inside.any((0, 2)) | at_atoms[..., : len(atoms)].any((0, 2)))
        k = len(kept)
        if not k:
            return self._nothing()
        if n * k * len(axis.base) * POINTS > DENSITIES:
            raise TooHard
        cells = self.cells(kept)
        if len(slots) > 1:
            cells.put(slots[0], 0.0)
        shape = (n, k, low.shape[-1])
        spread = [np.broadcast_to(a[:, kept] if a.shape[1] > 1 else a, shape).reshape(n * k, -1)
                  for a in (low, high, inside)]  # fmt: skip
        owner = np.repeat(np.arange(n), k)
        line = Along(
            self.source, cells, axis, slots[-1], np.repeat(self.reference, k), owner, self.accuracy
        )
        panels, wrong = line.panels(*spread)
        nothing = np.zeros(n * k)
        made = Pieces(cells, nothing, nothing, owner, panels, axis, slots[-1], wrong)
        return self._with_atoms(made, at_atoms, kept, slots[0]) if len(atoms) else made

    def _nothing(self) -> Pieces:
        """No cell in which the event can happen."""
        none = np.zeros(0)
        return Pieces(self.cells(np.zeros(0, np.intp)), none, none, none.astype(np.intp))

    def _with_atoms(self, made: Pieces, factor: Floats, kept: Ints, slot: int) -> Pieces:
        """The same with a cell more for each cell and atom."""
        n, count = len(self.rows), factor.shape[2]
        base = self.cells(kept)
        cells = base.take(np.repeat(np.arange(len(base)), count))
        cells.put(slot, np.tile(np.arange(1.0, count + 1), len(base)))
        factor = np.broadcast_to(factor[:, kept], (n, len(kept), count)).ravel()
        relative = self.relative(cells, len(kept) * count)
        wrong = made.wrong if made.wrong is not None else np.zeros(len(base))
        rows = [made.rows, cells]
        context = made.rows.context
        return replace(
            made,
            rows=Rows(np.concatenate([r.x for r in rows]), np.concatenate([r.seen for r in rows]),
                      None if context is None else np.concatenate([context, cells.context])),  # type: ignore[list-item]
            factor=np.append(made.factor, factor), mass=np.append(made.mass, relative),
            owner=np.append(made.owner, np.repeat(made.owner, count)),
            wrong=np.append(wrong, np.zeros(len(cells))),
        )  # fmt: skip


# --- two integrals ----------------------------------------------------------------------------


def _nested(
    source: Source, event: Event, rows: Rows, fixed: Values, reference: Floats, outer: Column
) -> Mass:
    """An integral along one column of the mass given its value."""
    n, axis = len(rows), axis_of(outer)
    slots = source.schema.slots_of([outer.name])
    if n * (len(axis.base) * POINTS) * 300 > NESTED_IN_ALL:
        raise TooHard
    holes = {name: np.full((1, 1, 1), np.nan) for name in event.columns}
    values: Values = {**holes, **plain(fixed, 2)}
    ends = panel_ends(event, outer, axis, plain(fixed, 2))
    middle = plain_along(outer, slots, axis, (ends[..., :-1] + ends[..., 1:]) / 2, ends[..., :-1])
    possible = ~event.holds({**values, outer.name: middle})[1]
    shape = (n, ends.shape[-1] - 1)
    low, high, factor = (np.broadcast_to(a[:, 0], shape) for a in (
        ends[..., :-1], ends[..., 1:], np.broadcast_to(possible, middle.shape).astype(float),
    ))  # fmt: skip
    cells = rows.take(np.arange(n))
    if len(slots) > 1:
        cells.put(slots[0], 0.0)
    line = Along(source, cells, axis, slots[-1], reference, np.arange(n), OUTER)
    dense, wrong = line.panels(low, high, factor)
    limit = source.evaluated + n * NESTED_DENSITIES
    inner = _Inner(source, event, cells, fixed, reference, outer, axis, slots, limit)
    start = dense.take(dense.factor > 0)
    start = Panels.of(start.cell, start.low, start.high, start.factor)
    found = Mass(np.zeros(n), wrong, False)
    if len(start):
        panels = integrate(
            axis, start, inner.height, Goal(np.arange(n), np.ones(n), OUTER.relative)
        )
        found.value += np.bincount(panels.cell, panels.value, n)
        found.error += np.bincount(panels.cell, panels.error, n) + inner.share * found.value
    for code, atom in enumerate(outer.atoms, start=1):
        cells = rows.take(np.arange(n))
        cells.put(slots[0], float(code))
        here = mass(source, event, cells, {**fixed, outer.name: np.full(n, atom)}, reference)
        found.value += here.value
        found.error += here.error
    return found


@dataclass
class _Inner:
    """The inner integral as a function of the outer value."""

    source: Source
    event: Event
    cells: Rows
    fixed: Values
    reference: Floats
    outer: Column
    axis: Axis
    slots: list[int]
    limit: int
    #: sums of errors and values so far
    wrong: float = 0.0
    all: float = 0.0

    @property
    def share(self) -> float:
        """Error of the inner integrals, relative to their values."""
        return self.wrong / self.all if self.all else 0.0

    def height(self, cell: Ints, nodes: Floats) -> Floats:
        """The mass given the outer value, per unit of the node (k, 15)."""
        if self.source.evaluated > self.limit:
            raise TooDear
        each = np.repeat(cell, POINTS)
        rows = self.cells.take(each)
        rows.put(self.slots[-1], self.axis.encoded(nodes).ravel())
        flat = nodes.reshape(-1, 1)
        value = plain_along(self.outer, self.slots, self.axis, flat, flat - 0.5)[:, 0]
        fixed = {**_taken(self.fixed, each), self.outer.name: value}
        found = mass(self.source, self.event, rows, fixed, self.reference[each], INNER)
        slope = self.axis.slope(nodes)
        self.wrong += float(found.error @ slope.ravel())
        self.all += float(found.value @ slope.ravel())
        return found.value.reshape(nodes.shape) * slope
