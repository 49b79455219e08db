"""Checks of imputation: seen cells stay, values are legal, centres and draws are what they say."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd

from probgen.columns import Column
from probgen.density import Density
from probgen.errors import DataWarning
from probgen.testing.subject import NotApplicable, Subject, check, need

__all__: list[str] = []

ROWS, DRAWS = 600, 20
#: by how much posterior draws may differ from the density that scores, in standard deviations
#: and relative to a variance: a chain and the closed form of a guide are not the same on 90 rows
POSTERIOR_GAP, VARIANCE_GAP = 0.15, 0.3


def _fills(subject: Subject) -> None:
    if subject.family.holes == "refuse":
        raise NotApplicable("the family refuses holes")


def hide(table: pd.DataFrame, names: list[Any], every: int = 1) -> pd.DataFrame:
    """The table with cells of some columns hidden: in all rows, or in each `every`-th."""
    off = np.arange(len(table)) % every == 0
    hidden = {n: table[n].astype(object).where(~off) if table[n].dtype == bool
              else table[n].mask(off) for n in names}  # fmt: skip
    return table.assign(**hidden)


@check
def seen_cells_survive_imputation(subject: Subject) -> None:
    """Imputing keeps every seen cell bit for bit and leaves no hole."""
    _fills(subject)
    model, table = subject.fitted(), subject.table()
    seen = table.notna()
    filled: list[Any] = [model.impute(table, centre=c) for c in ("auto", "mean", "median", "mode")]
    filled += model.impute(table, draws=2, random_state=0)
    for own in filled:
        need(own.index.equals(table.index), "another index")
        need((own.dtypes == table.dtypes).all(), "other data types")
        need(own.notna().to_numpy().all(), "holes are left")
        same = own.where(seen) == table.where(seen)
        need(same.where(seen, True).to_numpy().all(), "cells moved")
        need(np.isfinite(model.log_prob(own)).all(), "a filled row has density 0")


@check
def imputed_values_are_legal(subject: Subject) -> None:
    """Every value that fills a hole lies in the support, on the grid, among the levels."""
    _fills(subject)
    for name in ("real", "positive", "unit", "bounded", "atom", "rounded", "date", "count",
                 "category", "ordered", "boolean"):  # fmt: skip
        model, table = subject.fitted(name), subject.table(name)
        holed = hide(table, ["x"], every=2)
        tables = [model.impute(holed, centre=c) for c in ("auto", "mean", "median", "mode")]
        for own in [*tables, *model.impute(holed, draws=2, random_state=0)]:
            values = own["x"][::2]
            need(_legal(model.schema_["x"], values), f"a {name} column was filled by "
                 f"{values.head(3).tolist()}")  # fmt: skip
            need(np.isfinite(model.log_prob(own)).all(), f"{name}: density 0")


def _legal(column: Column, values: pd.Series) -> bool:
    if column.labelled:
        return bool(values.isin(list(column.levels or ())).all())
    if column.kind == "date":
        return bool(values.notna().all())
    numbers = values.to_numpy(float)
    if column.grid:
        steps = numbers / column.grid
        if not np.allclose(steps, np.rint(steps), atol=1e-6):
            return False
    return bool((column.legal(numbers) | np.isin(numbers, column.atoms)).all())


@check
def centres_are_what_they_claim(subject: Subject) -> None:
    """On the model's own rows means miss by 0 on average, medians lie in the middle (4 se)."""
    _fills(subject)
    if subject.family.density == "none":
        raise NotApplicable("the family has no density")
    if not subject.family.coherent:  # its rows and its conditionals are of other densities
        raise NotApplicable("the family does not promise coherent conditionals")
    model = subject.fitted()
    rows = _quiet_sample(subject, model, ROWS, 5)
    for column in model.schema_.columns:
        if column.role != "modelled" or column.atoms:
            continue
        hidden = hide(rows, [column.name])
        if column.labelled:
            mode = _imputed(model, hidden, "mode", column)
            _is_mode(_own(rows, column).astype(object), mode.astype(object), column)
            continue
        truth = _numbers(_own(rows, column))
        _is_median(truth, _numbers(_imputed(model, hidden, "median", column)), column)
        if column.kind in ("real", "date"):  # of others a mean is rounded, or has no tails
            _is_mean(truth, _numbers(_imputed(model, hidden, "mean", column)), column)


