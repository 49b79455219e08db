"""What a first user ran into: data types of conditional samples, misleading words, seeds."""

from __future__ import annotations

import datetime
import decimal
import warnings

import numpy as np
import pandas as pd
import pytest

import probgen as pg
from probgen.datasets import penguins
from probgen.errors import SchemaError


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    n = 120
    frame = pd.DataFrame(
        {
            "real": rng.normal(170, 8, n),
            "visits": pd.array(rng.poisson(3, n), dtype="Int64"),
            "smoker": pd.array(rng.random(n) < 0.3, dtype="boolean"),
            "grade": pd.Categorical(
                rng.choice(["low", "high"], n), categories=["low", "high", "top"], ordered=True
            ),
            "when": pd.Timestamp("2020-01-01", tz="Europe/Berlin")
            + pd.to_timedelta(rng.integers(0, 10_000, n), unit="h"),
        }
    )
    for name in frame.columns:
        frame.loc[rng.random(n) < 0.1, name] = None
    return frame


@pytest.fixture(scope="module")
def model(table: pd.DataFrame) -> pg.Density:
    return pg.GaussianMixture(components=2, random_state=0).fit(table)


def test_a_dict_as_given_leaves_the_fitted_data_types(model, table):
    given = {"visits": 3, "smoker": True, "grade": "low", "real": 170}
    given["when"] = pd.Timestamp("2020-03-01", tz="Europe/Berlin")
    drawn = model.sample(4, given=given, random_state=0)
    pd.testing.assert_series_equal(drawn.dtypes, table.dtypes)
    for name, value in given.items():
        assert (drawn[name] == value).all()
    rows = pd.DataFrame({"visits": [1.0, 2.0], "grade": ["low", None]})
    drawn = model.sample(3, given=rows, random_state=0)
    pd.testing.assert_series_equal(drawn.dtypes, table.dtypes)
    assert (drawn.loc[0, "grade"] == "low").all()


def test_seeds_of_verbs_are_those_of_fit(model, table):
    draw = [model.sample(2, random_state=np.random.RandomState(0)) for _ in range(2)]
    pd.testing.assert_frame_equal(*draw)
    with pytest.raises(SchemaError, match="whole number"):
        model.sample(1, random_state="a")
    for bad in (-1, 2.5, True):
        with pytest.raises(SchemaError, match="draws="):
            model.impute(table, draws=bad)


@pytest.mark.parametrize(("cell", "advice"), [
    (datetime.date(2020, 1, 1), "pd.to_datetime"),
    (decimal.Decimal("1.5"), r"astype\(float\)"),
])  # fmt: skip
def test_objects_that_convert_are_told_how(cell, advice):
    with pytest.raises(SchemaError, match=advice):
        pg.Schema.infer(pd.DataFrame({"x": [cell, cell, cell]}))


def test_single_values_and_lists_on_the_wrong_side(model):
    with pytest.raises(SchemaError, match="into a list"):
        model.log_prob({"real": 170.0})
    with pytest.raises(SchemaError, match="data frame"):
        model.sample(2, given={"grade": ["low", "high"]})


def test_select_says_what_is_wrong(table):
    estimator = pg.GaussianMixture(random_state=0)
    with pytest.raises(SchemaError, match="folds=5 for 3 rows"):
        estimator.select(table.head(3), [1])
    with pytest.raises(SchemaError, match="range"):
        estimator.select(table, 3)


def test_a_schema_is_one_line_in_print(model):
    assert len(repr(model.schema_)) < 200
    assert "5 columns" in repr(model.schema_)


def test_no_gain_is_claimed_of_rows_that_may_have_been_fitted(table):
    rows = table[["real", "visits"]]
    model = pg.Independent(random_state=0).fit(rows)
    floor = next(f for f in model.check(rows).findings if f.name == "floor")
    assert floor.status == "note"
    assert "held_out" in floor.do or "no clear gain" in floor.text


def test_a_missing_folder_is_named_at_save(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        model.save(tmp_path / "none" / "model.zip")


def test_durations_are_drawn_in_days():
    from probgen.plots.shared import cell, numbers

    times = pd.Series(pd.to_timedelta([12.0, 36.0], unit="h"))
    assert numbers(times).tolist() == [0.5, 1.5]
    assert cell(pd.Timestamp("2020-02-03")) == "2020-02-03"


def test_the_surprisal_plot_compares_rows_with_the_same_holes(model, table):
    from probgen.plots.rows import _with_holes_of

    drawn = _with_holes_of(model, table[["visits", "real"]], 500, 0)
    assert drawn.columns.tolist() == ["visits", "real"]
    assert abs(drawn["real"].isna().mean() - table["real"].isna().mean()) < 0.06
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.surprisal(drawn)


def test_foreign_levels_and_columns_in_every_verb():
    table = penguins()
    model = pg.GaussianMixture(2, random_state=0, starts=1, draws=5).fit(table)
    new = table.head(4).assign(species=["Emu", None, "Adelie", "Emu"], note="x")
    filled = model.impute(new, unseen="rare", extra="ignore")
    assert filled["species"].iloc[[0, 3]].tolist() == ["Emu", "Emu"]
    assert filled["note"].eq("x").all() and filled.drop(columns="note").notna().all().all()
    for verb in (model.latent, model.reconstruct):
        assert len(verb(new, unseen="missing", extra="ignore")) == 4
    drawn = model.sample(1, given=new[["species"]], unseen="missing", random_state=0)
    assert drawn["species"].isin(table["species"].unique()).all()
