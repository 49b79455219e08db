"""Scores of all sets of parents among a few candidates of each node, and their best subsets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from probgen.errors import NotSupported, SchemaError, message
from probgen.graphs.constraints import Constraints, allowed_edges
from probgen.graphs.dag import Dag
from probgen.graphs.scores import Scorer

__all__ = ["ParentSets", "parent_sets"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Most candidates of a node: its sets are kept in tables of 2 to this power.
MOST_CANDIDATES = 18


@dataclass(frozen=True)
class ParentSets:
    """Scores of the sets of parents of one node.

    Parameters
    ----------
    node : int
    candidates : tuple of int
        The k nodes that may be parents; bit b of a set stands for the b-th.
    scores : array (2 to the k,)
        Local scores in nats; minus infinity for sets that are not allowed.
    """

    node: int
    candidates: tuple[int, ...]
    scores: Floats

    def parents(self, mask: int) -> tuple[int, ...]:
        """The nodes of a set."""
        return tuple(c for b, c in enumerate(self.candidates) if mask >> b & 1)

    @cached_property
    def best(self) -> tuple[Floats, Ints]:
        """Score and set (2 to the k,) of the best subset of each set."""
        score, chosen = self.scores.copy(), np.arange(len(self.scores))
        for b in range(len(self.candidates)):
            s, c = score.reshape(-1, 2, 1 << b), chosen.reshape(-1, 2, 1 << b)
            # equal scores keep the smaller set
            better = s[:, 0] >= s[:, 1]
            s[:, 1] = np.where(better, s[:, 0], s[:, 1])
            c[:, 1] = np.where(better, c[:, 0], c[:, 1])
        return score, chosen

    @cached_property
    def total(self) -> Floats:
        """Log of the sum of exp scores over the subsets of each set, (2 to the k,)."""
        found = self.scores.copy()
        for b in range(len(self.candidates)):
            view = found.reshape(-1, 2, 1 << b)
            view[:, 1] = np.logaddexp(view[:, 0], view[:, 1])
        return found

    def draw(self, mask: int, rng: np.random.Generator) -> int:
        """A subset of a set, with probability proportional to exp of its score."""
        inside = np.flatnonzero((np.arange(len(self.scores)) & ~mask) == 0)
        noise = rng.gumbel(size=len(inside))
        return int(inside[np.argmax(self.scores[inside] + noise)])


def parent_sets(
    scorer: Scorer,
    constraints: Constraints,
    *,
    most: int,
    candidates: int | None = None,
    near: Dag | None = None,
) -> tuple[ParentSets, ...]:
    """Sets of at most `most` parents of each node.

    Parameters
    ----------
    scorer : Scorer
    constraints : Constraints
    most : int
        Most parents, unless `constraints.max_parents` says less.
    candidates : int, optional
        Of each node; None for all nodes. Its neighbours in `near` come first, then their
        neighbours, then the nodes of the largest gain as a single parent.
    near : Dag, optional

    Raises
    ------
    NotSupported
        If a node would have more than 18 candidates.
    SchemaError
        If the constraints contradict each other.
    """
    allowed = allowed_edges(scorer.rows, constraints, scorer.logistic)
    limit = most if constraints.max_parents is None else min(most, constraints.max_parents)
    if constraints.required:
        limit = max(limit, int(np.bincount([c for _, c in constraints.required]).max()))
    return tuple(
        _sets(scorer, node, _candidates(scorer, node, allowed, constraints, candidates, near),
              limit, constraints)
        for node in range(len(scorer))
    )  # fmt: skip


def _candidates(
    scorer: Scorer, node: int, allowed: NDArray[np.bool_], constraints: Constraints,
    count: int | None, near: Dag | None,
) -> tuple[int, ...]:  # fmt: skip
    free = np.flatnonzero(allowed[:, node])
    needed = [p for p, c in constraints.required if c == node]
    if count is not None and len(free) > count:
        gain = scorer.added(node, ())[free]
        rank = np.argsort(-np.where(np.isnan(gain), -np.inf, gain), kind="stable")
        close = _neighbours(near, node) if near is not None else []
        order = [*needed, *close, *(int(free[i]) for i in rank)]
        chosen = [i for i in dict.fromkeys(order) if allowed[i, node]]
        free = np.array(sorted(chosen[: max(count, len(needed))]))
    if len(free) > MOST_CANDIDATES:
        raise NotSupported(message(
            f"{len(free)} possible parents of node {node}", f"at most {MOST_CANDIDATES}",
            "forbid edges, search by orders with fewer candidates, or climb",
        ))  # fmt: skip
    return tuple(int(i) for i in free)


def _neighbours(graph: Dag, node: int) -> list[int]:
    """Parents and children, then the other parents of the children and the siblings."""
    near = [*graph.parents[node], *graph.children[node]]
    further = [p for child in graph.children[node] for p in graph.parents[child]]
    further += [c for parent in graph.parents[node] for c in graph.children[parent]]
    return near + [i for i in further if i != node]


def _sets(
    scorer: Scorer, node: int, candidates: tuple[int, ...], most: int, constraints: Constraints
) -> ParentSets:
    scores = np.full(1 << len(candidates), -np.inf)
    needed = {p for p, c in constraints.required if c == node}
    bits = range(len(candidates))
    whole = len(candidates) == len(scorer) - 1
    for size in range(min(most, len(candidates)) + 1):
        for chosen in combinations(bits, size):
            parents = tuple(candidates[b] for b in chosen)
            if whole and size < most:
                scorer.added(node, parents)  # fills the cache for the next size in one go
            if needed <= set(parents):
                scores[sum(1 << b for b in chosen)] = scorer.local(node, parents)
    if not np.isfinite(scores).any():
        raise SchemaError(message(
            f"no allowed set of parents of node {node}", "constraints that can all hold",
            "raise max_parents or drop a constraint",
        ))  # fmt: skip
    return ParentSets(node, candidates, scores)
