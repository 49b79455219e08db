"""The description of a table: what each column is, and how it maps to encoded slots.

A `Schema` is frozen and serialisable. It knows kinds, bijections and log-determinants; it does
not know models. Inference (`Schema.infer`) reads a data frame by the rules of `probgen.kinds`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from probgen.columns import Column, Slot
from probgen.errors import SchemaError, closest, message

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Schema"]

#: of the JSON written by `Schema.to_json`
FORMAT = 1


@dataclass(frozen=True, repr=False)
class Schema:
    """Frozen, serialisable description of a table.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"age": [31, 45, 28], "job": ["nurse", "cook", "cook"]})
    >>> schema = Schema.infer(table)
    >>> [(slot.name, slot.kind, slot.size) for slot in schema.slots]
    [('age', 'count', 0), ('job', 'category', 3)]
    """

    columns: tuple[Column, ...]

    def __repr__(self) -> str:
        """One short line; `describe` says more."""
        shown = ", ".join(f"{column.name}: {column.kind}" for column in self.columns[:4])
        more = ", ..." if len(self.columns) > 4 else ""
        return f"<Schema of {len(self.columns)} columns: {shown}{more}>"

    @classmethod
    def infer(
        cls,
        table: Any,
        override: Mapping[Any, Any] | None = None,
        context: Iterable[Hashable] = (),
        dequantise: bool = True,
    ) -> Schema:
        """Describe a table by the written rules of `probgen.kinds`.

        Parameters
        ----------
        table : data frame
            At least two rows; anything that `probgen.table.to_frame` accepts.
        override : dict, optional
            By column name, a kind (``{"age": "count"}``) or a dict with ``kind`` and any of
            ``lower``, ``upper``, ``levels``, ``atoms``, ``grid``.
        context : iterable of column names
            Columns that are conditioned on and never modelled.
        dequantise : bool
            Whether to notice rounding; False stores no grid.

        Raises
        ------
        SchemaError
            If a column cannot be described; the message names it and says what to do.
        """
        from probgen.kinds import infer_columns

        return cls(infer_columns(table, dict(override or {}), tuple(context), dequantise))

    def native(self) -> Schema:
        """The same columns with real-like ones encoded as they are: `log_det` is then 0.

        The measure of modelled columns stays; a constant column becomes a modelled one, and a
        numeric context column real, since no density is asked of it.

        Examples
        --------
        >>> schema = Schema((Column("x", "positive", "float64", loc=2.0, scale=0.5),))
        >>> schema.native()["x"].forward(np.array([7.0]))
        array([7.])
        >>> schema.native().standard() == schema
        True
        """
        return Schema(tuple(map(_native, self.columns)))

    def standard(self) -> Schema:
        """The same columns in the usual encoding: bijections, centred and scaled."""
        return Schema(tuple(map(_standard, self.columns)))

    def with_context(self, names: Iterable[Hashable]) -> Schema:
        """The same columns, of which those of these names are conditioned on."""
        chosen = {self[name].name for name in names}
        return Schema(tuple(
            replace(c, role="context", constant=None) if c.name in chosen and c.role != "empty"
            else c for c in self.columns
        ))  # fmt: skip

    def without_context(self) -> Schema:
        """The columns that are modelled or constant, without those conditioned on."""
        return Schema(tuple(c for c in self.columns if c.role != "context"))

    @cached_property
    def names(self) -> tuple[Hashable, ...]:
        """Column names, in the fitted order."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def number(self) -> dict[Hashable, int]:
        """Place of each column by name."""
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Encoded slots of the modelled columns: the columns of x."""
        return self._slots_where(context=False)

    @cached_property
    def context_slots(self) -> tuple[Slot, ...]:
        """Encoded slots of the context columns: the columns of the context array."""
        return self._slots_where(context=True)

    def _slots_where(self, context: bool) -> tuple[Slot, ...]:
        pairs = enumerate(self.columns)
        chosen = [c.slots(i) for i, c in pairs if (c.role == "context") == context]
        return tuple(slot for slots in chosen for slot in slots)

    def __getitem__(self, name: Hashable) -> Column:
        """The column called `name`."""
        if name not in self.number:
            raise SchemaError(
                message(
                    f"no column {name!r}", f"one of {closest(name, self.names)}", "check the name"
                )
            )
        return self.columns[self.number[name]]

    def slots_of(self, names: Iterable[Hashable]) -> list[int]:
        """Slot numbers of some modelled columns, in the order of `names`."""
        by_column: dict[int, list[int]] = {}
        for place, slot in enumerate(self.slots):
            by_column.setdefault(slot.column, []).append(place)
        columns = [self.number[self[name].name] for name in names]
        return [slot for column in columns for slot in by_column.get(column, [])]

    def log_det(self, x: Tensor, seen: Tensor) -> Tensor:
        """Sum over seen real slots of `log |d encoded / d value|`, (n,) float64, in nats.

        Log density in table units = log density of x + ``log_det(x, seen)``.

        Parameters
        ----------
        x : Tensor (n, m)
            Encoded values.
        seen : Tensor (n, m) of bool
            True where observed.
        """
        total = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
        every = bool(seen.all())
        for place, slot in enumerate(self.slots):
            if slot.kind == "real":
                cell = _log_slope(self.columns[slot.column], x[:, place])
                total += cell if every else torch.where(seen[:, place], cell, 0.0)
        return total

    def log_slopes(self, x: Tensor) -> Tensor:
        """`log |d encoded / d value|` of each cell (n, m), float64: the terms of `log_det`."""
        out = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        for place, slot in enumerate(self.slots):
            if slot.kind == "real":
                out[:, place] = _log_slope(self.columns[slot.column], x[:, place])
        return out

    def measure(self) -> dict[str, dict[str, Any]]:
        """What two densities must share to be compared: kinds, roles, atoms, grids, bounds."""
        shared = ("kind", "role", "atoms", "grid", "lower", "upper")
        return {
            str(c.name): {key: _plain(getattr(c, key)) for key in shared} for c in self.columns
        }

    def describe(self) -> pd.DataFrame:
        """A frame with one row a column: what it is, and the rule that decided."""
        import pandas as pd

        shown = ("kind", "role", "dtype", "lower", "upper", "levels", "atoms", "grid", "why")
        rows = {c.name: {key: getattr(c, key) for key in shown} for c in self.columns}
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(shown), dtype=object)
        frame["levels"] = [len(c.levels) if c.levels else None for c in self.columns]
        return frame.rename_axis("column")

    def to_json(self) -> str:
        """Plain JSON; `from_json` gives back an equal schema."""
        columns = [
            {f.name: _to_plain(getattr(c, f.name)) for f in fields(Column)} for c in self.columns
        ]
        return json.dumps({"format": FORMAT, "columns": columns}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """Read what `to_json` wrote; raises `SchemaError` for anything else."""
        try:
            data = json.loads(text)
            if data["format"] > FORMAT:
                found = f"schema format {data['format']}"
                raise SchemaError(message(found, f"at most {FORMAT}", "update probgen"))
            columns = [_column_from(item) for item in data["columns"]]
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise SchemaError(
                message(
                    f"text that is no schema ({error})",
                    "JSON written by Schema.to_json",
                    "check where the text comes from",
                )
            ) from error
        return cls(tuple(columns))


def _native(column: Column) -> Column:
    if column.role == "constant":
        column = replace(column, role="modelled", constant=None)
    if column.role == "context" and not column.labelled and column.kind != "date":
        column = replace(column, kind="real", atoms=(), lower=None, upper=None, grid=None)
    if not column.real_like or column.native:
        return column
    return replace(column, loc=0.0, scale=1.0, native=(column.loc, column.scale))


def _standard(column: Column) -> Column:
    if not column.native:
        return column
    loc, scale = column.native
    return replace(column, loc=loc, scale=scale, native=None)


def _log_slope(column: Column, x: Tensor) -> Tensor:
    """Log |d x / d value| at encoded x (n,), float64; () where it is the same everywhere."""
    slope = -math.log(column.scale)
    if column.kind not in ("positive", "unit", "bounded") or column.native:
        return torch.tensor(slope, dtype=torch.float64, device=x.device)
    u = x.double() * column.scale + column.loc
    if column.kind == "positive":
        return slope - u
    lower, upper = column.support()
    return (slope - math.log(upper - lower)) + softplus(u) + softplus(-u)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _to_plain(value: Any) -> Any:
    """A JSON value; time stamps become their ticks, unit and zone."""
    if isinstance(value, tuple):
        return [_to_plain(item) for item in value]
    if hasattr(value, "isoformat"):
        zone = None if value.tzinfo is None else str(value.tzinfo)
        return {"ticks": int(value.asm8.astype("int64")), "unit": value.unit, "tz": zone}
    return value


def _from_plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_plain(item) for item in value)
    if isinstance(value, dict):
        import pandas as pd

        stamp = pd.Timestamp(np.datetime64(value["ticks"], value["unit"]))
        return stamp if value["tz"] is None else stamp.tz_localize("UTC").tz_convert(value["tz"])
    return value


def _column_from(item: dict[str, Any]) -> Column:
    return Column(**{key: _from_plain(value) for key, value in item.items()})
