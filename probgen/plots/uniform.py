"""Are these values uniform? PIT of columns, and ranks of simulation-based calibration."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probgen.density import Density
from probgen.diagnostics.pit import pit as values_of
from probgen.errors import SchemaError, message
from probgen.plots.bands import cumulative_band, share_band
from probgen.plots.shared import (
    DATA,
    GREY,
    MODEL,
    Array,
    clean,
    drawable,
    grid_of_axes,
    legend_below,
    short,
)
from probgen.table import to_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Ranked", "Shape", "pit", "ranks"]

Shape = Literal["difference", "histogram"]

#: places at which a distribution function is looked at, at most
PLACES = 100
#: bars of a histogram, at most
BARS = 20
#: quantities drawn where none are named
MOST = 16


class Ranked(Protocol):
    """What `ranks` needs of `probgen.evaluation.Simulations`."""

    @property
    def ranks(self) -> pd.DataFrame: ...
    @property
    def draws(self) -> int: ...
    @property
    def summary(self) -> pd.DataFrame: ...


def pit(
    model: Density,
    table: Any,
    columns: Sequence[Hashable] | None = None,
    shape: Shape = "difference",
    level: float = 0.95,
    random_state: int = 0,
) -> NDArray[np.object_]:
    """Where each cell lies within the model's distribution of its column: uniform if it is right.

    Parameters
    ----------
    model : Density
    table : data frame
        Rows that the fit did not see say most.
    columns : sequence of names, optional
        All columns of the table that the model knows.
    shape : {"difference", "histogram"}
        The distribution function of the values less that of the uniform, or a histogram.
    level : float
        Probability with which the whole curve (or all bars) of a column stay inside the grey
        band if the model is right.
    random_state : int
        Seed of the values of columns with levels or ties, which are spread out at random.

    Returns
    -------
    ndarray of Axes, one a column
        A curve above zero on the left: more values than there should be are low. A cap or a
        dip in a histogram: the model's column is too wide, or too narrow. Holes are left out.
        The band allows for the draws that the cells are ranked among.

    References
    ----------
    Säilynoja, Bürkner and Vehtari (2022), Graphical test for discrete uniformity.
    """
    frame = to_frame(table, model.schema_.names)
    names = drawable(model, frame, columns)
    values = values_of(model, frame, random_state=random_state)
    cells = {name: values[name].dropna().to_numpy(dtype=np.float64) for name in names}
    sizes = [len(cell) for cell in cells.values()]
    if not sizes or not max(sizes):
        raise SchemaError(message(
            "no seen cells", "at least one in some column", "pass rows with values"
        ))  # fmt: skip
    grid, unused = grid_of_axes(len(names), width=3.0, height=2.4)
    # drawn once for all rows: their error is that of a second sample
    shared = not model.schema_.context_slots
    for ax, (name, cell) in zip(grid, cells.items(), strict=True):
        places = PLACES if shape == "difference" else BARS
        count = int(np.clip(len(cell), 1, places))
        edges = np.linspace(0, 1, count + 1)
        counts = np.histogram(cell, edges)[0]
        other = values.attrs["draws"] if shared else None
        _panel(ax, counts, np.diff(edges), shape, level, other=other)
        ax.set_title(short(name), fontsize="medium", loc="left")
        ax.set_xlabel("PIT", fontsize="small")
    legend_below(grid, unused, _entries(level, "cells of the column"))
    return grid


def ranks(
    simulations: Ranked,
    quantities: Sequence[Hashable] | None = None,
    shape: Shape = "difference",
    level: float = 0.95,
) -> NDArray[np.object_]:
    """Ranks of true values among posterior draws: uniform if the posterior can be believed.

    Parameters
    ----------
    simulations : Simulations
        Of ``model.calibrate()``.
    quantities : sequence of names, optional
        By default the sixteen that look worst, or all if they are fewer.
    shape : {"difference", "histogram"}
        The distribution function of the ranks less that of the uniform, or a histogram.
    level : float
        Probability with which the whole curve (or all bars) of a quantity stay inside the grey
        band if its posterior is right.

    Returns
    -------
    ndarray of Axes, one a quantity
        A slope (a curve on one side of zero) says that the posterior is biased; an arch in a
        histogram that it is too wide, a bowl that it is too narrow. The verdict of the
        simulations is written in the panel.

    References
    ----------
    Talts et al. (2018), Validating Bayesian inference algorithms with simulation-based
    calibration. Säilynoja, Bürkner and Vehtari (2022), Graphical test for discrete uniformity.
    """
    found, summary = simulations.ranks, simulations.summary
    if not len(found):
        raise SchemaError(message(
            "no simulations", "ranks of at least one", "look at why all of them failed"
        ))  # fmt: skip
    names = list(found.columns) if quantities is None else list(quantities)
    missing = [name for name in names if name not in found.columns]
    if missing:
        raise SchemaError(message(
            f"quantities {missing}", f"some of {list(found.columns)[:20]}", "check the names"
        ))  # fmt: skip
    if quantities is None and len(names) > MOST:
        names = list(summary.loc[names, "p_value"].sort_values(kind="stable").index[:MOST])
    cells = int(simulations.draws) + 1
    edges = _edges(cells, shape)
    grid, unused = grid_of_axes(len(names), width=3.0, height=2.4)
    for ax, name in zip(grid, names, strict=True):
        counts = np.histogram(found[name].to_numpy(), edges - 0.5)[0]
        _panel(ax, counts, np.diff(edges) / cells, shape, level, str(summary.at[name, "verdict"]))
        ax.set_title(short(name), fontsize="medium", loc="left")
        ax.set_xlabel(f"rank of the truth among {cells - 1} draws", fontsize="small")
        ax.set_xticks([0, 1], ["0", str(cells - 1)])
    legend_below(grid, unused, _entries(level, "ranks of the truth"))
    return grid


def _edges(cells: int, shape: Shape) -> NDArray[np.int64]:
    """Where the ranks 0..cells - 1 are cut: into equal bars if there is a way."""
    most = min(PLACES if shape == "difference" else BARS, cells)
    if shape == "histogram":
        most = next((k for k in range(most, most // 2, -1) if cells % k == 0), most)
    return np.unique(np.rint(np.linspace(0, cells, most + 1)).astype(np.int64))


def _panel(
    ax: Axes,
    counts: Array,
    steps: Array,
    shape: Shape,
    level: float,
    verdict: str | None = None,
    other: int | None = None,
) -> None:
    """The shares of cells of known probability, within the band of chance.

    `other` is the size of a sample that the probabilities of the cells come from.
    """
    if shape not in ("difference", "histogram"):
        raise SchemaError(message(f"shape={shape!r}", "'difference' or 'histogram'", "choose one"))
    if not 0 < level < 1:
        raise SchemaError(message(f"level={level}", "0 < level < 1", "pass 0.95, say"))
    n = int(counts.sum())
    ax.set_xlim(0, 1)
    if not n:
        ax.annotate("nothing seen", (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
        clean(ax)
        return
    draw = _difference if shape == "difference" else _histogram
    size = n if other is None else max(1, round(n * other / (n + other)))
    inside = draw(ax, counts / n, steps, size, level)
    said = verdict or ("" if inside else "leaves the band")
    bad = not inside if verdict is None else verdict != "ok"
    ax.annotate(said, (1, 1), xycoords="axes fraction", ha="right", va="top", fontsize="small",
                color=MODEL if bad else GREY)  # fmt: skip
    ax.tick_params(labelsize="small")
    clean(ax)


def _difference(ax: Axes, shares: Array, steps: Array, n: int, level: float) -> bool:
    ends = np.cumsum(steps)
    low, high = cumulative_band(n, tuple(steps.tolist()), level)
    gap = np.cumsum(shares)
    inside = bool(((gap >= low - 1e-12) & (gap <= high + 1e-12)).all())
    at = np.concatenate([[0.0], ends])
    below, above, gap = (np.concatenate([[0.0], part - ends]) for part in (low, high, gap))
    ax.fill_between(at, below, above, color=GREY, alpha=0.22, linewidth=0)
    ax.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    ax.plot(at, gap, color=DATA if inside else MODEL, linewidth=1.6)
    reach = 1.25 * max(float(np.abs([below, above]).max()), float(np.abs(gap).max()))
    ax.set_ylim(-reach, reach)
    ax.set_ylabel("share below - uniform", fontsize="small")
    return inside


def _histogram(ax: Axes, shares: Array, steps: Array, n: int, level: float) -> bool:
    edges = np.concatenate([[0.0], np.cumsum(steps)])
    low, high = share_band(n, tuple(steps.tolist()), level)
    inside = bool(((shares >= low - 1e-12) & (shares <= high + 1e-12)).all())
    ax.stairs(high / steps, edges, baseline=low / steps, fill=True, color=GREY, alpha=0.22)
    ax.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    ax.stairs(shares / steps, edges, baseline=None, color=DATA if inside else MODEL,
              linewidth=1.6)  # fmt: skip
    ax.set_ylim(0, 1.2 * float(max((shares / steps).max(), (high / steps).max())))
    ax.set_ylabel("density", fontsize="small")
    return inside


def _entries(level: float, what: str) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    inside, outside = (Line2D([], [], color=c, linewidth=1.6) for c in (DATA, MODEL))
    band = Patch(color=GREY, alpha=0.22), f"chance, {100 * level:g} % of whole panels"
    return [(inside, what), (outside, "the same, outside the band"), band]
