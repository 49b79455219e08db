"""The way back of the codec: encoded values as a data frame of legal values."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probgen import cells
from probgen.columns import Column
from probgen.errors import SchemaError, message
from probgen.schema import Schema

__all__ = ["decode", "real_values", "to_ticks"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def decode(
    x: Floats,
    schema: Schema,
    index: pd.Index | None = None,
    seen: Bools | None = None,
    context: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Encoded values as a data frame: fitted columns and data types, legal values only.

    Parameters
    ----------
    x : ndarray (n, m)
        One column a slot of `Schema.slots`.
    schema : Schema
        What the columns are.
    index : Index, optional
        Of the result; a range by default.
    seen : ndarray (n, m) of bool, optional
        False makes the cell missing. A numpy integer or boolean column that must hold a hole
        becomes pandas' nullable type.
    context : DataFrame, optional
        Holds the context columns; without it they are left out.

    Raises
    ------
    SchemaError
        If x has another width, holds a value that is not finite, or the reserved code.
    """
    x = np.asarray(x, dtype=np.float64)
    n = len(x)
    if x.ndim != 2 or x.shape[1] != len(schema.slots):
        raise SchemaError(
            message(f"x of shape {x.shape}", f"(n, {len(schema.slots)})", "pass encoded rows")
        )
    seen = np.ones(x.shape, bool) if seen is None else np.asarray(seen, bool)
    if not np.isfinite(x[seen]).all():
        raise SchemaError(
            message("encoded values that are not finite", "finite values", "check the family")
        )
    data: dict[Hashable, Any] = {}
    place = 0
    for number, column in enumerate(schema.columns):
        if column.role == "context":
            if context is not None and column.name in context:
                data[column.name] = context[column.name].array
            continue
        width = len(column.slots(number))
        part = slice(place, place + width)
        place += width
        with np.errstate(over="ignore"):  # what is too large is clipped to the largest number
            data[column.name] = _decode_column(x[:, part], seen[:, part], column, n)
    rows = pd.RangeIndex(n) if index is None else index
    # one series a column: pandas would turn arrays of objects that are all text into str
    parts = {
        name: pd.Series(values, index=rows, dtype=getattr(values, "dtype", None), copy=False)
        for name, values in data.items()
    }
    return pd.DataFrame(parts, index=rows, columns=pd.Index(list(data)), copy=False)


def _decode_column(x: Floats, seen: Bools, column: Column, n: int) -> Any:
    if column.role == "empty":
        if column.levels is not None:
            return cells.write_labels(column.levels, np.full(n, -1), column.dtype)
        return cells.all_missing(n, column.dtype)
    if column.role == "constant":
        return _decode_constant(column, n)
    if column.labelled:
        size = len(column.levels or ())
        codes = np.where(seen[:, 0], np.rint(x[:, 0]), -1).astype(np.intp)
        if (codes >= size).any() or (codes[seen[:, 0]] < 0).any():
            raise SchemaError(
                message(
                    f"codes outside 0..{size - 1} for column {column.name!r}",
                    "codes of fitted levels: the reserved level has no value",
                    "leave the reserved code out when sampling",
                )
            )
        return cells.write_labels(column.levels or (), codes, column.dtype)
    if column.kind == "count":
        lower, upper = column.support()
        values = np.clip(np.rint(x[:, 0]) + lower, lower, upper)
        if column.dtype == "object":
            values = values.astype(np.int64)
        return cells.write(values, ~seen[:, 0], column.dtype)
    values, hole = real_values(x, seen, column)
    if column.unit:
        return cells.write(to_ticks(values, column), hole, column.dtype)
    return cells.write(values, hole, column.dtype)


def real_values(x: Floats, seen: Bools, column: Column) -> tuple[Floats, Bools]:
    """Values (n,) in table units, snapped to the grid, and the holes (n,)."""
    real = seen[:, -1]
    u = np.where(real, x[:, -1], 0.0) * column.scale + column.loc
    values = column.backward(np.nan_to_num(u))
    lower, upper = column.support()
    if column.grid and not column.unit:
        values = snap(values, column.grid, lower, upper, column.kind == "positive")
    elif column.dtype.lower().removeprefix("arrow:").startswith(("int", "uint")):
        # an integer column fitted as positive or bounded: whole numbers inside the support
        values = np.clip(np.rint(values), np.floor(lower) + 1, np.ceil(upper) - 1)
    values = _storable(values, column, lower, upper)
    if not column.atoms:
        return values, ~real
    codes = np.where(seen[:, 0], np.rint(x[:, 0]), 0).astype(np.intp)
    atoms = np.append(np.nan, column.atoms)
    return np.where(codes > 0, atoms[codes], values), ~(real | (codes > 0))


def _storable(values: Floats, column: Column, lower: float, upper: float) -> Floats:
    """Keep values inside the open support also after a cast to a short float type."""
    short = re.search(r"float(16|32)|arrow:(float|halffloat)$", column.dtype.lower())
    if short is None or column.grid or column.kind not in ("positive", "unit", "bounded"):
        return values
    kind = np.float16 if short[1] == "16" or short[2] == "halffloat" else np.float32
    least, most = (kind(lower), kind(min(upper, float(np.finfo(kind).max))))
    first = max(np.nextafter(least, most), np.finfo(kind).tiny if lower == 0 else -np.inf)
    last = np.nextafter(most, least) if math.isfinite(upper) else most
    return np.clip(values, float(first), float(last)).astype(kind).astype(np.float64)


def snap(values: Floats, grid: float, lower: float, upper: float, inside: bool) -> Floats:
    """Nearest whole multiples of `grid` in [lower, upper], or in (lower, upper) if `inside`.

    The result is the float nearest to the exact multiple: 3 steps of 0.1 are 0.3.
    """
    first = np.floor(lower / grid) + 1 if inside else np.ceil(lower / grid)
    last = np.ceil(upper / grid) - 1 if inside else np.floor(upper / grid)
    steps = np.clip(np.rint(values / grid), first, last)
    ratio = Fraction(repr(float(grid)))
    largest = np.abs(steps).max(initial=0) * ratio.numerator
    if max(largest, ratio.denominator) < cells.EXACT:
        return steps * ratio.numerator / ratio.denominator
    return steps * grid


def to_ticks(values: Floats, column: Column) -> NDArray[np.int64]:
    """Days as whole ticks of the column's unit, on its grid; the shift is in whole numbers."""
    per_day = cells.PER_DAY[str(column.unit)]
    step = max(1, round(column.grid * per_day)) if column.grid else 1
    origin = int(column.origin or 0)
    room = float(2**62)
    steps = np.clip(np.rint(values * (per_day / step)), -room / step, room / step)
    bottom, top = cells.tick_range(str(column.unit))
    shift = steps.astype(np.int64) * step
    return np.clip(shift, bottom - origin, top - origin) + origin


def _decode_constant(column: Column, n: int) -> Any:
    present = np.zeros(n, bool)
    if column.labelled:
        levels = column.levels or (column.constant,)
        codes = np.full(n, levels.index(column.constant), dtype=np.intp)
        return cells.write_labels(levels, codes, column.dtype)
    if column.kind == "date":
        return cells.write(np.full(n, column.origin, dtype=np.int64), present, column.dtype)
    values = np.full(n, float(column.constant))
    if column.unit:
        return cells.write(to_ticks(values, column), present, column.dtype)
    return cells.write(values, present, column.dtype)
