"""A directed acyclic graph over numbered nodes, and its equivalence class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from probgen.errors import SchemaError, message

__all__ = ["Dag", "structural_hamming"]

Adjacency = NDArray[np.bool_]


@dataclass(frozen=True)
class Dag:
    """A directed acyclic graph over the nodes 0 to d - 1.

    Parameters
    ----------
    parents : tuple of tuples of int
        The parents of each node; their order is that of the axes of the node's table.

    Raises
    ------
    SchemaError
        If there is a directed cycle, or a parent that is no node.

    Examples
    --------
    >>> graph = Dag.of(3, [(0, 1), (2, 1)])
    >>> graph.parents
    ((), (0, 2), ())
    >>> graph.order
    (0, 2, 1)
    """

    parents: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        nodes = range(len(self.parents))
        if any(p not in nodes or p == child for child in nodes for p in self.parents[child]):
            raise SchemaError(message(
                f"parents {self.parents}", f"numbers of other nodes, 0 to {len(nodes) - 1}",
                "correct the edges",
            ))  # fmt: skip
        if len(self.order) < len(nodes):
            cycle = sorted(set(nodes) - set(self.order))
            raise SchemaError(message(
                f"a directed cycle among the nodes {cycle}", "a graph without cycles",
                "remove or turn an edge",
            ))  # fmt: skip

    @classmethod
    def of(cls, nodes: int, edges: Iterable[tuple[int, int]] = ()) -> Dag:
        """The graph of `nodes` nodes with edges (parent, child)."""
        found: list[set[int]] = [set() for _ in range(nodes)]
        for parent, child in edges:
            found[child].add(parent)
        return cls(tuple(tuple(sorted(own)) for own in found))

    def __len__(self) -> int:
        return len(self.parents)

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """All edges (parent, child), sorted."""
        return tuple(sorted((p, c) for c, own in enumerate(self.parents) for p in own))

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """The children of each node, in ascending order."""
        found: list[list[int]] = [[] for _ in self.parents]
        for parent, child in self.edges:
            found[parent].append(child)
        return tuple(tuple(own) for own in found)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """A topological order, parents first: the lowest number that is free comes first.

        Shorter than the graph where there is a cycle.
        """
        waiting = [len(set(own)) for own in self.parents]
        children: list[list[int]] = [[] for _ in self.parents]
        for child, own in enumerate(self.parents):
            for parent in set(own):
                children[parent].append(child)
        free = sorted((n for n, count in enumerate(waiting) if not count), reverse=True)
        found = []
        while free:
            node = free.pop()
            found.append(node)
            for child in children[node]:
                waiting[child] -= 1
                if not waiting[child]:
                    free.append(child)
            free.sort(reverse=True)
        return tuple(found)

    @cached_property
    def adjacency(self) -> Adjacency:
        """Matrix (d, d): whether there is an edge from row to column."""
        found = np.zeros((len(self), len(self)), dtype=bool)
        for parent, child in self.edges:
            found[parent, child] = True
        return found

    def ancestors(self, nodes: Iterable[int]) -> frozenset[int]:
        """The nodes themselves and all from which a directed path leads to one of them."""
        return _reached(nodes, self.parents)

    def descendants(self, nodes: Iterable[int]) -> frozenset[int]:
        """The nodes themselves and all to which a directed path leads from one of them."""
        return _reached(nodes, self.children)

    def without_parents(self, nodes: Iterable[int]) -> Dag:
        """The graph after an intervention: no edges into `nodes`."""
        cut = set(nodes)
        return Dag(tuple(() if n in cut else own for n, own in enumerate(self.parents)))

    @cached_property
    def cpdag(self) -> Adjacency:
        """Completed partially directed graph (d, d): compelled edges one way, others both ways.

        Two graphs have the same iff they state the same independences (Chickering 1995, A
        transformational characterization of equivalent Bayesian network structures, UAI).
        """
        ordered = _ordered_edges(self)
        compelled: dict[tuple[int, int], bool] = {}
        for x, y in ordered:
            if (x, y) not in compelled:
                _label(self, compelled, x, y)
        found = np.zeros((len(self), len(self)), dtype=bool)
        for (x, y), fixed in compelled.items():
            found[x, y] = True
            found[y, x] = not fixed
        return found


def _reached(nodes: Iterable[int], steps: tuple[tuple[int, ...], ...]) -> frozenset[int]:
    found, waiting = set(), list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += steps[node]
    return frozenset(found)


def _ordered_edges(graph: Dag) -> list[tuple[int, int]]:
    """Edges in Chickering's order: child by child, of one child the latest parents first."""
    place = {node: i for i, node in enumerate(graph.order)}
    edges = []
    for child in graph.order:
        edges += [(p, child) for p in sorted(graph.parents[child], key=lambda n: -place[n])]
    return edges


def _label(graph: Dag, compelled: dict[tuple[int, int], bool], x: int, y: int) -> None:
    """Label all edges into y, given those into nodes before it (Chickering's Label-Edges)."""
    for w in graph.parents[x]:
        if not compelled[w, x]:
            continue
        if w not in graph.parents[y]:
            for parent in graph.parents[y]:
                compelled[parent, y] = True
            return
        compelled[w, y] = True
    other = any(z != x and z not in graph.parents[x] for z in graph.parents[y])
    for parent in graph.parents[y]:
        compelled.setdefault((parent, y), other)


def structural_hamming(one: Adjacency, other: Adjacency) -> int:
    """Structural Hamming distance of two graphs: pairs of nodes that are joined differently.

    An edge that is absent, turned, or directed in one and not in the other counts once
    (Tsamardinos, Brown and Aliferis 2006, The max-min hill-climbing algorithm, Machine
    Learning 65).

    Parameters
    ----------
    one, other : array (d, d) of bool
        From row to column; both ways for an edge without direction. For graphs pass
        `Dag.adjacency`, for their equivalence classes `Dag.cpdag`.

    Examples
    --------
    >>> chain, turned = Dag.of(3, [(0, 1), (1, 2)]), Dag.of(3, [(1, 0), (1, 2)])
    >>> structural_hamming(chain.adjacency, turned.adjacency)
    1
    >>> structural_hamming(chain.cpdag, turned.cpdag)
    0
    """
    differ = (one != other) | (one != other).T
    return int(np.triu(differ, 1).sum())
