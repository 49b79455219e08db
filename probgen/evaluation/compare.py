"""The leaderboard: densities ranked by the log density of rows that they did not see."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probgen.density import Density
from probgen.door import check_weight
from probgen.errors import SchemaError, message
from probgen.evaluation.comparison import APART, Comparison
from probgen.evaluation.folds import assign_folds, folded
from probgen.evaluation.measures import require_density, require_one_measure
from probgen.evaluation.scoring import Scores, average_over_cells, conditioned, gridded, score
from probgen.evaluation.sklearn_density import wrapped
from probgen.evaluation.stacking import stacking_weights
from probgen.schema import Schema
from probgen.table import to_frame

__all__ = ["compare", "shared_schema"]

Floats = NDArray[np.float64]
#: folds where the caller leaves their number open
FOLDS = 5
#: rows, and difference of the totals in nats, below which standard errors are not to be relied
#: on (Sivula, Magnusson and Vehtari 2020)
FEW, CLOSE = 100, 4.0


@dataclass(frozen=True)
class _Entry:
    """One model on the leaderboard."""

    scores: Scores
    seconds: float
    cells: Floats | None
    method: str
    failed: int


def compare(
    models: Mapping[str, Any],
    table: Any,
    folds: int | None = None,
    given: Sequence[Hashable] = (),
    random_state: int = 0,
    sample_weight: Any = None,
    columns: Mapping[Hashable, Any] | None = None,
    cells: int = 8,
) -> Comparison:
    """Rank densities by the log density of rows that they did not see.

    Fitted models are scored as they are: `table` must then hold rows that none of them was
    fitted to. With `folds`, or where some model is not fitted, all are cloned and fitted anew
    to each K - 1 of K parts of `table`, with one schema and the same folds for all, and score
    the part left out.

    Parameters
    ----------
    models : dict
        By name: densities of probgen, or scikit-learn's (`KernelDensity`, `GaussianMixture`, a
        pipeline that ends in one), which are wrapped as `SklearnDensity` and fitted anew.
    table : data frame of n rows
    folds : int, optional
        Number K of folds. None: 5 where some model is not fitted, else none.
    given : sequence of column names
        Columns to condition on: compares p(other columns given these). Families that take
        context are fitted with them as context, others model them too and condition by
        the rules of probability.
    random_state : int
        Seed of the folds, and of models without a seed of their own.
    sample_weight : array (n,), optional
        Frequency weights of the rows.
    columns : dict, optional
        Kinds by column name that override inference, where models are fitted here.
    cells : int
        Points by which the density is averaged over the cells of rounded columns, where all
        densities are exact; 0 leaves that out.

    Returns
    -------
    Comparison
        Prints as a table; ``.table``, ``.pointwise``, ``.weights``, ``.to_dict()``. Cost: n
        densities a model; with folds, K fits of each.

    Raises
    ------
    SchemaError
        If the models have densities with respect to different measures (kinds, atoms, grids,
        bounds, columns, context), or there is nothing to compare.
    NotSupported
        For a model without a density, or whose density has an unknown total mass.

    Notes
    -----
    A level that a model did not see has the mass of its reserved level. The error of a
    difference is that of the mean of paired differences, with the spread between restarts
    and the error of importance sampling of both models added as squares. Differences below 4
    standard errors are marked as not told apart.

    References
    ----------
    Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using leave-one-out
    cross-validation and WAIC. Sivula, Magnusson and Vehtari (2020), Uncertainty in Bayesian
    leave-one-out cross-validation based model comparison. Yao, Vehtari, Simpson and Gelman
    (2018), Using stacking to average Bayesian predictive distributions.

    Examples
    --------
    >>> import probgen as pg
    >>> from probgen.datasets import penguins
    >>> models = {"apart": pg.Independent(), "joint": pg.GaussianMixture(2, starts=1)}
    >>> found = compare(models, penguins(), folds=2)
    >>> found.best, bool(found.table.loc["apart", "told_apart"])
    ('joint', True)
    """
    chosen = _checked(models)
    frame, weight = _rows(table, sample_weight)
    refit = folds is not None or not all(hasattr(m, "members_") for m in chosen.values())
    if refit:
        count = FOLDS if folds is None else folds
        entries = _by_folds(
            chosen, frame, weight, count, list(given), random_state, columns, cells
        )
        how = f"{count}-fold"
    else:
        entries = _as_they_are(chosen, frame, list(given), cells)
        how = "held-out rows"
    return _ranked(entries, frame.index, weight, how)


def shared_schema(
    estimators: Mapping[str, Density],
    frame: pd.DataFrame,
    columns: Mapping[Hashable, Any] | None = None,
    dequantise: bool = True,
) -> Schema:
    """One schema for all: that which they were given, or what inference says of the table.

    Overrides of kinds of all estimators count; they must not contradict one another.
    """
    given = {name: own.schema for name, own in estimators.items() if own.schema is not None}
    if given:
        context = {c.name for s in given.values() for c in s.columns if c.role == "context"}
        require_one_measure(given, tuple(context))
        return next(iter(given.values())).standard()
    kinds: dict[Hashable, Any] = {}
    for name, own in estimators.items():
        for column, kind in (own.columns or {}).items():
            if kinds.setdefault(column, kind) != kind:
                raise SchemaError(message(
                    f"column {column!r} as {kinds[column]!r} and, for {name!r}, as {kind!r}",
                    "one kind for all models: it decides what a density is",
                    "give all models the same columns=",
                ))  # fmt: skip
    rounded = dequantise and any(own.dequantise for own in estimators.values())
    return Schema.infer(frame, kinds | dict(columns or {}), dequantise=rounded)


def _checked(models: Mapping[str, Any]) -> dict[str, Density]:
    if not hasattr(models, "items") or not models:
        raise SchemaError(message(
            f"models={models!r:.80}", "a dict of densities by name",
            'pass {"mixture": model, "other": other}',
        ))  # fmt: skip
    found = {str(name): wrapped(str(name), model) for name, model in models.items()}
    for name, model in found.items():
        require_density(name, model._traits)
    return found


def _rows(table: Any, sample_weight: Any) -> tuple[pd.DataFrame, Floats]:
    """The rows that count, and their weights."""
    frame = to_frame(table)
    weight = check_weight(sample_weight, len(frame))
    if len(frame) < 2:
        raise SchemaError(message(f"{len(frame)} row(s)", "two rows or more", "pass more rows"))
    if weight is None:
        return frame, np.ones(len(frame))
    return frame[weight > 0], weight[weight > 0]


def _as_they_are(
    models: dict[str, Density], frame: pd.DataFrame, given: list[Hashable], points: int
) -> dict[str, _Entry]:
    context = {c.name for m in models.values() for c in m.schema_.columns if c.role == "context"}
    given = given or [name for name in frame.columns if name in context]
    require_one_measure({name: model.schema_ for name, model in models.items()}, given)
    found = {}
    for name, model in models.items():
        known = frame if conditioned(model, given) else frame[[
            c for c in frame.columns if c in model.schema_.number
        ]]  # fmt: skip
        scores = score(model, known, given)
        cells = None
        if points and gridded(model.schema_, known, given):
            cells = average_over_cells(model, known, given, points)
        seconds = sum(result.seconds for result in model.results_)
        found[name] = _entry(scores, seconds, cells, model._traits, int(not model.converged_))
    return found


def _by_folds(
    models: dict[str, Density],
    frame: pd.DataFrame,
    weight: Floats,
    folds: int,
    given: list[Hashable],
    seed: int,
    columns: Mapping[Hashable, Any] | None,
    points: int,
) -> dict[str, _Entry]:
    schema = shared_schema(models, frame, columns)
    fold = assign_folds(frame, schema, folds, seed)
    own = None if (weight == 1).all() else weight
    found = folded(models, frame, schema, fold, seed, own, given, points)
    entries = {}
    for name, one in found.items():
        require_density(name, one.traits)
        entries[name] = _entry(one.scores, one.seconds, one.cells, one.traits, one.failed)
    return entries


def _entry(
    scores: Scores, seconds: float, cells: Floats | None, traits: Any, failed: int
) -> _Entry:
    exact = set(scores.method.split("+")) <= {"exact", "enumerated"}
    method = scores.method
    if traits.density == "bound":
        method = "bound"  # the density itself is no lower
    if traits.holes == "masked":
        method += ", one density a pattern of holes"
    return _Entry(scores, seconds, cells if exact else None, method, failed)


# --- from scores to ranks -------------------------------------------------------------------


def _ranked(entries: dict[str, _Entry], index: pd.Index, weight: Floats, how: str) -> Comparison:
    log_p = np.stack([entry.scores.log_p for entry in entries.values()], 1)
    share = weight / weight.sum()
    impossible = np.isneginf(log_p).sum(0)
    elpd = np.where(impossible > 0, -math.inf, share @ np.where(np.isfinite(log_p), log_p, 0.0))
    order = np.lexsort((-elpd, impossible))
    best = int(order[0])
    rows = {}
    found = stacking_weights(log_p, weight)
    names = list(entries)
    for place in order:
        entry, leader = entries[names[place]], entries[names[best]]
        se = _error(log_p[:, place], weight, [entry])
        gap = _gap(log_p[:, place], log_p[:, best], share) if place != best else 0.0
        gap_se = (
            0.0 if place == best
            else _error(_minus(log_p[:, place], log_p[:, best]), weight, [entry, leader])
        )  # fmt: skip
        rows[names[place]] = {
            "elpd": elpd[place], "se": se, "difference": gap, "difference_se": gap_se,
            "told_apart": bool(abs(gap) > APART * gap_se or (math.isinf(gap) and place != best)),
            "weight": found.weights[place], "impossible": int(impossible[place]),
            "seconds": entry.seconds, "method": entry.method,
        }  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    cells = {n: e.cells for n, e in entries.items() if e.cells is not None}
    if len(cells) == len(entries):
        table["elpd_cell"] = {name: float(share @ own) for name, own in cells.items()}
    pointwise = pd.DataFrame(log_p, index=index, columns=names)[list(table.index)]
    notes = _notes(table, entries, how, float(weight.sum()), found.impossible)
    return Comparison(table, pointwise, len(index), how, found.elpd, found.gap, notes)


def _minus(one: Floats, two: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return one - two


def _gap(own: Floats, best: Floats, share: Floats) -> float:
    """Mean difference; -inf where only this model has rows of density 0."""
    if np.isneginf(own).any():
        return -math.inf
    return float(share @ (own - best))


def _error(value: Floats, weight: Floats, entries: list[_Entry]) -> float:
    """Standard error of the mean of a value (n,), with what the models' own scores add."""
    if not np.isfinite(value).all():
        return math.nan
    total, share = weight.sum(), weight / weight.sum()
    centred = value - share @ value
    rows = math.sqrt(float(weight @ centred**2) / max(total - 1, 1e-300) / total)
    parts = [rows]
    for entry in entries:
        parts += [entry.scores.restarts(share), entry.scores.monte_carlo(share)]
    return math.hypot(*parts)


