"""Imputation: exact centres, one draw of the parameters a table, and deltas."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, stats

import probgen as pg
from probgen.conditionals import Counts, Drawn, Levels, Reals
from probgen.counts import CountLeaf
from probgen.families.mixture import Mixture
from probgen.testing.imputing import hide

N = 300


def make(n: int = N) -> pd.DataFrame:
    g = np.random.default_rng(3)
    a = np.where(g.random(n) < 0.4, g.normal(-2, 0.5, n), g.normal(3, 1.5, n))
    return pd.DataFrame({
        "a": a,
        "b": 0.5 * a + g.normal(0, 1, n),
        "income": np.exp(g.normal(1 + 0.2 * a, 0.8)),
        "visits": g.poisson(np.where(a < 0.5, 2, 9)),
        "spike": np.where(g.random(n) < 0.4, 0.0, g.normal(2, 1, n)),
        "size": pd.Categorical(g.choice(["s", "m", "l"], n, p=[0.5, 0.3, 0.2]), ["s", "m", "l"],
                               ordered=True),
        "job": g.choice(["cook", "nurse", "smith"], n, p=[0.2, 0.3, 0.5]),
        "flag": g.random(n) < 0.4,
        "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(g.integers(0, 900, n), unit="D"),
    })  # fmt: skip


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return make()


@pytest.fixture(scope="module")
def model(table: pd.DataFrame) -> pg.GaussianMixture:
    return pg.GaussianMixture(3, draws=20, starts=1, random_state=0).fit(table)


# --- distributions of single cells ------------------------------------------------------------


def reals() -> Reals:
    g = torch.Generator().manual_seed(0)
    shape = (7, 4)
    weights = torch.rand(shape, generator=g, dtype=torch.float64)
    mean = 5 * torch.randn(shape, generator=g, dtype=torch.float64)
    scale = 0.2 + torch.rand(shape, generator=g, dtype=torch.float64)
    dof = torch.tensor([3.0, 7.5, 1e3, torch.inf], dtype=torch.float64).expand(shape)
    return Reals(0.6 * weights, mean, scale, dof)


def test_quantiles_of_a_mixture_of_t():
    cells = reals()
    for level in (1e-4, 0.1, 0.5, 0.97):
        found = cells.quantile(torch.full((7,), level, dtype=torch.float64))
        w, m, s, v = (getattr(cells, n).numpy() for n in ("weights", "mean", "scale", "dof"))
        z = (found.numpy()[:, None] - m) / s
        below = np.where(
            np.isinf(v), stats.norm.cdf(z), stats.t.cdf(z, np.where(np.isinf(v), 1, v))
        )
        assert np.allclose((w * below).sum(1) / w.sum(1), level, atol=1e-9)


def test_average_of_a_function():
    cells = reals()
    found = cells.average(torch.sigmoid)
    for row in range(2):
        w, m, s, v = (getattr(cells, n)[row].numpy() for n in ("weights", "mean", "scale", "dof"))

        def integrand(x, w=w, m=m, s=s, v=v):
            density = [stats.norm.pdf(x, a, b) if np.isinf(c) else stats.t.pdf((x - a) / b, c) / b
                       for a, b, c in zip(m, s, v, strict=True)]  # fmt: skip
            return (w * density).sum() / w.sum() / (1 + np.exp(-x))

        exact = integrate.quad(integrand, -60, 60, limit=400, points=sorted(m))[0]
        assert found[row].item() == pytest.approx(exact, abs=2e-3)


def count_cells() -> tuple[Counts, CountLeaf]:
    leaf = CountLeaf(1)
    values = torch.from_numpy(np.random.default_rng(0).negative_binomial(2, 0.02, 500)).double()
    leaf.begin(values, torch.ones_like(values))
    g = torch.Generator().manual_seed(0)
    weights = torch.rand(5, leaf.size, generator=g, dtype=torch.float64) ** 8
    return Counts([(leaf, weights)]), leaf


def test_counts_by_summing_their_masses():
    cells, leaf = count_cells()
    v = torch.arange(30_000.0, dtype=torch.float64)
    share = cells.parts[0][1] / cells.parts[0][1].sum(1, keepdim=True)
    mass = leaf.log_basis(v).exp()
    assert torch.allclose(leaf.cumulative(v), mass.cumsum(0), atol=1e-9)
    below = (mass @ share.T).cumsum(0)
    for level in (0.05, 0.5, 0.9):
        wanted = (below < level - 1e-12).sum(0).double()
        found = cells.quantile(torch.full((5,), level, dtype=torch.float64))
        assert torch.equal(found, wanted)
    mean = (v @ mass) @ share.T
    assert torch.allclose(cells.centre(), mean, rtol=2e-3)


def test_draws_and_levels():
    values = torch.tensor([[3.0, 1.0, 2.0, 9.0]], dtype=torch.float64)
    weights = torch.tensor([[0.25, 0.25, 0.25, 0.0]], dtype=torch.float64)
    cells, half = Drawn(values, weights), torch.tensor([0.5], dtype=torch.float64)
    assert cells.centre().item() == 2 and cells.quantile(half).item() == 2
    assert cells.cdf(torch.tensor([1.5], dtype=torch.float64)).item() == pytest.approx(1 / 3)
    levels = Levels(torch.tensor([[0.2, 0.2, 0.35]], dtype=torch.float64))
    assert levels.mode().item() == 2 and levels.quantile(half).item() == 1


# --- one value a hole -------------------------------------------------------------------------


def test_the_conditional_mean_in_closed_form():
    """One normal component: the regression of one column on the other."""
    g = np.random.default_rng(0)
    x = g.normal(0, 1, 4000)
    rows = pd.DataFrame({"x": x, "y": 1 + 2 * x + g.normal(0, 0.5, 4000)})
    model = pg.GaussianMixture(1, draws=0, random_state=0).fit(rows)
    filled = model.impute(pd.DataFrame({"x": [-1.0, 0.0, 2.0]}).assign(y=np.nan))["y"]
    line = np.polynomial.Polynomial.fit(rows.x, rows.y, 1)
    assert np.allclose(filled, line(np.array([-1.0, 0.0, 2.0])), atol=1e-3)


def test_the_centre_is_that_of_many_draws(model, table):
    """Each centre of each kind against 4,000 conditional draws of the same predictive."""
    holed = hide(table.iloc[:6], ["a", "income", "visits", "spike", "day"])
    draws = model.sample(4000, given=holed.drop(columns=["a", "income", "visits", "spike", "day"]),
                         random_state=0)  # fmt: skip
    mean, median = (model.impute(holed, centre=c) for c in ("mean", "median"))
    for row in range(6):
        own = draws.loc[row]
        for name in ("a", "spike"):
            se = own[name].std() / np.sqrt(4000)
            assert abs(own[name].mean() - mean[name][row]) < 4.5 * se
        for name in ("a", "income", "visits", "spike", "day"):
            below, upto = (own[name] < median[name][row]).mean(), (own[name] <= median[name][row])
            assert below < 0.5 + 4.5 * 0.5 / 63.2 and upto.mean() > 0.5 - 4.5 * 0.5 / 63.2


def test_auto_goes_by_kind(model, table):
    holed = hide(table, list(table), every=3)
    auto = model.impute(holed)
    for name, how in {"a": "mean", "day": "mean", "income": "median", "visits": "median",
                      "size": "median", "job": "mode", "flag": "mode"}.items():  # fmt: skip
        pd.testing.assert_series_equal(auto[name], model.impute(holed, centre={name: how})[name])


def test_the_atom_where_it_is_likelier_than_the_rest():
    g = np.random.default_rng(0)
    left = g.random(600) < 0.5
    spike = np.where(g.random(600) < np.where(left, 0.8, 0.2), 0.0, g.normal(2, 1, 600))
    rows = pd.DataFrame({"side": np.where(left, "left", "right"), "spike": spike})
    model = pg.GaussianMixture(2, draws=0, random_state=0).fit(rows)
    assert model.schema_["spike"].atoms == (0.0,)
    asked = pd.DataFrame({"side": ["left", "right"], "spike": np.nan})
    left_value, right_value = model.impute(asked)["spike"]
    assert left_value == 0 and abs(right_value - 2) < 0.5
    mean = model.impute(asked, centre="mean")["spike"]
    assert abs(mean[0] - 0.4) < 0.25 and abs(mean[1] - 1.6) < 0.25
    median = model.impute(asked, centre="median")["spike"]
    assert median[0] == 0 and 0.8 < median[1] < 2


def test_restarts_are_mixed_by_the_density_of_the_seen_cells(table):
    numbers = table[["a", "b", "income", "visits"]]
    model = pg.GaussianMixture(2, restarts=2, starts=1, draws=5, random_state=0).fit(numbers)
    holed = hide(numbers.iloc[:4], ["b", "visits"])
    draws = model.sample(4000, given=holed[["a", "income"]], random_state=0)
    found = model.impute(holed, centre="mean")
    for row in range(4):
        se = draws.loc[row]["b"].std() / np.sqrt(4000)
        assert abs(draws.loc[row]["b"].mean() - found["b"][row]) < 4.5 * se


def test_without_closed_forms_centres_come_from_draws(model, table, monkeypatch):
    holed = hide(table.iloc[:20], ["a", "income", "visits", "job", "spike"])
    exact = model.impute(holed, centre="median")
    monkeypatch.setattr(Mixture, "conditionals", lambda self, batch: None)
    drawn = model.impute(holed, centre="median")
    pd.testing.assert_frame_equal(drawn, model.impute(holed, centre="median"))  # seeded
    spread = (model.sample(200, given=holed.iloc[[0]], random_state=0)["a"]).std()
    assert np.abs(drawn["a"] - exact["a"]).mean() < 0.25 * spread
    assert (drawn["job"] == exact["job"]).mean() > 0.7


def test_a_row_and_a_column_of_holes(model, table):
    nothing = pd.DataFrame(index=["x"], columns=table.columns)
    for own in (model.impute(nothing), *model.impute(nothing, draws=2, random_state=0)):
        assert own.notna().all().all() and list(own.index) == ["x"]
    empty = table.assign(b=np.nan)
    assert np.isfinite(model.impute(empty)["b"]).all()
    rows = table[["a", "b"]].assign(none=np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = pg.GaussianMixture(2, draws=5, starts=1, random_state=0).fit(rows)
    with pytest.warns(pg.DataWarning, match="'none'.*stay"):
        filled = fitted.impute(hide(rows, ["a"], every=2))
    assert filled["none"].isna().all() and filled["a"].notna().all()


# --- draws ------------------------------------------------------------------------------------


def test_each_table_takes_one_draw_of_the_parameters():
    """The mean of a column of holes varies between tables by the posterior, beside chance."""
    g = np.random.default_rng(0)
    few = pd.DataFrame({"x": g.normal(0, 1, 25)})
    model = pg.GaussianMixture(1, draws=200, random_state=0).fit(few)
    long = pd.DataFrame({"x": np.full(4000, np.nan)})
    means = [own["x"].mean() for own in model.impute(long, draws=100, random_state=0)]
    posterior = few["x"].std() / np.sqrt(25)
    assert abs(np.std(means) / posterior - 1) < 4 / np.sqrt(2 * 100) + 0.1


def test_more_tables_than_stored_draws_and_restarts_in_turn(table):
    rows = table[["a", "b"]]
    model = pg.GaussianMixture(2, draws=3, restarts=2, starts=1, random_state=0).fit(rows)
    holed = hide(rows, ["b"], every=2)
    tables = model.impute(holed, draws=9, random_state=0)
    assert len({own["b"].sum() for own in tables}) == 9
    again = model.impute(holed, draws=9, random_state=0)
    assert all(a.equals(b) for a, b in zip(tables, again, strict=True))
    assert not model.impute(holed, draws=1)[0].equals(model.impute(holed, draws=1)[0])
    assert model.impute(holed, draws=0) == []


# --- deltas -----------------------------------------------------------------------------------


def test_numbers_are_shifted_in_table_units(model, table):
    holed = hide(table, ["a", "visits", "day"], every=2)
    plain, off = model.impute(holed, 2, random_state=0), holed.isna()
    day = pd.Timedelta(days=40)
    moved = model.impute(holed, 2, random_state=0, delta={"a": -3, "visits": 2, "day": day})
    for one, two in zip(plain, moved, strict=True):
        assert np.allclose((two["a"] - one["a"])[off["a"]], -3)
        assert (two["a"] == one["a"])[~off["a"]].all()
        assert ((two["visits"] - one["visits"])[off["visits"]] == 2).all()
        assert ((two["day"] - one["day"])[off["day"]] == day).all()
    single = model.impute(holed, delta={"a": -3})["a"] - model.impute(holed)["a"]
    assert np.allclose(single[off["a"]], -3) and (single[~off["a"]] == 0).all()


def test_values_stay_legal_and_atoms_stay(model, table):
    holed = hide(table, ["visits", "income", "spike"], every=2)
    off = holed["spike"].isna()
    low = model.impute(holed, 1, random_state=0, delta={
        "visits": -100, "income": lambda values: 0.1 * values, "spike": 50.0,
    })[0]  # fmt: skip
    plain = model.impute(holed, 1, random_state=0)[0]
    assert (low["visits"][off] == 0).all()
    assert np.allclose(low["income"][off], 0.1 * plain["income"][off])
    zero = plain["spike"] == 0
    assert (low["spike"] == 0)[off & zero].all()
    assert np.allclose((low["spike"] - plain["spike"])[off & ~zero], 50)
    with pytest.raises(pg.SchemaError, match="'income'.*factor"):
        model.impute(holed, 1, random_state=0, delta={"income": -1000})


def test_the_rest_of_a_row_follows_a_moved_cell():
    """b is drawn given the moved a, as if it had been seen."""
    g = np.random.default_rng(0)
    a = g.normal(0, 1, 2000)
    rows = pd.DataFrame({"a": a, "b": 2 * a + g.normal(0, 0.1, 2000)})
    model = pg.GaussianMixture(1, draws=5, random_state=0).fit(rows)
    holes = pd.DataFrame({"a": np.full(500, np.nan), "b": np.full(500, np.nan)})
    own = model.impute(holes, 1, random_state=0, delta={"a": 3.0})[0]
    assert abs(own["a"].mean() - 3) < 0.3
    assert np.abs(own["b"] - 2 * own["a"]).mean() < 0.2


def test_log_odds_are_shifted_by_the_stated_amount(model, table):
    holed = hide(table, ["job", "a"])
    long = pd.concat([holed] * 10, ignore_index=True)

    def odds(delta):
        job = model.impute(long, 1, random_state=0, delta=delta)[0]["job"]
        return np.log((job == "cook").sum() / (job == "smith").sum()), len(job)

    plain, n = odds(None)
    tilted, _ = odds({"job": {"cook": 1.0}})
    # odds of each row rise by exp(1); those of a mixture of rows by a little less
    assert 0.75 < tilted - plain < 1 + 4 * np.sqrt(4 * 5 / n)
    sure = model.impute(holed, delta={"job": {"cook": 6.5}})["job"]
    assert (sure == "cook").all()
    other = model.impute(long, 1, random_state=0, delta={"flag": {True: 1.0}})[0]["job"]
    assert abs(np.log((other == "cook").sum() / (other == "smith").sum()) - plain) < 0.35


@pytest.mark.parametrize(
    ("delta", "words"),
    [
        ({"salary": -1}, "salary"),
        ({"job": -1}, "log odds by level"),
        ({"job": {"pilot": 1}}, "pilot"),
        ({"job": {"cook": "much"}}, "finite number"),
        ({"job": {"cook": 9}}, "at most 7"),
        ({"a": "less"}, "finite number"),
        ({"a": True}, "finite number"),
        ({"day": 3}, "time span"),
        ({"a": lambda values: values.head(1)}, "one value for each"),
        (-2000, "dict by column"),
    ],
)
def test_deltas_that_make_no_sense(model, table, delta, words):
    holed = hide(table, ["a", "job", "day"], every=2)
    with pytest.raises(pg.SchemaError, match=words):
        model.impute(holed, 2, random_state=0, delta=delta)


@pytest.mark.parametrize("centre", ["middle", {"job": "mean"}, {"a": "mode"}, {"salary": "mean"}])
def test_centres_that_make_no_sense(model, table, centre):
    with pytest.raises(pg.SchemaError, match="found .*; needed .*; do: "):
        model.impute(table, centre=centre)


def test_a_delta_of_a_column_left_out_is_an_error(model, table):
    with pytest.raises(pg.SchemaError, match="'income'"):
        model.impute(hide(table[["a", "b"]], ["a"]), delta={"income": 1})


def test_a_delta_that_would_do_nothing_is_an_error():
    table = pd.DataFrame({"a": [1.5, 2.5, np.nan, 4.25, 3.0], "same": [7.0] * 5})
    with pytest.warns(pg.DataWarning):
        model = pg.GaussianMixture(1, random_state=0, draws=2).fit(table)
    with pytest.raises(pg.SchemaError, match="'same'"):
        model.impute(table, delta={"same": 1.0})
