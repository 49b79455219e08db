"""`pg.Stack`: weights, mixtures of unlike parts, every verb, files."""

import copy
import pickle

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.neighbors import KernelDensity

import probgen as pg
from probgen.evaluation import stacking_weights
from probgen.families.stack import Stacked
from tests.whole import WholeMixture

FAST = {"starts": 1, "draws": 20}


def table(n=200, seed=0):
    """A skewed column, and two that go together."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return pd.DataFrame({
        "a": a, "b": 0.9 * a + rng.normal(0, 0.5, n), "c": np.exp(rng.gamma(1.0, 1.0, n)),
        "label": rng.choice(list("xyz"), n),
    })  # fmt: skip


def parts():
    return {
        "apart": pg.Independent(draws=20),
        "joint": pg.GaussianMixture(1, **FAST),
        "t": pg.StudentT(),
    }


@pytest.fixture(scope="module")
def model():
    return pg.Stack(parts(), folds=3, draws=20, random_state=0).fit(table())


def mixed(model, *args, **how):
    """The mixture of the parts' own answers."""
    weights = np.array(list(model.weights_.values()))
    each = [part.log_prob(*args, **how).to_numpy() for part in model.parts_.values()]
    return logsumexp(np.stack(each), axis=0, b=weights[:, None])


def close(found, wanted, atol=1e-9):
    return np.allclose(found, wanted, atol=atol)


# --- weights ------------------------------------------------------------------------------


def test_weights_are_those_of_the_held_out_scores(model):
    found = stacking_weights(model.held_out_.to_numpy())
    assert close(list(model.weights_.values()), found.weights, 1e-8)
    assert model.held_out_.shape == (200, 3)
    assert min(model.weights_["apart"], model.weights_["joint"] + model.weights_["t"]) > 0.05
    assert model.converged_ and "stacking" in model.result_.reason


def test_held_out_scores_are_those_of_compare(model):
    """The same folds by the same seed; the stack's own are another permutation."""
    board = pg.compare(parts(), table(), folds=3)
    own = model.held_out_.mean()
    assert np.allclose(board.pointwise.mean()[own.index], own, atol=0.1)


def test_experts_of_different_rows_are_better_together():
    """No part is right about both columns: the stack beats the best on fresh rows."""
    rng = np.random.default_rng(0)
    left = rng.random(900) < 0.5
    rows = pd.DataFrame({
        "a": np.where(left, rng.normal(-4, 0.3, 900), rng.standard_t(1.5, 900) + 4),
        "b": np.where(left, rng.normal(0, 0.1, 900), rng.normal(0, 2, 900)),
    })  # fmt: skip
    schema = pg.Schema.infer(rows)
    own = {
        "mixture": pg.GaussianMixture(2, schema=schema, **FAST),
        "flexible": pg.GaussianMixture(3, covariance="flexible", schema=schema, **FAST),
        "t": pg.StudentT(schema=schema),
    }
    stack = pg.Stack(own, folds=3, schema=schema, random_state=0).fit(rows[:600])
    fitted = stack.parts_ | {"stack": stack}
    found = pg.compare(fitted, rows[600:])
    best = max(found.table.loc[name, "elpd"] for name in own)
    assert found.table.loc["stack", "elpd"] > best - 0.01
    assert stack.score(rows[600:]) == pytest.approx(found.table.loc["stack", "elpd"])


# --- one density --------------------------------------------------------------------------


def test_a_density_is_the_weighted_mixture(model):
    rows = table(40, 1)
    assert close(model.log_prob(rows), mixed(model, rows))
    holed = rows.mask(np.random.default_rng(0).random(rows.shape) < 0.4)
    assert close(model.log_prob(holed), mixed(model, holed))
    assert close(model.log_prob(rows[["c", "a"]]), mixed(model, rows[["c", "a"]]))
    details = model.log_prob(rows, details=True)
    assert (details["se"] == 0).all() and set(details["method"]) == {"exact"}


def test_a_conditional_is_a_ratio_of_mixtures(model):
    rows = table(40, 2)
    left, right = rows[["a", "c"]], rows[["b", "label"]]
    wanted = mixed(model, rows) - mixed(model, right)
    assert close(model.log_prob(left, given=right), wanted)
    mean_of_ratios = mixed(model, left, given=right)
    assert not close(wanted, mean_of_ratios, 1e-3)


