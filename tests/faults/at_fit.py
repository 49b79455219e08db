"""Faults of the table that is fitted (1 to 27 of the catalogue)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from probgen import DataWarning, SchemaError
from tests.faults.cases import (
    CASES,
    Case,
    N,
    Raises,
    Warns,
    case,
    finite,
    fit_of,
    quiet,
    real,
    rng,
    table,
)  # fmt: skip


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
    z = np.random.default_rng(77).normal(0, 1, N)
    data, c, d = real()[["a"]].assign(z=z), 1e12, 1e-12
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
