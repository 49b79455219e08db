"""A Bayesian network as a picture: named nodes in layers, arrows from parents to children."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from probgen.errors import NotSupported, SchemaError, closest, message
from probgen.graphs.dag import Dag
from probgen.plots.layers import Edge, Layout, layered
from probgen.plots.shared import DATA, GREY, MODEL, OTHERS, own_axes, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_network", "network"]

Array = NDArray[np.float64]

#: sizes in points
FONT, SMALL, HIGH, PAD, MARGIN = 9.0, 7.0, 21.0, 14.0, 8.0
#: edge and face of the box of a node
LOOKS = {"discrete": (DATA, "#e2eff7"), "normal": (OTHERS[2], "#def2eb")}
MARKED = (MODEL, "#f8dfd0")


def network(model: Any, highlight: Collection[Hashable] = (), ax: Axes | None = None) -> Axes:
    """The graph of a fitted Bayesian network.

    Parameters
    ----------
    model : Density
        With a graph over its columns, such as `BayesianNetwork`.
    highlight : collection of names
        Columns to mark.
    ax : Axes, optional

    Returns
    -------
    Axes
        Boxes are discrete columns, ellipses normal ones; arrows lead from parents to children.
        If the model knows the probabilities of its edges, an arrow is the wider the more
        probable it is in that direction, and its probability stands beside it.

    Raises
    ------
    NotSupported
        For a model without a graph.
    """
    if not hasattr(model, "graph_"):
        raise NotSupported(message(
            f"{type(model).__name__}, which has no graph over its columns",
            "a Bayesian network", "fit a BayesianNetwork",
        ))  # fmt: skip
    frame = getattr(model, "edge_probabilities_", None)
    names = list(model.node_names_)
    chance = None if frame is None else frame.loc[names, names].to_numpy(dtype=np.float64)
    return draw_network(names, model.graph_, list(model.node_kinds_), chance, highlight, ax)


def draw_network(
    names: Sequence[Hashable],
    dag: Dag,
    kinds: Sequence[Literal["discrete", "normal"]] | None = None,
    probabilities: Array | None = None,
    highlight: Collection[Hashable] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw a directed acyclic graph with named nodes.

    Parameters
    ----------
    names : sequence
        A name for each node.
    dag : Dag
    kinds : sequence of {"discrete", "normal"}, optional
        By default all are discrete.
    probabilities : array (d, d), optional
        Of an edge from row to column.
    highlight : collection of names
        Nodes to mark.
    ax : Axes, optional
        The letters shrink with it if it is too small.

    Returns
    -------
    Axes
        As `probgen.plots.network`.

    Raises
    ------
    SchemaError
        If the parts do not fit together, or a name to highlight is unknown.
    """
    shapes: list[str] = ["discrete"] * len(dag) if kinds is None else [*kinds]
    _fitting(names, dag, shapes, probabilities, highlight)
    labels = [short(name, 22) for name in names]
    wide = _widths(labels, shapes)
    gap = 44.0 if probabilities is None else 62.0
    plan = layered(dag, wide, HIGH, gap)
    size = (max(plan.width, 150.0) + 2 * MARGIN, plan.height + 2 * MARGIN)
    ax = own_axes(ax, (size[0] / 72, size[1] / 72))
    scale = _blank(ax, plan, size)
    routes = _routes(dag, plan, wide, shapes)
    for edge, route in routes.items():
        chance = None if probabilities is None else float(probabilities[edge])
        _arrow(ax, route, scale, chance)
    for node, label in enumerate(labels):
        look = MARKED if names[node] in highlight else LOOKS[shapes[node]]
        _box(ax, (plan.x[node], plan.y[node]), wide[node], shapes[node], look, scale)
        ax.text(plan.x[node], plan.y[node], label, ha="center", va="center_baseline",
                fontsize=FONT * scale, zorder=4, parse_math=False)  # fmt: skip
    if probabilities is not None:
        _numbers(ax, routes, probabilities, scale)
    if len(set(shapes)) > 1:
        _key(ax, scale)
    return ax


