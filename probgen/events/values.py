"""Plain values of columns: from a data frame, from encoded rows, and where they are rounded.

A plain value is a number in table units; the code of a level; of a date or a duration, days
since the column's origin. NaN is a hole.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probgen import cells
from probgen.columns import Column
from probgen.decoding import real_values, to_ticks
from probgen.schema import Schema
from probgen.table import Unseen, codes_of, days, values_of

__all__ = ["constant_of", "edges_of", "from_encoded", "from_frame", "step_of"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def from_frame(
    frame: pd.DataFrame, schema: Schema, names: Iterable[Hashable], unseen: Unseen = "error"
) -> dict[Hashable, Floats]:
    """Plain values (n,) of some columns of a data frame; a column that it lacks is all holes."""
    found: dict[Hashable, Floats] = {}
    for name in names:
        column = schema[name]
        if name not in frame.columns:
            found[name] = np.full(len(frame), np.nan)
        elif column.labelled:
            codes = codes_of(frame[name], column, unseen)
            found[name] = np.where(codes < 0, np.nan, codes.astype(np.float64))
        else:
            found[name] = values_of(frame[name], column)[0]
    return found


def from_encoded(x: Floats, seen: Bools, column: Column, slots: list[int]) -> Floats:
    """Plain values (n,) that encoded rows stand for: what `decode` would write."""
    own, known = x[:, slots], seen[:, slots]
    if column.role == "constant":
        return np.full(len(x), constant_of(column))
    if column.labelled:
        return np.where(known[:, 0], np.rint(own[:, 0]), np.nan)
    if column.kind == "count":
        lower, upper = column.support()
        values = np.clip(np.rint(own[:, 0]) + lower, lower, upper)
        return np.where(known[:, 0], values, np.nan)
    with np.errstate(over="ignore"):  # what is too large is clipped to the largest number
        values, hole = real_values(own, known, column)
    return np.where(hole, np.nan, _on_ticks(values, column))


def _on_ticks(values: Floats, column: Column) -> Floats:
    """Days as they are written: whole ticks of the column's unit."""
    if not column.unit:
        return values
    origin, unit = int(column.origin or 0), str(column.unit)
    return days(to_ticks(values, column), np.zeros(values.shape, bool), unit, origin, unit)


def constant_of(column: Column) -> float:
    """The plain value of a constant column."""
    if column.labelled:
        return float((column.levels or (column.constant,)).index(column.constant))
    return 0.0 if column.kind == "date" else float(column.constant)


def step_of(column: Column) -> float | None:
    """The step to which values are rounded when they are written, in plain units, or None.

    A column on a grid, a whole-number column that is modelled as a real one, and dates of a
    coarse unit.
    """
    if column.grid:
        return float(column.grid)
    if column.unit:
        return 1 / cells.PER_DAY[str(column.unit)] if column.unit in ("D", "s") else None
    whole = column.dtype.lower().removeprefix("arrow:").startswith(("int", "uint"))
    return 1.0 if whole else None


def edges_of(column: Column, turns: Floats) -> Floats:
    """Where an event may change along a real-like column, in encoded units.

    Parameters
    ----------
    turns : ndarray (..., t)
        Plain values at which a comparison turns; NaN for none.

    Returns
    -------
    ndarray (..., t) or (..., 2 t)
        Ends of the cell around each turn where the column is rounded: a recorded value stands
        for its cell. -inf and inf outside the support, NaN for none.
    """
    if step := step_of(column):
        near = np.rint(turns / step)
        turns = np.concatenate([(near - 0.5) * step, (near + 0.5) * step], -1)
    lower, upper = column.support()
    inside = (turns > lower) & (turns < upper)
    plain: Any = replace(column, grid=None)  # the ends of cells are not moved inside
    with np.errstate(all="ignore"):
        free = (plain.forward(np.where(inside, turns, np.nan)) - column.loc) / column.scale
    beyond = np.where(turns >= upper, np.inf, np.where(turns <= lower, -np.inf, np.nan))
    return np.where(inside, free, beyond)
