"""Pairs of a user's own functions: what people write is fitted, scored, sampled, saved."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroParam, PyroSample
from sklearn.base import clone
from torch import nn
from torch.distributions import constraints

import probgen as pg
from tests import pairs
from tests.pairs import POSITIVE, fit


def member(model):
    return model.members_[0]


def real_table(n=60, columns="xy", seed=3):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(rng.normal(size=(n, len(columns))), columns=list(columns))


# --- parameters -------------------------------------------------------------------------------


def test_parameters_are_the_pairs_own_and_pyros_store_stays_as_it_was():
    store = pyro.get_param_store()
    store["a"] = torch.tensor(7.0)
    try:
        one = fit(pairs.chain_table(), pairs.chain)
        two = fit(pairs.chain_table() * 3, pairs.chain)
        assert list(store.keys()) == ["a"] and float(store["a"]) == 7.0
    finally:
        store.clear()
    assert abs(two.params_["mu"] / one.params_["mu"] - 3) < 0.05
    assert {name.split(".")[0] for name in member(one).tensors()} == {"store"}


def test_units_of_ten_thousands_are_reached():
    table = pairs.chain_table(holes=False)
    small, large = fit(table, pairs.chain), fit(table * 1e4, pairs.chain)
    gap = large.log_prob(table * 1e4) - small.log_prob(table) + 2 * np.log(1e4)
    assert gap.abs().max() < 0.02


def test_initial_values_may_come_from_the_data():
    def model(batch):
        mean = 0.0 if batch["x"] is None else batch["x"].mean()
        loc = pyro.param("loc", torch.as_tensor(mean))
        with batch.rows():
            pyro.sample("x", dist.Normal(loc, 1.0), obs=batch["x"])

    table = real_table(columns="x") + 1e6
    assert abs(float(fit(table, model, max_epochs=1).params_["loc"]) - table.x.mean()) < 1e-3


def test_a_closed_over_module_is_trained_in_a_copy():
    net = nn.Linear(1, 1)
    before = copy.deepcopy(net.state_dict())

    def model(batch):
        pyro.module("net", net)
        with batch.rows():
            x = pyro.sample("x", dist.Normal(0.0, 1.0), obs=batch["x"])
            pyro.sample("y", dist.Normal(net(x.double()[:, None])[:, 0], 0.3), obs=batch["y"])

    table = real_table(200).assign(y=lambda t: 2 * t.x + 1)
    fitted = fit(table, model, learning_rate=0.1, max_epochs=150)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    own = member(fitted).store.modules_["net"]
    assert abs(float(own.weight) - 2) < 0.1 and abs(float(own.bias) - 1) < 0.1
    two = fit(table, model, restarts=2, max_epochs=2)
    weights = [float(m.store.modules_["net"].weight) for m in two.members_]
    assert weights[0] != weights[1]  # several fits start from weights of their own


def test_a_module_as_model_is_copied():
    class Line(PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = PyroParam(torch.tensor(1.0), constraint=POSITIVE)
            self.slope = PyroSample(dist.Normal(0.0, 10.0))

        def forward(self, batch):
            slope = self.slope
            with batch.rows():
                loc = slope * batch["x"]
                pyro.sample("y", dist.Normal(loc, self.scale), obs=batch["y"])

    line = Line()
    table = real_table(200).assign(y=lambda t: 2 * t.x + 0.3 * t.y)
    fitted = fit(table, line, given=["x"], learning_rate=0.05, max_epochs=150)
    draws = fitted._with_draws.draws[0]
    assert list(draws) == ["slope"] and abs(float(draws["slope"].mean()) - 2) < 0.15
    assert float(line.scale.detach()) == 1.0 and not pyro.get_param_store().keys()


def test_methods_of_one_module_share_its_copy():
    net = pairs.Autoencoder()
    table = real_table(100)
    fitted = fit(table, net.model, net.guide, max_epochs=3)
    own = member(fitted)
    assert own.own_model.__self__ is own.own_guide.__self__ is not net
    names = [n for n, _ in own.named_parameters()]
    assert len(names) == 4 and len(own.store.modules_) == 0
    assert own.density == "estimate" and np.isfinite(fitted.log_prob(table)).all()


def test_a_pair_without_parameters_is_a_density():
    def model(batch):
        with batch.rows():
            pyro.sample("x", dist.Normal(1.0, 2.0), obs=batch["x"])

    table = real_table(columns="x")
    wanted = torch.distributions.Normal(1.0, 2.0).log_prob(torch.tensor(table.x.to_numpy()))
    assert np.allclose(fit(table, model).log_prob(table), wanted)


# --- what people write ------------------------------------------------------------------------


def nested(batch):
    with batch.rows():
        with pyro.plate("parts", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.sum(0), 1.0), obs=batch["x"])


def test_plates_inside_the_rows():
    table = real_table(columns="x")
    fitted = fit(table, nested)
    found = fitted.log_prob(table, details=True)
    wanted = dist.Normal(0.0, 2.0).log_prob(torch.tensor(table.x.to_numpy())).numpy()
    assert (np.abs(found.log_prob - wanted) < 4 * found.se).mean() > 0.98
    assert abs(fitted.sample(2000, random_state=0).x.std() - 2) < 0.15


def test_masks_count():
    def model(batch):
        keep = None if batch["x"] is None else batch["x"] > 0
        with batch.rows(), poutine.mask(mask=True if keep is None else keep):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=batch["x"])

    table = real_table(columns="x")
    value = fit(table, model).log_prob(table)
    wanted = dist.Normal(0.0, 1.0).log_prob(torch.tensor(table.x.to_numpy())).numpy()
    assert np.allclose(value, np.where(table.x > 0, wanted, 0.0))


@pytest.mark.parametrize("leaf", [True, False])
def test_obs_mask(leaf):
    def model(batch):
        a = pyro.param("a", torch.tensor(0.5))
        with batch.rows():
            fn = dist.Normal(0.0, 1.0)
            x = pyro.sample("x", fn, obs=batch["x"], obs_mask=batch.seen("x"))
            loc = torch.zeros(len(batch)) if leaf else a * x
            pyro.sample("y", dist.Normal(loc, 1.0), obs=batch["y"])

    table = real_table()
    table.loc[::3, "x"] = np.nan
    fitted = fit(table, model, max_epochs=2)
    found = fitted.log_prob(table, details=True)
    assert (member(fitted).holes == "exact") == leaf
    slope = 0.0 if leaf else float(fitted.params_["a"])
    y = torch.tensor(table.y.to_numpy())
    x = torch.tensor(table.x.fillna(0).to_numpy())
    seen = torch.tensor(table.x.notna().to_numpy())
    joint = dist.Normal(0.0, 1.0).log_prob(x) + dist.Normal(slope * x, 1.0).log_prob(y)
    alone = dist.Normal(0.0, (1 + slope**2) ** 0.5).log_prob(y)
    wanted = torch.where(seen, joint, alone).numpy()
    assert (np.abs(found.log_prob - wanted) < 4 * found.se + 1e-9).all()
    assert fitted.sample(10).notna().all(axis=None)


def test_deterministic_sites_are_let_be():
    def model(batch):
        a = pyro.deterministic("a", pyro.param("b", torch.tensor(1.0)).exp())
        with batch.rows():
            loc = pyro.deterministic("loc", a.expand(len(batch)))
            pyro.sample("x", dist.Normal(loc, 1.0), obs=batch["x"])

    table = real_table(columns="x") + 2
    assert abs(float(np.exp(fit(table, model).params_["b"])) - table.x.mean()) < 0.02


def kinds(batch):
    with batch.rows():
        job = pyro.sample("job", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])), obs=batch["job"])
        flag = dist.Bernoulli(torch.tensor([0.1, 0.5, 0.9])[job])
        pyro.sample("flag", flag, obs=batch["flag"])
        income = dist.LogNormal(torch.tensor([0.0, 1.0, 2.0])[job], 0.5)
        pyro.sample("income", income, obs=batch["income"])
        pyro.sample("share", dist.Beta(2.0, 3.0), obs=batch["share"])
        pyro.sample("count", dist.Poisson(4.0), obs=batch["count"])
        pyro.sample("day", dist.Normal(0.0, 30.0), obs=batch["day"])
        pyro.sample("level", dist.Categorical(torch.ones(3)), obs=batch["level"])


def kinds_table(n=90):
    rng = np.random.default_rng(4)
    levels = pd.CategoricalDtype(["low", "mid", "high"], ordered=True)
    return pd.DataFrame({
        "job": rng.choice(["cook", "nurse", "smith"], n),
        "flag": rng.random(n) < 0.4,
        "income": rng.lognormal(1, 0.7, n),
        "share": rng.beta(2, 3, n),
        "count": rng.poisson(4, n),
        "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 10**13, n), unit="us"),
        "level": pd.Categorical(rng.choice(["low", "mid", "high"], n), dtype=levels),
    })  # fmt: skip


def test_every_kind_of_column_in_its_own_units():
    table = kinds_table()
    fitted = fit(table, kinds, columns={"share": "unit", "income": "positive"})
    value = fitted.log_prob(table)
    days = fitted.schema_["day"]
    job = table.job.map({"cook": 0, "nurse": 1, "smith": 2}).to_numpy()
    day = (table.day.astype("M8[us]").astype("int64") - days.origin) / 86_400e6
    day = torch.tensor(day.to_numpy())
    flag = np.array([0.1, 0.5, 0.9])[job]
    income = torch.tensor(table.income.to_numpy())
    wanted = (
        np.log(np.array([0.2, 0.5, 0.3])[job])
        + np.log(np.where(table.flag, flag, 1 - flag))
        + dist.LogNormal(torch.tensor(job).double(), 0.5).log_prob(income).numpy()
        + dist.Beta(2.0, 3.0).log_prob(torch.tensor(table.share.to_numpy())).numpy()
        + dist.Poisson(4.0).log_prob(torch.tensor(table["count"].to_numpy())).numpy()
        + dist.Normal(0.0, 30.0).log_prob(day).numpy()
        - np.log(3)
    )
    assert np.allclose(value, wanted, atol=1e-6)
    drawn = fitted.sample(50, random_state=0)
    assert (drawn.dtypes == table.dtypes).all() and np.isfinite(fitted.log_prob(drawn)).all()
    rare = fitted.log_prob(table.iloc[:2].assign(job="king"), unseen="rare")
    assert (rare == -np.inf).all()


def test_atoms_of_a_schema_are_shown_as_values():
    rng = np.random.default_rng(5)
    spike = np.where(rng.random(200) < 0.4, 0.0, rng.lognormal(1, 0.5, 200))
    table = pd.DataFrame({"x": spike})
    schema = pg.Schema.infer(table)
    assert schema["x"].atoms == (0.0,)

    class Hurdle(dist.TorchDistribution):
        arg_constraints: dict = {}
        support = constraints.nonnegative

        def __init__(self, gate, loc, shape=()):
            self.gate, self.loc = gate, loc
            super().__init__(torch.Size(shape), validate_args=False)

        def expand(self, shape, _instance=None):
            return Hurdle(self.gate, self.loc, torch.Size(shape))

        def log_prob(self, value):
            body = dist.LogNormal(self.loc, 0.5).log_prob(value.clamp_min(1e-30))
            return torch.where(value == 0, self.gate.log(), (1 - self.gate).log() + body)

        def sample(self, shape=()):
            shape = torch.Size(shape) + self.batch_shape
            body = dist.LogNormal(self.loc, 0.5).sample(shape)
            return torch.where(torch.rand(shape) < self.gate, 0.0, body)

    def model(batch):
        gate = pyro.param("gate", torch.tensor(0.5), constraint=constraints.unit_interval)
        loc = pyro.param("loc", torch.tensor(0.0))
        with batch.rows():
            pyro.sample("x", Hurdle(gate, loc), obs=batch["x"])

    fitted = fit(table, model, schema=schema)
    zero = table.x == 0
    assert abs(float(fitted.params_["gate"]) - zero.mean()) < 0.01
    assert abs(float(fitted.log_prob({"x": [0.0]}).iloc[0]) - np.log(zero.mean())) < 0.02
    assert fitted.schema_.measure() == schema.measure()
    drawn = fitted.sample(500, random_state=0)
    assert abs((drawn.x == 0).mean() - zero.mean()) < 4 * 0.5 / 500**0.5
    own = fit(table, lambda b: model(b))  # without the schema, a value is a value
    assert own.schema_["x"].atoms == () and own.schema_["x"].kind == "real"


def test_a_hidden_parent_of_a_category_is_drawn_or_summed_out():
    probs, loc = torch.tensor([0.2, 0.8]), torch.tensor([-2.0, 3.0])

    def model(batch, infer=None):
        with batch.rows():
            k = pyro.sample("k", dist.Categorical(probs), obs=batch["k"], infer=infer or {})
            pyro.sample("y", dist.Normal(loc[k], 1.0), obs=batch["y"])

    def summed(batch):
        model(batch, {"enumerate": "parallel"})

    rng = np.random.default_rng(6)
    k = rng.choice(["a", "b"], 80, p=[0.2, 0.8])
    table = pd.DataFrame({"k": k, "y": np.where(k == "a", -2, 3) + rng.normal(size=80)})
    table.loc[::2, "k"] = None
    y = torch.tensor(table.y.to_numpy())[:, None]
    joint = probs.log() + dist.Normal(loc, 1.0).log_prob(y)
    code = table.k.map({"a": 0, "b": 1}).fillna(0).astype(int).to_numpy()
    wanted = np.where(table.k.isna(), joint.logsumexp(1), joint[np.arange(80), code])
    found = fit(table, model).log_prob(table, details=True)
    assert (np.abs(found.log_prob - wanted) < 4 * found.se + 1e-6).mean() > 0.98
    exact = fit(table, summed)
    assert np.allclose(exact.log_prob(table), wanted, atol=1e-6)
    assert member(exact).holes == "exact" and member(exact).coherent


def test_scores_do_not_depend_on_other_rows():
    table = pairs.chain_table()
    fitted = fit(table, pairs.chain, max_epochs=2)
    whole = fitted.log_prob(table)
    back = fitted.log_prob(table.iloc[::-1]).iloc[::-1]
    assert (whole - back).abs().max() < 1e-12
    for row in (0, 1, 3):
        assert abs(fitted.log_prob(table.iloc[[row]]).iloc[0] - whole.iloc[row]) < 1e-12


def test_restarts_and_starts():
    table = pairs.chain_table()
    fitted = fit(table, pairs.chain, restarts=2, starts=2, max_epochs=5)
    assert len(fitted.members_) == 2
    assert np.isfinite(fitted.log_prob(table)).all() and len(fitted.sample(5)) == 5


def test_weights_equal_repeated_rows():
    table = pairs.chain_table(60, holes=False)
    weight = np.arange(60) % 3
    again = table.iloc[np.repeat(np.arange(60), weight)].reset_index(drop=True)
    settings = {"random_state": 0, "batch_size": 1000, "max_epochs": 30}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = pg.Pair(pairs.chain, **settings).fit(table, sample_weight=weight)
        two = pg.Pair(pairs.chain, **settings).fit(again)
    assert (one.log_prob(table) - two.log_prob(table)).abs().max() < 0.01


# --- the estimator ----------------------------------------------------------------------------


def test_functions_are_parameters_like_any_other():
    estimator = pg.Pair(pairs.chain, particles=3)
    twin = clone(estimator)
    assert twin.get_params()["model"] is pairs.chain and twin.particles == 3
    assert twin.set_params(model=pairs.mixture).model is pairs.mixture
    with pytest.raises(TypeError):
        pg.Pair(pairs.chain, components=3)


def test_pickling_keeps_the_answers():
    table = pairs.chain_table()
    fitted = fit(table, pairs.chain, max_epochs=2)
    again = pickle.loads(pickle.dumps(fitted))
    assert (again.log_prob(table) == fitted.log_prob(table)).all()


def test_context_is_needed_everywhere_and_never_modelled():
    table = pairs.hierarchical_table()
    given = pairs.HIERARCHICAL_GIVEN
    fitted = fit(table, pairs.hierarchical, given=given)
    assert [slot.name for slot in fitted.schema_.slots] == ["body_mass_g"]
    with pytest.raises(pg.SchemaError, match="context column 'flipper_length_mm'"):
        fitted.log_prob(table.drop(columns="flipper_length_mm"))
    with pytest.raises(pg.SchemaError, match="context column 'species'"):
        fitted.log_prob(table.assign(species=table.species.mask(table.index == 4)))
    with pytest.raises(pg.SchemaError, match="context"):
        fitted.sample(3)
    holes = table.flipper_length_mm.mask(table.index == 2)
    with pytest.raises(pg.SchemaError, match="flipper_length_mm"):
        fit(table.assign(flipper_length_mm=holes), pairs.hierarchical, given=given)
    split = fitted.log_prob(table[["body_mass_g"]], given=table[given])
    assert np.allclose(split, fitted.log_prob(table))
    hole = fitted.log_prob(table[given])
    assert np.allclose(hole, 0.0)


def test_globals_have_names_and_intervals():
    table = pairs.hierarchical_table()
    fitted = fit(table, pairs.hierarchical, given=pairs.HIERARCHICAL_GIVEN)
    frame = fitted.log_prob(table, interval=0.9)
    assert (frame.lower <= frame.upper).all()
    assert set(fitted._with_draws.draws[0]) == {"mean", "spread", "slope", "sigma", "offset"}
    tree = fitted.to_arviz(table)
    posterior = tree["posterior"]
    assert {"slope", "sigma", "offset"} <= set(posterior.data_vars)
    assert posterior["offset"].shape == (1, 20, 3)
    assert tree["log_likelihood"]["body_mass_g"].shape == (1, 20, len(table))
    report = fitted.check(table, train=table)
    assert "k-hat of the guide" in str(report)


@pytest.mark.parametrize("kind", ["mean_field", "multivariate", "flow"])
def test_saving_keeps_parameters_and_no_code(tmp_path, kind):
    table = pairs.hierarchical_table()
    given = pairs.HIERARCHICAL_GIVEN
    fitted = fit(table, pairs.hierarchical, given=given, globals_guide=kind, max_epochs=3)
    fitted.save(tmp_path / "model")
    with pytest.raises(pg.ModelFileError, match="model=hierarchical"):
        pg.load(tmp_path / "model")
    again = pg.load(tmp_path / "model", model=pairs.hierarchical)
    assert (again.log_prob(table) == fitted.log_prob(table)).all()
    text = (tmp_path / "model" / "manifest.json").read_text()
    assert "pyro" not in text.replace("pyro-ppl", "")
    with pytest.raises(pg.ModelFileError):
        pg.load(tmp_path / "model", model=pairs.hierarchical, guide=pairs.hierarchical)


def test_other_functions_than_the_saved_ones_are_noticed(tmp_path):
    table = pairs.chain_table()
    fitted = fit(table, pairs.chain, max_epochs=2)
    fitted.save(tmp_path / "model.zip")

    def other(batch):
        scale = pyro.param("sx", torch.tensor(1.0), constraint=POSITIVE)
        rest = [pyro.param(name, torch.tensor(0.0)) for name in ("mu", "a", "b")]
        pyro.param("s", torch.tensor(1.0), constraint=POSITIVE)
        with batch.rows():
            x = pyro.sample("x", dist.Normal(rest[0], scale), obs=batch["x"])
            pyro.sample("y", dist.Normal(rest[1] + x, 1.0), obs=batch["y"])

    assert (
        pg.load(tmp_path / "model.zip", model=pairs.chain).log_prob(table)
        == fitted.log_prob(table)
    ).all()
    for function in (other, pairs.mixture):
        with pytest.raises(pg.ModelFileError):
            pg.load(tmp_path / "model.zip", model=function)


def test_a_plain_model_takes_no_functions(tmp_path):
    table = real_table()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pg.Independent(random_state=0, draws=4, max_epochs=5).fit(table).save(tmp_path / "m")
    with pytest.raises(pg.ModelFileError, match="passed"):
        pg.load(tmp_path / "m", model=pairs.chain)


def test_a_module_that_is_not_registered_is_refused():
    net = nn.Linear(1, 1)

    def model(batch):
        with batch.rows():
            loc = net(torch.ones(len(batch), 1))[:, 0]
            pyro.sample("x", dist.Normal(loc, 1.0), obs=batch["x"])

    with pytest.raises(pg.SchemaError, match="registered by pyro.module"):
        fit(real_table(columns="x"), model)


def test_a_pyro_module_in_a_closure_is_refused():
    net = PyroModule[nn.Linear](1, 1)

    def model(batch):
        with batch.rows():
            loc = net(torch.ones(len(batch), 1))[:, 0]
            pyro.sample("x", dist.Normal(loc, 1.0), obs=batch["x"])

    def registered(batch):
        pyro.module("net", net)
        model(batch)

    for function in (model, registered):
        with pytest.raises(pg.NotSupported, match="PyroModule itself as model"):
            fit(real_table(columns="x"), function)
