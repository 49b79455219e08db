"""Trees: Chow and Liu's, and tree-augmented naive Bayes."""

from __future__ import annotations

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from probgen.errors import SchemaError, message
from probgen.graphs.counts import Columns
from probgen.graphs.dag import Dag
from probgen.graphs.nodes import NodeRows

__all__ = ["chow_liu", "mutual_information", "tan"]

Floats = NDArray[np.float64]


def mutual_information(rows: NodeRows, smoothing: float = 0.0, given: int | None = None) -> Floats:
    """Mutual information of each pair of nodes, in nats, perhaps given a discrete node.

    Of two discrete nodes from their counts; of two normal ones that of a normal distribution,
    -log(1 - r**2) / 2 with their correlation r; of a discrete and a normal one that of a normal
    in each state, half the mean difference of the log variances. Unseen cells: from the rows
    that show both.

    Parameters
    ----------
    rows : NodeRows
    smoothing : float
        Rows that are added to each cell of a pair of discrete nodes (for each state of
        `given`). The single probabilities of a pair are then the sums of its cells.
    given : int, optional

    Returns
    -------
    array (d, d)
        Symmetric, with a zero diagonal.

    Raises
    ------
    SchemaError
        If `given` is a normal node, or `smoothing` is negative.
    """
    if smoothing < 0:
        raise SchemaError(message(f"smoothing={smoothing}", "0 or more rows", "raise it"))
    if given is not None and not (0 <= given < rows.nodes and rows.sizes[given]):
        raise SchemaError(message(
            f"node {given} as the class", "the number of a discrete node", "choose another"
        ))  # fmt: skip
    columns = Columns(rows.codes, rows.sizes, rows.weight)
    found = np.zeros((rows.nodes, rows.nodes))
    for node in range(rows.nodes):
        if rows.sizes[node] and node != given:
            for block in columns.beside(node, () if given is None else (given,)):
                information = _discrete(block.counts, block.starts, smoothing)
                found[node, block.members] = information
    for node in (i for i, size in enumerate(rows.sizes) if not size):
        for other in range(rows.nodes):
            if other != given and (rows.sizes[other] or other < node):
                found[node, other] = found[other, node] = _normal(rows, node, other, given)
    if given is not None:
        found[given] = found[:, given] = 0.0
    np.fill_diagonal(found, 0.0)
    return np.maximum(found, found.T)


def _discrete(counts: Floats, starts: NDArray[np.int64], smoothing: float) -> Floats:
    """Information between the second axis and each member of the last, given the first."""
    cell = counts + smoothing
    own = np.add.reduceat(cell, starts, axis=2)  # (given, states of the node, members)
    other = cell.sum(1)
    group = own.sum(1)
    inside = np.add.reduceat(xlogy(cell, cell).sum((0, 1)), starts)
    inside += xlogy(group, group).sum(0) - xlogy(own, own).sum((0, 1))
    inside -= np.add.reduceat(xlogy(other, other).sum(0), starts)
    return np.asarray(inside / np.maximum(group.sum(0), 1e-300))


def _normal(rows: NodeRows, node: int, other: int, given: int | None) -> float:
    """Information of a normal node and any other, perhaps given a discrete one."""
    seen = ~np.isnan(rows.values[:, node])
    seen &= rows.codes[:, other] >= 0 if rows.sizes[other] else ~np.isnan(rows.values[:, other])
    group = np.zeros(len(rows), dtype=np.int64)
    if given is not None:
        seen &= rows.codes[:, given] >= 0
        group = rows.codes[:, given]
    x, weight, group = rows.values[seen, node], rows.weight[seen], group[seen]
    total = max(float(weight.sum()), 1e-300)
    alone = _residual(x, group, weight)
    if rows.sizes[other]:
        joint = group * rows.sizes[other] + rows.codes[seen, other]
        apart = _residual(x, joint, weight)
        return max(0.0, float(alone.sum() - apart.sum()) / (2 * total))
    y = rows.values[seen, other]
    x, y = (v - _means(v, group, weight)[group] for v in (x, y))
    xy, xx, yy = (np.bincount(group, weight * v) for v in (x * y, x * x, y * y))
    share = np.bincount(group, weight) / total
    square = np.minimum(xy**2 / np.maximum(xx * yy, 1e-300), 1 - 1e-12)
    return float(-0.5 * (share * np.log1p(-square)).sum())


def _means(x: Floats, group: NDArray[np.int64], weight: Floats) -> Floats:
    size = np.maximum(np.bincount(group, weight), 1e-300)
    return np.asarray(np.bincount(group, weight * x) / size)