def _fitting(
    names: Sequence[Hashable], dag: Dag, kinds: list[str], probabilities: Array | None,
    highlight: Collection[Hashable],
) -> None:  # fmt: skip
    if not len(names) == len(kinds) == len(dag) or not len(dag):
        raise SchemaError(message(
            f"{len(names)} names and {len(kinds)} kinds for {len(dag)} nodes",
            "one each for every node", "pass as many",
        ))  # fmt: skip
    if not set(kinds) <= set(LOOKS):
        raise SchemaError(message(f"kinds {sorted(set(kinds))}", f"{list(LOOKS)}", "use these"))
    if probabilities is not None and np.shape(probabilities) != (len(dag), len(dag)):
        raise SchemaError(message(
            f"probabilities of shape {np.shape(probabilities)}", f"shape {(len(dag),) * 2}",
            "pass one for each pair of nodes",
        ))  # fmt: skip
    for name in highlight:
        if name not in names:
            raise SchemaError(message(
                f"no node {name!r} to highlight", f"one of {closest(name, names)}",
                "check the name",
            ))  # fmt: skip


# --- shapes -----------------------------------------------------------------------------------


def _widths(labels: list[str], kinds: list[str]) -> list[float]:
    """Widths of the boxes, in points; an ellipse needs more room around the same letters."""
    from matplotlib.textpath import TextPath

    found = []
    for label, kind in zip(labels, kinds, strict=True):
        width = TextPath((0, 0), label.replace("$", "\\$"), size=FONT).get_extents().width
        found.append(max(width, 14.0) * (1.0 if kind == "discrete" else 1.12) + PAD)
    return found


def _blank(ax: Axes, plan: Layout, size: tuple[float, float]) -> float:
    """Axes in points without a frame; by how much letters must shrink to fit them."""
    ax.set(xlim=(plan.width / 2 - size[0] / 2, plan.width / 2 + size[0] / 2),
           ylim=(-MARGIN, plan.height + MARGIN), aspect="equal", xticks=[], yticks=[])  # fmt: skip
    ax.set_axis_off()
    room = ax.get_position().bounds
    figure = np.asarray(ax.figure.bbox.size) / ax.figure.dpi * 72
    alone = ax.figure.get_layout_engine() is not None and len(ax.figure.axes) == 1
    share = (1.0, 1.0) if alone else (room[2], room[3])
    return float(min(1.0, figure[0] * share[0] / size[0], figure[1] * share[1] / size[1]))


def _box(
    ax: Axes, at: tuple[float, float], width: float, kind: str, look: Any, scale: float
) -> None:
    from matplotlib.patches import Ellipse, FancyBboxPatch, Patch

    shape: Patch
    if kind == "normal":
        shape = Ellipse(at, width, HIGH + 2)
    else:
        corner = (at[0] - width / 2, at[1] - HIGH / 2)
        shape = FancyBboxPatch(corner, width, HIGH, boxstyle="round,pad=0,rounding_size=4")
    shape.set(edgecolor=look[0], facecolor=look[1], linewidth=1.2 * scale, zorder=3)
    ax.add_patch(shape)


def _routes(
    dag: Dag, plan: Layout, widths: Sequence[float], kinds: Sequence[str]
) -> dict[Edge, list[Array]]:
    """Bezier pieces (4, 2) of each edge, from the lower side of the parent to the child's top."""
    starts, ends = _ports(dag, plan, widths, kinds)
    found = {}
    for edge in dag.edges:
        stops = [(starts[edge], starts[edge])]
        for x, y in plan.lanes[edge]:
            stops.append((np.array([x, y + HIGH / 2]), np.array([x, y - HIGH / 2])))
        stops.append((ends[edge], ends[edge]))
        pieces = []
        for (_, leave), (reach, below) in zip(stops, stops[1:], strict=False):
            middle = (leave[1] + reach[1]) / 2
            pieces.append(np.array([leave, (leave[0], middle), (reach[0], middle), reach]))
            if below[1] < reach[1]:
                pieces.append(np.linspace(reach, below, 4))
        found[edge] = pieces
    return found


