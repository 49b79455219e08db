"""Checks of fits: repeatable, weighted, isolated from one another, sound on awkward columns."""

from __future__ import annotations

import copy
import warnings
from contextlib import suppress

import numpy as np
import pyro
import torch
from pandas.testing import assert_frame_equal

from probgen.density import Density
from probgen.errors import DataWarning, NotSupported
from probgen.testing.density import scores
from probgen.testing.subject import NotApplicable, Subject, check, close, gap, need

__all__: list[str] = []


def tensors(model: Density) -> list[dict[str, torch.Tensor]]:
    """Copies of all that the members learned."""
    return [{k: v.detach().clone() for k, v in m.tensors().items()} for m in model.members_]


def same(one: list[dict[str, torch.Tensor]], two: list[dict[str, torch.Tensor]]) -> str:
    """Names of the tensors that differ in any bit."""
    wrong = []
    for a, b in zip(one, two, strict=True):
        wrong += sorted(set(a) ^ set(b))
        wrong += [k for k in a if k in b and not torch.equal(a[k], b[k])]
    return ", ".join(wrong)


# --- repeatable -------------------------------------------------------------------------------


@check
def same_seed_same_bits(subject: Subject) -> None:
    """The same seed gives the same bits, in fitting, sampling and imputing."""
    table = subject.table()
    one, two = subject.fitted(), subject.fit(table, "mixed")
    wrong = same(tensors(one), tensors(two))
    need(not wrong, f"two fits with one seed differ in {wrong}")
    need((scores(one, table) == scores(two, table)).all(), "their scores differ")
    assert_frame_equal(one.sample(20, random_state=1), two.sample(20, random_state=1))
    assert_frame_equal(
        one.impute(table, draws=1, random_state=1)[0], two.impute(table, 1, random_state=1)[0]
    )
    other = one.sample(20, random_state=2)
    need(not other.equals(one.sample(20, random_state=1)), "another seed gave the same sample")
    need(not one.sample(20).equals(one.sample(20)), "unseeded samples repeat")


@check
def weights_equal_repeated_rows(subject: Subject) -> None:
    """A row of weight 2 equals the row twice, and weight 0 its absence, in fit and in score."""
    table = subject.table("scaled")
    weight = np.random.default_rng(0).integers(0, 4, len(table))
    again = table.iloc[np.repeat(np.arange(len(table)), weight)].reset_index(drop=True)
    schema = subject.fitted("scaled").schema_
    exact = subject.family.updates and getattr(subject.estimator(), "batch_size", None) is None
    # where the path of training depends on how rows fall into minibatches, a mixture may end
    # in another optimum: one component has a single one
    settings = {"schema": schema} if exact else {"schema": schema, "components": 1}
    one = subject.fit(table, sample_weight=weight, **settings)
    two = subject.fit(again, **settings)
    a, b = scores(one, table), scores(two, table)
    if exact:
        need(close(a, b, 1e-8), f"log densities differ by up to {gap(a, b):.3g}")
    else:
        off = float(np.average(a - b, weights=weight))
        need(abs(off) < 0.1, f"mean log densities differ by {off:.3f}")
    found, wanted = one.score(table, sample_weight=weight), one.score(again)
    need(abs(found - wanted) < 1e-9, f"weighted score {found}, of repeated rows {wanted}")


@check
def state_round_trip_is_exact(subject: Subject) -> None:
    """`load_tensors(tensors())` into a new family gives the same bits in every answer."""
    model, table = subject.fitted(), subject.table()
    twin = copy.copy(model)
    twin.__dict__.pop("_with_draws", None)
    twin.members_ = []
    for state in tensors(model):
        family = model._make(model.schema_)
        family.load_tensors(state)
        twin.members_.append(family.eval())
    need(not same(tensors(model), tensors(twin)), "the tensors changed")
    need((scores(model, table) == scores(twin, table)).all(), "scores differ")
    plug = dict(posterior=False)
    need((scores(model, table, **plug) == scores(twin, table, **plug)).all(), "plug-in differs")
    assert_frame_equal(model.sample(9, random_state=0), twin.sample(9, random_state=0))


# --- isolated ---------------------------------------------------------------------------------


