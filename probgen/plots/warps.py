"""The warp of a flow: a straight grid of its base, and what becomes of it in the table."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probgen import queries
from probgen.batch import Batch
from probgen.density import Density
from probgen.errors import NotSupported, message
from probgen.plots.shared import DATA, GREY, Array, clean, fit_ticks, grid_of_axes, numbers, short
from probgen.table import encode, to_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["warp"]

#: places along a line of the grid
PLACES = 120
#: share of the rows, in either direction, that the grid spans
SPANNED = 0.99


def warp(
    model: Density,
    table: Any,
    lines: int = 13,
    rows: int = 1000,
    random_state: int = 0,
) -> NDArray[np.object_]:
    """Rows and a straight grid in the base space of a flow, and both in the table's units.

    Parameters
    ----------
    model : Density
        A flow over two real columns. What else a row holds (categories, counts, columns that
        are conditioned on) is that of the first whole row of the table, for the grid.
    table : data frame
    lines : int
        Of the grid, in either direction. It spans 99 % of the rows each way.
    rows : int
        Rows to show, at most.
    random_state : int
        Seed of their choice.

    Returns
    -------
    array of two Axes
        Where lines crowd, the density is high; a flow whose base rows do not look like the
        base (round, for a normal one) has not learned the shape yet.

    Raises
    ------
    NotSupported
        If the rows of the model have no base space, or one of other than two dimensions.

    References
    ----------
    Papamakarios, Nalisnick, Rezende, Mohamed and Lakshminarayanan (2021), Normalizing flows for
    probabilistic modeling and inference, JMLR 22.
    """
    frame = to_frame(table, model.schema_.names)
    whole = frame.dropna(subset=[n for n in model.schema_.names if n in frame])
    shown = whole if len(whole) <= rows else whole.sample(rows, random_state=random_state)
    batch = model._batch(encode(shown, model.schema_), model._device)
    codes = _codes(model, batch)
    ends = np.quantile(codes, [(1 - SPANNED) / 2, (1 + SPANNED) / 2], axis=0)
    grid = _grid(ends, lines)
    images = _images(model, batch, grid.reshape(-1, 2))
    places = [slot.column for slot in model.schema_.slots if slot.kind == "real"]
    columns = [model.schema_.columns[place] for place in places]
    panels, _ = grid_of_axes(2, 4.6, 4.2)
    left, right = panels
    style: dict[str, Any] = {"s": 8, "linewidths": 0, "alpha": 0.6, "c": DATA, "rasterized": True}
    left.scatter(codes[:, 0], codes[:, 1], **style)
    left.set(xlabel="base, first", ylabel="base, second", title="base space")
    xy = [numbers(shown[column.name]) for column in columns]
    right.scatter(xy[0], xy[1], **style)
    right.set(xlabel=short(columns[0].name), ylabel=short(columns[1].name), title="table")
    paths = [numbers(images[column.name]).reshape(grid.shape[:-1]) for column in columns]
    for line in range(len(grid)):
        left.plot(grid[line, :, 0], grid[line, :, 1], color=GREY, linewidth=0.7)
        right.plot(paths[0][line], paths[1][line], color=GREY, linewidth=0.7)
    _frame(right, xy, paths)
    for axis, column in zip((right.xaxis, right.yaxis), columns, strict=True):
        fit_ticks(axis, column)
    for ax in panels:
        clean(ax)
    return panels


def _codes(model: Density, batch: Batch) -> Array:
    """Places (n, 2) of whole rows in the base space of the first restart."""
    found = model.members_[0].codes(batch)
    z = None if found is None else next(iter(found.values()))
    if z is None or z.shape[1] != 2 or bool(z.isnan().any()):
        what = "no base space" if z is None else f"a base space of {z.shape[1]} dimensions"
        raise NotSupported(message(
            f"a {type(model).__name__} with {what}", "a flow over two real columns without atoms",
            "fit pg.Flow to two columns, with the others in given=, or use model.plot.latent",
        ))  # fmt: skip
    return z.double().cpu().numpy()


def _grid(ends: Array, lines: int) -> Array:
    """Straight lines (2 * lines, places, 2) between ends (2, 2), across first."""
    along, steps = np.linspace(0, 1, PLACES), np.linspace(0, 1, lines)
    across = np.stack(np.broadcast_arrays(along[None], steps[:, None]), -1)
    unit = np.concatenate([across, across[..., ::-1]])
    return ends[0] + unit * (ends[1] - ends[0])


def _images(model: Density, batch: Batch, z: Array) -> pd.DataFrame:
    """Rows of the table that have given places (n, 2) in the base space."""
    first = torch.zeros(len(z), dtype=torch.int64, device=batch.seen.device)
    rows = replace(batch.take(first), key=None)
    name = next(iter(model.members_[0].codes(batch.take(slice(0, 1))) or {}))
    x = model.members_[0].decoded(rows, {name: torch.from_numpy(z).to(rows.seen.device)})
    assert x is not None  # it has codes
    x = torch.where(rows.seen, x, queries.encoded(rows).to(x))
    return model._decode(x.double().cpu().numpy(), None)


def _frame(ax: Axes, rows: list[Array], paths: list[Array]) -> None:
    """Room for rows and grid, but not for the farthest ends of the grid."""
    for across, own, path in zip((True, False), rows, paths, strict=True):
        low, high = float(own.min()), float(own.max())
        size = high - low
        ends = (max(low - 0.25 * size, float(path.min())) - 0.02 * size,
                min(high + 0.25 * size, float(path.max())) + 0.02 * size)  # fmt: skip
        (ax.set_xlim if across else ax.set_ylim)(*ends)
