"""Networks as objects of other packages: networkx graphs and pgmpy models."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import networkx as nx
import numpy as np

from probgen.errors import NotSupported, SchemaError, message
from probgen.exchange.tables import NetworkTables, graph_of
from probgen.graphs.dag import Dag

__all__ = ["from_networkx", "from_pgmpy", "graph_from_networkx", "to_networkx", "to_pgmpy"]


def to_networkx(
    names: Sequence[Hashable], dag: Dag, tables: NetworkTables | None = None
) -> nx.DiGraph:
    """A graph of named nodes, with levels and tables as their attributes where known.

    Parameters
    ----------
    names : sequence
        A name for each node.
    dag : Dag
    tables : NetworkTables, optional
        Of the same nodes.

    Returns
    -------
    networkx.DiGraph
        Nodes in their order. With `tables` each has the attributes ``levels`` (tuple),
        ``parents`` (tuple of names, in the order of the axes) and ``table`` (array, the node's
        own levels along axis 0).

    Examples
    --------
    >>> list(to_networkx(["rain", "wet"], Dag.of(2, [(0, 1)])).edges)
    [('rain', 'wet')]
    """
    graph = nx.DiGraph()
    for node, name in enumerate(names):
        graph.add_node(name)
        if tables is not None:
            parents = tuple(names[p] for p in dag.parents[node])
            table = tables.tables[node].copy()
            graph.nodes[name].update(levels=tables.levels[node], parents=parents, table=table)
    graph.add_edges_from((names[parent], names[child]) for parent, child in dag.edges)
    return graph


def graph_from_networkx(graph: Any) -> tuple[tuple[Hashable, ...], Dag]:
    """The names and the graph of a directed networkx graph, nodes in its order.

    The parents of a node are in the order of its attribute ``parents`` if it has one.

    Raises
    ------
    SchemaError
        If it is not a directed graph, or has a cycle.

    Examples
    --------
    >>> graph_from_networkx(nx.DiGraph([("rain", "wet")]))
    (('rain', 'wet'), Dag(parents=((), (0,))))
    """
    if not isinstance(graph, nx.Graph) or not graph.is_directed():
        raise SchemaError(message(
            f"{type(graph).__name__}", "a networkx.DiGraph", "pass a directed graph"
        ))  # fmt: skip
    parents = []
    for name in graph.nodes:
        own = list(dict.fromkeys(graph.predecessors(name)))
        stated = list(graph.nodes[name].get("parents", own))
        if set(stated) != set(own) or len(stated) != len(own):
            raise SchemaError(message(
                f"parents {stated} stated for {name!r}, into which edges lead from {own}",
                "the same nodes", "correct the attribute `parents`",
            ))  # fmt: skip
        parents.append(stated)
    return tuple(graph.nodes), graph_of(list(graph.nodes), parents)


def from_networkx(graph: Any) -> NetworkTables:
    """A network whose nodes carry ``levels`` and ``table``, as `to_networkx` makes them.

    Names are turned into strings.

    Raises
    ------
    SchemaError
        If a node lacks them, or they do not fit.

    Examples
    --------
    >>> graph = nx.DiGraph()
    >>> graph.add_node("rain", levels=("yes", "no"), table=[0.2, 0.8])
    >>> from_networkx(graph).tables
    (array([0.2, 0.8]),)
    """
    names, dag = graph_from_networkx(graph)
    for name in names:
        lacking = [key for key in ("levels", "table") if key not in graph.nodes[name]]
        if lacking:
            raise SchemaError(message(
                f"the node {name!r} without {lacking}", "both for each node",
                "add them as attributes, or use the graph alone",
            ))  # fmt: skip
    return NetworkTables(
        tuple(str(name) for name in names),
        tuple(tuple(graph.nodes[name]["levels"]) for name in names),
        dag,
        tuple(np.asarray(graph.nodes[name]["table"], dtype=np.float64) for name in names),
    )


def to_pgmpy(net: NetworkTables) -> Any:
    """The same network as a ``pgmpy.models.DiscreteBayesianNetwork``, levels as state names.

    Raises
    ------
    NotSupported
        If pgmpy is not installed.
    """
    try:
        from pgmpy.factors.discrete import TabularCPD
        from pgmpy.models import DiscreteBayesianNetwork
    except ImportError as error:
        raise NotSupported(message(
            f"no pgmpy ({error})", "the package pgmpy", "pip install 'probgen[bn]'"
        )) from error  # fmt: skip
    model = DiscreteBayesianNetwork()
    model.add_nodes_from(net.names)
    model.add_edges_from((net.names[p], net.names[c]) for p, c in net.dag.edges)
    for node, name in enumerate(net.names):
        parents = net.dag.parents[node]
        family = (node, *parents)
        model.add_cpds(TabularCPD(
            name, net.sizes[node], net.tables[node].reshape(net.sizes[node], -1),
            evidence=[net.names[p] for p in parents] or None,
            evidence_card=[net.sizes[p] for p in parents] or None,
            state_names={net.names[n]: list(net.levels[n]) for n in family},
        ))  # fmt: skip
    return model


def from_pgmpy(model: Any) -> NetworkTables:
    """The network of a ``pgmpy.models.DiscreteBayesianNetwork``; state names become levels.

    Names are turned into strings, levels stay as they are.

    Raises
    ------
    SchemaError
        If a variable has no table, or tables name different states of a variable.
    NotSupported
        If it is another kind of model, or a distribution is no table.
    """
    if not (hasattr(model, "get_cpds") and hasattr(model, "nodes")):
        raise NotSupported(message(
            type(model).__name__, "a pgmpy DiscreteBayesianNetwork", "convert it first"
        ))  # fmt: skip
    names = list(model.nodes)
    found = {name: model.get_cpds(name) for name in names}
    for name, own in found.items():
        if own is None:
            raise SchemaError(message(
                f"no table of {name!r}", "one for each variable", "add it with add_cpds"
            ))  # fmt: skip
        if not (hasattr(own, "values") and hasattr(own, "state_names")):
            raise NotSupported(message(
                f"{type(own).__name__} of {name!r}", "a TabularCPD", "turn it into a table"
            ))  # fmt: skip
    levels = {name: tuple(found[name].state_names[name]) for name in names}
    tables = [_reordered(name, own, levels) for name, own in found.items()]
    dag = graph_of(names, [list(found[name].variables[1:]) for name in names])
    return NetworkTables(
        tuple(str(name) for name in names), tuple(levels.values()), dag, tuple(tables)
    )


def _reordered(name: Hashable, own: Any, levels: dict[Hashable, tuple[Hashable, ...]]) -> Any:
    """The table with the levels of the parents in the order that those have themselves."""
    table = np.asarray(own.values, dtype=np.float64)
    for axis, variable in enumerate(own.variables):
        stated = tuple(own.state_names[variable])
        if variable not in levels or set(stated) != set(levels[variable]):
            raise SchemaError(message(
                f"states {list(stated)} of {variable!r} in the table of {name!r}",
                f"the states {list(levels.get(variable, ()))}", "make the tables agree",
            ))  # fmt: skip
        table = np.take(table, [stated.index(level) for level in levels[variable]], axis=axis)
    return table
