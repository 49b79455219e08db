"""Local scores of a node and its parents, cached, for whole rows of candidates at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from probgen.errors import SchemaError, message
from probgen.graphs.counts import Block, Columns
from probgen.graphs.dag import Dag
from probgen.graphs.nodes import NodeRows
from probgen.graphs.normal_scores import NormalScores
from probgen.graphs.softmax import softmax_log_likelihood

__all__ = ["SCORES", "Scorer", "bdeu", "log_likelihood"]

Floats = NDArray[np.float64]

#: score -> how discrete nodes are scored, and normal ones
SCORES: dict[str, tuple[str | None, str | None]] = {
    "bic": ("bic", "bic"),
    "bdeu": ("bdeu", None),
    "bge": (None, "bge"),
    "cg": ("bdeu", "bge"),
    "additive": ("bdeu", "additive"),
}


def log_likelihood(counts: Floats) -> Floats:
    """Maximum of the multinomial log-likelihood, in nats, in each last-axis column.

    Parameters
    ----------
    counts : array (configurations, states, s)

    Returns
    -------
    array (s,)
    """
    return (xlogy(counts, counts).sum(1) - _xlogx(counts.sum(1))).sum(0)


def _xlogx(counts: Floats) -> Floats:
    found: Floats = xlogy(counts, counts)
    return found


def bdeu(counts: Floats, prior: Floats) -> Floats:
    """Log marginal likelihood of counts under a uniform Dirichlet prior, in nats.

    Parameters
    ----------
    counts : array (configurations, states, s)
    prior : array (s,)
        Equivalent rows in one configuration: the equivalent sample size over their number.

    Returns
    -------
    array (s,)
        Sums over the configurations; those that never occur add 0.
    """
    cell = prior / counts.shape[1]
    total = counts.sum(1)
    inside = (gammaln(counts + cell) - gammaln(cell)).sum((0, 1))
    found: Floats = inside - (gammaln(total + prior) - gammaln(prior)).sum(0)
    return found


class Scorer:
    """Decomposable scores of graphs over one table, with a cache of the local ones.

    Parameters
    ----------
    rows : NodeRows
    score : {"auto", "bic", "bdeu", "bge", "cg", "additive"}
        "bic": maximised log-likelihood less half the log of the rows for each free number, of
        discrete nodes (Schwarz 1978) and of normal ones as conditional linear Gaussians, with a
        regression in each configuration of the discrete parents (Lauritzen and Wermuth 1989).
        "bdeu": log marginal likelihood of discrete nodes (Heckerman, Geiger and Chickering
        1995). "bge": that of normal nodes (Geiger and Heckerman 1994). "cg": BDeu for the
        discrete nodes and BGe in each configuration for the normal ones. "auto":
        see `probgen.graphs.learn`.
    ess : float
        Equivalent sample size of BDeu, in rows, more than 0.
    logistic : bool
        Discrete nodes may have normal parents; such a node is scored by the BIC of a softmax
        regression.
    edges : float, optional
        Expected edges a node of a sparse prior over graphs: each pair of nodes is joined with
        odds 2 edges / (d - 1), or 1 where this is larger. Such a prior keeps equivalent graphs
        equal (as that of Heckerman, Geiger and Chickering 1995, section 5). None for a uniform
        prior.

    Notes
    -----
    Unseen cells: the score of a node without parents is an average over the rows that show it,
    times the weight of all rows. Each parent, the one of the largest gain alone first, adds its
    gain over those before it, both on the rows that show all of these, again an average a row
    times the weight of all (the node-average likelihood of Balov 2013, Electronic Journal of
    Statistics 7, as a sum of differences so that the noise of the rows cancels: different
    parents compare, which plain averages on different rows do not). It assumes that cells are
    missing completely at random. Equivalent graphs no longer score quite the same, and graphs
    come out somewhat too dense. With normal parents of a discrete node the gain is one
    difference, of all parents.

    A discrete node and every possible further parent are counted together, several columns a
    pass; complete tables are first reduced to their distinct rows where these are few.

    Examples
    --------
    >>> codes = np.array([[0, 0], [0, 0], [1, 1], [1, 1]])
    >>> rows = NodeRows(codes, np.full((4, 2), np.nan), (2, 2), np.ones(4))
    >>> scorer = Scorer(rows, "bdeu")
    >>> bool(scorer.local(1, (0,)) > scorer.local(1, ()))
    True
    """

    def __init__(
        self, rows: NodeRows, score: str = "auto", *, ess: float = 1.0, logistic: bool = False,
        edges: float | None = None,
    ) -> None:  # fmt: skip
        self.score = _checked(rows, score, ess)
        discrete, normal = SCORES[self.score]
        self.bayes = discrete == "bdeu"
        self.ess, self.logistic = ess, logistic
        self.rows, self.penalty = rows, _edge_penalty(rows.nodes, edges)
        self.sizes = rows.sizes
        self.total = float(rows.weight.sum())
        codes, weight = _distinct(rows)
        self.columns = Columns(codes, rows.sizes, weight)
        self.normals = None
        if normal is not None and 0 in rows.sizes:
            self.normals = NormalScores(rows, self.columns, normal)
        self.whole = not self.columns.holed and (self.normals is None or self.normals.whole)
        self._local: dict[tuple[int, frozenset[int]], float] = {}
        self._added: dict[tuple[int, frozenset[int]], Floats] = {}
        self._alone: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self.sizes)

    def local(self, node: int, parents: tuple[int, ...]) -> float:
        """Score of one node given its parents, in nats; the order of the parents is free."""
        key = node, frozenset(parents)
        if key not in self._local:
            self._local[key] = self._compute(node, tuple(sorted(parents)))
        return self._local[key]

    def added(self, node: int, parents: tuple[int, ...]) -> Floats:
        """Scores (d,) of a node given its parents and each other node besides.

        NaN for the node, for those that are parents already, and for normal parents of a
        discrete node where these are not allowed.
        """
        own = frozenset(parents)
        if (node, own) not in self._added:
            found = np.full(len(self), np.nan)
            others = [i for i in range(len(self)) if i != node and i not in own]
            smooth = any(not self.sizes[i] for i in own)
            if self.sizes[node] and not smooth and (self.whole or not own):
                self._fill(found, node, tuple(sorted(own)))
                others = [i for i in others if not self.sizes[i]]
            if self.sizes[node] and not self.logistic:
                others = [i for i in others if self.sizes[i]]
            for other in others:
                found[other] = self.local(node, (*parents, other))
            found[[node, *own]] = np.nan
            for other in np.flatnonzero(~np.isnan(found)).tolist():
                self._local[node, own | {other}] = float(found[other])
            self._added[node, own] = found
        return self._added[node, own]

    def graph(self, graph: Dag) -> float:
        """Score of a whole graph, in nats."""
        return sum(self.local(i, own) for i, own in enumerate(graph.parents))

    # --- one node and its parents -------------------------------------------------------------

    def _compute(self, node: int, parents: tuple[int, ...]) -> float:
        base = self._base(node) - self.penalty * len(parents)
        smooth = self.sizes[node] > 0 and any(not self.sizes[p] for p in parents)
        if not self.whole and len(parents) > 1 and not smooth:
            return base + self._chained(node, parents)
        if smooth:
            gain, seen = self._softmax(node, parents)
        elif not self.sizes[node]:
            gain, seen = self._normals.gain(node, parents)
        else:
            counts = self.columns.table(node, parents)[:, :, None]
            seen = float(counts.sum())
            gain = float(self._gains(counts, np.array([self._states(parents)]))[0])
        return base + (gain * self.total / seen if seen else 0.0)

    def _chained(self, node: int, parents: tuple[int, ...]) -> float:
        """Sum of the gains of one parent after another, each on the rows that show it too."""
        first = self.added(node, ())
        order = sorted(parents, key=lambda p: -float(first[p]))
        found = 0.0
        for k, last in enumerate(order):
            gain, seen = self._step(node, tuple(order[:k]), last)
            found += gain * self.total / seen if seen else 0.0
        return found

    def _step(self, node: int, before: tuple[int, ...], last: int) -> tuple[float, float]:
        """Gain of one more parent on the rows that show all, and their weight."""
        if not self.sizes[node]:
            more, seen = self._normals.gain(node, (*before, last))
            return more - self._normals.gain(node, before, (last,))[0], seen
        (block,) = self.columns.beside(node, before, only=(last,))
        states = self._states(before)
        split = self._plain(block.counts, np.array([states * self.sizes[last]]), block)
        joined = self._plain(block.counts.sum(2, keepdims=True), np.array([states]))
        return float((split - joined)[0]), float(block.counts.sum())

    def _base(self, node: int) -> float:
        """Score without parents, for all rows."""
        if node not in self._alone:
            if self.sizes[node]:
                counts = self.columns.table(node, ())[:, :, None]
                found, seen = float(self._plain(counts, np.ones(1))[0]), float(counts.sum())
            else:
                found, seen = self._normals.alone(node)
            self._alone[node] = found * self.total / seen if seen else 0.0
        return self._alone[node]

    @property
    def _normals(self) -> NormalScores:
        assert self.normals is not None, "asked for a normal node where there is none"
        return self.normals

    def _states(self, parents: tuple[int, ...]) -> float:
        return float(np.prod([self.sizes[p] for p in parents], dtype=float))

    def _softmax(self, node: int, parents: tuple[int, ...]) -> tuple[float, float]:
        found, empty, free, weight = softmax_log_likelihood(self.rows, node, parents)
        return found - empty - 0.5 * np.log(max(weight, 2.0)) * free, weight

    # --- discrete nodes, many candidates at once ----------------------------------------------

    def _fill(self, found: Floats, node: int, parents: tuple[int, ...]) -> None:
        base, states = self._base(node), self._states(parents)
        base -= self.penalty * (len(parents) + 1)
        for block in self.columns.beside(node, parents):
            found[block.members] = base + self._scaled(block, states)

    def _scaled(self, block: Block, states: float) -> Floats:
        widths = np.diff([*block.starts, len(block.owner)])
        gains = self._gains(block.counts, states * widths, block)
        seen = np.add.reduceat(block.counts.sum((0, 1)), block.starts)
        return gains * self.total / np.maximum(seen, 1e-300)

    def _gains(self, counts: Floats, states: Floats, block: Block | None = None) -> Floats:
        """Score less that without parents on the same rows, of each member of a block."""
        single = counts.sum(0, keepdims=True)
        if block is None:
            return self._plain(counts, states) - self._plain(single, np.ones(len(states)))
        single = np.add.reduceat(single, block.starts, axis=2)
        return self._plain(counts, states, block) - self._plain(single, np.ones(len(states)))

    def _plain(self, counts: Floats, states: Floats, block: Block | None = None) -> Floats:
        """Score of counts (configurations, states of the node, s), of each member."""
        if self.bayes:
            prior = self.ess / states
            found = bdeu(counts, prior if block is None else prior[block.owner])
        else:
            found = log_likelihood(counts)
        if block is not None:
            found = np.add.reduceat(found, block.starts)
        if self.bayes:
            return found
        seen = counts.sum((0, 1))
        if block is not None:
            seen = np.add.reduceat(seen, block.starts)
        free = states * (counts.shape[1] - 1)
        return found - 0.5 * np.log(np.maximum(seen, 2.0)) * free


def _checked(rows: NodeRows, score: str, ess: float) -> str:
    """The score to use; refuses one that does not fit the kinds of the nodes."""
    if not ess > 0:
        raise SchemaError(message(f"ess={ess}", "more than 0 rows", "pass a positive number"))
    discrete, normal = any(rows.sizes), 0 in rows.sizes
    if score == "auto":
        if not normal:
            return "bdeu"
        return "cg" if discrete else "additive"
    if score not in SCORES:
        raise SchemaError(message(
            f"score={score!r}", f"one of {['auto', *SCORES]}", "choose one of them"
        ))  # fmt: skip
    of_discrete, of_normal = SCORES[score]
    if (discrete and of_discrete is None) or (normal and of_normal is None):
        kinds = "discrete" if discrete and of_discrete is None else "normal"
        raise SchemaError(message(
            f"{kinds} nodes and score={score!r}", "a score for all nodes",
            "choose 'additive', 'cg' or 'bic'",
        ))  # fmt: skip
    return score


def _edge_penalty(nodes: int, edges: float | None) -> float:
    """Nats that each edge costs by the prior over graphs."""
    if edges is None or nodes < 2:
        return 0.0
    if not edges > 0:
        raise SchemaError(message(f"edges={edges}", "more than 0, or None", "raise it"))
    return max(0.0, float(np.log((nodes - 1) / (2 * edges))))


def _distinct(rows: NodeRows) -> tuple[NDArray[np.int64], Floats | None]:
    """Distinct rows of codes and their weights, where there are few; else all, None for ones."""
    whole = rows.weight if (rows.weight != 1).any() else None
    widths = [size + 1 for size in rows.sizes]
    if 0 in rows.sizes or np.prod(widths, dtype=float) > 2.0**62 or len(rows) < 2:
        return rows.codes, whole
    code = np.zeros(len(rows), dtype=np.int64)
    for node, width in enumerate(widths):
        code = code * width + rows.codes[:, node] + 1
    _, first, place = np.unique(code, return_index=True, return_inverse=True)
    if len(first) > len(rows) // 2:
        return rows.codes, whole
    return rows.codes[first], np.bincount(place.reshape(-1), rows.weight).astype(float)
