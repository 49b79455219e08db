"""Pairs of a user's own functions, their tables, and closed forms to hold them to."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import constraints

import probgen as pg

POSITIVE = constraints.positive
#: full batches and few epochs: the start of training does the work on these small tables
FAST = {"random_state": 0, "batch_size": 10_000, "max_epochs": 40, "draws": 20}


def fit(table: pd.DataFrame, model: Any, guide: Any = None, given: Any = (), **settings: Any):
    """A quick fit, without warnings of convergence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pg.Pair(model, guide, **{**FAST, **settings}).fit(table, given=given)


# --- a linear-Gaussian chain ------------------------------------------------------------------


def chain(batch):
    """y given x, both modelled."""
    mu = pyro.param("mu", torch.tensor(0.0))
    sx = pyro.param("sx", torch.tensor(1.0), constraint=POSITIVE)
    a = pyro.param("a", torch.tensor(0.0))
    b = pyro.param("b", torch.tensor(0.0))
    s = pyro.param("s", torch.tensor(1.0), constraint=POSITIVE)
    with batch.rows():
        x = pyro.sample("x", dist.Normal(mu, sx), obs=batch["x"])
        pyro.sample("y", dist.Normal(a + b * x, s), obs=batch["y"])


def chain_table(n: int = 200, holes: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(2, 1.5, n)
    table = pd.DataFrame({"x": x, "y": 1 + 0.8 * x + rng.normal(0, 0.9, n)})
    if holes:
        table.loc[::7, "x"] = np.nan
        table.loc[3::11, "y"] = np.nan
    return table


def chain_normal(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (x, y) at the fitted parameters."""
    p = {name: float(value) for name, value in model.params_.items()}
    v = p["sx"] ** 2
    cov = np.array([[v, p["b"] * v], [p["b"] * v, p["b"] ** 2 * v + p["s"] ** 2]])
    return np.array([p["mu"], p["a"] + p["b"] * p["mu"]]), cov


# --- a hierarchical regression ----------------------------------------------------------------


def hierarchical(batch):
    """Body mass by flipper length, with an intercept for each species around a common one."""
    mean = pyro.sample("mean", dist.Normal(4000.0, 1000.0))
    spread = pyro.sample("spread", dist.HalfNormal(1000.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 100.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1000.0))
    with pyro.plate("species", 3):
        offset = pyro.sample("offset", dist.Normal(0.0, 1.0))
    with batch.rows():
        intercept = mean + spread * offset[batch["species"]]
        loc = intercept + slope * (batch["flipper_length_mm"] - 200.0)
        pyro.sample("body_mass_g", dist.Normal(loc, sigma), obs=batch["body_mass_g"])


HIERARCHICAL_GIVEN = ["species", "flipper_length_mm"]


def hierarchical_table() -> pd.DataFrame:
    from probgen.datasets import penguins

    table = penguins()[[*HIERARCHICAL_GIVEN, "body_mass_g"]]
    return table.dropna(subset=HIERARCHICAL_GIVEN, ignore_index=True)


# --- a zero-inflated count --------------------------------------------------------------------


def zero_inflated(batch):
    """Ink in a cell: blank by a chance of its own, else by a rate that a loop changes."""
    blank = pyro.param("blank", torch.tensor(0.5), constraint=constraints.unit_interval)
    share = pyro.param("share", torch.tensor(0.5), constraint=constraints.unit_interval)
    rate = pyro.param("rate", torch.ones(2), constraint=POSITIVE)
    with batch.rows():
        loop = pyro.sample("loop", dist.Bernoulli(share), obs=batch["loop"])
        ink = dist.ZeroInflatedPoisson(rate[loop.long()], gate=blank)
        pyro.sample("ink", ink, obs=batch["ink"])


def zero_inflated_table(n: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    loop = rng.random(n) < 0.3
    ink = np.where(rng.random(n) < 0.4, 0, rng.poisson(np.where(loop, 6.0, 2.0)))
    table = pd.DataFrame({"loop": loop, "ink": ink})
    return table.astype({"ink": "Int64", "loop": "boolean"}).mask(
        pd.DataFrame({"loop": np.arange(n) % 9 == 4, "ink": np.arange(n) % 13 == 5})
    )


# --- a labelled mixture -----------------------------------------------------------------------


def mixture(batch):
    """Two columns that depend through a label, which is summed out."""
    share = pyro.param("share", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
    loc = pyro.param("loc", torch.tensor([[-1.0, 0.0], [1.0, 2.0]]))
    scale = pyro.param("scale", torch.ones(2, 2), constraint=POSITIVE)
    with batch.rows():
        k = pyro.sample("k", dist.Categorical(share), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(loc[k, 0], scale[k, 0]), obs=batch["x"])
        pyro.sample("y", dist.Normal(loc[k, 1], scale[k, 1]), obs=batch["y"])


# --- row latents ------------------------------------------------------------------------------


def overdispersed(batch):
    """Counts whose log rate varies between rows."""
    loc = pyro.param("loc", torch.tensor(0.0))
    scale = pyro.param("scale", torch.tensor(0.3), constraint=POSITIVE)
    with batch.rows():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("count", dist.Poisson((loc + scale * z).exp()), obs=batch["count"])


def overdispersed_table(n: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    return pd.DataFrame({"count": rng.poisson(np.exp(1.0 + 0.8 * rng.normal(size=n)))})


class Autoencoder(nn.Module):
    """A small autoencoder in the style of Pyro's tutorials: methods of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(1, 2)
        self.encoder = nn.Linear(2, 2)

    def model(self, batch):
        pyro.module("decoder", self.decoder)
        with batch.rows():
            z = pyro.sample("z", dist.Normal(torch.zeros(len(batch), 1), 1.0).to_event(1))
            loc = self.decoder(z.double())
            pyro.sample("x", dist.Normal(loc[:, 0], 1.0), obs=batch["x"])
            pyro.sample("y", dist.Normal(loc[:, 1], 1.0), obs=batch["y"])

    def guide(self, batch):
        pyro.module("encoder", self.encoder)
        both = [torch.where(batch.seen(c), batch[c], 0.0) for c in ("x", "y")]
        out = self.encoder(torch.stack(both, -1))
        with batch.rows():
            pyro.sample("z", dist.Normal(out[:, :1], out[:, 1:].exp()).to_event(1))
