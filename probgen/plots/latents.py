"""What the latents of a model hold of the rows: by dimension, and beside their prior."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import gaussian_kde, norm

from probgen import queries
from probgen.density import Density
from probgen.errors import SchemaError, message
from probgen.plots.maps import coloured
from probgen.plots.shared import DATA, GREY, MODEL, Array, clean, grid_of_axes
from probgen.table import encode, to_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["latents"]

#: dimensions shown, at most
SHOWN = 20
#: shares of the prior's mass inside its contours
MASSES = (0.9, 0.5)
#: draws of a prior that is no normal; width of the kernels of its density, by the spread of the
#: draws; places a side
DRAWN, WIDTH, PLACES = 6000, 0.08, 100


def latents(
    model: Density,
    table: Any,
    colour: Hashable | None = None,
    rows: int = 1000,
    random_state: int = 0,
) -> NDArray[np.object_]:
    """What each latent dimension holds of the rows, and the rows among its prior.

    Parameters
    ----------
    model : Density
        Of a family whose guide draws continuous latents of rows, such as a `VAE`.
    table : data frame
    colour : name, optional
        A column of the table that colours the rows.
    rows : int
        Rows to look at, at most.
    random_state : int
        Seed of their choice.

    Returns
    -------
    array of two Axes
        Left, the mean divergence of each dimension from the prior, in two parts: what it tells
        of the row, and how far the rows as a whole lie from the prior (`latent_summary`).
        Dimensions that are not active are grey. Right, the two of largest mutual information:
        a point a row, drawn from the guide, and contours that hold half and 90 % of the prior.
        Rows drawn from the prior where no point lies are like no row of the table.

    Raises
    ------
    NotSupported
        If the guide of the family has no continuous row latents.
    SchemaError
        If there are fewer than two rows, or no such column.

    References
    ----------
    Hoffman and Johnson (2016), ELBO surgery: yet another way to carve up the variational
    evidence lower bound.
    """
    frame = to_frame(table)
    if colour is not None and colour not in frame:
        raise SchemaError(message(
            f"no column {colour!r} to colour by", f"one of {list(frame.columns)[:20]}",
            "check the name",
        ))  # fmt: skip
    shown = frame if len(frame) <= rows else frame.sample(rows, random_state=random_state)
    known = shown[[name for name in model.schema_.names if name in shown]]
    summary = model.latent_summary(known, rows=rows)
    batch = model._batch(encode(known, model.schema_), model._device)
    particles = 1 + DRAWN // len(batch)
    sites = queries.latent_draws(model._predictive(posterior=False), batch, particles)
    panels, _ = grid_of_axes(2, 5.2, 4.2)
    left, right = panels
    _bars(left, summary.drop("all"))
    by = None if colour is None else shown[colour]
    best = summary.drop("all")["mutual_information"].sort_values(ascending=False).index[:2]
    _among(right, sites, list(best), by, model, colour)
    for ax in panels:
        clean(ax)
    return panels


def _bars(ax: Axes, summary: pd.DataFrame) -> None:
    """The divergence of each dimension, the largest on top."""
    order = summary.sort_values("kl", ascending=False)
    rest = len(order) - SHOWN
    order = order.head(SHOWN)
    on = order["active"].to_numpy(bool)
    place = np.arange(len(order))
    told = order["mutual_information"].clip(lower=0.0).clip(upper=order["kl"]).to_numpy()
    left = (order["kl"] - told).clip(lower=0.0).to_numpy()
    ax.barh(place, told, color=np.where(on, DATA, "#bbbbbb"), height=0.7)
    ax.barh(place, left, left=told, color=np.where(on, MODEL, "#dddddd"), alpha=0.55, height=0.7)
    ax.set_yticks(place, list(order.index))
    ax.set_ylim(max(len(place), 3) + (1.1 if on.all() else 1.6), -0.7)  # room for the legend
    hidden = f", {rest} smaller ones left out" if rest > 0 else ""
    ax.set(xlabel="nats a row", title=f"{int(on.sum())} of {len(on)} dimensions active{hidden}")
    ax.title.set_fontsize("medium")
    ax.legend(handles=_keys(not on.all()), loc="lower right", frameon=False, fontsize="small")


def _keys(dead: bool) -> Any:
    from matplotlib.patches import Patch

    keys = [
        Patch(color=DATA, label="mutual information with the row"),
        Patch(color=MODEL, alpha=0.55, label="aggregate posterior from the prior"),
    ]
    return [*keys, Patch(color="#bbbbbb", label="not active")] if dead else keys


def _among(
    ax: Axes, sites: dict[str, queries.LatentDraws], names: list[str], by: pd.Series | None,
    model: Density, colour: Hashable | None,
) -> None:  # fmt: skip
    """A draw of each row among contours of the prior, in one or two dimensions."""
    chosen = [(site, number) for name in names for site, number in [_place(name)]]
    rows = np.stack([sites[site].guide[:, i].cpu().numpy() for site, i in chosen], 1)
    prior = np.stack([sites[site].prior[:, i].cpu().numpy() for site, i in chosen], 1)
    normals = [_normal(sites[site], i) for site, i in chosen]
    grids = [_grid(rows[:, i], prior[:, i]) for i in range(len(chosen))]
    height, levels = _height(grids, prior, normals)
    if len(chosen) == 1:
        ax.hist(rows[:, 0], bins=30, density=True, color=DATA, alpha=0.6, label="rows")
        ax.plot(grids[0], height, color=GREY, label="prior")
        ax.legend(frameon=False, fontsize="small")
        ax.set(xlabel=names[0], ylabel="density")
        return
    coloured(ax, rows[:, 0], rows[:, 1], by, model, colour)
    height = height.reshape(len(grids[1]), len(grids[0]))
    lines = ax.contour(*grids, height, levels=levels, colors=GREY, linewidths=1.2, zorder=3)
    ax.clabel(lines, fmt={line: f"{100 * mass:g} %" for line, mass in
                          zip(levels, MASSES, strict=True)}, fontsize="small")  # fmt: skip
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.set_title("one draw for each row, and the prior", fontsize="medium")


def _place(name: str) -> tuple[str, int]:
    """Site and number of a dimension: "z[1]" is ("z", 1)."""
    site, _, number = name.rpartition("[")
    return site, int(number.rstrip("]"))


def _normal(site: queries.LatentDraws, i: int) -> tuple[float, float] | None:
    return None if site.normal is None else (float(site.normal[0][i]), float(site.normal[1][i]))


def _grid(rows: Array, prior: Array) -> Array:
    """Places over all rows and nearly all of the prior."""
    ends = np.quantile(prior, [0.0005, 0.9995])
    low, high = min(rows.min(), ends[0]), max(rows.max(), ends[1])
    room = 0.08 * (high - low)
    return np.linspace(low - room, high + room, PLACES)


def _height(
    grids: list[Array], prior: Array, normals: list[tuple[float, float] | None]
) -> tuple[Array, list[float]]:
    """Density of the prior at all places of a grid, the last dimension first, and the heights
    above which it has the shares `MASSES`.
    """
    if all(normal is not None for normal in normals):
        each = [norm.pdf(g, *n) for g, n in zip(grids, normals, strict=True) if n is not None]
        if len(each) == 1:
            return each[0], []
        peak = float(1 / (2 * np.pi * np.prod([n[1] for n in normals if n is not None])))
        # of a normal in two dimensions
        return np.outer(each[1], each[0]).ravel(), [peak * (1 - mass) for mass in MASSES]
    estimate = gaussian_kde(prior[:DRAWN:2].T, WIDTH)
    places = np.meshgrid(*grids)
    levels = np.quantile(estimate(prior[1:DRAWN:2].T), [1 - mass for mass in MASSES])
    return estimate(np.stack([place.ravel() for place in places])), levels.tolist()
