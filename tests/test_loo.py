"""Leave-one-out: against closed forms, refits and ArviZ's own."""

import importlib
import math
import types
import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.base import clone

import probgen as pg
from probgen.batch import Batch
from probgen.evaluation import Loo
from probgen.evaluation.folds import assign_folds
from probgen.queries.pareto import pareto_k, smoothed
from tests.trusted import Factors, Means, line, mixture, quietly

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz as az

OLD = int(az.__version__.split(".")[0]) < 1


def exact(model, table: pd.DataFrame, weight: np.ndarray | None = None) -> np.ndarray:
    """Closed form for `Means`: unit normals in encoded units, means with prior sd 10."""
    n = np.ones(len(table)) if weight is None else weight
    total = np.zeros(len(table))
    for column in model.schema_.columns:
        x = (table[column.name].to_numpy() - column.loc) / column.scale
        precision = 0.01 + n.sum() - 1
        centre = ((n * x).sum() - x) / precision
        variance = 1 + 1 / precision
        total += -0.5 * (np.log(2 * np.pi * variance) + (x - centre) ** 2 / variance)
        total -= math.log(column.scale)
    return total


def quiet_loo(model, table, draws: int | None = None) -> Loo:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pg.ApproximationWarning)
        return model.loo(table, draws=draws)


def means(table):
    return quietly(Means(draws=30, random_state=0, max_epochs=300).fit, table)


@pytest.fixture(scope="module")
def small():
    table = line(15)
    return table, means(table)


def test_agrees_with_the_closed_form(small):
    table, model = small
    loo = model.loo(table, draws=1000)
    rows = loo.pointwise
    gap = rows["elpd"] - exact(model, table)
    assert (gap.abs() < 5 * rows["se"] + 1e-4).all()
    assert rows["se"].max() < 0.1 and loo.bad == 0
    assert loo.elpd == pytest.approx(rows["elpd"].sum())
    assert loo.se == pytest.approx(len(table) ** 0.5 * rows["elpd"].std(ddof=1))
    # fitted rows are likelier by p; two means are learned
    assert 1 < loo.p < 3.5 and "corrected" in loo.method


def test_errors_are_those_of_other_draws(small):
    """Over other seeds of the guide's draws, values spread as their errors say."""
    table, model = small
    found = []
    for seed in range(10):
        other = clone(model)
        other.__setstate__(model.__getstate__())
        other.results_ = [type(r)(**{**vars(r), "seed": seed}) for r in model.results_]
        found.append(quiet_loo(other, table, 200).pointwise)
    spread = np.std([rows["elpd"] for rows in found], axis=0, ddof=1)
    stated = np.mean([rows["se"] for rows in found], axis=0)
    assert 0.6 < spread.mean() / stated.mean() < 1.6


def test_frequency_weights_are_repeated_rows(small):
    table, model = small
    weight = np.where(np.arange(len(table)) < 5, 3.0, 1.0)
    fitted = quietly(Means(random_state=0, max_epochs=300).fit, table, None, weight)
    loo = fitted.loo(table, draws=1000, sample_weight=weight)
    gap = loo.pointwise["elpd"] - exact(fitted, table, weight)
    assert (gap.abs() < 5 * loo.pointwise["se"] + 1e-4).all()
    assert loo.elpd == pytest.approx((weight * loo.pointwise["elpd"]).sum())


def test_gibbs_agrees_with_refits():
    """One normal component: each refit's predictive is a closed form."""
    table = line(20)
    settings = {"components": 1, "posterior": "gibbs", "draws": 1000, "dof": 5.0, "spread": 0.5}
    model = mixture(**settings, dequantise=False).fit(table)
    rows = quiet_loo(model, table).pointwise
    again = clone(model).set_params(schema=model.schema_, draws=0)
    refits = [
        again.fit(table.drop(index=i)).log_prob(table.loc[[i]]).iloc[0] for i in (0, 3, 7, 11, 19)
    ]
    some = rows.loc[[0, 3, 7, 11, 19]]
    assert ((some["elpd"] - refits).abs() < 5 * some["se"] + 1e-3).all()
    assert (some["khat"] < 0.7).all() and some["se"].max() < 0.1


