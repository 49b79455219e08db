"""Which part of an axis a column takes, and how its values lie there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probgen.columns import Column
from probgen.plots.shared import brief, fit_ticks

__all__ = ["Span", "as_series", "bins", "span_of"]

Array = NDArray[Any]

#: largest over smallest of the middle 98 % of a positive column from which its axis is a log
DECADES = 50.0
#: the same for counts, over the median, as their smallest may be 0
SKEWED = 20.0
#: a tail is cut where it is longer than so many widths of the middle 95 %, to one such width
LONG = 3.0
#: whole numbers that are drawn one by one, at most
WHOLE = 30


@dataclass(frozen=True)
class Span:
    """A part of the axis of a column.

    Parameters
    ----------
    column : Column
    low, high : float
        Ends, as numbers (dates in days since 1970).
    shift : float, optional
        The axis is that of log(value + shift); None where it is straight.
    """

    column: Column
    low: float
    high: float
    shift: float | None = None

    @property
    def step(self) -> float | None:
        """Least distance of two values: 1 for counts, the grid of a rounded column."""
        return 1.0 if self.column.kind == "count" else self.column.grid

    @property
    def whole(self) -> bool:
        """Whether the values are so few whole numbers that each is drawn by itself."""
        return self.column.kind == "count" and self.high - self.low < WHOLE and self.shift is None

    def warp(self, values: Array) -> Array:
        """Values as places on an axis on which equal distances look equal."""
        return values if self.shift is None else np.log(values + self.shift)

    def unwarp(self, places: Array) -> Array:
        """The inverse of `warp`."""
        return places if self.shift is None else np.exp(places) - self.shift

    def slope(self, values: Array) -> Array:
        """What turns a density of values into one of places: heights then have honest areas."""
        if self.shift is None:
            return np.ones(len(values))
        if self.column.kind == "count":  # the mass of a whole number fills its cell
            return 1 / (self.warp(values + 0.5) - self.warp(values - 0.5))
        return values + self.shift

    def points(self, count: int, near: Array | None = None) -> Array:
        """Legal values from end to end, evenly on the axis, and at quantiles of `near`.

        The latter follow the data, so that no narrow peak slips through.
        """
        values = self.unwarp(np.linspace(self.warp(np.array(self.low)),
                                         self.warp(np.array(self.high)), count))  # fmt: skip
        if near is not None and len(near):
            own = np.quantile(near, np.linspace(0.01, 0.99, count // 2))
            values = np.concatenate([values, own])
        values = np.unique(np.rint(values) if self.column.kind == "count" else values)
        values = values[(values >= self.low) & (values <= self.high)]
        values = values[~np.isin(values, self.column.atoms)]
        if self.column.kind == "date" or self.column.unit:
            return values
        return values[self.column.legal(values)]

    def show(self, axis: Any) -> None:
        """Scale and ticks of an axis of this column."""
        from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

        if self.shift is None:
            fit_ticks(axis, self.column)
            return
        rescale = getattr(axis.axes, f"set_{axis.axis_name}scale")
        if not self.shift:
            rescale("log")
            axis.set_major_locator(LogLocator(numticks=5))
        else:
            functions = (self._forward, self._backward)
            rescale("function", functions=functions)
            most = int(np.log10(max(self.high, 10.0)))
            stride = -(-most // 3)
            axis.set_major_locator(FixedLocator([0, *(10**k for k in range(0, most + 1, stride))]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(_tick))

    def _forward(self, values: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(np.asarray(values, dtype=np.float64) + (self.shift or 0.0))

    def _backward(self, places: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.exp(np.asarray(places, dtype=np.float64)) - (self.shift or 0.0)


def _tick(value: float, place: object) -> str:
    return brief(value, place) if 1e-3 <= abs(value) < 1e12 or not value else f"{value:.0e}"


def span_of(column: Column, data: Array, model: Array) -> Span:
    """The part of the axis that shows nearly all values; a tail far longer than the rest is cut.

    Parameters
    ----------
    column : Column
    data, model : ndarray
        Numbers of the table and of rows that the model draws, atoms left out.
    """
    both = np.concatenate([data, model])
    if not len(both):
        return Span(column, 0.0, 1.0)
    span = Span(column, 0.0, 0.0, _shift(column, data if len(data) else model))
    main = span.warp(data if len(data) else model)
    drawn = span.warp(model if len(model) else data)
    low, high = (float(q) for q in np.quantile(np.concatenate([main, drawn]), [0.001, 0.999]))
    low, high = min(low, float(main.min())), max(high, float(main.max()))
    inner, outer = (float(q) for q in np.quantile(main, [0.025, 0.975]))
    width = outer - inner
    if width > 0:
        low = inner - width if low < inner - LONG * width else low
        high = outer + width if high > outer + LONG * width else high
    if high <= low:
        low, high = low - 0.5, high + 0.5
    ends = span.unwarp(np.array([low, high]))
    if column.kind == "count":
        ends = np.array([max(np.floor(ends[0]), column.support()[0]), np.ceil(ends[1])])
    return replace(span, low=float(ends[0]), high=float(ends[1]))


def _shift(column: Column, values: Array) -> float | None:
    """Whether an axis is that of a logarithm, and of what."""
    lower = column.support()[0]
    if column.unit or lower != 0 or len(np.unique(values)) < WHOLE:
        return None
    low, high = np.quantile(values, [0.01, 0.99])
    if column.kind == "positive" and values.min() > 0 and high > DECADES * low:
        return 0.0
    if column.kind == "count" and high > SKEWED * (1 + np.median(values)):
        return 1.0
    return None


def bins(span: Span, data: Array) -> Array:
    """Edges of bars over a span; whole numbers and cells of a grid are never cut."""
    low, high, step = span.low, span.high, span.step
    count = _bars(span, data)
    if span.shift is not None:
        first, last = (float(end) for end in span.warp(np.array([low, high])))
        edges = span.unwarp(np.linspace(first, last, count + 1))
        return np.unique(np.floor(edges) - 0.5) if span.column.kind == "count" else edges
    if step and high > low:
        width = step * max(1, round((high - low) / step / count))
        start = np.floor(low / step) * step - step / 2
        return start + width * np.arange(int(np.ceil((high - start) / width)) + 1)
    return np.linspace(low, high, count + 1)


def _bars(span: Span, data: Array) -> int:
    """How many bars: more where the middle half is narrow (Freedman and Diaconis 1981)."""
    root = max(len(data), 1) ** (1 / 3)
    if not len(data):
        return 8
    places = span.warp(data)
    middle = float(np.subtract(*np.quantile(places, [0.75, 0.25])))
    reach = float(np.ptp(span.warp(np.array([span.low, span.high]))))
    narrow = reach * root / (2 * middle) if middle > 0 else 0.0
    return int(np.clip(max(2 * root, narrow), 8, 40 if narrow <= 40 else 80))


def as_series(values: Array, column: Column) -> pd.Series:
    """Numbers as a column of the table would hold them: the inverse of `shared.numbers`."""
    if column.labelled:
        levels = list(column.levels or ())
        cells = pd.Categorical.from_codes(np.asarray(values, dtype=np.intp), categories=levels)
        return pd.Series(cells)
    if column.kind != "date" and not column.unit:
        return pd.Series(np.asarray(values, dtype=np.float64))
    ticks = np.rint(np.asarray(values) * 86_400_000_000).astype(np.int64)
    if column.kind != "date":
        return pd.Series(ticks.astype("timedelta64[us]"))
    dates = pd.Series(ticks.astype("datetime64[us]"))
    return dates if column.tz is None else dates.dt.tz_localize("UTC").dt.tz_convert(column.tz)
