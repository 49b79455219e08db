"""Checks of verbs about odd rows: p-values in any units, shares that add up, repairs that help."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd

from probgen.density import Density
from probgen.errors import DataWarning
from probgen.testing.subject import NotApplicable, Subject, check, close, gap, need

__all__: list[str] = []

#: share of the rows held apart, fresh rows for tail probabilities, candidates of a repair
APART, SAMPLES, CANDIDATES = 0.4, 100, 8


def _density(subject: Subject) -> None:
    if subject.family.density == "none":
        raise NotApplicable("the family has no density")


def _marginals(subject: Subject) -> None:
    _density(subject)
    if subject.family.holes == "refuse":
        raise NotApplicable("the family cannot leave columns out")


def _apart(model: Density, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table that its fit held apart."""
    need(model.calibration_ is not None, "fit(table, calibration=...) held no rows apart")
    return table.iloc[model.calibration_.rows]  # type: ignore[union-attr]


def _outliers(model: Density, rows: pd.DataFrame, **how: Any) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return model.outliers(rows, fdr=None, samples=SAMPLES, **how)


@check
def p_values_do_not_depend_on_units(subject: Subject) -> None:
    """P-values and ranks stay the same when real and positive columns are rescaled."""
    _density(subject)
    table = subject.table("scaled")
    factor = {"real": 1024.0, "positive": 0.0254}
    if subject.family.density == "estimate" or subject.family.whole_rows:
        del factor["positive"]  # its last bits change, and with them the noise of the estimate
    found = []
    for factors in ({}, factor):
        scaled = table.assign(**{name: table[name] * c for name, c in factors.items()})
        model = subject.fit(scaled, "scaled", calibration=APART)
        found.append(_outliers(model, _apart(model, scaled)))
    for name in ("p_value", "rank"):
        moved = int((found[0][name].to_numpy() != found[1][name].to_numpy()).sum())
        need(moved == 0, f"{name} of {moved} rows changed with the units")
    need((found[0]["method"] == "split-conformal").all(), f"method {set(found[0]['method'])}")


@check
def p_values_are_ranks_among_rows_held_apart(subject: Subject) -> None:
    """Rows held apart have p-values of their ranks among themselves, one more for themselves."""
    _density(subject)
    table = subject.table("real2")
    model = subject.fit(table, "real2", calibration=APART)
    rows = _apart(model, table)
    p = _outliers(model, rows)["p_value"].to_numpy()
    c = len(rows)
    wanted = (2 + np.arange(c)) / (1 + c)
    need(close(np.sort(p), wanted, 1e-12), f"p-values {np.sort(p)[:4]}..., not {wanted[:4]}...")
    order = np.argsort(-model.surprisal(rows).to_numpy(), kind="stable")
    need((np.diff(p[order]) >= 0).all(), "a more surprising row has a larger p-value")


@check
def shares_add_up_to_the_surprisal(subject: Subject) -> None:
    """The shares of explain add up to -log p of the row; missing cells have share 0."""
    _marginals(subject)
    model, rows = subject.fitted(), subject.table().iloc[:8]
    shares = model.explain(rows)
    need(shares.index.equals(rows.index) and list(shares) == list(rows), "another shape")
    wanted = model.surprisal(rows)
    total = shares.sum(axis=1)
    need(close(total, wanted, 1e-7, 1e-9), f"off by {gap(total, wanted)}")
    need((shares.to_numpy()[rows.isna().to_numpy()] == 0).all(), "a missing cell has a share")


@check
def a_repair_raises_the_density(subject: Subject) -> None:
    """Putting the value of `repair` into its cell gives the density that it promises."""
    _marginals(subject)
    model, rows = subject.fitted(), subject.table().iloc[:4].reset_index(drop=True)
    found = model.repair(rows, candidates=CANDIDATES)
    before = model.log_prob(rows)
    need(close(found["log_prob"], before, 1e-9, 1e-9), "log_prob differs from the verb's")
    for place, name in found["column"].items():
        if name is None:
            continue
        row = rows.iloc[[place]]
        value = pd.Series([found["repaired"][place]], row.index).astype(rows[name].dtype)
        after = float(model.log_prob(row.assign(**{name: value})).iloc[0])
        promised = float(found["log_prob_after"][place])
        room = 0.1 if model.family.density == "estimate" else 1e-8
        need(abs(after - promised) <= room, f"{name!r}: {after} after, {promised} promised")
        need(found["gain"][place] > 0, f"{name!r}: a gain of {found['gain'][place]}")
