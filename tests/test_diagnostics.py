"""ArviZ groups, chain diagnostics, and the verdicts of `check`."""

import sys
import types
import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

import probgen as pg
from probgen.datasets import penguins
from probgen.diagnostics import Finding, Report
from probgen.diagnostics import arviz as module
from probgen.diagnostics.chains import effective_size, split_rhat
from probgen.diagnostics.posterior import guide_khat, guide_log_p_q, kind
from probgen.table import encode
from tests.toys import FactorAnalysis, GlobalMean

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz as az

OLD = int(az.__version__.split(".")[0]) < 1


@dataclass(eq=False, repr=False)
class Means(pg.Density):
    """A family with a guide and no closed forms."""

    family: ClassVar = GlobalMean

    def _make(self, schema):
        return GlobalMean(len(schema.slots), schema)


@dataclass(eq=False, repr=False)
class Factors(pg.Density):
    """A family without global latents."""

    family: ClassVar = FactorAnalysis

    def _make(self, schema):
        return FactorAnalysis(len(schema.slots), 1, schema=schema).double()


def line(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return pd.DataFrame({"x": x, "y": x + 0.3 * rng.normal(size=n)})


def mixture(**settings):
    return pg.GaussianMixture(**{"components": 3, "draws": 20, "random_state": 0, **settings})


def quietly(fit, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit(*args)


KINDS = {"flipper_length_mm": "real", "year": "ordered"}


@pytest.fixture(scope="module")
def birds():
    return mixture(restarts=2, columns=KINDS).fit(penguins())


@pytest.fixture(scope="module")
def data(birds):
    return birds.to_arviz(penguins())


# --- ArviZ ------------------------------------------------------------------------------------


def test_groups_dimensions_and_names(data):
    posterior = data["posterior"]
    assert posterior["mean"].dims == ("chain", "draw", "component", "column")
    assert posterior["precision"].dims[2:] == ("component", "column", "column_other")
    assert posterior["probs_species"].dims[2:] == ("component", "species_level")
    assert posterior["column"].values.tolist() == [
        "bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g",
    ]  # fmt: skip
    assert posterior["species_level"].values.tolist() == [
        "Adelie", "Chinstrap", "Gentoo", "(unseen)",
    ]  # fmt: skip
    assert posterior.sizes["chain"] == 2 and posterior.sizes["draw"] == 20
    assert posterior["probs_species"].attrs["site"] == "probs_0"
    assert "restart" in posterior.attrs["chains"]
    loc = data["constant_data"]["loc"].sel(column="body_mass_g").item()
    assert loc == pytest.approx(penguins()["body_mass_g"].mean(), rel=0.02)


def test_rows_by_code_with_their_holes(data):
    observed = data["observed_data"]
    table = penguins()
    np.testing.assert_array_equal(observed["body_mass_g"], table["body_mass_g"])
    assert int(np.isnan(observed["sex"]).sum()) == 11
    assert observed["sex"].attrs["levels"] == ["female", "male"]
    predictive = data["posterior_predictive"]
    assert predictive["body_mass_g"].dims == ("chain", "draw", "row")
    assert set(np.unique(predictive["species"])) <= {0.0, 1.0, 2.0}
    means = predictive["bill_length_mm"].mean("row")
    assert float(abs(means - table["bill_length_mm"].mean()).max()) < 2.5
    assert float(means.std()) > 0  # each draw has rows of its own


def test_log_likelihood_is_what_intervals_are_made_of(birds, data):
    found = data["log_likelihood"]["log_prob"].values.reshape(40, -1)
    ends = birds.log_prob(penguins(), interval=0.8)
    wanted = np.quantile(found, [0.1, 0.9], axis=0, method="weibull")
    np.testing.assert_allclose(wanted, ends[["lower", "upper"]].T, atol=1e-8)


def test_attributes_say_how_the_numbers_came_about(data, birds):
    attrs = data.attrs
    assert attrs["inference_library"] == "probgen" and "Markov" in attrs["inference_method"]
    assert list(attrs["seed"]) == [result.seed for result in birds.results_]
    assert "GaussianMixture(" in attrs["model"] and attrs["guide"].endswith("Mixture.guide")


def test_arviz_takes_over(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        summary = az.summary(data, var_names=["weights", "probs_species"])
        loo = az.loo(data)
    assert len(summary) == 3 + 12 and summary.loc["weights[0]", "mean"]
    elpd = loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd
    assert -6600 < elpd < -5700


def test_netcdf_round_trip(data, tmp_path):
    path = tmp_path / "model.nc"
    module.write(data, path)
    again = az.from_netcdf(path)
    np.testing.assert_array_equal(again["posterior"]["mean"], data["posterior"]["mean"])
    assert list(again["observed_data"]["sex"].attrs["levels"]) == ["female", "male"]


def test_without_rows_there_is_the_posterior_alone(birds):
    groups = module.collect(birds)
    assert set(groups.data) == {"posterior", "constant_data"}


def test_log_p_and_log_q_only_for_draws_of_the_guide(data):
    assert "sample_stats" not in (data.groups() if OLD else data.children)
    table = line(60)
    found = quietly(Means(draws=7, random_state=0).fit, table).to_arviz(table)
    assert found["sample_stats"]["log_p"].shape == found["sample_stats"]["log_q"].shape == (1, 7)


def test_log_p_is_the_joint_density_and_log_q_that_of_the_guide():
    table = line(40)
    model = quietly(Means(draws=5, random_state=0, max_epochs=5).fit, table)
    member, draws = model.members_[0], model._with_draws.draws[0]
    batch = model._batch(encode(table, model.schema_), "cpu")
    log_p, log_q = guide_log_p_q(member, draws, batch)
    normal = torch.distributions.Normal
    mean = draws["mean"].double()
    prior = normal(0.0, 10.0).log_prob(mean).sum(1)
    rows = normal(mean[:, None], 1.0).log_prob(batch.x).sum((1, 2))
    guide = normal(member.q_loc, member.q_log_scale.exp()).log_prob(draws["mean"]).sum(1)
    torch.testing.assert_close(log_p, prior + rows, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(log_q, guide.double(), rtol=1e-5, atol=1e-3)


def test_an_exact_posterior_has_constant_log_p_minus_log_q():
    """One complete normal component: the guide is the posterior, and p / q the evidence."""
    table = line(50)
    model = mixture(components=1, posterior="mean_field", draws=200, dequantise=False).fit(table)
    batch = model._batch(encode(table, model.schema_), "cpu")
    log_p, log_q = guide_log_p_q(model.members_[0], model._with_draws.draws[0], batch)
    assert float((log_p - log_q).std()) < 1e-6
    assert guide_khat(model, batch)[0] <= 0.7


def test_no_posterior_no_leave_one_out():
    table = line(50)
    model = quietly(Factors(draws=4, random_state=0, max_epochs=20).fit, table)
    assert kind(model) == "none"
    groups = module.collect(model, table)
    assert set(groups.data) == {"posterior_predictive", "observed_data"}
    assert groups.data["posterior_predictive"]["x"].shape == (1, 4, 50)
    assert "no posterior" in groups.attrs[""]["inference_method"]
    report = model.check(table)
    assert report.intervals == "no" and "posterior" in report.reasons("intervals")


def test_awkward_names_and_index(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"row": rng.normal(size=30), "a/b": rng.choice(["u", "v"], 30), "3": rng.normal(size=30),
         "day": pd.Timestamp("2020-03-01") + pd.to_timedelta(rng.normal(0, 9, 30), "D")},
        index=pd.MultiIndex.from_product([range(15), list("ab")]),
    )  # fmt: skip
    data = mixture(components=2).fit(table).to_arviz(table)
    assert {"row_", "a_b", "3", "day"} <= set(data["observed_data"].data_vars)
    days = (table["day"] - pd.Timestamp(0)) / pd.Timedelta(days=1)
    np.testing.assert_allclose(data["observed_data"]["day"], days)
    assert data["posterior"]["probs_a_b"].dims[-1] == "a_b_level"
    module.write(data, tmp_path / "model.nc")


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical", "flexible"])
def test_as_many_components_as_columns_are_told_apart(covariance):
    model = mixture(components=2, covariance=covariance, draws=3).fit(line(60))
    posterior = model.to_arviz()["posterior"]
    if covariance != "flexible":
        assert posterior["mean"].dims[2:] == ("component", "column")
        own = "column" if covariance == "tied" else "component"
        assert own in posterior["precision"].dims
    else:
        assert posterior["probs_x"].dims[2:] == ("component", "x_basis")


def test_a_table_that_is_too_long_is_refused(birds, monkeypatch):
    monkeypatch.setattr(module, "MOST", 1000)
    with pytest.raises(pg.SchemaError, match=r"344 rows.*table\.sample"):
        birds.to_arviz(penguins())


@pytest.mark.parametrize("version, nested", [("0.23.4", False), ("1.3.0", True)])
def test_each_arviz_gets_its_own_form(birds, monkeypatch, version, nested):
    calls = []

    class Group(dict):
        attrs: ClassVar = {}

        def __missing__(self, _):
            return self

    def from_dict(*args, **settings):
        calls.append((args, settings))
        return Group()

    fake = types.SimpleNamespace(__version__=version, from_dict=from_dict)
    monkeypatch.setitem(sys.modules, "arviz", fake)
    module.build(module.collect(birds))
    ((args, settings),) = calls
    assert len(args) == nested and ("posterior" in settings) != nested
    assert not nested or set(args[0]) == {"posterior", "constant_data"}


# --- chains -----------------------------------------------------------------------------------


def chains(rho: float, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4, 500, 3))
    for s in range(1, 500):
        draws[:, s] = rho * draws[:, s - 1] + np.sqrt(1 - rho**2) * draws[:, s]
    draws[0] += shift
    return draws


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.95])
def test_effective_size_agrees_with_arviz(rho):
    draws = chains(rho)
    expected = [float(az.ess(draws[:, :, i], method="mean")) for i in range(3)]
    np.testing.assert_allclose(effective_size(draws), expected, rtol=0.08)


