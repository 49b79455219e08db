"""What a graph says about independence: d-separation, Markov blankets, separating sets."""

from __future__ import annotations

from collections.abc import Iterable

from probgen.errors import SchemaError, message
from probgen.graphs.dag import Dag

__all__ = [
    "d_separated", "markov_blanket", "minimal_separator", "minimal_separators", "reachable",
]  # fmt: skip

Nodes = frozenset[int]
Links = dict[int, set[int]]


def d_separated(dag: Dag, x: Iterable[int], y: Iterable[int], z: Iterable[int] = ()) -> bool:
    """Whether x and y are independent given z in every distribution of this graph.

    Parameters
    ----------
    dag : Dag
    x, y, z : sets of int
        Nodes; no node may be in two of them. An empty x or y is separated from anything.

    Raises
    ------
    SchemaError
        If a node is in two of the sets, or is none of the graph.

    Notes
    -----
    Linear in the number of edges (Koller and Friedman 2009, Probabilistic graphical models,
    algorithm 3.1).

    Examples
    --------
    >>> collider = Dag.of(3, [(0, 2), (1, 2)])
    >>> d_separated(collider, {0}, {1}), d_separated(collider, {0}, {1}, {2})
    (True, False)
    """
    x, y, z = checked(dag, x, y, z)
    return not reachable(dag, x, z) & y


def reachable(dag: Dag, x: Nodes, z: Nodes) -> Nodes:
    """All nodes outside z that an active path joins to x given z; x itself among them."""
    above = dag.ancestors(z)
    # a way that came "up" left a child; one that came "down" left a parent
    waiting = [(node, True) for node in x]
    visited: set[tuple[int, bool]] = set()
    while waiting:
        node, up = way = waiting.pop()
        if way in visited:
            continue
        visited.add(way)
        if node not in z:
            waiting += [(child, False) for child in dag.children[node]]
        if (up and node not in z) or (not up and node in above):
            waiting += [(parent, True) for parent in dag.parents[node]]
    return frozenset(node for node, _ in visited) - z


def markov_blanket(dag: Dag, node: int) -> Nodes:
    """Parents, children and other parents of the children: given these, `node` is independent
    of all the rest, and no smaller set does that in every distribution of the graph.

    Examples
    --------
    >>> sorted(markov_blanket(Dag.of(4, [(0, 1), (1, 2), (3, 2)]), 1))
    [0, 2, 3]
    """
    checked(dag, (node,))
    children = dag.children[node]
    near = {*dag.parents[node], *children, *(p for child in children for p in dag.parents[child])}
    return frozenset(near - {node})


def minimal_separator(
    dag: Dag, x: Iterable[int], y: Iterable[int], allowed: Iterable[int] | None = None
) -> Nodes | None:
    """A set of allowed nodes that separates x and y and of which no node can be left out.

    Parameters
    ----------
    dag : Dag
    x, y : sets of int
        Disjoint and not empty.
    allowed : set of int, optional
        What the set may hold; by default all other nodes.

    Returns
    -------
    frozenset of int or None
        None where no allowed set separates them. Of all minimal sets it is the nearest to y of
        those within the nearest to x.

    Notes
    -----
    Linear in the size of the moral graph (van der Zander, Liskiewicz and Textor 2019,
    Separators and adjustment sets in causal graphs, Artificial Intelligence 270).

    Examples
    --------
    >>> chain = Dag.of(4, [(0, 1), (1, 2), (2, 3)])
    >>> minimal_separator(chain, {0}, {3}, allowed={2})
    frozenset({2})
    >>> minimal_separator(chain, {0}, {1}) is None
    True
    """
    x, y, links, within = _moral_problem(dag, x, y, allowed)
    near, beyond = _met(links, x, within)
    if beyond & y:
        return None
    return _met(links, y, near)[0]


