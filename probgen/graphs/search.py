"""Greedy hill climbing over directed acyclic graphs, with a tabu list and restarts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probgen.errors import SchemaError, message
from probgen.graphs.constraints import Constraints, allowed_edges
from probgen.graphs.dag import Dag
from probgen.graphs.scores import Scorer

__all__ = ["hill_climb"]

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

#: Gains closer than this, relative to the largest, count as equal: rounding decides nothing.
TIE = 1e-9


@dataclass(frozen=True)
class _Move:
    """Edges to toggle: one for an addition or a deletion, two for a reversal."""

    toggles: tuple[tuple[int, int], ...]
    gain: float


class _State:
    """A graph under search, with the gain of every change of one edge."""

    def __init__(self, scorer: Scorer, allowed: Bools, constraints: Constraints) -> None:
        d = len(scorer)
        self.scorer, self.allowed = scorer, allowed
        self.required = np.zeros((d, d), dtype=bool)
        for parent, child in constraints.required:
            self.required[parent, child] = True
        self.most = d if constraints.max_parents is None else constraints.max_parents
        self.adjacency = np.zeros((d, d), dtype=bool)
        self.reach = np.eye(d, dtype=bool)  # reflexive: from row a path to column
        self.gains = np.zeros((d, d))

    def start(self, adjacency: Bools) -> None:
        """Begin at a graph."""
        changed = np.flatnonzero((adjacency != self.adjacency).any(0))
        self.adjacency = adjacency.copy()
        self._close()
        for child in changed if self.gains.any() else range(len(self.scorer)):
            self._column(int(child))

    def parents(self, child: int) -> tuple[int, ...]:
        return tuple(int(p) for p in np.flatnonzero(self.adjacency[:, child]))

    def _column(self, child: int) -> None:
        own = self.parents(child)
        base = self.scorer.local(child, own)
        gain = np.full(len(self.scorer), -np.inf)
        if len(own) < self.most:
            gain = self.scorer.added(child, own) - base
            gain[np.isnan(gain)] = -np.inf
        for p in own:
            gain[p] = self.scorer.local(child, tuple(q for q in own if q != p)) - base
        self.gains[:, child] = gain

    def _close(self) -> None:
        """Reachability from scratch: each node reaches what its children reach."""
        graph = Dag.of(len(self.adjacency), _edges(self.adjacency))
        self.reach = np.eye(len(graph), dtype=bool)
        for node in reversed(graph.order):
            for child in graph.children[node]:
                self.reach[node] |= self.reach[child]

    def moves(self) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """Gains of additions and deletions (d, d), of reversals (edges,), and these edges.

        A move that is not allowed gains minus infinity.
        """
        full = self.adjacency.sum(0) >= self.most
        free = ~self.adjacency & self.allowed & ~self.reach.T & ~full
        free |= self.adjacency & ~self.required
        single = np.where(free, self.gains, -np.inf)
        edges = np.argwhere(self.adjacency & ~self.required & self.allowed.T & ~full[:, None])
        parent, child = edges[:, 0], edges[:, 1]
        paths = (self.adjacency[parent] & self.reach[:, child].T).sum(1)
        turned = self.gains[parent, child] + self.gains[child, parent]
        return single, np.where(paths == 1, turned, -np.inf), edges

    def apply(self, move: _Move) -> None:
        removed = False
        for parent, child in move.toggles:
            there = self.adjacency[parent, child]
            self.adjacency[parent, child] = not there
            removed |= bool(there)
            if not there and not removed:
                self.reach |= np.outer(self.reach[:, parent], self.reach[child])
        if removed:
            self._close()
        for child in {child for _, child in move.toggles}:
            self._column(child)


def hill_climb(
    scorer: Scorer,
    constraints: Constraints | None = None,
    *,
    start: Dag | None = None,
    tabu: int = 10,
    restarts: int = 0,
    perturbation: int = 10,
    rng: np.random.Generator | None = None,
) -> Dag:
    """A graph of high score: the best addition, deletion or reversal of an edge, again and again.

    At a local optimum the search goes on by the least bad changes to graphs that it has not
    just visited (tabu search, Glover 1989; for networks Bouckaert 1995), and ends after `tabu`
    of them without a better graph. A restart changes the best graph at random and climbs again.

    Parameters
    ----------
    scorer : Scorer
    constraints : Constraints, optional
    start : Dag, optional
        Where to begin; the required edges are added. By default these alone.
    tabu : int
        Changes without progress before the search ends; 0 for plain hill climbing.
    restarts : int
    perturbation : int
        Random changes at a restart.
    rng : numpy Generator, optional
        For the restarts; seed 0 by default.

    Raises
    ------
    SchemaError
        If the constraints contradict each other, or the start graph contradicts them.

    Examples
    --------
    >>> from probgen.graphs.nodes import NodeRows
    >>> codes = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]] * 5)
    >>> rows = NodeRows(codes, np.full(codes.shape, np.nan), (2, 2, 2), np.ones(20))
    >>> hill_climb(Scorer(rows, "bic")).edges
    ((0, 1),)
    """
    constraints = constraints or Constraints()
    allowed = allowed_edges(scorer.rows, constraints, scorer.logistic)
    state = _State(scorer, allowed, constraints)
    first = _start(start, allowed, constraints, state.required)
    best, score = _climb(state, first, tabu)
    rng = rng if rng is not None else np.random.default_rng(0)
    for _ in range(restarts):
        state.start(best)
        for _ in range(perturbation):
            _random_change(state, rng)
        found, now = _climb(state, state.adjacency.copy(), tabu)
        if now > score + TIE * abs(score):
            best, score = found, now
    return Dag.of(len(scorer), _edges(best))


def _edges(adjacency: Bools) -> list[tuple[int, int]]:
    return [(int(p), int(c)) for p, c in np.argwhere(adjacency)]


def _start(start: Dag | None, allowed: Bools, constraints: Constraints, required: Bools) -> Bools:
    """Adjacency of the start graph with the required edges."""
    if start is None:
        return required.copy()
    if len(start) != len(allowed):
        raise SchemaError(message(
            f"a start graph of {len(start)} nodes", f"{len(allowed)} nodes", "correct the graph"
        ))  # fmt: skip
    wrong = [edge for edge in start.edges if not allowed[edge]]
    if wrong:
        raise SchemaError(message(
            f"a start graph with the edges {wrong}, which are not allowed",
            "a start graph that keeps the constraints", "remove these edges",
        ))  # fmt: skip
    adjacency = start.adjacency | required
    most = constraints.max_parents
    if most is not None and (adjacency.sum(0) > most).any():
        raise SchemaError(message(
            f"a start graph with {int(adjacency.sum(0).max())} parents of a node",
            f"at most {most}", "remove edges or raise max_parents",
        ))  # fmt: skip
    return adjacency


def _climb(state: _State, first: Bools, tabu: int) -> tuple[Bools, float]:
    """The best graph on a path of best moves, and its score less that of the empty graph."""
    state.start(first)
    scorer = state.scorer
    now = sum(scorer.local(i, state.parents(i)) - scorer.local(i, ()) for i in range(len(scorer)))
    best, score = first.copy(), now
    visited: deque[bytes] = deque([np.packbits(first).tobytes()], maxlen=max(tabu, 1))
    waiting = 0
    while True:
        move = _best_move(state, visited if waiting or tabu else deque())
        if move is None or (not tabu and move.gain <= TIE * abs(score)):
            return best, score
        state.apply(move)
        now += move.gain
        visited.append(np.packbits(state.adjacency).tobytes())
        if now > score + TIE * abs(score):
            best, score, waiting = state.adjacency.copy(), now, 0
        else:
            waiting += 1
        if waiting >= max(tabu, 1):
            return best, score


def _best_move(state: _State, visited: deque[bytes]) -> _Move | None:
    """The move of the largest gain to a graph not just visited; the first of equal ones."""
    single, turned, edges = state.moves()
    flat = np.concatenate([single.ravel(), turned])
    d = len(single)
    for _ in range(len(visited) + 1):
        top = flat.max(initial=-np.inf)
        if not np.isfinite(top):
            return None
        place = int(np.argmax(flat >= top - TIE * (1 + abs(top))))
        if place < d * d:
            toggles: tuple[tuple[int, int], ...] = (divmod(place, d),)
        else:
            parent, child = (int(i) for i in edges[place - d * d])
            toggles = (parent, child), (child, parent)
        if not visited or _after(state.adjacency, toggles) not in visited:
            return _Move(toggles, float(flat[place]))
        flat[place] = -np.inf
    return None


def _after(adjacency: Bools, toggles: tuple[tuple[int, int], ...]) -> bytes:
    changed = adjacency.copy()
    for edge in toggles:
        changed[edge] = not changed[edge]
    return np.packbits(changed).tobytes()


def _random_change(state: _State, rng: np.random.Generator) -> None:
    single, turned, edges = state.moves()
    d = len(single)
    moves: list[tuple[tuple[int, int], ...]] = []
    present = state.adjacency
    # as many absent edges as present ones are offered, or the graph would only fill up
    absent = np.argwhere(np.isfinite(single) & ~present)
    if len(absent):
        keep = rng.choice(len(absent), min(len(absent), max(int(present.sum()), d)), False)
        moves += [((int(a), int(b)),) for a, b in absent[keep]]
    moves += [((int(a), int(b)),) for a, b in np.argwhere(np.isfinite(single) & present)]
    for (a, b), gain in zip(edges, turned, strict=True):
        if np.isfinite(gain):
            moves.append(((int(a), int(b)), (int(b), int(a))))
    if moves:
        state.apply(_Move(moves[int(rng.integers(len(moves)))], 0.0))
