"""Partially directed graphs: Meek's rules, and an extension to a directed acyclic graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probgen.graphs.dag import Dag

__all__ = ["extension", "meek"]

Bools = NDArray[np.bool_]


def meek(graph: Bools) -> Bools:
    """Direct every edge whose direction follows from the others.

    Rules 1 to 4 of Meek (1995, Causal inference and causal explanation with background
    knowledge, UAI): a new v-structure or a cycle would arise otherwise.

    Parameters
    ----------
    graph : array (d, d) of bool
        From row to column; both ways for an edge without direction.

    Returns
    -------
    array (d, d) of bool

    Examples
    --------
    >>> chain = np.array([[0, 1, 0], [0, 0, 1], [0, 1, 0]], dtype=bool)
    >>> meek(chain).astype(int)  # 0 -> 1 - 2 becomes 0 -> 1 -> 2
    array([[0, 1, 0],
           [0, 0, 1],
           [0, 0, 0]])
    """
    graph = graph.copy()
    changed = True
    while changed:
        changed = False
        for a, b in np.argwhere(graph & graph.T):
            if graph[a, b] and graph[b, a] and _follows(graph, int(a), int(b)):
                graph[b, a] = False
                changed = True
    return graph


def _follows(graph: Bools, a: int, b: int) -> bool:
    """Whether a - b must be a -> b."""
    directed = graph & ~graph.T
    loose = graph & graph.T
    joined = graph | graph.T
    # 1: c -> a, c and b not joined
    if (directed[:, a] & ~joined[:, b] & (np.arange(len(graph)) != b)).any():
        return True
    # 2: a -> c -> b
    if (directed[a] & directed[:, b]).any():
        return True
    # 3: a - c -> b and a - e -> b, c and e not joined
    sides = np.flatnonzero(loose[a] & directed[:, b])
    if any(not joined[c, e] for i, c in enumerate(sides) for e in sides[i + 1 :]):
        return True
    # 4: a - c -> e -> b, c and b not joined, a and e joined
    starts = np.flatnonzero(loose[a] & ~joined[:, b])
    ends = directed[:, b] & joined[a]
    return bool(any((directed[c] & ends).any() for c in starts if c != b))


def extension(graph: Bools) -> Dag | None:
    """A directed acyclic graph with the same edges and no other v-structures, if there is one.

    By the sinks that may be removed one after another (Dor and Tarsi 1992, A simple algorithm
    to construct a consistent extension of a partially oriented graph).

    Parameters
    ----------
    graph : array (d, d) of bool
        From row to column; both ways for an edge without direction.

    Examples
    --------
    >>> extension(np.array([[0, 1], [1, 0]], dtype=bool)).edges
    ((1, 0),)
    """
    d = len(graph)
    rest, found = graph.copy(), graph & ~graph.T
    left = set(range(d))
    while left:
        sink = next((x for x in sorted(left) if _is_sink(rest, x)), None)
        if sink is None:
            return None
        found[:, sink] |= rest[:, sink]
        rest[sink] = rest[:, sink] = False
        left.remove(sink)
    return Dag.of(d, [(int(p), int(c)) for p, c in np.argwhere(found)])


def _is_sink(graph: Bools, x: int) -> bool:
    """No edge leaves x, and what is joined to it without direction is joined to all its others."""
    joined = graph | graph.T
    if (graph[x] & ~graph[:, x]).any():
        return False
    near = np.flatnonzero(joined[x])
    loose = np.flatnonzero(graph[x] & graph[:, x])
    return all(joined[y, z] for y in loose for z in near if z != y)
