"""The latent space of a model: ways through it, attributes, what each dimension holds."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks as checks

import probgen as pg
from probgen.datasets import penguins
from tests import pairs

FAST = {"hidden": (32,), "noise": 0.0, "compile": False, "random_state": 0}
pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::probgen.errors.DataWarning"
)


def fitted(**settings):
    return pg.VAE(**{"latents": 3, "max_epochs": 40, **FAST, **settings}).fit(penguins())


@pytest.fixture(scope="module")
def birds():
    return fitted()


@pytest.fixture(scope="module")
def flow():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=80), "y": rng.normal(size=80)})
    model = pg.Flow(base="normal", max_epochs=3, noise=0.0, random_state=0).fit(table)
    return model, table


# --- there and back ---------------------------------------------------------------------------


def test_rows_are_decoded_from_points(birds):
    table = penguins().iloc[[3, 0, 40]].set_axis(["a", "a", "b"])  # the first has holes
    assert table.isna().any(axis=None)
    points = birds.latent(table)
    found = birds.reconstruct(table, latent=points)
    assert found.index.equals(table.index)
    assert (found.dtypes == table.dtypes).all() and found.notna().all(axis=None)
    # all cells come from the point, none from the row
    others = penguins().tail(3)
    pd.testing.assert_frame_equal(
        birds.reconstruct(others, latent=points).reset_index(drop=True),
        found.reset_index(drop=True),
    )
    # of the mean cell, what comes back says something of the row
    whole = penguins().dropna()
    size = birds.reconstruct(whole, latent=birds.latent(whole))["body_mass_g"]
    assert np.corrcoef(size, whole["body_mass_g"])[0, 1] > 0.8


def test_missing_columns_are_holes(birds):
    table = penguins().head(4)
    part = table[["bill_length_mm", "species"]]
    holed = part.reindex(columns=table.columns).astype(table.dtypes.drop("year"))
    points = birds.latent(part)
    pd.testing.assert_frame_equal(points, birds.latent(holed))
    pd.testing.assert_frame_equal(
        birds.traverse(part), birds.traverse(holed)
    )  # and every verb takes them
    assert len(birds.interpolate(part, holed, steps=3)) == 12
    more = part.assign(colour="black", species="Emperor")
    with pytest.raises(pg.SchemaError, match="colour"):
        birds.interpolate(more, holed)
    known = birds.interpolate(more, part, unseen="missing", extra="ignore")
    wanted = birds.interpolate(part[["bill_length_mm"]], part)
    pd.testing.assert_frame_equal(known, wanted)


def test_points_that_do_not_fit_are_refused(birds):
    table, points = penguins().head(3), birds.latent(penguins().head(3))
    with pytest.raises(pg.SchemaError, match=r"z\[2\]"):
        birds.reconstruct(table, latent=points[["z[0]", "z[1]"]])
    with pytest.raises(pg.SchemaError, match="latent of 2 rows"):
        birds.reconstruct(table, latent=points.head(2))
    with pytest.raises(pg.SchemaError, match="not finite"):
        birds.reconstruct(table, latent=points.assign(**{"z[1]": [0.0, np.nan, 1.0]}))
    with pytest.raises(pg.NotSupported, match="VAE"):
        mixture = pg.GaussianMixture(2, random_state=0, draws=0).fit(penguins())
        mixture.reconstruct(table, latent=points)


def test_interpolation_ends_at_the_rows_as_the_model_sees_them(birds):
    first, last = penguins().iloc[[3, 5]], penguins().iloc[[300, 200]]
    path = birds.interpolate(first, last, steps=3)
    assert path.index.names == ["row", "share"]
    assert path.index.get_level_values("row").tolist() == [3, 3, 3, 5, 5, 5]
    for share, rows in ((0.0, first), (1.0, last)):
        there = birds.reconstruct(rows, latent=birds.latent(rows))
        pd.testing.assert_frame_equal(
            path.xs(share, level="share").reset_index(drop=True), there.reset_index(drop=True)
        )
    middle = (birds.latent(first).to_numpy() + birds.latent(last).to_numpy()) / 2
    middle = pd.DataFrame(middle, columns=birds.latent(first).columns)
    pd.testing.assert_frame_equal(
        path.xs(0.5, level="share").reset_index(drop=True),
        birds.reconstruct(first, latent=middle).reset_index(drop=True),
    )


def test_no_rows(birds):
    none = penguins().head(0)
    assert len(birds.latent(none)) == len(birds.traverse(none)) == 0
    assert len(birds.interpolate(none, none)) == 0
    assert len(birds.reconstruct(none, latent=birds.latent(none))) == 0


# --- traversals -------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["normal", "mixture", "flow"])
def test_a_traversal_moves_one_dimension(prior):
    """To a place in units of the prior, whatever the prior is."""
    model = fitted(prior=prior, components=4, guide="flow", max_epochs=5)
    row = penguins().iloc[[7]]
    found = model.traverse(row, dimensions=["z[1]", 0], values=(-1.0, 0.5))
    assert found.index.tolist() == [
        (7, "z[1]", -1.0), (7, "z[1]", 0.5), (7, "z[0]", -1.0), (7, "z[0]", 0.5),
    ]  # fmt: skip
    family = model.members_[0]
    torch.manual_seed(0)
    drawn = family.prior.distribution(20_000, family.decoder.line.weight).sample()
    moments = pg.queries.latent_moments(
        model._predictive(), model._batch(pg.table.encode(row, model.schema_), model._device)
    )["z"]
    sd = drawn.std(0)
    # five standard errors of the mean of 4096 draws and of these
    error = 5 * sd * (1 / 4096 + 1 / 20_000) ** 0.5
    assert ((drawn.mean(0) - moments.prior_mean[0]).abs() < error).all()
    assert ((sd - moments.prior_sd[0]).abs() < 2 * error).all()
    point = model.latent(row)
    point["z[1]"] = float(moments.prior_mean[0, 1] + 0.5 * moments.prior_sd[0, 1])
    pd.testing.assert_frame_equal(
        found.iloc[[1]].reset_index(drop=True),
        model.reconstruct(row, latent=point).reset_index(drop=True),
    )


def test_the_most_informative_dimensions_come_first(birds):
    points = birds.latent(penguins())
    order = points.filter(like=".sd").apply(np.log).mean().sort_values()
    found = birds.traverse(penguins()).index.unique("dimension")
    assert [f"{name}.sd" for name in found] == order.index.tolist()


def test_traversals_that_cannot_be(birds, flow):
    with pytest.raises(pg.SchemaError, match="numbers below 3"):
        birds.traverse(penguins().head(1), dimensions=[3])
    with pytest.raises(pg.SchemaError, match="dimensions"):
        birds.traverse(penguins().head(1), dimensions=[])
    with pytest.raises(pg.NotSupported, match="interpolate"):
        flow[0].traverse(flow[1].head(1))


# --- attributes -------------------------------------------------------------------------------


def test_attributes_are_added_and_taken_away(birds):
    table = penguins()
    vector = birds.attribute_vector(table, "species == 'Gentoo'")
    points = birds.latent(table)
    gentoo = table["species"] == "Gentoo"
    wanted = points[gentoo].mean() - points[~gentoo].mean()
    pd.testing.assert_series_equal(
        vector.filter(regex=r"\]$"), wanted.filter(regex=r"\]$"), check_names=False
    )
    assert (vector.filter(like=".sd") == 0).all() and list(vector.index) == list(points.columns)
    others = table[~gentoo]
    moved = birds.reconstruct(others, latent=birds.latent(others) + vector)
    assert (moved["species"] == "Gentoo").mean() > 0.9
    back = birds.reconstruct(table[gentoo], latent=points[gentoo] - vector)
    assert (back["species"] == "Gentoo").mean() < 0.1
    # Gentoo are large birds, and the model knows
    heavier = birds.attribute_vector(table, "body_mass_g > 4500")
    assert heavier @ vector > 0


def test_rows_that_leave_the_event_open_count_for_neither(birds):
    table = penguins().head(60)
    found = birds.attribute_vector(table, "sex == 'male'")
    pd.testing.assert_series_equal(
        found, birds.attribute_vector(table[table["sex"].notna()], "sex == 'male'")
    )
    with pytest.raises(pg.SchemaError, match="and 0 where"):
        birds.attribute_vector(table[table["sex"] == "male"], "sex == 'male'")
    with pytest.raises(pg.SchemaError, match="colour"):
        birds.attribute_vector(table, "colour == 'red'")


def test_a_flow_has_attributes_too(flow):
    model, table = flow
    vector = model.attribute_vector(table, "x > 0")
    moved = model.reconstruct(table, latent=model.latent(table) + vector)
    assert (moved["x"] > table["x"]).mean() > 0.95


# --- what dimensions hold ---------------------------------------------------------------------


def batch_of(model, table):
    return model._batch(pg.table.encode(table, model.schema_), model._device)


def by_quadrature(mean, sd, prior):
    """Mutual information and divergence of the aggregate (L,) on a grid."""
    z = np.linspace(-12, 12, 6001)[:, None, None]
    each = stats.norm(mean, sd).pdf(z)  # (grid, n, L)
    pooled = each.mean(1)
    inside = -stats.norm(mean, sd).entropy().mean(0)
    log_q = np.log(pooled + 1e-300)
    step = z[1, 0, 0] - z[0, 0, 0]
    information = inside - (pooled * log_q).sum(0) * step
    return information, (pooled * (log_q - prior(z[:, 0, :]))).sum(0) * step


@pytest.mark.parametrize("settings", [{}, {"guide": "full", "prior": "mixture", "components": 4}])
def test_dimensions_agree_with_quadrature(birds, settings):
    model = fitted(**settings, max_epochs=15) if settings else birds
    table = penguins().iloc[::3]
    found = model.latent_summary(table)
    own = found.drop("all")
    points = model.latent(table)
    mean, sd = points[own.index].to_numpy(), points.filter(like=".sd").to_numpy()

    def prior(z):
        if not settings:
            return stats.norm.logpdf(z)
        with torch.no_grad():
            parts = model.members_[0].prior.parts()
            weight = model.members_[0].prior.logits.softmax(0).numpy()
        wide = parts.scale_tril().square().sum(2).sqrt().numpy()
        each = stats.norm.pdf(z[..., None, :], parts.mean.detach().numpy(), wide)
        return np.log((each * weight[:, None]).sum(1) + 1e-300)

    information, aggregate = by_quadrature(mean, sd, prior)
    error = 4 * own["se"]
    assert (error < 0.15).all()
    assert ((own["mutual_information"] - information).abs() < error).all()
    assert ((own["aggregate_kl"] - aggregate).abs() < error).all()
    assert ((own["kl"] - information - aggregate).abs() < error).all()
    np.testing.assert_allclose(found["kl"], found["mutual_information"] + found["aggregate_kl"])
    if not settings:  # closed forms
        own_kl = 0.5 * (mean**2 + sd**2 - 1) - np.log(sd)
        np.testing.assert_allclose(own["kl"], own_kl.mean(0))
        np.testing.assert_allclose(found.loc["all", "kl"], own_kl.mean(0).sum())
        np.testing.assert_allclose(own["activity"], mean.var(0))


@pytest.mark.parametrize(
    "prior, guide", [("mixture", "full"), ("flow", "full"), ("normal", "flow")]
)
def test_all_dimensions_together(prior, guide):
    model = fitted(guide=guide, prior=prior, components=4, max_epochs=10)
    table = penguins().iloc[::4]
    found = model.latent_summary(table).loc["all"]
    torch.manual_seed(1)
    with torch.no_grad():
        family = model.members_[0]
        guide = family.at(batch_of(model, table))
        noise = torch.randn(10 if guide.warp else 60, *guide.mean.shape, dtype=torch.float64)
        z, log_q = guide.draw(noise)
        torch.testing.assert_close(guide.log_prob(z), log_q)
        pooled = guide.log_prob(z[:, :, None]).logsumexp(2) - np.log(len(table))
        log_p = family.prior.log_prob(z)
    error = 4.5 * found["se"]  # that of the check itself is a third of it
    assert error < 0.5
    assert found["kl"] == pytest.approx(float((log_q - log_p).mean()), abs=error)
    assert found["mutual_information"] == pytest.approx(float((log_q - pooled).mean()), abs=error)
    assert found["aggregate_kl"] == pytest.approx(float((pooled - log_p).mean()), abs=error)


def test_the_number_of_rows_bounds_the_information(birds):
    few = birds.latent_summary(penguins(), rows=3, random_state=1)
    assert few.attrs["rows"] == 3
    assert few.loc["all", "mutual_information"] <= np.log(3) + 1e-12
    again = birds.latent_summary(penguins(), rows=3, random_state=1)
    pd.testing.assert_frame_equal(few, again)
    with pytest.raises(pg.SchemaError, match="at least two rows"):
        birds.latent_summary(penguins().head(1))


def test_collapse_is_seen_and_cured():
    """A heavy weight of the divergence kills all dimensions; free bits keep them alive."""
    table = penguins()
    dead, alive = (fitted(beta=8.0, free_bits=free, max_epochs=100) for free in (0.0, 0.5))
    report = next(f for f in dead.check(table).findings if f.name == "collapsed latents")
    assert report.status == "fail" and "0 of 3 dimensions are active" in report.text
    assert not dead.latent_summary(table)["active"].any()
    report = next(f for f in alive.check(table).findings if f.name == "collapsed latents")
    assert report.status == "ok" and "3 of 3 dimensions are active" in report.text
    summary = alive.latent_summary(table)
    assert summary["active"].all() and (summary["kl"].drop("all") > 0.3).all()


def test_dead_units_are_named_where_every_row_has_a_hole():
    table = penguins()
    for place, name in enumerate(table.columns.drop("year")):
        table.loc[table.index[place::7], name] = None
    assert table.isna().any(axis=1).all()
    model = pg.VAE(latents=3, max_epochs=3, beta=50.0, **FAST).fit(table)
    family = model.members_[0]
    with torch.no_grad():  # the guide says the same of every row, but for one dimension
        family.posterior.line.weight[1:3] = 0.0
        family.posterior.line.weight[0] *= 10
    report = next(f for f in model.check(table).findings if f.name == "collapsed latents")
    assert report.status == "note" and "collapsed: z[1], z[2]" in report.text
    assert model.latent_summary(table)["active"].tolist()[:3] == [True, False, False]


def test_a_family_without_latents_says_so():
    model = pg.GaussianMixture(2, random_state=0, draws=0).fit(penguins())
    with pytest.raises(pg.NotSupported, match="latent"):
        model.latent_summary(penguins())


# --- features ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unlabelled():
    return pg.VAE(latents=3, max_epochs=40, **FAST)


def test_features_for_a_classifier_with_few_labels(unlabelled):
    table = penguins()
    pipe = make_pipeline(unlabelled, StandardScaler(), LogisticRegression())
    X, y = table.drop(columns="species"), table["species"]  # noqa: N806
    assert X.isna().any(axis=None)
    pipe.fit(X, y)
    assert pipe.score(X, y) > 0.85  # the largest class has 0.44
    model = pipe[0]
    found = model.transform(X)
    np.testing.assert_array_equal(found, model.latent(X)[["z[0]", "z[1]", "z[2]"]])
    assert pipe[:1].get_feature_names_out().tolist() == ["vae0", "vae1", "vae2"]
    with pytest.raises(ValueError, match="feature names"):
        model.transform(X[X.columns[::-1]])


def test_features_for_clustering_and_frames_out(unlabelled):
    table = penguins()
    X = table.drop(columns=["species", "year"])  # noqa: N806
    model = clone(unlabelled).set_output(transform="pandas")
    found = model.fit_transform(X.set_index(X.index + 5))
    assert list(found.columns) == ["vae0", "vae1", "vae2"] and found.index[0] == 5
    groups = make_pipeline(unlabelled, KMeans(2, n_init=4, random_state=0)).fit_predict(X)
    gentoo = (table["species"] == "Gentoo").to_numpy()
    agree = (groups == gentoo).mean()
    assert max(agree, 1 - agree) > 0.9


def test_unfitted_models_have_no_features():
    for ask in (lambda m: m.transform(penguins()), lambda m: m.get_feature_names_out()):
        with pytest.raises(NotFittedError):
            ask(pg.VAE())


@pytest.mark.parametrize(
    "check",
    [
        checks.check_transformer_general,
        checks.check_transformer_data_not_an_array,
        checks.check_transformer_preserve_dtypes,
        checks.check_transformers_unfitted,
        checks.check_estimators_pickle,
        checks.check_dataframe_column_names_consistency,
        checks.check_methods_sample_order_invariance,
        checks.check_methods_subset_invariance,
        checks.check_transformer_get_feature_names_out,
        checks.check_transformer_get_feature_names_out_pandas,
        checks.check_set_output_transform,
    ],
    ids=lambda check: check.__name__,
)
def test_scikit_learns_checks_of_transformers(check):
    small = pg.VAE(latents=2, **{**FAST, "hidden": (8,)}, max_epochs=2)
    check("VAE", small)


# --- other tables and families ----------------------------------------------------------------


def test_context_atoms_dates_and_restarts():
    """Every verb, on a table of other kinds, given a column."""
    rng = np.random.default_rng(0)
    n = 120
    size = rng.normal(size=n)
    table = pd.DataFrame({
        "place": rng.choice(["north", "south"], n),
        "rain": np.where(rng.random(n) < 0.4, 0.0, np.exp(size)),
        "eggs": rng.poisson(np.exp(0.5 * size + 1)),
        "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(np.round(20 * size) + 90, "D"),
        "big": size > 0,
    })  # fmt: skip
    table.loc[::9, "rain"] = np.nan
    model = pg.VAE(latents=2, restarts=2, max_epochs=3, **FAST).fit(table, given=["place"])
    own = table.drop(columns="place")
    moved = model.traverse(table.head(3), dimensions=[1])
    assert len(moved) == 15 and (moved.dtypes == own.dtypes).all()
    back = model.reconstruct(table, latent=model.latent(table))
    assert (back.dtypes == own.dtypes).all() and back.index.equals(table.index)
    assert len(model.interpolate(table.head(2), table.tail(2))) == 10
    assert model.attribute_vector(table, "rain == 0").notna().all()
    assert model.latent_summary(table)["kl"].notna().all()
    assert model.transform(table).shape == (n, 2)
    with pytest.raises(pg.SchemaError, match="place"):
        model.traverse(own.head(1))


def test_a_pair_has_a_summary_too():
    table = pairs.chain_table(120)
    net = pairs.Autoencoder()
    model = pairs.fit(table, net.model, net.guide)
    found = model.latent_summary(table)
    points = model.latent(table)
    mean, sd = (points.filter(regex=end).to_numpy() for end in (r"\]$", r"sd$"))
    wanted = (0.5 * (mean**2 + sd**2 - 1) - np.log(sd)).mean(0)
    np.testing.assert_allclose(found["kl"].drop("all"), wanted, rtol=1e-6)
    assert found.loc["all", "mutual_information"] <= np.log(120)
    with pytest.raises(pg.NotSupported, match="VAE"):
        model.traverse(table.head(1))


@pytest.mark.filterwarnings("ignore::probgen.errors.ApproximationWarning")
def test_a_copy_has_a_prior_of_its_own():
    model = fitted(latents=2, prior="mixture", components=3, max_epochs=2)
    before = model.log_prob(penguins())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.log_prob(penguins()).equals(before)
        own = other.members_[0]
        assert own.prior.encoded[1] is own.posterior
        with torch.no_grad():
            for value in own.posterior.parameters():
                value += 0.1
        assert not other.log_prob(penguins()).equals(before)
    assert model.log_prob(penguins()).equals(before)
