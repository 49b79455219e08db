"""Tests of the independence of two nodes given others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import xlogy

from probgen.errors import SchemaError, message
from probgen.graphs.counts import Columns
from probgen.graphs.nodes import NodeRows
from probgen.graphs.normal_scores import NormalScores

__all__ = ["TESTS", "Test", "independence_test"]

Floats = NDArray[np.float64]
#: p-value of the independence of two nodes given some others
Test = Callable[[int, int, tuple[int, ...]], float]
TESTS = ("auto", "chi-square", "g", "mutual-information", "fisher-z", "likelihood-ratio")


def independence_test(rows: NodeRows, test: str = "auto") -> Test:
    """A test of the independence of two nodes given others, as a function to its p-value.

    Parameters
    ----------
    rows : NodeRows
        Each test uses the rows that show all its nodes.
    test : {"auto", "chi-square", "g", "mutual-information", "fisher-z", "likelihood-ratio"}
        Of discrete nodes, with degrees of freedom only for states that occur in each
        configuration: "chi-square" (Pearson 1900) and "g", the likelihood ratio (Wilks 1938);
        "mutual-information" is "g" with the degrees of freedom of all named states, occurring
        or not. Of normal nodes "fisher-z", the partial correlation (Fisher 1924). Of any nodes
        "likelihood-ratio", of conditional Gaussian distributions: the discrete nodes are free
        and the normal ones have a normal distribution in each of their configurations
        (Lauritzen 1996, Graphical Models, chapter 6). "auto" takes "g", "fisher-z" or
        "likelihood-ratio" by the kinds of the nodes.

    Returns
    -------
    callable
        (node, node, tuple of nodes) -> p-value.

    Raises
    ------
    SchemaError
        If the test is unknown or not made for these kinds.
    """
    discrete, normal = any(rows.sizes), 0 in rows.sizes
    if test == "auto":
        test = "likelihood-ratio" if discrete and normal else "g" if discrete else "fisher-z"
    if test not in TESTS:
        raise SchemaError(message(f"test={test!r}", f"one of {list(TESTS)}", "choose one"))
    if (test == "fisher-z" and discrete) or (
        test in ("chi-square", "g", "mutual-information") and normal
    ):
        raise SchemaError(message(
            f"test={test!r} and nodes of another kind", "a test for all nodes",
            "choose 'likelihood-ratio'",
        ))  # fmt: skip
    if test == "fisher-z":
        return _fisher(rows)
    if test == "likelihood-ratio":
        return _ratio(rows)
    columns = Columns(rows.codes, rows.sizes, rows.weight)

    def asked(x: int, y: int, given: tuple[int, ...]) -> float:
        table = _table(columns, x, y, given)
        return _discrete(table, test)

    return asked


def _table(columns: Columns, x: int, y: int, given: tuple[int, ...]) -> Floats:
    """Counts (configurations of the given, states of x, states of y)."""
    (block,) = columns.beside(x, given, only=(y,))
    return block.counts


def _discrete(table: Floats, test: str) -> float:
    rows, columns, total = table.sum(2), table.sum(1), table.sum((1, 2))
    if test == "mutual-information":
        free = float(len(total) * (table.shape[1] - 1) * (table.shape[2] - 1))
    else:
        present = ((rows > 0).sum(1) - 1).clip(0) * ((columns > 0).sum(1) - 1).clip(0)
        free = float(present.sum())
    if not free:
        return 1.0
    if test == "chi-square":
        expected = rows[:, :, None] * columns[:, None] / np.maximum(total, 1e-300)[:, None, None]
        inside = expected > 0
        statistic = float(((table - expected)[inside] ** 2 / expected[inside]).sum())
    else:
        statistic = 2 * float(
            xlogy(table, table).sum() + xlogy(total, total).sum()
            - xlogy(rows, rows).sum() - xlogy(columns, columns).sum()
        )  # fmt: skip
    return float(stats.chi2.sf(max(statistic, 0.0), free))


def _fisher(rows: NodeRows) -> Test:
    def asked(x: int, y: int, given: tuple[int, ...]) -> float:
        values = rows.values[:, [x, y, *given]]
        seen = ~np.isnan(values).any(1)
        values, weight = values[seen], rows.weight[seen]
        free = float(weight.sum()) - len(given) - 3
        if free <= 0:
            return 1.0
        design = np.column_stack([np.ones(len(values)), values[:, 2:]])
        root = np.sqrt(weight)[:, None]
        fit = np.linalg.lstsq(design * root, values[:, :2] * root, rcond=1e-10)[0]
        rest = (values[:, :2] - design @ fit) * root
        norm = np.sqrt((rest**2).sum(0))
        if (norm <= 1e-9 * np.sqrt((values[:, :2] ** 2 * root**2).sum(0))).any():
            return 1.0  # one of them is a function of the conditions
        r = np.clip(rest[:, 0] @ rest[:, 1] / norm.prod(), -1 + 1e-15, 1 - 1e-15)
        return float(2 * stats.norm.sf(np.sqrt(free) * abs(np.arctanh(r))))

    return asked


def _ratio(rows: NodeRows) -> Test:
    """Likelihood ratio of x and y given the rest, jointly or apart, from those of four sets."""
    columns = Columns(rows.codes, rows.sizes, rows.weight)
    normals = NormalScores(rows, columns, "bic") if 0 in rows.sizes else None

    def fitted(nodes: tuple[int, ...], chosen: NDArray[np.bool_]) -> tuple[float, float]:
        """Maximised log-likelihood of a set of nodes, and its free numbers."""
        discrete = tuple(i for i in nodes if rows.sizes[i])
        code, cells = columns.joint(discrete, chosen)
        counts = np.bincount(code, rows.weight[chosen], minlength=cells).astype(float)
        occupied = float((counts > 0).sum())
        found = float(xlogy(counts, counts).sum() - xlogy(counts.sum(), counts.sum()))
        width = sum(1 for i in nodes if not rows.sizes[i])
        if width and normals is not None:
            found += normals.joint_log_likelihood(nodes, chosen)
        return found, occupied - 1 + occupied * width * (width + 3) / 2

    def asked(x: int, y: int, given: tuple[int, ...]) -> float:
        chosen = np.ones(len(rows), dtype=bool)
        for i in (x, y, *given):
            chosen &= rows.codes[:, i] >= 0 if rows.sizes[i] else ~np.isnan(rows.values[:, i])
        sets = ((x, y, *given), given, (x, *given), (y, *given))
        (both, most), (none, least), (one, few), (other, some) = (
            fitted(nodes, chosen) for nodes in sets
        )
        ratio, free = both + none - one - other, most + least - few - some
        return float(stats.chi2.sf(max(2 * ratio, 0.0), free)) if free > 0 else 1.0

    return asked
