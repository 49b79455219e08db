"""Odd rows and why they are odd: surprisal, its split by column, tail probability, culprits.

Surprisal is ``-log p(row)``, in nats; larger is stranger. Its level depends on the units of the
table, so everything that ranks or blames compares a row with rows that the model itself draws:
those comparisons do not change when a column is rescaled.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probgen import queries
from probgen.batch import Batch
from probgen.density import Density
from probgen.errors import DataWarning, SchemaError, message
from probgen.table import Encoded, encode, to_frame

__all__ = ["explain", "outliers"]

Unseen = Literal["error", "missing", "rare"]
Extra = Literal["error", "ignore"]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: columns up to which all orders are averaged: 2^8 marginals a row
ALL_ORDERS = 8
#: random orders, each with its reverse, beyond that
ORDERS = 8
#: rows worked on at once
ROWS = 20_000


def explain(
    model: Density, table: Any, unseen: Unseen = "error", extra: Extra = "error"
) -> pd.DataFrame:
    """Split the surprisal of each row into one share a column.

    Parameters
    ----------
    model : Density
        A fitted model.
    table : data frame of n rows
        Any of the fitted columns; NaN cells are integrated out and have share 0.
    unseen, extra
        As in `Density.log_prob`.

    Returns
    -------
    DataFrame (n, columns)
        On the caller's index, one column for each fitted column of the table, in the table's
        order, nats. The shares of a row add up to ``-log_prob`` of the row (to rounding
        error). A share can be negative: a density may exceed 1.

    Notes
    -----
    By the chain rule ``-log p(x) = sum_j -log p(x_j | x before j)`` for any order of the
    columns. The share of a column is the average of its term over all orders (its Shapley
    value) up to 8 columns, and over 8 random orders and their reverses, the same ones at each
    call, beyond that: each order adds up, so the average does. Cost: at most 256 marginal
    densities a row up to 8 columns, 16 d beyond.

    A share is in the units of its column, so compare it with the share that other rows have in
    the same column; `outliers` does so.

    References
    ----------
    Shapley (1953), A value for n-person games. Castro, Gómez and Tejada (2009), Polynomial
    calculation of the Shapley value based on sampling, Computers & Operations Research 36.
    """
    frame = to_frame(table, model.schema_.names)
    scorer = Scorer(model, frame, unseen, extra)
    known = set(model.schema_.names)
    names = [name for name in frame.columns if name in known]
    shares = {name: np.zeros(len(frame)) for name in names}
    for rows in (slice(i, i + ROWS) for i in range(0, len(frame), ROWS)):
        for name, share in zip(scorer.names, _shares(scorer.take(rows)).T, strict=True):
            if name in shares:
                shares[name][rows] = share
    for name, bad in scorer.impossible.items():
        shares[name][bad] = math.inf
    return pd.DataFrame(shares, index=frame.index, columns=pd.Index(names))


def outliers(
    model: Density,
    table: Any,
    samples: int = 2000,
    random_state: int = 0,
    unseen: Unseen = "error",
    extra: Extra = "error",
) -> pd.DataFrame:
    """How odd each row is by the model's own standard, and the column to blame.

    Parameters
    ----------
    model : Density
        A fitted model.
    table : data frame of n rows
        Any of the fitted columns.
    samples : int
        Fresh rows that the model draws for comparison. The cost is ``samples`` densities for
        each column and each pattern of holes.
    random_state : int
        Seed of these rows.
    unseen, extra
        As in `Density.log_prob`.

    Returns
    -------
    DataFrame (n, 5)
        On the caller's index:

        ``surprisal``
            ``-log_prob`` of the row, nats.
        ``tail_prob``
            Share of fresh rows, with the same cells hidden, that are at least as surprising:
            (1 + their number) / (1 + samples).
        ``rank``
            1 for the oddest row: by ``tail_prob``, then by how many standard deviations the
            surprisal lies above that of the fresh rows.
        ``culprit``
            The column whose value, given all other cells of the row, is the most surprising
            beyond what is usual for that column; missing for a row without any cell.
        ``excess``
            By how much, in nats.

    Notes
    -----
    The tail probability trusts the model: it is uniform for rows that the model generates, not
    for any table. All columns but ``surprisal`` are the same in any units.
    """
    if samples < 1:
        raise SchemaError(message(f"samples={samples}", "at least 1", "pass 2000, say"))
    frame = to_frame(table, model.schema_.names)
    scorer = Scorer(model, frame, unseen, extra)
    fresh = Scorer(model, model.sample(samples, random_state=random_state))
    n = len(frame)
    surprisal, tail, far = np.zeros(n), np.ones(n), np.zeros(n)
    excess = np.full((n, len(scorer.names)), -math.inf)
    for seen, rows in scorer.patterns():
        own, usual = scorer.take(rows), fresh.showing(seen)
        surprisal[rows], reference = own.surprisal(), np.sort(usual.surprisal())
        above = samples - np.searchsorted(reference, surprisal[rows] - 1e-9)
        tail[rows] = (1 + above) / (1 + samples)
        spread = reference.std() if seen.any() else 0.0
        far[rows] = (surprisal[rows] - reference.mean()) / max(spread, 1e-12)
        for j in np.flatnonzero(seen).tolist():
            excess[rows, j] = own.conditional(j) - usual.conditional(j).mean()
    for bad in scorer.impossible.values():
        surprisal[bad], tail[bad], far[bad] = math.inf, 1 / (1 + samples), math.inf
    rank = np.empty(n, dtype=np.int64)
    rank[np.lexsort((-far, tail))] = np.arange(1, n + 1)
    culprit, worst = _blame(excess, scorer.names)
    for name, bad in scorer.impossible.items():
        culprit[bad], worst[bad] = name, math.inf
    return pd.DataFrame(
        {"surprisal": surprisal, "tail_prob": tail, "rank": rank, "culprit": culprit,
         "excess": worst}, index=frame.index,
    )  # fmt: skip


def _blame(excess: Floats, names: list[Hashable]) -> tuple[NDArray[np.object_], Floats]:
    """The column of the largest excess of each row, and that excess."""
    n = len(excess)
    if not names:
        return np.full(n, None, dtype=object), np.full(n, np.nan)
    worst, at = excess.max(1), excess.argmax(1)
    none = worst == -math.inf
    labels = np.empty(len(names), dtype=object)
    labels[:] = names
    culprit = labels[at]
    culprit[none] = None
    worst[none] = math.nan
    return culprit, worst


class Scorer:
    """Log densities of the rows of a table with columns hidden at will.

    Values outside the support are hidden, and listed in `impossible`: their rows have
    infinite surprisal, but the other cells can still be judged.
    """

    def __init__(
        self, model: Density, frame: pd.DataFrame, unseen: Unseen = "error", extra: Extra = "error"
    ) -> None:
        schema = model.schema_
        self.model, self.predictive = model, model._predictive()
        #: columns that have slots, and these
        self.names: list[Hashable] = []
        self.slots: list[list[int]] = []
        for name in schema.names:
            if slots := schema.slots_of([name]):
                self.names.append(name)
                self.slots.append(slots)
        encoded = encode(frame, schema, unseen=unseen, extra=extra)
        #: rows (n,) whose value in a column lies outside the support, by column
        self.impossible = _impossible(model, frame, encoded, unseen)
        for name, bad in self.impossible.items():
            for slot in schema.slots_of([name]):
                encoded.seen[bad, slot] = False
        self.batch = model._batch(encoded, model._device)

    def _with(self, batch: Batch) -> Scorer:
        other = Scorer.__new__(Scorer)
        other.__dict__.update(self.__dict__, batch=batch)
        return other

    def take(self, rows: Any) -> Scorer:
        """The same for some rows."""
        at = rows if isinstance(rows, slice) else torch.as_tensor(rows)
        return self._with(self.batch.take(at))

    def seen(self) -> Bools:
        """Which columns of which rows are seen, (n, columns)."""
        if not self.slots:
            return np.zeros((len(self.batch), 0), dtype=bool)
        first = [slots[0] for slots in self.slots]
        return self.batch.seen[:, first].cpu().numpy()

    def patterns(self) -> Iterator[tuple[Bools, NDArray[np.intp]]]:
        """(columns seen, rows) for each pattern of holes."""
        seen = self.seen()
        if not len(seen):
            return
        kinds, which = np.unique(seen, axis=0, return_inverse=True)
        for k, pattern in enumerate(kinds):
            yield pattern, np.flatnonzero(which.reshape(-1) == k)

    def showing(self, columns: Bools) -> Scorer:
        """The same rows with only these columns seen."""
        keep = self.batch.seen.new_zeros(self.batch.seen.shape[1])
        for place in np.flatnonzero(columns):
            keep[self.slots[place]] = True
        seen = self.batch.seen & keep
        assert self.batch.x is not None  # noqa: S101 - made from encoded rows
        x = torch.where(seen, self.batch.x, 0.0)
        return self._with(replace(self.batch, x=x, seen=seen, complete=False, key=None))

    def surprisal(self) -> Floats:
        """-log p of the seen cells of each row (n,), nats, table units."""
        batch = self.batch
        assert batch.x is not None  # noqa: S101 - made from encoded rows
        with torch.no_grad():
            value = queries.log_prob(self.predictive, batch).value.double()
            value = value + self.model.schema_.log_det(batch.x, batch.seen)
        return -value.cpu().numpy()

    def conditional(self, place: int) -> Floats:
        """-log p of one column given the other seen cells (n,), nats."""
        others = np.ones(len(self.names), dtype=bool)
        others[place] = False
        return self.surprisal() - self.showing(others).surprisal()


def _impossible(
    model: Density, frame: pd.DataFrame, encoded: Encoded, unseen: Unseen
) -> dict[Hashable, Bools]:
    """Rows with a value outside the support, by column."""
    found: dict[Hashable, Bools] = {}
    rows = np.flatnonzero(encoded.illegal)
    if not len(rows):
        return found
    part = frame.iloc[rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # said when the table was encoded
        for name in model.schema_.names:
            if name in part.columns and model.schema_[name].role != "context":
                own = encode(part[[name]], model.schema_, unseen=unseen)
                if own.illegal.any():
                    found[name] = np.zeros(len(frame), dtype=bool)
                    found[name][rows[own.illegal]] = True
    return found


def _shares(scorer: Scorer) -> Floats:
    """Shares (n, columns) of the surprisal of each row."""
    d = len(scorer.names)
    seen = scorer.seen()
    shares = np.zeros(seen.shape)
    # columns that no row shows take part in no order
    used = np.flatnonzero(seen.any(0))
    for subset, factor in _terms(len(used)):
        columns = np.zeros(d, dtype=bool)
        columns[used[list(subset)]] = True
        with np.errstate(invalid="ignore"):
            shares[:, used] += scorer.showing(columns).surprisal()[:, None] * factor
    shares[~seen] = 0.0
    _blame_zero_density(scorer, seen, shares)
    return shares


def _blame_zero_density(scorer: Scorer, seen: Bools, shares: Floats) -> None:
    """Rows of density 0: the columns that are impossible alone, or else all that are seen."""
    rows = np.flatnonzero(~np.isfinite(shares).all(1))
    if not len(rows):
        return
    part = scorer.take(rows)
    alone = np.stack([part.showing(one).surprisal() for one in np.eye(seen.shape[1], dtype=bool)])
    guilty = (alone == math.inf).T
    guilty |= seen[rows] & ~guilty.any(1, keepdims=True)
    shares[rows] = np.where(guilty, math.inf, 0.0)


def _terms(d: int) -> list[tuple[tuple[int, ...], Floats]]:
    """Sets of columns, and how the surprisal of each set enters the share of each column."""
    if d <= ALL_ORDERS:
        return [
            (subset, _weights(d, subset))
            for size in range(1, d + 1)
            for subset in combinations(range(d), size)
        ]
    rng = np.random.default_rng(0)
    orders = [rng.permutation(d) for _ in range(ORDERS)]
    orders += [order[::-1] for order in orders]
    factors: dict[tuple[int, ...], Floats] = {}
    for order in orders:
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
