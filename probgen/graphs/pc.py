"""Structure from independence tests: the PC algorithm."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from probgen.errors import SchemaError, message
from probgen.graphs.constraints import Constraints, allowed_edges
from probgen.graphs.cpdags import extension, meek
from probgen.graphs.dag import Dag
from probgen.graphs.independence import Test, independence_test
from probgen.graphs.nodes import NodeRows

__all__ = ["pc", "pc_cpdag"]

Bools = NDArray[np.bool_]
#: how often each middle node separates an open triple
Votes = dict[tuple[int, int], list[tuple[int, ...]]]


def pc_cpdag(
    rows: NodeRows, *, test: str = "auto", alpha: float = 0.01, most: int = 3,
    constraints: Constraints | None = None, logistic: bool = False,
) -> Bools:  # fmt: skip
    """Partially directed graph by tests of conditional independence.

    An edge is removed when its ends are independent given some neighbours, with the neighbours
    of each round fixed at its start so that the order of the nodes does not matter (PC-stable,
    Colombo and Maathuis 2014, Journal of Machine Learning Research 15). An open triple becomes
    a v-structure by the majority of the sets that separate its ends (their majority rule);
    where two v-structures want an edge in opposite directions it keeps none. Then Meek's rules.

    Parameters
    ----------
    rows : NodeRows
    test : str
        See `independence_test`.
    alpha : float
        Level of the tests, above 0 and below 1.
    most : int
        Most conditions of a test.
    constraints : Constraints, optional
        Required edges stay; edges that are forbidden both ways are left out, and an edge that
        is allowed one way only is directed so.
    logistic : bool
        Discrete nodes may have normal parents.

    Returns
    -------
    array (d, d) of bool
        From row to column; both ways for an edge without direction.

    Raises
    ------
    SchemaError
        If alpha is no level, the test does not fit, or the constraints contradict each other.
    """
    if not 0 < alpha < 1:
        raise SchemaError(message(f"alpha={alpha}", "a level between 0 and 1", "choose 0.01"))
    constraints = constraints or Constraints()
    allowed = allowed_edges(rows, constraints, logistic)
    asked = independence_test(rows, test)
    needed = np.zeros_like(allowed)
    for edge in constraints.required:
        needed[edge] = True
    joined, level = _skeleton(asked, allowed, needed | needed.T, alpha, most)
    graph = joined.copy()
    one_way = joined & allowed & ~allowed.T
    graph &= ~one_way.T
    _colliders(graph, _separating(asked, joined, alpha, level))
    return meek(graph)


def _skeleton(
    asked: Test, allowed: Bools, needed: Bools, alpha: float, most: int
) -> tuple[Bools, int]:
    """Symmetric matrix of the edges that no test removes, and the most conditions used."""
    joined = allowed | allowed.T
    size = 0
    while size <= most and (joined.sum(0) > size).any():
        near = joined.copy()
        for x, y in np.argwhere(np.triu(near, 1)):
            if not needed[x, y] and _separated(asked, near, int(x), int(y), size, alpha):
                joined[x, y] = joined[y, x] = False
        size += 1
    return joined, size - 1


def _separated(asked: Test, near: Bools, x: int, y: int, size: int, alpha: float) -> bool:
    sets: set[tuple[int, ...]] = set()
    for end, other in ((x, y), (y, x)):
        neighbours = [int(i) for i in np.flatnonzero(near[end]) if i != other]
        sets |= set(combinations(neighbours, size))
    return any(asked(x, y, given) > alpha for given in sorted(sets))


def _separating(asked: Test, joined: Bools, alpha: float, most: int) -> Votes:
    """For each open triple's ends, all sets of neighbours of either that separate them."""
    found: Votes = {}
    common = joined.astype(np.int64) @ joined.astype(np.int64)
    for x, y in np.argwhere(np.triu(~joined & (common > 0), 1)):
        sets: set[tuple[int, ...]] = set()
        for end in (x, y):
            near = [int(i) for i in np.flatnonzero(joined[end])]
            for size in range(min(most, len(near)) + 1):
                sets |= set(combinations(near, size))
        key = int(x), int(y)
        found[key] = [given for given in sorted(sets) if asked(*key, given) > alpha]
    return found


def _colliders(graph: Bools, separating: Votes) -> None:
    """Direct the v-structures, in place."""
    joined = graph | graph.T
    arrows: set[tuple[int, int]] = set()
    for (x, y), sets in separating.items():
        for middle in np.flatnonzero(joined[x] & joined[y]):
            votes = sum(int(middle) in given for given in sets)
            # none or half of the sets: the triple is ambiguous and stays undirected
            if sets and 2 * votes < len(sets):
                arrows |= {(x, int(middle)), (y, int(middle))}
    for a, b in sorted(arrows):
        if (b, a) not in arrows and graph[a, b]:
            graph[b, a] = False


def pc(
    rows: NodeRows, *, test: str = "auto", alpha: float = 0.01, most: int = 3,
    constraints: Constraints | None = None, logistic: bool = False,
) -> Dag:  # fmt: skip
    """A directed acyclic graph from the result of `pc_cpdag`.

    Where the tests contradict each other there may be no such graph with the same
    v-structures; then the edges that stand in the way are directed by an order of the nodes.

    Parameters
    ----------
    rows, test, alpha, most, constraints, logistic
        As of `pc_cpdag`; `constraints.max_parents` is not used.

    Examples
    --------
    >>> codes = np.random.default_rng(0).integers(0, 2, (500, 3))
    >>> codes[:, 1] = codes[:, 0] | codes[:, 2]
    >>> rows = NodeRows(codes, np.full(codes.shape, np.nan), (2, 2, 2), np.ones(500))
    >>> pc(rows).edges
    ((0, 1), (2, 1))
    """
    constraints = constraints or Constraints()
    graph = pc_cpdag(
        rows, test=test, alpha=alpha, most=most, constraints=constraints, logistic=logistic
    )
    found = extension(graph)
    allowed = allowed_edges(rows, constraints, logistic)
    if found is not None and all(allowed[edge] for edge in found.edges):
        return found
    return _forced(graph, allowed, constraints)


def _forced(graph: Bools, allowed: Bools, constraints: Constraints) -> Dag:
    """Edges one after another, the directed ones first, each in a direction without a cycle."""
    reach = np.eye(len(graph), dtype=bool)
    edges = []
    fixed = [*sorted(constraints.required), *(tuple(e) for e in np.argwhere(graph & ~graph.T))]
    loose = [tuple(e) for e in np.argwhere(np.triu(graph & graph.T, 1))]
    done: set[tuple[int, int]] = set()
    for a, b in [*fixed, *loose]:
        ways = [(int(a), int(b)), (int(b), int(a))]
        if (min(ways), max(ways)) in done:
            continue
        free = [(p, c) for p, c in ways if allowed[p, c] and not reach[c, p]]
        if free:
            p, c = free[0]
            edges.append((p, c))
            reach |= np.outer(reach[:, p], reach[c])
            done.add((min(ways), max(ways)))  # type: ignore[arg-type]
    return Dag.of(len(graph), edges)
