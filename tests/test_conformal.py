"""P-values by rows held apart and by folds; false discovery rates; what the fit may see."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chisquare
from sklearn.base import clone

import probgen as pg
from probgen.outliers import conformal, flags
from tests.saved import edit

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
QUICK = {"draws": 2, "max_epochs": 15, "starts": 1}


def skewed(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """What no Gaussian describes: p-values must hold all the same."""
    x = rng.exponential(size=n)
    return pd.DataFrame({"x": x, "y": x + rng.standard_t(2, n)})


def one_gaussian(seed: int = 0) -> pg.GaussianMixture:
    return pg.GaussianMixture(1, random_state=seed, columns={"x": "real"}, **QUICK)


def mixed(n: int, seed: int, holes: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    table = pd.DataFrame({
        "x": x, "y": x + 0.5 * rng.normal(size=n), "size": np.exp(rng.normal(0.5 * x, 0.5)),
        "level": rng.choice(list("abc"), n),
    })  # fmt: skip
    if holes:
        table["y"] = table["y"].mask(rng.random(n) < 0.2)
        table["level"] = table["level"].mask(rng.random(n) < 0.2)
    return table


# --- numbers ----------------------------------------------------------------------------------


def test_p_values_count_ties_and_infinities():
    reference = np.array([1.0, 2.0, 2.0, math.inf])
    p = conformal.p_values(np.array([0.0, 2.0, 2.0 + 1e-12, 3.0, math.inf]), reference)
    np.testing.assert_allclose(p, [1.0, 0.8, 0.8, 0.4, 0.4])
    assert (conformal.p_values(np.array([5.0]), np.empty(0)) == 1).all()


def test_adjusted_p_values_are_the_step_up_rule():
    rng = np.random.default_rng(0)
    p = np.concatenate([rng.random(30), rng.random(6) / 100, [0.5, 0.5]])
    q = conformal.adjusted(p)
    for fdr in (0.01, 0.05, 0.2, 0.7):
        ordered = np.sort(p)
        passing = np.flatnonzero(ordered <= fdr * np.arange(1, len(p) + 1) / len(p))
        line = ordered[passing[-1]] if len(passing) else -1.0
        np.testing.assert_array_equal(q <= fdr, p <= line)


# --- validity ---------------------------------------------------------------------------------


def test_split_conformal_p_values_are_uniform_under_a_wrong_model():
    rng = np.random.default_rng(1)
    ranks = []
    for seed in range(150):
        model = one_gaussian(seed).fit(skewed(45, rng), calibration=0.2)  # 9 rows held apart
        found = model.outliers(skewed(1, rng), fdr=None, samples=2, random_state=seed)
        ranks.append(round(found["p_value"].iloc[0] * 10))
    counts = np.bincount(ranks, minlength=11)[1:]
    assert counts.sum() == 150 and chisquare(counts).pvalue > 0.001


def test_tail_probabilities_of_that_model_are_not_uniform():
    """The test above can fail: p-values that trust a wrong model do."""
    rng = np.random.default_rng(1)
    model = one_gaussian().fit(skewed(200, rng), calibration=0.5)
    tail = model.outliers(skewed(2000, rng), method="model")["p_value"]
    assert (tail <= 0.005).mean() > 0.005 + 6 * math.sqrt(0.005 / 2000)


def test_rows_with_holes_have_valid_p_values():
    hits, count = np.zeros(3), 0
    levels = np.array([0.1, 0.25, 0.5])
    for seed in range(40):
        model = pg.GaussianMixture(1, random_state=seed, **QUICK)
        model.fit(mixed(120, 1000 + seed), calibration=0.5)
        p = model.outliers(mixed(6, 2000 + seed), fdr=None, samples=2)["p_value"].to_numpy()
        hits += (p[:, None] <= levels).sum(0)
        count += len(p)
    # six rows of a table share their reference: no more than sqrt(6) times the error
    error = np.sqrt(6 * levels * (1 - levels) / count)
    assert (hits / count <= levels + 3 * error).all()
    assert (hits / count >= levels - 4 * error - 0.05).all()  # nor idle


def test_cross_conformal_p_values_keep_their_bound():
    rng = np.random.default_rng(3)
    first = []
    for seed in range(50):
        table = skewed(20, rng)
        model = one_gaussian(seed).fit(table)
        p = model.outliers(table, fdr=None, folds=2, samples=2, random_state=seed)["p_value"]
        # ranks of the rows among themselves
        np.testing.assert_allclose(np.sort(p), np.arange(1, 21) / 20)
        first.append(p.iloc[0])
    for level in (0.1, 0.2, 0.5):
        error = math.sqrt(level * (1 - level) / 50)
        assert np.mean(np.array(first) <= level) <= level + 3 * error


def test_the_realised_false_discovery_rate_stays_under_the_nominal_one():
    fdr, share, found, right = 0.2, [], 0, 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        model = one_gaussian(seed).fit(skewed(300, rng), calibration=0.5)
        new = skewed(60, rng)
        new.loc[:5, "x"] += 12.0
        new.loc[:5, "y"] -= 12.0
        flag = model.outliers(new, fdr=fdr, samples=2)["flag"].to_numpy()
        share.append(flag[6:].sum() / max(1, flag.sum()))
        right += flag[:6].sum()
        found += 6
    assert np.mean(share) <= fdr * 54 / 60 + 3 * np.std(share) / math.sqrt(30)
    assert right / found > 0.5 and np.mean(share) > 0.01  # power, and a rate that is not idle


@pytest.mark.parametrize("make", [pg.Independent, lambda **s: pg.GaussianMixture(2, **s)])
def test_p_values_and_ranks_are_the_same_in_any_units(make):
    old, new = mixed(120, 1), mixed(40, 2)
    new.loc[3, "size"] = 60.0
    factor = {"x": 1024.0, "y": 0.0254, "size": 1e6}
    ways = ({"fit": old, "calibration": 0.4, "ask": new}, {"fit": old, "ask": old, "folds": 3})
    for way in ways:
        both = []
        for scale in ({}, factor):
            fit, ask = (
                way[key].assign(**{k: way[key][k] * c for k, c in scale.items()})
                for key in ("fit", "ask")
            )
            model = make(random_state=0, columns={"size": "positive"}, **QUICK)
            model.fit(fit, calibration=way.get("calibration"))
            both.append(model.outliers(ask, fdr=None, folds=way.get("folds")))
        for name in ("p_value", "q_value", "rank", "culprit", "method"):
            assert (both[0][name] == both[1][name]).all(), name
        np.testing.assert_allclose(both[0]["tail_prob"], both[1]["tail_prob"], atol=1 / 2001)


# --- what the fit may see -----------------------------------------------------------------------


def test_rows_held_apart_do_not_steer_the_fit():
    table = mixed(100, 4)
    model = pg.GaussianMixture(2, random_state=0, validation=0.2, restarts=2, **QUICK)
    model.fit(table, calibration=0.3)
    rows = model.calibration_.rows
    assert len(rows) == len(model.calibration_) == 30 and len(np.unique(rows)) == 30
    spoilt = table.copy()
    spoilt.iloc[rows, 0] = 1e6 * np.arange(30)
    spoilt.iloc[rows, 3] = "only here"
    other = clone(model).fit(spoilt, calibration=0.3)
    assert other.schema_ == model.schema_
    np.testing.assert_array_equal(other.calibration_.rows, rows)
    np.testing.assert_array_equal(other.log_prob(table), model.log_prob(table))
    # and the rest is what is fitted
    alone = clone(model).fit(table.drop(index=rows))
    assert alone.schema_ == model.schema_


def test_levels_of_rows_held_apart_are_foreign_levels():
    table = mixed(200, 5, holes=False)
    model = pg.Independent(random_state=0, **QUICK).fit(table, calibration=0.5)
    rows = model.calibration_.rows
    table.loc[rows[:20], "level"] = "late"
    model = clone(model).fit(table, calibration=0.5)
    new = table.iloc[rows[:20]]
    with pytest.raises(pg.SchemaError, match="late"):
        model.outliers(new)
    rare = model.outliers(new, unseen="rare")["p_value"]
    assert rare.min() >= 2 / 101 and rare.max() > 20 / 101  # twenty rows are as foreign
    hidden = model.outliers(new, unseen="missing")["p_value"]
    left_out = model.outliers(new.drop(columns="level"))["p_value"]
    assert (hidden >= 2 / 101).all() and (left_out >= 2 / 101).all()
    # nothing is known of the level, in these rows and in those that were held apart
    assert np.abs(hidden - left_out).max() < 0.15


def test_impossible_rows_among_those_held_apart_count_as_the_oddest():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=100), "n": rng.poisson(4, 100).astype(float)})
    model = pg.Independent(random_state=0, columns={"n": "count"}, **QUICK)
    rows = model.fit(table, calibration=0.2).calibration_.rows
    table.loc[rows[:3], "n"] = 1.5
    model = clone(model).fit(table, calibration=0.2)
    with pytest.warns(pg.DataWarning, match="outside the support"):
        p = model.outliers(pd.DataFrame({"x": [0.0, 1e9], "n": [2.5, 3.0]}))["p_value"]
    assert p.tolist() == [4 / 21, 4 / 21]
    # where the column is not asked about, its bad cells do not count
    assert model.outliers(pd.DataFrame({"x": [1e9]}), fdr=None)["p_value"].tolist() == [1 / 21]


def test_seeds_decide_which_rows_are_held_apart():
    table = mixed(60, 6)
    model = pg.Independent(random_state=3, **QUICK).fit(table, calibration=0.25)
    again = clone(model).fit(table, calibration=0.25)
    other = clone(model).set_params(random_state=4).fit(table, calibration=0.25)
    np.testing.assert_array_equal(model.calibration_.rows, again.calibration_.rows)
    assert (model.calibration_.rows != other.calibration_.rows).any()
    assert clone(model).fit(table).calibration_ is None and not hasattr(clone(model), "schema_")
    assert model.fit(table).calibration_ is None  # a new fit without them forgets them


def test_weights_and_rows_held_apart():
    table = mixed(50, 7)
    weight = np.ones(50)
    weight[::5] = 0.0
    model = pg.Independent(random_state=0, **QUICK)
    model.fit(table, sample_weight=weight, calibration=0.2)
    assert len(model.calibration_) == 8 and (model.calibration_.rows % 5 != 0).all()
    with pytest.raises(pg.NotSupported, match="sample_weight"):
        model.fit(table, sample_weight=weight + 1, calibration=0.2)


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["folder", "model.zip"])
def test_rows_held_apart_are_saved(tmp_path, name):
    model = pg.GaussianMixture(2, random_state=0, **QUICK).fit(mixed(100, 8), calibration=0.3)
    new = mixed(20, 9)
    before = model.outliers(new)
    model.save(tmp_path / name)
    for again in (pg.load(tmp_path / name), pickle.loads(pickle.dumps(model))):
        assert again.calibration_.share == 0.3
        pd.testing.assert_frame_equal(again.outliers(new), before)
    model.fit(mixed(100, 8)).save(tmp_path / name)  # the file of the old rows goes
    assert pg.load(tmp_path / name).calibration_ is None
    if name == "folder":
        assert not list((tmp_path / name).glob("calibration*"))


def test_damaged_rows_are_noticed(tmp_path):
    model = pg.Independent(random_state=0, **QUICK).fit(mixed(60, 8), calibration=0.3)
    model.save(tmp_path / "m")
    (file,) = (tmp_path / "m").glob("calibration*")
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(pg.ModelFileError, match="sha256"):
        pg.load(tmp_path / "m")
    file.write_bytes(data)
    edit(tmp_path / "m", lambda m: m["calibration"].update(share=2.0))
    with pytest.raises(pg.ModelFileError, match="calibration"):
        pg.load(tmp_path / "m")


# --- what is said -------------------------------------------------------------------------------


def test_a_table_that_was_fitted_is_noticed():
    table = mixed(300, 10)
    model = pg.Independent(random_state=0, **QUICK).fit(table, calibration=0.2)
    with pytest.warns(pg.DataWarning, match="80% of the rows were fitted"):
        model.outliers(table)
    model.outliers(table.iloc[model.calibration_.rows])  # these may be asked about
    model.outliers(mixed(300, 11))


def test_long_tables_that_were_fitted_are_noticed_by_a_sketch():
    table = skewed(5000, np.random.default_rng(0))
    model = one_gaussian().fit(table, calibration=0.1)
    assert len(model.calibration_.fitted) == 1000
    with pytest.warns(pg.DataWarning, match="9[0-9]% of the rows were fitted"):
        model.outliers(table)
    model.outliers(skewed(5000, np.random.default_rng(1)))


def test_flags_that_can_never_be_raised_are_said():
    model = pg.Independent(random_state=0, **QUICK).fit(mixed(60, 12), calibration=0.2)
    new = mixed(10, 13)
    with pytest.warns(pg.DataWarning, match="smallest possible p-value of 0.0769"):
        assert not model.outliers(new, fdr=0.05)["flag"].any()
    model.outliers(new, fdr=0.08)
    assert "flag" not in model.outliers(new, fdr=None)
    with pytest.warns(pg.DataWarning, match="ranks of 10 rows among themselves"):
        found = model.outliers(new, folds=2)
    assert not found["flag"].any() and set(found["method"]) == {"cross-conformal"}
    assert set(model.outliers(new, folds=2, method="model")["method"]) == {"model"}


def test_folds_do_not_let_a_row_vouch_for_itself():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=80), "b": rng.normal(size=80)})
    table.loc[7] = [9.0, -9.0]
    model = pg.GaussianMixture(6, random_state=0, **QUICK).fit(table)
    own, out = model.outliers(table), model.outliers(table, fdr=None, folds=5)
    assert out.loc[7, "surprisal"] > own.loc[7, "surprisal"] and out.loc[7, "p_value"] == 1 / 80
    assert out.loc[7, "rank"] == 1


def test_many_patterns_of_holes_see_a_part_of_the_rows(monkeypatch):
    """A random part of the reference rows is as valid, only coarser."""
    model = pg.Independent(random_state=0, **QUICK).fit(mixed(400, 14), calibration=0.5)
    new = mixed(30, 15)
    whole = model.outliers(new, fdr=None)["p_value"]
    monkeypatch.setattr(flags, "SCORED", 0)
    monkeypatch.setattr(flags, "LEAST_REFERENCE", 120)
    part = model.outliers(new, fdr=None)["p_value"]
    assert (part != whole).any() and np.abs(part - whole).max() < 0.25
    folds = model.outliers(mixed(200, 14), fdr=None, folds=2)["p_value"]
    assert folds.between(1 / 200, 1).all() and folds.mean() == pytest.approx(0.5, abs=0.06)


def test_folds_want_the_whole_table():
    table = mixed(40, 16)
    model = pg.Independent(random_state=0, **QUICK).fit(table)
    with pytest.raises(pg.SchemaError, match="without column"):
        model.outliers(table.drop(columns="x"), folds=2)
    found = model.outliers(table.assign(z=1), folds=2, extra="ignore", fdr=None)
    assert len(found) == 40
