"""Local scores of normal nodes: a linear regression in each configuration of discrete parents."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from probgen.graphs.additive import (
    VARIANCE_ROWS,
    chosen_terms,
    coefficients,
    laplace_log_likelihood,
    normal_log_likelihood,
    smooth_terms,
)
from probgen.graphs.counts import Columns
from probgen.graphs.nodes import NodeRows

__all__ = ["NormalScores", "bge"]

Floats = NDArray[np.float64]

#: Rows of means and of the covariance in the normal-Wishart prior: the least that is proper.
PRIOR_ROWS = 1.0
#: Rows whose logarithm is the least price of two numbers in BIC: a few rows fit anything.
LEAST_ROWS = 20.0
#: Grouped moments that are kept, in numbers.
KEPT = 4_000_000


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
    width = moments.shape[1] - 1
    n = moments[:, 0, 0]
    if not width:
        return np.zeros(len(n))
    # degrees of freedom of the Wishart prior less the other nodes, as in a network of these nodes
    freedom, prior = width + 1.0, PRIOR_ROWS / (PRIOR_ROWS + 1)
    mean = moments[:, 0, 1:] / n[:, None]
    shrunk = n**2 / (n + PRIOR_ROWS)
    scatter = moments[:, 1:, 1:] - shrunk[:, None, None] * mean[:, :, None] * mean[:, None, :]
    scatter = scatter + prior * np.eye(width)
    determinant = np.linalg.slogdet(scatter)[1]
    i = np.arange(width)[:, None]
    gammas = gammaln((n + freedom - i) / 2).sum(0) - gammaln((freedom - i) / 2).sum()
    return (
        0.5 * width * np.log(PRIOR_ROWS / (n + PRIOR_ROWS)) - 0.5 * n * width * np.log(np.pi)
        + gammas + 0.5 * freedom * width * np.log(prior) - 0.5 * (n + freedom) * determinant
    )  # fmt: skip


class NormalScores:
    """Local scores of the normal nodes of a table.

    Parameters
    ----------
    rows : NodeRows
    columns : Columns
        Its discrete columns.
    kind : {"bic", "bge", "additive"}
    """

    def __init__(self, rows: NodeRows, columns: Columns, kind: str) -> None:
        self.columns, self.kind, self.sizes = columns, kind, rows.sizes
        normal = [i for i, size in enumerate(rows.sizes) if not size]
        self.place = {node: k + 1 for k, node in enumerate(normal)}
        self.design = np.column_stack([np.ones(len(rows)), rows.values[:, normal]])
        self.smooth: dict[int, list[int]] = {node: [] for node in normal}
        if kind == "additive":
            self._add_smooth()
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

    def _add_smooth(self) -> None:
        """Append the smooth terms of each column to the design."""
        blocks = [self.design]
        width = self.design.shape[1]
        for node, place in self.place.items():
            blocks.append(smooth_terms(self.design[:, place]))
            self.smooth[node] = list(range(width, width + blocks[-1].shape[1]))
            width += blocks[-1].shape[1]
        self.design = np.concatenate(blocks, axis=1)

    def gain(
        self, node: int, parents: tuple[int, ...], shown: tuple[int, ...] = ()
    ) -> tuple[float, float]:
        """Score less that without parents, both on the rows that show all, and their weight.

        The rows also show the nodes in `shown`.
        """
        discrete = tuple(sorted(p for p in parents if self.sizes[p]))
        normal = [p for p in parents if not self.sizes[p]]
        linear = [0, *(self.place[p] for p in normal)]
        smooth = [self.smooth[p] for p in normal]
        which = [*linear, *(c for own in smooth for c in own), self.place[node]]
        more = tuple(i for i in shown if self.sizes[i])
        columns = [*which, *(self.place[i] for i in shown if not self.sizes[i])]
        chosen = self._chosen(discrete + more, columns)
        moments = self._moments(discrete, which, chosen)
        total = float(moments[:, 0, 0].sum())
        states = int(np.prod([self.sizes[p] for p in discrete], dtype=float))
        alone = self._alone(moments, node, chosen)
        if self.kind == "bge":
            return bge(moments) - alone, total
        price = 0.5 * np.log(max(total, LEAST_ROWS)) * states
        if len(moments) * len(linear) + 1 >= total:  # as many numbers as rows fit anything
            return -price * len(linear), total
        local = {c: i for i, c in enumerate(which)}
        kept = chosen_terms(
            moments, list(range(len(linear))), [[local[c] for c in own] for own in smooth],
            price, self.variance[self.place[node]],
        )  # fmt: skip
        score = self._fitted(discrete, [which[i] for i in kept], node, moments, kept, chosen)
        return score - price * (len(kept) + 1) - alone, total

    def alone(self, node: int) -> tuple[float, float]:
        """Score without parents on the rows where the node is seen, and their weight."""
        which = [0, self.place[node]]
        chosen = self._chosen((), which)
        moments = self._moments((), which, chosen)
        return self._alone(moments, node, chosen), float(moments[:, 0, 0].sum())

    def _alone(self, moments: Floats, node: int, chosen: NDArray[np.bool_] | None) -> float:
        """Score without parents on the same rows."""
        moments = moments[:, [0, -1]][:, :, [0, -1]].sum(0, keepdims=True)
        if self.kind == "bge":
            return bge(moments)
        found = self._fitted((), [0], node, moments, [0], chosen)
        return found - float(np.log(max(float(moments[0, 0, 0]), LEAST_ROWS)))

    def _fitted(
        self, discrete: tuple[int, ...], columns: list[int], node: int, moments: Floats,
        kept: list[int], chosen: NDArray[np.bool_] | None,
    ) -> float:  # fmt: skip
        """Maximised log-likelihood; "additive" chooses between normal and Laplace noise."""
        kept = [*kept, moments.shape[1] - 1]
        moments, variance = moments[:, kept][:, :, kept], self.variance[self.place[node]]
        normal = normal_log_likelihood(moments, variance)
        if self.kind != "additive":
            return normal
        code, cells = self.columns.joint(discrete, chosen)
        design, target, weight = (
            self.design[:, columns],
            self.design[:, self.place[node]],
            self.weight,
        )
        if chosen is not None:
            design, target, weight = design[chosen], target[chosen], weight[chosen]
        slope = coefficients(moments)
        fit = design @ slope[0] if cells == 1 else (design * slope[code]).sum(1)
        absolute = np.bincount(code, weight * np.abs(target - fit), minlength=cells).astype(float)
        return max(normal, laplace_log_likelihood(moments[:, 0, 0], absolute, variance))

    def joint_log_likelihood(self, nodes: tuple[int, ...], chosen: NDArray[np.bool_]) -> float:
        """Maximum of that of the normal nodes among some, a normal in each configuration.

        Parameters
        ----------
        nodes : tuple of int
        chosen : array (n,) of bool
            Rows that show all of them.
        """
        discrete = tuple(i for i in nodes if self.sizes[i])
        normal = [self.place[i] for i in nodes if not self.sizes[i]]
        moments = self._grouped(discrete, [0, *normal], chosen)
        moments = moments[moments[:, 0, 0] > 0]
        n = moments[:, 0, 0]
        mean = moments[:, 0, 1:] / n[:, None]
        scatter = moments[:, 1:, 1:] - n[:, None, None] * mean[:, :, None] * mean[:, None]
        floor = np.diag(VARIANCE_ROWS * self.variance[normal])
        spread = (scatter + floor) / (n + VARIANCE_ROWS)[:, None, None]
        rest = np.linalg.solve(spread, scatter).trace(axis1=1, axis2=2)
        sign = np.linalg.slogdet(spread)[1] + len(normal) * np.log(2 * np.pi)
        return float(-0.5 * (n * sign + rest).sum())

    def _chosen(self, discrete: tuple[int, ...], which: list[int]) -> NDArray[np.bool_] | None:
        """The rows that show all; None for all rows."""
        if self.whole:
            return None
        chosen: NDArray[np.bool_] = np.asarray(self.seen[:, which].all(1))
        complete = self.columns.seen(discrete)
        return chosen if complete is None else chosen & complete

    def _moments(
        self, discrete: tuple[int, ...], which: list[int], chosen: NDArray[np.bool_] | None
    ) -> Floats:
        """Sums of products (configurations, ., .) of some columns of the design."""
        width = self.design.shape[1]
        states = float(np.prod([self.sizes[p] for p in discrete], dtype=float))
        if chosen is not None or min(states, len(self.design)) * width**2 > KEPT:
            return self._grouped(discrete, which, chosen)
        if discrete not in self.kept:
            self.kept[discrete] = self._grouped(discrete, list(range(width)), None)
            while len(self.kept) > 1 and sum(k.size for k in self.kept.values()) > KEPT:
                self.kept.popitem(last=False)
        self.kept.move_to_end(discrete)
        return self.kept[discrete][:, which][:, :, which]

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
