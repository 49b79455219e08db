"""What the estimators of networks share: noise, weights of restarts, the mixture beside them."""

import numpy as np
import pandas as pd
import pytest
import torch

import probgen as pg
from probgen.errors import NotSupported, SchemaError
from probgen.estimators import network
from probgen.fitting import reweighted

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
QUICK = {"transforms": 1, "hidden": (8,), "bins": 4, "components": 2, "random_state": 0}


def moon(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return pd.DataFrame({"x": x, "y": x**2 + 0.3 * rng.normal(size=n)})


def counts(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    k = rng.poisson(3, n)
    return pd.DataFrame({"k": k, "l": rng.poisson(1 + k), "c": rng.choice(["a", "b"], n)})


def test_noise_is_the_level_of_highest_held_out_density(monkeypatch):
    monkeypatch.setattr(network, "NOISES", (0.0, 3.0))
    model = pg.Flow(**QUICK, max_epochs=15).fit(moon(150))
    assert model.noise_ == 0.0  # noise of three standard deviations blurs everything
    fixed = pg.Flow(**QUICK, max_epochs=15, noise=3.0).fit(moon(150))
    assert fixed.noise_ == 3.0 and min(fixed.result_.validation) > min(model.result_.validation)
    # the fit that was tried is the fit that is kept
    again = pg.Flow(**QUICK, max_epochs=15, noise=0.0).fit(moon(150))
    np.testing.assert_array_equal(model.score_samples(moon(9, 1)), again.score_samples(moon(9, 1)))


@pytest.mark.parametrize(
    ("table", "settings"),
    [
        (counts(80), {}),  # no real cell
        (moon(80), {"validation": 0.0}),  # nothing to judge by
        (moon(network.FEW_ROWS + 400), {"batch_size": 4000}),  # rows enough
    ],
)
def test_noise_is_not_tried_where_there_is_nothing_to_choose(table, settings, monkeypatch):
    monkeypatch.setattr(network, "NOISES", (3.0, 4.0))
    assert pg.Flow(**QUICK, max_epochs=1, **settings).fit(table).noise_ == 0.0


def test_restarts_weigh_the_rows_anew_and_give_an_interval():
    table = moon(80)
    settings = QUICK | {"max_epochs": 2, "noise": 0.0, "restarts": network.ENOUGH}
    model = pg.Flow(**settings, bootstrap=True).fit(table)
    found = model.log_prob(table.head(), interval=0.9)
    by_restart = np.stack([
        m.exact_log_prob(model._batch(pg.table.encode(table.head(), model.schema_),
                                      torch.device("cpu")), None).detach().numpy()
        for m in model.members_
    ])  # fmt: skip
    assert (by_restart.std(0) > 0).all()
    assert (found["lower"] < found["upper"]).all()
    inside = found["log_prob"].between(found["lower"], found["upper"])
    assert inside.mean() >= 0.8


@pytest.mark.parametrize(("restarts", "bootstrap"), [(1, True), (20, False)])
def test_without_enough_of_them_there_is_no_interval(restarts, bootstrap):
    settings = QUICK | {"max_epochs": 1, "noise": 0.0, "restarts": restarts}
    model = pg.Flow(**settings, bootstrap=bootstrap).fit(moon(40))
    with pytest.raises(NotSupported, match="restarts=20, bootstrap=True"):
        model.log_prob(moon(3), interval=0.9)


def test_weights_of_a_restart_keep_their_sum_and_mean():
    batch = pg.batch.Batch.of(torch.zeros(4000, 1), weight=torch.full((4000,), 2.0))
    drawn = reweighted(batch, 1).weight
    assert float(drawn.sum()) == pytest.approx(8000.0, rel=1e-5)
    # exponential weights: standard deviation of the mean size, within 5 standard errors
    assert float(drawn.std() / drawn.mean()) == pytest.approx(1.0, abs=5 * (2 / 4000) ** 0.5)


def test_check_says_where_a_mixture_is_the_better_density():
    train, held = moon(60), moon(300, 1)
    settings = {"noise": 0.0, "validation": 0.0, "max_epochs": 150, "random_state": 0}
    report = pg.Flow(base="normal", **settings).fit(train).check(held, train=train)
    [finding] = [f for f in report.findings if f.name == "mixture"]
    assert finding.status == "note" and finding.details["gain"] < -finding.details["se"]
    mixture = pg.GaussianMixture(2, random_state=0).fit(train)
    assert not [f for f in mixture.check(held, train=train).findings if f.name == "mixture"]


def test_a_target_given_features_is_compared_with_the_conditional_of_a_mixture():
    train, held = moon(300), moon(300, 1)
    model = pg.Flow(random_state=0, noise=0.0, max_epochs=60).fit(train, given=["x"])
    report = model.check(held, train=train)
    [finding] = [f for f in report.findings if f.name == "mixture"]
    mixture = pg.GaussianMixture(8, schema=_joint(model), random_state=0, draws=0).fit(train)
    gain = model.log_prob(held[["y"]], given=held[["x"]]) - mixture.log_prob(
        held[["y"]], given=held[["x"]]
    )
    assert finding.details["gain"] == pytest.approx(gain.mean(), abs=1e-6)


def _joint(model):
    from dataclasses import replace

    columns = model.schema_.standard().columns
    return pg.Schema(tuple(replace(c, role="modelled") for c in columns))


@pytest.mark.parametrize(
    "setting", [{"dropout": 1.0}, {"noise": -0.1}, {"weight_decay": "a"}, {"bootstrap": 1}]
)
def test_settings_are_checked(setting):
    with pytest.raises(SchemaError, match=next(iter(setting))):
        pg.Flow(**setting).fit(moon(30))


@pytest.mark.parametrize("kind", [pg.Flow, pg.Autoregressive])
def test_every_verb_takes_several_restarts(kind):
    """No answer of a network drags a gradient along, and restarts are averaged."""
    table = counts(80).assign(x=moon(80)["x"], y=moon(80)["y"])
    model = kind(restarts=2, noise=0.0, max_epochs=2, random_state=0).fit(table)
    each = [pg.queries.log_prob(model._predictive().of(r), _batch(model, table)) for r in (0, 1)]
    mean = torch.stack([one.value for one in each]).logsumexp(0) - np.log(2)
    shift = model.schema_.log_det(_batch(model, table).x, _batch(model, table).seen)
    np.testing.assert_allclose(model.log_prob(table), mean + shift, rtol=1e-9)
    assert len(model.log_prob(table.head(), details=True)) == 5
    assert model.check(table.head(40), train=table).density in ("yes", "no", "unknown")
    if kind is pg.Flow:
        again = model.reconstruct(table, latent=model.latent(table))
        np.testing.assert_allclose(again["x"], table["x"], atol=1e-8)
        return  # its answers about parts of rows come from a companion, whatever the restarts
    holed = table.head(6).assign(x=[np.nan, *table["x"][1:6]], k=[*table["k"][:5], np.nan])
    assert model.impute(holed).notna().all(axis=None)
    assert len(model.sample(4, given={"c": "a"}, random_state=0)) == 4
    assert len(model.outliers(table)) == len(table)


def _batch(model, table):
    return model._batch(pg.table.encode(table, model.schema_), torch.device("cpu"))


def test_intervals_of_a_conditional_are_about_the_conditional_that_is_scored():
    """With the given cells first, as `log_prob` has it, and not a ratio of two densities."""
    table = counts(80).assign(x=moon(80)["x"])
    settings = {"noise": 0.0, "max_epochs": 1, "hidden": 16, "orders": 2, "random_state": 0}
    model = pg.Autoregressive(**settings, restarts=network.ENOUGH, bootstrap=True).fit(table)
    asked, known = table[["c"]].head(), table[["k", "x"]].head()
    levels = [asked.assign(c=level) for level in ("a", "b")]
    # with an interval as wide as all restarts, each end is a restart: their conditionals sum to 1
    both = [model.log_prob(one, given=known, interval=0.999) for one in levels]
    total = np.exp(both[0]["lower"]) + np.exp(both[1]["upper"])
    np.testing.assert_allclose(total, 1.0, atol=0.01)  # but for the level never seen


def test_no_band_in_context_without_a_posterior():
    table = moon(80)
    settings = QUICK | {"max_epochs": 1, "noise": 0.0, "restarts": 3}
    model = pg.Flow(**settings).fit(table, given=["x"])
    [ax] = model.plot.marginals(table, ["y"], interval=0.9)
    assert not ax.collections and len(ax.lines)  # a line, and no band about it


@pytest.mark.parametrize("kind", [pg.Autoregressive, pg.Flow])
def test_counts_are_drawn_inside_their_bounds(kind):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"k": rng.binomial(6, 0.8, 200), "l": rng.poisson(2, 200)})
    bounds = {"k": {"kind": "count", "lower": 0, "upper": 6}, "l": "count"}
    model = kind(columns=bounds, noise=0.0, max_epochs=3, random_state=0).fit(table)
    assert model.sample(500, random_state=0)["k"].between(0, 6).all()