def test_samples_pick_parts_by_their_weights(model):
    drawn = model.sample(4000, random_state=0)
    share = model.latent(drawn).mean()
    se = model.latent(drawn).sem()
    for name, weight in model.weights_.items():
        assert abs(share[f"part[{name}]"] - weight) < 4 * se[f"part[{name}]"] + 1e-6


def test_samples_given_something_follow_the_conditional(model):
    drawn = model.sample(3000, given={"b": 2.0}, random_state=0)["a"]
    grid = pd.DataFrame({"a": np.linspace(-5, 5, 801)})
    p = np.exp(model.log_prob(grid, given={"b": 2.0}).to_numpy())
    p /= p.sum()
    mean = p @ grid["a"].to_numpy()
    assert abs(drawn.mean() - mean) < 4 * drawn.sem()
    hole = pd.DataFrame({"a": [np.nan], "b": [2.0], "c": [np.nan], "label": [None]})
    assert abs(model.impute(hole, centre="mean")["a"].iloc[0] - mean) < 1e-2


def test_latent_is_the_probability_of_each_part(model):
    rows = table(10, 3)
    weights = np.array(list(model.weights_.values()))
    each = np.stack([np.exp(p.log_prob(rows)) for p in model.parts_.values()], 1) * weights
    found = model.latent(rows)
    assert list(found) == [f"part[{name}]" for name in model.weights_]
    assert close(found, each / each.sum(1, keepdims=True))


def test_intervals_need_a_posterior_of_every_part(model):
    with pytest.raises(pg.NotSupported, match=r"\['t'\] have no posterior"):
        model.log_prob(table(3), interval=0.9)
    own = {name: part for name, part in parts().items() if name != "t"}
    both = pg.Stack(own, folds=2, draws=20, random_state=0).fit(table())
    found = both.log_prob(table(30), interval=0.9)
    assert (found["lower"] < found["upper"]).all()
    inside = (found["lower"] < found["log_prob"]) & (found["log_prob"] < found["upper"])
    assert inside.mean() > 0.5
    report = model.check(table())
    assert report.intervals == "no" and "t have no posterior" in str(report)


def test_rows_are_left_out_by_folds():
    own = {"one": pg.GaussianMixture(1, random_state=0), "apart": pg.Independent(random_state=0)}
    stack = pg.Stack(own, folds=2, draws=10, random_state=0).fit(table(60))
    loo = stack.loo(table(60), folds=2)
    assert loo.method.startswith("2-fold") and np.isfinite(loo.elpd) and loo.bad == 0
    groups = stack.to_arviz(table(60))
    assert "posterior_predictive" in groups and "log_likelihood" not in groups


def test_other_verbs_answer(model):
    rows = table(5, 4)
    assert model.explain(rows).sum(axis=1).to_numpy() == pytest.approx(-model.log_prob(rows))
    assert 0 < model.prob("a > 1", given="b > 0").value < 1
    assert len(model.outliers(rows, samples=50, fdr=None)) == 5
    assert len(model.impute(rows.mask(rows == rows.iloc[0]), draws=2, random_state=0)) == 2
    assert model.to_arviz(table()) is not None
    with pytest.raises(pg.NotSupported):
        model.reconstruct(rows)


# --- unlike parts -------------------------------------------------------------------------


def line(batch):
    """b on a, both in table units."""
    a = pyro.sample("slope", dist.Normal(0.0, 2.0))
    s = pyro.sample("noise", dist.HalfNormal(2.0))
    with batch.rows():
        x = pyro.sample("a", dist.StudentT(4.0, 0.0, 1.0), obs=batch["a"])
        pyro.sample("b", dist.Laplace(a * x, s), obs=batch["b"])


