"""Odd rows: surprisal, p-values, flags under a false discovery rate, and the cells to blame.

Surprisal is ``-log p(row)``, in nats; larger is stranger. Its level depends on the units of the
table and on which cells are seen, so everything that ranks, flags or blames compares a row with
other rows of which the same cells are seen: those comparisons do not change when a column is
rescaled.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone

from probgen.calibration import Calibration
from probgen.density import Density
from probgen.errors import DataWarning, SchemaError, message, warn
from probgen.outliers.conformal import adjusted, at_least, flags_needed
from probgen.outliers.judging import Findings, blame, joined, judge
from probgen.outliers.scorer import Extra, Scorer, Unseen, patterns
from probgen.session import spawn_seeds
from probgen.table import to_frame

__all__ = ["outliers"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Places = NDArray[np.intp]
#: reference rows scored, over all patterns of holes; beyond it each pattern sees a random part
SCORED = 4_000_000
#: but no fewer than this
LEAST_REFERENCE = 1000
#: share of rows equal to fitted ones from which a table is called fitted
FITTED = 0.2


def outliers(
    model: Density,
    table: Any,
    fdr: float | None = 0.05,
    folds: int | None = None,
    method: Literal["auto", "model"] = "auto",
    samples: int = 2000,
    random_state: int = 0,
    unseen: Unseen = "error",
    extra: Extra = "error",
) -> pd.DataFrame:
    """How odd each row is, whether to flag it, and the column to blame.

    Parameters
    ----------
    model : Density
        A fitted model.
    table : data frame of n rows
        Any of the fitted columns; NaN cells are integrated out.
    fdr : float, optional
        False discovery rate, in (0, 1): the share of false ones to be expected among the rows
        that are flagged (Benjamini and Hochberg). None flags nothing.
    folds : int, optional
        For the rows that the model was fitted to: each row is judged by a refit that did not see
        its fold. All columns of the result are then those of the refits. The settings are those
        of the model, the schema is its schema, and each row counts once.
    method : {"auto", "model"}
        Where p-values come from. "auto": ranks among the rows of other folds, if `folds` are
        asked for; ranks among the rows that ``fit(table, calibration=...)`` held apart, if there
        are any; the tail probability otherwise. "model": the tail probability.
    samples : int
        Fresh rows that the model draws for comparison. The cost is ``samples`` densities for
        each column and each pattern of holes. A model with context columns draws up to 200 rows
        in the context of each row instead.
    random_state : int
        Seed of these rows and of the folds.
    unseen, extra
        As in `Density.log_prob`.

    Returns
    -------
    DataFrame (n, 9)
        On the caller's index:

        ``surprisal``
            ``-log_prob`` of the row, nats.
        ``p_value``
            How rare a row as surprising is among the rows it is compared with.
        ``q_value``
            The smallest `fdr` at which the row is flagged.
        ``flag``
            ``q_value <= fdr``; left out where `fdr` is None.
        ``tail_prob``
            Share of fresh rows, with the same cells hidden, that are at least as surprising:
            (1 + their number) / (1 + samples).
        ``rank``
            1 for the oddest row: by ``tail_prob``, then by how many standard deviations the
            surprisal lies above that of the fresh rows.
        ``culprit``
            The column whose value, given all other cells of the row, is the most surprising
            beyond what is usual for that column; missing for a row without any cell, and where
            the family cannot leave columns out.
        ``excess``
            By how much, in nats.
        ``method``
            Where the p-value comes from: "split-conformal", "cross-conformal" or "model".

    Warns
    -----
    DataWarning
        If no row could be flagged at this `fdr`, however odd, or if a table that looks like the
        fitted one is judged by rows held apart.

    Notes
    -----
    *Split-conformal* p-values hold for new rows exchangeable with those held apart, whatever the
    model: ``P(p_value <= a) <= a``. They do not hold for rows that were fitted, to which the
    model has adapted: ask for `folds`. Rows that were held apart may be asked about. Rows with
    holes are compared with the rows held apart in which the same cells are seen, all others
    hidden; that asks for cells missing completely at random. The rate of false flags is
    controlled where rows share their comparison (Bates et al. 2023).

    *Cross-conformal* p-values are ranks of the rows among themselves, each scored by a refit that
    did not see it. With folds drawn at random the scores of exchangeable rows are exchangeable,
    so these are valid too (for a new row the bound is ``P(p_value <= a) <= 2 a``: Barber et al.
    2021). But the oddest of n rows has at best 1 / n, the second 2 / n, and so on, so no false
    discovery rate below 1 ever flags any of them: without rows known to be sound, that some row
    is the oddest proves nothing. Flag by ``method="model"`` then, or fit to rows you trust.

    The *tail probability* trusts the model: it is uniform for rows that the model generates, not
    for any table.

    All columns but ``surprisal`` are the same in any units. With very many patterns of holes the
    comparison is with a random part of the rows, 1000 at least.

    References
    ----------
    Vovk, Gammerman and Shafer (2005), Algorithmic Learning in a Random World.
    Vovk (2015), Cross-conformal predictors, Annals of Mathematics and AI 74.
    Barber, Candès, Ramdas and Tibshirani (2021), Predictive inference with the jackknife+,
    Annals of Statistics 49.
    Bates, Candès, Lei, Romano and Sesia (2023), Testing for outliers with conformal p-values,
    Annals of Statistics 51.

    Examples
    --------
    >>> import numpy as np, pandas as pd, probgen as pg
    >>> rng = np.random.default_rng(0)
    >>> old, new = (pd.DataFrame(rng.normal(size=(n, 2)), columns=["a", "b"]) for n in (500, 9))
    >>> new.loc[4] = [0.2, 8.0]
    >>> model = pg.GaussianMixture(1, random_state=0).fit(old, calibration=0.4)
    >>> found = model.outliers(new)
    >>> found.loc[found["flag"], ["p_value", "culprit", "method"]].round(3)
       p_value culprit           method
    4    0.005       b  split-conformal
    """
    _check(fdr, method, samples)
    frame = to_frame(table, model.schema_.names)
    calibration: Calibration | None = getattr(model, "calibration_", None)
    if folds is not None:
        frame = _whole_columns(model, frame, extra)
        parts = list(_refits(model, frame, folds, random_state, unseen))
        found = joined([
            (rows, judge(own, frame.iloc[rows], samples, random_state)) for rows, own in parts
        ])  # fmt: skip
        how = "cross-conformal"
    else:
        own = Scorer.of(model, frame, unseen, extra)
        parts = [(np.arange(len(frame)), own)]
        found = judge(own, frame, samples, random_state)
        how = "model" if calibration is None else "split-conformal"
    how = "model" if method == "model" else how
    if how == "model":
        p, least = found.tail, found.least
    elif calibration is not None and folds is None:
        _warn_if_fitted(calibration, parts[0][1])
        p = _ranked(parts, [Scorer.of_calibration(model, calibration, unseen)], None)
        least = 1 / (1 + len(calibration))
    else:
        p = _ranked(parts, [scorer for _, scorer in parts], [rows for rows, _ in parts])
        least = 1 / max(1, len(frame))
    _warn_if_idle(fdr, how, least, len(frame))
    return _report(found, p, how, fdr, frame.index)


def _check(fdr: float | None, method: str, samples: int) -> None:
    number = isinstance(fdr, int | float | np.number) and not isinstance(fdr, bool)
    if fdr is not None and not (number and 0 < fdr < 1):
        raise SchemaError(message(f"fdr={fdr!r}", "0 < fdr < 1, or None", "pass 0.05, say"))
    if method not in ("auto", "model"):
        raise SchemaError(message(f"method={method!r}", "'auto' or 'model'", "choose one"))
    if samples < 1:
        raise SchemaError(message(f"samples={samples}", "at least 1", "pass 2000, say"))


# --- by other rows ----------------------------------------------------------------------------


def _whole_columns(model: Density, frame: pd.DataFrame, extra: Extra) -> pd.DataFrame:
    """The fitted columns of a table to refit."""
    names = list(model.schema_.names)
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise SchemaError(message(
            f"folds for a table without column(s) {missing}", f"all fitted columns {names}",
            "pass the whole table, or leave folds out",
        ))  # fmt: skip
    return frame[names] if extra == "ignore" else frame


def _refits(
    model: Density, frame: pd.DataFrame, folds: int, seed: int, unseen: Unseen
) -> Iterator[tuple[Places, Scorer]]:
    """Rows of each fold, to be scored by a fit to all others."""
    n = len(frame)
    whole = isinstance(folds, int | np.integer) and not isinstance(folds, bool)
    if not whole or not 2 <= folds <= n:
        raise SchemaError(message(
            f"folds={folds!r} for {n} rows", "2 folds or more, and a row in each", "change folds"
        ))  # fmt: skip
    order = np.random.default_rng(seed).permutation(n)
    for part, own_seed in zip(
        np.array_split(order, folds), spawn_seeds(seed, int(folds)), strict=True
    ):
        rows = np.sort(part)
        # in random order: scores are exchangeable only if no place in the table is special
        rest = order[~np.isin(order, part)]
        given = [c.name for c in model.schema_.columns if c.role == "context"]
        refit = clone(model).set_params(
            schema=model.schema_, columns=None, random_state=own_seed % 2**31
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # said when the model was fitted
            refit.fit(frame.iloc[rest], given=given)
        yield rows, Scorer.of(refit, frame.iloc[rows], unseen)


def _ranked(
    parts: list[tuple[Places, Scorer]], reference: list[Scorer], places: list[Places] | None
) -> Floats:
    """Conformal p-values (n,) of all rows, pattern by pattern of their cells.

    `places` says which rows of the table the reference rows are, where they are such rows: a
    row is not compared with itself.
    """
    n = sum(len(rows) for rows, _ in parts)
    held = np.zeros((n, len(reference[0].names)), dtype=bool)
    # which part a row is in, and its place there
    home, place = np.zeros(n, dtype=np.intp), np.zeros(n, dtype=np.intp)
    for number, (rows, own) in enumerate(parts):
        held[rows], home[rows], place[rows] = own.held(), number, np.arange(len(rows))
    kinds = list(patterns(held))
    chosen, keep = _some(reference, max(LEAST_REFERENCE, SCORED // max(1, len(kinds))))
    inside = np.zeros(n, dtype=bool)
    if places is not None:
        inside[np.concatenate(places)[keep]] = True
    p = np.ones(n)
    for pattern, rows in kinds:
        other = np.concatenate([part.comparable(pattern) for part in chosen])
        for number in np.unique(home[rows]):
            some = rows[home[rows] == number]
            scores = parts[number][1].take(place[some]).comparable(pattern)
            # a row among its own reference is counted once: as itself
            itself = inside[some]
            p[some] = (1 + at_least(scores, other) - itself) / (1 + len(other) - itself)
    return p


def _some(reference: list[Scorer], most: int) -> tuple[list[Scorer], Bools]:
    """At most so many of the reference rows, drawn at random, and which they are."""
    count = sum(len(part) for part in reference)
    keep = np.ones(count, dtype=bool)
    if count > most:
        keep[np.random.default_rng(0).permutation(count)[most:]] = False
    ends = np.cumsum([len(part) for part in reference])[:-1]
    pairs = zip(reference, np.split(keep, ends), strict=True)
    return [part.take(own) for part, own in pairs], keep


def _warn_if_fitted(calibration: Calibration, own: Scorer) -> None:
    """Say so where rows of a table with real columns equal rows of the fit."""
    if not len(own) or not any(slot.kind == "real" for slot in own.model.schema_.slots):
        return
    share = calibration.share_fitted(own.batch)
    if share >= FITTED:
        warn(message(
            f"a table of which about {share:.0%} of the rows were fitted",
            "new rows: p-values by rows held apart are not valid for fitted ones",
            "pass folds=5 to judge the fitted table, or leave its rows out",
        ))  # fmt: skip


def _warn_if_idle(fdr: float | None, how: str, least: float, n: int) -> None:
    """Say so where no row could be flagged, however odd."""
    if fdr is None or not n:
        return
    ranks = how == "cross-conformal"
    if not ranks and flags_needed(least, n, fdr) <= n:
        return
    found = f"a smallest possible p-value of {least:.3g} for {n} row(s) at fdr={fdr:g}"
    needed = f"{least:.3g} <= fdr, or no row can be flagged"
    do = "hold more rows apart in fit, draw more samples, or raise fdr"
    if ranks:
        found = f"ranks of {n} rows among themselves: the k-th oddest has k / {n} at best"
        needed = "rows known to be sound, or no row can be flagged at any fdr"
        do = (
            "fit to such rows with calibration=, trust the model by method='model', or pass "
            "fdr=None and read p_value as a rank"
        )
    warn(message(found, needed, do))


def _report(
    found: Findings, p: Floats, how: str, fdr: float | None, index: pd.Index
) -> pd.DataFrame:
    rank = np.empty(len(p), dtype=np.int64)
    rank[np.lexsort((-found.far, found.tail))] = np.arange(1, len(p) + 1)
    culprit, worst = blame(found.excess, found.names)
    for name, bad in found.impossible.items():
        culprit[bad], worst[bad] = name, math.inf
    q = adjusted(p)
    columns: dict[str, Any] = {"surprisal": found.surprisal, "p_value": p, "q_value": q}
    if fdr is not None:
        columns["flag"] = q <= fdr
    columns |= {"tail_prob": found.tail, "rank": rank, "culprit": culprit, "excess": worst}
    frame = pd.DataFrame(columns, index=index)
    frame["method"] = how
    return frame
