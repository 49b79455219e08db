"""The generic log density against closed forms, and its Pareto shape."""

import math

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from probgen import queries
from probgen.batch import Batch
from probgen.errors import NotSupported, SchemaError
from probgen.queries.draws import Predictive
from probgen.queries.pareto import pareto_k
from tests.query_toys import (
    Chain,
    ExactLabelled,
    Factor,
    Labelled,
    Repeated,
    table,
)

F64 = torch.float64


def one(family, **draws) -> Predictive:
    return Predictive([family], [draws])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- density


@pytest.mark.parametrize("holes", [0.0, 0.4])
def test_importance_estimate_of_factor_model(holes):
    family, batch = Factor(), table(200, 4, holes)
    found = queries.log_prob(one(family), batch, particles=256)
    z = (found.value - family.log_density(batch.x, batch.seen)) / found.se
    assert found.method == "importance" and found.value.dtype == F64
    assert (found.se > 0).all() and found.se.max() < 0.2
    # 200 standardised errors: none beyond four and a half, and of the right size together
    assert z.abs().max() < 4.5 and 0.8 < z.square().mean() < 1.3
    assert (found.khat < 0.7).all() and (found.ess > 50).all() and (found.ess <= 256).all()


def test_exact_posterior_has_no_error():
    family, batch = Factor(widen=1.0), table(20, 4, 0.3)
    found = queries.log_prob(one(family), batch, particles=8)
    assert torch.allclose(found.value, family.log_density(batch.x, batch.seen), atol=1e-10)
    assert found.se.max() < 1e-10 and torch.allclose(found.ess, torch.full((20,), 8.0, dtype=F64))


def test_equal_weights_are_no_heavy_tail():
    found = queries.log_prob(one(Factor(widen=1.0)), table(5, 4), particles=128)
    assert (found.khat == -math.inf).all()


def test_row_site_that_the_guide_lacks_is_drawn_from_the_model():
    family, batch = Factor(m=2, latent=1, guided=False), table(60, 2)
    found = queries.log_prob(one(family), batch, particles=4000)
    z = (found.value - family.log_density(batch.x, batch.seen)) / found.se
    assert z.abs().max() < 4.5 and z.square().mean() < 1.6


def test_too_narrow_guide_is_reported():
    found = queries.log_prob(one(Factor(m=4, latent=2, widen=0.3)), table(20, 4), particles=2000)
    assert (found.khat > 0.7).float().mean() > 0.5


def test_point_mass_guide_is_refused():
    class Point(Factor):
        def guide(self, batch):
            with batch.rows():
                pyro.sample("z", dist.Delta(batch.x[:, :2], event_dim=1))

    with pytest.raises(NotSupported, match="point masses.*; needed .*; do: "):
        queries.log_prob(one(Point()), table(3, 4))


@pytest.mark.parametrize("guided", ["no", "enumerated"])
@pytest.mark.parametrize("holes", [0.0, 0.5])
def test_enumerated_label_is_summed_out(guided, holes):
    family, batch = Labelled(guided=guided), table(50, 3, holes)
    found = queries.log_prob(one(family), batch)
    expected = family.log_density(batch.x, batch.seen)
    assert found.method == "enumerated" and (found.se == 0).all() and found.khat.isnan().all()
    assert torch.allclose(found.value, expected, rtol=1e-12, atol=1e-10)


def test_label_that_the_guide_samples_is_an_importance_estimate():
    family, batch = Labelled(guided="sampled"), table(60, 3, 0.5)
    found = queries.log_prob(one(family), batch, particles=4000)
    z = (found.value - family.log_density(batch.x, batch.seen)) / found.se
    assert found.method == "importance" and z.abs().max() < 4.5


@pytest.mark.parametrize("n", [1, 7])
def test_enumeration_inside_an_inner_plate(n):
    family, batch = Repeated(), table(n, 3, 0.3)
    found = queries.log_prob(one(family), batch)
    expected = family.log_density(batch.x, batch.seen)
    assert torch.allclose(found.value, expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("n", [1, 20])
def test_enumerated_markov_chain_in_a_row(n):
    family, batch = Chain(m=12), table(n, 12, 0.2)
    found = queries.log_prob(one(family), batch).value
    assert torch.allclose(found, family.log_density(batch.x, batch.seen), rtol=1e-12, atol=1e-10)


def test_enumeration_does_not_underflow_on_odd_rows():
    family, batch = Labelled(), table(6, 3)
    # each cell sits on another component: every single label is hopeless
    rows = torch.stack([family.loc[i, range(3)] for i in ([0, 1, 2], [1, 2, 3], [3, 0, 1])])
    odd = Batch.of(60 * rows.detach())
    found = queries.log_prob(one(family), odd).value
    expected = family.log_density(odd.x, odd.seen)
    assert expected.max() < -1000 and torch.allclose(found, expected, rtol=1e-12)
    assert torch.isfinite(queries.log_prob(one(family), batch).value).all()


def test_label_and_continuous_latent_together():
    class Both(Factor):
        def model(self, batch):
            with batch.rows():
                zeros = self.bias.new_zeros(len(batch), self.latent)
                z = pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))
                p = torch.tensor([0.3, 0.7], dtype=F64)
                label = pyro.sample("label", dist.Categorical(p), infer={"enumerate": "parallel"})
                shift = torch.tensor([0.0, 2.0], dtype=F64)[label]
                for j in range(self.m):
                    loc = z @ self.weight[j] + self.bias[j] + shift
                    batch.observe(f"x{j}", dist.Normal(loc, self.noise), [j])

        def guide(self, batch):
            mean, _ = self.posterior(batch.x - 1.0, batch.seen)
            with batch.rows():
                pyro.sample("z", dist.Normal(mean, 1.5).to_event(1))

    family, batch = Both(), table(30, 4)
    found = queries.log_prob(one(family), batch, particles=2000)
    parts = torch.stack(
        [
            family.log_density(batch.x - shift, batch.seen) + math.log(p)
            for shift, p in ((0.0, 0.3), (2.0, 0.7))
        ]
    )
    z = (found.value - parts.logsumexp(0)) / found.se
    assert found.method == "importance" and z.abs().max() < 4.5


