"""Where the nodes of a graph go when it is drawn in layers, parents above their children."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from probgen.graphs.dag import Dag

__all__ = ["Layout", "layered"]

Array = NDArray[np.float64]
Edge = tuple[int, int]

#: between neighbours of a layer, for an edge that passes, and the width that a layer may have
GAP, LANE, WIDEST = 14.0, 2.0, 700.0
#: between two such edges
LANE_GAP = 8.0
SWEEPS, SHIFTS = 24, 300


@dataclass(frozen=True)
class Layout:
    """Places in points of 1/72 inch, from the lower left corner.

    Parameters
    ----------
    x, y : array (d,)
        Centres of the nodes.
    lanes : dict of edge -> array (k, 2)
        Where an edge passes the layers between its ends, from parent to child.
    width, height : float
        Of the whole.
    """

    x: Array
    y: Array
    lanes: dict[Edge, Array]
    width: float
    height: float


def layered(dag: Dag, widths: Sequence[float], height: float, gap: float) -> Layout:
    """Layers by the longest path, ordered for few crossings, shifted for straight edges.

    Parameters
    ----------
    dag : Dag
    widths : sequence of float
        Of the boxes of the nodes.
    height, gap : float
        Of a box, and between two layers.

    Returns
    -------
    Layout
        Parts that no edge joins stand side by side, single nodes in rows below them.

    References
    ----------
    Sugiyama, Tagawa and Toda (1981), Methods for visual understanding of hierarchical system
    structures, IEEE Transactions on Systems, Man, and Cybernetics 11.
    """
    graph = nx.DiGraph(dag.edges)
    parts = [_part(dag, sorted(own), widths) for own in nx.weakly_connected_components(graph)]
    parts.sort(key=lambda part: -len(part.places))
    single = [node for node in range(len(dag)) if node not in graph]
    x, depth = np.zeros(len(dag)), np.zeros(len(dag))
    lanes: dict[Edge, Array] = {edge: np.zeros((0, 2)) for edge in dag.edges}
    right, deepest = 0.0, -1.0
    for part in parts:
        low = min(place - size / 2 for place, size in part.spans())
        shift = right - low + (2 * GAP if right else 0.0)
        for item, (layer, place) in part.places.items():
            deepest = max(deepest, float(layer))
            if isinstance(item, int):
                x[item], depth[item] = place + shift, layer
        for edge, items in part.chains.items():
            through = [part.places[item] for item in items]
            lanes[edge] = np.array([(at + shift, layer) for layer, at in through]).reshape(-1, 2)
        right = max(place + size / 2 for place, size in part.spans()) + shift
    pitch = height + gap
    tight = (height + GAP) / pitch
    right, deepest = _rows(single, widths, max(right, 300.0), x, depth, right, deepest, tight)
    for own in lanes.values():
        own[:, 1] = (deepest - own[:, 1]) * pitch + height / 2
    return Layout(x, (deepest - depth) * pitch + height / 2, lanes, right,
                  deepest * pitch + height)  # fmt: skip


def _rows(
    single: list[int], widths: Sequence[float], limit: float, x: Array, depth: Array,
    right: float, deepest: float, tight: float,
) -> tuple[float, float]:  # fmt: skip
    """Place single nodes in rows; the width and the last layer after that."""
    place = np.inf
    for node in single:
        if place + widths[node] > limit:
            place, deepest = 0.0, max(deepest + tight, 0.0)
        x[node], depth[node] = place + widths[node] / 2, deepest
        place += widths[node] + GAP
        right = max(right, place - GAP)
    return right, deepest


# --- one connected part ---------------------------------------------------------------------

#: a node, or (parent, child, layer) where an edge passes a layer
Item = int | tuple[int, int, int]


@dataclass(frozen=True)
class _Part:
    places: dict[Item, tuple[int, float]]
    chains: dict[Edge, list[Item]]
    widths: dict[Item, float]

    def spans(self) -> list[tuple[float, float]]:
        return [(place, self.widths[item]) for item, (_, place) in self.places.items()]


def _part(dag: Dag, nodes: list[int], widths: Sequence[float]) -> _Part:
    layer = _layers(dag, nodes, widths)
    chains: dict[Edge, list[Item]] = {}
    for child in nodes:
        for parent in dag.parents[child]:
            between = range(layer[parent] + 1, layer[child])
            chains[parent, child] = [(parent, child, at) for at in between]
    rows: list[list[Item]] = [[] for _ in range(max(layer.values()) + 1)]
    for node in dag.order:
        if node in layer:
            rows[layer[node]].append(node)
    up: dict[Item, list[Item]] = {node: [] for node in nodes}
    for (parent, child), items in chains.items():
        way: list[Item] = [parent, *items, child]
        for at, item in enumerate(items, layer[parent] + 1):
            rows[at].append(item)
            up[item] = []
        for above, below in zip(way, way[1:], strict=False):
            up[below].append(above)
    rows = _ordered(_spread(rows), up)
    size = {item: widths[item] if isinstance(item, int) else LANE for item in up}
    place = _shifted(rows, up, size)
    return _Part({item: (at, place[item]) for at, row in enumerate(rows) for item in row},
                 chains, size)  # fmt: skip


def _layers(dag: Dag, nodes: list[int], widths: Sequence[float]) -> dict[int, int]:
    """Layer of each node below all its parents; a layer is no wider than `WIDEST`."""
    graph = nx.DiGraph(dag.edges).subgraph(nodes)
    below = {
        node: -i
        for i, rank in enumerate(nx.topological_generations(graph.reverse()))
        for node in rank
    }
    layer: dict[int, int] = {}
    full: dict[int, float] = {}
    # those that most depends on first, so that they stay above
    for node in nx.lexicographical_topological_sort(graph, key=lambda n: (below[n], n)):
        at = max((layer[p] + 1 for p in dag.parents[node]), default=0)
        while full.get(at, 0.0) and full[at] + widths[node] > WIDEST:
            at += 1
        layer[node] = at
        full[at] = full.get(at, 0.0) + widths[node] + GAP
    for node in reversed(list(layer)):
        children = [layer[c] for c in dag.children[node]]
        if len(children) > len(dag.parents[node]):
            at = min(children) - 1
            if at > layer[node] and full.get(at, 0.0) + widths[node] <= WIDEST:
                full[layer[node]] -= widths[node] + GAP
                full[at] = full.get(at, 0.0) + widths[node] + GAP
                layer[node] = at
    used = {at: i for i, at in enumerate(sorted(set(layer.values())))}
    return {node: used[at] for node, at in layer.items()}


def _spread(rows: list[list[Item]]) -> list[list[Item]]:
    """Nodes of every layer evenly from left to right, and edges above their children."""
    share: dict[Item, float] = {}
    for row in rows:
        own = [item for item in row if isinstance(item, int)]
        share |= {item: (i + 0.5) / len(own) for i, item in enumerate(own)}

    def place(item: Item) -> float:
        return share[item if isinstance(item, int) else item[1]]

    return [sorted(row, key=place) for row in rows]


def _ordered(rows: list[list[Item]], up: dict[Item, list[Item]]) -> list[list[Item]]:
    """The order within layers, by sweeps of barycentres and exchanges of neighbours."""
    down: dict[Item, list[Item]] = {item: [] for item in up}
    for below, parents in up.items():
        for above in parents:
            down[above].append(below)
    best, fewest = rows, _crossings(rows, up)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        near, levels = (
            (up, range(1, len(rows))) if forward else (down, range(len(rows) - 2, -1, -1))
        )
        rows = [list(row) for row in rows]
        for at in levels:
            place = {item: i for i, item in enumerate(rows[at - 1 if forward else at + 1])}
            own = {item: i for i, item in enumerate(rows[at])}
            rows[at].sort(key=lambda item: (
                float(np.mean([place[n] for n in near[item]])) if near[item]  # noqa: B023
                else float(own[item])  # noqa: B023
            ))  # fmt: skip
        _exchange(rows, up, down)
        count = _crossings(rows, up)
        if count < fewest:
            best, fewest = rows, count
    return best


def _exchange(
    rows: list[list[Item]], up: dict[Item, list[Item]], down: dict[Item, list[Item]]
) -> None:
    """Swap neighbours of a layer where that removes crossings, in place."""
    for at, row in enumerate(rows):
        sides = [
            ({item: i for i, item in enumerate(rows[at + step])}, near)
            for step, near in ((-1, up), (1, down)) if 0 <= at + step < len(rows)
        ]  # fmt: skip
        for _ in range(len(row)):
            swapped = False
            for i in range(len(row) - 1):
                gain = 0
                for place, near in sides:
                    left = np.array([place[n] for n in near[row[i]]])[:, None]
                    right = np.array([place[n] for n in near[row[i + 1]]])
                    gain += int((left > right).sum()) - int((left < right).sum())
                if gain > 0:
                    row[i], row[i + 1] = row[i + 1], row[i]
                    swapped = True
            if not swapped:
                break


def _crossings(rows: list[list[Item]], up: dict[Item, list[Item]]) -> int:
    total = 0
    for above, below in zip(rows, rows[1:], strict=False):
        place = {item: i for i, item in enumerate(above)}
        ends = np.array([(place[n], i) for i, item in enumerate(below) for n in up[item]])
        if len(ends):
            a, b = ends[:, 0], ends[:, 1]
            total += int(((a[:, None] < a) & (b[:, None] > b)).sum())
    return total


def _shifted(
    rows: list[list[Item]], up: dict[Item, list[Item]], size: dict[Item, float]
) -> dict[Item, float]:
    """Centres: near those of neighbours above and below, with room between the boxes.

    Each layer in turn is the least-squares answer given the others; edges that pass several
    layers weigh more, so that they become straight.
    """
    pull: dict[Item, list[tuple[Item, float]]] = {item: [] for item in up}
    for below, parents in up.items():
        for above in parents:
            weight = (1.0, 2.0, 8.0)[(not isinstance(below, int)) + (not isinstance(above, int))]
            pull[below].append((above, weight))
            pull[above].append((below, weight))
    place: dict[Item, float] = {}
    for row in rows:
        offset = _offsets(row, size)
        place |= dict(zip(row, offset - offset.mean(), strict=True))
    for sweep in range(SHIFTS):
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            mass = np.array([sum(w for _, w in pull[item]) for item in row])
            wish = np.array([sum(w * place[n] for n, w in pull[item]) for item in row]) / mass
            offset = _offsets(row, size)
            shifted = _rising(wish - offset, mass) + offset
            place |= dict(zip(row, shifted, strict=True))
    return {item: float(at) for item, at in place.items()}


def _offsets(row: list[Item], size: dict[Item, float]) -> Array:
    """Centres of boxes that stand side by side."""
    half = np.array([size[item] for item in row]) / 2
    room = np.array([isinstance(item, int) for item in row])
    gap = np.where(room[:-1] | room[1:], GAP, LANE_GAP)
    return np.concatenate([[0.0], np.cumsum(half[:-1] + half[1:] + gap)])


def _rising(wish: Array, weight: Array) -> Array:
    """The nearest sequence that does not fall, in weighted least squares: pooled violators."""
    blocks: list[tuple[float, float, int]] = []
    for value, own in zip(wish, weight, strict=True):
        block = (float(value), float(own), 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, mass, count = blocks.pop()
            total = mass + block[1]
            block = ((mean * mass + block[0] * block[1]) / total, total, count + block[2])
        blocks.append(block)
    return np.concatenate([np.full(count, mean) for mean, _, count in blocks])