def lines(n=150, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.standard_t(4, n)
    return pd.DataFrame({"a": a, "b": 500 + a + rng.laplace(0, 0.4, n)}) - [0.0, 500.0]


@pytest.fixture(scope="module")
def with_pair():
    own = {
        "line": pg.Pair(line, max_epochs=150, draws=10),
        "normal": pg.GaussianMixture(1, **FAST),
    }
    stack = pg.Stack(own, folds=2, draws=10, columns={"a": "real", "b": "real"}, random_state=0)
    return stack.fit(lines())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_parts_in_other_encodings_are_recoded(with_pair):
    [member] = with_pair.members_
    assert 0.05 < with_pair.weights_["line"]
    assert [len(moved) for moved in member.moved] == [2, 0]
    rows = lines(30, 1)
    assert close(with_pair.log_prob(rows), mixed(with_pair, rows), 1e-8)
    assert close(with_pair.log_prob(rows[["a"]]), mixed(with_pair, rows[["a"]]), 1e-8)
    drawn = with_pair.sample(800, random_state=0)
    assert np.allclose(drawn.std(), lines(2000, 2).std(), rtol=0.4)
    one, two = with_pair.log_prob(drawn), with_pair.log_prob(with_pair.sample(800, random_state=5))
    assert abs(one.mean() - two.mean()) < 4 * np.hypot(one.sem(), two.sem())
    found = with_pair.log_prob(rows.head(4), interval=0.8)
    assert (found["lower"] < found["upper"]).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_stack_with_your_functions_is_not_saved(with_pair, tmp_path):
    with pytest.raises(pg.NotSupported, match="part 'line' of type Pair"):
        with_pair.save(tmp_path / "stack.zip")


@pytest.mark.filterwarnings("ignore::probgen.ApproximationWarning")
def test_the_error_of_a_part_that_is_estimated_is_carried():
    rows = table()[["a", "b"]]
    own = {"whole": WholeMixture(2, **FAST), "kernel": KernelDensity(bandwidth=0.4)}
    stack = pg.Stack(own, folds=2, random_state=0).fit(rows)
    found = stack.log_prob(rows[["a"]].head(5), details=True)
    assert set(found["method"]) == {"importance"} and (found["se"] > 0).all()
    wide = pd.DataFrame({"b": np.linspace(-8, 8, 1601)})
    for place, a in enumerate(rows["a"].head(5)):
        joint = stack.log_prob(wide.assign(a=a)).to_numpy()
        wanted = logsumexp(joint) + np.log(0.01)
        assert abs(found["log_prob"].iloc[place] - wanted) < 5 * found["se"].iloc[place] + 1e-3
    assert len(stack.sample(2, given=rows[["a"]].head(3), random_state=0)) == 6


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimates_of_row_latents_are_mixed_with_their_errors():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"y": np.r_[rng.normal(2, 1.5, 50), rng.normal(-5, 0.05, 30)]})

    def hidden(batch):
        m = pyro.sample("m", dist.Normal(0.0, 5.0))
        with batch.rows():
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("y", dist.StudentT(5.0, z, 1.0), obs=batch["y"])

    own = {"hidden": pg.Pair(hidden, max_epochs=20, draws=4), "apart": pg.Independent(draws=4)}
    stack = pg.Stack(own, folds=2, columns={"y": "real"}, random_state=0).fit(rows)
    assert 0.05 < stack.weights_["hidden"] < 0.95
    found = stack.log_prob(rows.head(6), details=True)
    pair = stack.parts_["hidden"].log_prob(rows.head(6), details=True)
    share = stack.latent(rows.head(6))["part[hidden]"]
    assert (found["se"] > 0).all() and set(found["method"]) == {"exact+importance"}
    assert np.allclose(found["se"], share * pair["se"], rtol=0.5)
    off = found["log_prob"] - mixed(stack, rows.head(6))
    assert (abs(off) < 5 * (found["se"] + pair["se"])).all()
    alone = stack.log_prob(rows.iloc[[3]])
    assert alone.iloc[0] == pytest.approx(found["log_prob"].iloc[3], abs=1e-12)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_parts_that_condition_are_stacked_with_their_context():
    def slope(scale):
        def model(batch):
            k = pyro.sample("k", dist.Normal(0.0, 2.0))
            with batch.rows():
                fn = dist.Normal(k * batch["a"], scale)
                pyro.sample("b", fn, obs=batch["b"])

        return pg.Pair(model, draws=5, max_epochs=10)

    own = {"close": slope(0.3), "wide": slope(1.5)}
    stack = pg.Stack(own, folds=2, random_state=0).fit(lines(60), given=["a"])
    assert 0.05 < stack.weights_["close"] < 0.95
    assert close(stack.log_prob(lines(20, 1)), mixed(stack, lines(20, 1)), 1e-8)
    drawn = stack.sample(2, given=lines(3, 2)[["a"]], random_state=0)
    assert len(drawn) == 6 and np.isfinite(drawn["b"]).all()
    with pytest.raises(pg.NotSupported, match=r"parts \['t'\] that model the joint"):
        pg.Stack({"close": own["close"], "t": pg.StudentT()}).fit(lines(60), given=["a"])


def test_restarts_share_the_weight_of_their_part():
    own = {"many": pg.GaussianMixture(2, restarts=3, **FAST), "t": pg.StudentT()}
    stack = pg.Stack(own, folds=2, random_state=0).fit(table())
    [member] = stack.members_
    assert isinstance(member, Stacked) and len(member.members) == 4
    assert close(stack.log_prob(table(10)), mixed(stack, table(10)))
    assert float(member.shares.exp().sum()) == pytest.approx(1)


