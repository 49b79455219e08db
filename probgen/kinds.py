"""Which kind a column is: the written rule of precedence, and what is learned from the data.

Precedence: (1) the override, (2) the data type, (3) the numbers.

By data type:

- booleans (bool, boolean, Arrow, objects that are all booleans): boolean;
- Categorical: ordered if it is declared ordered, else category, with all declared levels;
- text: category. If all of 20 or more values differ it is an identifier, and an error;
  if nearly all differ, or all look like dates, a warning;
- dates: date. Their grid is the largest step that all share (a day for plain dates);
- durations: as numbers, in days.

By the numbers, on the seen values:

1. none: empty, left out, unless levels are declared (a latent column). One distinct value:
   constant (also for text and dates), unless a Categorical declares more levels.
2. Whole numbers >= 0 (integer type, nullable, or floats with holes): count; but if six or more
   distinct values share a step above 1 (3750, 3775, 3800), gridded real or positive.
   Whole numbers with negatives: gridded real.
3. Other numbers. *Atom*: a value repeated at least ten times, in 1 % of the rows, and ten times
   as often as the 99th percentile of multiplicities of the other values (so that bootstrapped
   rows make none), and, in a gridded column, as the values beside it; at most five.
   *Grid*: the largest step of which all other values are whole multiples, where values repeat
   and a million steps or fewer span the interquartile range. *Positive*: all other values are
   above 0, and a log-normal has a higher likelihood than a normal by 0.05 + 2/n nats a row
   on their inner 98 % (Box and Cox 1964; unchanged by a change of unit); else *real*. A handful
   of distinct values with no common step: ordered.

Bounds come from the override only, never from the extremes that were observed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probgen import cells
from probgen.columns import LABELLED, Column
from probgen.errors import SchemaError, message, warn
from probgen.frames import to_frame
from probgen.grids import common_step, find_atoms, is_positive, location
from probgen.overrides import checked
from probgen.table import days

__all__ = ["infer_columns"]

Floats = NDArray[np.float64]

#: types that a level may have
LEVELS = (str, bool, int, float, pd.Timestamp)
IDENTIFIER_ROWS = 20
#: share of different values from which a column may be an identifier in a table with copies
NEARLY = 0.9
DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]|$)")
MANY_LEVELS = 1000
FEW_VALUES = 5
#: distinct values that must share a step before it is believed
STEP_EVIDENCE = 6


def infer_columns(
    table: Any, override: dict[Any, Any], context: tuple[Hashable, ...], dequantise: bool
) -> tuple[Column, ...]:
    """The columns of a table; see `Schema.infer`."""
    frame = to_frame(table)
    _check_shape(frame)
    _check_known(frame, [*override, *context])
    specs = {name: checked(name, value) for name, value in override.items()}
    columns = []
    for name in frame.columns.tolist():
        series: Any = frame[name]
        column = _infer(series, specs.get(name, {}), dequantise, name in context)
        if name in context and column.role != "empty":
            column = replace(column, role="context", constant=None)
        columns.append(replace(column, name=name))
    return tuple(columns)


def _check_shape(frame: pd.DataFrame) -> None:
    n, d = frame.shape
    # the wording that scikit-learn's estimator checks look for
    if d == 0:
        found = f"0 feature(s) (shape=({n}, 0)) while a minimum of 1 is required."
    elif n == 0:
        found = f"0 sample(s) (shape=(0, {d})) while a minimum of 2 is required."
    elif n == 1:
        found = "1 sample (n_samples = 1)"
    else:
        return
    needed = "at least one column" if d == 0 else "at least 2 rows"
    raise SchemaError(message(found, needed, "pass a table with data"))


def _check_known(frame: pd.DataFrame, names: list[Hashable]) -> None:
    foreign = [name for name in names if name not in frame.columns]
    if foreign:
        raise SchemaError(
            message(
                f"override or context for unknown column(s) {foreign}",
                f"columns among {list(frame.columns)}",
                "check the names",
            )
        )


def _infer(series: pd.Series, spec: dict[str, Any], dequantise: bool, context: bool) -> Column:
    stored = cells.storage(series)
    kind = spec.get("kind")
    name, dtype = series.name, cells.dtype_name(series)
    held = series.notna().to_numpy()
    if not held.any() and kind in LABELLED and spec.get("levels"):
        levels = tuple(spec["levels"])  # a latent column: declared, and never seen
        own = cells.dtype_name(pd.Series(list(levels)))
        return Column(name, kind, own, levels=levels, why="levels declared, never seen")
    if not held.any():
        return _empty(series, dtype, kind)
    if stored == "date" or kind == "date":
        _need(stored == "date" and kind in (None, "date"), series, kind, stored)
        return _infer_date(series, dtype, dequantise, context)
    if stored in ("text", "bool", "category") or kind in LABELLED:
        _need(kind is None or kind in LABELLED, series, kind, stored)
        _need(stored != "duration", series, kind, stored)
        return _infer_labels(series, spec, stored, dtype)
    values = cells.numbers(series)
    values = values if held.all() else values[~np.isnan(values)]
    whole = bool((np.rint(values) == values).all()) and np.abs(values).max() <= cells.EXACT
    unit = None
    if stored == "duration":
        count, _, unit = cells.ticks(series)
        step = _date_grid(np.unique(count[held]), cells.PER_DAY[unit])
        spec = {"grid": step} | spec
    column = Column(name, kind or "real", dtype, unit=unit)
    return _infer_numbers(column, values, spec, dequantise, whole and unit is None, context)


def _need(fits: bool, series: pd.Series, kind: str | None, stored: str) -> None:
    if not fits:
        raise SchemaError(
            message(
                f"kind {kind!r} for column {series.name!r}, which holds {stored} ({series.dtype})",
                "a kind that fits the data type",
                "convert the column, or choose another kind",
            )
        )


def _empty(series: pd.Series, dtype: str, kind: str | None) -> Column:
    _warn(f"column {series.name!r} is all missing", "a value", "it is left out of the model")
    levels = None
    if isinstance(series.dtype, pd.CategoricalDtype):
        levels = tuple(cells.scalar(level) for level in series.dtype.categories)
    return Column(series.name, kind or "real", dtype, role="empty", levels=levels, why="empty")


def _warn(found: str, needed: str, do: str) -> None:
    warn(message(found, needed, do))


def _warn_constant(name: Hashable, value: Any) -> None:
    _warn(
        f"column {name!r} is constant ({value!r})",
        "values that vary",
        "it is kept as a certainty: another value has density 0",
    )


# --- labels -----------------------------------------------------------------------------------


def _infer_labels(series: pd.Series, spec: dict[str, Any], stored: str, dtype: str) -> Column:
    name, kind = series.name, spec.get("kind")
    codes, found = cells.labels(series)
    used = np.bincount(codes[codes >= 0], minlength=len(found))
    levels, why = _levels(found, used, spec, stored, name)
    if kind is None:
        declared = stored == "category" and bool(getattr(series.dtype, "ordered", False))
        kind = "boolean" if stored == "bool" else "ordered" if declared else "category"
        why = f"data type {series.dtype}"
    if kind == "boolean" and len(levels) != 2:
        raise SchemaError(
            message(
                f"{len(levels)} level(s) in column {name!r}",
                "two for kind 'boolean'",
                "choose kind 'category'",
            )
        )
    _check_levels(name, levels)
    column = Column(name, kind, dtype, levels=levels, why=why)
    present = [cells.scalar(value) for value, count in zip(found, used, strict=True) if count]
    free = spec.get("kind") is None and (stored != "category" or len(levels) == 1)
    if len(present) == 1 and free:
        _warn_constant(name, present[0])
        return replace(column, role="constant", constant=present[0], why="one distinct value")
    if spec.get("kind") is None and stored == "text":
        _check_identifier(name, levels, int(used.sum()))
    if len(levels) > MANY_LEVELS:
        _warn(
            f"{len(levels)} levels in column {name!r}",
            f"at most {MANY_LEVELS} for good estimates",
            "group rare levels, or drop the column if it is an identifier",
        )
    return column


def _check_levels(name: Hashable, levels: tuple[Any, ...]) -> None:
    bad = [v for v in levels if not isinstance(v, LEVELS) or v in (math.inf, -math.inf)]
    if bad:
        kinds = sorted({type(value).__name__ for value in bad})
        raise SchemaError(
            message(
                f"levels of type {', '.join(kinds)} in column {name!r}, e.g. {bad[0]}",
                "texts, finite numbers, booleans or time stamps",
                "convert them, e.g. .cat.rename_categories(str)",
            )
        )


def _levels(
    found: pd.Index, used: NDArray[np.int64], spec: dict[str, Any], stored: str, name: Hashable
) -> tuple[tuple[Any, ...], str]:
    """Levels by code, and why: those given, those declared by the type, or those seen, sorted."""
    plain = [cells.scalar(value) for value in found]
    why = f"override: {spec.get('kind')}"
    if spec.get("levels") is not None:
        levels = tuple(cells.scalar(value) for value in spec["levels"])
        seen = [value for value, count in zip(plain, used, strict=True) if count]
        foreign = [value for value in seen if value not in set(levels)]
        if foreign or len(set(levels)) < len(levels):
            raise SchemaError(
                message(
                    f"levels {foreign[:5]} in column {name!r} that the override leaves out, "
                    "or levels given twice",
                    "every level once",
                    "correct levels=",
                )
            )
        return levels, why
    if stored == "bool":
        return (False, True), why
    if stored == "category":
        return tuple(plain), why
    if spec.get("kind") == "ordered" and stored == "text":
        raise SchemaError(
            message(
                f"kind 'ordered' for text in column {name!r}",
                "the order of its levels",
                "pass {'kind': 'ordered', 'levels': [...]} or an ordered Categorical",
            )
        )
    try:
        return tuple(sorted(plain)), why
    except TypeError:  # labels of several types, declared as category
        return tuple(sorted(plain, key=lambda value: (type(value).__name__, value))), why


def _check_identifier(name: Hashable, levels: tuple[Any, ...], n: int) -> None:
    distinct = len(levels)
    if distinct > FEW_VALUES and all(DATE.match(str(level)) for level in levels):
        _warn(
            f"dates as text in column {name!r} ({levels[0]!r}): {distinct} labels without order",
            "dates",
            f"convert it: pandas.to_datetime(table[{name!r}])",
        )
    elif n >= IDENTIFIER_ROWS and NEARLY * n <= distinct < n:
        _warn(
            f"{distinct} different texts in {n} rows of column {name!r}",
            "labels that repeat",
            "drop it if it is an identifier or free text, or group its levels",
        )
    if n >= IDENTIFIER_ROWS and distinct == n:
        raise SchemaError(
            message(
                f"{n} different texts in {n} rows: column {name!r} looks like an identifier",
                "labels that repeat",
                "drop it or declare it: {" + repr(name) + ": 'category'}",
            )
        )


# --- dates ------------------------------------------------------------------------------------


def _infer_date(series: pd.Series, dtype: str, dequantise: bool, context: bool) -> Column:
    count, hole, unit = cells.ticks(series)
    held = count[~hole]
    # the shift is an observed tick, so that the grid passes through day 0
    origin = int(np.partition(held, len(held) // 2)[len(held) // 2])
    column = Column(
        series.name, "date", dtype, unit=unit, tz=cells.zone(series.dtype), origin=origin,
        why=f"data type {series.dtype}",
    )  # fmt: skip
    distinct = np.unique(held)
    if len(distinct) == 1 and not context:
        _warn_constant(series.name, series.iloc[int(np.flatnonzero(~hole)[0])])
        return replace(column, role="constant", constant=origin, why="one distinct value")
    values = days(held, np.zeros(len(held), bool), unit, origin, unit)
    grid = _date_grid(distinct - origin, cells.PER_DAY[unit]) if dequantise else None
    return _centred(replace(column, grid=grid), values)


def _date_grid(shifts: NDArray[np.int64], per_day: int) -> float | None:
    """Common step of dates, in days: any where many share it, else one that clocks have."""
    step = int(np.gcd.reduce(np.abs(shifts)))
    if step == 0:
        return None
    if len(shifts) <= STEP_EVIDENCE:
        clock = [per_day // parts for parts in (1, 24, 1440, 86_400, 86_400_000) if
                 per_day % parts == 0]  # fmt: skip
        step = next((size for size in clock if step % size == 0), 1)
    spread = float(np.subtract(*np.quantile(shifts, [0.75, 0.25])))
    return step / per_day if step > 1e-9 * spread else None


# --- numbers ----------------------------------------------------------------------------------


def _infer_numbers(
    column: Column, values: Floats, spec: dict[str, Any], dequantise: bool, whole: bool,
    context: bool,
) -> Column:  # fmt: skip
    kind = spec.get("kind")
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) == 1 and kind != "count" and not context:
        _warn_constant(column.name, float(distinct[0]))
        value = float(distinct[0])
        return replace(column, role="constant", constant=value, why="one distinct value")
    step = int(np.gcd.reduce(np.abs(distinct).astype(np.int64))) if whole else 0
    if np.count_nonzero(distinct) < STEP_EVIDENCE:
        step = min(step, 1)
    if kind == "count" or (kind is None and whole and distinct[0] >= 0 and step <= 1):
        return _infer_count(column, values, distinct, spec)
    if kind is None and not whole and not column.unit and _few(distinct, counts):
        levels = tuple(distinct.tolist())
        return replace(column, kind="ordered", levels=levels, why="a handful of numbers")
    atoms, grid = _atoms_and_grid(distinct, counts, spec, float(step), column.dtype)
    if column.unit:
        atoms = ()
    rest = values[~np.isin(values, atoms)] if atoms else values
    why = f"override: {kind}"
    if kind is None:
        kind = "positive" if is_positive(rest) else "real"
        why = _why_real(kind, whole, grid)
    lower, upper = spec.get("lower"), spec.get("upper")
    column = replace(
        column, kind=kind, atoms=atoms, grid=grid if dequantise else None, why=why,
        lower=None if lower is None else float(lower), upper=None if upper is None else
        float(upper),
    )  # fmt: skip
    _check_support(column, rest)
    return _centred(column, rest)


def _few(distinct: Floats, counts: NDArray[np.int64]) -> bool:
    """Whether a handful of numbers, each often, share no step: labels rather than numbers."""
    few = len(distinct) <= FEW_VALUES and counts.sum() >= 10 * len(distinct)
    return few and common_step(distinct, counts) is None


def _why_real(kind: str, whole: bool, grid: float | None) -> str:
    first = "whole numbers with a common step" if whole else "numbers"
    second = "log-normal fits better than normal" if kind == "positive" else "kind real"
    return f"{first}; {second}" + (f"; rounded to {grid:g}" if grid else "")


def _infer_count(column: Column, values: Floats, distinct: Floats, spec: dict[str, Any]) -> Column:
    lower = float(spec.get("lower") or 0)
    upper = None if spec.get("upper") is None else float(spec["upper"])
    why = f"override: {spec['kind']}" if spec.get("kind") else "whole numbers from 0"
    column = replace(column, kind="count", lower=lower, upper=upper, why=why)
    _check_support(column, values)
    n = len(values)
    once = len(distinct) >= NEARLY * n  # some rows may be there twice
    if n >= IDENTIFIER_ROWS and once and distinct[-1] - distinct[0] == len(distinct) - 1:
        _warn(
            f"consecutive whole numbers in column {column.name!r}: it looks like a row number",
            "a measurement",
            "drop it if it is an identifier",
        )
    return column


def _atoms_and_grid(
    distinct: Floats, counts: NDArray[np.int64], spec: dict[str, Any], step: float, dtype: str
) -> tuple[tuple[float, ...], float | None]:
    """Atoms and grid of a real-like column; both may be set by the override."""
    single = "float32" in dtype.lower() or dtype == "arrow:float"

    def grid_of(keep: NDArray[np.bool_]) -> float | None:
        if "grid" in spec:
            return None if spec["grid"] is None else float(spec["grid"])
        return step or common_step(distinct[keep], counts[keep], single)

    if spec.get("atoms") is not None:
        atoms = tuple(float(value) for value in spec["atoms"])
        return atoms, grid_of(~np.isin(distinct, atoms))
    found = find_atoms(distinct, counts, gridded=False)
    grid = grid_of(~found)
    if grid is not None and found.any():
        found = find_atoms(distinct, counts, gridded=True)
    if (~found).sum() < 2:  # nothing would be left to be real
        found[:] = False
    return tuple(distinct[found].tolist()), grid


def _check_support(column: Column, values: Floats) -> None:
    bad = ~column.legal(values)
    if bad.any():
        lower, upper = column.support()
        raise SchemaError(
            message(
                f"{int(bad.sum())} value(s) outside the support of column {column.name!r}, "
                f"e.g. {values[bad][0]:g}",
                f"{'whole numbers' if column.kind == 'count' else 'numbers'} from {lower:g} to "
                f"{upper:g} for kind {column.kind!r}{_ends(column)}",
                "correct them, declare them as atoms, or choose another kind",
            )
        )


def _ends(column: Column) -> str:
    return "" if column.kind == "count" or column.grid else ", ends excluded"


def _centred(column: Column, values: Floats) -> Column:
    """Store loc and scale of the values after the bijection."""
    loc, scale, extreme = location(column.forward(values))
    if extreme:
        _warn(
            f"extreme value in column {column.name!r}, or very heavy tails "
            f"(smallest {values.min():g}, largest {values.max():g})",
            "numbers of one scale",
            "check the largest values; median and interquartile range set the scale",
        )
    if not math.isfinite(loc) or not scale > 0 or not math.isfinite(scale):
        loc, scale = (loc if math.isfinite(loc) else 0.0), 1.0
    return replace(column, loc=loc, scale=scale)
