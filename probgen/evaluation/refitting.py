"""Scores of rows by models that did not see them: clones with the same schema."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from probgen.diagnostics.loo import BAD_KHAT, Loo
from probgen.diagnostics.posterior import kind
from probgen.errors import ApproximationWarning, DataWarning, NotSupported, SchemaError, message
from probgen.errors import warn as say
from probgen.evaluation.folds import assign_folds, refitted
from probgen.evaluation.loo import leave_one_out, summed
from probgen.nuts import NUTS
from probgen.table import encode, to_frame

__all__ = ["loo"]

Floats = NDArray[np.float64]
METHODS = ("auto", "folds")


def loo(
    model: Any,
    table: Any,
    *,
    draws: int | None = None,
    refit: int = 0,
    folds: int = 10,
    method: str = "auto",
    weight: Floats | None = None,
) -> Loo:
    """Leave-one-out of a fitted estimator; `Density.loo` describes it."""
    if method not in METHODS:
        raise SchemaError(message(
            f"method={method!r}", f"one of {list(METHODS)}", "correct the call"
        ))  # fmt: skip
    traits = model._traits
    if traits.density == "none" or not traits.normalised:
        raise NotSupported(message(
            f"leave-one-out of a {type(model).__name__}, which has no normalised density",
            "a family with a normalised density", "compare its samples instead",
        ))  # fmt: skip
    frame = to_frame(table, model.schema_.names)
    encoded = encode(frame, model.schema_)
    ones = np.ones(len(frame)) if weight is None else weight
    if method == "folds" or kind(model) in ("none", "parts"):
        return _by_folds(model, frame, folds, weight, ones)
    rows, fitted, how, notes = leave_one_out(model, encoded, weight, draws)
    bad = rows.index.to_numpy()[:0]
    places = np.flatnonzero(rows["khat"].to_numpy() > BAD_KHAT)
    if len(places) and refit:
        places, bad = _refit(model, frame, rows, places, refit, weight)
        how += f", {len(bad)} row(s) by refits"
    if len(places):
        say(message(
            f"Pareto k-hat above {BAD_KHAT} in {len(places)} of {len(rows)} row(s): leave-one-out "
            "may be off by more than its stated error", "weights that are even enough",
            f"pass refit={len(places)}, or method='folds'",
        ), ApproximationWarning)  # fmt: skip
    return summed(rows, fitted, ones, how, notes)


def _refit(
    model: Any, frame: pd.DataFrame, rows: pd.DataFrame, places: Any, most: int, weight: Any
) -> tuple[Any, Any]:
    """Score the worst rows by fits without them, in place; what is left, and what was done."""
    khat = rows["khat"].to_numpy()
    order = places[np.argsort(-khat[places], kind="stable")]
    done, left = order[:most], np.sort(order[most:])
    for place in done:
        own = np.ones(len(frame)) if weight is None else weight.copy()
        own[place] = max(own[place] - 1, 0.0)  # one copy of the row
        value, se = _without(model, frame, own, np.array([place]))
        at = rows.columns.get_indexer(["elpd", "khat", "se", "method"])
        for column, number in zip(at, (value[0], math.nan, se[0], "refit"), strict=True):
            rows.iloc[place, column] = number
    return left, done


def _by_folds(
    model: Any, frame: pd.DataFrame, folds: int, weight: Floats | None, ones: Floats
) -> Loo:
    n = len(frame)
    folds = min(folds, n)
    elpd, se = np.full(n, math.nan), np.full(n, math.nan)
    fold = assign_folds(frame, model.schema_, folds, 0)
    for number in range(folds):
        test = np.flatnonzero(fold == number)
        own = ones.copy()
        own[test] = 0.0
        elpd[test], se[test] = _without(model, frame, own, test)
    rows = pd.DataFrame({"elpd": elpd, "khat": math.nan, "se": se}, index=frame.index)
    why = {
        "none": " (a point estimate: no posterior to leave a row out of)",
        "parts": " (each part has a posterior of its own)",
    }.get(kind(model), "")
    fitted = model.log_prob(frame).to_numpy()
    return summed(rows.assign(method="folds"), fitted, ones, f"{folds}-fold refits{why}")


def _without(model: Any, frame: pd.DataFrame, weight: Floats, rows: Any) -> tuple[Floats, Floats]:
    """Log density of rows, and its error, under a clone fitted to the others by `weight`."""
    seed = getattr(model, "seed_", None)
    context = [column.name for column in model.schema_.columns if column.role == "context"]
    how: dict[str, Any] = {}
    if model.result_.engine == "nuts":  # as it was fitted, not by its guide
        chain = model.result_.chain
        how["inference"] = NUTS(warmup=int(chain["warmup"]), steps=int(chain["steps"]))
    keep = weight > 0
    whole = bool((weight[keep] == 1).all())
    with warnings.catch_warnings():  # said when the model was fitted
        for category in (DataWarning, ConvergenceWarning):
            warnings.simplefilter("ignore", category)
        own = refitted(
            model, model.schema_, frame[keep], None if whole else weight[keep], context,
            model.result_.seed if seed is None else seed, **how,
        )  # fmt: skip
        found = own.log_prob(frame.iloc[rows], details=True)
    return found["log_prob"].to_numpy(), found["se"].to_numpy()
