"""Which columns to adjust for, so that an association is an effect.

An adjustment set Z of a treatment X and an outcome Y has, in every distribution of the graph,
p(y | do(x)) = sum over z of p(y | x, z) p(z). All sets here follow the adjustment criterion,
which is complete: a set that it rejects fails for some distribution of the graph (Shpitser,
VanderWeele and Robins 2010, On the validity of covariate adjustment for estimating causal
effects, UAI; Perkovic, Textor, Kalisch and Maathuis 2018, Complete graphical characterization
and construction of adjustment sets in Markov equivalence classes of ancestral graphs, JMLR 18).
"""

from __future__ import annotations

from collections.abc import Iterable

from probgen.graphs.dag import Dag
from probgen.graphs.separation import Nodes, checked, d_separated, minimal_separators

__all__ = [
    "adjustment_sets", "backdoor_parents", "causal_nodes", "efficient_set", "forbidden_nodes",
    "is_adjustment_set", "proper_backdoor_graph",
]  # fmt: skip

#: one node, or several
Group = int | Iterable[int]


def adjustment_sets(
    dag: Dag,
    treatment: Group,
    outcome: Group,
    allowed: Iterable[int] | None = None,
    most: int = 1000,
) -> list[Nodes]:
    """All sets of columns to adjust for of which none can be left out.

    Parameters
    ----------
    dag : Dag
    treatment, outcome : int or set of int
        A node, or several that are set (or asked for) together.
    allowed : set of int, optional
        Nodes that may be adjusted for, such as those that are observed; by default all.
    most : int
        The search ends after so many sets: there may be exponentially many.

    Returns
    -------
    list of frozensets
        Small ones first. ``[frozenset()]`` if nothing needs adjusting for, ``[]`` if no allowed
        set will do.

    Raises
    ------
    SchemaError
        If treatment and outcome share a node, or one is empty or unknown.

    Notes
    -----
    Minimal separators in the proper back-door graph (van der Zander, Liskiewicz and Textor 2019,
    Separators and adjustment sets in causal graphs, Artificial Intelligence 270).

    Examples
    --------
    The confounder 0 acts on the treatment 1 by way of 3; 4 is on the way to the outcome 2.

    >>> dag = Dag.of(5, [(0, 3), (3, 1), (0, 2), (1, 4), (4, 2)])
    >>> adjustment_sets(dag, 1, 2)
    [frozenset({0}), frozenset({3})]
    """
    x, y = _groups(dag, treatment, outcome)
    [may] = checked(dag, range(len(dag)) if allowed is None else allowed)
    may -= forbidden_nodes(dag, x, y) | x | y
    return minimal_separators(proper_backdoor_graph(dag, x, y), x, y, may, most)


def is_adjustment_set(dag: Dag, treatment: Group, outcome: Group, z: Iterable[int] = ()) -> bool:
    """Whether adjusting for z gives the effect of treatment on outcome, whatever the tables are.

    Parameters
    ----------
    dag : Dag
    treatment, outcome : int or set of int
    z : set of int
        What is adjusted for.

    Raises
    ------
    SchemaError
        If the sets overlap, or a node is unknown.

    Examples
    --------
    >>> confounded = Dag.of(3, [(0, 1), (0, 2), (1, 2)])
    >>> is_adjustment_set(confounded, 1, 2), is_adjustment_set(confounded, 1, 2, {0})
    (False, True)
    """
    x, y = _groups(dag, treatment, outcome)
    x, y, z = checked(dag, x, y, z)
    if z & forbidden_nodes(dag, x, y):
        return False
    return d_separated(proper_backdoor_graph(dag, x, y), x, y, z)


def backdoor_parents(dag: Dag, treatment: Group, outcome: Group) -> Nodes | None:
    """The parents of the treatment, if adjusting for them gives its effect.

    For a single treatment they do unless the outcome is one of them, and then no set does: the
    treatment has no effect on its parent.

    Returns
    -------
    frozenset of int or None

    Examples
    --------
    >>> backdoor_parents(Dag.of(3, [(0, 1), (0, 2), (1, 2)]), 1, 2)
    frozenset({0})
    """
    x, y = _groups(dag, treatment, outcome)
    parents = frozenset(p for node in x for p in dag.parents[node]) - x
    if parents & y or not is_adjustment_set(dag, x, y, parents):
        return None
    return parents


def efficient_set(dag: Dag, treatment: Group, outcome: Group) -> Nodes | None:
    """The adjustment set that gives the effect with the smallest variance.

    Of all valid sets it has the smallest asymptotic variance of the least-squares estimate of a
    total effect in a linear model, and of many others: the parents of the nodes on the way from
    treatment to outcome that are not themselves affected (Henckel, Perkovic and Maathuis 2022,
    Graphical criteria for efficient total effect estimation via adjustment in causal linear
    models, JRSS B 84).

    Returns
    -------
    frozenset of int or None
        None where no set is valid, and where nothing leads from treatment to outcome: that effect
        is nil.

    Examples
    --------
    Node 0 acts on the treatment 1 only, 3 on the outcome 2 only: adjusting for 3 takes noise
    away, adjusting for 0 takes variation of the treatment away.

    >>> efficient_set(Dag.of(4, [(0, 1), (1, 2), (3, 2)]), 1, 2)
    frozenset({3})
    """
    x, y = _groups(dag, treatment, outcome)
    if not y <= dag.descendants(x):
        return None
    on_the_way = causal_nodes(dag, x, y)
    above = frozenset(p for node in on_the_way for p in dag.parents[node])
    found = above - forbidden_nodes(dag, x, y) - x
    return found if is_adjustment_set(dag, x, y, found) else None


# --- the parts of the criterion -----------------------------------------------------------------


def causal_nodes(dag: Dag, treatment: Group, outcome: Group) -> Nodes:
    """Nodes on directed paths from treatment to outcome that meet the treatment at their start
    only, without the treatment.

    Examples
    --------
    >>> sorted(causal_nodes(Dag.of(4, [(0, 1), (1, 2), (1, 3)]), 0, 2))
    [1, 2]
    """
    x, y = _groups(dag, treatment, outcome)
    after = dag.without_parents(x).descendants(x) - x
    kept = Dag(tuple(tuple(p for p in own if p not in x) for own in dag.parents))
    return after & kept.ancestors(y)


def forbidden_nodes(dag: Dag, treatment: Group, outcome: Group) -> Nodes:
    """What no adjustment set may hold: all that lies behind a node on the way to the outcome.

    Examples
    --------
    >>> sorted(forbidden_nodes(Dag.of(4, [(0, 1), (1, 2), (1, 3)]), 0, 2))
    [1, 2, 3]
    """
    return dag.descendants(causal_nodes(dag, treatment, outcome))


def proper_backdoor_graph(dag: Dag, treatment: Group, outcome: Group) -> Dag:
    """The graph without the first edge of each way from treatment to outcome.

    What joins the two in it is not the effect.

    Examples
    --------
    >>> proper_backdoor_graph(Dag.of(4, [(0, 1), (1, 2), (0, 3)]), 0, 2).edges
    ((0, 3), (1, 2))
    """
    x, y = _groups(dag, treatment, outcome)
    first = causal_nodes(dag, x, y)
    return Dag(tuple(
        tuple(p for p in own if p not in x) if node in first else own
        for node, own in enumerate(dag.parents)
    ))  # fmt: skip


def _groups(dag: Dag, treatment: Group, outcome: Group) -> tuple[Nodes, Nodes]:
    x, y = (frozenset({own} if isinstance(own, int) else own) for own in (treatment, outcome))
    x, y = checked(dag, x, y)
    return x, y
