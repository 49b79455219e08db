"""Sensitivity to cells that are not missing at random: imputed cells moved by a stated amount.

Numbers are shifted after drawing (the delta adjustment of Rubin 1987, Multiple imputation for
nonresponse in surveys, chapter 6, and of Carpenter and Kenward 2013, Multiple imputation and its
application, chapter 10); levels are tilted in their log odds (the exponential tilt of Rotnitzky,
Robins and Scharfstein 1998, Semiparametric regression for repeated outcomes with nonignorable
nonresponse, JASA 93).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from probgen.columns import Column
from probgen.errors import SchemaError, message
from probgen.schema import Schema
from probgen.table import encode

__all__ = ["Delta", "Shifts", "shifts_of"]

Delta: TypeAlias = Mapping[Hashable, Any] | None
Floats = NDArray[np.float64]

#: how far apart the log odds of a row's tilted levels may be: rejection keeps one draw in
#: exp(TILT) at least
TILT = 7.0


@dataclass
class Shifts:
    """What `delta` asks for: by column, a function of the imputed values; by slot, log odds.

    `slots` are those of the shifted columns.
    """

    schema: Schema
    moves: dict[Hashable, Callable[[pd.Series], Any]] = field(default_factory=dict)
    tilts: dict[int, Tensor] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.moves or self.tilts)

    @property
    def slots(self) -> list[int]:
        """The slots of the columns that are moved."""
        return self.schema.slots_of(self.moves)

    def open(self, seen: Tensor) -> Tensor:
        """Which rows (n,) have an unseen cell in a tilted column."""
        return (~seen[:, list(self.tilts)]).any(1)

    def log_accept(self, x: Tensor, seen: Tensor) -> Tensor:
        """Log probability (n,) with which drawn rows are kept under the tilt."""
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for slot, odds in self.tilts.items():
            step = (odds - odds.max()).to(x.device)
            total += torch.where(seen[:, slot], 0.0, step[x[:, slot].long()])
        return total

    def move(self, x: Floats, seen: NDArray[np.bool_], table: pd.DataFrame) -> NDArray[np.bool_]:
        """Shift the unseen cells of x (n, m) in place; `table` holds them decoded.

        Atoms stay as they are: a value with a meaning of its own is not a larger or smaller one.
        Returns which cells (n, m) were moved.
        """
        moved = np.zeros(x.shape, bool)
        for name, function in self.moves.items():
            column = self.schema[name]
            places = self.schema.slots_of([name])
            open_rows = ~seen[:, places].any(1)
            if column.atoms:
                open_rows &= x[:, places[0]] == 0
            at = np.flatnonzero(open_rows)
            if not len(at):
                continue
            values = _legal(column, _applied(function, table[name].iloc[at], name), name)
            found = encode(pd.DataFrame({name: values}), self.schema)
            x[at[:, None], places] = found.x[:, places]
            moved[at[:, None], places] = True
        return moved


def shifts_of(delta: Delta, schema: Schema, names: list[Hashable]) -> Shifts:
    """Read `delta` for a table with these columns."""
    shifts = Shifts(schema)
    if delta is None:
        return shifts
    if not isinstance(delta, Mapping):
        raise SchemaError(message(
            f"delta={delta!r}", "a dict by column name", "pass delta={'income': -2000}, say"
        ))  # fmt: skip
    foreign = [name for name in delta if name not in schema.number or name not in names]
    if foreign:
        raise SchemaError(message(
            f"delta for unknown column(s) {foreign}",
            f"columns of the table that were fitted, among {names}", "check the names",
        ))  # fmt: skip
    idle = [name for name in delta if schema[name].role != "modelled"]
    if idle:
        raise SchemaError(message(
            f"delta for column(s) {idle} in which nothing is imputed",
            "columns that vary and are modelled", "leave them out",
        ))  # fmt: skip
    for name, value in delta.items():
        column = schema[name]
        if column.labelled:
            shifts.tilts[schema.slots_of([name])[0]] = _odds(column, value)
        elif callable(value):
            shifts.moves[name] = value
        else:
            shifts.moves[name] = _adding(column, value)
    reach = sum(float(odds.max() - odds.min()) for odds in shifts.tilts.values())
    if reach > TILT:
        raise SchemaError(message(
            f"log odds {reach:g} apart in delta", f"at most {TILT:g} over all columns",
            "use smaller shifts: exp(7) is already a factor of 1,000",
        ))  # fmt: skip
    return shifts


def _odds(column: Column, value: Any) -> Tensor:
    """Log-odds shift by code, the reserved one included."""
    levels = column.levels or ()
    if not isinstance(value, Mapping):
        raise SchemaError(message(
            f"delta {value!r} for column {column.name!r} of kind {column.kind!r}",
            "shifts of log odds by level",
            f"pass {{{column.name!r}: {{{levels[0]!r}: 0.5}}}}, say",
        ))  # fmt: skip
    foreign = [level for level in value if level not in levels]
    if foreign:
        raise SchemaError(message(
            f"delta for unknown level(s) {foreign} of column {column.name!r}",
            f"levels among {list(levels)[:10]}", "check the levels",
        ))  # fmt: skip
    odds = torch.zeros(len(levels) + 1, dtype=torch.float64)
    for level, shift in value.items():
        odds[levels.index(level)] = _number(shift, column)
    return odds


def _number(value: Any, column: Column) -> float:
    plain = isinstance(value, int | float | np.integer | np.floating)
    if not plain or isinstance(value, bool) or not math.isfinite(value):
        raise SchemaError(message(
            f"delta {value!r} for column {column.name!r}", "a finite number", "change delta"
        ))  # fmt: skip
    return float(value)


def _adding(column: Column, value: Any) -> Callable[[pd.Series], Any]:
    if column.unit:
        try:
            step = pd.Timedelta(value)
        except (TypeError, ValueError):
            step = pd.NaT
        if step is pd.NaT or isinstance(value, int | float):
            raise SchemaError(message(
                f"delta {value!r} for column {column.name!r} of dates or durations",
                "a time span", "pass pandas.Timedelta(days=30), say",
            ))  # fmt: skip
        return lambda own: own + step
    number = _number(value, column)
    return lambda own: pd.to_numeric(own).astype("float64") + number


def _applied(function: Callable[[pd.Series], Any], own: pd.Series, name: Hashable) -> pd.Series:
    values = function(own.copy())
    wrong = not isinstance(values, pd.Series | np.ndarray) or np.shape(values) != (len(own),)
    if wrong or pd.isna(values).any():
        raise SchemaError(message(
            f"delta of column {name!r} that does not return one value for each of {len(own)}",
            "a function of a series of imputed values that returns as many",
            "pass lambda values: 0.9 * values, say",
        ))  # fmt: skip
    return pd.Series(values).reset_index(drop=True)


def _legal(column: Column, values: pd.Series, name: Hashable) -> pd.Series:
    """Values moved to the nearest in the support; of positive ones below 0 there is none."""
    if column.kind in ("real", "date") or column.unit:
        return values
    lower, upper = column.support()
    numbers = values.to_numpy(np.float64)
    if column.kind == "count":
        return pd.Series(np.clip(np.rint(numbers), lower, upper))
    if column.kind == "positive":
        out = int((numbers <= lower).sum())
        if out:
            raise SchemaError(message(
                f"a delta that moves {out} imputed value(s) of positive column {name!r} to "
                f"{lower:g} or below", f"values above {lower:g}",
                f"use a factor: delta={{{name!r}: lambda values: 0.9 * values}}",
            ))  # fmt: skip
        return values
    inside = (np.nextafter(lower, upper), np.nextafter(upper, lower))
    return pd.Series(np.clip(numbers, *inside))
