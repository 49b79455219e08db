"""A discrete network with its tables, as files and other packages hold it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from probgen.errors import SchemaError, closest, message
from probgen.graphs.dag import Dag

__all__ = ["NetworkTables", "graph_of"]

Table = NDArray[np.float64]

#: by how much a distribution in a file may miss one: some are printed to seven digits
TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class NetworkTables:
    """A Bayesian network of discrete variables: graph, levels and conditional tables.

    Parameters
    ----------
    names : tuple of str
        The variables; their places are the numbers of the nodes.
    levels : tuple of tuples
        The levels of each variable, mostly strings.
    dag : Dag
        Its parents are in the order of the axes of the tables.
    tables : tuple of arrays
        Table i has an axis for its own levels, along which it sums to one, then one for each
        of its parents.
        Sums that miss one by up to 1e-5 are mended: the stored tables are float64 and
        normalised.

    Raises
    ------
    SchemaError
        If names or levels are repeated, or a table has a wrong shape, a value that is no
        probability, or a distribution that does not sum to one.

    Examples
    --------
    >>> net = NetworkTables(
    ...     ("rain", "wet"),
    ...     (("yes", "no"), ("yes", "no")),
    ...     Dag.of(2, [(0, 1)]),
    ...     (np.array([0.2, 0.8]), np.array([[0.9, 0.1], [0.1, 0.9]])),
    ... )
    >>> net.sizes
    (2, 2)
    """

    names: tuple[str, ...]
    levels: tuple[tuple[Hashable, ...], ...]
    dag: Dag
    tables: tuple[Table, ...]

    def __post_init__(self) -> None:
        nodes = len(self.names)
        if not nodes == len(self.levels) == len(self.dag) == len(self.tables):
            raise SchemaError(message(
                f"{nodes} names, {len(self.levels)} sets of levels, {len(self.dag)} nodes and "
                f"{len(self.tables)} tables", "one of each a variable", "pass as many of each",
            ))  # fmt: skip
        _all_different("names of variables", self.names)
        for name, levels in zip(self.names, self.levels, strict=True):
            _all_different(f"levels of {name!r}", levels)
        found = tuple(self._normalised(i) for i in range(nodes))
        object.__setattr__(self, "tables", found)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of levels of each variable."""
        return tuple(len(levels) for levels in self.levels)

    def _normalised(self, node: int) -> Table:
        name, sizes = self.names[node], self.sizes
        table = np.asarray(self.tables[node], dtype=np.float64)
        shape = (sizes[node], *(sizes[p] for p in self.dag.parents[node]))
        if table.shape != shape:
            raise SchemaError(message(
                f"a table of shape {table.shape} for {name!r}",
                f"shape {shape}: the levels of {name!r}, then those of its parents",
                "correct the table",
            ))  # fmt: skip
        if not (table >= 0).all() or not np.isfinite(table).all():
            bad = table[~((table >= 0) & np.isfinite(table))][0]
            raise SchemaError(message(
                f"{bad} in the table of {name!r}", "probabilities", "correct the table"
            ))  # fmt: skip
        total = table.sum(0)
        if (np.abs(total - 1) > TOLERANCE).any():
            place = np.unravel_index(int(np.abs(total - 1).argmax()), total.shape)
            raise SchemaError(message(
                f"a sum of {total[place]:.8g} for {name!r}{self._given(node, place)}",
                f"1, to within {TOLERANCE:g}", "correct the table",
            ))  # fmt: skip
        # what is one but for rounding stays as it is: reading what was written changes no bit
        rounded = np.abs(total - 1) <= 2 * sizes[node] * np.finfo(np.float64).eps
        return np.array(table / np.where(rounded, 1.0, total))

    def _given(self, node: int, place: Sequence[np.intp]) -> str:
        """The configuration of the parents at that place, as words."""
        own = zip(self.dag.parents[node], place, strict=True)
        words = [f"{self.names[p]}={self.levels[p][int(at)]}" for p, at in own]
        return f" given {', '.join(words)}" if words else ""

    def configurations(self, node: int) -> list[tuple[Hashable, ...]]:
        """Levels of the parents of a node, all combinations, the last parent fastest."""
        return list(product(*(self.levels[p] for p in self.dag.parents[node])))


def _all_different(what: str, values: Sequence[Hashable]) -> None:
    if len(set(values)) < len(values) or not values:
        twice = [value for value in dict.fromkeys(values) if list(values).count(value) > 1]
        raise SchemaError(message(
            f"{what} {twice or 'without any'}", "at least one, and all different", "rename them"
        ))  # fmt: skip


def graph_of(names: Sequence[Hashable], parents: Sequence[Sequence[Hashable]]) -> Dag:
    """The graph of named nodes whose parents are given by name, in that order.

    Raises
    ------
    SchemaError
        If a parent is unknown or repeated, or there is a directed cycle.

    Examples
    --------
    >>> graph_of(["a", "b", "c"], [["c", "b"], [], []]).parents
    ((2, 1), (), ())
    """
    number = {name: i for i, name in enumerate(names)}
    for name, own in zip(names, parents, strict=True):
        for parent in own:
            if parent not in number or parent == name:
                raise SchemaError(message(
                    f"a parent {parent!r} of {name!r}",
                    f"another variable of the network: {closest(parent, names)}",
                    "correct its name",
                ))  # fmt: skip
        if len(set(own)) < len(own):
            raise SchemaError(message(
                f"parents {list(own)} of {name!r}", "each once", "drop the repeated one"
            ))  # fmt: skip
    _no_cycle(names, parents)
    return Dag(tuple(tuple(number[p] for p in own) for own in parents))


def _no_cycle(names: Sequence[Hashable], parents: Sequence[Sequence[Hashable]]) -> None:
    """A cycle is told by the names that the user knows."""
    above = {name: set(own) for name, own in zip(names, parents, strict=True)}
    while above:
        below = set().union(*above.values())
        # neither what has no parent left nor what has no child left is part of a cycle
        kept = {name for name, own in above.items() if own and name in below}
        if len(kept) == len(above):
            raise SchemaError(message(
                f"a directed cycle among {[name for name in names if name in kept]}",
                "a graph without cycles", "remove or turn an edge",
            ))  # fmt: skip
        above = {name: own & kept for name, own in above.items() if name in kept}
