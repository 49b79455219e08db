"""Each column of a table beside the density of the model, with what the posterior leaves open."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probgen.columns import Column
from probgen.density import Density
from probgen.errors import NotSupported
from probgen.plots.heights import Heights, contexts, heights
from probgen.plots.shared import (
    DATA,
    GREY,
    LEVELS,
    MODEL,
    Array,
    clean,
    drawable,
    drawn_beside,
    grid_of_axes,
    is_date,
    legend_below,
    numbers,
    short,
)
from probgen.plots.spans import Span, as_series, bins, span_of
from probgen.table import to_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["marginals"]

#: values at which a curve is computed, evenly spread; half as many more follow the data
POINTS, POINTS_IN_CONTEXT = 120, 48


def marginals(
    model: Density,
    table: Any,
    columns: Sequence[Hashable] | None = None,
    interval: float | None = 0.9,
    samples: int = 2000,
    random_state: int = 0,
) -> NDArray[np.object_]:
    """Each column of a table beside the density that the model gives it.

    Parameters
    ----------
    model : Density
    table : data frame
    columns : sequence of names, optional
        All columns of the table that the model knows.
    interval : float, optional
        Posterior probability of the band (pointwise, equal-tailed, by draw of the globals);
        None draws the predictive alone. Without posterior draws there is no band, and the
        legend says so.
    samples : int
        Rows to draw, which say how far the axis must reach; they replace the curve where the
        family has no density.
    random_state : int
        Their seed.

    Returns
    -------
    ndarray of Axes, one a column
        Bars: the table (histogram, or shares of levels and of single counts). Line with band,
        or dots with error bars: the model, in the table's units. Values with a mass of their
        own (atoms) are stems, read on the right. The axis of a positive column or a count that
        spans orders of magnitude is a logarithm, and its density that of the logarithm. A long
        thin tail is cut, and the number of values beyond is written in the corner. A model
        with context columns is averaged over the contexts of 50 random rows at most.
    """
    frame = to_frame(table, model.schema_.names)
    names = drawable(model, frame, columns)
    drawn = drawn_beside(model, frame, samples, random_state)
    held = contexts(model, frame, random_state)
    grid, unused = grid_of_axes(len(names), width=3.4, height=2.6)
    found = []
    for ax, name in zip(grid, names, strict=True):
        panel = _Panel(ax, model, model.schema_[name], held, interval)
        draw = panel.levels if panel.column.labelled else panel.numbers
        found.append(draw(frame[name], drawn[name]))
        ax.set_title(short(name), fontsize="medium", loc="left")
        clean(ax)
    legend_below(grid, unused, _entries(found, interval))
    return grid


class _Panel:
    """The axes of one column. Each method returns the heights, or None where rows were drawn."""

    def __init__(
        self,
        ax: Axes,
        model: Density,
        column: Column,
        context: pd.DataFrame | None,
        level: float | None,
    ) -> None:
        self.ax, self.model, self.column = ax, model, column
        self.context, self.level = context, level

    def heights(self, values: Array) -> Heights | None:
        """Of the model at values of the column; None without a density."""
        points = pd.DataFrame({self.column.name: as_series(values, self.column)})
        try:
            return heights(self.model, points, self.context, self.level)
        except NotSupported:
            return None

    # --- levels -----------------------------------------------------------------------

    def levels(self, real: pd.Series, drawn: pd.Series) -> Heights | None:
        """Shares of levels, the most frequent ones where there are many."""
        names = list(self.column.levels or ())
        share = _shares(real, names)
        shown, rest = np.arange(len(names)), 0
        if len(names) > LEVELS:
            often = np.argsort(-share, kind="stable")
            shown, rest = often[: LEVELS - 1], len(names) - LEVELS + 1
        places = np.arange(len(shown) + bool(rest))
        labels = [short(names[code], 12) for code in shown] + [f"{rest} others"] * bool(rest)
        self.ax.bar(places, _lumped(share, shown, bool(rest)), width=0.7, color=DATA, alpha=0.45)
        found = self.heights(shown)
        if found is None:
            self.dots(places, Heights(_lumped(_shares(drawn, names), shown, bool(rest))))
        else:
            self.dots(places[: len(shown)], found)
            if rest:
                left = max(0.0, 1 - float(found.value.sum()))
                self.ax.plot(places[-1:], [left], "o", color=MODEL, markersize=4.5)
        long = sum(map(len, labels)) > 26
        turned: dict[str, Any] = (
            {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if long else {}
        )
        size = "small" if len(labels) > 6 else "medium"
        self.ax.set_xticks(places, labels, fontsize=size, **turned)
        if rest:
            self.ax.set_xlabel(f"the {len(shown)} most frequent of {len(names)} levels")
        self.ax.set_ylabel("share of rows")
        self.ax.set_ylim(bottom=0)
        return found

    # --- numbers ----------------------------------------------------------------------

    def numbers(self, real: pd.Series, drawn: pd.Series) -> Heights | None:
        """A histogram and a curve, stems for atoms, or bars for a few whole numbers."""
        data, model = numbers(real), numbers(drawn)
        total, draws = max(len(data), 1), max(len(model), 1)
        atoms = np.array(self.column.atoms)
        if len(atoms):
            self.stems(atoms, data, model)
            data, model = (part[~np.isin(part, atoms)] for part in (data, model))
        span = span_of(self.column, data, model)
        if span.whole:
            return self.counts(span, data, model)
        edges = bins(span, data if len(data) else model)
        self.ax.stairs(_bars(data, edges, span, total), edges, fill=True, color=DATA, alpha=0.45)
        points = span.points(POINTS if self.context is None else POINTS_IN_CONTEXT, data)
        found = self.heights(points)
        if found is None:
            height = _bars(model, edges, span, draws)
            self.ax.stairs(height, edges, color=MODEL, linewidth=1.8)
        else:
            self.curve(points, found.times(span.slope(points)))
        self.dress(span, data, edges, is_date(real) or self.column.unit is not None)
        return found

    def counts(self, span: Span, data: Array, model: Array) -> Heights | None:
        """Each whole number by itself."""
        places = np.arange(span.low, span.high + 1)
        share, drawn = (
            np.bincount((part[(part >= span.low) & (part <= span.high)] - span.low).astype(int),
                        minlength=len(places)) / max(len(part), 1)
            for part in (data, model)
        )  # fmt: skip
        self.ax.stairs(share, np.append(places, span.high + 1) - 0.5, fill=True, color=DATA,
                       alpha=0.45)  # fmt: skip
        found = self.heights(places)
        self.dots(places, Heights(drawn) if found is None else found)
        self.dress(span, data, places, days=False)
        self.ax.set_ylabel("share of rows")
        return found

    def curve(self, points: Array, found: Heights) -> None:
        """The density and its band; at most twice as high as the rest of the picture."""
        top = self.ax.get_ylim()[1]
        step = self.column.kind == "count"  # no mass between whole numbers
        if found.lower is not None and found.upper is not None:
            self.ax.fill_between(points, found.lower, found.upper, color=MODEL, alpha=0.25,
                                 linewidth=0, step="mid" if step else None)  # fmt: skip
        self.ax.plot(points, found.value, color=MODEL, linewidth=1.6,
                     drawstyle="steps-mid" if step else "default")  # fmt: skip
        highest = float(np.max(found.value, initial=0.0)) * 1.05
        self.ax.set_ylim(0, min(max(top, highest), 2 * top) if top > 0 else None)

    def dots(self, places: Array, found: Heights) -> None:
        """Probabilities and their error bars."""
        bars = None
        if found.lower is not None and found.upper is not None:
            # the predictive may lie outside
            below, above = found.value - found.lower, found.upper - found.value
            bars = np.maximum([below, above], 0.0)
        self.ax.errorbar(places, found.value, yerr=bars, fmt="o", color=MODEL, markersize=4.5,
                         elinewidth=1.4, capsize=2.5)  # fmt: skip

    def stems(self, atoms: Array, data: Array, model: Array) -> None:
        """Values with a mass of their own, on an axis of shares to the right."""
        own = self.ax.twinx()
        share, drawn = (
            (part[:, None] == atoms).sum(0) / max(len(part), 1) for part in (data, model)
        )
        own.vlines(atoms, 0, share, color=DATA, alpha=0.45, linewidth=5)
        found = self.heights(atoms)
        _Panel(own, self.model, self.column, None, None).dots(
            atoms, Heights(drawn) if found is None else found
        )
        own.set_ylim(0, 1)
        own.set_ylabel("share at single values", fontsize="small")
        own.spines[["top"]].set_visible(False)

    def dress(self, span: Span, data: Array, edges: Array, days: bool) -> None:
        """Labels, ticks, and what lies beyond."""
        span.show(self.ax.xaxis)
        low, high = min(edges[0], span.low), max(edges[-1], span.high)
        if len(self.column.atoms):
            low, high = min(low, *self.column.atoms), max(high, *self.column.atoms)
        room = 0.02 * (high - low) if span.shift is None else 0.0
        self.ax.set_xlim(low - room, high + room)
        kinds = {None: "density per day" if days else "density", 0.0: "density of log x"}
        self.ax.set_ylabel(kinds.get(span.shift, "density of log(1 + x)"))
        self.ax.yaxis.set_major_formatter("{x:.3g}")  # no factor in a corner of a small panel
        beyond = int(((data < span.low) | (data > span.high)).sum())
        if beyond:
            self.ax.annotate(f"{beyond} beyond", (1, 1), (0, 0), xycoords="axes fraction",
                             textcoords="offset points", ha="right", va="top", color=GREY,
                             fontsize="small")  # fmt: skip


def _bars(values: Array, edges: Array, span: Span, total: int) -> Array:
    """Heights of bars whose areas on the axis are shares of `total` values."""
    if len(edges) < 2:
        return np.zeros(0)
    return np.histogram(values, edges)[0] / (total * np.diff(span.warp(edges)))


def _shares(series: pd.Series, levels: list[Any]) -> Array:
    seen = series.dropna().astype(object)
    codes = pd.Index(levels, dtype=object).get_indexer(pd.Index(seen))
    return np.bincount(codes[codes >= 0], minlength=len(levels)) / max(len(codes), 1)


def _lumped(share: Array, shown: Array, rest: bool) -> Array:
    """The shares of the levels shown, and of all others together."""
    kept = share[shown]
    return np.append(kept, share.sum() - kept.sum()) if rest else kept


def _entries(found: list[Heights | None], level: float | None) -> list[tuple[Any, str]]:
    """Of the legend; by the first column, as all are of one model."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    line = Line2D([], [], color=MODEL, linewidth=1.8, marker="o", markersize=4.5)
    table = Patch(color=DATA, alpha=0.45), "table"
    first = found[0] if found else None
    if first is None:
        return [table, (line, "model (rows drawn)")]
    if first.lower is None:
        why = "" if level is None else " (no posterior draws: no band)"
        return [table, (line, f"model{why}")]
    both = Patch(color=MODEL, alpha=0.25), line
    return [table, (both, f"model, {100 * (level or 0):g} % posterior band")]
