"""A random graph of an equivalence class: which one a score picks is chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probgen.graphs.cpdags import meek
from probgen.graphs.dag import Dag

__all__ = ["random_equivalent"]


def random_equivalent(
    graph: Dag, rng: np.random.Generator, allowed: NDArray[np.bool_] | None = None
) -> Dag:
    """A graph that states the same independences, its free edges directed at random.

    Edges that have no direction in the class are directed one after another, each at random and
    with all that follows from it (Meek 1995). Not uniform over the class.

    Parameters
    ----------
    graph : Dag
    rng : numpy Generator
    allowed : array (d, d) of bool, optional
        Whether an edge from row to column may be; the graph itself obeys it.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> found = {random_equivalent(Dag.of(3, [(0, 1), (1, 2)]), rng).edges for _ in range(50)}
    >>> len(found)  # all but the one whose arrows meet
    3
    """
    found = graph.cpdag.copy()
    loose = found & found.T
    if allowed is not None:  # what may not be turned has a direction
        for x, y in zip(*np.nonzero(loose & ~allowed), strict=True):
            found[x, y] = False
        found = meek(found)
    while (loose := np.triu(found & found.T)).any():
        edges = np.argwhere(loose)
        x, y = edges[rng.integers(len(edges))]
        if rng.random() < 0.5:
            x, y = y, x
        found[y, x] = False
        found = meek(found)
    try:
        other = Dag.of(len(graph), [(int(x), int(y)) for x, y in np.argwhere(found)])
    except ValueError:  # constraints that no rule sees can lead into a corner
        return graph
    same = bool((other.cpdag == graph.cpdag).all())
    legal = allowed is None or not bool((found & ~allowed).any())
    return other if same and legal else graph
