"""The scikit-learn face: its own checks, pipelines, clones, searches, on data frames."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import probgen as pg
from probgen.testing import EXPECTED_FAILURES, check_estimator

FAST = {"draws": 5, "max_epochs": 20, "random_state": 0}
pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::probgen.errors.DataWarning"
)


@parametrize_with_checks(
    [pg.GaussianMixture(2, starts=1, **FAST), pg.Independent(**FAST)],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
)
def test_scikit_learns_own_check(estimator, check):
    check(estimator)


def test_expected_failures_have_reasons_and_the_wrapper_reports():
    assert all(len(why) > 20 for why in EXPECTED_FAILURES.values())
    results = check_estimator(pg.Independent(**FAST))
    assert len(results) > 30
    assert not EXPECTED_FAILURES  # one that comes to be expected shows here as well
    assert {r["status"] for r in results} <= {"passed", "skipped"}


def test_the_wrapper_raises_where_an_estimator_is_wrong():
    class Wrong(pg.Independent):
        def fit(self, X, y=None, sample_weight=None, given=()):  # noqa: N803
            self.random_state = 5  # fit must not change parameters
            return super().fit(X, y, sample_weight, given)

    with pytest.raises(AssertionError):
        check_estimator(Wrong(**FAST))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 150
    a = np.where(rng.random(n) < 0.5, -3.0, 3.0) + rng.normal(0, 1, n)
    frame = pd.DataFrame({
        "a": a,
        "b": rng.normal(a, 1),
        "job": np.where(rng.random(n) < 0.9, np.where(a > 0, "cook", "nurse"), "smith"),
        "n": rng.poisson(3, n),
    })  # fmt: skip
    frame.loc[::11, "a"] = np.nan
    frame.loc[5::13, "job"] = None
    return frame


def test_parameters_are_the_fields():
    model = pg.GaussianMixture(5, covariance="diag", random_state=3)
    params = model.get_params()
    assert params["components"] == 5 and params["covariance"] == "diag"
    assert {"max_epochs", "patience", "validation", "starts", "restarts", "device",
            "random_state", "progress", "columns", "schema"} <= set(params)  # fmt: skip
    assert model.set_params(components=2).components == 2
    assert "components=2" in repr(model)
    with pytest.raises(ValueError, match="nonsense"):
        model.set_params(nonsense=1)
    with pytest.raises(TypeError, match="covariance"):
        pg.Independent(covariance="full")


def test_clone_is_unfitted_and_equal(table):
    model = pg.GaussianMixture(2, columns={"n": "count"}, starts=1, **FAST).fit(table)
    twin = clone(model)
    assert twin.get_params() == model.get_params()
    assert not hasattr(twin, "schema_")
    assert (twin.fit(table).score_samples(table) == model.score_samples(table)).all()


def test_grid_search_on_a_frame_with_holes_and_categories(table):
    search = GridSearchCV(
        pg.GaussianMixture(starts=1, **FAST),
        {"components": [1, 2], "covariance": ["full", "diag"]},
        cv=KFold(3, shuffle=True, random_state=0),
        error_score="raise",
    ).fit(table)
    assert search.best_params_["components"] == 2
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert np.isfinite(search.best_estimator_.log_prob(table)).all()
    assert search.score(table) == pytest.approx(search.best_estimator_.score(table))


def test_cross_validation_is_the_mean_held_out_density(table):
    model = pg.Independent(**FAST)
    folds = KFold(3, shuffle=True, random_state=1)
    found = cross_val_score(model, table, cv=folds, error_score="raise")
    for value, (train, test) in zip(found, folds.split(table), strict=True):
        fit = clone(model).fit(table.iloc[train])
        assert value == pytest.approx(fit.log_prob(table.iloc[test]).mean(), rel=1e-12)


def test_two_processes_search_as_one(table):
    model = pg.GaussianMixture(starts=1, **FAST)
    grid = {"components": [1, 2]}
    one = GridSearchCV(model, grid, cv=2, error_score="raise").fit(table)
    two = GridSearchCV(model, grid, cv=2, error_score="raise", n_jobs=2).fit(table)
    a, b = (s.cv_results_["mean_test_score"] for s in (one, two))
    np.testing.assert_allclose(a, b, rtol=1e-12)


class Shift(TransformerMixin, BaseEstimator):
    """A transformer that keeps frames frames."""

    def fit(self, X, y=None):  # noqa: N803
        return self

    def transform(self, X):  # noqa: N803
        return X.assign(a=X["a"] + 1.0)


def test_pipelines_of_frames_and_of_arrays(table):
    pipe = make_pipeline(Shift(), pg.GaussianMixture(2, starts=1, **FAST)).fit(table)
    direct = pg.GaussianMixture(2, starts=1, **FAST).fit(Shift().transform(table))
    assert (pipe.score_samples(table) == direct.score_samples(Shift().transform(table))).all()
    assert pipe.score(table) == pytest.approx(pipe.score_samples(table).mean())
    numbers = table[["a", "b"]]
    pipe = make_pipeline(StandardScaler(), pg.Independent(**FAST)).fit(numbers)
    assert np.isfinite(pipe.score_samples(numbers)).all()


def test_arrays_and_frames_score_alike(table):
    values = table[["a", "b"]]
    by_frame = pg.Independent(**FAST).fit(values)
    by_array = pg.Independent(**FAST).fit(values.to_numpy())
    assert (by_frame.score_samples(values) == by_array.score_samples(values.to_numpy())).all()
    assert not hasattr(by_array, "feature_names_in_")
    assert by_frame.feature_names_in_.tolist() == ["a", "b"] and by_frame.n_features_in_ == 2


def test_score_samples_wants_exactly_the_fitted_columns(table):
    model = pg.Independent(**FAST).fit(table)
    for wrong in (table[["a"]], table.assign(z=1), table[table.columns[::-1]]):
        with pytest.raises(ValueError, match="feature names"):
            model.score_samples(wrong)


def test_unfitted_estimators_say_so(table):
    for verb in ("log_prob", "score_samples", "score", "impute", "latent", "reconstruct"):
        with pytest.raises(NotFittedError):
            getattr(pg.GaussianMixture(), verb)(table)
    with pytest.raises(NotFittedError):
        pg.GaussianMixture().sample(1)


def test_pickling_is_scikit_learns(table):
    model = pg.GaussianMixture(2, starts=1, **FAST).fit(table)
    model.log_prob(table, posterior=False)  # fills the cache of draws
    twin = pickle.loads(pickle.dumps(model))
    assert (twin.log_prob(table) == model.log_prob(table)).all()
    pd.testing.assert_frame_equal(twin.sample(5, random_state=0), model.sample(5, random_state=0))
    pd.testing.assert_frame_equal(
        twin.log_prob(table, interval=0.9), model.log_prob(table, interval=0.9)
    )
