"""Which tables and which seen cells matter for a question."""

from __future__ import annotations

from collections.abc import Collection

from probgen.graphs.dag import Dag

__all__ = ["requisite"]


def requisite(
    dag: Dag, variables: Collection[int], seen: Collection[int], mixed: Collection[int] = ()
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What is needed for the joint posterior of some hidden variables given the seen ones.

    A ball that starts at the variables and bounces through the graph: it passes through hidden
    nodes, and comes back from seen ones to their parents if it fell on them from a parent
    (Shachter 1998, Bayes-ball, UAI). What it does not reach is barren or separated.

    Parameters
    ----------
    dag : Dag
        The graph.
    variables : collection of int
        The variables asked for.
    seen : collection of int
        The variables that are seen.
    mixed : collection of int
        Variables that are seen in some rows only: the ball passes through them and comes back.

    Returns
    -------
    tables : tuple of int
        The nodes whose tables are needed, in ascending order.
    evidence : tuple of int
        The seen and mixed nodes whose states are needed, in ascending order.

    Examples
    --------
    In a chain 0 -> 1 -> 2 -> 3 where 1 is seen, 2 needs its own table and the state of 1:

    >>> requisite(Dag.of(4, [(0, 1), (1, 2), (2, 3)]), [2], [1])
    ((2,), (1,))
    """
    given, partly = set(seen), set(mixed)
    top: set[int] = set()
    bottom: set[int] = set()
    visited: set[int] = set()
    waiting = [(v, True) for v in variables]
    while waiting:
        node, from_child = waiting.pop()
        visited.add(node)
        hidden = node not in given
        # up from a child through a hidden node, or back from a seen node hit from a parent
        if (hidden == from_child or node in partly) and node not in top:
            top.add(node)
            waiting += [(parent, True) for parent in dag.parents[node]]
        if hidden and node not in bottom:
            bottom.add(node)
            waiting += [(child, False) for child in dag.children[node]]
    return tuple(sorted(top)), tuple(sorted(visited & (given | partly)))
