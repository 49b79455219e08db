"""Pairs of columns of a table beside those of rows that the model draws."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from probgen.columns import Column
from probgen.density import Density
from probgen.errors import SchemaError, message
from probgen.plots.shared import (
    DATA,
    MODEL,
    Array,
    clean,
    drawable,
    drawn_beside,
    fit_ticks,
    handles,
    positions,
    wrapped,
)  # fmt: skip
from probgen.table import to_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["pairs"]


def pairs(
    model: Density,
    table: Any,
    columns: Sequence[Hashable] | None = None,
    rows: int = 1000,
    random_state: int = 0,
) -> NDArray[np.object_]:
    """Scatter plots of pairs of columns: real rows and sampled rows on the same axes.

    Parameters
    ----------
    model : Density
    table : data frame
    columns : sequence of names, optional
        Two to six; by default the first columns of numbers or five at most.
    rows : int
        Rows to show of either sort: equally many, so that the two can be compared.
    random_state : int
        Seed of the choice, of the draws, and of the order in which points are laid.

    Returns
    -------
    ndarray (d, d) of Axes
        Histograms on the diagonal, pairs below it; the panels above it are empty. Levels of a
        category are spread a little around their place.
    """
    frame = to_frame(table, model.schema_.names)
    if columns is None:
        known = drawable(model, frame, None)
        columns = [name for name in known if not model.schema_[name].labelled][:5]
    names = drawable(model, frame, columns)
    if not 2 <= len(names) <= 6:
        raise SchemaError(message(
            f"{len(names)} column(s) to pair", "2 to 6", "pass columns=[...]",
        ))  # fmt: skip
    real = frame if len(frame) <= rows else frame.sample(rows, random_state=random_state)
    drawn = drawn_beside(model, real, len(real), random_state)
    noise = np.random.default_rng(random_state)
    values = {
        name: (positions(real[name], model.schema_[name], noise),
               positions(drawn[name], model.schema_[name], noise))
        for name in names
    }  # fmt: skip
    return _corner(names, values, model, noise)


def _corner(
    names: list[Hashable],
    values: dict[Hashable, tuple[Array, Array]],
    model: Density,
    noise: np.random.Generator,
) -> NDArray[np.object_]:
    import matplotlib.pyplot as plt

    d = len(names)
    size = 1.0 + 1.9 * d
    figure, axes = plt.subplots(
        d, d, figsize=(size, size), sharex="col", squeeze=False, layout="constrained"
    )
    for i, down in enumerate(names):
        for j, across in enumerate(names[: i + 1]):
            ax = axes[i, j]
            if i == j:
                _diagonal(ax, *values[down], model.schema_[down])
            else:
                _cloud(ax, values[across], values[down], noise)
                ax.set_ylim(_limits(values[down]))
                fit_ticks(ax.yaxis, model.schema_[down])
            if 0 < j < i:
                ax.tick_params(labelleft=False)
            ax.set_xlim(_limits(values[across]))
            ax.tick_params(labelsize="small")
            clean(ax)
        fit_ticks(axes[d - 1, i].xaxis, model.schema_[down])
        axes[d - 1, i].set_xlabel(wrapped(down))
        if i:
            axes[i, 0].set_ylabel(wrapped(down))
        for ax in axes[i, i + 1 :]:
            ax.axis("off")
    # of the figure: a legend inside a panel would widen its column
    entries = handles("real rows", "rows that the model draws")
    figure.legend(handles=entries, loc="upper right", frameon=False)
    return axes


def _cloud(
    ax: Axes, across: tuple[Array, Array], down: tuple[Array, Array], noise: np.random.Generator
) -> None:
    """Points of both sorts in random order, so that neither hides the other."""
    colours = np.repeat([DATA, MODEL], [len(part) for part in across])
    order = noise.permutation(len(colours))
    ax.scatter(
        np.concatenate(across)[order], np.concatenate(down)[order], s=8, c=colours[order],
        alpha=0.5, linewidths=0, rasterized=True,
    )  # fmt: skip


def _diagonal(ax: Axes, real: Array, drawn: Array, column: Column) -> None:
    low, high = _limits((real, drawn))
    edges: Array = np.linspace(low, high, 22)
    if column.labelled:
        edges = np.arange(len(column.levels or ()) + 1) - 0.5
    elif column.kind == "count":
        step = max(1, round((high - low) / 20))
        edges = np.arange(np.floor(low), high + step, step) + 0.5
    for values, colour, fill in ((real, DATA, True), (drawn, MODEL, False)):
        values = values[np.isfinite(values)]
        height = np.histogram(values, edges)[0] / max(len(values), 1)
        ax.stairs(height, edges, color=colour, fill=fill, alpha=0.45 if fill else 1.0,
                  linewidth=1.4)  # fmt: skip
    ax.set_xlim(low, high)
    ax.set_yticks([])


def _limits(both: tuple[Array, Array]) -> tuple[float, float]:
    values = np.concatenate([part[np.isfinite(part)] for part in both])
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room
