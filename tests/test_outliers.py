"""Surprisal, its split by column, tail probabilities and culprits."""

import math
import time
import warnings
from dataclasses import dataclass
from itertools import permutations
from typing import ClassVar

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import kstest
from sklearn.exceptions import ConvergenceWarning

import probgen as pg
from probgen.datasets import penguins
from probgen.families.mixture import Mixture
from probgen.outliers import explaining as module
from probgen.outliers.scorer import Scorer
from probgen.queries import Companion
from probgen.table import encode
from tests.query_toys import Factor
from tests.registry import REGISTRY, subject
from tests.whole import WholeMixture


def numbers(n: int, seed: int = 0) -> pd.DataFrame:
    """x and y depend on each other, and so do y and the level."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = 2 * x + 0.5 * rng.normal(size=n)
    level = np.where(y + rng.normal(size=n) > 0, "high", "low")
    return pd.DataFrame({"x": x, "y": y, "level": level})


@pytest.fixture(scope="module")
def model():
    return pg.GaussianMixture(components=2, random_state=0, draws=2).fit(numbers(300))


@pytest.fixture(scope="module")
def birds():
    return pg.GaussianMixture(components=4, random_state=0, draws=2).fit(penguins())


def test_surprisal_is_minus_log_prob_on_the_callers_index(birds):
    table = penguins().iloc[[3, 3, 7]]
    found = birds.surprisal(table)
    assert found.index.tolist() == [3, 3, 7] and found.name == "surprisal"
    np.testing.assert_array_equal(found, -birds.log_prob(table))


def test_shares_add_up_with_holes_and_duplicate_labels(birds):
    table = penguins().iloc[[3, 3, 7, 271, 293]]
    shares = birds.explain(table)
    assert shares.index.equals(table.index) and list(shares.columns) == list(table.columns)
    np.testing.assert_allclose(shares.sum(axis=1), birds.surprisal(table), rtol=0, atol=1e-9)
    assert (shares.to_numpy()[table.isna().to_numpy()] == 0).all()


def test_shares_are_the_average_over_all_orders(model):
    table = numbers(4, seed=1)
    shares = model.explain(table)
    total = pd.DataFrame(0.0, table.index, table.columns)
    for order in permutations(table.columns):
        for place, name in enumerate(order):
            before = list(order[:place])
            own = model.log_prob(table[[name]], given=table[before] if before else None)
            total[name] -= own
    pd.testing.assert_frame_equal(shares, total / math.factorial(3), atol=1e-9)


def test_many_columns_add_up_too_and_calls_agree():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(60, 11)) @ rng.normal(size=(11, 11)))
    many = pg.GaussianMixture(components=1, random_state=0, draws=2).fit(table)
    table.iloc[0, 4] = np.nan
    shares = many.explain(table)
    np.testing.assert_allclose(shares.sum(axis=1), many.surprisal(table), rtol=0, atol=1e-9)
    pd.testing.assert_frame_equal(shares.iloc[5:8], many.explain(table.iloc[5:8]), atol=1e-9)


def test_independent_columns_share_nothing():
    table = numbers(200)
    floor = pg.Independent(random_state=0, draws=2).fit(table)
    shares = floor.explain(table.head(5))
    for name in table:
        own = -floor.log_prob(table[[name]].head(5))
        np.testing.assert_allclose(shares[name], own, rtol=0, atol=1e-9)


def test_some_columns_are_their_marginal(model):
    table = numbers(5, seed=2)[["level", "x"]]
    shares = model.explain(table)
    assert list(shares.columns) == ["level", "x"]
    np.testing.assert_allclose(shares.sum(axis=1), model.surprisal(table), atol=1e-9)


def test_the_spoilt_cell_is_found(model):
    table = numbers(100, seed=3)
    table.loc[17, "y"] = -table.loc[17, "y"] - 4 * np.sign(table.loc[17, "y"])
    table.loc[40, "x"] = 7.0
    table.loc[[40], "y"] = np.nan
    found = model.outliers(table)
    assert set(found["rank"].nsmallest(2).index) == {17, 40}
    assert found.loc[17, "culprit"] in {"x", "y"} and found.loc[40, "culprit"] == "x"
    assert found.loc[[17, 40], "tail_prob"].max() < 0.01
    assert sorted(found["rank"]) == list(range(1, 101))


def test_tail_probability_is_uniform_for_rows_of_the_model(model):
    rows = model.sample(800, random_state=5)
    rows.loc[::3, "x"] = np.nan
    tail = model.outliers(rows, samples=4000, random_state=6)["tail_prob"]
    assert kstest(tail[::3], "uniform").pvalue > 0.001
    assert kstest(tail[1::3], "uniform").pvalue > 0.001


def test_units_change_only_the_surprisal():
    table = numbers(200)
    scaled = table.assign(y=table["y"] * 1000)
    one, two = (
        pg.GaussianMixture(components=2, random_state=0, draws=2).fit(t).outliers(t)
        for t in (table, scaled)
    )
    np.testing.assert_allclose(two["surprisal"] - one["surprisal"], math.log(1000), atol=1e-6)
    np.testing.assert_allclose(one["tail_prob"], two["tail_prob"], atol=2 / 2001)
    np.testing.assert_allclose(one["excess"], two["excess"], atol=1e-6)
    assert (one["culprit"] == two["culprit"]).all()


def test_an_impossible_value_is_to_blame():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=80), "b": rng.exponential(size=80)})
    positive = pg.GaussianMixture(
        components=1, columns={"b": "positive"}, random_state=0, draws=2
    ).fit(table)
    table.loc[[7], "b"] = -1.0
    with pytest.warns(pg.DataWarning, match="'b'"):
        found = positive.outliers(table)
    assert found.loc[7, ["rank", "culprit"]].tolist() == [1, "b"]
    assert found.loc[7, "surprisal"] == math.inf
    with pytest.warns(pg.DataWarning):
        shares = positive.explain(table)
    assert shares.loc[7, "b"] == math.inf and math.isfinite(shares.loc[7, "a"])
    assert np.isfinite(shares.drop(index=7)).all(axis=None)


def test_a_changed_constant_is_to_blame():
    table = numbers(50).assign(unit="mm")
    with pytest.warns(pg.DataWarning):
        fitted = pg.GaussianMixture(components=1, random_state=0, draws=2).fit(table)
    table.loc[[3], "unit"] = "cm"
    with pytest.warns(pg.DataWarning):
        found = fitted.outliers(table, samples=100)
    assert found.loc[3, "culprit"] == "unit" and found.loc[3, "rank"] == 1


def test_no_rows_one_row_and_rows_without_cells(model):
    table = numbers(1, seed=9)
    assert model.explain(table.head(0)).shape == (0, 3)
    assert model.outliers(table.head(0)).shape == (0, 9)
    assert model.outliers(table)["rank"].tolist() == [1]
    empty = model.outliers(pd.DataFrame({"x": [np.nan, 0.1]}))
    assert empty["tail_prob"].iloc[0] == 1 and pd.isna(empty["culprit"].iloc[0])
    assert empty["rank"].tolist() == [2, 1]


def test_outliers_are_the_same_at_each_call(model):
    table = numbers(30, seed=4)
    pd.testing.assert_frame_equal(model.outliers(table), model.outliers(table))


def test_bad_settings_are_named(model):
    with pytest.raises(pg.SchemaError, match="samples=0"):
        model.outliers(numbers(3), samples=0)
    with pytest.raises(pg.SchemaError, match="'z'"):
        model.explain(pd.DataFrame({"z": [1.0]}))


def test_every_order_counts_the_same():
    """The factors of each set add up to 0 over columns, those of the whole set to 1."""
    for d in (1, 3, module.ALL_ORDERS + 2):
        terms = dict(module._terms(np.ones(d, dtype=bool)))
        for subset, factor in terms.items():
            assert factor.sum() == pytest.approx(1.0 if len(subset) == d else 0.0, abs=1e-12)


# --- many marginals at once, and marginals that are estimates ---------------------------------


MIXTURES = [n for n in REGISTRY if n == "independent" or n.startswith("mixture")]


@pytest.mark.parametrize("name", [n for n in MIXTURES if n != "mixture-minibatch"])
def test_one_pass_over_the_cells_equals_one_marginal_at_a_time(name, monkeypatch):
    fitted, table = subject(name).fitted(), subject(name).table().head(12)
    fast = fitted.explain(table), fitted.outliers(table, samples=50)
    used = []
    monkeypatch.setattr(Mixture, "exact_log_prob_masked", lambda *_: used.append(1))
    slow = fitted.explain(table), fitted.outliers(table, samples=50)
    assert used
    for one, two in zip(fast, slow, strict=True):
        pd.testing.assert_frame_equal(one, two, rtol=1e-9, atol=1e-9)


def test_a_pair_is_judged_in_the_context_of_each_row():
    """Noise grows with x: the same residual is odd where x is small, and usual where it is not."""

    def model(batch):
        with batch.rows():
            pyro.sample("y", dist.Normal(0.0 * batch["x"], 0.1 + batch["x"]), obs=batch["y"])

    rng = np.random.default_rng(0)
    x = rng.uniform(0, 2, 200)
    table = pd.DataFrame({"x": x, "y": (0.1 + x) * rng.normal(size=200)})
    fitted = pg.Pair(model, random_state=0, columns={"x": "real"}).fit(table, given=["x"])
    asked = pd.DataFrame({"x": [0.05, 2.0], "y": [1.5, 1.5]})
    found = fitted.outliers(asked, fdr=None)
    assert found["tail_prob"].iloc[0] < 0.02 and found["tail_prob"].iloc[1] > 0.2
    assert found["rank"].tolist() == [1, 2] and found["culprit"].tolist() == ["y", "y"]
    apart = pg.Pair(model, random_state=0, columns={"x": "real"}).fit(
        table, given=["x"], calibration=0.5
    )
    assert (apart.outliers(asked, fdr=None)["method"] == "split-conformal").all()
    folded = fitted.outliers(table, folds=3, fdr=None)
    assert (folded["method"] == "cross-conformal").all() and folded["p_value"].between(0, 1).all()


def test_one_pass_bears_collinear_columns_and_far_rows():
    rng = np.random.default_rng(0)
    a = rng.normal(size=90)
    table = pd.DataFrame(
        {"a": a, "b": 2 * a + 1e-5 * rng.normal(size=90), "c": rng.normal(size=90)}
    )
    fitted = pg.GaussianMixture(2, random_state=0, draws=2).fit(table)
    table.iloc[0] = [1e6, -1e6, 1e9]
    scorer = Scorer.of(fitted, table)
    found, _ = scorer.surprisals(~np.eye(3, dtype=bool))
    wanted = [scorer.showing(mask).surprisal() for mask in ~np.eye(3, dtype=bool)]
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-7)


@dataclass(eq=False, repr=False, kw_only=True)
class Latent(pg.Density):
    """Factor analysis whose densities are importance estimates."""

    precision: str = "float64"
    family: ClassVar = Factor

    def _make(self, schema):
        made = Factor(m=len(schema.slots))
        made.schema = schema
        return made


@pytest.fixture(scope="module")
def latent():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 1))
    table = pd.DataFrame(z + rng.normal(size=(60, 3)), columns=list("abc"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return Latent(random_state=0, max_epochs=3).fit(table, calibration=0.3), table


def test_shares_of_estimates_add_up_and_have_an_error(latent):
    fitted, table = latent
    found = fitted.explain(table.head(5), details=True)
    surprisal = fitted.surprisal(table.head(5))
    np.testing.assert_allclose(found["share"].sum(axis=1), surprisal, atol=1e-6)
    x = torch.from_numpy(encode(table.head(5), fitted.schema_).x)
    assert (found["se"] > 0).all(axis=None)
    exact = fitted.members_[0].double()
    terms = module._terms(np.ones(3, dtype=bool))
    shares, log_det = np.zeros((5, 3)), fitted.schema_
    for subset, factor in terms:
        seen = torch.zeros(5, 3, dtype=torch.bool)
        seen[:, list(subset)] = True
        value = exact.log_density(torch.where(seen, x, 0.0), seen) + log_det.log_det(x, seen)
        shares -= value.detach().numpy()[:, None] * factor
    assert (np.abs(found["share"] - shares) < 5 * found["se"] + 1e-6).all(axis=None)


def test_exact_shares_have_no_error(model):
    found = model.explain(numbers(4), details=True)
    pd.testing.assert_frame_equal(found["share"], model.explain(numbers(4)))
    assert (found["se"] == 0).all(axis=None)


def test_estimates_have_p_values_and_culprits(latent):
    fitted, table = latent
    new = table.iloc[fitted.calibration_.rows[:3]].copy()
    new.iloc[0, 1] = 40.0
    found = fitted.outliers(new, fdr=None, samples=20)
    assert found["p_value"].iloc[0] == 1 / 19 and found["culprit"].iloc[0] == "b"


@pytest.mark.filterwarnings("ignore::probgen.ApproximationWarning")
def test_a_family_that_scores_whole_rows_answers_too(model):
    """Its marginals are estimates; the shares still add up, and culprits are the exact ones."""
    table = numbers(300)
    whole = WholeMixture(components=2, random_state=0, draws=2).fit(table, calibration=0.5)
    whole = whole.with_companion(Companion(model.members_))
    asked = numbers(6, seed=3)
    asked.loc[2, "x"] = 7.0
    found = whole.outliers(asked, samples=60, fdr=None)
    assert found["rank"].iloc[2] == 1 and found["culprit"].iloc[2] == "x"
    assert found["p_value"].between(1 / 151, 1).all()
    shares = whole.explain(asked, details=True)
    np.testing.assert_allclose(shares["share"].sum(axis=1), whole.surprisal(asked), atol=1e-9)
    assert (shares["se"].to_numpy() > 0).any()
    assert whole.repair(asked.iloc[[2]])["gain"].item() > 5


@pytest.mark.slow
def test_wide_tables_are_judged_quickly():
    """60 columns took a minute when each was worked out again for each of the others."""
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 60)))
    wide = pg.Independent(random_state=0, draws=2, max_epochs=5).fit(table)
    clock = time.process_time()
    wide.outliers(table)
    assert time.process_time() - clock < 8


def test_shares_of_a_row_do_not_depend_on_the_cells_of_other_rows():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(200, 10)) @ rng.normal(size=(10, 10)))
    model = pg.StudentT(random_state=0).fit(table)
    rows = table.head(3).copy()
    rows.iloc[0, [2, 7]] = np.nan
    alone = model.explain(rows.iloc[[0]])
    pd.testing.assert_frame_equal(model.explain(rows).iloc[[0]], alone)
    np.testing.assert_allclose(alone.sum(axis=1), -model.log_prob(rows.iloc[[0]]))
