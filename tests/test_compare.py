"""`pg.compare`: ranks, errors, refusals; and the stacking weights."""

import json
import math
import warnings
from typing import ClassVar

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.neighbors import KernelDensity

import probgen as pg
from probgen.evaluation import stacking_weights
from probgen.evaluation.folds import assign_folds
from probgen.families.mixture import Mixture
from probgen.family import Family

FAST = {"starts": 1, "draws": 0, "random_state": 0}


def drawn(n, seed):
    """A mixture of two tilted normals, and its log density."""
    rng = np.random.default_rng(seed)
    left = rng.random(n) < 0.4
    a = np.where(left, rng.normal(-2, 0.6, n), rng.normal(1, 1, n))
    b = rng.normal(np.where(left, -a, a), 0.7)
    parts = [
        np.log(w) + stats.norm.logpdf(a, m, s) + stats.norm.logpdf(b, k * a, 0.7)
        for w, m, s, k in ((0.4, -2, 0.6, -1), (0.6, 1, 1, 1))
    ]
    return pd.DataFrame({"a": a, "b": b}), np.logaddexp(*parts)


@pytest.fixture(scope="module")
def fitted():
    train, _ = drawn(600, 0)
    schema = pg.Schema.infer(train)
    made = {
        "independent": pg.Independent(schema=schema, draws=0, random_state=0),
        "one": pg.GaussianMixture(1, schema=schema, **FAST),
        "two": pg.GaussianMixture(2, schema=schema, **FAST),
        "t": pg.StudentT(schema=schema, random_state=0),
    }
    return {name: model.fit(train) for name, model in made.items()}


# --- stacking weights ---------------------------------------------------------------------


def by_em(log_p, steps=20_000):
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    w = np.full(p.shape[1], 1 / p.shape[1])
    for _ in range(steps):
        w *= (p / (p @ w)[:, None]).mean(0)
    return w


@pytest.mark.parametrize(("n", "k"), [(40, 2), (300, 5), (60, 12)])
def test_stacking_weights_are_the_optimum(n, k):
    rng = np.random.default_rng(n)
    x, mean = rng.normal(0.5, 1.5, n), rng.normal(0, 2, k)
    log_p = stats.norm.logpdf(x[:, None], mean, np.exp(rng.normal(0, 0.5, k)))
    found = stacking_weights(log_p)
    assert found.gap < 1e-7 and abs(found.weights.sum() - 1) < 1e-12 and (found.weights >= 0).all()
    slope = (np.exp(log_p) / (np.exp(log_p) @ found.weights)[:, None]).mean(0)
    assert slope.max() < 1 + 1e-7  # Karush, Kuhn and Tucker
    assert np.allclose(slope[found.weights > 1e-6], 1, atol=1e-6)
    other = by_em(log_p)
    assert found.elpd >= np.log(np.exp(log_p) @ other).mean() - 1e-9
    assert np.isclose(found.elpd, np.log(np.exp(log_p) @ found.weights).mean())


def test_stacking_weights_of_disjoint_models_are_shares():
    log_p = np.where(np.arange(10)[:, None] < 7, [0.0, -np.inf], [-np.inf, 0.0])
    assert np.allclose(stacking_weights(log_p).weights, [0.7, 0.3])


def test_row_weights_equal_repeated_rows():
    rng = np.random.default_rng(1)
    log_p, weight = rng.normal(size=(50, 3)), rng.integers(0, 4, 50)
    one, two = stacking_weights(log_p, weight), stacking_weights(np.repeat(log_p, weight, 0))
    assert np.allclose(one.weights, two.weights, atol=1e-5) and np.isclose(one.elpd, two.elpd)


def test_rows_of_density_0_are_counted():
    found = stacking_weights(np.array([[0.0, -np.inf], [-np.inf, -np.inf], [-1.0, 0.0]]))
    assert found.impossible == 1 and np.isfinite(found.elpd)
    with pytest.raises(pg.SchemaError, match="0 everywhere"):
        stacking_weights(np.full((3, 2), -np.inf))


# --- held-out rows ------------------------------------------------------------------------


def test_the_numbers_are_means_and_paired_errors(fitted):
    test, _ = drawn(400, 1)
    found = pg.compare(fitted, test)
    assert found.best == "two" and found.how == "held-out rows" and found.rows == 400
    for name, row in found.table.iterrows():
        own, best = fitted[name].log_prob(test), fitted["two"].log_prob(test)
        assert np.isclose(row["elpd"], own.mean()) and np.isclose(row["se"], own.sem())
        assert np.isclose(row["difference"], (own - best).mean())
        assert np.isclose(row["difference_se"], (own - best).sem() if name != "two" else 0)
    assert found.pointwise.index.equals(test.index)
    assert list(found.pointwise) == list(found.table.index)
    assert found.table["elpd"].is_monotonic_decreasing
    assert math.isclose(found.table["weight"].sum(), 1)
    assert found.stacked >= found.table["elpd"].max() - 1e-9


