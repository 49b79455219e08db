"""What breaks the rules of a pair is explained before training, in the words of the rules."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import probgen as pg
from tests import pairs
from tests.pairs import fit

NORMAL = dist.Normal(0.0, 1.0)


def other_name(batch):
    with batch.rows():
        pyro.sample("x", NORMAL, obs=batch["x"])
        pyro.sample("weight", NORMAL, obs=batch["y"])


def no_site(batch):
    with batch.rows():
        pyro.sample("x", NORMAL, obs=batch["x"])


def outside(batch):
    pyro.sample("x", NORMAL.expand([len(batch)]).to_event(1), obs=batch["x"])
    with batch.rows():
        pyro.sample("y", NORMAL, obs=batch["y"])


def no_obs(batch):
    with batch.rows():
        pyro.sample("x", NORMAL, obs=batch["x"])
        pyro.sample("y", NORMAL)


def changed(batch):
    with batch.rows():
        pyro.sample("x", NORMAL, obs=None if batch["x"] is None else batch["x"] / 10)
        pyro.sample("y", NORMAL, obs=batch["y"])


def swapped(batch):
    with batch.rows():
        pyro.sample("x", NORMAL, obs=batch["y"])
        pyro.sample("y", NORMAL, obs=batch["x"])


def crossed(batch):
    with batch.rows():
        pyro.sample("x", NORMAL, obs=batch["x"])
        loc = torch.zeros(len(batch), 1)
        pyro.sample("y", dist.Normal(loc, torch.ones(len(batch))), obs=batch["y"])


def both(batch):
    with batch.rows():
        value = None if batch["x"] is None else torch.stack([batch["x"], batch["y"]], -1)
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)), obs=value)


def needs_values(batch):
    with batch.rows():
        pyro.sample("x", NORMAL, obs=batch["x"])
        pyro.sample("y", dist.Normal(batch["x"] * 2.0, 1.0), obs=batch["y"])


def certain(batch):
    with batch.rows():
        x = pyro.sample("x", NORMAL, obs=batch["x"])
        pyro.deterministic("y", 2 * x)


def unknown(batch):
    batch["z"]


def negative(batch):
    with batch.rows():
        pyro.sample("x", NORMAL, obs=batch["x"])
        pyro.sample("y", dist.Normal(0.0, torch.tensor(-1.0)), obs=batch["y"])


BROKEN = [
    (other_name, "observed site 'weight', which is no column"),
    (no_site, r"no site for column\(s\) \['y'\]"),
    (outside, "outside the rows plate"),
    (no_obs, "site 'y' without obs"),
    (changed, r"obs that is not batch\['x'\]"),
    (swapped, r"obs that is not batch\['x'\]"),
    (crossed, r"batch shape \(3, 3\)"),
    (both, r"event shape \(2,\)"),
    (needs_values, "is None while rows are generated"),
    (certain, "as pyro.deterministic"),
    (unknown, r"batch\['z'\]"),
    (negative, "a parameter of a distribution outside its range"),
]


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    return pd.DataFrame({"x": rng.normal(size=40), "y": rng.normal(size=40)})


@pytest.mark.parametrize(("model", "found"), BROKEN, ids=lambda v: getattr(v, "__name__", None))
def test_a_broken_rule_is_explained_at_fit(table, model, found):
    with pytest.raises(pg.SchemaError, match=found) as error:
        fit(table, model)
    assert "needed" in str(error.value) and "do:" in str(error.value)


def factor(batch):
    with batch.rows():
        pyro.sample("x", NORMAL, obs=batch["x"])
        pyro.sample("y", NORMAL, obs=batch["y"])
        pyro.factor("f", torch.zeros(len(batch)))


def scaled(batch):
    with batch.rows(), poutine.scale(scale=0.5):
        pyro.sample("x", NORMAL, obs=batch["x"])
        pyro.sample("y", NORMAL, obs=batch["y"])


def discrete(batch):
    k = pyro.sample("k", dist.Bernoulli(0.5))
    with batch.rows():
        pyro.sample("x", dist.Normal(k, 1.0), obs=batch["x"])
        pyro.sample("y", NORMAL, obs=batch["y"])


def moving(batch):
    top = pyro.sample("top", dist.HalfNormal(1.0))
    u = pyro.sample("u", dist.Uniform(0.0, top))
    with batch.rows():
        pyro.sample("x", dist.Normal(u, 1.0), obs=batch["x"])
        pyro.sample("y", NORMAL, obs=batch["y"])


@pytest.mark.parametrize(
    ("model", "found"),
    [(factor, "pyro.factor"), (scaled, "poutine.scale"), (discrete, "discrete global latent 'k'"),
     (moving, "global 'u' whose support depends")],
)  # fmt: skip
def test_what_cannot_be_a_normalised_pair_is_refused(table, model, found):
    with pytest.raises(pg.NotSupported, match=found):
        fit(table, model)


def latent(batch):
    with batch.rows():
        z = pyro.sample("z", NORMAL)
        pyro.sample("x", dist.Normal(z, 1.0), obs=batch["x"])
        pyro.sample("y", dist.Normal(z, 1.0), obs=batch["y"])


@pytest.mark.parametrize(
    ("name", "inside", "found"),
    [("w", True, "that the model lacks"), ("x", True, "column 'x' as a site of the guide"),
     ("z", False, "inside the rows plate in one of model and guide only")],
)  # fmt: skip
def test_a_guide_is_held_to_its_model(table, name, inside, found):
    def guide(batch):
        if inside:
            with batch.rows():
                pyro.sample(name, NORMAL)
        else:
            pyro.sample(name, NORMAL.expand([len(batch)]).to_event(1))

    with pytest.raises(pg.SchemaError, match=found):
        fit(table, latent, guide)


def test_columns_used_where_they_have_holes_are_explained(table):
    def direct(batch):
        with batch.rows():
            pyro.sample("x", NORMAL, obs=batch["x"])
            x = 0.0 if batch["x"] is None else batch["x"]
            pyro.sample("y", dist.Normal(x, 1.0), obs=batch["y"])

    holes = table.assign(x=table.x.mask(table.index % 4 == 1))
    with pytest.raises(pg.SchemaError, match="use the value that pyro.sample returns"):
        fit(holes, direct)
    model = fit(table, direct, max_epochs=1)  # no holes, no harm
    assert model.members_[0].holes == "refuse"
    assert np.isfinite(model.log_prob(table)).all()
    hidden = holes[holes.x.isna()].head(3)
    found = model.log_prob(hidden, details=True)  # a companion proposes what is hidden
    truth = dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(hidden.y.to_numpy()))
    assert (abs(found["log_prob"] - truth.numpy()) < 4 * found["se"]).all()

    def indexed(batch):
        loc = torch.tensor([-1.0, 1.0])
        with batch.rows():
            pyro.sample("k", dist.Categorical(torch.ones(2)), obs=batch["k"])
            y = 0.0 if batch["k"] is None else loc[batch["k"]]
            pyro.sample("y", dist.Normal(y, 1.0), obs=batch["y"])

    labelled = pd.DataFrame({"k": np.where(table.x > 0, "a", "b"), "y": table.y})
    labelled.loc[3, "k"] = None
    with pytest.raises(pg.SchemaError, match="index with the value that pyro.sample returns"):
        fit(labelled, indexed)


def test_a_parameter_without_a_value_is_explained(table):
    def model(batch):
        a = pyro.param("a")
        with batch.rows():
            pyro.sample("x", dist.Normal(a, 1.0), obs=batch["x"])

    with pytest.raises(pg.SchemaError, match="without a value"):
        fit(table[["x"]], model)

    def outside(batch):
        s = pyro.param("s", torch.tensor(-1.0), constraint=pairs.POSITIVE)
        with batch.rows():
            pyro.sample("x", dist.Normal(0.0, s), obs=batch["x"])

    with pytest.raises(pg.SchemaError, match="outside its constraint"):
        fit(table[["x"]], outside)


def test_a_failed_fit_leaves_the_estimator_unfitted(table):
    estimator = pg.Pair(no_obs)
    with pytest.raises(pg.SchemaError):
        estimator.fit(table)
    assert not hasattr(estimator, "members_") and not hasattr(estimator, "schema_")