@check
def nothing_is_left_in_pyro(subject: Subject) -> None:
    """Fitting, scoring and sampling use nothing of Pyro's parameter store and leave it alone."""
    store = pyro.get_param_store()
    before = {name: store[name].clone() for name in store}
    table = subject.table()
    model = subject.fit(table, "mixed")
    model.log_prob(table, posterior=False)
    model.sample(3)
    need(set(store.keys()) == set(before), f"entries {sorted(set(store.keys()) - set(before))}")
    need(all(torch.equal(store[k], v) for k, v in before.items()), "entries changed")


@check
def fits_leave_one_another_alone(subject: Subject) -> None:
    """Fitting B, or A's estimator again elsewhere, leaves A as it was."""
    model, table = subject.fitted(), subject.table()
    state, value = tensors(model), scores(model, table)
    other = subject.fit(subject.table("real2"))
    other.sample(3)
    need(not same(tensors(model), state), "parameters of A changed")
    need((scores(model, table) == value).all(), "scores of A changed")
    drawn = model.sample(5, random_state=0)
    with suppress(NotSupported):  # not every family has latents of rows
        model.latent(table)
    need(not same(tensors(model), state), "using A changed it")
    assert_frame_equal(drawn, model.sample(5, random_state=0))


@check
def the_table_belongs_to_the_caller(subject: Subject) -> None:
    """No verb changes the caller's table, and changing it after fit has no effect."""
    table = subject.table()
    before = table.copy(deep=True)
    model = subject.fit(table, "mixed")
    value = scores(model, table)
    model.impute(table)
    model.sample(1, given=table.iloc[:3, :1])
    assert_frame_equal(table, before)
    for name in table.select_dtypes("number"):
        table[name] = 0
    need((scores(model, before) == value).all(), "changing the table changed the model")


# --- holes and awkward columns ----------------------------------------------------------------


@check
def seen_cells_survive_imputation(subject: Subject) -> None:
    """Imputing keeps every seen cell bit for bit and leaves no hole."""
    if subject.family.holes == "refuse":
        raise NotApplicable("the family refuses holes")
    model, table = subject.fitted(), subject.table()
    seen = table.notna()
    for filled in (model.impute(table), *model.impute(table, draws=2, random_state=0)):
        need(filled.index.equals(table.index), "another index")
        need((filled.dtypes == table.dtypes).all(), "other data types")
        need(filled.notna().to_numpy().all(), "holes are left")
        need(
            (filled.where(seen) == table.where(seen)).where(seen, True).to_numpy().all(),
            "cells moved",
        )
        need(np.isfinite(model.log_prob(filled)).all(), "a filled row has density 0")


@check
def one_column_is_enough(subject: Subject) -> None:
    """A table of one column, of any kind, is fitted, scored and sampled."""
    for name in ("real", "count", "category", "boolean"):
        model, table = subject.fitted(name), subject.table(name)
        need(np.isfinite(scores(model, table)).all(), f"{name}: scores are not finite")
        need(model.sample(4).dtypes.equals(table.dtypes), f"{name}: another data type")
        if subject.family.holes != "refuse":
            hole = table.iloc[:1].astype(object).assign(x=None)
            need(close(scores(model, hole), 0.0, 1e-9), f"{name}: a hole does not score 0")


@check
def awkward_columns_are_borne(subject: Subject) -> None:
    """Constant, duplicate, collinear and all-missing columns are fitted and sampled back."""
    table = subject.table("awkward") if subject.family.holes != "refuse" else None
    if table is None:
        raise NotApplicable("the family refuses holes")
    model = subject.fitted("awkward")
    value = scores(model, table)
    need(np.isfinite(value).all(), "training rows are not finite")
    drawn = model.sample(50, random_state=0)
    need((drawn["fixed"] == 7.5).all() and (drawn["word"] == "same").all(), "constants moved")
    need(drawn["empty"].isna().all(), "the all-missing column was filled")
    need(
        np.isfinite(drawn[["a", "b", "twin", "double"]]).to_numpy().all(), "samples are not finite"
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        odd = model.log_prob(table.assign(fixed=8.0).iloc[:2])
    need((odd == -np.inf).all(), "another value of a constant column does not score -inf")
    need(any(w.category is DataWarning for w in said), "and that is not said")
    without = scores(model, table.drop(columns=["fixed", "word", "empty"]))
    need(close(without, value, 1e-12), "constant and empty columns contribute")
