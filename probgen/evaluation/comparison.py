"""What `compare` returns: a leaderboard, and what its numbers leave out."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["APART", "Comparison"]

#: standard errors of a difference from which on two models are told apart
APART = 4.0


@dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """A leaderboard of densities by the log density of rows that they did not see.

    Attributes
    ----------
    table : data frame
        A row for each model, best first, in nats a row and the table's units:

        - ``elpd``: mean log density of a row; -inf if some row has density 0;
        - ``se``: its standard error, with the spread between restarts and the error of
          importance sampling where there are any;
        - ``difference``: elpd minus that of the best model; ``difference_se``: the standard
          error of the paired difference, with the same two parts of both models;
        - ``told_apart``: whether the difference is larger than 4 of its standard errors;
        - ``weight``: stacking weight, what the model adds to a mixture of all;
        - ``impossible``: rows of density 0;
        - ``seconds``: of fitting; ``method``: how the densities were computed;
        - ``elpd_cell``: the same as elpd with each rounded value's density averaged over its
          cell, if there are rounded columns.
    pointwise : data frame
        Log density of each row (index of the compared table) under each model (columns).
    rows : int
        Number of rows; ``elpd * rows`` is the total that ArviZ calls elpd.
    how : str
        "held-out rows" or "5-fold", say.
    stacked : float
        Log density of the mixture with these weights, nats a row. The weights were chosen on
        the same rows, so it is slightly too good.
    stacking_gap : float
        By how much other weights could be better on these rows, at most.
    notes : tuple of str
        What to keep in mind, each a sentence.
    """

    table: pd.DataFrame
    pointwise: pd.DataFrame
    rows: int
    how: str
    stacked: float
    stacking_gap: float
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> str:
        """Name of the model with the highest elpd."""
        return str(self.table.index[0])

    @property
    def weights(self) -> dict[str, float]:
        """Stacking weights by name."""
        return {str(name): float(w) for name, w in self.table["weight"].items()}

    def shown(self) -> pd.DataFrame:
        """The table as text shows it: three decimals, differences too small to tell marked."""
        own = pd.DataFrame(index=self.table.index.rename(None))
        for name in ("elpd", "se", "difference", "difference_se", "weight"):
            own[name] = [_number(value) for value in self.table[name]]
        words = ["" if apart else "not told apart" for apart in self.table["told_apart"]]
        own.insert(4, "", ["best", *words[1:]])
        if "elpd_cell" in self.table:
            own["elpd_cell"] = [_number(value) for value in self.table["elpd_cell"]]
        if self.table["impossible"].any():
            own["impossible"] = self.table["impossible"]
        own["seconds"] = [f"{value:.1f}" for value in self.table["seconds"]]
        own["method"] = self.table["method"]
        return own

    def _title(self) -> str:
        return f"log density of {self.how}: nats a row over {self.rows:,} rows, table units"

    def __str__(self) -> str:
        lines = [self._title(), self.shown().to_string()]
        for note in self.notes:
            lines += textwrap.wrap(note, 98, initial_indent="- ", subsequent_indent="  ")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return f"<p>{escape(self._title())}</p>{self.shown().to_html()}<ul>{notes}</ul>"

    def to_dict(self) -> dict[str, Any]:
        """The leaderboard and its notes as plain values."""
        models = {
            str(name): {key: _plain(value) for key, value in row.items()}
            for name, row in self.table.iterrows()
        }
        return {
            "models": models, "rows": self.rows, "how": self.how, "stacked": self.stacked,
            "stacking_gap": self.stacking_gap, "notes": list(self.notes),
        }  # fmt: skip


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
