"""Bad input and bad luck: what a user gets, as one table of cases on each family.

A case is an action and its expected outcome as data. Numbers are those of the project's
catalogue of faults. Training trouble (a loss that is not finite, interruption, checkpoints,
no memory) is tested in test_fitting.py, and damaged files in test_saving.py.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import probgen as pg
from probgen import DataWarning, NotSupported, ProbgenError, SchemaError

N = 60
FAST: dict[str, Any] = {"draws": 5, "max_epochs": 15, "random_state": 0}
FAMILIES: dict[str, Callable[..., pg.Density]] = {
    "independent": lambda **s: pg.Independent(**FAST | s),
    "full": lambda **s: pg.GaussianMixture(2, starts=1, **FAST | s),
    "diag": lambda **s: pg.GaussianMixture(2, covariance="diag", starts=1, **FAST | s),
    "flexible": lambda **s: pg.GaussianMixture(2, covariance="flexible", starts=1, **FAST | s),
}
Make = Callable[..., pg.Density]


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def table() -> pd.DataFrame:
    g = rng()
    return pd.DataFrame({
        "a": g.normal(5, 2, N), "b": np.exp(g.normal(0, 1, N)), "n": g.poisson(4, N),
        "job": g.choice(["cook", "nurse", "smith"], N), "flag": g.random(N) < 0.4,
    })  # fmt: skip


def real() -> pd.DataFrame:
    return table()[["a", "b"]]


def quiet(model: pg.Density, data: Any, **how: Any) -> pg.Density:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(data, **how)


@dataclass(frozen=True)
class Raises:
    """An error of a type whose message holds all these words."""

    kind: type[Exception]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Warns:
    """A warning of a type whose message holds all these words; the action's checks hold."""

    kind: type[Warning]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Works:
    """No error, and no warning of the data."""


@dataclass(frozen=True)
class Case:
    number: int
    title: str
    #: does it, and asserts what the answer must be
    act: Callable[[Make], Any]
    expect: Raises | Warns | Works = field(default_factory=Works)


CASES: list[Case] = []


def case(number: int, expect: Raises | Warns | Works | None = None) -> Callable[[Any], Any]:
    def put(act: Callable[[Make], Any]) -> Callable[[Make], Any]:
        CASES.append(Case(number, act.__name__, act, expect or Works()))
        return act

    return put


def fit_of(number: int, title: str, data: Callable[[], Any], expect: Raises | Warns) -> None:
    """A case that only fits a table."""
    CASES.append(Case(number, title, lambda make: make().fit(data()), expect))


def finite(model: pg.Density, data: pd.DataFrame) -> None:
    assert np.isfinite(model.log_prob(data)).all()
    drawn = model.sample(50, random_state=0)
    numbers = drawn.select_dtypes("number")
    assert np.isfinite(numbers.to_numpy(float, na_value=0.0)).all()


# --- data at fit ------------------------------------------------------------------------------


@case(1)
def holes_are_integrated_out(make):
    data = table()
    data.loc[::5, "a"], data.loc[1::6, "job"] = np.nan, None
    model = make().fit(data)
    finite(model, data)
    assert model.family.holes == "exact"


fit_of(2, "inf", lambda: table().assign(a=np.where(np.arange(N) == 3, np.inf, 1.0 * np.arange(N))),
       Raises(SchemaError, ("1 infinite", "'a'", "do:")))  # fmt: skip


@case(3, Warns(DataWarning, ("'c'", "constant")))
def constant_column(make):
    model = make().fit(real().assign(c=7.0))
    plain = make().fit(real())
    same = real().assign(c=7.0).iloc[:5]
    assert np.allclose(model.log_prob(same), plain.log_prob(real().iloc[:5]), atol=1e-9)
    with pytest.warns(DataWarning, match="support"):
        assert (model.log_prob(same.assign(c=8.0)) == -np.inf).all()
    assert (model.sample(20, random_state=0)["c"] == 7.0).all()


@case(4, Warns(DataWarning, ("'m'", "missing")))
def all_missing_column(make):
    model = make().fit(real().assign(m=np.nan))
    finite(model, real())
    assert model.sample(5, random_state=0)["m"].isna().all()


