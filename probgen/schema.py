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
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from probgen.errors import SchemaError, message

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Column", "Kind", "Schema", "Slot"]

Kind = Literal[
    "real", "positive", "unit", "bounded", "count", "category", "ordered", "boolean", "date"
]
Role = Literal["modelled", "constant", "empty", "context"]
Floats = NDArray[np.float64]

KINDS: tuple[str, ...] = get_args(Kind)
REAL_LIKE = frozenset({"real", "positive", "unit", "bounded", "date"})
LABELLED = frozenset({"category", "ordered", "boolean"})
#: of the JSON written by `Schema.to_json`
FORMAT = 1


@dataclass(frozen=True)
class Slot:
    """One column of the encoded table: all that a family sees of a column.

    Parameters
    ----------
    name : str
        The column's name; ``"name[atom]"`` for the slot that says which atom a row holds.
    column : int
        Number of the column in `Schema.columns`.
    kind : {"real", "count", "category"}
        Base measure: Lebesgue for real, counting for the others.
    size : int
        Number of codes of a category; 0 otherwise.
    ordered : bool
        Whether the order of the codes means something.
    reserved : bool
        Whether the last code is the reserved level, never seen in training.
    """

    name: str
    column: int
    kind: Literal["real", "count", "category"]
    size: int = 0
    ordered: bool = False
    reserved: bool = False


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    name : str or int
        The column's name in the table.
    kind : str
        One of real, positive, unit, bounded, count, category, ordered, boolean, date.
    dtype : str
        The data type to restore, as written by `probgen.cells.dtype_name`.
    role : {"modelled", "constant", "empty", "context"}
        Constant and empty (all-missing) columns have no slots; context columns are
        conditioned on and never modelled.
    lower, upper : float, optional
        Declared support, in table units; never learned from the data.
    loc, scale : float
        Encoded value = (bijection(value) - loc) / scale, for real-like kinds.
    levels : tuple, optional
        Labels of category, ordered and boolean columns, by code.
    atoms : tuple of float
        Values that carry probability mass of their own.
    grid : float, optional
        Step to which values are rounded, in table units (days for dates).
    unit, tz, origin : optional
        Of dates: resolution (s, ms, us, ns or D), time zone, and the tick that counts as day 0.
    constant : optional
        The one value of a constant column (ticks for dates).
    why : str
        The rule that chose the kind.
    native : (float, float), optional
        Set where a real-like column is encoded as it is, without bijection, centring and
        scaling: the `loc` and `scale` that `Schema.standard` puts back.
    """

    name: Hashable
    kind: str
    dtype: str
    role: str = "modelled"
    lower: float | None = None
    upper: float | None = None
    loc: float = 0.0
    scale: float = 1.0
    levels: tuple[Any, ...] | None = None
    atoms: tuple[float, ...] = ()
    grid: float | None = None
    unit: str | None = None
    tz: str | None = None
    origin: int | None = None
    constant: Any = None
    why: str = ""
    native: tuple[float, float] | None = None

    @property
    def real_like(self) -> bool:
        """Whether the column has a density with respect to Lebesgue measure."""
        return self.kind in REAL_LIKE

    @property
    def labelled(self) -> bool:
        """Whether the column holds one of finitely many levels."""
        return self.kind in LABELLED

    def slots(self, number: int) -> tuple[Slot, ...]:
        """The encoded slots of this column, `number` being its place in the schema."""
        name = str(self.name)
        if self.role in ("constant", "empty"):
            return ()
        if self.labelled:
            reserved = self.kind != "boolean"
            size = len(self.levels or ()) + reserved
            return (Slot(name, number, "category", size, self.kind == "ordered", reserved),)
        if self.kind == "count":
            return (Slot(name, number, "count"),)
        real = Slot(name, number, "real")
        if not self.atoms:
            return (real,)
        return (Slot(f"{name}[atom]", number, "category", 1 + len(self.atoms)), real)

    def support(self) -> tuple[float, float]:
        """Lower and upper end of the values, in table units."""
        if self.kind == "unit":
            return 0.0, 1.0
        if self.kind == "positive":
            return self.lower or 0.0, math.inf
        if self.kind == "count":
            return self.lower or 0.0, math.inf if self.upper is None else self.upper
        if self.kind == "bounded":
            return float(self.lower or 0.0), float(1.0 if self.upper is None else self.upper)
        return -math.inf, math.inf

    def legal(self, values: Floats) -> NDArray[np.bool_]:
        """Which values (finite, table units, not atoms) lie in the support.

        The ends of a bounded column are inside only where the column is gridded: there they
        stand for half a cell.
        """
        lower, upper = self.support()
        if self.kind == "count":
            return (values >= lower) & (values <= upper) & (np.rint(values) == values)
        if self.kind in ("unit", "bounded") and self.grid:
            return (values >= lower) & (values <= upper)
        return (values > lower) & (values < upper)

    def forward(self, values: Floats) -> Floats:
        """Bijection to the real line, before centring; `values` are legal.

        Examples
        --------
        >>> Column("x", "positive", "float64").forward(np.array([1.0]))
        array([0.])
        """
        lower, upper = self.support()
        if self.kind == "positive":
            return values if self.native else np.log(values - lower)
        if self.kind in ("unit", "bounded"):
            if self.grid:  # an end of the support stands for the half cell inside it
                inside = min(self.grid, upper - lower) / 4
                values = np.clip(values, lower + inside, upper - inside)
            return values if self.native else np.log(values - lower) - np.log(upper - values)
        return values

    def backward(self, u: Floats) -> Floats:
        """Inverse of `forward`; the result is finite, and inside the open support."""
        lower, upper = self.support()
        if self.native:
            if self.kind not in ("positive", "unit", "bounded"):
                return u
            return np.clip(u, np.nextafter(lower, upper), np.nextafter(upper, lower))
        if self.kind == "positive":
            return np.clip(lower + np.exp(np.minimum(u, 709.0)), np.nextafter(lower, np.inf), None)
        if self.kind in ("unit", "bounded"):
            share = np.exp(-np.logaddexp(0.0, -u))
            values = lower + (upper - lower) * share
            return np.clip(values, np.nextafter(lower, upper), np.nextafter(upper, lower))
        return u


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
                message(f"no column {name!r}", f"one of {list(self.names)}", "check the name")
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
