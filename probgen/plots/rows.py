"""Odd rows, and what makes a row odd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from probgen.density import Density
from probgen.errors import SchemaError, message
from probgen.plots.shared import (
    DATA,
    GREY,
    MODEL,
    Array,
    cell,
    clean,
    drawn_beside,
    own_axes,
    short,
)
from probgen.table import to_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["p_values", "surprisal", "waterfall"]


def surprisal(
    model: Density,
    table: Any,
    odd: int = 5,
    samples: int = 4000,
    random_state: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Histogram of the surprisal of rows beside that of rows the model draws, oddest marked.

    Parameters
    ----------
    model : Density
    table : data frame
    odd : int
        How many of the oddest rows to mark with their index.
    samples : int
        Rows to draw for the model's own surprisal.
    random_state : int
        Their seed.
    ax : Axes, optional

    Returns
    -------
    Axes
        Rows with holes have fewer cells to be surprised by, and so lie further left; the rows
        that the model draws have the holes of rows of the table.
    """
    ax = own_axes(ax)
    values = model.surprisal(table)
    usual = model.surprisal(_with_holes_of(model, table, samples, random_state)).to_numpy()
    finite = values[np.isfinite(values)]
    edges = np.histogram_bin_edges(np.concatenate([finite, usual]), bins=40)
    ax.hist(
        finite, edges.tolist(), density=True, color=DATA, alpha=0.45, label="rows of the table"
    )
    height = np.histogram(usual, edges, density=True)[0]
    ax.stairs(height, edges, color=MODEL, linewidth=1.8, label="rows that the model draws")
    top = ax.get_ylim()[1]
    worst = finite.sort_values(ascending=False).head(odd)
    ax.plot(worst, np.full(len(worst), 0.015 * top), "v", color="black", markersize=6,
            label=f"the {len(worst)} oddest rows, by index")  # fmt: skip
    _mark(ax, worst, edges[-1] - edges[0], top)
    beyond = int((~np.isfinite(values)).sum())
    ax.set(xlabel="surprisal, -log p (nats)", ylabel="density", ylim=(0, top))
    if beyond:
        ax.set_title(f"{beyond} impossible row(s) are not shown", fontsize="medium", loc="left")
    ax.legend(frameon=False)
    return clean(ax)


def _with_holes_of(model: Density, table: Any, samples: int, random_state: int) -> pd.DataFrame:
    """Rows that the model draws, with the columns and the holes of random rows of the table."""
    frame = to_frame(table, model.schema_.names)
    drawn = drawn_beside(model, frame, samples, random_state)[list(frame.columns)]
    if not len(frame) or not frame.isna().to_numpy().any():
        return drawn
    rows = np.random.default_rng(random_state).integers(len(frame), size=samples)
    return drawn.mask(frame.isna().to_numpy()[rows])


def _mark(ax: Axes, worst: pd.Series, width: float, top: float) -> None:
    """Index labels above the marks; where marks are close, labels climb."""
    level, last = 0, np.inf
    for label, value in worst.items():
        level = level + 1 if last - value < 0.045 * width else 0
        last = value
        ax.annotate(
            short(label, 14), (value, 0.03 * top), (0, 6 + 11 * level),
            textcoords="offset points", ha="center", fontsize="small",
        )  # fmt: skip