fit_of(5, "no_rows", lambda: table().iloc[:0], Raises(SchemaError, ("0 sample",)))
fit_of(5, "no_columns", lambda: pd.DataFrame(index=range(9)), Raises(SchemaError, ("0 feature",)))
fit_of(6, "one_row", lambda: table().iloc[:1], Raises(SchemaError, ("1 sample", "2 rows")))


@case(6)
def scoring_takes_one_row(make):
    model = make().fit(table())
    assert np.isfinite(model.log_prob(table().iloc[:1])).all()


@case(8)
def duplicated_rows(make):
    data = pd.concat([real().iloc[:6]] * 10, ignore_index=True)
    model = quiet(make(), data)
    finite(model, data)
    assert model.log_prob(data).max() < 20


@case(9)
def scales_far_apart(make):
    data, c, d = real()[["a"]].assign(z=rng().normal(0, 1, N)), 1e12, 1e-12
    far = data.assign(a=data["a"] * c, z=data["z"] * d)
    plain, wide = make().fit(data), make().fit(far)
    gap = wide.log_prob(far) - plain.log_prob(data)
    assert np.allclose(gap, 0.0, atol=1e-6)  # log c + log d = 0
    drawn = wide.sample(4000, random_state=0)
    assert np.allclose(drawn.std() / far.std(), plain.sample(4000, random_state=0).std()
                       / data.std(), rtol=1e-6)  # fmt: skip
    assert np.allclose(drawn["a"].std() / far["a"].std(), 1, atol=0.2)


@case(10, Warns(DataWarning, ("extreme value", "'a'")))
def one_value_of_1e300(make):
    data = real().assign(a=np.where(np.arange(N) == 4, 1e300, real()["a"]))
    finite(make().fit(data), data)


@case(11)
def beyond_single_precision(make):
    data = real().assign(a=real()["a"] * 1e200)
    finite(make().fit(data), data)


@case(12, Warns(DataWarning, ("heavy tails", "'a'")))
def cauchy_tails(make):
    data = real().assign(a=np.random.default_rng(0).standard_cauchy(N) ** 3)
    model = make().fit(data)
    finite(model, data)
    assert np.isfinite(model.result_.losses).all()


@case(13)
def collinear_columns(make):
    data = real()[["a"]].assign(twice=2 * real()["a"])
    finite(quiet(make(), data), data)


@case(14, Warns(DataWarning, ("3000 levels", "'k'")))
def thousands_of_levels(make):
    data = pd.DataFrame({"k": [f"level {i % 3000}" for i in range(3600)]})
    finite(make().fit(data), data.iloc[:100])


fit_of(15, "identifier", lambda: table().assign(key=[f"id{i}" for i in range(N)]),
       Raises(SchemaError, ("identifier", "'key'", "declare it")))  # fmt: skip


@case(15)
def declared_identifier(make):
    data = table().assign(key=[f"id{i}" for i in range(N)])
    finite(make(columns={"key": "category"}).fit(data), data)


@case(16)
def ordered_with_an_unused_level(make):
    levels = ["low", "mid", "never", "high"]
    own = pd.Categorical(rng().choice(["low", "mid", "high"], N), levels, ordered=True)
    data = real().assign(o=own)
    model = make().fit(data)
    finite(model, data)
    assert model.sample(5, random_state=0)["o"].dtype == data["o"].dtype
    odd = data.iloc[:1].assign(o=pd.Categorical(["never"], levels, ordered=True))
    assert np.isfinite(model.log_prob(odd)).all()


