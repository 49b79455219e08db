"""Search over orders of the nodes: exact for few nodes, local for more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probgen.errors import NotSupported, message
from probgen.graphs.constraints import Constraints
from probgen.graphs.dag import Dag
from probgen.graphs.parent_sets import ParentSets, parent_sets
from probgen.graphs.scores import Scorer
from probgen.graphs.search import hill_climb

__all__ = ["MOST_EXACT", "exact", "masks_of", "order_search"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Most nodes of the exact search: its tables have 2 to this power entries a node.
MOST_EXACT = 18
#: Parents of a node that exact and order-based search consider, where nothing else is said.
MOST_PARENTS = 5


def exact(
    scorer: Scorer, constraints: Constraints | None = None, *, most: int = MOST_PARENTS
) -> Dag:
    """The graph of the highest score, by dynamic programming over sets of nodes.

    Each set of nodes has a best last node, whose parents are the best among the others
    (Silander and Myllymaki 2006, A simple approach for finding the globally optimal Bayesian
    network structure, UAI). Time and memory grow as d times 2 to the d.

    Parameters
    ----------
    scorer : Scorer
        Of at most 18 nodes.
    constraints : Constraints, optional
    most : int
        Most parents of a node, unless `constraints.max_parents` says less.

    Raises
    ------
    NotSupported
        If there are more nodes.
    SchemaError
        If the constraints contradict each other.

    Examples
    --------
    >>> from probgen.graphs.nodes import NodeRows
    >>> codes = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]] * 5)
    >>> rows = NodeRows(codes, np.full(codes.shape, np.nan), (2, 2, 2), np.ones(20))
    >>> exact(Scorer(rows, "bic")).edges
    ((1, 0),)
    """
    d = len(scorer)
    if d > MOST_EXACT:
        raise NotSupported(message(
            f"{d} nodes", f"at most {MOST_EXACT} for an exact search", "use method='hill'"
        ))  # fmt: skip
    constraints = constraints or Constraints()
    sets = parent_sets(scorer, constraints, most=_limit(constraints, most))
    whole = np.arange(1 << d)
    total = np.full(1 << d, -np.inf)
    last = np.full(1 << d, -1)
    total[0] = 0.0
    local = [_compressed(own, whole) for own in sets]
    sizes = np.bitwise_count(whole)
    for size in range(1, d + 1):
        layer = whole[sizes == size]
        for node in range(d):
            inside = layer[layer >> node & 1 == 1]
            before = inside ^ (1 << node)
            with np.errstate(invalid="ignore"):  # sets that constraints rule out are infinite
                score = total[before] + sets[node].best[0][local[node][before]]
            score = np.where(np.isnan(score), -np.inf, score)
            margin = np.where(np.isfinite(score), 1e-9 * np.abs(score), 0.0)
            better = score > total[inside] + margin
            total[inside[better]], last[inside[better]] = score[better], node
    return _trace(sets, local, last)


def _limit(constraints: Constraints, most: int) -> int:
    return most if constraints.max_parents is None else constraints.max_parents


def _compressed(own: ParentSets, masks: Ints) -> Ints:
    """Sets of all nodes as sets of the candidates of one node."""
    found = np.zeros_like(masks)
    for b, candidate in enumerate(own.candidates):
        found |= (masks >> candidate & 1) << b
    return found


def _trace(sets: tuple[ParentSets, ...], local: list[Ints], last: Ints) -> Dag:
    rest = len(last) - 1
    parents: list[tuple[int, ...]] = [()] * len(sets)
    while rest:
        node = int(last[rest])
        rest ^= 1 << node
        parents[node] = sets[node].parents(int(sets[node].best[1][local[node][rest]]))
    return Dag(tuple(parents))


def order_search(
    scorer: Scorer,
    constraints: Constraints | None = None,
    *,
    start: Dag | None = None,
    candidates: int = 10,
    most: int = 4,
    restarts: int = 100,
    rounds: int = 2,
    rng: np.random.Generator | None = None,
) -> Dag:
    """A graph of high score by local search over orders.

    An order fixes the best parents of each node among those before it; a step moves one node
    to its best other place (Teyssier and Koller 2005, Ordering-based search, UAI; with the
    insertions of Alonso-Barba, de la Ossa and Puerta 2011). A restart moves some nodes of the
    best order at random.

    Parameters
    ----------
    scorer : Scorer
    constraints : Constraints, optional
    start : Dag, optional
        Where to begin; by default the result of hill climbing. It also names the first
        candidates.
    candidates : int
        Possible parents of a node, at most 18.
    most : int
        Most parents of a node, unless `constraints.max_parents` says less.
    restarts : int
        Of each round; `benchmarks/structure_learning.py --settings` compares.
    rounds : int
        The candidates are chosen anew, near the best graph so far, at most so often.
    rng : numpy Generator, optional
        For the restarts; seed 0 by default.

    Raises
    ------
    SchemaError
        If the constraints contradict each other.
    """
    constraints = constraints or Constraints()
    rng = rng if rng is not None else np.random.default_rng(0)
    start = start if start is not None else hill_climb(scorer, constraints)
    best, score = start, scorer.graph(start)
    for _ in range(rounds):
        sets = parent_sets(
            scorer, constraints, most=_limit(constraints, most), candidates=candidates, near=best
        )
        graph = _restarted(sets, list(best.order), restarts, rng)
        now = scorer.graph(graph)
        if now <= score + 1e-9 * abs(score):
            break
        best, score = graph, now
    return best


def _restarted(
    sets: tuple[ParentSets, ...], start: list[int], restarts: int, rng: np.random.Generator
) -> Dag:
    """The graph of the best order found from a start and from disturbed ones."""
    order, score = _improve(sets, start)
    for _ in range(restarts):
        moved = list(order)
        for _ in range(max(3, int(rng.integers(1 + len(moved) // 3)))):
            moved.insert(int(rng.integers(len(moved))), moved.pop(int(rng.integers(len(moved)))))
        found, now = _improve(sets, moved)
        if now > score + 1e-9 * abs(score):
            order, score = found, now
    chosen = (
        own.parents(int(own.best[1][mask]))
        for own, mask in zip(sets, masks_of(sets, order), strict=True)
    )
    return Dag(tuple(chosen))


def masks_of(sets: tuple[ParentSets, ...], order: list[int]) -> list[int]:
    """For each node, the set of its candidates that come before it."""
    place = {node: i for i, node in enumerate(order)}
    return [
        sum(1 << b for b, c in enumerate(own.candidates) if place[c] < place[own.node])
        for own in sets
    ]


def _improve(sets: tuple[ParentSets, ...], order: list[int]) -> tuple[list[int], float]:
    """Insertions of single nodes until none helps; the order and its score."""
    tables = [own.best[0].tolist() for own in sets]
    bit = [{c: 1 << b for b, c in enumerate(own.candidates)} for own in sets]
    masks = masks_of(sets, order)
    improved = True
    while improved:
        improved = False
        for node in list(order):
            gain, place = _best_place(tables, bit, masks, order, node)
            if gain > 1e-7:
                order.remove(node)
                order.insert(place, node)
                masks = masks_of(sets, order)
                improved = True
    return order, sum(table[m] for table, m in zip(tables, masks, strict=True))


def _best_place(
    tables: list[list[float]], bit: list[dict[int, int]], masks: list[int], order: list[int],
    node: int,
) -> tuple[float, int]:  # fmt: skip
    """The place of the largest gain for one node, and the gain, by passing one node at a time."""
    here = order.index(node)
    best, place = 0.0, here
    own, score = tables[node], tables[node][masks[node]]
    for direction in (-1, 1):
        mask, others, i = masks[node], 0.0, here + direction
        while 0 <= i < len(order):
            passed = order[i]
            table, now = tables[passed], masks[passed]
            others += table[now ^ bit[passed].get(node, 0)] - table[now]
            mask ^= bit[node].get(passed, 0)
            gain = others + own[mask] - score
            if gain > best + 1e-9 * abs(score):
                best, place = gain, i
            i += direction
    return best, place
