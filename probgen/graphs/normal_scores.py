"""Local scores of normal nodes: a linear regression in each configuration of discrete parents."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from probgen.graphs.counts import Columns
from probgen.graphs.nodes import NodeRows

__all__ = ["NormalScores", "bge", "clg_log_likelihood"]

Floats = NDArray[np.float64]

#: Pseudo-rows of the column's variance in each configuration: keeps the likelihood of a few
#: rows, or of an exact copy of another column, finite. One row costs at most 2.4 nats.
VARIANCE_ROWS = 0.01
#: Floor of a residual variance, as a share of the column's.
LEAST_VARIANCE = 1e-8
#: Rows of means and of the covariance in the normal-Wishart prior: the least that is proper.
PRIOR_ROWS = 1.0
#: Grouped moments that are kept, in numbers.
KEPT = 4_000_000


def clg_log_likelihood(moments: Floats, variance: float) -> float:
    """Maximum of the log-likelihood of a regression in each configuration, in nats.

    Parameters
    ----------
    moments : array (configurations, p + 2, p + 2)
        Sums of products of (1, the p parents, the node), weighted.
    variance : float
        Of the node, the unit of the floors.
    """
    size = moments[:, 0, 0]
    found = 0.0
    for gram, n in zip(moments[size > 0], size[size > 0], strict=True):
        inside, cross = gram[:-1, :-1], gram[:-1, -1]
        coefficients = np.linalg.lstsq(inside, cross, rcond=1e-10)[0]
        rest = max(gram[-1, -1] - cross @ coefficients, 0.0)
        spread = (rest + VARIANCE_ROWS * variance) / (n + VARIANCE_ROWS)
        spread = max(spread, LEAST_VARIANCE * variance)
        found -= 0.5 * (n * np.log(2 * np.pi * spread) + rest / spread)
    return found


def bge(moments: Floats) -> float:
    """Log marginal likelihood of a node given its normal parents, summed over configurations.

    Under a normal-Wishart prior of all nodes, with mean 0, one prior row for the mean and the
    least proper number for the covariance: the score BGe (Geiger and Heckerman 1994, Learning
    Gaussian networks, UAI; constants by Kuipers, Moffa and Heckerman 2014, Addendum, Annals of
    Statistics 42). The conditional of one node is a regression under a normal-inverse-gamma
    prior. Equivalent graphs of normal nodes score the same.

    Parameters
    ----------
    moments : array (configurations, p + 2, p + 2)
        Sums of products of (1, the p parents, the node), weighted; values about standardised.
    """
    kept = moments[moments[:, 0, 0] > 0]
    whole = _log_evidence(kept)
    parents = _log_evidence(kept[:, :-1, :-1])
    return float((whole - parents).sum())


def _log_evidence(moments: Floats) -> Floats:
    """Log marginal likelihood (configurations,) of the columns after the first, which is 1."""
    l = moments.shape[1] - 1
    n = moments[:, 0, 0]
    if not l:
        return np.zeros(len(n))
    # degrees of freedom of the Wishart prior less the other nodes, as in a network of l nodes
    freedom, prior = l + 1.0, PRIOR_ROWS / (PRIOR_ROWS + 1)
    mean = moments[:, 0, 1:] / n[:, None]
    shrunk = n**2 / (n + PRIOR_ROWS)
    scatter = moments[:, 1:, 1:] - shrunk[:, None, None] * mean[:, :, None] * mean[:, None, :]
    scatter = scatter + prior * np.eye(l)
    determinant = np.linalg.slogdet(scatter)[1]
    i = np.arange(l)[:, None]
    gammas = gammaln((n + freedom - i) / 2).sum(0) - gammaln((freedom - i) / 2).sum()
    return (
        0.5 * l * np.log(PRIOR_ROWS / (n + PRIOR_ROWS)) - 0.5 * n * l * np.log(np.pi)
        + gammas + 0.5 * freedom * l * np.log(prior) - 0.5 * (n + freedom) * determinant
    )  # fmt: skip


class NormalScores:
    """Local scores of the normal nodes of a table.

    Parameters
    ----------
    rows : NodeRows
    columns : Columns
        Its discrete columns.
    bayes : bool
        The marginal likelihood `bge`; else BIC of the conditional linear Gaussian.
    """

    def __init__(self, rows: NodeRows, columns: Columns, bayes: bool) -> None:
        self.columns, self.bayes, self.sizes = columns, bayes, rows.sizes
        normal = [i for i, size in enumerate(rows.sizes) if not size]
        self.place = {node: k + 1 for k, node in enumerate(normal)}
        self.design = np.column_stack([np.ones(len(rows)), rows.values[:, normal]])
        self.weight = rows.weight
        self.seen = ~np.isnan(self.design)
        self.whole = bool(self.seen.all() and not columns.holed)
        filled = np.where(self.seen, self.design, 0.0)
        share = self.seen * self.weight[:, None]
        total = np.maximum(share.sum(0), 1e-300)
        mean = (share * filled).sum(0) / total
        self.variance = (share * (filled - mean) ** 2).sum(0) / total
        self.variance[self.variance <= 0] = 1.0
        self.kept: OrderedDict[tuple[int, ...], Floats] = OrderedDict()

    def gain(self, node: int, parents: tuple[int, ...]) -> tuple[float, float]:
        """Score less that without parents, both on the rows that show all, and their weight."""
        discrete = tuple(p for p in parents if self.sizes[p])
        normal = [self.place[p] for p in parents if not self.sizes[p]]
        moments = self._moments(discrete, [0, *normal, self.place[node]])
        total = float(moments[:, 0, 0].sum())
        alone = moments[:, [0, -1]][:, :, [0, -1]].sum(0, keepdims=True)
        states = int(np.prod([self.sizes[p] for p in discrete], dtype=float))
        floor = self._score(alone, node, 1, total)
        return self._score(moments, node, states, total) - floor, total

    def alone(self, node: int) -> tuple[float, float]:
        """Score without parents on the rows where the node is seen, and their weight."""
        moments = self._moments((), [0, self.place[node]])
        total = float(moments[:, 0, 0].sum())
        return self._score(moments, node, 1, total), total

    def _score(self, moments: Floats, node: int, states: int, total: float) -> float:
        if self.bayes:
            return bge(moments)
        likelihood = clg_log_likelihood(moments, self.variance[self.place[node]])
        free = states * moments.shape[1]  # coefficients, intercept and variance
        return likelihood - 0.5 * np.log(max(total, 2.0)) * free

    def _moments(self, discrete: tuple[int, ...], which: list[int]) -> Floats:
        """Sums of products (configurations, ., .) of some columns of the design."""
        if not self.whole:
            chosen = self.seen[:, which].all(1)
            complete = self.columns.seen(discrete)
            return self._grouped(
                discrete, which, chosen if complete is None else chosen & complete
            )
        key = tuple(sorted(discrete))
        if key not in self.kept:
            found = self._grouped(key, list(range(self.design.shape[1])), None)
            self.kept[key] = found
            while len(self.kept) > 1 and sum(k.size for k in self.kept.values()) > KEPT:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key][:, which][:, :, which]

    def _grouped(
        self, discrete: tuple[int, ...], which: list[int], chosen: NDArray[np.bool_] | None
    ) -> Floats:
        design, weight = self.design[:, which], self.weight
        code, cells = self.columns.joint(discrete, chosen)
        if chosen is not None:
            design, weight = design[chosen], weight[chosen]
        order = np.argsort(code, kind="stable")
        design, weight = design[order], weight[order]
        bounds = np.searchsorted(code[order], np.arange(cells + 1))
        found = np.zeros((cells, len(which), len(which)))
        for k, (a, b) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            part = design[a:b]
            found[k] = part.T @ (part * weight[a:b, None])
        return found