def test_ranks_follow_the_true_divergence(fitted):
    """Of one set of fresh rows, as the true log density of another set says."""
    found = pg.compare(fitted, drawn(1500, 2)[0])
    rows, truth = drawn(4000, 3)
    gap = {name: truth - model.log_prob(rows) for name, model in fitted.items()}
    names = list(found.table.index)
    told = 0
    for place, better in enumerate(names):
        for worse in names[place + 1 :]:
            d = gap[worse] - gap[better]
            if abs(d.mean()) > 4 * d.sem():
                told += 1
                assert d.mean() > 0, f"{better} was ranked above {worse}"
    assert told >= 4
    assert found.table.loc["independent", "told_apart"]


def test_intervals_of_a_difference_cover(fitted):
    """Over fresh tables, the expected difference lies within 1.96 errors 95 times of 100."""
    two = {name: fitted[name] for name in ("one", "t")}
    rows = drawn(100_000, 24)[0]
    d = two["one"].log_prob(rows) - two["t"].log_prob(rows)
    hits, times = 0, 150
    for part in range(times):
        found = pg.compare(two, rows[part * 200 : (part + 1) * 200], cells=0)
        sign = 1 if found.best == "t" else -1
        row = found.table.iloc[1]
        hits += abs(row["difference"] - sign * d.mean()) < 1.96 * row["difference_se"]
    assert abs(hits / times - 0.95) < 4 * math.sqrt(0.95 * 0.05 / times)


def test_units_move_all_by_the_same_and_no_difference(fitted):
    train, test = drawn(300, 4)[0], drawn(300, 5)[0]
    boards = []
    for c in (1.0, 1024.0):
        scale = {"a": c, "b": 1.0}
        own = {k: pg.GaussianMixture(k, **FAST).fit(train * scale) for k in (1, 2)}
        boards.append(pg.compare(own, test * scale).table)
    assert np.allclose(boards[1]["elpd"], boards[0]["elpd"] - math.log(1024), atol=1e-6)
    assert np.allclose(boards[1]["difference"], boards[0]["difference"], atol=1e-6)
    assert np.allclose(boards[1]["se"], boards[0]["se"], atol=1e-6)


def test_models_that_are_alike_are_not_told_apart(fitted):
    test, _ = drawn(50, 6)
    twin = pg.GaussianMixture(2, starts=1, draws=0, random_state=7).fit(drawn(600, 0)[0])
    found = pg.compare({"two": fitted["two"], "twin": twin}, test)
    assert not found.table["told_apart"].any()
    assert "not told apart" in str(found) and "50 rows" in str(found)
    assert "less than 4 nats" in " ".join(found.notes)


def test_text_html_and_dict_say_the_same(fitted):
    found = pg.compare(fitted, drawn(200, 7)[0])
    told = json.loads(json.dumps(found.to_dict()))
    assert list(told["models"]) == list(found.table.index) and told["rows"] == 200
    assert math.isclose(told["models"]["two"]["elpd"], found.table.loc["two", "elpd"])
    assert f"{found.table.loc['t', 'elpd']:.3f}" in str(found)
    assert "<table" in found._repr_html_() and found.weights.keys() == fitted.keys()


def test_a_row_of_density_0_ranks_last_and_is_counted():
    train, test = drawn(300, 8)[0], drawn(100, 9)[0]
    far = pd.concat([test, pd.DataFrame({"a": [40.0], "b": [0.0]})], ignore_index=True)
    box = pg.SklearnDensity(KernelDensity(kernel="tophat", bandwidth=2.0), random_state=0)
    models = {"box": box.fit(train), "one": pg.GaussianMixture(1, **FAST).fit(train)}
    found = pg.compare(models, far)
    row = found.table.loc["box"]
    assert list(found.table.index) == ["one", "box"]
    assert row["elpd"] == -math.inf and row["impossible"] >= 1 and math.isnan(row["se"])
    assert row["told_apart"] and any("density 0" in note for note in found.notes)
    assert np.isfinite(found.table.loc["one", "elpd"]) and math.isfinite(found.stacked)


def test_a_level_never_seen_has_the_reserved_mass():
    table = pd.DataFrame({"x": np.arange(40) % 7 * 1.37, "y": list("ab") * 20})
    new = table.assign(y=["c", *table["y"][1:]])
    models = {k: pg.GaussianMixture(k, **FAST).fit(table) for k in (1, 2)}
    assert np.isfinite(pg.compare(models, new).table["elpd"]).all()


