"""OutlierDetector: scikit-learn's contract, thresholds, holes, units, files."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import probgen as pg
from probgen.datasets import penguins
from probgen.outliers.detector import _below
from probgen.outliers.robust import default_density
from probgen.testing import FDR_FAILURES, check_estimator
from tests.saved import edit

FAST = {"draws": 2, "max_epochs": 20, "random_state": 0}
pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::probgen.errors.DataWarning"
)


def expected(detector):
    return FDR_FAILURES if detector.fdr is not None else {}


@parametrize_with_checks(
    [
        pg.OutlierDetector(random_state=0),
        pg.OutlierDetector(pg.GaussianMixture(1, **FAST), contamination=0.1),
        pg.OutlierDetector(pg.GaussianMixture(1, **FAST), fdr=0.1),
    ],
    expected_failed_checks=expected,
)
def test_scikit_learns_own_check(estimator, check):
    check(estimator)


def test_the_wrapper_knows_detectors():
    results = check_estimator(pg.OutlierDetector(pg.GaussianMixture(1, **FAST), fdr=0.1))
    failed = {r["check_name"] for r in results if r["status"] == "xfail"}
    assert failed == set(FDR_FAILURES)  # each of them is needed


def spoilt(n: int = 200, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Dependent columns with a level; the first ten rows break the dependence."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    table = pd.DataFrame(
        {"x": x, "y": x + 0.2 * rng.normal(size=n), "k": rng.choice(["a", "b"], n)}
    )
    table.loc[:9, "y"] = -table.loc[:9, "y"] - 3 * np.sign(table.loc[:9, "x"])
    return table, np.arange(n) < 10


def test_planted_rows_are_found_in_a_frame():
    table, odd = spoilt()
    detector = pg.OutlierDetector(contamination=0.05, random_state=0).fit(table)
    found = detector.predict(table) == -1
    assert found.sum() == 10 and found[odd].mean() >= 0.8
    assert (detector.fit_predict(table) == detector.predict(table)).all()
    assert detector.feature_names_in_.tolist() == ["x", "y", "k"] and detector.n_features_in_ == 3
    assert clone(detector).get_params()["contamination"] == 0.05


def test_scores_are_log_densities_and_decisions_are_moved_scores():
    table, _ = spoilt()
    density = pg.GaussianMixture(2, **FAST)
    detector = pg.OutlierDetector(density, contamination=0.1).fit(table)
    np.testing.assert_array_equal(detector.score_samples(table), detector.density_.log_prob(table))
    moved = detector.score_samples(table) - detector.offset_
    np.testing.assert_array_equal(detector.decision_function(table), moved)
    assert not hasattr(density, "schema_")  # the caller's stays unfitted


def test_auto_flags_the_same_share_in_any_size_of_table():
    shares = []
    for n in (300, 3000):
        table = np.random.default_rng(n).normal(size=(n, 2))
        shares.append((pg.OutlierDetector(random_state=0).fit_predict(table) == -1).mean())
    assert all(0.005 < share < 0.03 for share in shares)


@pytest.mark.parametrize("setting", [{"contamination": 0.1}, {"fdr": 0.2}, {}])
def test_decisions_are_the_same_in_any_units(setting):
    table, _ = spoilt()
    table["y"] = table["y"].mask(np.arange(200) % 4 == 0)
    new, _ = spoilt(50, seed=1)
    new["x"] = new["x"].mask(np.arange(50) % 5 == 0)
    detectors = []
    for c in (1.0, 1e6):
        scaled = {name: frame.assign(y=frame["y"] * c) for name, frame in
                  (("fit", table), ("new", new))}  # fmt: skip
        rows = scaled["fit"].iloc[10:] if "fdr" in setting else scaled["fit"]
        own = pg.OutlierDetector(pg.GaussianMixture(1, **FAST), **setting).fit(rows)
        detectors.append((own.predict(scaled["new"]), own.decision_function(scaled["new"])))
    assert (detectors[0][0] == detectors[1][0]).all() and (detectors[0][0] == -1).any()
    np.testing.assert_allclose(detectors[0][1], detectors[1][1], atol=1e-6)


def test_holes_do_not_make_rows_odd_or_ordinary():
    """Rows of the model with cells hidden have the same mean score as whole ones."""
    table, _ = spoilt(400)
    detector = pg.OutlierDetector(contamination=0.05, random_state=0).fit(table * 1)
    drawn = detector.density_.sample(3000, random_state=5)
    whole = detector.score_samples(drawn)
    for hidden in (["x"], ["y", "k"], ["x", "y", "k"]):
        part = drawn.copy()
        part[hidden] = None
        part = part.astype({name: drawn[name].dtype for name in hidden if name != "k"})
        own = detector.score_samples(part)
        error = np.sqrt((whole.var() + own.var()) / 3000) + np.sqrt(whole.var() / 2000)
        assert abs(own.mean() - whole.mean()) < 4 * error


def test_new_levels_are_odd_and_impossible_rows_odder():
    table, _ = spoilt()
    table["size"] = np.exp(table["x"])
    kinds = {"size": "positive"}
    detector = pg.OutlierDetector(pg.Independent(columns=kinds, **FAST)).fit(table)
    rows = table.iloc[[20] * 3].copy()
    rows.iloc[1, rows.columns.get_loc("k")] = "new"
    rows.iloc[2, rows.columns.get_loc("size")] = -1.0
    score = detector.score_samples(rows)
    assert score[0] > score[1] > score[2] == -np.inf
    assert detector.predict(rows)[2] == -1


def test_the_false_discovery_rate_is_that_of_the_rows_together():
    share, power = [], []
    for seed in range(20):
        train, _ = spoilt(300, seed)
        detector = pg.OutlierDetector(
            pg.GaussianMixture(1, **FAST | {"random_state": seed}), fdr=0.2, calibration=0.5
        ).fit(train.iloc[10:])
        new, odd = spoilt(100, 1000 + seed)
        flag = detector.predict(new) == -1
        share.append((flag & ~odd).sum() / max(1, flag.sum()))
        power.append(flag[odd].mean())
    assert np.mean(share) <= 0.2 * 0.9 + 3 * np.std(share) / np.sqrt(20)
    assert np.mean(power) > 0.5 and np.mean(share) > 0.02
    p, alone = detector.p_value(new), detector.decision_function(new) < 0
    assert (flag <= alone).all()  # no more are flagged together than alone
    np.testing.assert_array_equal(detector.decision_function(new) <= 0, p <= 0.2)


def test_what_fdr_cannot_do_is_refused():
    table, _ = spoilt()
    detector = pg.OutlierDetector(pg.GaussianMixture(1, **FAST), fdr=0.1)
    with pytest.raises(pg.NotSupported, match="fit_predict"):
        detector.fit_predict(table)
    with pytest.raises(pg.NotSupported, match="held no rows apart"):
        pg.OutlierDetector(pg.GaussianMixture(1, **FAST)).fit(table).p_value(table)
    few = clone(detector).set_params(calibration=0.02).fit(table)  # 4 rows held apart
    assert few.offset_ == -np.inf and (few.predict(table) == 1).all()


@pytest.mark.parametrize("wrong", [
    {"contamination": 0.0}, {"contamination": 0.6}, {"contamination": "some"}, {"fdr": 0.0},
    {"fdr": 1.0}, {"fdr": 0.1, "contamination": 0.1}, {"density": "normal"},
    {"fdr": 0.1, "calibration": 1.0}, {"fdr": True},
])  # fmt: skip
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(pg.SchemaError, match=f"{list(wrong)[-1]}="):
        pg.OutlierDetector(**wrong).fit(spoilt()[0])


def test_weights_are_frequencies():
    table, _ = spoilt(60)
    numbers = table[["x", "y"]]
    weight = np.random.default_rng(0).integers(0, 4, 60)
    detector = pg.OutlierDetector(pg.GaussianMixture(1, **FAST), contamination=0.1)
    one = clone(detector).fit(numbers, sample_weight=weight)
    two = clone(detector).fit(numbers.loc[numbers.index.repeat(weight)])
    assert one.offset_ == pytest.approx(two.offset_, rel=1e-7)


def test_the_threshold_never_parts_equal_scores():
    scores = np.array([1.0, 1.0 + 1e-13, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    ones = np.ones(10)
    assert _below(scores, ones, 0.2) == 1.0  # no row lies below it
    assert _below(scores, ones, 0.3) == pytest.approx(1.5)
    assert _below(np.array([-np.inf, 1.0, 2.0, 3.0]), np.ones(4), 0.25) == 1.0


def test_pipelines_arrays_and_the_default():
    values = spoilt()[0][["x", "y"]].to_numpy()
    pipe = make_pipeline(StandardScaler(), pg.OutlierDetector(contamination=0.1, random_state=0))
    assert (pipe.fit_predict(values) == -1).sum() == 20
    assert isinstance(default_density(3), pg.Density) and default_density(3).random_state == 3


@pytest.mark.parametrize("setting", [{}, {"contamination": 0.1}, {"fdr": 0.2}])
@pytest.mark.parametrize("density", [None, pg.GaussianMixture(2, starts=1, **FAST)])
def test_files_and_pickles(tmp_path, setting, density):
    birds = penguins()
    detector = pg.OutlierDetector(density, random_state=0, **setting).fit(birds)
    detector.save(tmp_path / "d.zip")
    for again in (pg.load(tmp_path / "d.zip"), pickle.loads(pickle.dumps(detector))):
        assert isinstance(again, pg.OutlierDetector) and again.offset_ == detector.offset_
        np.testing.assert_array_equal(again.predict(birds), detector.predict(birds))
        for name in ("contamination", "fdr", "calibration", "random_state"):
            assert getattr(again, name) == getattr(detector, name)
        assert (again.density is None) == (density is None)


def test_a_detector_without_its_rows_is_damaged(tmp_path):
    detector = pg.OutlierDetector(pg.GaussianMixture(1, **FAST), fdr=0.2).fit(spoilt()[0])
    detector.save(tmp_path / "d")
    edit(tmp_path / "d", lambda m: m.pop("calibration"))
    with pytest.raises(pg.ModelFileError, match="detector"):
        pg.load(tmp_path / "d")


def test_a_fitted_detector_keeps_its_score():
    table, _ = spoilt()
    detector = pg.OutlierDetector(random_state=0).fit(table)
    before = detector.score_samples(table)
    detector.set_params(density=pg.GaussianMixture(1, **FAST))
    np.testing.assert_array_equal(detector.score_samples(table), before)