def test_rhat_agrees_with_arviz_and_sees_a_shift():
    assert split_rhat(chains(0.0)).max() < 1.01
    shifted = chains(0.0, shift=2.0)
    expected = [float(az.rhat(shifted[:, :, i], method="split")) for i in range(3)]
    np.testing.assert_allclose(split_rhat(shifted), expected, rtol=1e-6)
    assert min(expected) > 1.1
    assert split_rhat(np.zeros((2, 8, 1))) == 1.0


# --- verdicts ---------------------------------------------------------------------------------


def status(report: Report, name: str) -> str:
    return next(finding.status for finding in report.findings if finding.name == name)


def test_a_good_fit_gets_both():
    model = mixture(restarts=2, components=1, draws=100).fit(line(300))
    report = model.check(line(200, seed=1), train=line(300))
    assert (report.density, report.intervals) == ("yes", "yes")
    assert status(report, "floor") == status(report, "restarts") == "ok"
    assert status(report, "train against table") == "ok"


def test_without_rows_nothing_is_promised(birds):
    report = birds.check()
    assert (report.density, report.intervals) == ("unknown", "unknown")
    assert report.reasons("density") == ["floor"]


def test_a_fit_that_was_stopped_is_fit_for_nothing():
    model = quietly(mixture(max_epochs=1, starts=1, draws=4).fit, penguins())
    report = model.check(penguins())
    assert not model.converged_
    assert (report.density, report.intervals) == ("no", "no")
    assert "convergence" in report.reasons("density")