def test_restarts_are_part_of_the_error():
    train, test = drawn(150, 10)[0], drawn(200, 11)[0]
    made = pg.GaussianMixture(6, restarts=3, spread=0.05, dof=3.0, **FAST).fit(train)
    other = pg.GaussianMixture(1, **FAST).fit(train)
    found = pg.compare({"many": made, "one": other}, test)
    singles = [
        made._predictive().of(r).members[0].exact_log_prob(
            made._batch(pg.table.encode(test, made.schema_), made._device), None
        ).numpy().mean()
        for r in range(3)
    ]  # fmt: skip
    spread = np.std(singles, ddof=1) / math.sqrt(3)
    assert spread > 0
    own = made.log_prob(test)
    assert np.isclose(found.table.loc["many", "se"], math.hypot(own.sem(), spread))
    d = own - other.log_prob(test)
    worse = found.table.index[1]
    assert np.isclose(found.table.loc[worse, "difference_se"], math.hypot(d.sem(), spread))


def test_importance_sampling_is_part_of_the_error():
    train, test = drawn(150, 12)[0], drawn(60, 13)[0]
    test.loc[::2, "b"] = np.nan
    kernel = pg.SklearnDensity(KernelDensity(bandwidth=0.4), random_state=0).fit(train)
    found = pg.compare({"kernel": kernel, "one": pg.GaussianMixture(1, **FAST).fit(train)}, test)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pg.ApproximationWarning)  # compare counts these rows
        details = kernel.log_prob(test, details=True)
    assert (details["se"][::2] > 0).all()
    noise = math.hypot(math.sqrt((details["se"] ** 2).sum()) / 60, (details["se"] ** 2).mean() / 2)
    sampling = details["log_prob"].sem()
    assert np.isclose(found.table.loc["kernel", "se"], math.hypot(sampling, noise))
    assert "importance" in found.table.loc["kernel", "method"]
    bad = int((details["khat"] > 0.7).sum())
    assert any(f"{bad} row(s)" in note and "k-hat" in note for note in found.notes) == (bad > 0)


def test_weights_equal_repeated_rows(fitted):
    test, _ = drawn(80, 14)
    weight = np.random.default_rng(0).integers(0, 4, 80)
    one = pg.compare(fitted, test, sample_weight=weight).table
    two = pg.compare(fitted, test.iloc[np.repeat(np.arange(80), weight)]).table
    numbers = ["elpd", "se", "difference", "difference_se"]
    assert np.allclose(one[numbers], two[numbers])


def test_rounded_values_are_also_averaged_over_their_cells():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(20, 1.0, 400).round(0) / 2 * 2 + 0.5})
    table = pd.DataFrame({"x": (table["x"] - 0.5) / 2})  # halves: a grid of 0.5
    models = {k: pg.GaussianMixture(k, **FAST).fit(table[:300]) for k in (1, 2)}
    assert models[1].schema_["x"].grid == 0.5
    test = table[300:]
    found = pg.compare(models, test, cells=64)
    steps = (np.arange(400) + 0.5) / 400 - 0.5
    grid = pd.DataFrame({"x": np.add.outer(test["x"].to_numpy(), 0.5 * steps).ravel()})
    mean = np.log(np.exp(models[1].log_prob(grid).to_numpy()).reshape(-1, 400).mean(1)).mean()
    assert abs(found.table.loc["1", "elpd_cell"] - mean) < 1e-3
    assert "elpd_cell" not in pg.compare(models, test, cells=0).table


# --- folds --------------------------------------------------------------------------------


def test_folds_fit_all_models_anew_with_one_schema():
    table, _ = drawn(200, 15)
    models = {"one": pg.GaussianMixture(1, **FAST), "t": pg.StudentT(random_state=0)}
    found = pg.compare(models, table, folds=4)
    schema = pg.Schema.infer(table)
    fold = assign_folds(table, schema, 4, 0)
    assert sorted(np.bincount(fold)) == [50] * 4
    for number in range(4):
        own = pg.StudentT(random_state=0, schema=schema).fit(table[fold != number])
        held = own.log_prob(table[fold == number])
        assert np.allclose(found.pointwise["t"][fold == number], held)
    assert found.how == "4-fold" and not hasattr(models["t"], "members_")
    assert "fits of the folds share rows" in " ".join(found.notes)
    again = pg.compare(models, table, folds=4)
    assert found.pointwise.equals(again.pointwise)
    other = pg.compare(models, table, folds=4, random_state=1)
    assert not found.pointwise.equals(other.pointwise)


def test_copies_of_a_row_share_a_fold_and_equal_levels_do_not():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=30)})
    twice = pd.concat([table, table], ignore_index=True)
    fold = assign_folds(twice, pg.Schema.infer(table), 5, 0)
    assert (fold[:30] == fold[30:]).all()
    levels = pd.DataFrame({"x": ["a", "b"] * 20})
    fold = assign_folds(levels, pg.Schema.infer(levels), 4, 0)
    assert len(set(fold[::2])) == 4


