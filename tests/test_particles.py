"""Particles by the error of a row, and annealed chains, against densities in closed form."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import probgen as pg
from probgen import queries
from probgen.batch import Batch
from probgen.errors import ApproximationError, ApproximationWarning, NotSupported, SchemaError
from probgen.family import Family
from probgen.queries import Predictive
from probgen.queries.annealing import CHAINS, schedule

F64 = torch.float64
L, D, S = 3, 6, 0.5
W = torch.randn(D, L, generator=torch.Generator().manual_seed(3), dtype=F64)


class Linear(Family):
    """x = W z + S e; a guide whose mean is off and whose scale is shrunk on purpose."""

    def __init__(self, shrunk: float = 0.6, off: float = 1.0) -> None:
        super().__init__(None)
        self.shrunk, self.off = shrunk, off

    def importance(self, batch: Batch):
        x, on = batch.x, batch.seen.to(F64)
        precision = torch.eye(L, dtype=F64) + torch.einsum("nd,dl,dk->nlk", on, W, W) / S**2
        cover = torch.linalg.inv(precision)
        mean = torch.einsum("nlk,nk->nl", cover, (x * on) @ W / S**2)
        sd = cover.diagonal(dim1=1, dim2=2).sqrt()
        # off by more in some rows than in others, by what the row holds
        place, scale = mean + self.off * sd * (3 * (x * on).sum(1, keepdim=True)).sin(), None
        scale = self.shrunk * sd

        def weights(noise: Tensor) -> Tensor:
            z = place + scale * noise
            log_ratio = 0.5 * (noise.square() - z.square()).sum(-1) + scale.log().sum(-1)
            unit = (x - z @ W.T) / S
            cells = -0.5 * unit.square() - math.log(S * math.sqrt(2 * math.pi))
            return log_ratio + (cells * on).sum(-1)

        return L, weights

    def truth(self, batch: Batch) -> Tensor:
        cover = W @ W.T + S**2 * torch.eye(D, dtype=F64)
        found = []
        for x, on in zip(batch.x, batch.seen, strict=True):
            own = MultivariateNormal(torch.zeros(int(on.sum()), dtype=F64), cover[on][:, on])
            found.append(own.log_prob(x[on]))
        return torch.stack(found)


def rows(n: int, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, L, generator=g, dtype=F64) @ W.T
    return Batch.of(x + S * torch.randn(n, D, generator=g, dtype=F64))


def holed(batch: Batch) -> Batch:
    seen = batch.seen.clone()
    seen[:, :3] = False
    return Batch.of(torch.where(seen, batch.x, 0.0), seen)


def ask(family: Family, batch: Batch, **settings) -> queries.Estimate:
    return queries.log_prob(Predictive([family], [{}]), batch, **settings)


def test_mineget_particles_until_their_error_is_small_enough():
    family, batch = Linear(1.3, 1.5), rows(40)
    first = ask(family, batch)
    assert (first.particles == 512).all() and (first.se > 0.02).any()
    found = ask(family, batch, error=0.02)
    used = found.particles
    assert set(used.tolist()) <= {512 * 4**i for i in range(4)} | {2**16}
    assert ((found.se <= 0.02) | (used == 2**16)).all() and len(used.unique()) > 1
    kept = first.se <= 0.02
    assert torch.equal(found.value[kept], first.value[kept]) and (used[kept] == 512).all()
    sound = found.khat < 0.7
    gap = ((found.value - family.truth(batch)) / found.se)[sound]
    assert sound.sum() > 20 and gap.square().mean().sqrt() < 1.5 and gap.abs().max() < 4


@pytest.mark.parametrize("settings", [{"error": 0.03}, {"error": 0.03, "annealing": 12}])
def test_minedo_not_depend_on_those_beside_them(settings):
    family, batch = Linear(0.6, 1.5), rows(12)
    found = ask(family, batch, **settings)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    other = ask(family, batch.take(order), **settings)
    for name in ("value", "se", "particles"):
        torch.testing.assert_close(getattr(other, name), getattr(found, name)[order],
                                   rtol=1e-9, atol=1e-12)  # fmt: skip
    alone = ask(family, batch.take(slice(3, 4)), **settings)
    torch.testing.assert_close(alone.value, found.value[3:4], rtol=1e-9, atol=1e-12)


def test_annealing_is_right_where_the_guide_is_not():
    family, batch = Linear(0.4, 2.5), rows(60)
    truth = family.truth(batch)
    plain = ask(family, batch)
    assert (plain.khat > 0.7).double().mean() > 0.7
    assert (plain.value - truth).mean() < -1.0  # far too low, and its error does not say so
    found = ask(family, batch, annealing=200)
    assert found.method == "annealing+importance"
    mine = found.particles == CHAINS
    assert torch.equal(mine, plain.khat > 0.7)
    gap = (found.value - truth)[mine]
    assert gap.square().mean().sqrt() < (plain.value - truth)[mine].square().mean().sqrt() / 10
    assert abs(gap.mean()) < 0.2  # that of the log of an unbiased estimate is below 0
    sound = (found.khat < 0.7)[mine]
    assert sound.double().mean() > 0.8
    assert (gap / found.se[mine])[sound].square().mean().sqrt() < 1.6


def test_conditionals_refine_and_anneal_both_parts():
    family, batch = Linear(0.5, 1.5), rows(15)
    given = holed(batch)
    truth = family.truth(batch) - family.truth(given)
    at = Predictive([family], [{}])
    plain = queries.log_prob_given(at, batch, given)
    assert (plain.particles == 1024).all()
    finer = queries.log_prob_given(at, batch, given, error=0.1)
    assert (finer.particles > 1024).any() and finer.se.mean() < plain.se.mean()
    found = queries.log_prob_given(at, batch, given, error=0.1, annealing=200)
    off, before = ((e.value - truth).square().mean().sqrt() for e in (found, plain))
    assert off < before / 3 and off < 4 * found.se.mean()


def test_what_cannot_be_asked_is_refused():
    family, batch = Linear(), rows(3)
    with pytest.raises(SchemaError, match="error = 0"):
        ask(family, batch, error=0.0)

    class Opaque(Linear):
        """Weights that no gradient is known of: drawn through `estimate`."""

        def estimate(self, batch, draws, particles):
            own = ask(Linear(0.3, 3.0), batch, particles=particles)
            return own.value, own.se, own.ess, own.khat, own.method

        def importance(self, batch):
            return None

    assert (ask(Opaque(), batch).particles == 512).all()
    with pytest.raises(NotSupported, match="Opaque"):
        ask(Opaque(), batch, annealing=10)


def test_temperatures_rise_from_none_to_one():
    at = schedule(50)
    assert at[0] == 0 and at[-1] == 1 and (at.diff() > 0).all() and len(at) == 51
    assert at.diff()[0] < at.diff()[25]


@pytest.fixture(scope="module")
def fitted():
    g = np.random.default_rng(0)
    a = g.normal(size=200)
    table = pd.DataFrame({"a": a, "b": a + 0.3 * g.normal(size=200),
                          "c": np.where(a > 0, "x", "y")})  # fmt: skip
    model = pg.VAE(latents=2, hidden=(16,), max_epochs=5, validation=0.0, noise=0.0,
                   compile=False, random_state=0)  # fmt: skip
    return model.fit(table), table.head(20)


def test_the_verb_shows_the_particles_and_says_which_error_was_missed(fitted):
    model, table = fitted
    plain = model.log_prob(table, details=True)
    assert "particles" not in plain
    found = model.log_prob(table, details=True, error=0.05)
    assert found["particles"].max() > 512 and found["particles"].min() < 2**16
    assert ((found["se"] <= 0.05) | (found["particles"] == 2**16)).all()
    with pytest.warns(ApproximationWarning, match=r"error above 1e-06 nats in 20 of 20"):
        model.log_prob(table, error=1e-6, particles=2**16)
    with pytest.raises(ApproximationError):
        model.log_prob(table, error=1e-6, particles=2**16, strict=True)
    given = model.log_prob(table[["b"]], given=table[["a"]], details=True, error=0.05)
    assert ((given["se"] <= 0.05) | (given["particles"] == 2**17)).all()


def test_exact_densities_take_no_particles():
    table = pd.DataFrame({"a": np.random.default_rng(0).normal(size=50)})
    model = pg.GaussianMixture(components=2, starts=1, random_state=0).fit(table)
    found = model.log_prob(table, details=True, error=0.01, annealing=10)
    assert (found["particles"] == 0).all() and (found["method"] == "exact").all()
