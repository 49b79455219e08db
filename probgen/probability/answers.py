"""Probabilities of events, given rows: exact, by quadrature, or from draws."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probgen.answers import Answer
from probgen.events import Event
from probgen.events.nodes import Values
from probgen.events.values import constant_of, from_encoded
from probgen.probability.along import Accuracy
from probgen.probability.mass import ALONE, Mass, mass
from probgen.probability.source import Rows, Source, TooHard

__all__ = ["Answers", "Answer", "exact_answers", "plain_rows"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]

#: rows that are worked on at once
ROWS = 1024
#: rows up to which integrals are as exact as they can be, and how exact those of many are
FEW, MANY = 32, Accuracy(1e-5, 1e-4, 1e-3)


@dataclass
class Answers:
    """Probabilities of r rows; fields as those of `Answer`."""

    value: Floats
    se: Floats
    method: str
    ess: Floats

    def __getitem__(self, row: int) -> Answer:
        return Answer(
            float(self.value[row]), float(self.se[row]), self.method, float(self.ess[row])
        )


def plain_rows(source: Source, event: Event, x: Floats, seen: Bools) -> dict[Hashable, Floats]:
    """Plain values of the event's columns in encoded rows; NaN where not seen."""
    found = {}
    for name in event.columns:
        column = source.schema[name]
        if column.role != "context":
            slots = source.schema.slots_of([name])
            found[name] = from_encoded(x, seen, column, slots)
    return found


def known(event: Event, values: Values, n: int) -> dict[Hashable, Floats]:
    """The event's columns that are known, rows without them NaN; constant ones are."""
    found = {}
    for name in event.columns:
        column = event.schema[name]
        if name in values:
            value = np.asarray(values[name], np.float64)
            found[name] = value
            if column.role == "constant":
                found[name] = np.where(np.isnan(value), constant_of(column), value)
        elif column.role == "constant":
            found[name] = np.full(n, constant_of(column))
    return found


def _patterns(values: Values, n: int) -> Iterator[tuple[list[Hashable], Ints]]:
    """(columns that are known, rows) of each pattern of holes."""
    names = list(values)
    seen = np.stack([~np.isnan(values[name]) for name in names]) if names else np.zeros((0, n))
    kinds, which = np.unique(seen, axis=1, return_inverse=True)
    for k in range(kinds.shape[1]):
        own = [name for name, on in zip(names, kinds[:, k], strict=True) if on]
        yield own, np.flatnonzero(which.reshape(-1) == k)


def exact_answers(source: Source, event: Event, rows: Rows, values: Values) -> Answers:
    """P(event given the seen cells of each row), by sums and integrals.

    Parameters
    ----------
    source : Source
    event : Event
    rows : Rows of r rows
    values : dict of ndarray (r,)
        Plain values of columns of the event that the rows show; NaN in holes.

    Raises
    ------
    TooHard
        If that is not possible, or too expensive; or the family is not exact.
    """
    n = len(rows)
    all_known = known(event, values, n)
    first, back = _distinct(rows, all_known)
    rows, all_known = rows.take(first), {name: v[first] for name, v in all_known.items()}
    m = len(rows)
    accuracy = ALONE if m <= FEW else MANY
    found = Mass(np.full(m, np.nan), np.zeros(m))
    for names, at in _patterns(all_known, m):
        if len(names) < len(event.columns) and not source.exact:
            raise TooHard
        for start in range(0, len(at), ROWS):
            part = at[start : start + ROWS]
            fixed = {name: all_known[name][part] for name in names}
            own = mass(source, event, rows.take(part), fixed, None, accuracy)
            found.value[part], found.error[part] = own.value, own.error
            found.exact = found.exact and own.exact
    method = "exact" if found.exact else "quadrature"
    value, error = np.minimum(found.value, 1.0)[back], found.error[back]
    return Answers(value, error, method, np.full(n, np.inf))


def _distinct(rows: Rows, values: Values) -> tuple[Ints, Ints]:
    """The first of each kind of rows, and which kind each row is."""
    if len(rows) < 2:
        return np.arange(len(rows)), np.arange(len(rows))
    used = rows.seen.any(0)
    parts = [rows.x[:, used], rows.seen[:, used], *(v[:, None] for v in values.values())]
    if rows.context is not None:
        parts.append(rows.context)
    # holes are 0 in x, and must be equal in the plain values as well
    table = np.nan_to_num(np.concatenate([np.zeros((len(rows), 1)), *parts], 1), nan=-1e300)
    _, first, back = np.unique(table, axis=0, return_index=True, return_inverse=True)
    return first, back.reshape(-1)
