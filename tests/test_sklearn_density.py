"""`pg.SklearnDensity`: densities of scikit-learn in the table's units, and what is refused."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer, StandardScaler
from sklearn.svm import OneClassSVM

import probgen as pg
from probgen.evaluation.sklearn_density import total_mass


def table(n=150, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.normal(3, 2, n)
    return pd.DataFrame({"a": a, "b": np.exp(0.3 * a + rng.normal(0, 0.5, n))})


def fit(estimator, rows=None, **more):
    return pg.SklearnDensity(estimator, random_state=0, **more).fit(
        table() if rows is None else rows
    )


def test_the_jacobian_of_the_encoding_counts():
    rows, new = table(), table(20, 1)
    model = fit(KernelDensity(bandwidth=0.5))
    z = {"a": rows["a"], "b": np.log(rows["b"])}
    schema = model.schema_
    u = np.stack([(z[n] - schema[n].loc) / schema[n].scale for n in "ab"], 1)
    own = KernelDensity(bandwidth=0.5).fit(u)
    v = np.stack([(f - schema[n].loc) / schema[n].scale
                  for n, f in (("a", new["a"]), ("b", np.log(new["b"])))], 1)  # fmt: skip
    wanted = (
        own.score_samples(v) - np.log(schema["a"].scale * schema["b"].scale) - np.log(new["b"])
    )
    assert np.allclose(model.log_prob(new), wanted, atol=1e-10)


@pytest.mark.parametrize(
    "estimator",
    [
        KernelDensity(bandwidth=0.4),
        GaussianMixture(2, random_state=0),
        make_pipeline(StandardScaler(), KernelDensity(bandwidth=0.4)),
        make_pipeline(StandardScaler(), PCA(whiten=True), GaussianMixture(2, random_state=0)),
        KernelDensity(bandwidth=0.8, kernel="tophat"),
    ],
)
def test_total_mass_is_one(estimator):
    model = fit(estimator)
    [member] = model.members_
    mass, se = total_mass(member, member.draw_rows(20_000, 3).numpy())
    assert abs(mass - 1) < 4 * se + 1e-3 and se < 0.02


def test_a_scaler_changes_nothing_for_a_mixture():
    """Of full covariance: its optimum moves with the rows."""
    plain = fit(GaussianMixture(1)).log_prob(table(30, 2))
    scaled = fit(make_pipeline(StandardScaler(), PCA(whiten=True), GaussianMixture(1)))
    assert np.allclose(scaled.log_prob(table(30, 2)), plain, atol=1e-4)


def test_samples_are_rows_of_the_density():
    model = fit(KernelDensity(bandwidth=0.3))
    drawn = model.sample(1500, random_state=1)
    assert (drawn["b"] > 0).all() and drawn.equals(model.sample(1500, random_state=1))
    assert not drawn.equals(model.sample(1500, random_state=2))
    one, two = model.log_prob(drawn), model.log_prob(model.sample(1500, random_state=3))
    assert abs(one.mean() - two.mean()) < 4 * np.hypot(one.sem(), two.sem())
    assert abs(np.log(drawn["b"]).mean() - np.log(table()["b"]).mean()) < 0.15


def test_holes_of_new_rows_are_proposed_for():
    model = fit(GaussianMixture(1))
    new = table(8, 3)[["b"]]
    found = model.log_prob(new, details=True)
    wide = np.linspace(-12, 18, 2001)
    grid = pd.DataFrame({"a": np.tile(wide, 8), "b": np.repeat(new["b"].to_numpy(), 2001)})
    step = wide[1] - wide[0]
    wanted = np.log(np.exp(model.log_prob(grid).to_numpy()).reshape(8, -1).sum(1) * step)
    assert set(found["method"]) == {"importance"} and (found["se"] > 0).all()
    assert (abs(found["log_prob"] - wanted) < 5 * found["se"] + 1e-3).all()
    filled = model.sample(1, given=new, random_state=0)
    assert np.allclose(filled["b"], new["b"])


@pytest.mark.parametrize(
    ("estimator", "reason"),
    [
        (IsolationForest(), "rank rows by oddity"),
        (OneClassSVM(), "rank rows by oddity"),
        (LocalOutlierFactor(novelty=True), "rank rows by oddity"),
        (BayesianGaussianMixture(), "expected logarithms"),
        (KernelDensity(metric="manhattan"), "not normalised"),
        (StandardScaler(), "no score_samples"),
        (make_pipeline(PowerTransformer(), KernelDensity()), "not linear"),
        (make_pipeline(PCA(1), KernelDensity()), "drop columns"),
    ],
)
def test_what_is_no_normalised_density_is_refused(estimator, reason):
    with pytest.raises(pg.NotSupported, match=reason):
        fit(estimator)


class Disguised(BayesianGaussianMixture):
    """A class that is not known: only its mass tells."""


class Plain(GaussianMixture):
    """Another one, which is a density."""


def test_the_mass_of_an_unknown_class_is_measured():
    few = pd.DataFrame(np.random.default_rng(0).normal(size=(100, 8)))
    few.columns = [f"x{i}" for i in range(8)]
    with pytest.raises(pg.NotSupported, match="total mass of 0"):
        fit(Disguised(random_state=0), few)
    assert np.isfinite(fit(Plain(random_state=0), few).score(few))


def test_columns_must_be_real_and_rows_whole():
    rows = table().assign(label="x", count=np.arange(150) % 7)
    rows.loc[::2, "label"] = "y"
    with pytest.raises(pg.SchemaError, match=r"'label' \(category\), 'count' \(count\)"):
        fit(KernelDensity(), rows)
    spiky = table().assign(a=lambda t: t["a"].where(np.arange(150) % 3 > 0, 0.0))
    with pytest.raises(pg.SchemaError, match="with atoms"):
        fit(KernelDensity(), spiky)
    holed = table()
    holed.iloc[3, 0] = np.nan
    with pytest.raises(pg.SchemaError, match="1 of 150 rows with missing cells"):
        fit(KernelDensity(), holed)


@pytest.mark.parametrize("estimator", [KernelDensity(bandwidth=0.5), GaussianMixture(1)])
def test_weights_equal_repeated_rows(estimator):
    rows = table(60)
    weight = np.random.default_rng(0).integers(0, 3, 60)
    again = rows.iloc[np.repeat(np.arange(60), weight)]
    schema = pg.Schema.infer(rows)
    one = pg.SklearnDensity(estimator, schema=schema, random_state=0)
    two = clone(one).fit(again)
    one.fit(rows, sample_weight=weight)
    assert np.allclose(one.log_prob(rows), two.log_prob(rows), atol=1e-6)


def test_fractional_weights_need_an_estimator_that_takes_them():
    with pytest.raises(pg.NotSupported, match="without sample_weight"):
        pg.SklearnDensity(GaussianMixture(1)).fit(table(), sample_weight=np.linspace(0.1, 1, 150))


def test_it_is_an_estimator_and_the_given_one_stays_unfitted():
    inner = KernelDensity()
    model = pg.SklearnDensity(inner)
    model.set_params(estimator__bandwidth=0.25)
    assert clone(model).get_params()["estimator__bandwidth"] == 0.25
    model.fit(table())
    assert not hasattr(inner, "tree_") and model.converged_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clone(model).fit(table())
    with pytest.raises(TypeError):
        pg.SklearnDensity(inner, max_epochs=3)


def test_a_file_holds_no_foreign_objects(tmp_path):
    with pytest.raises(pg.NotSupported, match="SklearnDensity"):
        fit(KernelDensity()).save(tmp_path / "model.zip")
    assert not list(tmp_path.iterdir())


def test_a_kernel_that_draws_no_rows_says_so():
    model = fit(KernelDensity(kernel="epanechnikov", bandwidth=1.0))
    with pytest.raises(pg.NotSupported, match="draws no rows"):
        model.sample(3)