def _own(table: Any, column: Column) -> pd.Series:
    return table[column.name]


def _imputed(model: Density, table: pd.DataFrame, centre: Any, column: Column) -> pd.Series:
    return _own(model.impute(table, centre=centre), column)


def _quiet_sample(subject: Subject, model: Density, n: int, seed: int) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return subject.sample(model, n, seed)


def _numbers(values: Any) -> np.ndarray:
    if isinstance(values.dtype, pd.DatetimeTZDtype) or values.dtype.kind == "M":
        return values.dt.tz_localize(None).astype("M8[us]").astype("int64").to_numpy() / 86_400e6
    return values.to_numpy(float)


def _is_mean(truth: np.ndarray, mean: np.ndarray, column: Column) -> None:
    """Residuals are 0 on average, and do not go with the guess."""
    rest, lean = truth - mean, mean - mean.mean()
    for what, value in (("residuals", rest), ("residuals times guesses", rest * lean)):
        se = value.std(ddof=1) / math.sqrt(len(value))
        need(abs(value.mean()) <= 4 * se + 1e-9, f"{column.name!r}: mean of {what} is "
             f"{value.mean():.3g} with standard error {se:.3g}")  # fmt: skip


def _is_median(truth: np.ndarray, median: np.ndarray, column: Column) -> None:
    """Half lie below and half above, also of the rows with large and with small guesses."""
    order = median.argsort(kind="stable")
    for part in (order, order[: len(order) // 2], order[len(order) // 2 :]):
        below, most = (truth < median)[part].mean(), (truth <= median)[part].mean()
        se = 0.5 / math.sqrt(len(part))
        need(below < 0.5 + 4 * se and most > 0.5 - 4 * se, f"{column.name!r}: {below:.2f} lie "
             f"below the median, and {most:.2f} not above it")  # fmt: skip


def _is_mode(truth: pd.Series, mode: pd.Series, column: Column) -> None:
    """Where a level is the guess no other is more frequent."""
    for guess in mode.unique():
        share = truth[mode == guess].value_counts()
        own, n = share.get(guess, 0), share.sum()
        need((share <= own + 4 * math.sqrt(n) + 1).all(), f"{column.name!r}: {guess!r} fills {n} "
             f"cells, of which {own} were that")  # fmt: skip


@check
def imputations_follow_the_conditional(subject: Subject) -> None:
    """Drawn cells have mean and spread of `sample(given=)`, up to the posterior (4 se)."""
    _fills(subject)
    if not subject.family.coherent:
        raise NotApplicable("the family does not promise coherent conditionals")
    model: Any = subject.fitted()
    rows = _quiet_sample(subject, model, 200, 6)
    real = [c for c in model.schema_.columns if c.kind == "real" and c.role == "modelled"]
    names = [c.name for c in real if not c.atoms]
    if not names:
        raise NotApplicable("the table has no real column")
    name, known = names[0], rows.drop(columns=names[0])
    centre = model.impute(hide(rows, [name]), centre="mean")[name].to_numpy(float)
    drawn = model.impute(hide(rows, [name]), draws=DRAWS, random_state=1)
    asked = model.sample(DRAWS, given=known, random_state=2)[name].to_numpy(float)
    rest = np.stack([own[name].to_numpy(float) for own in drawn]) - centre
    other = asked.reshape(len(rows), DRAWS).T - centre
    sd = other.std()
    # tables share their parameters within: their means are the independent numbers
    for own, ref, slack, what in (
        (rest, other, POSTERIOR_GAP * sd, "mean"),
        (rest**2, other**2, VARIANCE_GAP * sd**2, "variance"),
    ):
        gap = own.mean() - ref.mean()
        se = math.sqrt((own.mean(1).var(ddof=1) + ref.mean(1).var(ddof=1)) / DRAWS)
        need(abs(gap) < 4 * se + slack, f"{what} around the conditional mean differs by {gap:.3g} "
             f"with standard error {se:.3g}")  # fmt: skip
