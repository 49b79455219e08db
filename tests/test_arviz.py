"""A fitted model as ArviZ groups, on the installed ArviZ: `make arviz1` runs this on 1.x."""

import sys
import types
import warnings
from typing import ClassVar

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import probgen as pg
from probgen.datasets import penguins
from probgen.diagnostics import arviz as module
from probgen.diagnostics.arviz import rows as rows_module
from probgen.diagnostics.posterior import guide_khat, guide_log_p_q, kind
from probgen.queries.density import log_weights
from probgen.queries.draws import log_mean_exp
from probgen.table import encode
from tests.toys import GlobalMean
from tests.trusted import KINDS, Factors, Means, line, mixture, quietly

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz as az

OLD = int(az.__version__.split(".")[0]) < 1


@pytest.fixture(scope="module")
def birds():
    return mixture(restarts=2, columns=KINDS).fit(penguins())


@pytest.fixture(scope="module")
def data(birds):
    return birds.to_arviz(penguins())


@pytest.fixture(scope="module")
def unmixed():
    model = mixture(components=1, posterior="mean_field", draws=30, columns=KINDS).fit(penguins())
    return model.to_arviz(penguins())


def names(data) -> set[str]:
    return set(data.groups()) if OLD else set(data.children)


def test_every_group_is_there(data, unmixed):
    shared = {"posterior", "prior", "log_likelihood", "posterior_predictive", "prior_predictive"}
    assert names(data) >= shared | {"observed_data", "constant_data"}
    assert names(unmixed) >= {"sample_stats"}


def test_plots_of_arviz(data):
    column = "bill_length_mm"
    with warnings.catch_warnings(), mpl.rc_context({"backend": "agg"}):
        warnings.simplefilter("ignore")
        az.plot_khat(az.loo(data, pointwise=True))
        if OLD:
            az.plot_ppc(data, var_names=[column, "species"], num_pp_samples=5)
            az.plot_ppc(data, group="prior", var_names=[column], num_pp_samples=5)
        else:
            az.plot_ppc_dist(data, var_names=[column, "species"], num_samples=5)
            az.plot_ppc_dist(data, group="prior_predictive", var_names=[column], num_samples=5)


def test_loo_pit_of_a_column(birds):
    """The row leaves with all its columns; holes of the column are left out first."""
    column = "bill_length_mm"
    known = penguins()[column].notna().to_numpy()
    data = birds.to_arviz(penguins(), column=column).isel(row=known)
    with warnings.catch_warnings(), mpl.rc_context({"backend": "agg"}):
        warnings.simplefilter("ignore")
        if OLD:
            az.plot_loo_pit(data, y=column)
            pit = az.loo_pit(data, y=column)
        else:
            az.plot_loo_pit(data, var_names=[column])
            pit = az.loo_pit(data, var_names=[column])[column]
    pit = np.asarray(pit)
    # 12 ** -0.5 is the spread of a uniform variable; 5 standard errors
    assert abs(pit.mean() - 0.5) < 5 * 12**-0.5 / len(pit) ** 0.5
    assert 0.2 < pit.std() < 0.35


def test_prior_draws_are_those_of_the_model():
    """A normal of precision about 1 with prior sd 10 for its mean."""
    table = line(60)
    model = quietly(Means(draws=200, random_state=0, max_epochs=3).fit, table)
    data = model.to_arviz(table)
    assert data["prior"]["mean"].shape == data["posterior"]["mean"].shape
    draws = data["prior"]["mean"].values
    assert abs(draws.std() - 10) < 5 * 10 / (2 * draws.size) ** 0.5
    rows = data["prior_predictive"]["x"].values
    scale = table["x"].std(ddof=0)
    assert abs(rows.mean(-1).std() / (10 * scale) - 1) < 5 / (2 * 200) ** 0.5
    np.testing.assert_array_equal(model.to_arviz(table)["prior"]["mean"], data["prior"]["mean"])


def test_an_improper_prior_is_said(monkeypatch):
    class Flat(GlobalMean):
        def model(self, batch):
            support = dist.constraints.real_vector
            flat = dist.ImproperUniform(support, torch.Size(), torch.Size([self.m]))
            mean = pyro.sample("mean", flat)
            with batch.rows():
                batch.observe("x", dist.Normal(mean, 1.0).to_event(1), range(self.m))

    table = line(30)
    model = quietly(Means(draws=3, random_state=0, max_epochs=3).fit, table)
    monkeypatch.setattr(model.members_[0], "model", Flat.model.__get__(model.members_[0]))
    groups = module.collect(model, table)
    assert "prior" not in groups.data and "prior_predictive" not in groups.data
    assert groups.attrs[""]["prior"] == "left out: the prior is not proper"


