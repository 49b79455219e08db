"""What a pair of the user's own is asked beside scores: context, foreign levels, dependence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from scipy import stats

import probgen as pg


def line(batch):
    """y about c * x, x conditioned on."""
    c = pyro.param("c", torch.tensor(0.0))
    s = pyro.param("s", torch.tensor(1.0), constraint=constraints.positive)
    with batch.rows():
        pyro.sample("y", dist.Normal(c * batch["x"], s), obs=batch["y"])


def apart(batch):
    """A level and a number that have nothing to do with each other."""
    share = pyro.param("share", torch.ones(3) / 3, constraint=constraints.simplex)
    s = pyro.param("s", torch.tensor(1.0), constraint=constraints.positive)
    with batch.rows():
        pyro.sample("c", dist.Categorical(share), obs=batch["c"])
        pyro.sample("y", dist.Normal(0.0, s), obs=batch["y"])


def fitted(model, table, **options):
    return pg.Pair(model, random_state=0, max_epochs=60).fit(table, **options)


@pytest.fixture(scope="module")
def in_context():
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    table = pd.DataFrame({"x": x, "y": 2 * x + 0.5 * rng.normal(size=200)})
    return fitted(line, table, given=["x"])


@pytest.fixture(scope="module")
def levels():
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"c": rng.choice(list("xyz"), 200), "y": rng.normal(size=200)})
    return fitted(apart, table)


def test_an_event_is_conditioned_on_in_the_context_of_each_row(in_context):
    c, s = (float(in_context.params_[name]) for name in "cs")
    rows = pd.DataFrame({"x": [3.0, -3.0, 0.5], "y": [6.0, 3.5, 4.0]})
    law = stats.norm(c * rows["x"], s)
    truth = law.logpdf(rows["y"]) - law.logsf(3.0)
    found = in_context.log_prob(rows, given="y > 3")
    np.testing.assert_allclose(found, truth, atol=1e-6)
    both = in_context.log_prob(rows, given="y > x")
    np.testing.assert_allclose(both, law.logpdf(rows["y"]) - law.logsf(rows["x"]), atol=1e-6)


def test_events_without_the_context_are_refused(in_context):
    for ask in (
        lambda: in_context.prob("y > 3"),
        lambda: in_context.prob("y > 3", given="y > 1"),
        lambda: in_context.prob("y > 3", given={"y": 4.0}),
        lambda: in_context.sample(2, given="y > 3", random_state=0),
    ):
        with pytest.raises(pg.SchemaError, match="context column"):
            ask()
    held = float(in_context.prob("y > 3", given={"x": 1.0}))
    c, s = (float(in_context.params_[name]) for name in "cs")
    assert held == pytest.approx(stats.norm(c, s).sf(3.0), abs=1e-8)


def test_a_level_that_a_pair_gives_no_mass_is_impossible_everywhere(levels):
    rows = pd.DataFrame({"c": ["w", "x"], "y": [0.0, 1.0]})
    assert np.isneginf(levels.log_prob(rows, unseen="rare")[0])
    found = levels.outliers(rows, fdr=None, samples=100, unseen="rare")
    assert np.isposinf(found["surprisal"][0]) and found["culprit"][0] == "c"
    assert np.isposinf(levels.explain(rows, unseen="rare").loc[0, "c"])
    assert levels.repair(rows, candidates=4, unseen="rare")["column"][0] == "c"
    with pytest.raises(pg.SchemaError, match="impossible"):
        levels.prob("y > 0", given=rows[["c"]], unseen="rare")


def test_a_detector_around_a_pair_finds_foreign_levels(levels):
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"c": rng.choice(list("xyz"), 200), "y": rng.normal(size=200)})
    detector = pg.OutlierDetector(pg.Pair(apart, random_state=0, max_epochs=60)).fit(table)
    assert detector.predict(pd.DataFrame({"c": ["w", "x"], "y": [0.0, 0.0]})).tolist() == [-1, 1]


def test_sums_over_levels_leave_out_what_a_pair_cannot_name(levels):
    share = levels.params_["share"]
    assert float(levels.prob("c != 'x'")) == pytest.approx(1 - share[0], abs=1e-9)
    assert float(levels.prob("c != 'x' and y > 0")) == pytest.approx((1 - share[0]) / 2, abs=1e-8)
    entropy = levels.entropy("c")
    assert entropy.method == "exact"
    assert entropy.value == pytest.approx(stats.entropy(share), abs=1e-9)


def masked(batch):
    """x decides whether y has a density at all."""
    s = pyro.param("s", torch.tensor(1.0), constraint=constraints.positive)
    t = pyro.param("t", torch.tensor(1.0), constraint=constraints.positive)
    with batch.rows():
        x = pyro.sample("x", dist.Normal(0.0, s), obs=batch["x"])
        with pyro.poutine.mask(mask=x > 0):
            pyro.sample("y", dist.Normal(0.0, t), obs=batch["y"])


def in_place(batch):
    """x moves y by way of a tensor that is written into."""
    s = pyro.param("s", torch.tensor(1.0), constraint=constraints.positive)
    t = pyro.param("t", torch.tensor(1.0), constraint=constraints.positive)
    with batch.rows():
        x = pyro.sample("x", dist.Normal(0.0, s), obs=batch["x"])
        loc = torch.zeros(len(batch), dtype=torch.float64)
        loc[x > 0] = 3.0
        pyro.sample("y", dist.Normal(loc, t), obs=batch["y"])


def by_numpy(batch):
    """The same by numbers that have left torch."""
    s = pyro.param("s", torch.tensor(1.0), constraint=constraints.positive)
    t = pyro.param("t", torch.tensor(1.0), constraint=constraints.positive)
    with batch.rows():
        x = pyro.sample("x", dist.Normal(0.0, s), obs=batch["x"])
        loc = torch.from_numpy(np.where(x.detach().numpy() > 0, 3.0, 0.0))
        pyro.sample("y", dist.Normal(loc, t), obs=batch["y"])


@pytest.mark.parametrize("model", [masked, in_place, by_numpy])
def test_a_hole_on_which_another_column_depends_is_integrated(model):
    rng = np.random.default_rng(3)
    x = rng.normal(size=300)
    high = 0.0 if model is masked else 3.0
    table = pd.DataFrame({"x": x, "y": high * (x > 0) + rng.normal(size=300)})
    found = fitted(model, table)
    t = float(found.params_["t"])
    rows = pd.DataFrame({"x": np.nan, "y": [0.1, 2.5, 0.1]})
    above = stats.norm(high, t).pdf(rows["y"])
    below = 1.0 if model is masked else stats.norm(0.0, t).pdf(rows["y"])
    details = found.log_prob(rows, details=True)
    assert (details["se"] > 0).all() and details["log_prob"][0] == details["log_prob"][2]
    z = (details["log_prob"] - np.log(above / 2 + below / 2)) / details["se"]
    assert z.abs().max() < 4
    assert found.members_[0].free == {"y"}


def direct(batch):
    """Reads the cell of another column itself: whole rows only."""
    r = pyro.param("r", torch.tensor(0.02), constraint=constraints.positive)
    with batch.rows():
        x = pyro.sample("x", dist.Exponential(r), obs=batch["x"])
        held = x if batch["x"] is None else batch["x"]
        pyro.sample("y", dist.Normal(10.0 * held, 300.0), obs=batch["y"])


@pytest.fixture(scope="module")
def refusing():
    rng = np.random.default_rng(4)
    x = rng.exponential(50.0, size=300)
    return fitted(direct, pd.DataFrame({"x": x, "y": 10.0 * x + 300.0 * rng.normal(size=300)}))


def test_a_pair_that_reads_cells_itself_answers_about_whole_rows(refusing):
    assert refusing.members_[0].holes == "refuse"
    rate = float(refusing.params_["r"])
    rows = refusing.sample(4, random_state=0)
    truth = stats.expon(scale=1 / rate).logpdf(rows["x"])
    truth = truth + stats.norm(10.0 * rows["x"], 300.0).logpdf(rows["y"])
    np.testing.assert_allclose(refusing.log_prob(rows), truth, atol=1e-6)
    np.testing.assert_allclose(refusing.log_prob(rows, posterior=False), truth, atol=1e-6)


@pytest.mark.filterwarnings("ignore::probgen.ApproximationWarning")
def test_hidden_cells_are_proposed_inside_the_support_of_their_column(refusing):
    rate = float(refusing.params_["r"])
    rows = pd.DataFrame({"x": np.nan, "y": [-100.0, 100.0, 600.0]})
    # an exponential and a normal: a normal of mean m, cut at 0
    m = rows["y"] / 10.0 - rate * 900.0
    density = rate * np.exp(-rate * rows["y"] / 10.0 + 450.0 * rate**2) / 10.0
    truth = np.log(density * stats.norm(m, 30.0).sf(0.0))
    found = refusing.log_prob(rows, details=True)
    assert ((found["log_prob"] - truth).abs() < 4 * found["se"]).all()
    assert (found["se"] < 0.1).all()
    holed = pd.DataFrame({"x": np.nan, "y": np.full(300, -100.0)})
    [drawn] = refusing.impute(holed, draws=1, random_state=0)
    cut = stats.truncnorm(-m[0] / 30.0, np.inf, m[0], 30.0)
    assert (drawn["x"] > 0).all()
    assert abs(drawn["x"].mean() - cut.mean()) < 5 * cut.std() / np.sqrt(300)
