"""What a learned graph must and must not hold: required and forbidden edges, tiers, parents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probgen.errors import SchemaError, message
from probgen.graphs.dag import Dag
from probgen.graphs.nodes import NodeRows

__all__ = ["Constraints", "allowed_edges"]

Edge = tuple[int, int]


@dataclass(frozen=True)
class Constraints:
    """Prior knowledge about the edges between the nodes 0 to d - 1.

    Parameters
    ----------
    required : set of (int, int)
        Edges (parent, child) that the graph has.
    forbidden : set of (int, int)
        Edges (parent, child) that it has not.
    tiers : tuple of tuples of int
        Groups of nodes in the order of time: no edge leads from a later group to an earlier
        one. Nodes in no group are free.
    max_parents : int, optional
        Most parents of a node; None for no limit.

    Examples
    --------
    >>> known = Constraints(required=frozenset({(0, 1)}), tiers=((0,), (1, 2)))
    >>> known.allowed(3).astype(int)
    array([[0, 1, 1],
           [0, 0, 1],
           [0, 1, 0]])
    """

    required: frozenset[Edge] = frozenset()
    forbidden: frozenset[Edge] = frozenset()
    tiers: tuple[tuple[int, ...], ...] = ()
    max_parents: int | None = None

    def allowed(self, nodes: int) -> NDArray[np.bool_]:
        """Matrix (nodes, nodes): whether the edge from row to column may be in the graph.

        Raises
        ------
        SchemaError
            If the constraints name a node that is none, or contradict each other.
        """
        self._check(nodes)
        found = ~np.eye(nodes, dtype=bool)
        for parent, child in self.forbidden:
            found[parent, child] = False
        for i, late in enumerate(self.tiers):
            for early in self.tiers[:i]:
                found[np.ix_(late, early)] = False
        for parent, child in sorted(self.required):
            if not found[parent, child]:
                raise SchemaError(message(
                    f"edge {(parent, child)} required, and forbidden by itself or by the tiers",
                    "constraints that can all hold", "drop one of them",
                ))  # fmt: skip
            found[child, parent] = False
        return found

    def _check(self, nodes: int) -> None:
        named = [*self.required, *self.forbidden, *self.tiers]
        strange = sorted({n for group in named for n in group if not 0 <= n < nodes})
        if strange:
            raise SchemaError(message(
                f"constraints on the nodes {strange}", f"numbers from 0 to {nodes - 1}",
                "correct them",
            ))  # fmt: skip
        placed = [n for tier in self.tiers for n in tier]
        if len(placed) > len(set(placed)):
            twice = sorted({n for n in placed if placed.count(n) > 1})
            raise SchemaError(
                message(
                    f"nodes {twice} in two tiers",
                    "each node in one tier at most",
                    "correct the tiers",
                )
            )
        if self.max_parents is not None and self.max_parents < 0:
            raise SchemaError(message(
                f"max_parents={self.max_parents}", "0 or more", "pass None for no limit"
            ))  # fmt: skip
        start = Dag.of(nodes, self.required)  # refuses a cycle
        most = max((len(own) for own in start.parents), default=0)
        if self.max_parents is not None and most > self.max_parents:
            raise SchemaError(message(
                f"a node with {most} required parents, and max_parents={self.max_parents}",
                "constraints that can all hold", "raise max_parents",
            ))  # fmt: skip


def allowed_edges(
    rows: NodeRows, constraints: Constraints, logistic: bool = False
) -> NDArray[np.bool_]:
    """Edges that the constraints and the kinds of the nodes allow, as a matrix (d, d).

    A normal node is no parent of a discrete one unless `logistic`.

    Raises
    ------
    SchemaError
        If the constraints contradict each other or the kinds.
    """
    found = constraints.allowed(rows.nodes)
    if not logistic:
        normal = np.array([size == 0 for size in rows.sizes], dtype=bool)
        found &= ~np.outer(normal, ~normal)
        for parent, child in sorted(constraints.required):
            if not found[parent, child]:
                raise SchemaError(message(
                    f"required edge {(parent, child)} from a normal to a discrete node",
                    "discrete parents of a discrete node", "pass logistic=True or drop the edge",
                ))  # fmt: skip
    return found