def test_rows_from_elsewhere_fall_below_the_floor():
    report = mixture(components=1).fit(line(100)).check(5 - 3 * line(100, seed=1))
    assert report.density == "no" and status(report, "floor") == "fail"


def test_impossible_rows_are_seen():
    rng = np.random.default_rng(0)
    table = line(100).assign(t=rng.exponential(size=100))
    model = mixture(columns={"t": "positive"}).fit(table)
    table.loc[5, "t"] = -1.0
    with pytest.warns(pg.DataWarning):
        report = model.check(table)
    assert status(report, "support") == "fail" and report.density == "no"


def test_levels_never_seen_do_not_stop_the_check(birds):
    table = penguins().head(60).astype({"species": object})
    table.loc[3, "species"] = "Macaroni"
    assert birds.check(table).findings


def test_overfitting_is_noticed():
    train, held = line(40), line(400, seed=1)
    model = mixture(components=12, spread=0.001, posterior="mean_field").fit(train)
    assert status(model.check(held, train=train), "train against table") in ("note", "fail")


def test_mean_field_of_overlapping_components_has_no_intervals():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=400) + 3.0 * rng.integers(2, size=400)})
    table["y"] = table["x"] + 0.5 * rng.normal(size=400)
    model = mixture(components=2, posterior="mean_field", draws=100).fit(table)
    report = model.check(table, train=table)
    assert report.intervals == "no" and report.density == "yes"
    assert "too narrow" in str(report) and "gibbs" in str(report)


def test_mean_field_without_the_fitted_rows_is_unknown():
    model = mixture(components=1, posterior="mean_field").fit(line(100))
    report = model.check(line(100, seed=1))
    assert report.intervals == "unknown"
    assert report.reasons("intervals") == ["k-hat of the guide"]


def test_too_few_draws_give_no_intervals(birds):
    report = birds.check(penguins())
    assert status(report, "mixing of the chain") == "fail"  # 20 draws a restart
    assert report.density == "yes" and report.intervals == "no"


def test_empty_components_are_counted():
    table = line(200)
    model = mixture(components=10, draws=4).fit(table)
    held = model.latent(table).sum()
    report = model.check(table)
    expected = "note" if (held < 1).any() else "ok"
    assert status(report, "empty components") == expected


def test_independent_columns_are_no_worse_than_themselves():
    report = pg.Independent(random_state=0, draws=4).fit(penguins()).check(penguins())
    assert status(report, "floor") in ("ok", "note")
    assert report.reasons("density") == ["pairs"]  # they miss what links the columns


def test_report_forms():
    found = Finding("floor", "fail", ("density",), "1 < 2 nats", "fit <more>")
    report = Report((found, Finding("posterior", "ok", ("intervals",), "draws")))
    assert (report.density, report.intervals) == ("no", "no")
    text = str(report)
    assert "fit for density" in text and "do: fit <more>" in text and repr(report) == text
    assert max(map(len, text.splitlines())) < 100
    as_dict = report.to_dict()
    assert as_dict["density"] == "no" and as_dict["findings"][0]["text"] == "1 < 2 nats"
    assert as_dict["reasons"] == {"density": ["floor"], "intervals": ["floor"]}
    html = report._repr_html_()
    assert "1 &lt; 2 nats" in html and "<more>" not in html


def test_checking_changes_nothing(birds):
    table = penguins()
    before, state = table.copy(), torch.get_rng_state()
    one, two = birds.check(table), birds.check(table)
    assert one == two
    pd.testing.assert_frame_equal(table, before)
    assert torch.equal(state, torch.get_rng_state())