fit_of(17, "mixed_objects", lambda: real().assign(m=[1, "a", None] * (N // 3)),
       Raises(SchemaError, ("'m'", "int", "str")))  # fmt: skip

DTYPES = {
    "Int64": lambda: pd.array([1, 2, None, 4, 0] * (N // 5), "Int64"),
    "boolean": lambda: pd.array([True, None, False, True] * (N // 4), "boolean"),
    "string": lambda: pd.array(["x", "y", None, "x"] * (N // 4), "string"),
    "Float32": lambda: pd.array(rng().normal(size=N).astype("f4"), "Float32"),
    "int8": lambda: rng().integers(-3, 90, N).astype("int8"),
    "category": lambda: pd.Categorical(rng().choice(list("pq"), N)),
    "object": lambda: np.array(["x", "y"] * (N // 2), object),
    "datetime64[us, Europe/Zurich]": lambda: pd.date_range(
        "2021-03-27", periods=N, freq="37min", tz="Europe/Zurich", unit="us"
    ),
    "datetime64[ns]": lambda: pd.date_range("2021-01-01", periods=N, freq="7h", unit="ns"),
    "timedelta64[s]": lambda: pd.to_timedelta(rng().integers(0, 10**6, N), unit="s"),
}


@case(18)
def data_types_come_back(make):
    data = pd.DataFrame({name: values() for name, values in DTYPES.items()})
    model = quiet(make(), data)
    drawn = model.sample(30, random_state=0)
    assert drawn.dtypes.equals(data.dtypes)
    assert np.isfinite(model.log_prob(drawn)).all()


@case(18)
def arrow_types_come_back(make):
    pytest.importorskip("pyarrow")
    data = table()[["a", "n", "job", "flag"]].convert_dtypes(dtype_backend="pyarrow")
    model = make().fit(data)
    assert model.sample(9, random_state=0).dtypes.equals(data.dtypes)


@case(19)
def daylight_saving_gaps_are_legal(make):
    when = pd.date_range("2021-03-27", periods=N, freq="59min", tz="Europe/Zurich")
    model = make().fit(pd.DataFrame({"t": when}))
    drawn = model.sample(200, random_state=0)["t"]
    assert drawn.dtype == when.dtype and drawn.notna().all()
    assert (drawn.dt.tz_convert("UTC").dt.tz_convert("Europe/Zurich") == drawn).all()


fit_of(20, "huge_whole_numbers", lambda: real().assign(k=2**60 + np.arange(N)),
       Raises(SchemaError, ("2**53", "'k'")))  # fmt: skip
fit_of(21, "complex", lambda: real().assign(z=1j * np.arange(N)),
       Raises(ValueError, ("Complex data not supported", "'z'")))  # fmt: skip
fit_of(21, "sparse", lambda: real().assign(z=pd.arrays.SparseArray([0, 1] * (N // 2))),
       Raises(TypeError, ("'z'", "dense")))  # fmt: skip
fit_of(21, "period", lambda: real().assign(z=pd.period_range("2020", periods=N, freq="M")),
       Raises(TypeError, ("'z'", "period")))  # fmt: skip
fit_of(21, "lists", lambda: real().assign(z=[[1, 2]] * N), Raises(TypeError, ("'z'", "list")))
fit_of(22, "duplicate_names", lambda: table().set_axis(list("aabcd"), axis=1),
       Raises(SchemaError, ("repeated", "'a'")))  # fmt: skip
fit_of(23, "mixed_names", lambda: real().set_axis(["a", 1], axis=1),
       Raises(TypeError, ("string names",)))  # fmt: skip
fit_of(24, "nested_names", lambda: real().set_axis(pd.MultiIndex.from_tuples(
       [("a", "b"), ("a", "c")]), axis=1), Raises(ValueError, ("MultiIndex",)))  # fmt: skip


@case(24)
def repeated_index_is_kept(make):
    data = table().set_axis([f"r{i // 3}" for i in range(N)])
    model = make().fit(data)
    assert model.log_prob(data).index.equals(data.index)
    assert model.impute(data).index.equals(data.index)


BAD_WEIGHTS = {
    "zero": (np.zeros(N), "zero everywhere"),
    "negative": (np.r_[-1.0, np.ones(N - 1)], "1 negative or non-finite"),
    "nan": (np.r_[np.nan, np.ones(N - 1)], "1 negative or non-finite"),
    "infinite": (np.r_[np.inf, np.ones(N - 1)], "1 negative or non-finite"),
    "too_short": (np.ones(N - 1), "shape"),
    "one_row_only": (np.r_[1.0, np.zeros(N - 1)], "fewer than 2 rows"),
}
for title, (weight, word) in BAD_WEIGHTS.items():
    CASES.append(
        Case(
            25,
            f"weights_{title}",
            lambda make, w=weight: make().fit(table(), sample_weight=w),
            Raises(SchemaError, (word, "do:")),
        )  # fmt: skip
    )


@case(26)
def level_of_a_single_row(make):
    data = table()
    data.loc[0, "job"] = "diver"
    model = make().fit(data)
    finite(model, data)
    assert model.log_prob(data[["job"]]).iloc[0] < model.log_prob(data[["job"]]).iloc[1]


@case(27)
def table_changed_after_fit(make):
    data = table()
    model = make().fit(data)
    before = model.log_prob(table())
    data["a"], data["job"] = 0.0, "cook"
    assert (model.log_prob(table()) == before).all()


# --- scoring and sampling ---------------------------------------------------------------------

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


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.number}-{c.title}")
def test_fault(case, family):
    expect = case.expect
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if isinstance(expect, Raises):
            with pytest.raises(expect.kind) as error:
                case.act(FAMILIES[family])
            text = str(error.value)
            assert [word for word in expect.words if word not in text] == [], text
            if isinstance(error.value, ProbgenError):
                parts = ("found ", "; needed ", "; do: ")
                assert all(part in text for part in parts), text
            return
        case.act(FAMILIES[family])
    said = [w for w in caught if issubclass(w.category, DataWarning | ConvergenceWarning)]
    if isinstance(expect, Warns):
        texts = [str(w.message) for w in said if issubclass(w.category, expect.kind)]
        assert any(all(word in text for word in expect.words) for text in texts), texts
    else:
        assert [str(w.message) for w in said if issubclass(w.category, DataWarning)] == []


# --- faults of the mixture alone --------------------------------------------------------------


def test_7_more_components_than_distinct_rows():
    data = pd.concat([real().iloc[:3]] * 5)
    with pytest.raises(SchemaError, match="components=4 for 3 distinct rows"):
        quiet(pg.GaussianMixture(4, **FAST), data)


@pytest.mark.parametrize("components", [0, -1])
def test_7_no_components(components):
    with pytest.raises(SchemaError, match=f"components={components}"):
        pg.GaussianMixture(components, **FAST).fit(real())


@pytest.mark.parametrize("setting", [{"covariance": "round"}, {"weights": "equal"},
                                     {"components": 2.5}, {"concentration": -1.0},
                                     {"spread": 0.0}, {"mean_strength": -1.0},
                                     {"category_strength": 0.0}, {"posterior": "exact"},
                                     {"draws": -1}, {"batch_size": 0}])  # fmt: skip
def test_settings_that_make_no_sense(setting):
    name = next(iter(setting))
    with pytest.raises(SchemaError, match=name):
        quiet(pg.GaussianMixture(**{"components": 2, **FAST, **setting}), table())


def test_56_empty_components_do_no_harm():
    data = real()[["a"]]
    model = quiet(pg.GaussianMixture(30, starts=1, **FAST), data)
    assert np.isfinite(model.log_prob(data)).all()
    assert np.isfinite(model.sample(500, random_state=0)["a"]).all()


def test_54_checks_survive_python_without_asserts():
    code = (
        "import pandas as pd, numpy as np, probgen as pg\n"
        "t = pd.DataFrame({'a': [1.5, np.inf, 2.25, 3.5]})\n"
        "try: pg.Independent().fit(t)\n"
        "except pg.SchemaError: print('refused')\n"
        "from probgen.testing import BrokenPromise\n"
        "from probgen.testing.subject import need\n"
        "try: need(False, 'x')\n"
        "except BrokenPromise: print('checked')\n"
    )
    run = subprocess.run(
        [sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["refused", "checked"]


def test_8_all_rows_equal():
    data = pd.DataFrame({"a": [2.5] * 9, "job": ["cook"] * 9})
    for make in (FAMILIES["independent"], lambda: pg.GaussianMixture(1, **FAST)):
        with pytest.warns(DataWarning, match="constant"):
            model = make().fit(data)
        assert (model.log_prob(data) == 0).all()
        pd.testing.assert_frame_equal(model.sample(9, random_state=0), data)
