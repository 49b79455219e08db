"""NUTS as a reference: closed forms, what is refused, what is kept and said."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from sklearn.exceptions import ConvergenceWarning

import probgen as pg
from probgen.datasets import penguins
from probgen.diagnostics.chains import judged
from probgen.diagnostics.posterior import kind
from probgen.nuts import sampler_of
from tests import pairs

NOISE = 0.7


def regression(batch):
    """Two coefficients, noise known: the posterior is normal."""
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with batch.rows():
        loc = b[0] * batch["x"] + b[1] * batch["z"]
        pyro.sample("y", dist.Normal(loc, NOISE), obs=batch["y"])


def scale(batch):
    """A precision with a conjugate prior: a global that is positive."""
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with batch.rows():
        pyro.sample("y", dist.Normal(0.0, tau.rsqrt()), obs=batch["y"])


def lines(n: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    z = 0.8 * x + 0.6 * rng.normal(size=n)
    return pd.DataFrame({"x": x, "z": z, "y": x - z + NOISE * rng.normal(size=n)})


def walk(model, table, steps=400, given=(), guide=None, **settings):
    quick = pg.NUTS(warmup=150, steps=steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = pg.Pair(model, guide, **{"random_state": 0, "draws": 50, **settings})
        return estimator.fit(table, given=given, inference=quick)


@pytest.fixture(scope="module")
def fitted():
    return walk(regression, lines(), given=["x", "z"])


def test_a_normal_posterior(fitted):
    table = lines()
    x = table[["x", "z"]].to_numpy()
    cov = np.linalg.inv(x.T @ x / NOISE**2 + np.eye(2) / 4)
    mean, sd = cov @ x.T @ table["y"].to_numpy() / NOISE**2, np.sqrt(np.diag(cov))
    draws, ess = fitted.members_[0].sampled["b"].numpy(), fitted.result_.chain["ess"]
    assert draws.shape == (400, 2) and ess > 60
    assert np.all(np.abs(draws.mean(0) - mean) < 4 * sd / ess**0.5)
    # the variance of a normal sample has relative error sqrt(2 / ess)
    assert np.all(np.abs(draws.std(0) / sd - 1) < 4 / (2 * ess) ** 0.5)
    correlation = cov[0, 1] / sd[0] / sd[1]
    assert abs(np.corrcoef(draws.T)[0, 1] - correlation) < 4 * (1 - correlation**2) / ess**0.5


def test_a_positive_global():
    table = pd.DataFrame({"y": np.random.default_rng(1).normal(0, 0.5, 30)})
    model = walk(scale, table)
    exact = stats.gamma(2 + 15, scale=1 / (1 + (table["y"] ** 2).sum() / 2))
    draws, ess = model.members_[0].sampled["tau"].numpy(), model.result_.chain["ess"]
    assert (draws > 0).all() and ess > 60
    assert abs(draws.mean() - exact.mean()) < 4 * exact.std() / ess**0.5
    assert abs(draws.std() / exact.std() - 1) < 6 / (2 * ess) ** 0.5  # a longer tail than normal


def test_weights_count_as_repeated_rows():
    table = lines(20)
    weight = np.arange(20) % 3
    quick = pg.NUTS(warmup=100, steps=300)
    settings = {"random_state": 0, "draws": 50}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = pg.Pair(regression, **settings).fit(
            table, sample_weight=weight, given=["x", "z"], inference=quick
        )
    used = table.iloc[np.repeat(np.arange(20), weight)]
    x = used[["x", "z"]].to_numpy()
    cov = np.linalg.inv(x.T @ x / NOISE**2 + np.eye(2) / 4)
    mean, sd = cov @ x.T @ used["y"].to_numpy() / NOISE**2, np.sqrt(np.diag(cov))
    draws = one.members_[0].sampled["b"].numpy()
    assert np.all(np.abs(draws.mean(0) - mean) < 4 * sd / one.result_.chain["ess"] ** 0.5)


def test_the_draws_stand_for_the_posterior_everywhere(fitted, tmp_path):
    table = lines()
    assert kind(fitted) == "nuts"
    result = fitted.result_
    assert result.engine == "nuts" and result.reason.startswith("NUTS: R-hat")
    assert {"divergences", "acceptance", "rhat", "ess", "step_size"} <= set(result.chain)
    stored = fitted.members_[0].sampled["b"]
    thinned = fitted._with_draws.draws[0]["b"]
    assert torch.equal(thinned, stored[torch.arange(50) * 8])
    tree = fitted.to_arviz()
    assert "NUTS" in tree["posterior"].attrs["inference_method"]
    assert "of NUTS" in str(fitted.check(table, train=table))
    fitted.save(tmp_path / "model")
    again = pg.load(tmp_path / "model", model=regression)
    assert (again.log_prob(table) == fitted.log_prob(table)).all()
    assert torch.equal(again.members_[0].sampled["b"], stored)
    assert again.result_.chain == result.chain and kind(again) == "nuts"


def test_the_same_seed_gives_the_same_chain_and_nothing_is_left_behind():
    store, state = dict(pyro.get_param_store().items()), torch.get_rng_state()
    both = [walk(regression, lines(), 60, ["x", "z"]) for _ in range(2)]
    first, second = (model.members_[0].sampled["b"] for model in both)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(pyro.get_param_store().items()) == store


@pytest.mark.slow
def test_a_chain_for_each_restart():
    model = walk(regression, lines(), 60, ["x", "z"], restarts=2, draws=20)
    one, two = (member.sampled["b"] for member in model.members_)
    assert not torch.equal(one, two)
    assert model.results_[0].chain["rhat"] == model.results_[1].chain["rhat"]
    assert model.parameters().shape == (2, 7)


def test_a_bad_chain_is_said(fitted):
    member, result = fitted.members_[0], fitted.result_
    kept = member.sampled
    try:
        member.sampled = {"b": torch.linspace(0, 1, 400)[:, None].expand(400, 2).contiguous()}
        with pytest.warns(ConvergenceWarning, match="both larger"):
            [bad] = judged([member], [result])
        assert not bad.converged and bad.chain["rhat"] > 1.5
        member.sampled = {"b": torch.randn(400, 2, generator=torch.Generator().manual_seed(0))}
        result.chain["divergences"] = 3
        with pytest.warns(ConvergenceWarning, match="3 divergences.*acceptance=0.95"):
            [bad] = judged([member], [result])
        assert not bad.converged
    finally:
        member.sampled, result.chain["divergences"] = kept, 0


def test_what_is_refused():
    def learned(batch):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        s = pyro.param("s", torch.tensor(1.0), constraint=pairs.POSITIVE)
        with batch.rows():
            pyro.sample("y", dist.Normal(a, s), obs=batch["y"])

    def latent(batch):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with batch.rows():
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(a + z, 1.0), obs=batch["y"])

    table = lines()[["y"]]
    for model, text in ((learned, "learned parameters.*prior"), (latent, r"row latents \['z'\]")):
        with pytest.raises(pg.NotSupported, match=text):
            walk(model, table, max_epochs=2)
    with pytest.raises(pg.NotSupported, match="no global latents"):
        walk(pairs.chain, pairs.chain_table(30, holes=False), max_epochs=2)
    with pytest.raises(pg.NotSupported, match="a sampler of its own"):
        estimator = pg.GaussianMixture(components=1, draws=10, random_state=0)
        estimator.fit(penguins()[["body_mass_g"]].dropna(), inference="nuts")


def test_settings():
    assert sampler_of("vi") is None and sampler_of("nuts") == pg.NUTS()
    with pytest.raises(pg.SchemaError, match="inference='hmc'"):
        pg.Pair(regression).fit(lines(), inference="hmc")
    for wrong in ({"steps": 0}, {"warmup": 2.5}, {"acceptance": 1.0}, {"depth": 0}):
        with pytest.raises(pg.SchemaError, match=next(iter(wrong))):
            pg.NUTS(**wrong)