def test_local_mask_counts_and_plate_scale_does_not():
    family = Labelled()
    batch = table(8, 3)
    heavy = Batch.of(batch.x, batch.seen, weight=torch.arange(1.0, 9.0, dtype=F64), total=1e6)
    plain = queries.log_prob(one(family), batch).value
    assert torch.equal(queries.log_prob(one(family), heavy).value, plain)


# --- scores belong to rows


@pytest.mark.parametrize("family", [Factor(), Labelled(), Factor(m=4, guided=False)])
def test_scores_ignore_order_size_and_other_rows(family, monkeypatch):
    m = family.m
    batch = table(50, m, 0.2)
    whole = queries.log_prob(one(family), batch, particles=32)
    order = torch.randperm(50, generator=generator())
    moved = queries.log_prob(one(family), batch.take(order), particles=32)
    single = queries.log_prob(one(family), batch.take(slice(7, 8)), particles=32)
    monkeypatch.setattr(queries.density, "TILED", 300)
    pieces = queries.log_prob(one(family), batch, particles=32)
    for got, want in [
        (moved.value, whole.value[order]),
        (single.value, whole.value[7:8]),
        (pieces.value, whole.value),
        (pieces.se, whole.se),
    ]:
        assert torch.allclose(got, want, rtol=1e-12, atol=1e-14)


def test_more_particles_shrink_the_error():
    batch = table(100, 4)
    few = queries.log_prob(one(Factor()), batch, particles=64).se.mean()
    many = queries.log_prob(one(Factor()), batch, particles=1024).se.mean()
    assert 0.2 < many / few < 0.32


def test_no_rows_and_one_row():
    for family in (Factor(), Labelled(m=4), ExactLabelled(m=4)):
        for n in (0, 1):
            batch = table(n, 4)
            found = queries.log_prob(one(family), batch)
            parts = (found.value, found.se, found.ess, found.khat)
            assert all(part.shape == (n,) for part in parts) and found.value.dtype == F64
            assert queries.log_prob_draws(one(family), batch).shape == (1, n)


def test_bad_particles():
    with pytest.raises(SchemaError, match="particles = 0"):
        queries.log_prob(one(Factor()), table(2, 4), particles=0)


# --- Pareto shape


@pytest.mark.parametrize("particles", [30, 400, 3000])
def test_pareto_shape_agrees_with_arviz(particles):
    g = np.random.default_rng(0)
    heavy = np.array([0.1, 0.3, 0.6, 0.9, 1.5])
    log_weights = g.exponential(size=(particles, 5)) * heavy + 0.01 * g.normal(size=5)
    _, k = az.psislw(log_weights.T.copy())
    found = pareto_k(torch.as_tensor(log_weights))
    assert np.allclose(found.numpy(), k, atol=1e-6)


def test_pareto_shape_finds_the_truth():
    truth = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    u = torch.rand(20000, 3, generator=generator(), dtype=F64)
    assert (pareto_k(-truth * u.log()) - truth).abs().max() < 0.15


def test_pareto_shape_of_few_or_equal_weights():
    assert pareto_k(torch.randn(10, 2, dtype=F64)).eq(math.inf).all()
    assert pareto_k(torch.zeros(100, 2, dtype=F64)).eq(-math.inf).all()
    assert pareto_k(torch.zeros(100, 0, dtype=F64)).shape == (0,)
    assert pareto_k(torch.full((100, 1), -math.inf, dtype=F64)).eq(math.inf).all()
    bounded = torch.cat([torch.zeros(60, 1), torch.full((40, 1), -3.0)]).double()
    assert pareto_k(bounded).eq(-math.inf).all()  # two levels: nothing larger can come
    lone = torch.cat([torch.full((2, 1), 3.0), torch.zeros(98, 1)]).double()
    assert pareto_k(lone).eq(math.inf).all()
