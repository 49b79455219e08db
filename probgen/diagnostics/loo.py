"""What `Density.loo` returns."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

__all__ = ["BAD_KHAT", "Loo"]

#: Pareto shape above which a row's number is not to be trusted
BAD_KHAT = 0.7


@dataclass(frozen=True, repr=False)
class Loo:
    """How probable each row is to a model of all other rows.

    Attributes
    ----------
    elpd : float
        Sum over rows of the log density given all others, nats, table units.
    se : float
        Its standard error, over rows as draws of a population.
    p : float
        Effective number of parameters: by how much the log density of the fitted rows is
        higher, nats.
    pointwise : data frame
        On the table's index: `elpd` (nats, table units), Pareto `khat` (NaN where nothing was
        weighted), the row's own Monte Carlo error `se` (nats), and `method`: "psis", "refit"
        or "folds".
    method : str
        How the numbers were made.
    notes : tuple of str
        What a reader should know of them.

    Examples
    --------
    >>> rows = pd.DataFrame({"elpd": [-1.0, -2.0], "khat": [0.1, 0.9], "se": [0.01, 0.5]})
    >>> loo = Loo(-3.0, 1.0, 0.4, rows.assign(method="psis"), "PSIS-LOO")
    >>> loo.bad
    0.5
    >>> print(loo)
    elpd   -3.0  (se 1.0)  nats, 2 rows
    p       0.4  effective parameters
    method PSIS-LOO
    k-hat  1 of 2 rows above 0.7: not to be trusted
           do: refit=1 scores them by refits without them; loo(table, method='folds') by K-fold
    """

    elpd: float
    se: float
    p: float
    pointwise: pd.DataFrame
    method: str
    notes: tuple[str, ...] = ()

    @property
    def bad(self) -> float:
        """Share of the rows whose k-hat is above 0.7."""
        return float((self.pointwise["khat"] > BAD_KHAT).mean()) if len(self.pointwise) else 0.0

    def __str__(self) -> str:
        rows, count = self.pointwise, round(self.bad * len(self.pointwise))
        lines = [
            f"elpd {self.elpd:>6.1f}  (se {self.se:.1f})  nats, {len(rows)} rows",
            f"p    {self.p:>6.1f}  effective parameters",
            f"method {self.method}",
        ]
        if count:
            lines += [
                f"k-hat  {count} of {len(rows)} rows above {BAD_KHAT}: not to be trusted",
                f"       do: refit={count} scores them by refits without them; "
                "loo(table, method='folds') by K-fold",
            ]
        elif rows["khat"].notna().any():
            lines.append(f"k-hat  no row above {BAD_KHAT}")
        return "\n".join([*lines, *(f"note   {note}" for note in self.notes)])

    __repr__ = __str__

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain values, without those of the rows."""
        return {
            "elpd": self.elpd, "se": self.se, "p": self.p, "bad": self.bad,
            "rows": len(self.pointwise), "method": self.method, "notes": list(self.notes),
        }  # fmt: skip

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"
