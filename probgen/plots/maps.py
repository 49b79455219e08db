"""Maps: the joint density of two columns, where components lie, and rows by their latents."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probgen.density import Density
from probgen.errors import NotSupported, SchemaError, message
from probgen.plots.heights import contexts, heights
from probgen.plots.shared import (
    DATA,
    MODEL,
    OTHERS,
    Array,
    clean,
    drawable,
    drawn_beside,
    fit_ticks,
    numbers,
    own_axes,
    positions,
    short,
)
from probgen.plots.spans import Span, as_series, span_of
from probgen.table import to_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["coloured", "components", "density", "latent"]

#: places on either axis at which a joint density is computed
GRID, GRID_IN_CONTEXT = 64, 24
#: share of its rows that an ellipse holds, if the component is normal: 2.15 sd around
HELD = 0.9


def density(
    model: Density,
    table: Any,
    columns: Sequence[Hashable] | None = None,
    masses: Sequence[float] = (0.5, 0.8, 0.95),
    rows: int = 1000,
    random_state: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Contours of the model's joint density of two columns, over the rows of a table.

    Parameters
    ----------
    model : Density
    table : data frame
    columns : (across, down), optional
        Numbers, counts or dates; by default the first two of the table.
    masses : sequence of float
        Each contour holds this share of the model's mass inside the picture.
    rows : int
        Rows of the table to show, at most.
    random_state : int
        Seed of their choice.
    ax : Axes, optional

    Returns
    -------
    Axes
        All other columns are integrated out. Atoms are left out of the contours, which are
        those of the continuous part. A model with context columns is averaged over the contexts
        of 50 random rows at most. Costs 64 x 64 log densities (24 x 24 for each context).

    Raises
    ------
    NotSupported
        For a family without density.
    """
    frame = to_frame(table, model.schema_.names)
    across, down = _two(model, frame, columns)
    shown = frame if len(frame) <= rows else frame.sample(rows, random_state=random_state)
    drawn = drawn_beside(model, frame, 1000, random_state)
    spans = [_span(model, name, frame, drawn) for name in (across, down)]
    held = contexts(model, frame, random_state)
    x, y = (span.points(GRID if held is None else GRID_IN_CONTEXT) for span in spans)
    points = pd.DataFrame({
        across: as_series(np.tile(x, len(y)), spans[0].column),
        down: as_series(np.repeat(y, len(x)), spans[1].column),
    })  # fmt: skip
    height = heights(model, points, held, None).value.reshape(len(y), len(x))
    height = height * spans[0].slope(x) * spans[1].slope(y)[:, None]
    ax = own_axes(ax, (5.6, 5.0))
    xy = _places(model, shown, (across, down))
    ax.scatter(xy[:, 0], xy[:, 1], s=9, c=DATA, alpha=0.45, linewidths=0, rasterized=True)
    levels, kept = _levels(height, spans[0].warp(x), spans[1].warp(y), sorted(masses)[::-1])
    lines = ax.contour(x, y, height, levels=levels, colors=MODEL,
                       linewidths=np.linspace(0.9, 2.0, len(levels)), zorder=3)  # fmt: skip
    _dress(ax, spans, (across, down))
    ax.clabel(lines, fmt={line: f"{100 * mass:g} %" for line, mass in
                          zip(levels, kept, strict=True)}, fontsize="small")  # fmt: skip
    return clean(ax)


def _levels(
    height: Array, x: Array, y: Array, masses: list[float]
) -> tuple[list[float], list[float]]:
    """Heights, rising, above which these shares of the mass lie, and the shares."""
    bad = [mass for mass in masses if not 0 < mass < 1]
    if bad or not masses:
        raise SchemaError(message(f"masses={masses}", "shares in (0, 1)", "pass (0.5, 0.9), say"))
    cell = np.gradient(y)[:, None] * np.gradient(x)
    order = np.argsort(-height, axis=None)
    mass = np.cumsum((height * cell).ravel()[order])
    found: dict[float, float] = {}
    for share in masses:
        place = int(np.searchsorted(mass, share * mass[-1]))
        found[float(height.ravel()[order[min(place, len(order) - 1)]])] = share
    return list(found), list(found.values())