def _notes(
    table: pd.DataFrame, entries: dict[str, _Entry], how: str, total: float, lost: int
) -> tuple[str, ...]:
    notes = []
    finite = table[np.isfinite(table["difference"])]
    near = [str(n) for n, row in finite.iloc[1:].iterrows() if not row["told_apart"]]
    if near:
        notes.append(f"Not told apart from {table.index[0]} (less than {APART:g} standard "
                     f"errors): {', '.join(near)}.")  # fmt: skip
    close = [str(n) for n in finite.index[1:] if abs(finite.loc[n, "difference"]) * total < CLOSE]
    if total < FEW:
        notes.append(f"{total:g} rows: below {FEW} the standard errors are themselves unreliable, "
                     "and too small more often than not (Sivula et al. 2020).")  # fmt: skip
    if close:
        notes.append(f"The total over all rows differs from the best by less than {CLOSE:g} nats "
                     f"for {', '.join(close)}: such a difference is small, and its standard error "
                     "unreliable (Sivula et al. 2020).")  # fmt: skip
    for name, row in table[table["impossible"] > 0].iterrows():
        notes.append(f"{name}: {row['impossible']} row(s) of density 0, so its elpd is -inf and "
                     "it is ranked below every model that has none.")  # fmt: skip
    if lost:
        notes.append(f"{lost} row(s) have density 0 under every model; stacking leaves them out.")
    for name, entry in entries.items():
        if entry.failed:
            notes.append(f"{name}: {entry.failed} fit(s) did not converge; a larger max_epochs "
                         "may rank it higher.")  # fmt: skip
        if entry.scores.doubtful:
            notes.append(f"{name}: {entry.scores.doubtful} row(s) with a Pareto k-hat above 0.7: "
                         "their importance-sampling error is larger than stated.")  # fmt: skip
    bounds = [name for name, entry in entries.items() if "bound" in entry.method]
    if bounds:
        notes.append(f"The scores of {', '.join(bounds)} are lower bounds of their log density.")
    if how != "held-out rows":
        notes.append("The standard errors take the rows as independent. They leave out that the "
                     "fits of the folds share rows, and that a fit to all rows is a little "
                     "better (Bengio and Grandvalet 2004): nominal 95 % intervals of differences "
                     "by folds covered 74 to 89 % in benchmarks/compare.py.")  # fmt: skip
    return tuple(notes)