def _residual(x: Floats, group: NDArray[np.int64], weight: Floats) -> Floats:
    """Weight times log variance of each group; variances have a floor relative to the whole."""
    if not len(x):
        return np.zeros(1)
    size = np.bincount(group, weight)
    spread = np.bincount(group, weight * (x - _means(x, group, weight)[group]) ** 2)
    whole = float(weight @ (x - np.average(x, weights=weight)) ** 2) / float(weight.sum())
    # one row's worth of the whole variance keeps groups of a few rows finite
    variance = (spread + whole) / (size + 1)
    return np.asarray(size * np.log(np.maximum(variance, 1e-300)), dtype=float)


def chow_liu(rows: NodeRows, smoothing: float = 1.0, root: int | None = None) -> Dag:
    """The tree of the largest total mutual information (Chow and Liu 1968), away from a root.

    Among trees over discrete nodes it has the highest likelihood. In mixed tables no edge leads
    from a normal node to a discrete one, so the discrete nodes form a tree first and the normal
    ones are hung on.

    Parameters
    ----------
    rows : NodeRows
    smoothing : float
        Rows added to each cell of a pair.
    root : int, optional
        Discrete if any node is. By default the node with the most information about others.

    Raises
    ------
    SchemaError
        If there is no such root.

    Examples
    --------
    >>> codes = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 1], [1, 1, 1]])
    >>> chow_liu(NodeRows(codes, np.full((4, 3), np.nan), (2, 2, 2), np.ones(4)), root=1).edges
    ((0, 2), (1, 0))
    """
    return _tree(mutual_information(rows, smoothing), rows, root, ())


def tan(rows: NodeRows, root: int, smoothing: float = 1.0) -> Dag:
    """Tree-augmented naive Bayes: the class is a parent of all, a tree joins the others.

    The tree has the largest total mutual information given the class (Friedman, Geiger and
    Goldszmidt 1997, Bayesian network classifiers, Machine Learning 29).

    Parameters
    ----------
    rows : NodeRows
    root : int
        The class, a discrete node.
    smoothing : float
        Rows added to each cell of a pair for each class.

    Raises
    ------
    SchemaError
        If the class is no discrete node.
    """
    weights = mutual_information(rows, smoothing, given=root)
    tree = _tree(weights, rows, None, (root,))
    return Dag.of(rows.nodes, [*tree.edges, *((root, i) for i in range(rows.nodes) if i != root)])


def _tree(weights: Floats, rows: NodeRows, root: int | None, without: tuple[int, ...]) -> Dag:
    """A spanning tree of the largest weight, directed away from a root."""
    discrete = [i for i, size in enumerate(rows.sizes) if size and i not in without]
    normal = [i for i, size in enumerate(rows.sizes) if not size]
    first = discrete or normal
    if root is not None and root not in first:
        raise SchemaError(message(
            f"root {root}", f"one of the nodes {first[:8]}", "choose another root"
        ))  # fmt: skip
    if not first:
        return Dag.of(rows.nodes)
    if root is None:
        root = max(first, key=lambda i: float(weights[i, first].sum()))
    found = _spanning(weights, discrete)
    if discrete and normal:
        found = _hung(weights, discrete, normal) + found
    elif normal:
        found = _spanning(weights, normal)
    graph = nx.Graph(found)
    graph.add_node(root)
    return Dag.of(rows.nodes, [(int(p), int(c)) for p, c in nx.bfs_edges(graph, root)])


def _spanning(weights: Floats, nodes: list[int]) -> list[tuple[int, int]]:
    """Prim's algorithm on a dense matrix: edges of the tree of the largest weight."""
    if len(nodes) < 2:
        return []
    own = weights[np.ix_(nodes, nodes)]
    near = np.zeros(len(nodes), dtype=np.int64)
    gain = own[0].copy()
    gain[0] = -np.inf
    inside = np.arange(len(nodes)) == 0
    edges = []
    for _ in range(len(nodes) - 1):
        new = int(np.argmax(gain))
        edges.append((nodes[int(near[new])], nodes[new]))
        inside[new] = True
        closer = ~inside & (own[new] > gain)
        gain[closer], near[closer] = own[new][closer], new
        gain[inside] = -np.inf
    return edges


def _hung(weights: Floats, discrete: list[int], normal: list[int]) -> list[tuple[int, int]]:
    """Edges of the tree that joins the normal nodes to the discrete ones, taken as one node.

    Only one edge of each branch touches the discrete nodes, so that the tree directed away
    from a discrete root has none from a normal to a discrete node.
    """
    best = {i: max(discrete, key=lambda p, i=i: float(weights[p, i])) for i in normal}  # type: ignore[misc]
    width = len(normal)
    joined = np.zeros((width + 1, width + 1))
    joined[1:, 1:] = weights[np.ix_(normal, normal)]
    joined[0, 1:] = joined[1:, 0] = [weights[best[i], i] for i in normal]
    edges = []
    for a, b in _spanning(joined, list(range(width + 1))):
        low, high = sorted((a, b))
        edges.append((best[normal[high - 1]] if low == 0 else normal[low - 1], normal[high - 1]))
    return edges
