"""The estimator of Bayesian networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import networkx
import numpy as np
import torch

from probgen.batch import Batch
from probgen.density import Fits
from probgen.door import check_settings
from probgen.errors import SchemaError, message
from probgen.estimators.causes import node_number
from probgen.estimators.interchange import Exchanged
from probgen.families.bayesian_network import BayesianNetwork as Pair
from probgen.family import Family
from probgen.fitting import fit_starts
from probgen.graphs.constraints import Constraints, allowed_edges
from probgen.graphs.dag import Dag
from probgen.graphs.edges import bootstrap_graphs
from probgen.graphs.equivalence import random_equivalent
from probgen.graphs.learn import METHODS, learn
from probgen.graphs.nodes import NodeRows
from probgen.graphs.order_mcmc import order_mcmc
from probgen.graphs.scores import SCORES, Scorer
from probgen.nodes.learning import Learner
from probgen.schema import Schema
from probgen.session import spawn_seeds
from probgen.table import Encoded
from probgen.training import Training

__all__ = ["BayesianNetwork"]

Edge = tuple[Hashable, Hashable]
#: draws over which rows without a closed form are averaged, shared out among the restarts
SPREAD, LEAST = 256, 32
#: where the graphs of further restarts come from
Graphs = Literal["half", "plain", "bayesian", "orders"]


@dataclass(eq=False, repr=False)
class BayesianNetwork(Exchanged):
    """A Bayesian network: each column given its parents in a graph that is learned or given.

    Categories, ordered levels, booleans and counts are discrete nodes, with a probability of each
    level in every configuration of the parents. Real columns (positive, bounded ones and dates by
    their bijection) are normal nodes, with a linear regression on the normal parents in every
    configuration of the discrete ones (conditional linear Gaussian). A normal node is a parent
    of a discrete one only on request (`logistic`). All other parameters have conjugate priors
    and are integrated out of every answer.

    Holes are integrated out in the fit and in every verb, whole columns of them included. Every
    verb takes ``do={...}``, which asks the network after an intervention; `effect`,
    `adjustment_sets`, `d_separated` and `markov_blanket` ask of causes. What these answers
    rest on is on the page "Causes" of the documentation.

    Parameters
    ----------
    structure : str or sequence of (parent, child)
        The edges of a graph that is known, by column names, or how to learn one: "auto",
        "hill" (hill climbing with tabu and restarts), "orders" (order-based search), "exact"
        (at most 18 nodes), "chow-liu" (a tree), "tan" (tree-augmented naive Bayes around
        `root`) or "pc" (independence tests). "auto" is "exact" up to 9 nodes, "orders" up to
        64 and "hill" beyond (benchmarks/structure_learning.py compares).
    criterion : {"auto", "bic", "bdeu", "bge", "cg", "additive"}
        Score of a graph: Bayesian information criterion, or the log evidence of discrete
        nodes ("bdeu"), of normal ones ("bge"), of both ("cg"). "additive" scores normal nodes
        by smooth curves with normal or Laplace noise, which can tell directions that lines
        with normal noise cannot. "auto" is "additive" where all columns are numbers, else the
        log evidence.
    required, forbidden : sequence of (parent, child)
        Edges that a learned graph must and must not have.
    tiers : sequence of sequences of column names
        Groups in the order of time: no edge leads from a later group to an earlier one.
        Columns in no group are free.
    max_parents : int, optional
        Most parents of a node.
    root : column name, optional
        The class of "tan", and the root of "chow-liu".
    sample_size : float, optional
        Equivalent sample size: how many rows the prior of a table stands for, shared out over
        its cells. None takes the power of two of the highest evidence.
    strength : float
        How many rows the prior of a regression stands for. It is centred on the regression
        of all configurations together.
    dof : float
        How many rows the prior of its variance stands for.
    groups : int
        Most states of a count: groups of neighbouring values, with a density inside each. These
        three were compared on mixed tables (benchmarks/network_fits.py --what settings).
    bins : int, optional
        Cuts real columns into as many groups at most, which makes them discrete nodes.
    logistic : bool
        Whether a learned graph may lead from normal nodes to discrete ones, which then have a
        softmax regression in each configuration. A given graph may in any case. Where such a
        parent is unseen there is no exact answer.
    approximate : bool
        Importance sampling, with its error, of rows that have no exact answer: those with an
        unseen normal parent of a discrete node, and those whose sum would take more memory
        than 2 GiB a row. Otherwise an error says why, and what it would take.
    graphs : {"plain", "half", "bayesian", "orders"}
        Where the graphs of all `restarts` but the first come from; their parameters are
        fitted to all rows. "plain" learns each from a bootstrap sample of the rows, "half" from
        half of them, "bayesian" from all under random weights
        (benchmarks/structure_learning.py compares). "orders" draws from the posterior of
        graphs, by a Markov chain over orders of the columns. Edges without a direction of
        their own (see Notes) get a random one, where the score cannot tell directions.

    Other parameters are those of `Density`.

    Attributes
    ----------
    graph_ : Dag
        The graph of the first restart, over nodes by number: ``edges``, ``parents``, ...
    node_names_ : list of str
        Nodes by number: the columns. A column with atoms is two nodes: ``name[atom]`` (which
        atom, or none) and ``name`` (the number where there is none).
    node_kinds_ : list of {"discrete", "normal"}
    edges_ : data frame
        ``parent``, ``child`` and, of several restarts, ``probability``.
    edge_probabilities_ : data frame or None
        Share of the restarts with an edge from row to column.

    Notes
    -----
    Whole numbers are taken as counts, hence as discrete nodes that no real column can point
    to. Numbers that are measured and rounded (an age, a blood pressure) are better declared
    real: ``columns={"age": "real"}``.

    A learned graph is one of a class of graphs that fit equally well and differ in directions;
    `tiers`, `required` and `forbidden` are the place of what else is known.

    References
    ----------
    Koller and Friedman (2009), Probabilistic Graphical Models, MIT Press.
    Heckerman, Geiger and Chickering (1995), Learning Bayesian networks: the combination of
    knowledge and statistical data, Machine Learning 20.
    Lauritzen (1992), Propagation of probabilities, means and variances in mixed graphical
    association models, JASA 87.
    Friedman, Goldszmidt and Wyner (1999), Data analysis with Bayesian networks: a bootstrap
    approach, UAI. Friedman and Koller (2003), Being Bayesian about network structure, Machine
    Learning 50.

    Examples
    --------
    >>> import pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> rain = rng.random(500) < 0.3
    >>> sprinkler = rng.random(500) < np.where(rain, 0.05, 0.5)
    >>> wet = (rain | sprinkler) & (rng.random(500) < 0.9)
    >>> table = pd.DataFrame({"rain": rain, "sprinkler": sprinkler, "wet": wet})
    >>> known = [["rain"], ["sprinkler"], ["wet"]]
    >>> model = BayesianNetwork(tiers=known, random_state=0).fit(table)
    >>> model.edges_.to_numpy().tolist()
    [['rain', 'sprinkler'], ['rain', 'wet'], ['sprinkler', 'wet']]
    >>> float(model.prob("rain", given={"wet": True})) > float(model.prob("rain"))
    True
    >>> float(model.prob("rain", do={"wet": True})) == float(model.prob("rain"))
    True
    """

    structure: str | Sequence[Edge] = "auto"
    criterion: str = "auto"
    required: Sequence[Edge] = ()
    forbidden: Sequence[Edge] = ()
    tiers: Sequence[Sequence[Hashable]] = ()
    max_parents: int | None = None
    root: Hashable | None = None
    sample_size: float | None = None
    strength: float = 1.0
    dof: float = 3.0
    groups: int = 8
    bins: int | None = None
    logistic: bool = False
    approximate: bool = False
    graphs: Graphs = "plain"

    family: ClassVar[type[Family]] = Pair

    def _make(self, schema: Schema) -> Family:
        names = _Names(schema)
        learner: Dag | Learner
        if isinstance(self.structure, str):
            learner = partial(
                learned_graph, method=self.structure, score=self.criterion,
                root=names.root(self.root), constraints=self._constraints(names),
                logistic=self.logistic,
            )  # fmt: skip
        else:
            learner = names.dag(self.structure)
        return Pair(
            schema, learner, self.sample_size, self.strength, self.dof, self.groups,
            bins=self.bins, draws=self.draws, approximate=self.approximate,
            spread=max(LEAST, SPREAD // self.restarts),
            symmetric=self.criterion in ("auto", "additive"),
        )  # fmt: skip

    def _constraints(self, names: _Names) -> Constraints:
        forbidden = frozenset(names.edge(edge) for edge in self.forbidden)
        if self.structure not in ("chow-liu", "tan"):  # trees take no constraints
            forbidden |= names.impossible()
        return names.check(Constraints(
            frozenset(names.edge(edge) for edge in self.required),
            forbidden,
            tuple(tuple(names.number(name) for name in tier) for tier in self.tiers),
            self.max_parents,
        ))  # fmt: skip

    def _fits(
        self, make: Callable[[], Family], batch: Batch, training: Training, held: Batch | None
    ) -> Fits:
        """The fit to all rows, then fits of them to graphs that resampled rows suggest."""
        found = fit_starts(make, batch, replace(training, restarts=1), held)
        first = found[0][0]
        if training.restarts == 1 or found[0][1].reason == "interrupted":
            return found
        assert isinstance(first, Pair)  # noqa: S101 - made by this estimator
        seeds = spawn_seeds([training.random_state or 0, 4], training.restarts)
        graphs = self._graphs(first, batch, training.restarts - 1, seeds[0])
        for graph, seed in zip(graphs, seeds[1:], strict=True):

            def over(graph: Dag = graph) -> Family:
                family = make()
                assert isinstance(family, Pair)  # noqa: S101 - made by this estimator
                family.learner = graph
                family.network.values = copy.deepcopy(first.network.values)
                return family

            own = replace(training, random_state=seed, restarts=1, checkpoint=None)
            found += fit_starts(over, batch, own, held)
        members = [family for family, _ in found if isinstance(family, Pair)]
        if len({member.network.layout.dag for member in members}) > 1:
            for member in members:
                member.network.one_of_many = torch.ones_like(member.network.one_of_many)
        return found

    def _graphs(self, first: Pair, batch: Batch, count: int, seed: int) -> Sequence[Dag]:
        """Graphs of further restarts."""
        if not isinstance(self.structure, str):
            return [first.network.layout.dag] * count
        rng = np.random.default_rng(seed)
        rows = first.node_rows(batch)
        names = _Names(first.schema)
        known = self._constraints(names)
        if self.graphs == "orders":
            return order_mcmc(
                Scorer(rows, self._marginal, logistic=self.logistic), known, draws=count, rng=rng
            )
        learner = partial(
            learned_graph, rng=rng, method=self.structure, score=self.criterion,
            constraints=known, logistic=self.logistic, root=names.root(self.root),
        )  # fmt: skip
        graphs = bootstrap_graphs(rows, learner, count, rng, self.graphs)
        scored = self.structure not in ("chow-liu", "pc")
        additive = self.criterion == "additive" or (
            self.criterion == "auto" and not any(rows.sizes)
        )
        if scored and (additive or self.logistic or self.structure == "tan"):
            return graphs  # their directions are found, or those of a class that is given
        # which graph of a class a score finds is chance, and must not look like knowledge
        allowed = allowed_edges(rows, known, self.logistic)
        return [random_equivalent(graph, rng, allowed) for graph in graphs]

    @property
    def _marginal(self) -> str:
        """The marginal likelihood that goes with the criterion."""
        return self.criterion if self.criterion in ("bdeu", "bge", "cg") else "cg"

    def _check(self, encoded: Encoded) -> None:
        check_settings(self, strength=0.0, groups=1, graphs=get_args(Graphs))
        check_settings(self, dof=0.0, criterion=("auto", *SCORES))
        if isinstance(self.structure, str):
            check_settings(self, structure=METHODS)
            if self.structure == "tan" and self.root is None:
                raise SchemaError(message(
                    'structure="tan" without root', "the name of the class", "pass root="
                ))  # fmt: skip
        for name in ("sample_size", "max_parents", "bins"):
            if getattr(self, name) is not None:
                check_settings(self, **{name: 0.0 if name == "sample_size" else 1})


class _Names:
    """Nodes by the names of columns; a column with atoms is two nodes."""

    def __init__(self, schema: Schema) -> None:
        self.slots = schema.slots
        self.names = [slot.name for slot in schema.slots]

    def number(self, name: Hashable) -> int:
        """The node of a name."""
        return node_number(self.names, name)

    def edge(self, edge: Edge) -> tuple[int, int]:
        """The numbers of an edge (parent, child)."""
        if isinstance(edge, str) or len(tuple(edge)) != 2:
            raise SchemaError(
                message(f"the edge {edge!r}", "a pair (parent, child)", "correct it")
            )
        parent, child = edge
        return self.number(parent), self.number(child)

    def root(self, name: Hashable | None) -> int | None:
        """The class of a tree-augmented network."""
        return None if name is None else self.number(name)

    def dag(self, edges: Sequence[Edge]) -> Dag:
        """The graph of given edges."""
        pairs = [self.edge(edge) for edge in edges]
        try:
            return Dag.of(len(self.slots), pairs)
        except SchemaError as error:
            graph = networkx.DiGraph(pairs)
            cycle = [repr(self.names[parent]) for parent, _ in networkx.find_cycle(graph)]
            raise SchemaError(message(
                f"edges in a circle: {' -> '.join([*cycle, cycle[0]])}", "a graph without cycles",
                "remove or turn one of these edges",
            )) from error  # fmt: skip

    def check(self, constraints: Constraints) -> Constraints:
        """The same constraints, if they can hold together."""
        free = replace(constraints, required=frozenset()).allowed(len(self.slots))
        lost = [edge for edge in sorted(constraints.required) if not free[edge]]
        if lost:
            shown = [f"{self.names[a]!r} -> {self.names[b]!r}" for a, b in lost]
            raise SchemaError(message(
                f"required edges {', '.join(shown)} that are forbidden, by themselves, by the "
                "tiers or as edges from a number beside atoms", "constraints that can all hold",
                "drop one of them",
            ))  # fmt: skip
        self.dag([(self.names[a], self.names[b]) for a, b in sorted(constraints.required)])
        return constraints

    def impossible(self) -> frozenset[tuple[int, int]]:
        """Edges from the number of a column with atoms: it is there only where no atom is held."""
        found = set()
        for i, slot in enumerate(self.slots):
            if i and slot.kind == "real" and self.slots[i - 1].column == slot.column:
                found |= {(i, j) for j in range(len(self.slots)) if j != i} | {(i - 1, i)}
        return frozenset(found)


def learned_graph(rows: NodeRows, rng: np.random.Generator, **settings: Any) -> Dag:
    """The graph that the rows speak for."""
    return learn(rows, rng=rng, **settings)