def p_values(
    model: Density,
    table: Any,
    folds: int | None = None,
    method: Literal["auto", "model"] = "auto",
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """Are the p-values of sound rows uniform? Their shares below each level.

    Parameters
    ----------
    model : Density
    table : data frame
        Rows thought to be sound, and new to the model unless `folds` are asked for.
    folds, method
        As in `Density.outliers`.
    ax : Axes, optional
    **options
        Others of `Density.outliers`.

    Returns
    -------
    Axes
        The line of p-values that hold lies on the diagonal or below it, within the band of
        chance (95 % at each level, for the number of rows and of those they are compared with).
        Above the diagonal on the left, more rows look odd than should.
    """
    ax = own_axes(ax)
    found = model.outliers(table, fdr=None, folds=folds, method=method, **options)
    p = np.sort(found["p_value"].to_numpy())
    n = len(p)
    if not n:
        raise SchemaError(message("no rows", "rows to judge", "pass a table with rows"))
    how = str(found["method"].iloc[0])
    calibration = model.calibration_
    spread = 1 / n
    if how == "split-conformal" and calibration is not None:
        spread += 1 / len(calibration)
    level = np.linspace(0, 1, 201)
    error = 1.96 * np.sqrt(level * (1 - level) * spread)
    low, high = np.clip(level - error, 0, 1), np.clip(level + error, 0, 1)
    ax.fill_between(level, low, high, color=GREY, alpha=0.18, linewidth=0, label="chance")
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle=":", label="uniform")
    at, share = np.concatenate([[0], p, [1]]), np.concatenate([[0], np.arange(1, n + 1), [n]]) / n
    ax.step(at, share, where="post", color=MODEL, linewidth=1.8, label=f"{n} rows ({how})")
    ax.set(xlabel="level", ylabel="share of rows with p-values up to it", xlim=(0, 1), ylim=(0, 1))
    ax.set_aspect("equal")
    ax.legend(frameon=False, loc="lower right")
    return clean(ax)


def waterfall(model: Density, row: Any, ax: Axes | None = None) -> Axes:
    """What makes one row odd: how its surprisal differs from the usual, column by column.

    Parameters
    ----------
    model : Density
    row : data frame of one row
        ``table.loc[[label]]``, say.
    ax : Axes, optional

    Returns
    -------
    Axes
        From the mean surprisal of rows that the model draws (with the same cells hidden,
        in the same context), each bar adds what a column's share (`Density.explain`) exceeds
        its own mean by; the last end is the surprisal of the row. Differences of shares have
        no units to worry about, unlike the shares themselves.
    """
    frame = to_frame(row, model.schema_.names)
    if len(frame) != 1:
        raise SchemaError(message(
            f"{len(frame)} rows", "one", "pass table.loc[[label]] or table.head(1)"
        ))  # fmt: skip
    ax = own_axes(ax)
    share = model.explain(frame).iloc[0]
    seen = [name for name in share.index if bool(frame[name].notna().iloc[0])]
    if not seen or not np.isfinite(share[seen]).all():
        raise SchemaError(message(
            "a row without cells, or of density 0", "a row of positive density",
            "look at model.explain(row)",
        ))  # fmt: skip
    usual = model.explain(drawn_beside(model, frame, 500, 0)[seen]).mean()
    change = (share[seen] - usual[seen]).sort_values(key=np.abs)
    start, end = float(usual[seen].sum()), float(share[seen].sum())
    steps = start + np.concatenate([[0.0], np.cumsum(change.to_numpy()[::-1])])[:-1][::-1]
    colours = [MODEL if value > 0 else DATA for value in change]
    places = np.arange(len(change))
    ax.barh(places, change, left=steps, color=colours, height=0.62)
    labels = [f"{short(name)} = {cell(frame[name].iloc[0])}" for name in change.index]
    ax.set_yticks(places, labels)
    _bar_labels(ax, change, steps)
    for value, text in ((start, f"usual {start:.1f}"), (end, f"this row {end:.1f}")):
        ax.axvline(value, color=GREY, linewidth=0.9, linestyle=":")
        ax.annotate(text, (value, len(change) - 0.45), ha="center", va="bottom", color=GREY,
                    fontsize="small", annotation_clip=False)  # fmt: skip
    ax.set(xlabel="surprisal, -log p (nats)", ylim=(-0.6, len(change) - 0.45))
    ax.set_title(f"row {short(frame.index[0])}", fontsize="medium", loc="left", pad=18)
    return clean(ax)


def _bar_labels(ax: Axes, change: pd.Series, steps: Array) -> None:
    reach = np.concatenate([steps, steps + change.to_numpy()])
    room = 0.13 * (np.ptp(reach) or 1.0)
    ax.set_xlim(reach.min() - room, reach.max() + room)
    for place, (value, left) in enumerate(zip(change, steps, strict=True)):
        end, side = left + value, 1 if value >= 0 else -1
        ax.annotate(
            "0.0" if abs(value) < 0.05 else f"{value:+.1f}", (end, place), (5 * side, 0),
            textcoords="offset points", ha="left" if side > 0 else "right", va="center",
            fontsize="small", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