def _ports(
    dag: Dag, plan: Layout, widths: Sequence[float], kinds: Sequence[str]
) -> tuple[dict[Edge, Array], dict[Edge, Array]]:
    """Where edges leave and reach boxes: side by side, in the order of their other ends."""

    def toward(edge: Edge, last: bool) -> float:
        lanes = plan.lanes[edge]
        if len(lanes):
            return float(lanes[-1 if last else 0][0])
        return float(plan.x[edge[0] if last else edge[1]])

    starts: dict[Edge, Array] = {}
    ends: dict[Edge, Array] = {}
    for node in range(len(dag)):
        out = sorted(((node, c) for c in dag.children[node]), key=lambda e: toward(e, False))
        into = sorted(((p, node) for p in dag.parents[node]), key=lambda e: toward(e, True))
        for edges, side, store in ((out, -1, starts), (into, 1, ends)):
            step = min(12.0, 0.6 * widths[node] / max(len(edges), 1))
            for i, edge in enumerate(edges):
                shift = (i - (len(edges) - 1) / 2) * step
                rise = HIGH / 2
                if kinds[node] == "normal":  # lower away from its middle
                    rise = (HIGH + 2) / 2 * np.sqrt(1 - (2 * shift / widths[node]) ** 2)
                store[edge] = np.array([plan.x[node] + shift, plan.y[node] + side * rise])
    return starts, ends


def _arrow(ax: Axes, route: list[Array], scale: float, chance: float | None) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    points = [route[0][0], *(point for piece in route for point in piece[1:])]
    codes = [Path.MOVETO, *([Path.CURVE4] * (len(points) - 1))]
    width = 1.1 if chance is None else 0.5 + 2.3 * chance
    arrow = FancyArrowPatch(
        path=Path(points, codes), arrowstyle="-|>", mutation_scale=(7 + 1.5 * width) * scale,
        linewidth=width * scale, color=GREY, shrinkA=0, shrinkB=0, zorder=2,
        joinstyle="miter", capstyle="butt",
    )  # fmt: skip
    ax.add_patch(arrow)


def _numbers(
    ax: Axes, routes: dict[Edge, list[Array]], probabilities: Array, scale: float
) -> None:
    """The probability of each edge on its line, as far as can be from other lines and numbers."""
    lines = {edge: np.concatenate([_points(piece) for piece in route])
             for edge, route in routes.items()}  # fmt: skip
    taken: list[Array] = []
    for edge, own in lines.items():
        others = [line for other, line in lines.items() if other != edge]
        far = np.concatenate(others) if others else np.zeros((0, 2))
        ends = np.array([own[0], own[-1]])
        room = np.full(len(own), 18.0)  # enough
        # half the distance to other numbers counts: they are larger than a line
        for points, part in ((far, 1.0), (np.reshape(taken, (-1, 2)), 0.5), (ends, 0.9)):
            if len(points):
                apart = (own[:, None] - points) * (0.6, 1.0)  # numbers are wider than high
                room = np.minimum(room, part * np.hypot(apart[..., 0], apart[..., 1]).min(1))
        middle = 0.01 * np.abs(np.arange(len(own)) - len(own) / 2)
        at = own[int((room - middle).argmax())]
        taken.append(at)
        ax.text(at[0], at[1], f"{probabilities[edge]:.2f}", ha="center", va="center", zorder=5,
                fontsize=SMALL * scale, color="black",
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none",
                      "alpha": 0.9})  # fmt: skip


def _points(piece: Array, count: int = 17) -> Array:
    """Points along a Bezier curve."""
    t = np.linspace(0, 1, count)[:, None]
    weights = np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    return weights @ piece


def _key(ax: Axes, scale: float) -> None:
    """What boxes and ellipses are."""
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], linestyle="none", marker=mark, markersize=8 * scale, label=kind,
               markeredgecolor=LOOKS[kind][0], markerfacecolor=LOOKS[kind][1])
        for kind, mark in (("discrete", "s"), ("normal", "o"))
    ]  # fmt: skip
    ax.legend(handles=marks, frameon=False, fontsize=8 * scale, loc="upper center",
              bbox_to_anchor=(0.5, 0.0), ncols=2)  # fmt: skip