def test_a_fit_that_stopped_early_is_told():
    table, _ = drawn(100, 16)
    models = {"early": pg.GaussianMixture(3, max_epochs=1, **FAST), "t": pg.StudentT()}
    found = pg.compare(models, table, folds=2)
    assert any("early" in n and "2 fit(s) did not converge" in n for n in found.notes)


def test_scikit_learn_densities_are_wrapped():
    table, _ = drawn(150, 17)
    found = pg.compare({"kernel": KernelDensity(bandwidth=0.4), "t": pg.StudentT()}, table, 3)
    assert set(found.table.index) == {"kernel", "t"} and np.isfinite(found.table["elpd"]).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_conditionals_of_joint_and_conditional_models_are_compared():
    def slope(batch):
        k = pyro.sample("k", dist.Normal(0.0, 2.0))
        with batch.rows():
            pyro.sample("b", dist.Normal(k * batch["a"], 1.5), obs=batch["b"])

    table, given = drawn(80, 23)[0], ["a"]
    schema = pg.Schema.infer(table)
    pair = pg.Pair(slope, draws=5, max_epochs=10, random_state=0, schema=schema)
    pair.fit(table, given=given)
    joint = pg.GaussianMixture(2, schema=schema, **FAST).fit(table)
    found = pg.compare({"pair": pair, "joint": joint}, table, given=given)
    rest = table.drop(columns=given)
    assert np.allclose(found.pointwise["joint"], joint.log_prob(rest, given=table[given]))
    assert np.allclose(found.pointwise["pair"], pair.log_prob(table))
    with pytest.raises(pg.SchemaError, match="conditions on"):
        pg.compare({"pair": pair, "joint": joint}, table, given=["b"])
    both = {"pair": clone(pair), "joint": clone(joint)}
    assert np.isfinite(pg.compare(both, table, 2, given).table["elpd"]).all()


# --- refusals -----------------------------------------------------------------------------


class _Silent(Mixture):
    density = "none"


class _Loose(Mixture):
    normalised = False


class _Base(pg.Density):
    def _make(self, schema):
        return self.family(schema, 1)


class _Drawing(_Base):
    family: ClassVar[type[Family]] = _Silent


class _Free(_Base):
    family: ClassVar[type[Family]] = _Loose


@pytest.mark.parametrize(("kind", "reason"), [(_Drawing, "no density"), (_Free, "not normalised")])
def test_what_is_no_density_is_refused(kind, reason):
    table, _ = drawn(50, 18)
    with pytest.raises(pg.NotSupported, match=f"'odd'.*{reason}"):
        pg.compare({"odd": kind(random_state=0), "t": pg.StudentT()}, table)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"columns": {"a": {"kind": "real", "atoms": (0.0,)}}}, "atoms of 'a'"),
        ({"columns": {"a": {"kind": "real", "grid": 0.1}}, "dequantise": True}, "grid of 'a'"),
        ({"columns": {"a": {"kind": "bounded", "lower": -90, "upper": 90}}}, "kind of 'a'"),
        ({"drop": "b"}, r"\['b'\] belong to one"),
    ],
)
def test_different_measures_are_refused(change, reason):
    table = drawn(60, 19)[0].assign(a=lambda t: t["a"].round(1))
    table.iloc[:3, 0] = 0.0
    plain = {"a": {"kind": "real", "atoms": ()}}
    one = pg.StudentT(columns=plain, dequantise=False).fit(table)
    rows = table.drop(columns=change.pop("drop", []))
    other = pg.Independent(**({"columns": plain, "dequantise": False} | change)).fit(rows)
    with pytest.raises(pg.SchemaError, match=f"different measures: .*{reason}"):
        pg.compare({"one": one, "other": other}, table)


def test_contradicting_kinds_are_refused():
    table, _ = drawn(60, 20)
    models = {"one": pg.StudentT(columns={"a": "real"}), "two": pg.StudentT(columns={"a": "date"})}
    with pytest.raises(pg.SchemaError, match="one kind for all models"):
        pg.compare(models, table)


@pytest.mark.parametrize("models", [{}, [pg.StudentT()], {"x": 3}, {"x": pg.StudentT}])
def test_other_things_are_refused(models):
    with pytest.raises(pg.SchemaError):
        pg.compare(models, drawn(20, 21)[0])


@pytest.mark.parametrize("folds", [1, 0, 2.5, 30])
def test_folds_must_fit_the_rows(folds):
    with pytest.raises(pg.SchemaError, match="folds="):
        pg.compare({"t": pg.StudentT()}, drawn(20, 22)[0], folds=folds)