def test_log_likelihood_is_named_as_arviz_expects(birds):
    table = line(40)
    one = quietly(Means(draws=3, random_state=0, max_epochs=3).fit, table[["x"]])
    assert list(module.collect(one, table[["x"]]).data["log_likelihood"]) == ["x"]
    two = quietly(Means(draws=3, random_state=0, max_epochs=3).fit, table)
    assert list(module.collect(two, table).data["log_likelihood"]) == ["log_prob"]
    assert list(module.collect(two, table, "y").data["log_likelihood"]) == ["y"]
    with pytest.raises(pg.SchemaError, match=r"column='z'.*\['x', 'y'\]"):
        two.to_arviz(table, column="z")


def test_labels_and_draws_are_labelled(unmixed, data):
    assert "independent" in unmixed.attrs["chains"] and "stats" in unmixed.attrs["summary"]
    assert data["observed_data"]["species"].dtype.kind == "i"  # discrete to ArviZ
    assert data["posterior_predictive"]["species"].dtype.kind == "i"
    assert data["observed_data"]["sex"].dtype.kind == "f"  # it has holes
    assert data.attrs["arviz_version"] == az.__version__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        summary = az.summary(unmixed, var_names=["mean"], kind="stats")
    assert not {"r_hat", "ess_bulk"} & set(summary)


def regression(batch):
    """A global whose shape is by chance that of the columns, and one named like a dimension."""
    b = pyro.sample("b", dist.Normal(torch.zeros(1), 1.0).to_event(1))
    s = pyro.sample("row", dist.HalfNormal(1.0))
    with batch.rows():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(b[0] * batch["x"] + 0.3 * z, s + 0.1), obs=batch["y"])


def test_a_pair_with_context_and_row_latents():
    table = line(30)
    model = pg.Pair(regression, random_state=0, max_epochs=5, draws=4)
    data = quietly(lambda: model.fit(table, given=["x"])).to_arviz(table)
    np.testing.assert_allclose(data["constant_data"]["x"], table["x"])
    assert "x" not in data["observed_data"] and "x" not in data["posterior_predictive"]
    assert data["posterior"]["b"].dims == ("chain", "draw", "b_dim_0")
    assert data["posterior"]["row_"].dims == ("chain", "draw")
    se = data["sample_stats"]["log_prob_se"]
    assert se.dims == ("chain", "draw", "row") and 0 < float(se.mean()) < 0.2
    assert list(data["log_likelihood"].data_vars) == ["y"]
    assert "(multivariate guide" in data.attrs["guide"]

    # the error is that of another 512 particles, by other noise
    def averaged(_, weights):
        return log_mean_exp(weights, 1)

    batch = model._batch(encode(table, model.schema_), "cpu")
    member, draws = model.members_[0], model._with_draws.draws[0]
    repeats = torch.stack([
        torch.cat(log_weights(member, draws, batch, 512, 10_000 * i, averaged), 1)
        for i in range(12)
    ])  # fmt: skip
    ratio = float(repeats.std(0).mean() / se.mean())
    assert 0.75 < ratio < 1.35


def test_columns_named_like_globals():
    table = line(40).rename(columns={"x": "mean", "y": "weights"}).assign(loc=line(40, 1)["x"])
    data = mixture(components=2, draws=5).fit(table).to_arviz(table)
    assert set(data["observed_data"].data_vars) == {"mean_", "weights_", "loc_"}
    assert data["posterior"]["mean"].dims[2:] == ("component", "column")


def test_nuts_draws_are_chains(monkeypatch):
    table = line(30)
    model = mixture(components=1, draws=10, posterior="gibbs").fit(table)
    assert kind(model) == "sampler"
    model.results_[0].engine = "nuts"
    assert kind(model) == "nuts"
    attrs = model.to_arviz().attrs
    assert "No-U-Turn" in attrs["inference_method"] and "Markov chain" in attrs["chains"]


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


def test_arviz_takes_over(data, unmixed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        summary = az.summary(data, var_names=["weights", "probs_species"])
        loo = az.loo(data, pointwise=True)
        ranks = az.compare({"mixture": data, "one": unmixed})
    assert ranks.index.tolist() == ["mixture", "one"]
    assert len(summary) == 3 + 12 and summary.loc["weights[0]", "mean"]
    elpd = loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd
    assert -6600 < elpd < -5700


def test_netcdf_round_trip(data, tmp_path):
    path = tmp_path / "model.nc"
    module.write(data, path)
    again = az.from_netcdf(path)
    np.testing.assert_array_equal(again["posterior"]["mean"], data["posterior"]["mean"])
    assert list(again["observed_data"]["sex"].attrs["levels"]) == ["female", "male"]


def test_without_rows_there_are_the_globals_alone(birds):
    groups = module.collect(birds)
    assert set(groups.data) == {"posterior", "prior", "constant_data"}


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
    assert groups.attrs[""]["prior"] == "left out: the model has no global latents"
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
    monkeypatch.setattr(rows_module, "MOST", 1000)
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
    assert not nested or set(args[0]) == {"posterior", "prior", "constant_data"}
