"""Rows scored by a fitted density, with every error of the scores that is known."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probgen import queries
from probgen.density import Density
from probgen.errors import ApproximationWarning, DataWarning
from probgen.schema import Schema
from probgen.table import encode
from probgen.verbs.base import WORST_SHAPE

__all__ = ["Scores", "average_over_cells", "conditioned", "score"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Log densities of n rows under one model.

    Attributes
    ----------
    log_p : ndarray (n,)
        Nats, table units; -inf where a row has density 0.
    se : ndarray (n,)
        Monte Carlo standard error of each; 0 where it is exact.
    members : ndarray (r, n)
        The same by restart; of one restart only, no rows.
    method : str
        As `log_prob(details=True)` says it.
    doubtful : int
        Rows with importance weights that are too uneven (Pareto k-hat above 0.7): their `se`
        is too small.
    """

    log_p: Floats
    se: Floats
    members: Floats
    method: str
    doubtful: int = 0

    def monte_carlo(self, share: Floats) -> float:
        """Error of the mean log density from importance sampling, nats a row.

        Rows have noise of their own, so their errors add up as squares. The logarithm of an
        estimate is too low by half its squared error on average, which all rows share.
        """
        spread = math.sqrt(float(np.square(share * self.se).sum()))
        return math.hypot(spread, 0.5 * float(share @ np.square(self.se)))

    def restarts(self, share: Floats) -> float:
        """Error of the mean log density from the luck of the restarts, nats a row."""
        finite = np.isfinite(self.members).all(0)
        if len(self.members) < 2 or not finite.any():
            return 0.0
        means = self.members[:, finite] @ share[finite]
        return float(means.std(ddof=1) / math.sqrt(len(means)))


def conditioned(model: Density, given: Sequence[Hashable]) -> bool:
    """Whether a fitted model takes the given columns as context, rather than in its verbs."""
    return bool(given) and any(c.role == "context" for c in model.schema_.columns)


def score(
    model: Density,
    frame: pd.DataFrame,
    given: Sequence[Hashable] = (),
    restarts: bool = True,
) -> Scores:
    """Score rows in the table's units; a level that the fit did not see has its reserved mass.

    Parameters
    ----------
    model : Density
        Fitted.
    frame : data frame of n rows
    given : sequence of column names
        Columns to condition on; a model that was fitted with them as context takes the rows
        as they are.
    restarts : bool
        Whether to score each restart alone as well.

    Returns
    -------
    Scores
        Cost: with r restarts, that of scoring the rows r + 1 times.
    """
    known, rows = None, frame
    if given and not conditioned(model, given):
        known, rows = frame[list(given)], frame.drop(columns=list(given))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # rows of density 0 are counted,
        warnings.simplefilter("ignore", ApproximationWarning)  # and those with a bad k-hat
        found = model.log_prob(rows, given=known, details=True, unseen="rare")
        members = _by_restart(model, rows, known) if restarts else np.zeros((0, len(rows)))
    method = str(found["method"].iloc[0]) if len(found) else "exact"
    finite = np.isfinite(found["log_prob"].to_numpy())
    se = np.where(finite, found["se"].to_numpy(np.float64), 0.0)
    doubtful = int((found["khat"].to_numpy(np.float64) > WORST_SHAPE).sum())
    return Scores(found["log_prob"].to_numpy(np.float64), se, members, method, doubtful)


def _by_restart(model: Density, rows: pd.DataFrame, known: pd.DataFrame | None) -> Floats:
    """Log densities (r, n) of each restart alone."""
    predictive = model._predictive()
    count = len(predictive.members)
    if count < 2:
        return np.zeros((0, len(rows)))
    total = np.zeros((count, len(rows)))
    for frame, sign in ((rows if known is None else rows.join(known), 1.0), (known, -1.0)):
        if frame is None:
            continue
        encoded = encode(frame, model.schema_, unseen="rare")
        batch = model._batch(encoded, model._device)
        with torch.no_grad():
            shift = model.schema_.log_det(queries.encoded(batch), batch.seen)
            for r in range(count):
                value = queries.log_prob(predictive.of(r), batch).value.double() + shift
                total[r] += sign * np.where(encoded.illegal, -math.inf, value.cpu().numpy())
    return total


def average_over_cells(
    model: Density, frame: pd.DataFrame, given: Sequence[Hashable], points: int
) -> Floats:
    """Log of the mean density (n,) over the cell to which each gridded value was rounded.

    A rounded value stands for its cell. The average is over `points` points of a lattice in
    the cells of all gridded columns at once; parts of a cell outside the support are left out.
    Cost: that of scoring the rows `points` times.
    """
    names = gridded(model.schema_, frame, given)
    total = np.full(len(frame), -math.inf)
    for place in range(points):
        moved = frame.copy()
        for number, name in enumerate(names):
            column = model.schema_[name]
            at = (0.5 + (place + 1) * _steps(len(names))[number]) % 1.0
            lower, upper = column.support()
            half = 0.5 * float(column.grid or 0.0)
            value = frame[name].to_numpy(np.float64, na_value=np.nan)
            low, high = np.maximum(value - half, lower), np.minimum(value + half, upper)
            own = np.isin(value, column.atoms)
            moved[name] = np.where(own, value, low + at * (high - low))
        total = np.logaddexp(total, score(model, moved, given, restarts=False).log_p)
    return total - math.log(points)


def gridded(schema: Schema, frame: pd.DataFrame, given: Sequence[Hashable]) -> list[Hashable]:
    """Modelled columns of decimal numbers that are rounded."""
    return [
        c.name for c in schema.columns
        if c.grid and c.role == "modelled" and c.kind != "date" and c.name in frame
        and c.name not in given and pd.api.types.is_float_dtype(frame[c.name].dtype)
    ]  # fmt: skip


def _steps(count: int) -> Floats:
    """Steps of the additive recurrence of lowest discrepancy (Roberts 2018): powers of 1 / phi."""
    phi = 2.0
    for _ in range(40):
        phi = (1 + phi) ** (1 / (count + 1))
    return phi ** -np.arange(1.0, count + 1)
