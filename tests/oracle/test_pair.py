"""Pairs of a user's own functions against closed forms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import gammaln, logsumexp
from scipy.stats import multivariate_normal, norm, poisson

from probgen.batch import Batch
from probgen.queries.draws import keyed, tile
from probgen.table import encode
from tests import pairs
from tests.pairs import fit


def conjugate(batch):
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    with batch.rows():
        pyro.sample("x", dist.Normal(mean, 1.0), obs=batch["x"])


@pytest.fixture(scope="module")
def column():
    return pd.DataFrame({"x": np.random.default_rng(0).normal(3, 1, 80)})


@pytest.mark.parametrize("kind", ["mean_field", "multivariate", "flow"])
def test_the_posterior_of_a_normal_mean(column, kind):
    settings = {"guide": kind, "draws": 400, "max_epochs": 300, "batch_size": 1000}
    model = fit(column, conjugate, **settings)
    precision = len(column) + 0.01
    mean, sd = column.x.sum() / precision, precision**-0.5
    draws = model._with_draws.draws[0]["mean"].numpy()
    # the guide itself, not only its draws, may be off by what is left of its training
    assert abs(draws.mean() - mean) < 4 * sd / 400**0.5 + 0.05 * sd
    assert abs(np.log(draws.std() / sd)) < 4 / (2 * 400) ** 0.5 + 0.05
    wanted = norm(mean, (1 + sd**2) ** 0.5).logpdf(column.x)
    assert np.allclose(model.log_prob(column), wanted, atol=0.03)
    report = model.check(column, train=column).to_dict()
    [khat] = [f for f in report["findings"] if f["name"] == "k-hat of the guide"]
    assert khat["status"] == "ok"


def correlated(batch):
    """Two coefficients whose posterior is correlated, as x is far from 0."""
    a = pyro.sample("a", dist.Normal(0.0, 100.0))
    b = pyro.sample("b", dist.Normal(torch.zeros(1), 100.0).to_event(1))
    with batch.rows():
        pyro.sample("y", dist.Normal(a + b[0] * batch["x"], 1.0), obs=batch["y"])


def test_a_multivariate_guide_has_the_correlations():
    rng = np.random.default_rng(1)
    x = rng.normal(2, 1, 100)
    table = pd.DataFrame({"x": x, "y": 1 + 0.5 * x + rng.normal(size=100)})
    design = np.column_stack([np.ones(100), x])
    cov = np.linalg.inv(design.T @ design + 1e-4 * np.eye(2))
    settings = {
        "globals_guide": "multivariate",
        "max_epochs": 100,
        "draws": 400,
    }
    model = fit(table, correlated, given=["x"], learning_rate=0.02, **settings)
    draws = model._with_draws.draws[0]
    both = np.column_stack([draws["a"].numpy(), draws["b"].numpy()[:, 0]])
    assert np.allclose(np.corrcoef(both.T)[0, 1], cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]),
                       atol=0.05)  # fmt: skip
    assert np.allclose(both.std(0) / np.sqrt(np.diag(cov)), 1, atol=0.15)


def test_an_enumerated_label_is_summed_out_with_holes():
    table = pairs.chain_table()
    model = fit(table, pairs.mixture, max_epochs=5)
    p = {name: torch.tensor(value) for name, value in model.params_.items()}
    x = torch.tensor(table.to_numpy())
    cell = dist.Normal(p["loc"], p["scale"]).log_prob(x[:, None].nan_to_num())
    joint = (cell * ~x.isnan()[:, None]).sum(-1) + p["share"].log()
    found = model.log_prob(table, details=True)
    assert np.allclose(found.log_prob, joint.logsumexp(1), atol=1e-9)
    assert (found.se == 0).all()
    latent = model.latent(table)
    assert np.allclose(latent[["k[0]", "k[1]"]], joint.softmax(1), atol=1e-9)


def test_marginals_of_a_chain_with_holes():
    table = pairs.chain_table(400)
    table.loc[::2, "x"] = np.nan
    model = fit(table, pairs.chain)
    mean, cov = pairs.chain_normal(model)
    rows = table.to_numpy()
    wanted = []
    for row in rows:
        on = ~np.isnan(row)
        wanted.append(multivariate_normal(mean[on], cov[on][:, on]).logpdf(row[on]) if on.any()
                      else 0.0)  # fmt: skip
    found = model.log_prob(table, details=True)
    good = ~(found.khat > 0.7)
    near = (found.log_prob - wanted).abs() <= 3 * found.se + 1e-9
    assert good.mean() > 0.9 and near[good].mean() >= 0.99
    whole = table.dropna()
    assert (model.log_prob(whole, details=True).se == 0).all()


def test_training_with_holes_reaches_the_exact_likelihood():
    """EM would; the importance-weighted bound with 16 particles comes within 0.01 nats a row."""
    table = pairs.chain_table(300)
    model = fit(table, pairs.chain, max_epochs=200)
    rows = table.to_numpy()

    def loss(v):
        sx, s = np.exp(v[2]), np.exp(v[3])
        mean = np.array([v[0], v[1] + v[4] * v[0]])
        cov = np.array([[sx**2, v[4] * sx**2], [v[4] * sx**2, v[4] ** 2 * sx**2 + s**2]])
        total = 0.0
        for on in ([True, True], [True, False], [False, True]):
            pick = np.array(on)
            part = rows[(~np.isnan(rows) == pick).all(1)][:, pick]
            total -= multivariate_normal(mean[pick], cov[pick][:, pick]).logpdf(part).sum()
        return total / len(rows)

    best = minimize(loss, np.zeros(5))
    p = {name: float(value) for name, value in model.params_.items()}
    own = loss([p["mu"], p["a"], np.log(p["sx"]), np.log(p["s"]), p["b"]])
    assert own - best.fun < 0.01


def propose(model, table, particles):
    """Completed rows (K, n, m) and normalised weights (K, n) of a pair."""
    member, encoded = model.members_[0], encode(table, model.schema_)
    batch = keyed(Batch.of(torch.from_numpy(encoded.x), torch.from_numpy(encoded.seen)))
    tiled, keys = tile(batch, particles)
    x, log_weight = member.propose(tiled, {}, keys)
    shape = (particles, len(table))
    return x.reshape(*shape, -1).numpy(), log_weight.reshape(shape).numpy()


def test_proposals_weigh_to_the_exact_conditional():
    model = fit(pairs.chain_table(), pairs.chain)
    mean, cov = pairs.chain_normal(model)
    table = pd.DataFrame({"x": np.nan, "y": [0.5, 2.0, 3.5]})
    k = 20_000
    x, log_weight = propose(model, table, k)
    assert (x[:, :, 1] == table.y.to_numpy()).all()
    wanted = norm(mean[1], cov[1, 1] ** 0.5).logpdf(table.y)
    weight = np.exp(log_weight - logsumexp(log_weight, axis=0))
    ess = 1 / (weight**2).sum(0)
    assert np.all(np.abs(logsumexp(log_weight, axis=0) - np.log(k) - wanted) < 4 / np.sqrt(ess))
    slope = cov[0, 1] / cov[1, 1]
    variance = cov[0, 0] - slope * cov[0, 1]
    centre = mean[0] + slope * (table.y.to_numpy() - mean[1])
    found = (weight * x[:, :, 0]).sum(0)
    assert np.all(np.abs(found - centre) < 4 * np.sqrt(variance / ess))
    spread = (weight * (x[:, :, 0] - centre) ** 2).sum(0)
    assert np.all(np.abs(spread / variance - 1) < 4 * np.sqrt(2 / ess))


def test_proposals_of_what_nothing_depends_on_weigh_the_same():
    model = fit(pairs.chain_table(), pairs.chain, max_epochs=2)
    p = {name: float(value) for name, value in model.params_.items()}
    x, log_weight = propose(model, pd.DataFrame({"x": [1.0], "y": [np.nan]}), 4000)
    assert np.ptp(log_weight) < 1e-12
    assert abs(log_weight[0, 0] - norm(p["mu"], p["sx"]).logpdf(1.0)) < 1e-9
    drawn = x[:, 0, 1]
    assert abs(drawn.mean() - p["a"] - p["b"]) < 4 * p["s"] / 4000**0.5
    assert abs(drawn.std() / p["s"] - 1) < 4 / (2 * 4000) ** 0.5


def test_proposals_with_an_enumerated_label():
    model = fit(pairs.chain_table(), pairs.mixture, max_epochs=5)
    p = model.params_
    y = 1.0
    x, log_weight = propose(model, pd.DataFrame({"x": [np.nan], "y": [y]}), 20_000)
    joint = np.log(p["share"]) + norm(p["loc"][:, 1], p["scale"][:, 1]).logpdf(y)
    weight = np.exp(log_weight[:, 0] - logsumexp(log_weight[:, 0]))
    ess = 1 / (weight**2).sum()
    assert abs(logsumexp(log_weight) - np.log(20_000) - logsumexp(joint)) < 4 / ess**0.5
    share = np.exp(joint - logsumexp(joint))
    centre = (share * p["loc"][:, 0]).sum()
    sd = ((share * (p["scale"][:, 0] ** 2 + p["loc"][:, 0] ** 2)).sum() - centre**2) ** 0.5
    assert abs((weight * x[:, 0, 0]).sum() - centre) < 4 * sd / ess**0.5


def test_a_zero_inflated_count():
    table = pairs.zero_inflated_table()
    model = fit(table, pairs.zero_inflated, max_epochs=100)
    p = model.params_

    def joint(ill, ink):
        rate = p["rate"][ill]
        zero = np.log(p["blank"] + (1 - p["blank"]) * np.exp(-rate))
        other = np.log1p(-p["blank"]) + poisson(rate).logpmf(np.maximum(ink, 1))
        return np.log(np.where(ill, p["share"], 1 - p["share"])), np.where(ink == 0, zero, other)

    found = model.log_prob(table, details=True)
    ink = table.ink.fillna(0).to_numpy(int)
    parts = [joint(np.full(len(table), k), ink) for k in (0, 1)]
    on = table.ink.notna().to_numpy()
    both = np.stack([prior + np.where(on, value, 0.0) for prior, value in parts])
    ill = table.loop.fillna(False).to_numpy(int)
    wanted = np.where(table.loop.isna(), logsumexp(both, axis=0), both[ill, np.arange(len(on))])
    near = np.abs(found.log_prob - wanted) <= 3 * found.se + 1e-6
    assert near.mean() >= 0.99 and (found.se[table.loop.notna()] < 1e-9).all()
    assert abs(p["blank"] - 0.4) < 4 * 0.5 / 300**0.5
    assert np.all(np.abs(p["rate"] - [2.0, 6.0]) < 4 * np.sqrt([2 / 120, 6 / 50]))


@pytest.fixture(scope="module")
def counts():
    return pairs.overdispersed_table()


def poisson_log_normal(counts, loc, log_scale):
    """Log mass by Gauss-Hermite quadrature."""
    z, w = np.polynomial.hermite_e.hermegauss(80)
    rate = loc + np.exp(log_scale) * z
    log_p = counts[:, None] * rate - np.exp(rate) - gammaln(counts + 1)[:, None]
    return logsumexp(log_p, b=w / w.sum(), axis=1)


def test_row_latents_without_a_guide(counts):
    """The importance-weighted bound comes near the best likelihood (0.02 nats a row)."""
    model = fit(counts, pairs.overdispersed, max_epochs=200)
    value = counts["count"].to_numpy()
    best = minimize(lambda v: -poisson_log_normal(value, *v).mean(), [1.0, 0.0])
    p = model.params_
    own = poisson_log_normal(value, p["loc"], np.log(p["scale"]))
    assert -own.mean() - best.fun < 0.02
    found = model.log_prob(counts, details=True)
    good = ~(found.khat > 0.7)
    assert ((found.log_prob - own).abs() <= 3 * found.se)[good].mean() > 0.97


def test_discrete_row_latents_that_are_not_enumerated_learn_by_their_score(counts):
    def model(batch):
        share = pyro.param("share", torch.tensor(0.5), constraint=dist.constraints.unit_interval)
        rate = pyro.param("rate", torch.tensor([1.0, 5.0]), constraint=pairs.POSITIVE)
        with batch.rows():
            high = pyro.sample("high", dist.Bernoulli(share))
            pyro.sample("count", dist.Poisson(rate[high.long()]), obs=batch["count"])

    value = counts["count"].to_numpy()

    def log_p(share, low, high):
        both = [
            np.log(1 - share) + poisson(low).logpmf(value),
            np.log(share) + poisson(high).logpmf(value),
        ]
        return np.logaddexp(*both).mean()

    def loss(v):
        return -log_p(1 / (1 + np.exp(-v[0])), np.exp(v[1]), np.exp(v[2]))

    best = minimize(loss, [0.0, 0.0, 1.6])
    p = fit(counts, model, max_epochs=300).params_
    assert -log_p(p["share"], *p["rate"]) - best.fun < 0.03


def test_a_guide_of_row_latents_makes_the_estimate_exact(counts):
    """Probabilistic PCA in one dimension, whose posterior is normal."""
    rng = np.random.default_rng(5)
    z = rng.normal(size=200)
    table = pd.DataFrame({"x": z + 0.5 * rng.normal(size=200), "y": -z + rng.normal(size=200)})

    def model(batch):
        with batch.rows():
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=batch["x"])
            pyro.sample("y", dist.Normal(-z, 1.0), obs=batch["y"])

    def guide(batch):
        precision = 1 + batch.seen("x") * 4 + batch.seen("y") * 1.0
        x = torch.where(batch.seen("x"), batch["x"], 0.0)
        y = torch.where(batch.seen("y"), batch["y"], 0.0)
        with batch.rows():
            pyro.sample("z", dist.Normal((4 * x - y) / precision, precision.rsqrt()))

    table.loc[::5, "x"] = np.nan
    found = fit(table, model, guide, max_epochs=1).log_prob(table, details=True)
    cov = np.array([[1.25, -1.0], [-1.0, 2.0]])
    rows = table.to_numpy()
    wanted = [multivariate_normal(None, cov[~np.isnan(r)][:, ~np.isnan(r)]).logpdf(r[~np.isnan(r)])
              for r in rows]  # fmt: skip
    assert np.allclose(found.log_prob, wanted, atol=1e-6) and (found.se < 1e-6).all()
