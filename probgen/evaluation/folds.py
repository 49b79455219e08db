"""Held-out log densities by K-fold, with one schema and the same folds for every estimator."""

from __future__ import annotations

import time
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from probgen.batch import row_keys
from probgen.density import Density
from probgen.errors import DataWarning, SchemaError, message
from probgen.evaluation.scoring import Scores, average_over_cells, gridded, score
from probgen.schema import Schema
from probgen.table import encode

__all__ = ["Folded", "assign_folds", "folded", "refitted"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Folded:
    """Held-out scores of one estimator, and the seconds that all its fits took.

    `cells` (n,) are averages over the cells of gridded columns, where they were asked for;
    `failed` counts the fits that did not converge.
    """

    scores: Scores
    seconds: float
    cells: Floats | None
    traits: Any
    failed: int


def assign_folds(frame: pd.DataFrame, schema: Schema, folds: int, seed: int) -> Ints:
    """The fold of each row of a table, at random and as even as can be.

    Equal rows that hold a real number are copies of one row and share a fold: a fit would
    know them. Other equal rows, of levels and counts, are equal by chance and do not.

    Raises
    ------
    SchemaError
        Unless there are 2 folds or more, and two rows outside each.
    """
    n = len(frame)
    whole = isinstance(folds, int | np.integer) and not isinstance(folds, bool)
    if not whole or not 2 <= folds <= n or n - -(-n // folds) < 2:
        raise SchemaError(message(
            f"folds={folds!r} for {n} rows", "2 folds or more, a row in each and two outside it",
            "change folds",
        ))  # fmt: skip
    group = _copies(frame, schema)
    count = int(group.max()) + 1
    if count < folds:  # a table of few rows, each many times
        group, count = np.arange(n), n
    return np.random.default_rng(seed).permutation(np.arange(count) % folds)[group]


def _copies(frame: pd.DataFrame, schema: Schema) -> Ints:
    """A number for each row (n,), by first appearance; copies of a row share theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        encoded = encode(frame, schema, unseen="rare")
    real = [
        place for place, slot in enumerate(schema.slots)
        if slot.kind == "real" and not schema.columns[slot.column].grid
    ]  # fmt: skip
    key = row_keys(torch.from_numpy(encoded.x), torch.from_numpy(encoded.seen)).numpy()
    number, _ = pd.factorize(key)
    chance = ~encoded.seen[:, real].any(1)
    number[chance] = len(frame) + np.flatnonzero(chance)
    return np.asarray(pd.factorize(number)[0], np.int64)


def refitted(
    estimator: Density,
    schema: Schema,
    frame: pd.DataFrame,
    weight: Floats | None,
    given: Sequence[Hashable],
    seed: int,
    **how: Any,
) -> Density:
    """A clone fitted to some rows, with the columns described as in the whole table.

    A family that conditions on columns gets `given` as context; any other models them too.
    An estimator without a seed of its own gets this one. `how` goes to `fit`.
    """
    own = clone(estimator)
    context = list(given) if own.family.takes_context else []
    own.set_params(schema=schema.with_context(context), columns=None)
    if own.random_state is None:
        own.set_params(random_state=seed % 2**31)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # said of the whole table, not fold by fold
        return own.fit(frame, sample_weight=weight, given=context, **how)


def folded(
    estimators: Mapping[str, Density],
    frame: pd.DataFrame,
    schema: Schema,
    fold: Ints,
    seed: int,
    weight: Floats | None = None,
    given: Sequence[Hashable] = (),
    points: int = 0,
) -> dict[str, Folded]:
    """Score each row under fits that did not see its fold.

    Parameters
    ----------
    estimators : dict of Density
        Unfitted; they are cloned.
    frame : data frame of n rows
    schema : Schema
        Of the whole table.
    fold : ndarray (n,)
        See `assign_folds`.
    seed : int
        Of estimators without one.
    weight : ndarray (n,), optional
    given : sequence of column names
    points : int
        Points by which densities are averaged over grid cells; 0 leaves it out.

    Returns
    -------
    dict of Folded
        Cost: as many fits of each estimator as there are folds.
    """
    found = {}
    for name, estimator in estimators.items():
        parts: list[tuple[Ints, Scores, Floats | None]] = []
        seconds, failed, model = 0.0, 0, estimator
        for number in np.unique(fold):
            out = np.flatnonzero(fold == number)
            rest = np.flatnonzero(fold != number)
            clock = time.perf_counter()
            own = None if weight is None else weight[rest]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # counted
                model = refitted(
                    estimator, schema, frame.iloc[rest], own, given, seed + int(number)
                )
            seconds += time.perf_counter() - clock
            failed += not model.converged_
            held = frame.iloc[out]
            cells = None
            if points and gridded(model.schema_, held, given):
                cells = average_over_cells(model, held, given, points)
            parts.append((out, score(model, held, given), cells))
        found[name] = _joined(parts, seconds, len(frame), model._traits, failed)
    return found


def _joined(parts: list[Any], seconds: float, n: int, traits: Any, failed: int) -> Folded:
    log_p, se = np.zeros(n), np.zeros(n)
    count = max(len(scores.members) for _, scores, _ in parts)
    members = np.zeros((count, n))
    cells = None if any(own is None for *_, own in parts) else np.zeros(n)
    for rows, scores, own in parts:
        log_p[rows], se[rows] = scores.log_p, scores.se
        if count:
            members[:, rows] = scores.members
        if cells is not None:
            cells[rows] = own
    doubtful = sum(scores.doubtful for _, scores, _ in parts)
    methods = sorted({m for _, scores, _ in parts for m in scores.method.split("+")})
    return Folded(
        Scores(log_p, se, members, "+".join(methods), doubtful), seconds, cells, traits, failed
    )
