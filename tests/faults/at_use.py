"""Faults in scoring and sampling (28 to 41), in training and in settings."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from probgen import DataWarning, NotSupported, SchemaError
from tests.faults.cases import (
    CASES,
    Case,
    N,
    Raises,
    Warns,
    case,
    finite,
    quiet,
    real,
    rng,
    table,
)  # fmt: skip

FOREIGN = {"job": "diver"}


@case(28, Raises(SchemaError, ("'diver'", "'job'", "unseen=")))
def unseen_level(make):
    make().fit(table()).log_prob(table().iloc[:2].assign(**FOREIGN))


@case(28)
def unseen_level_as_rare_or_missing(make):
    model, rows = make().fit(table()), table().iloc[:2]
    rare = model.log_prob(rows.assign(**FOREIGN), unseen="rare")
    assert (rare < model.log_prob(rows)).all() and np.isfinite(rare).all()
    known = [model.log_prob(rows[["job"]].assign(job=job)) for job in ("cook", "nurse", "smith")]
    lone = model.log_prob(rows[["job"]].assign(**FOREIGN), unseen="rare")
    assert all((lone < value).all() for value in known)
    hidden = model.log_prob(rows.assign(**FOREIGN), unseen="missing")
    assert np.allclose(hidden, model.log_prob(rows.drop(columns="job")), atol=1e-12)


@case(29)
def columns_in_another_order(make):
    model = make().fit(table())
    assert (model.log_prob(table()[table().columns[::-1]]) == model.log_prob(table())).all()


@case(30)
def column_left_out(make):
    model = make().fit(table())
    hidden = table().assign(a=np.nan)
    assert np.allclose(model.log_prob(table().drop(columns="a")), model.log_prob(hidden))


@case(30)
def a_row_and_a_column_of_holes_are_imputed(make):
    model = make().fit(table())
    holed = table()[["a", "b", "job"]].assign(b=np.nan, job=None)
    holed.loc[0, "a"] = np.nan
    for filled in (model.impute(holed), *model.impute(holed, draws=1, random_state=0)):
        assert filled.notna().all().all()
        assert set(filled["job"]) <= set(table()["job"])


@case(31, Raises(SchemaError, ("'salary'", "delta")))
def delta_of_an_unknown_column(make):
    make().fit(table()).impute(table(), delta={"salary": -1})


@case(31, Raises(SchemaError, ("'job'", "log odds")))
def a_category_shifted_by_a_number(make):
    make().fit(table()).impute(table(), delta={"job": -1})


@case(41)
def a_shifted_count_stays_in_its_support(make):
    holed = table().assign(n=table()["n"].where(np.arange(N) % 2 == 0))
    filled = make().fit(table()).impute(holed, delta={"n": -100})
    assert (filled["n"] == holed["n"].fillna(0)).all()


@case(31, Raises(SchemaError, ("'z'", "extra='ignore'")))
def extra_column(make):
    make().fit(table()).log_prob(table().assign(z=1))


@case(31)
def extra_column_ignored(make):
    model = make().fit(table())
    assert (model.log_prob(table().assign(z=1), extra="ignore") == model.log_prob(table())).all()


@case(32, Raises(SchemaError, ("'a'", "text", "number")))
def numbers_as_text(make):
    make().fit(table()).log_prob(table().assign(a=table()["a"].astype(str)))


@case(33)
def categories_in_another_order(make):
    model = make().fit(table().astype({"job": "category"}))
    other = pd.Categorical(table()["job"], ["smith", "nurse", "cook"])
    assert (model.log_prob(table().assign(job=other)) == model.log_prob(table())).all()


@case(34)
def empty_frame_is_scored(make):
    model = make().fit(table())
    found = model.log_prob(table().iloc[:0])
    assert len(found) == 0 and found.dtype == float and found.index.equals(table().index[:0])


@case(35)
def row_of_holes(make):
    model = make().fit(table())
    rows = pd.DataFrame({name: [None] for name in table()})
    assert np.allclose(model.log_prob(rows), 0.0, atol=1e-9)


@case(36)
def rows_alone_and_together(make):
    model, data = make().fit(table()), table()
    whole = model.log_prob(data).to_numpy()
    alone = [model.log_prob(data.iloc[[i]]).iloc[0] for i in range(0, N, 9)]
    assert np.allclose(alone, whole[::9], rtol=1e-12, atol=0)


@case(37)
def values_far_out(make):
    model = make().fit(real())
    far = pd.DataFrame({"a": 5 + 10.0 ** np.arange(1, 12), "b": 1.0})
    found = model.log_prob(far).to_numpy()
    assert not np.isnan(found).any() and (np.diff(found[np.isfinite(found)]) < 0).all()
    assert found[0] > -1e4
    assert not np.isnan(model.log_prob(far.assign(a=1e300))).any()


@case(38, Raises(NotFittedError))
def not_fitted(make):
    make().log_prob(table())


@case(39)
def no_samples(make):
    drawn = make().fit(table()).sample(0)
    assert len(drawn) == 0 and drawn.dtypes.equals(table().dtypes)


for bad in (-1, 2.5, "3", None, True):
    CASES.append(
        Case(
            39,
            f"sample_{bad!r}",
            lambda make, n=bad: make().fit(real()).sample(n),
            Raises(SchemaError, ("whole number",)),
        )  # fmt: skip
    )

IMPOSSIBLE = {
    "level": ({"job": "diver"}, ("'diver'", "'job'")),
    "negative_count": ({"n": -2}, ("impossible",)),
    "half_count": ({"n": 1.5}, ("impossible",)),
    "negative_of_positive": ({"b": -1.0}, ("impossible",)),
    "foreign_column": ({"zzz": 1}, ("'zzz'",)),
    "infinite": ({"a": np.inf}, ("infinite", "'a'")),
}
for title, (given, words) in IMPOSSIBLE.items():
    CASES.append(
        Case(
            40,
            f"given_{title}",
            lambda make, g=given: quiet(make(), table()).sample(3, given=g),
            Raises(SchemaError, words),
        )  # fmt: skip
    )


@case(40, Raises(SchemaError, ("['a']", "one side")))
def column_on_both_sides(make):
    make().fit(table()).log_prob(table(), given={"a": 1.0})


@case(40, Raises(SchemaError, ("same 60 rows",)))
def given_of_another_length(make):
    make().fit(table()).log_prob(table()[["a"]], given=table()[["b"]].iloc[:5])


@case(41)
def samples_stay_inside_the_support(make):
    g = rng()
    data = pd.DataFrame({
        "p": np.exp(g.normal(0, 3, N)), "u": g.beta(0.5, 0.5, N), "w": 3 + 2 * g.beta(1, 1, N),
        "n": g.negative_binomial(1, 0.1, N), "z": np.where(g.random(N) < 0.5, 0, g.normal(size=N)),
    })  # fmt: skip
    kinds = {"p": "positive", "u": "unit", "w": {"kind": "bounded", "lower": 3, "upper": 5}}
    model = quiet(make(columns=kinds), data)
    drawn = model.sample(3000, random_state=0)
    assert (drawn["p"] > 0).all() and drawn["u"].between(0, 1, "neither").all()
    assert drawn["w"].between(3, 5, "neither").all()
    assert (drawn["n"] >= 0).all() and drawn["n"].dtype == data["n"].dtype
    assert 0.3 < (drawn["z"] == 0).mean() < 0.7
    assert np.isfinite(model.log_prob(drawn)).all()


@case(41)
def value_outside_the_support(make):
    model = make().fit(table())
    with pytest.warns(DataWarning, match="'n' \\(2\\)"):
        found = model.log_prob(table().iloc[:3].assign(n=[-1.0, 2.0, 0.5]))
    assert found.tolist()[0] == found.tolist()[2] == -np.inf and np.isfinite(found.iloc[1])


# --- training and run time --------------------------------------------------------------------


@case(43, Warns(ConvergenceWarning, ("did not converge", "max_epochs")))
def too_few_epochs(make):
    data = table()[["a", "job"]]
    model = make(max_epochs=2).fit(data)
    assert not model.converged_ and model.result_.reason == "max_epochs reached"
    finite(model, data)


@case(49, Raises(SchemaError, ("device='gpu'", "do:")))
def unknown_device(make):
    make(device="gpu").fit(table())


@case(0, Raises(SchemaError, ("interval", "0 <")))
def interval_out_of_range(make):
    make().fit(real()).log_prob(real(), interval=90)


@case(0, Raises(NotSupported, ("given=['a']", "verbs")))
def context_that_the_family_cannot_take(make):
    make().fit(table(), given=["a"])


@case(0, Raises(SchemaError, ("unseen=", "choose")))
def unknown_choice_of_unseen(make):
    make().fit(table()).log_prob(table().iloc[:2].assign(**FOREIGN), unseen="random")


@case(0, Raises(SchemaError, ("'zzz'",)))
def override_of_an_unknown_column(make):
    make(columns={"zzz": "count"}).fit(table())


@case(0, Raises(SchemaError, ("max_epochs=0", "at least 1")))
def no_epochs(make):
    make(max_epochs=0).fit(table())


# --- odd rows -----------------------------------------------------------------------------------

for bad in (0, 1, 1.5, -0.1, "0.05", True):
    CASES.append(
        Case(
            0,
            f"fdr_{bad!r}",
            lambda make, v=bad: quiet(make(), real()).outliers(real(), fdr=v),
            Raises(SchemaError, ("fdr=", "0 < fdr < 1")),
        )  # fmt: skip
    )
    CASES.append(
        Case(
            0,
            f"calibration_{bad!r}",
            lambda make, v=bad: make().fit(real(), calibration=v),
            Raises(SchemaError, ("calibration=", "0 < calibration < 1")),
        )  # fmt: skip
    )


@case(0, Raises(SchemaError, ("calibration=0.01 of 20 rows", "0 held apart")))
def calibration_of_no_rows(make):
    make().fit(real().iloc[:20], calibration=0.01)


@case(0, Raises(SchemaError, ("4 held apart, 1 to fit", "2 to fit")))
def calibration_of_nearly_all_rows(make):
    make().fit(real().iloc[:5], calibration=0.8)


@case(0, Raises(NotSupported, ("sample_weight", "calibration", "method='model'")))
def calibration_with_weights(make):
    make().fit(real(), sample_weight=np.arange(N) % 3, calibration=0.2)


@case(0, Warns(DataWarning, ("smallest possible p-value of 0.143", "hold more rows apart")))
def too_few_rows_held_apart(make):
    model = quiet(make(), real(), calibration=0.1)
    new = real().assign(a=-real()["a"])
    assert not model.outliers(new, samples=20)["flag"].any()


@case(0, Warns(DataWarning, ("ranks of 60 rows among themselves", "method='model'")))
def flags_by_folds(make):
    model = quiet(make(), real())
    assert not model.outliers(real(), folds=2, samples=20)["flag"].any()


for bad in (1, 0, 61, 2.5, "3", True):
    CASES.append(
        Case(
            0,
            f"folds_{bad!r}",
            lambda make, v=bad: quiet(make(), real()).outliers(real(), folds=v),
            Raises(SchemaError, ("folds=", "for 60 rows", "2 folds or more")),
        )  # fmt: skip
    )


@case(0, Raises(SchemaError, ("method='p'", "'auto' or 'model'")))
def unknown_method(make):
    quiet(make(), real()).outliers(real(), method="p")


@case(0, Raises(SchemaError, ("samples=0", "at least 1")))
def no_fresh_rows(make):
    quiet(make(), real()).outliers(real(), samples=0)


@case(0, Raises(SchemaError, ("candidates=1", "at least 2")))
def one_candidate(make):
    quiet(make(), real()).repair(real(), candidates=1)
