"""Why a row is odd: its surprisal split into one share a column."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probgen.density import Density
from probgen.outliers.scorer import Extra, Scorer, Unseen
from probgen.table import to_frame

__all__ = ["explain"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
#: the columns of a set, and how the surprisal of the set enters the share of each column
Term = tuple[tuple[int, ...], Floats]

#: columns up to which all orders are averaged: 2^8 marginals a row
ALL_ORDERS = 8
#: random orders, each with its reverse, beyond that
ORDERS = 8
#: rows worked on at once, and sets of columns
ROWS, SETS = 20_000, 64


def explain(
    model: Density,
    table: Any,
    details: bool = False,
    unseen: Unseen = "error",
    extra: Extra = "error",
) -> pd.DataFrame:
    """Split the surprisal of each row into one share a column.

    Parameters
    ----------
    model : Density
        A fitted model.
    table : data frame of n rows
        Any of the fitted columns; NaN cells are integrated out and have share 0.
    details : bool
        Return the Monte Carlo error of each share as well.
    unseen, extra
        As in `Density.log_prob`.

    Returns
    -------
    DataFrame (n, columns)
        On the caller's index, one column for each fitted column of the table, in the table's
        order, nats. The shares of a row add up to ``-log_prob`` of the row (to rounding
        error), also where marginals are estimates. A share can be negative: a density may
        exceed 1. With `details`, two such frames side by side, under the names ``share`` and
        ``se``: the standard error is 0 where marginals are exact.

    Notes
    -----
    By the chain rule ``-log p(x) = sum_j -log p(x_j | x before j)`` for any order of the
    columns. The share of a column is the average of its term over all orders (its Shapley
    value) up to 8 columns, and over 8 random orders and their reverses, the same ones at each
    call, beyond that: each order adds up, so the average does. Cost: at most 256 marginal
    densities a row up to 8 columns, 16 d beyond; a family that has `exact_log_prob_masked`
    works them out in one pass.

    A share is in the units of its column, so compare it with the share that other rows have in
    the same column; `outliers` does so.

    References
    ----------
    Shapley (1953), A value for n-person games. Castro, Gómez and Tejada (2009), Polynomial
    calculation of the Shapley value based on sampling, Computers & Operations Research 36.

    Examples
    --------
    >>> import probgen as pg
    >>> from probgen.datasets import penguins
    >>> model = pg.Independent(random_state=0).fit(penguins())
    >>> shares = model.explain(penguins().head(3))
    >>> bool(abs(shares.sum(axis=1) + model.log_prob(penguins().head(3))).max() < 1e-9)
    True
    """
    frame = to_frame(table, model.schema_.names)
    scorer = Scorer.of(model, frame, unseen, extra)
    known = set(model.schema_.names)
    names = [name for name in frame.columns if name in known]
    shares = pd.DataFrame(0.0, frame.index, pd.Index(names))
    errors = shares.copy()
    asked = np.array([name in frame.columns for name in scorer.names], dtype=bool)
    for rows in (slice(i, i + ROWS) for i in range(0, len(frame), ROWS)):
        share, se = _shares(scorer.take(rows), asked)
        for place, name in enumerate(scorer.names):
            if name in known.intersection(names):
                shares.iloc[rows, names.index(name)] = share[:, place]
                errors.iloc[rows, names.index(name)] = se[:, place]
    for name, bad in scorer.impossible.items():
        shares.iloc[bad, names.index(name)] = math.inf
    return pd.concat({"share": shares, "se": errors}, axis=1) if details else shares


def _shares(scorer: Scorer, asked: Bools) -> tuple[Floats, Floats]:
    """Shares (n, columns) of the surprisal of each row, and their standard errors.

    The orders are those of the columns of the table, `asked`: the shares of a row must not
    depend on which cells other rows hold.
    """
    d = len(scorer.names)
    seen = scorer.seen()
    shares, variance = np.zeros(seen.shape), np.zeros(seen.shape)
    places = np.flatnonzero(asked)
    # columns that no row shows are left out of all orders, which changes no share
    shown = np.asarray(seen[:, places].any(axis=0))
    used, terms = places[shown], _terms(shown)
    for some in (terms[i : i + SETS] for i in range(0, len(terms), SETS)):
        columns = np.zeros((len(some), d), dtype=bool)
        for row, (subset, _) in zip(columns, some, strict=True):
            row[used[list(subset)]] = True
        factors = np.stack([factor for _, factor in some])
        value, se = scorer.surprisals(columns)
        with np.errstate(invalid="ignore"):
            # not a matrix product: 0 times infinity is no share
            for factor, own, error in zip(factors, value, se, strict=True):
                shares[:, used] += own[:, None] * factor
                variance[:, used] += np.square(error[:, None] * factor)
    shares[~seen] = 0.0
    variance[~seen] = 0.0
    _blame_zero_density(scorer, seen, shares)
    return shares, np.sqrt(variance)


def _blame_zero_density(scorer: Scorer, seen: Bools, shares: Floats) -> None:
    """Rows of density 0: the columns that are impossible alone, or else all that are seen."""
    rows = np.flatnonzero(~np.isfinite(shares).all(1))
    if not len(rows):
        return
    alone, _ = scorer.take(rows).surprisals(np.eye(seen.shape[1], dtype=bool))
    guilty = (alone == math.inf).T
    guilty |= seen[rows] & ~guilty.any(1, keepdims=True)
    shares[rows] = np.where(guilty, math.inf, 0.0)


def _terms(shown: Bools) -> list[Term]:
    """Sets of the shown columns, and how the surprisal of each enters the share of each column.

    Columns are numbered among the shown ones.
    """
    d = int(shown.sum())
    if len(shown) <= ALL_ORDERS:
        return [
            (subset, _weights(d, subset))
            for size in range(1, d + 1)
            for subset in combinations(range(d), size)
        ]
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(shown)) for _ in range(ORDERS)]
    orders += [order[::-1] for order in orders]
    number = np.cumsum(shown) - 1
    factors: dict[tuple[int, ...], Floats] = {}
    for whole in orders:
        order = number[whole[shown[whole]]]
        for place, column in enumerate(order):
            subset = tuple(sorted(order[: place + 1].tolist()))
            factor = factors.setdefault(subset, np.zeros(d))
            factor[column] += 1 / len(orders)
            if place + 1 < d:
                factor[order[place + 1]] -= 1 / len(orders)
    return list(factors.items())


def _weights(d: int, subset: tuple[int, ...]) -> Floats:
    """Shapley weights (d,) of the value of one subset."""
    size = len(subset)
    # share of the orders in which the subset comes first, and column j next or last of it
    outside = -1 / (math.comb(d, size) * (d - size)) if size < d else 0.0
    weights = np.full(d, outside)
    weights[list(subset)] = 1 / (math.comb(d, size) * size)
    return weights