def test_agrees_with_arviz_at_the_same_draws(small):
    table, model = small
    data = model.to_arviz(table)
    rows = quiet_loo(model, table, 30).pointwise
    stats = data["sample_stats"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if OLD:
            value = data["log_likelihood"]["log_prob"].values[0]
            ratio = (stats["log_p"] - stats["log_q"]).values[0]
            w, k = az.psislw(np.ascontiguousarray((ratio[:, None] - value).T))
            elpd = np.logaddexp.reduce(np.asarray(w) + value.T, axis=1)
        else:
            found = az.loo_approximate_posterior(
                data, log_p=stats["log_p"], log_q=stats["log_q"], pointwise=True
            )
            elpd, k = found.elpd_i.values, found.pareto_k.values
    np.testing.assert_allclose(rows["elpd"], elpd, atol=1e-4)
    np.testing.assert_allclose(rows["khat"], k, atol=1e-4)


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_smoothing_agrees_with_arviz(scale):
    # a tail of 60 draws: ArviZ 0.23 rounds it up, ArviZ 1 down
    raw = scale * np.random.default_rng(0).normal(size=(400, 20))
    weights, k = smoothed(torch.tensor(raw))
    assert torch.equal(k, pareto_k(torch.tensor(raw)))
    torch.testing.assert_close(weights.exp().sum(0), torch.ones(20, dtype=torch.float64))
    if OLD:
        w, expected = az.psislw(raw.T.copy())
    else:  # of ratios of the likelihood: minus our log weights
        import xarray

        ratios = xarray.DataArray(-raw.T, dims=["row", "sample"])
        w, expected = ratios.azstats.psislw(dim="sample", r_eff=1)
    np.testing.assert_allclose(weights.T, w, atol=1e-5)
    np.testing.assert_allclose(k, np.asarray(expected), atol=1e-6)


def test_bad_rows_are_said_and_refitted():
    table = line(12)
    table.loc[4, "x"] = 40.0
    model = means(table)
    with pytest.warns(pg.ApproximationWarning, match=r"k-hat above 0\.7.*refit="):
        plain = model.loo(table, draws=300)
    assert plain.pointwise["khat"][4] > 0.7 and "refit" in str(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pg.ApproximationWarning)
        loo = model.loo(table, draws=300, refit=len(table))
    row = loo.pointwise.loc[4]
    assert row["method"] == "refit" and math.isnan(row["khat"]) and "by refits" in loo.method
    assert row["elpd"] == pytest.approx(exact(model, table)[4], rel=0.1)
    assert loo.bad == 0


def test_without_a_posterior_it_is_k_fold():
    table = line(40).set_axis([f"r{i}" for i in range(40)])
    model = quietly(Factors(draws=4, random_state=0, max_epochs=60).fit, table)
    loo = model.loo(table, folds=4)
    assert loo.method.startswith("4-fold") and "no posterior" in loo.method
    assert loo.pointwise.index.equals(table.index)
    assert (loo.pointwise["method"] == "folds").all() and loo.bad == 0
    assert np.isfinite(loo.elpd) and (loo.pointwise["se"] > 0).all()  # row latents
    # the fitted rows score better
    assert loo.elpd < model.log_prob(table).sum()


def test_folds_are_asked_for_and_do_not_see_their_rows(small):
    table, model = small
    loo = model.loo(table, method="folds", folds=3)
    test = loo.pointwise.index[loo.pointwise["elpd"].argmin()]
    folds = assign_folds(table, model.schema_, 3, 0)
    fold = table.index[folds == folds[table.index.get_loc(test)]]
    alone = clone(model).set_params(schema=model.schema_, random_state=model.seed_)
    quietly(alone.fit, table.drop(index=fold))
    assert loo.pointwise["elpd"][test] == alone.log_prob(table.loc[[test]])[test]
    with pytest.raises(pg.SchemaError, match="method='kfold'"):
        model.loo(table, method="kfold")
    with pytest.raises(pg.SchemaError, match="folds=1"):
        model.loo(table, method="folds", folds=1)


def test_units_holes_and_index():
    table = line(60)
    table.loc[3, "y"] = np.nan
    table.loc[7] = np.nan
    table.index = table.index % 30  # repeated labels
    model = mixture(components=1, posterior="mean_field").fit(table)
    rows = quiet_loo(model, table, 50).pointwise
    assert rows.index.equals(table.index)
    assert rows["elpd"].iloc[7] == pytest.approx(0, abs=1e-9)
    grown = table.assign(x=1000 * table["x"])
    other = quiet_loo(mixture(components=1, posterior="mean_field").fit(grown), grown, 50)
    seen = table["x"].notna().to_numpy()
    shift = rows["elpd"].to_numpy() - other.pointwise["elpd"].to_numpy()
    np.testing.assert_allclose(shift[seen], math.log(1000), atol=1e-6)


def test_restarts_are_averaged(small):
    table, _ = small
    model = quietly(Means(draws=30, random_state=0, max_epochs=300, restarts=2).fit, table)
    loo = model.loo(table, draws=500)
    gap = loo.pointwise["elpd"] - exact(model, table)
    assert (gap.abs() < 5 * loo.pointwise["se"] + 1e-4).all()
    assert "2 restarts" in loo.method


def correlated(n: int = 100) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal(np.zeros(5), np.full((5, 5), 0.97) + 0.03 * np.eye(5), n)
    table = pd.DataFrame(x, columns=[f"x{i}" for i in range(5)])
    return table.assign(y=0.5 * x.sum(1) + rng.normal(size=n))


def regression(batch):
    b = pyro.sample("b", dist.Normal(torch.zeros(5).double(), 1.0).to_event(1))
    s = pyro.sample("s", dist.HalfNormal(torch.tensor(1.0).double()))
    with batch.rows():
        loc = sum(b[i] * batch[f"x{i}"] for i in range(5))
        pyro.sample("y", dist.Normal(loc, s), obs=batch["y"])


@pytest.mark.parametrize("guide", ["mean_field", "multivariate"])
def test_a_narrow_guide_is_caught(guide):
    """Plain leave-one-out at a mean-field guide looks fine; corrected for it, it does not."""
    table = correlated()
    model = pg.Pair(regression, guide=guide, random_state=0, max_epochs=200, draws=100)
    model = quietly(lambda: model.fit(table, given=[f"x{i}" for i in range(5)]))
    loo = quiet_loo(model, table, 400 if guide == "mean_field" else 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = az.loo(model.to_arviz(table), pointwise=True)
    assert float((np.asarray(plain.pareto_k) > 0.7).mean()) < 0.05
    assert (loo.bad > 0.9) if guide == "mean_field" else (loo.bad == 0)


def half_bayesian(batch):
    shift = pyro.param("shift", torch.tensor(0.0))
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    with batch.rows():
        x = pyro.sample("x", dist.Normal(mean, 1.0), obs=batch["x"])
        pyro.sample("y", dist.Normal(x + shift, 1.0), obs=batch["y"])


def test_point_estimates_beside_a_posterior_are_said():
    table = line(30)
    model = quietly(pg.Pair(half_bayesian, random_state=0, max_epochs=30).fit, table)
    loo = quiet_loo(model, table, 50)
    assert "1 learned number(s) have no posterior" in str(loo)
    assert quiet_loo(means(table), table, 50).notes == ()


def test_forms(small):
    table, model = small
    loo = quiet_loo(model, table, 200)
    assert loo.to_dict()["rows"] == 15 and "<pre>" in loo._repr_html_()
    assert str(loo) == repr(loo)
    before = torch.get_rng_state()
    again = quiet_loo(model, table, 200)
    pd.testing.assert_frame_equal(loo.pointwise, again.pointwise)
    assert torch.equal(before, torch.get_rng_state())


def test_too_many_numbers_are_refused(small, monkeypatch):
    from probgen.evaluation import loo as module

    monkeypatch.setattr(module, "MOST", 100)
    with pytest.raises(pg.SchemaError, match="15 rows at 1000 draws.*draws=6"):
        small[1].loo(small[0])


def test_draws_at_which_another_row_is_impossible_have_no_weight(monkeypatch):
    """Rows uniform on (0, t): a draw t below the largest other row is no draw of the posterior."""
    module = importlib.import_module("probgen.evaluation.loo")
    t = torch.linspace(0.5, 3.0, 400, dtype=torch.float64)  # of a flat guide, under a flat prior
    x = torch.tensor([0.4, 1.0, 1.8], dtype=torch.float64)
    value = torch.where(x < t[:, None], -t[:, None].log(), -torch.inf)
    rows = Batch.of(x[:, None])

    def log_p_q(_member, _draws, _batch, likelihood):
        return likelihood.sum(1), torch.zeros_like(t)

    monkeypatch.setattr(module, "guide_log_p_q", log_p_q)
    part = types.SimpleNamespace(members=[None], draws=[None])
    elpd, _, _ = module._part(part, value, 1, rows, "guide")
    for i in range(3):
        above = t > max(x[j] for j in range(3) if j != i)  # the posterior of the others, exactly
        weight = (t**-2.0)[above] / (t**-2.0)[above].sum()
        expected = (weight * value[above, i].exp()).sum().log()
        torch.testing.assert_close(elpd[i], expected, rtol=0.0, atol=0.01)