def minimal_separators(
    dag: Dag,
    x: Iterable[int],
    y: Iterable[int],
    allowed: Iterable[int] | None = None,
    most: int = 1000,
) -> list[Nodes]:
    """All sets of allowed nodes that separate x and y and of which no node can be left out.

    Parameters
    ----------
    dag : Dag
    x, y : sets of int
        Disjoint and not empty.
    allowed : set of int, optional
        What a set may hold; by default all other nodes.
    most : int
        The search ends after so many: there may be exponentially many.

    Returns
    -------
    list of frozensets
        Small ones first. Empty where no allowed set separates x and y; the empty set alone
        where they are separated already.

    Notes
    -----
    Time is polynomial for each set: one is grown into the next by moving a node of it to the
    side of x (Kloks and Kratsch 1998, Listing all minimal separators of a graph, SIAM Journal
    on Computing 27), in the moral graph of the ancestors, where d-separation is plain
    separation.

    Examples
    --------
    >>> chain = Dag.of(4, [(0, 1), (1, 2), (2, 3)])
    >>> minimal_separators(chain, {0}, {3})
    [frozenset({1}), frozenset({2})]
    """
    x, y, moral, within = _moral_problem(dag, x, y, allowed)
    links = _contracted(moral, within, x, y)
    if _X in links[_Y]:
        return []
    first = _near_y(links, {_X})
    found, waiting = {first}, [first]
    while waiting and len(found) < most:
        own = waiting.pop(0)
        side = _component(links, _X, own)
        for node in sorted(own - links[_Y]):
            fresh = _near_y(links, side | {node})
            if fresh not in found and len(found) < most:
                found.add(fresh)
                waiting.append(fresh)
    return sorted(found, key=lambda own: (len(own), sorted(own)))


def checked(dag: Dag, *sets: Iterable[int]) -> tuple[Nodes, ...]:
    """Sets of nodes of the graph that do not overlap.

    Raises
    ------
    SchemaError
        If one does, or a node is none of the graph.
    """
    found = tuple(frozenset(own) for own in sets)
    every = sorted(frozenset().union(*found))
    foreign = [node for node in every if node not in range(len(dag))]
    if foreign:
        raise SchemaError(message(
            f"nodes {foreign}", f"numbers of nodes, 0 to {len(dag) - 1}", "correct them"
        ))  # fmt: skip
    shared = [node for node in every if sum(node in own for own in found) > 1]
    if shared:
        raise SchemaError(message(
            f"nodes {shared} on two sides", "sets without a common node", "take them out of one"
        ))  # fmt: skip
    return found


# --- the moral graph ----------------------------------------------------------------------------

#: all of x, and all of y, as one node each
_X, _Y = -1, -2


def _moral_problem(
    dag: Dag, x: Iterable[int], y: Iterable[int], allowed: Iterable[int] | None
) -> tuple[Nodes, Nodes, Links, Nodes]:
    """x, y, the moral graph of their ancestors, and the allowed nodes in it."""
    x, y = checked(dag, x, y)
    if not x or not y:
        raise SchemaError(message("an empty set", "nodes to separate", "pass at least one each"))
    [within] = checked(dag, range(len(dag)) if allowed is None else allowed)
    above = dag.ancestors(x | y)
    links: Links = {node: set() for node in above}
    for child in above:
        family = (child, *dag.parents[child])
        for node in family:
            links[node] |= {other for other in family if other != node}
    return x, y, links, (within & above) - x - y


def _met(links: Links, start: Nodes, stop: Nodes) -> tuple[Nodes, Nodes]:
    """Nodes of `stop` that walks from `start` meet first, and all others that they reach."""
    seen, waiting = set(start), list(start)
    while waiting:
        node = waiting.pop()
        if node not in stop:
            waiting += links[node] - seen
            seen |= links[node]
    return stop & seen, frozenset(seen - stop)


def _contracted(links: Links, kept: Nodes, x: Nodes, y: Nodes) -> Links:
    """The graph of kept nodes, of x and of y as one each: joined if a walk over others does."""
    groups: dict[int, Nodes] = {node: frozenset({node}) for node in kept}
    groups |= {_X: x, _Y: y}
    owner = {node: group for group, nodes in groups.items() for node in nodes}
    found: Links = {}
    for group, nodes in groups.items():
        stop = frozenset(owner) - nodes
        found[group] = {owner[node] for node in _met(links, nodes, stop)[0]}
    return found


def _component(links: Links, start: int, without: Nodes) -> set[int]:
    return set(_met(links, frozenset({start}), without)[1])


def _near_y(links: Links, side: set[int]) -> Nodes:
    """Neighbours of a connected side of x from which y is reached: a minimal separator."""
    around = frozenset(set().union(*(links[node] for node in side)) - side)
    beyond = _component(links, _Y, around)
    return frozenset(node for node in around if links[node] & beyond)
