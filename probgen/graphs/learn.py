"""One entry to structure learning: from rows to a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probgen.errors import SchemaError, message
from probgen.graphs.constraints import Constraints
from probgen.graphs.dag import Dag
from probgen.graphs.nodes import NodeRows
from probgen.graphs.orders import exact, order_search
from probgen.graphs.pc import pc
from probgen.graphs.scores import SCORES, Scorer
from probgen.graphs.search import hill_climb
from probgen.graphs.trees import chow_liu, tan

__all__ = ["METHODS", "best_ess", "learn"]

METHODS = ("auto", "hill", "exact", "orders", "chow-liu", "tan", "pc")
#: Equivalent sample sizes to choose from, in rows.
ESS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
#: Nodes up to which "auto" searches exactly, and by orders.
FEW, MANY = 9, 64
#: Restarts of "hill" up to MANY nodes; beyond, one climb takes minutes where rows are many.
RESTARTS = 20


def learn(
    rows: NodeRows,
    method: str = "auto",
    score: str = "auto",
    *,
    constraints: Constraints | None = None,
    rng: np.random.Generator | None = None,
    ess: float | None = None,
    edges: float | None = 0.5,
    logistic: bool = False,
    start: Dag | None = None,
    root: int | None = None,
    **settings: Any,
) -> Dag:
    """Learn a directed acyclic graph from rows.

    Parameters
    ----------
    rows : NodeRows
    method : {"auto", "hill", "exact", "orders", "chow-liu", "tan", "pc"}
        "hill": greedy hill climbing with tabu and restarts. "orders": order-based search from
        its result. "exact": dynamic programming, at most 18 nodes. "chow-liu": the tree of the
        largest mutual information. "tan": tree-augmented naive Bayes with the class `root`.
        "pc": independence tests. "auto": "exact" up to 9 nodes, "orders" up to 64, else
        "hill"; `benchmarks/structure_learning.py` chose.
    score : {"auto", "bic", "bdeu", "bge", "cg", "additive"}
        Of the graphs, see `Scorer`. "auto": "bdeu" of discrete nodes, "cg" of mixed ones, and
        "additive" where all are normal: on mixed tables the model's own marginal likelihood gave
        the higher held-out density (`benchmarks/network_fits.py --what settings`), on tables of
        numbers the additive score finds directions (`benchmarks/structure_continuous.py`).
    constraints : Constraints, optional
        Not for "chow-liu" and "tan".
    rng : numpy Generator, optional
        Seed 0 by default.
    ess : float, optional
        Equivalent sample size of BDeu in rows; None for that of the most evidence.
    edges : float, optional
        Expected edges a node of the prior over graphs; None for a uniform prior.
        `benchmarks/structure_learning.py --settings` chose 0.5, with little between 0.5 and 1.
    logistic : bool
        Discrete nodes may have normal parents.
    start : Dag, optional
        Where "hill" and "orders" begin.
    root : int, optional
        The class of "tan", and the root of "chow-liu".
    **settings
        Of the method: see `hill_climb`, `order_search`, `exact`, `chow_liu`, `tan`, `pc`.

    Returns
    -------
    Dag

    Notes
    -----
    The nodes are brought into an order that depends on their values alone, so that the result
    does not depend on the order of the columns except where columns are copies.

    Raises
    ------
    SchemaError
        If a setting is unknown, or the constraints contradict each other.
    NotSupported
        If the method cannot deal with so many nodes or these kinds.

    Examples
    --------
    >>> codes = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]] * 5)
    >>> rows = NodeRows(codes, np.full(codes.shape, np.nan), (2, 2, 2), np.ones(20))
    >>> learn(rows).edges
    ((1, 0),)
    """
    if method not in METHODS:
        raise SchemaError(message(
            f"method={method!r}", f"one of {list(METHODS)}", "choose one of them"
        ))  # fmt: skip
    constraints = constraints or Constraints()
    constraints.allowed(rows.nodes)  # refuse contradictions in the caller's numbers
    rng = rng if rng is not None else np.random.default_rng(0)
    order = _canonical(rows)
    place = {node: i for i, node in enumerate(order)}
    sorted_rows = _reordered(rows, order)
    known = _renamed(constraints, place)
    begin = None if start is None else _moved(start, place)
    if method == "auto":
        method = "exact" if rows.nodes <= FEW else "orders" if rows.nodes <= MANY else "hill"
    if method in ("chow-liu", "tan"):
        tree = _tree(sorted_rows, method, None if root is None else place[root], known, settings)
        return _moved(tree, dict(enumerate(order)))
    if method == "pc":
        found = pc(sorted_rows, constraints=known, logistic=logistic, **settings)
        return _moved(found, dict(enumerate(order)))
    chosen = best_ess(sorted_rows, score, known, logistic, edges) if ess is None else ess
    scorer = Scorer(sorted_rows, score, ess=chosen, logistic=logistic, edges=edges)
    if method == "exact":
        found = exact(scorer, known, **settings)
    elif method == "orders":
        found = order_search(scorer, known, start=begin, rng=rng, **settings)
    else:
        often = {"restarts": RESTARTS if rows.nodes <= MANY else 0}
        found = hill_climb(scorer, known, start=begin, rng=rng, **often | settings)
    return _moved(found, dict(enumerate(order)))


def _tree(
    rows: NodeRows, method: str, root: int | None, known: Constraints, settings: dict[str, Any]
) -> Dag:
    if known != Constraints():
        raise SchemaError(message(
            f"constraints and method={method!r}", "a method that can keep them",
            "use 'hill', 'exact' or 'orders'",
        ))  # fmt: skip
    if method == "chow-liu":
        return chow_liu(rows, root=root, **settings)
    if root is None:
        raise SchemaError(message(
            "method='tan' without a class", "root=, the number of the class", "pass root"
        ))  # fmt: skip
    return tan(rows, root, **settings)


def best_ess(
    rows: NodeRows, score: str, constraints: Constraints, logistic: bool, edges: float | None
) -> float:
    """Equivalent sample size whose best graph by hill climbing has the most evidence, in rows."""
    best, found = 1.0, -np.inf
    if score not in ("auto", *SCORES) or not any(rows.sizes) or score == "bic":
        return best
    for ess in ESS:
        scorer = Scorer(rows, score, ess=ess, logistic=logistic, edges=edges)
        now = scorer.graph(hill_climb(scorer, constraints))
        if now < found:
            break
        best, found = ess, now
    return best


def _canonical(rows: NodeRows) -> list[int]:
    """The nodes by size and by what their values are, whatever the order of the columns."""
    keys = []
    for node, size in enumerate(rows.sizes):
        if size:
            seen = rows.codes[:, node] >= 0
            counts = np.bincount(rows.codes[seen, node], rows.weight[seen], minlength=size)
            own = tuple(sorted(counts.tolist()))
        else:
            own = (float(f"{np.nansum(rows.weight * rows.values[:, node] ** 4):.9g}"),)
        keys.append((size, own))
    # equal counts: by the rows in which the states first occur, whatever their numbers
    tied = [
        _pattern(rows.codes[:, i]) if keys.count(key) > 1 else b"" for i, key in enumerate(keys)
    ]
    return sorted(range(rows.nodes), key=lambda i: (*keys[i], tied[i]))


def _pattern(codes: NDArray[np.int64]) -> bytes:
    """The column with its states renumbered as they occur."""
    _, first, place = np.unique(codes, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[place.reshape(-1)].tobytes()


def _reordered(rows: NodeRows, order: list[int]) -> NodeRows:
    sizes = tuple(rows.sizes[i] for i in order)
    return NodeRows(rows.codes[:, order], rows.values[:, order], sizes, rows.weight)


def _renamed(constraints: Constraints, place: dict[int, int]) -> Constraints:
    return Constraints(
        frozenset((place[p], place[c]) for p, c in constraints.required),
        frozenset((place[p], place[c]) for p, c in constraints.forbidden),
        tuple(tuple(place[i] for i in tier) for tier in constraints.tiers),
        constraints.max_parents,
    )


def _moved(graph: Dag, place: dict[int, int]) -> Dag:
    return Dag.of(len(graph), [(place[p], place[c]) for p, c in graph.edges])
