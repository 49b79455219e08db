"""Posterior draws of graphs by a Markov chain over the orders of their nodes."""

from __future__ import annotations

import numpy as np

from probgen.errors import SchemaError, message
from probgen.graphs.constraints import Constraints
from probgen.graphs.dag import Dag
from probgen.graphs.orders import MOST_PARENTS, masks_of, order_search
from probgen.graphs.parent_sets import ParentSets, parent_sets
from probgen.graphs.scores import Scorer

__all__ = ["MOST_COUNTED", "linear_extensions", "order_mcmc"]

#: Nodes up to which the orders of a graph are counted.
MOST_COUNTED = 14


def order_mcmc(
    scorer: Scorer,
    constraints: Constraints | None = None,
    *,
    draws: int = 100,
    thin: int | None = None,
    burn: int | None = None,
    candidates: int = 10,
    most: int = MOST_PARENTS,
    start: Dag | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[Dag, ...]:
    """Draws from the posterior of graphs, by Metropolis steps over orders.

    The probability of an order sums over all graphs that agree with it, node by node; given an
    order the parents of each node are drawn independently (Friedman and Koller 2003, Being
    Bayesian about network structure, Machine Learning 50). A step exchanges two nodes or moves
    one.

    Parameters
    ----------
    scorer : Scorer
        Of a marginal likelihood, with its prior over graphs.
    constraints : Constraints, optional
    draws : int
        At least 1.
    thin, burn : int, optional
        Steps between draws, and before the first: 10 and 100 for each node by default.
    candidates : int
        Possible parents of a node, at most 18: chosen as by `order_search`.
    most : int
        Most parents of a node, unless `constraints.max_parents` says less.
    start : Dag, optional
        By default the result of `order_search`.
    rng : numpy Generator, optional
        Seed 0 by default.

    Notes
    -----
    A uniform prior over orders favours graphs that agree with many. With at most 14 nodes the
    draws are resampled by one over that number, which removes the bias as the draws grow; with
    more nodes it stays. Candidates beyond those chosen have probability 0.

    Raises
    ------
    SchemaError
        If `draws` is less than 1 or the constraints contradict each other.
    """
    if draws < 1:
        raise SchemaError(message(f"draws={draws}", "at least 1", "ask for more"))
    constraints = constraints or Constraints()
    rng = rng if rng is not None else np.random.default_rng(0)
    d = len(scorer)
    start = start if start is not None else order_search(scorer, constraints, rng=rng)
    limit = most if constraints.max_parents is None else constraints.max_parents
    count = None if d <= candidates + 1 else candidates
    sets = parent_sets(scorer, constraints, most=limit, candidates=count, near=start)
    chain = _Chain(sets, list(start.order))
    for _ in range(100 * d if burn is None else burn):
        chain.step(rng)
    found = []
    for _ in range(draws):
        for _ in range(10 * d if thin is None else thin):
            chain.step(rng)
        found.append(chain.draw(rng))
    if d > MOST_COUNTED:
        return tuple(found)
    counted = {graph: linear_extensions(graph) for graph in set(found)}
    share = np.array([1 / counted[graph] for graph in found])
    kept = rng.choice(len(found), size=draws, p=share / share.sum())
    return tuple(found[i] for i in kept)


class _Chain:
    """An order and its probability, moved by Metropolis steps."""

    def __init__(self, sets: tuple[ParentSets, ...], order: list[int]) -> None:
        self.sets, self.order = sets, order
        self.tables = [own.total.tolist() for own in sets]
        self.masks = masks_of(sets, order)
        self.score = self._score(self.masks)

    def _score(self, masks: list[int]) -> float:
        return float(sum(table[m] for table, m in zip(self.tables, masks, strict=True)))

    def step(self, rng: np.random.Generator) -> None:
        a, b = (int(i) for i in rng.integers(len(self.order), size=2))
        order = list(self.order)
        if rng.random() < 0.5:
            order[a], order[b] = order[b], order[a]
        else:
            order.insert(b, order.pop(a))
        masks = masks_of(self.sets, order)
        score = self._score(masks)
        if np.log(rng.random()) < score - self.score:
            self.order, self.masks, self.score = order, masks, score

    def draw(self, rng: np.random.Generator) -> Dag:
        drawn = (
            own.parents(own.draw(mask, rng))
            for own, mask in zip(self.sets, self.masks, strict=True)
        )
        return Dag(tuple(drawn))


def linear_extensions(graph: Dag) -> int:
    """How many orders of the nodes have parents first.

    By dynamic programming over sets of nodes: time and memory grow as 2 to the number of nodes.

    Examples
    --------
    >>> linear_extensions(Dag.of(3, [(0, 1)]))
    3
    """
    d = len(graph)
    needs = [sum(1 << p for p in own) for own in graph.parents]
    ways = np.zeros(1 << d)
    ways[0] = 1
    masks = np.arange(1 << d)
    sizes = np.bitwise_count(masks)
    for size in range(1, d + 1):
        layer = masks[sizes == size]
        for node, need in enumerate(needs):
            last = layer[(layer >> node & 1 == 1) & (layer & need == need)]
            ways[last] += ways[last ^ (1 << node)]
    return int(ways[-1])
