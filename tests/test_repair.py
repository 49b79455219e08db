"""The one cell whose change raises the density most."""

import math

import numpy as np
import pandas as pd
import pytest

import probgen as pg
from probgen.datasets import penguins

QUICK = {"random_state": 0, "draws": 2, "starts": 1}
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def birds():
    return pg.GaussianMixture(components=4, **QUICK).fit(penguins())


def put(row: pd.DataFrame, name: object, value: object) -> pd.DataFrame:
    """The row with one cell replaced, in its own data type."""
    return row.assign(**{str(name): pd.Series([value], row.index).astype(row[name].dtype)})


def test_planted_slips_are_found_and_mended(birds):
    table = penguins().iloc[[5, 50, 200]].copy()
    table.index = ["slip", "slip", "level"]
    table.iloc[0, table.columns.get_loc("body_mass_g")] /= 10
    table.iloc[1, table.columns.get_loc("bill_depth_mm")] = 181.0
    table.iloc[2, table.columns.get_loc("species")] = "Adelie"
    found = birds.repair(table)
    assert found.index.equals(table.index)
    assert found["column"].tolist() == ["body_mass_g", "bill_depth_mm", "species"]
    assert found["value"].tolist() == [365.0, 181.0, "Adelie"]
    assert 3300 < found["repaired"].iloc[0] < 4500 and 15 < found["repaired"].iloc[1] < 22
    assert found["repaired"].iloc[2] == "Gentoo"
    np.testing.assert_allclose(found["log_prob"], birds.log_prob(table))
    np.testing.assert_allclose(found["gain"], found["log_prob_after"] - found["log_prob"])


def test_the_density_after_is_that_of_the_mended_row(birds):
    table = penguins().iloc[::25]
    found = birds.repair(table)
    for place, (_, row) in enumerate(found.iterrows()):
        mended = put(table.iloc[[place]], row["column"], row["repaired"])
        assert birds.log_prob(mended).item() == pytest.approx(row["log_prob_after"], abs=1e-8)
    assert (found["gain"] > 0).all()
    pd.testing.assert_frame_equal(found, birds.repair(table))


def test_no_other_value_of_any_cell_is_better():
    """Against a search over a grid, over all levels and all counts."""
    rng = np.random.default_rng(0)
    n = 300
    x = rng.normal(size=n)
    table = pd.DataFrame({
        "x": x, "n": rng.poisson(np.exp(1 + 0.5 * x)), "k": np.where(x > 0, "up", "down"),
        "size": np.exp(x + 0.3 * rng.normal(size=n)),
    })  # fmt: skip
    model = pg.GaussianMixture(3, columns={"size": "positive"}, **QUICK).fit(table)
    rows = table.head(6)
    found = model.repair(rows)
    grids = {"x": np.linspace(-4, 4, 801), "n": np.arange(40), "k": ["up", "down"],
             "size": np.exp(np.linspace(-4, 4, 801))}  # fmt: skip
    for place in range(len(rows)):
        best = -math.inf
        for name, values in grids.items():
            many = rows.iloc[[place] * len(values)].assign(**{name: values})
            best = max(best, model.log_prob(many).max())
        assert found["log_prob_after"].iloc[place] >= best - 1e-3


def test_gains_are_the_same_in_any_units():
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.normal(size=(150, 2)) @ [[1, 0.8], [0, 0.6]], columns=["a", "b"])
    both = []
    for c in (1.0, 1024.0):
        scaled = table.assign(b=table["b"] * c)
        both.append(pg.GaussianMixture(2, **QUICK).fit(scaled).repair(scaled.head(20)))
    assert (both[0]["column"] == both[1]["column"]).all()
    np.testing.assert_allclose(both[0]["gain"], both[1]["gain"], atol=1e-6)


def test_impossible_cells_are_the_ones_to_change():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=80), "n": rng.poisson(3, 80), "unit": "mm"})
    with pytest.warns(pg.DataWarning, match="constant"):
        model = pg.GaussianMixture(1, **QUICK).fit(table)
    rows = table.head(4).astype({"n": float})
    rows.loc[0, "n"], rows.loc[1, "unit"] = 2.5, "cm"
    rows.loc[2, ["n", "unit"]] = [2.5, "cm"]
    with pytest.warns(pg.DataWarning, match="support"):
        found = model.repair(rows)
    assert found["column"].iloc[:2].tolist() == ["n", "unit"]
    assert found["repaired"].iloc[1] == "mm" and (found["gain"].iloc[:2] == math.inf).all()
    assert np.isfinite(found["log_prob_after"].iloc[:2]).all()
    # no one cell mends a row with two impossible ones
    assert found["column"].iloc[2] is None and found["log_prob_after"].iloc[2] == -math.inf


def test_atoms_give_way_to_numbers_and_stay_where_they_fit():
    rng = np.random.default_rng(0)
    works = rng.random(400) < 0.6
    pay = np.where(works, np.exp(rng.normal(8, 0.3, 400)), 0.0)
    table = pd.DataFrame({"pay": pay, "works": np.where(works, "yes", "no")})
    model = pg.GaussianMixture(2, **QUICK).fit(table)
    assert model.schema_["pay"].atoms == (0.0,)
    odd = pd.DataFrame({"pay": [0.0, 0.0, 3000.0], "works": ["yes", "no", "yes"]})
    found = model.repair(odd)
    pays = model.repair(odd[["pay"]].head(1), candidates=16)
    assert found["column"].iloc[0] in {"pay", "works"} and found["column"].iloc[1] is None
    if found["column"].iloc[0] == "pay":
        assert 1000 < found["repaired"].iloc[0] < 9000
    # alone, more rows are at work than not
    assert pays["column"].iloc[0] == "pay" and 1000 < pays["repaired"].iloc[0] < 9000
    assert pays["gain"].iloc[0] == pytest.approx(
        math.log(works.mean() / (~works).mean()), abs=0.05
    )


def test_foreign_levels_and_holes(birds):
    table = penguins().iloc[[0, 3]].assign(island="Elba")
    found = birds.repair(table, unseen="rare")
    assert found["column"].iloc[0] == "island" and found["repaired"].iloc[0] in set(
        penguins()["island"]
    )
    # of the second bird nothing was measured: holes stay
    assert found["column"].isin({"island", "species", "year"}).iloc[1]
    assert birds.repair(table.head(0)).shape == (0, 6)
    with pytest.raises(pg.SchemaError, match="candidates=1"):
        birds.repair(table, candidates=1)


def test_dates_and_whole_numbers_come_back_in_their_type():
    rng = np.random.default_rng(0)
    n = 120
    day = pd.Timestamp("2021-01-01", tz="Europe/Zurich") + pd.to_timedelta(
        rng.integers(0, 300, n), unit="D"
    )
    table = pd.DataFrame({"day": day, "count": pd.array(rng.poisson(4, n), "Int64")})
    model = pg.Independent(**QUICK).fit(table)
    odd = table.head(2).copy()
    odd.loc[0, "day"] = pd.Timestamp("2035-01-01", tz="Europe/Zurich")
    odd.loc[1, "count"] = 60
    found = model.repair(odd)
    assert found["column"].tolist() == ["day", "count"]
    assert isinstance(found["repaired"].iloc[0], pd.Timestamp) and found["repaired"].iloc[1] < 9
    odd.loc[0, "day"], odd.loc[1, "count"] = found["repaired"]  # fits where it came from
    assert odd.dtypes.equals(table.dtypes)
    np.testing.assert_allclose(model.log_prob(odd), found["log_prob_after"])
