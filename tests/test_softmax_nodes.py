"""Discrete columns with numbers as parents: softmax nodes, and importance sampling beside them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

import probgen as pg

EDGES = [("x", "label"), ("flag", "label"), ("label", "y")]


def rows(n: int = 1500, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x, flag = rng.normal(size=n), rng.random(n) < 0.5
    p = 1 / (1 + np.exp(-(2 * x - 0.5 + flag)))
    label = np.where(rng.random(n) < p, "yes", "no")
    y = rng.normal(np.where(label == "yes", 1.0, -1.0), 1)
    return pd.DataFrame({"x": x, "flag": flag, "label": label, "y": y})


@pytest.fixture(scope="module")
def model():
    return pg.BayesianNetwork(structure=EDGES, logistic=True, draws=50, random_state=0).fit(rows())


@pytest.fixture(scope="module")
def sampled():
    fit = pg.BayesianNetwork(
        structure=EDGES, logistic=True, approximate=True, draws=20, random_state=0
    )
    return fit.fit(rows())


def truth(table: pd.DataFrame) -> np.ndarray:
    """Log density of rows under what made them."""
    z = 2 * table.x - 0.5 + table.flag
    label = np.where(table.label == "yes", -np.log1p(np.exp(-z)), -np.log1p(np.exp(z)))
    gap = table.y - np.where(table.label == "yes", 1.0, -1.0)
    normal = -0.5 * (table.x**2 + gap**2) - math.log(2 * math.pi)
    return np.asarray(normal + math.log(0.5) + label)


def test_the_density_is_close_to_that_of_the_truth(model):
    fresh = rows(4000, seed=1)
    gap = truth(fresh) - model.log_prob(fresh).to_numpy()
    # some 13 numbers were learned from 1,500 rows: half a nat each over all rows, on average
    assert -3 * gap.std() / math.sqrt(4000) < gap.mean() < 3 * 13 / (2 * 1500)


def test_the_slope_is_that_of_the_logit(model):
    weights = model.members_[0].network.curve(2).weights
    slopes = (weights[:, 1, 1] - weights[:, 0, 1]).numpy() / model.schema_["x"].scale
    precision = model.members_[0].network.curve(2).precision
    for slope, own in zip(slopes, precision, strict=True):
        spread = np.linalg.inv(own.numpy())
        sd = math.sqrt(spread[1, 1] + spread[3, 3] - 2 * spread[1, 3])
        assert abs(slope - 2.0) < 4 * sd / model.schema_["x"].scale


def test_holes_in_the_label_are_summed_out(model):
    table = rows(30, seed=2)
    parts = [model.log_prob(table.assign(label=v)).to_numpy() for v in ("no", "yes")]
    rare = model.log_prob(table.assign(label="new"), unseen="rare").to_numpy()
    found = model.log_prob(table.assign(label=None)).to_numpy()
    np.testing.assert_allclose(found, np.logaddexp.reduce([*parts, rare]), rtol=1e-9)


def test_training_sums_over_holes_in_the_label():
    table = rows()
    hidden = table.assign(label=table.label.mask(np.arange(len(table)) % 3 == 0))
    fit = pg.BayesianNetwork(structure=EDGES, logistic=True, draws=0, random_state=0)
    few = pg.BayesianNetwork(structure=EDGES, logistic=True, draws=0, random_state=0)
    fresh = rows(3000, seed=3)
    with_holes = fit.fit(hidden).log_prob(fresh)
    dropped = few.fit(hidden.dropna().reset_index(drop=True)).log_prob(fresh)
    assert with_holes.mean() > dropped.mean()
    assert abs((truth(fresh) - with_holes).mean()) < 0.03


def test_an_unseen_number_above_a_label_is_refused(model):
    with pytest.raises(pg.NotSupported, match="'x', parents of 'label'"):
        model.log_prob(rows(5).drop(columns="x"))


def test_importance_sampling_agrees_with_a_fine_grid(model, sampled):
    table, grid = rows(4, seed=4), np.linspace(-7, 7, 2001)
    found = sampled.log_prob(table.drop(columns="x"), details=True, particles=4096)
    assert (found["method"] == "importance").all()
    for i in range(4):
        along = table.iloc[[i] * 2001].reset_index(drop=True).assign(x=grid)
        exact = np.logaddexp.reduce(model.log_prob(along)) + math.log(grid[1] - grid[0])
        assert abs(found["log_prob"].iloc[i] - exact) < 4 * found["se"].iloc[i]
        assert 0 < found["se"].iloc[i] < 0.05


def test_a_sampled_score_belongs_to_its_row(sampled):
    table = rows(6, seed=5).drop(columns="x")
    together = sampled.log_prob(table)
    alone = pd.concat([sampled.log_prob(table.iloc[[i]]) for i in (5, 2)])
    np.testing.assert_allclose(alone, together.iloc[[5, 2]], rtol=1e-12)


def test_draws_given_a_label_follow_the_weights(sampled):
    drawn = sampled.sample(4000, given={"label": "yes"}, random_state=0)["x"]
    fresh = rows(40_000, seed=6)
    wanted = fresh.x[fresh.label == "yes"]
    assert abs(drawn.mean() - wanted.mean()) < 5 * wanted.std() / math.sqrt(4000) + 0.05


def test_setting_the_number_leaves_a_table(model):
    world = model.do({"x": 0.8})
    found = world.posterior("label", {"flag": True})["yes"].iloc[0]
    exact = 1 / (1 + math.exp(-(2 * 0.8 + 0.5)))
    assert abs(found - exact) < 0.08
    effect = model.effect("x", "label", values=(0.0, 1.0)).loc["yes"]
    assert effect["lower"] < effect["effect"] < effect["upper"]
    assert 0.3 < effect["effect"] < 0.5


def test_it_is_found_saved_and_printed(tmp_path):
    table = rows()
    found = pg.BayesianNetwork(logistic=True, draws=0, random_state=0).fit(table)
    assert ("x", "label") in set(
        found.edges_[["parent", "child"]].itertuples(index=False, name=None)
    )
    assert "label | " in found.describe()
    found.save(tmp_path / "model")
    np.testing.assert_array_equal(
        pg.load(tmp_path / "model").log_prob(table), found.log_prob(table)
    )


def test_posterior_is_bayes_rule():
    rng = np.random.default_rng(0)
    a = rng.choice(["u", "v"], 400)
    b = np.where(rng.random(400) < np.where(a == "u", 0.8, 0.3), "s", "t")
    found = pg.BayesianNetwork(structure=[("a", "b")], random_state=0).fit({"a": a, "b": b})
    p = found.posterior("a", pd.DataFrame({"b": ["s", None, "t"]}))
    for v in ("s", "t"):
        joint = [math.exp(found.log_prob({"a": [w], "b": [v]})[0]) for w in ("u", "v")]
        row = p.iloc[0 if v == "s" else 2]
        np.testing.assert_allclose(row, np.array(joint) / sum(joint), rtol=1e-10)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    given = found.do({"a": "u"}).posterior("b").iloc[0]
    np.testing.assert_allclose(given, found.posterior("b", {"a": "u"}).iloc[0], rtol=1e-10)
    with pytest.raises(pg.SchemaError, match="both sides"):
        found.posterior("a", {"a": "u"})


def test_a_count_whose_number_is_set_keeps_the_density_inside_its_groups():
    rng = np.random.default_rng(0)
    x = rng.normal(size=600)
    table = pd.DataFrame({"x": x, "k": rng.poisson(np.exp(1.5 + 0.6 * x))})
    model = pg.BayesianNetwork(structure=[("x", "k")], logistic=True, random_state=0).fit(table)
    world = model.do({"x": 0.0})
    total = np.exp(world.log_prob({"k": np.arange(400)})).sum()
    assert total == pytest.approx(1.0, abs=1e-6)
    together = model.log_prob({"x": np.zeros(5), "k": np.arange(5)})
    alone = model.log_prob({"x": [0.0]})[0]
    np.testing.assert_allclose(world.log_prob({"k": np.arange(5)}), together - alone, rtol=1e-6)


def test_draws_with_holes_are_of_all_rows():
    """The chain over unseen labels learns the weights from the rows without holes as well."""
    table = rows(900)
    holed = table.assign(label=table.label.mask(np.arange(900) % 4 == 0))
    made = {"structure": EDGES, "logistic": True, "draws": 60, "random_state": 0}
    spread = []
    for part in (holed, table):
        member = pg.BayesianNetwork(**made).fit(part).members_[0]
        draws = member.refined or member.network.posterior_draws(60, torch.Generator())
        slope = draws["weights_2"][:, :, 1, 1] - draws["weights_2"][:, :, 0, 1]
        spread.append(slope.std(0).mean())
    # a quarter of the labels is unseen: some sixth wider, where the holes alone would be double
    assert 0.8 < spread[0] / spread[1] < 1.6
