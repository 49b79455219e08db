"""Networks from and to files and other packages, and as text and tables to read."""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from probgen import cells
from probgen.columns import Column
from probgen.errors import NotSupported, message
from probgen.estimators.imagined import Imagined
from probgen.exchange.bif import read_bif, write_bif
from probgen.exchange.describe import Regression, describe
from probgen.exchange.graphs import from_networkx, from_pgmpy, to_networkx, to_pgmpy
from probgen.exchange.tables import NetworkTables
from probgen.exchange.xmlbif import read_xmlbif, write_xmlbif
from probgen.families.bayesian_network import BayesianNetwork as Pair
from probgen.nodes.naming import state_names
from probgen.nodes.network import Network
from probgen.schema import Schema
from probgen.training import FitResult

__all__ = ["Exchanged"]

Path = str | os.PathLike[str]


@dataclass(eq=False, repr=False, kw_only=True)
class Exchanged(Imagined):
    """A network that can be read, written and shown.

    A network that is read has the tables of its file, which are taken as known: it answers every
    verb without a fit, and gives no intervals.
    """

    # --- from elsewhere -------------------------------------------------------------------

    @classmethod
    def from_tables(cls, tables: NetworkTables) -> Self:
        """The network of given tables."""
        columns = tuple(
            Column(
                name, "category", cells.dtype_name(pd.Series(list(levels))), levels=levels,
                why="given with its table",
            )
            for name, levels in zip(tables.names, tables.levels, strict=True)
        )  # fmt: skip
        schema = Schema(columns)
        found = cls(random_state=0)
        member = found._make(schema)
        assert isinstance(member, Pair)  # noqa: S101 - made by this estimator
        member.network.set_tables(
            tables.dag, [torch.from_numpy(np.array(table)) for table in tables.tables]
        )
        result = FitResult(converged=True, reason="tables were given", engine="none")
        found._install(schema, [(member.eval(), result)])
        found.calibration_, found.seed_ = None, 0
        found.n_features_in_ = len(columns)
        found.feature_names_in_ = np.array(tables.names, dtype=object)
        return found

    @classmethod
    def from_bif(cls, path: Path) -> Self:
        """The network of a BIF file, also one compressed by gzip.

        Raises
        ------
        SchemaError
            If the text is no such network; the message names the line.
        """
        return cls.from_tables(read_bif(path))

    @classmethod
    def from_xmlbif(cls, path: Path) -> Self:
        """The network of an XMLBIF file."""
        return cls.from_tables(read_xmlbif(path))

    @classmethod
    def from_networkx(cls, graph: Any) -> Self:
        """The network of a networkx `DiGraph` whose nodes carry `levels` and `table`."""
        return cls.from_tables(from_networkx(graph))

    @classmethod
    def from_pgmpy(cls, model: Any) -> Self:
        """The network of a pgmpy `DiscreteBayesianNetwork`."""
        return cls.from_tables(from_pgmpy(model))

    # --- to elsewhere ---------------------------------------------------------------------

    def to_tables(self) -> NetworkTables:
        """The graph, levels and tables (posterior means; of the first restart).

        Raises
        ------
        NotSupported
            If a column is not discrete: the formats hold tables only.
        """
        network = self._network
        odd = [s.name for s in network.slots if s.kind != "category"]
        if odd:
            raise NotSupported(message(
                f"the columns {odd}, which are numbers", "columns of levels, which have tables",
                "leave these columns out of the fit, or use save and load",
            ))  # fmt: skip
        names = tuple(self.node_names_)
        return NetworkTables(names, self._levels(), self.graph_, tuple(self._tables()))

    def to_bif(self, path: Path) -> None:
        """Write the network as BIF; reading it again gives the same tables."""
        write_bif(self.to_tables(), path)

    def to_xmlbif(self, path: Path) -> None:
        """Write the network as XMLBIF."""
        write_xmlbif(self.to_tables(), path)

    def to_networkx(self) -> Any:
        """A networkx `DiGraph` over the nodes, with their levels and tables where these exist."""
        if all(slot.kind == "category" for slot in self._network.slots):
            return to_networkx(self.node_names_, self.graph_, self.to_tables())
        return to_networkx(self.node_names_, self.graph_)

    def to_pgmpy(self) -> Any:
        """A pgmpy `DiscreteBayesianNetwork` (needs ``probgen[bn]``)."""
        return to_pgmpy(self.to_tables())

    # --- to read --------------------------------------------------------------------------

    @property
    def edges_(self) -> pd.DataFrame:
        """One row an edge: parent, child and, of several restarts, its probability.

        The graph is that of the first restart; the probability is the share of all restarts
        that have the edge.
        """
        names, share = self.node_names_, self.edge_probabilities_
        rows = [
            (names[p], names[c], None if share is None else share.iloc[p, c])
            for p, c in self.graph_.edges
        ]
        found = pd.DataFrame(rows, columns=["parent", "child", "probability"])
        return found if share is not None else found.drop(columns="probability")

    @property
    def edge_probabilities_(self) -> pd.DataFrame | None:
        """Share of the restarts with an edge from row to column; None of a single one."""
        if len(self.members_) < 2:
            return None
        graphs = [m.network.layout.dag for m in self.members_ if isinstance(m, Pair)]
        share = np.mean([graph.adjacency for graph in graphs], axis=0)
        return pd.DataFrame(share, index=self.node_names_, columns=self.node_names_)

    def describe(self, limit: int = 12) -> str:
        """The network as text: every node with its parents, its table or its lines.

        Tables are posterior means; lines hold in table units, of the logarithm of positive
        columns and the log odds of bounded ones (of the first restart). Of a discrete node with
        normal parents the probabilities are those at the parents' means.
        """
        shown = [_shown(self.schema_.columns[s.column], s.name) for s in self._network.slots]
        return describe(shown, self._levels(), self.graph_, self._tables(), limit)

    def table(self, column: Hashable) -> pd.DataFrame:
        """The conditional table of a node: a row a configuration of its discrete parents.

        Of a discrete node a column a level; of a normal one the level of its line, a coefficient
        for each normal parent, and the standard deviation, as in `describe`.
        """
        [node] = self._nodes(column)
        layout, names, levels = self._network.layout, self.node_names_, self._levels()
        own = self._tables()[node]
        parents = layout.labels[node]
        if isinstance(own, Regression):
            inputs = [names[p] for p in layout.inputs[node]]
            parts = [own.intercept[..., None], own.coefficients, own.sd[..., None]]
            values = np.concatenate(parts, -1).reshape(-1, len(inputs) + 2)
            head: list[Hashable] = ["level", *inputs, "sd"]
        else:
            values, head = own.reshape(len(own), -1).T, list(levels[node])
        found = pd.DataFrame(values, columns=pd.Index(head))
        if len(parents) == 1:
            found.index = pd.Index(levels[parents[0]], name=names[parents[0]])
        elif parents:
            found.index = pd.MultiIndex.from_product(
                [levels[p] for p in parents], names=[names[p] for p in parents]
            )
        return found

    def _levels(self) -> tuple[tuple[Hashable, ...], ...]:
        """Labels of the states of each node, by code; none of a normal one."""
        network = self._network
        return tuple(state_names(network, self.schema_, i) for i in range(len(network.slots)))

    def _tables(self) -> list[Any]:
        """Tables of named states, and regressions in table units, by node."""
        check_is_fitted(self)
        network, layout = self._network, self._network.layout
        at, _ = network.predictive()
        named = [len(levels) for levels in self._levels()]
        found: list[Any] = []
        for i in range(len(layout)):
            keep = tuple(slice(named[v]) for v in layout.labels[i])
            if network.is_normal(i):
                found.append(self._line(network, i, keep))
                continue
            if i in layout.curved:
                found.append(self._at_means(network, i, keep))
                continue
            table = at.tables[i][(slice(named[i]), *keep)].cpu().numpy()
            found.append(table / table.sum(0))
        return found

    def _at_means(self, network: Network, node: int, keep: tuple[slice, ...]) -> Any:
        """Probabilities of a softmax node where its normal parents stand at their means."""
        layout, curve = network.layout, network.curve(node)
        r = torch.zeros(1, 1 + len(layout.inputs[node]), dtype=torch.float64)
        r[0, 0] = 1.0
        p = curve.predictive().log_probs(r.to(curve.weights.device))[0].exp().T
        p = p.reshape(len(p), *layout.shape(node))
        named = p[(slice(network.nameable.get(node)), *keep)]
        return (named / named.sum(0)).cpu().numpy()

    def _line(self, network: Network, node: int, keep: tuple[slice, ...]) -> Regression:
        """The regression of a node in table units, after the bijections of its columns."""
        line = network.regression(node).point()
        shape = network.layout.shape(node)
        b = line.coefficients.unflatten(0, shape)[keep] if shape else line.coefficients[0]
        precision = line.precision.unflatten(0, shape)[keep] if shape else line.precision[0]
        own = self.schema_.columns[network.slots[node].column]
        inputs = [
            self.schema_.columns[network.slots[p].column] for p in network.layout.inputs[node]
        ]
        slopes = [own.scale * b[..., 1 + k] / c.scale for k, c in enumerate(inputs)]
        level = own.loc + own.scale * b[..., 0]
        for slope, c in zip(slopes, inputs, strict=True):
            level = level - slope * c.loc
        stacked = torch.stack(slopes, -1) if slopes else b[..., :0]
        sd = own.scale * precision.rsqrt()
        return Regression(level.cpu().numpy(), stacked.cpu().numpy(), sd.cpu().numpy())


def _shown(column: Column, name: str) -> str:
    """The name of a node, with the bijection that its lines are about."""
    if column.kind == "positive" and name == str(column.name):
        return f"log({name})"
    if column.kind in ("unit", "bounded") and name == str(column.name):
        return f"logit({name})"
    return name