def test_a_stack_of_stacks_is_a_stack():
    inner = pg.Stack({"t": pg.StudentT(), "apart": pg.Independent(draws=5)}, folds=2)
    outer = pg.Stack({"inner": inner, "joint": pg.GaussianMixture(1, **FAST)}, folds=2,
                     random_state=0).fit(table(80))  # fmt: skip
    assert close(outer.log_prob(table(10)), mixed(outer, table(10)))
    assert len(outer.sample(3, random_state=0)) == 3


# --- an estimator, and files --------------------------------------------------------------


def test_it_is_an_estimator(model):
    again = clone(model)
    assert again.get_params()["folds"] == 3 and not hasattr(again, "members_")
    assert "folds=3" in repr(again) and "max_epochs" not in repr(again)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert close(twin.log_prob(table(5)), model.log_prob(table(5)), 0)
    with pytest.raises(TypeError):
        pg.Stack(parts(), max_epochs=3)


def test_a_saved_stack_comes_back(model, tmp_path):
    model.save(tmp_path / "stack.zip")
    again = pg.load(tmp_path / "stack.zip")
    rows = table(20, 5)
    assert (again.log_prob(rows) == model.log_prob(rows)).all()
    assert again.sample(5, random_state=0).equals(model.sample(5, random_state=0))
    assert again.weights_ == model.weights_
    assert again.get_params()["parts"].keys() == model.parts.keys()


def test_rows_held_apart_rank_new_ones():
    stack = pg.Stack(parts(), folds=2, random_state=0).fit(table(300), calibration=0.3)
    found = stack.outliers(table(20, 6), fdr=None)
    assert set(found["method"]) == {"split-conformal"} and len(stack.held_out_) == 210


def test_compare_takes_a_stack(model):
    found = pg.compare(model.parts_ | {"stack": model}, table(300, 7))
    assert set(found.table.index[:2]) & {"stack"}
    board = pg.compare({"stack": clone(model), "t": pg.StudentT()}, table(80), folds=2)
    assert np.isfinite(board.table["elpd"]).all()


def test_weights_of_rows_equal_repeated_rows():
    rows = table(100)
    weight = np.random.default_rng(0).integers(0, 3, 100)
    again = rows.iloc[np.repeat(np.arange(100), weight)]
    schema = pg.Schema.infer(rows)
    one, two = (pg.Stack(parts(), folds=2, schema=schema, random_state=0) for _ in range(2))
    one.fit(rows, sample_weight=weight)
    assert close(one.log_prob(rows), two.fit(again).log_prob(rows), 1e-6)


@pytest.mark.parametrize("bad", [{}, [pg.StudentT()], {"a": 3}])
def test_parts_must_be_densities_by_name(bad):
    with pytest.raises(pg.SchemaError):
        pg.Stack(bad).fit(table(30))


def test_parts_with_another_measure_are_refused():
    free = {"a": {"kind": "real", "grid": 0.1}}
    own = {"one": pg.StudentT(schema=pg.Schema.infer(table())),
           "two": pg.StudentT(schema=pg.Schema.infer(table(), free))}  # fmt: skip
    with pytest.raises(pg.SchemaError, match="different measures"):
        pg.Stack(own).fit(table())


@pytest.mark.parametrize("folds", [1, 2.5, 1000])
def test_folds_must_fit_the_rows(folds):
    with pytest.raises(pg.SchemaError, match="folds="):
        pg.Stack(parts(), folds=folds).fit(table(50))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_part_without_a_reserved_level_gives_a_foreign_one_no_mass():
    def levels(batch):
        p = pyro.sample("p", dist.Dirichlet(torch.ones(4)))
        with batch.rows():
            pyro.sample("label", dist.Categorical(p), obs=batch["label"])

    rows = table(60)[["label"]]
    own = {"pair": pg.Pair(levels, draws=4, max_epochs=20), "leaf": pg.Independent(draws=4)}
    stack = pg.Stack(own, folds=2, random_state=0).fit(rows)
    leaf = stack.parts_["leaf"]
    new = pd.DataFrame({"label": ["w", "x"]})
    found = stack.log_prob(new, unseen="rare")
    own = leaf.log_prob(new, unseen="rare") + np.log(stack.weights_["leaf"])
    assert np.isclose(found[0], own[0]) and found[1] > own[1]
