"""What one column of a table is: its kind, its support, its bijection, its encoded slots."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "LABELLED", "REAL_LIKE", "Column", "Kind", "Slot"]

Kind = Literal[
    "real", "positive", "unit", "bounded", "count", "category", "ordered", "boolean", "date"
]
Role = Literal["modelled", "constant", "empty", "context"]
Floats = NDArray[np.float64]

KINDS: tuple[str, ...] = get_args(Kind)
REAL_LIKE = frozenset({"real", "positive", "unit", "bounded", "date"})
LABELLED = frozenset({"category", "ordered", "boolean"})


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