def components(
    model: Density,
    table: Any,
    columns: Sequence[Hashable] | None = None,
    least: float = 0.01,
    rows: int = 1000,
    random_state: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Rows by their most probable component over two columns, and where each component lies.

    Parameters
    ----------
    model : Density
        Of a family whose rows have a label (mixtures, and pairs with an enumerated site).
    table : data frame
    columns : (across, down), optional
        Numbers, counts or dates; by default the first two of the table.
    least : float
        Components of a smaller share of the rows that the model draws are left out.
    rows : int
        Rows of the table to show, at most.
    random_state : int
        Seed of their choice, and of 4000 rows that the model draws.
    ax : Axes, optional

    Returns
    -------
    Axes
        A dot is paler, the less certain its component is. An ellipse has the mean and the
        covariance, on the scale of the axes, of drawn rows weighted by the probability of the
        component; it holds 90 % of them if they are normal. Numbers are those of
        ``model.latent``; the legend has their shares.

    Raises
    ------
    NotSupported
        If the rows of the family have no label.
    """
    frame = to_frame(table, model.schema_.names)
    across, down = _two(model, frame, columns)
    shown = frame if len(frame) <= rows else frame.sample(rows, random_state=random_state)
    drawn = drawn_beside(model, frame, 4000, random_state)
    spans = [_span(model, name, frame, drawn) for name in (across, down)]
    weight = _labels(model, drawn)
    share = weight.mean().to_numpy()
    kept = [k for k in np.argsort(-share, kind="stable") if share[k] >= least]
    ax = own_axes(ax, (6.4, 5.0))
    chance = _labels(model, shown).to_numpy()
    best = chance.argmax(1)
    xy = _places(model, shown, (across, down))
    for place, k in enumerate(kept):
        colour, mark = OTHERS[place % len(OTHERS)], "os^Dv"[place // len(OTHERS) % 5]
        own = best == k
        # paler, the less certain
        ax.scatter(xy[own, 0], xy[own, 1], s=13, c=colour, marker=mark, linewidths=0,
                   alpha=np.clip(chance[own, k], 0.15, 1) * 0.7, rasterized=True)  # fmt: skip
        path = _ellipse(_places(model, drawn, (across, down)), weight.to_numpy()[:, k], spans)
        label = f"{k}: {100 * share[k]:.0f} %"
        ax.plot(*path.T, color=colour, linewidth=1.8, label=label, zorder=3,
                linestyle=("-", "--", ":", "-.", "-")[place // len(OTHERS) % 5])  # fmt: skip
    _dress(ax, spans, (across, down))
    ax.legend(frameon=False, title="component: share", loc="upper left", fontsize="small",
              bbox_to_anchor=(1, 1), ncols=1 + (len(kept) > 16))  # fmt: skip
    return clean(ax)


def _labels(model: Density, frame: pd.DataFrame) -> pd.DataFrame:
    """Probabilities (n, codes) of the first label of each row."""
    found = model.latent(frame)
    labels = _sites(found, labels=True)
    if not labels:
        raise NotSupported(message(
            f"{type(model).__name__} whose rows have no label", "a mixture, say",
            "use model.plot.latent(table)",
        ))  # fmt: skip
    return found[labels[0]]


def _sites(found: pd.DataFrame, labels: bool) -> list[list[str]]:
    """Columns of the labels of rows (probabilities of their codes), or of their other latents."""
    sites: dict[str, list[str]] = {}
    for name in found.columns:
        if not name.endswith(".sd"):
            sites.setdefault(name.rpartition("[")[0], []).append(name)

    def is_label(names: list[str]) -> bool:
        p = found[names].to_numpy()
        return bool((p >= 0).all() and np.allclose(p.sum(1), 1, atol=1e-4))

    return [names for names in sites.values() if is_label(names) == labels]


def _ellipse(places: Array, weight: Array, spans: list[Span]) -> Array:
    """Places (p, 2) around the mean, at the distance that holds most of a normal component."""
    keep = np.isfinite(places).all(1)
    flat = np.stack([span.warp(places[keep, i]) for i, span in enumerate(spans)], 1)
    w = weight[keep] / weight[keep].sum()
    mean = w @ flat
    spread = (flat - mean).T @ ((flat - mean) * w[:, None])
    value, vector = np.linalg.eigh(spread)
    angle = np.linspace(0, 2 * np.pi, 100)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1) * np.sqrt(-2 * np.log(1 - HELD))
    path = mean + (circle * np.sqrt(np.maximum(value, 0))) @ vector.T
    return np.stack([span.unwarp(path[:, i]) for i, span in enumerate(spans)], 1)


def latent(
    model: Density,
    table: Any,
    dimensions: tuple[int, int] = (0, 1),
    colour: Hashable | None = None,
    rows: int = 2000,
    random_state: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Rows by the mean of two of their continuous latents.

    Parameters
    ----------
    model : Density
        Of a family whose rows have continuous latents.
    table : data frame
    dimensions : (across, down)
        Numbers of two latents, in the order of ``model.latent``. A single latent is drawn
        against its standard deviation.
    colour : name, optional
        A column of the table that colours the rows.
    rows : int
        Rows to show, at most.
    random_state : int
        Seed of their choice.
    ax : Axes, optional

    Returns
    -------
    Axes
        The cross is as wide and as high as the mean standard deviation of the latents of a
        row, one to either side: where it is as large as the cloud, the latent says nothing
        about its row.

    Raises
    ------
    NotSupported
        If the rows of the family have no continuous latents.
    """
    frame = to_frame(table)
    if colour is not None and colour not in frame:
        raise SchemaError(message(
            f"no column {colour!r} to colour by", f"one of {list(frame.columns)[:20]}",
            "check the name",
        ))  # fmt: skip
    shown = frame if len(frame) <= rows else frame.sample(rows, random_state=random_state)
    known = [name for name in model.schema_.names if name in shown]
    found = model.latent(shown[known])
    means = [name for names in _sites(found, labels=False) for name in names]
    if not means:
        raise NotSupported(message(
            f"{type(model).__name__} whose rows have no continuous latents", "such latents",
            "use model.plot.components(table)",
        ))  # fmt: skip
    if len(means) == 1:
        dimensions = (0, 0)
    if not all(0 <= d < len(means) for d in dimensions) or len(dimensions) != 2:
        raise SchemaError(message(
            f"dimensions={dimensions}", f"two numbers below {len(means)}", "choose among them"
        ))  # fmt: skip
    ax = own_axes(ax, (6.0, 5.0))
    names = [means[d] for d in dimensions]
    x = found[names[0]].to_numpy()
    if len(means) == 1:
        names[1] = f"{names[0]}.sd"
    y = found[names[1]].to_numpy()
    coloured(ax, x, y, None if colour is None else shown[colour], model, colour)
    if len(means) > 1:
        sd = [float(found[f"{name}.sd"].mean()) for name in names]
        ax.errorbar(x.mean(), y.mean(), xerr=sd[0], yerr=sd[1], color="black", capsize=3,
                    label="mean sd within a row")  # fmt: skip
        ax.legend(frameon=False, fontsize="small")
    ax.set(xlabel=names[0], ylabel=names[1])
    return clean(ax)


def coloured(
    ax: Axes, x: Array, y: Array, by: pd.Series | None, model: Density, name: Hashable
) -> None:
    """Rows, by level or along a scale of numbers."""
    style: dict[str, Any] = {"s": 13, "linewidths": 0, "alpha": 0.7, "rasterized": True}
    if by is None:
        ax.scatter(x, y, c=DATA, **style)
        return
    column = model.schema_[name] if name in model.schema_.names else None
    if column is not None and not column.labelled:
        value = positions(by, column, np.random.default_rng(0))
        dots = ax.scatter(x, y, c=value, cmap="viridis", **style)
        bar = ax.figure.colorbar(dots, ax=ax, label=short(name))
        fit_ticks(bar.ax.yaxis, column)
        return
    codes, levels = pd.factorize(by, sort=True)
    for code, level in enumerate(levels[: len(OTHERS)]):
        own = codes == code
        ax.scatter(x[own], y[own], c=OTHERS[code], label=short(level, 16), **style)
    rest = (codes < 0) | (codes >= len(OTHERS))
    if rest.any():
        ax.scatter(x[rest], y[rest], c="#bbbbbb", label="others", **style)
    ax.legend(frameon=False, fontsize="small")


# --- two columns ------------------------------------------------------------------------------


def _two(
    model: Density, frame: pd.DataFrame, columns: Sequence[Hashable] | None
) -> tuple[Hashable, Hashable]:
    known = drawable(model, frame, None)
    plain = [name for name in known if not model.schema_[name].labelled]
    chosen = plain[:2] if columns is None else drawable(model, frame, columns)
    if len(chosen) != 2 or len(set(chosen)) != 2 or not set(chosen) <= set(plain):
        raise SchemaError(message(
            f"columns {chosen} for the two axes of a map",
            f"two different columns of numbers, counts or dates, among {plain[:20]}",
            "pass columns=(across, down); model.plot.pairs draws categories too",
        ))  # fmt: skip
    return chosen[0], chosen[1]


def _span(model: Density, name: Hashable, frame: pd.DataFrame, drawn: pd.DataFrame) -> Span:
    column = model.schema_[name]
    parts = [numbers(table[name]) for table in (frame, drawn)]
    atoms = np.array(column.atoms)
    return span_of(column, *(part[~np.isin(part, atoms)] for part in parts))


def _places(
    model: Density, frame: pd.DataFrame, names: tuple[Hashable, Hashable]
) -> NDArray[np.float64]:
    """Places (n, 2) of rows, NaN where a cell is unseen."""
    noise = np.random.default_rng(0)
    return np.stack([positions(frame[name], model.schema_[name], noise) for name in names], 1)


def _dress(ax: Axes, spans: list[Span], names: tuple[Hashable, Hashable]) -> None:
    for axis, span, name in zip((ax.xaxis, ax.yaxis), spans, names, strict=True):
        span.show(axis)
        room = 0.0 if span.shift is not None else 0.03 * (span.high - span.low)
        ends = span.low - room, span.high + room
        (ax.set_xlim if axis is ax.xaxis else ax.set_ylim)(*ends)
        axis.set_label_text(short(name))
