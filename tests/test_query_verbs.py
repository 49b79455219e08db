"""Generic samples and latents against closed forms; threads; nothing global left."""

import math
import threading

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats as st
import torch
from pyro.infer.autoguide import AutoNormal

from probgen import queries
from probgen.batch import Batch
from probgen.errors import NotSupported
from probgen.queries.draws import Predictive, draw_globals
from probgen.queries.noise import Stream
from probgen.session import guarded
from tests.query_toys import (
    ExactLabelled,
    ExactMeans,
    Factor,
    Labelled,
    Means,
    Mixed,
    Repeated,
    entropy_gap,
    table,
)

F64 = torch.float64


def one(family, **draws) -> Predictive:
    return Predictive([family], [draws])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- samples


def test_unconditional_sample_uses_each_draw():
    means = torch.tensor([-50.0, 0.0, 50.0], dtype=F64)
    batch = Batch.empty(600, 1, F64, "cpu")
    x = queries.sample(one(Means(), mean=means), batch, generator())[:, 0]
    counts = torch.tensor([((x - mean).abs() < 10).sum() for mean in means])
    assert counts.sum() == 600 and st.chisquare(counts.numpy()).pvalue > 1e-3
    residual = x - means[(x[:, None] - means).abs().argmin(1)]
    assert st.kstest(residual.numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("make", [Factor, Labelled])
def test_sampling_then_scoring_agrees_with_another_sample(make):
    family = make(m=3)
    x = queries.sample(one(family), Batch.empty(3000, 3, F64, "cpu"), generator(1))
    value = family.log_density(x, torch.ones_like(x, dtype=torch.bool))
    if make is Factor:
        cov = family.weight @ family.weight.T + 0.64 * torch.eye(3, dtype=F64)
        entropy = float(dist.MultivariateNormal(family.bias, cov).entropy().detach())
    else:
        closed = ExactLabelled(m=3)
        grid = closed.complete(table(20000, 3, holes=1.1), generator(5))
        entropy = -float(closed.log_density(grid, torch.ones(grid.shape).bool()).mean().detach())
    assert entropy_gap(value, entropy) < 4


def test_seed_decides_the_sample():
    batch = Batch.empty(5, 3, F64, "cpu")
    draw = [queries.sample(one(Labelled()), batch, generator(s)) for s in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])


def test_completion_keeps_seen_cells_and_weighs_members():
    near, far = ExactLabelled(), ExactLabelled()
    with torch.no_grad():
        far.loc += 100.0
    batch = table(40, 3, 0.4)
    x = queries.sample(Predictive([near, far], [{}, {}]), batch, generator())
    assert torch.equal(x[batch.seen], batch.x[batch.seen])
    some = batch.seen.any(1)
    # a row with a seen cell knows which member it comes from; an empty row takes either
    assert (x[some].abs() < 40).all()
    empty = queries.sample(
        Predictive([near, far], [{}, {}]), Batch.empty(400, 3, F64, "cpu"), generator()
    )
    share = (empty[:, 0] > 50).double().mean()
    assert abs(share - 0.5) < 4 * 0.5 / 20


def test_rows_seen_in_whole_come_back():
    full = table(3, 4)
    assert torch.equal(queries.sample(one(Factor()), full, generator()), full.x)


def test_no_rows_are_sampled():
    for family in (Factor(), ExactLabelled(m=4)):
        x = queries.sample(one(family), Batch.empty(0, 4, F64, "cpu"), generator())
        assert x.shape == (0, 4)


# --- latents


def test_latent_moments_are_the_guides():
    family, batch = Factor(widen=1.0), table(12, 4, 0.3)
    mean, sd = queries.latent(one(family), batch)["z"]
    exact, cov = family.posterior(batch.x, batch.seen)
    assert torch.allclose(mean, exact) and torch.allclose(sd, cov.diagonal(0, 1, 2).sqrt())
    assert queries.latent(one(family), batch.take(slice(0, 0)))["z"][0].shape == (0, 2)


def test_latents_that_depend_on_one_another():
    class Chain(Factor):
        def guide(self, batch):
            with batch.rows():
                a = pyro.sample("a", dist.Normal(batch.x[:, 0], 2.0))
                pyro.sample("z", dist.Normal(a[:, None].expand(-1, 2), 1.0).to_event(1))

    batch = table(50, 4)
    found = queries.latent(one(Chain()), batch, particles=2000)
    assert torch.allclose(found["a"][0], batch.x[:, 0]) and torch.allclose(
        found["a"][1], torch.full((50,), 2.0, dtype=F64)
    )
    mean, sd = found["z"]
    assert (mean - batch.x[:, :1]).abs().max() < 4.5 * 2 / 2000**0.5
    assert (sd - 5**0.5).abs().max() < 0.2


def test_categorical_latent_gives_probabilities():
    mean, sd = queries.latent(one(Labelled(guided="sampled")), table(6, 3))["label"]
    assert mean.shape == (6, 4) and torch.allclose(mean, torch.full((6, 4), 0.25, dtype=F64))
    assert torch.allclose(sd, torch.full((6, 4), (0.25 * 0.75) ** 0.5, dtype=F64))


def test_summed_out_labels_have_exact_probabilities():
    family, batch = Labelled(), table(9, 3, 0.4)
    mean, sd = queries.latent(one(family), batch)["label"]
    cell = dist.Normal(family.loc, family.scale).log_prob(batch.x[:, None]) * batch.seen[:, None]
    expected = (cell.sum(-1) + family.logits).softmax(-1)
    assert torch.allclose(mean, expected) and torch.allclose(sd**2, expected * (1 - expected))
    assert queries.latent(one(family), batch.take(slice(0, 1)))["label"][0].shape == (1, 4)


def test_family_states_its_own_labels():
    class Stated(Labelled):
        def row_latents(self, batch):
            return {"part": torch.full((len(batch), 2), 0.5, dtype=F64)}

    for n in (0, 3):
        found = queries.latent(one(Stated()), table(n, 3))
        assert set(found) == {"part"} and found["part"][0].shape == (n, 2)
        assert (found["part"][1] == 0.5).all()


def test_summed_out_label_above_an_inner_plate():
    family, batch = Repeated(), table(5, 3, 0.3)
    found = queries.latent(one(family), batch)
    cell = dist.Normal(family.loc, 1.0).log_prob(batch.x[:, :, None, None])
    cell = cell * batch.seen[:, :, None, None] + family.inner.log()
    expected = (cell.logsumexp(-1).sum(1) + family.outer.log()).softmax(-1)
    assert set(found) == {"a"} and torch.allclose(found["a"][0], expected)


def test_reconstruction_decodes_the_posterior_mean():
    family, batch = Factor(widen=1.0), table(20, 4, 0.3)
    x = queries.reconstruct(one(family), batch, particles=4000)
    z, cov = family.posterior(batch.x, batch.seen)
    error = x - (z @ family.weight.T + family.bias)
    spread = (family.weight @ cov @ family.weight.T).diagonal(0, 1, 2).sqrt()
    assert (error.abs() / spread).max() < 4.5 / 4000**0.5
    half = queries.reconstruct(one(family), batch.take(slice(10, 20)), particles=4000)
    assert torch.allclose(half, x[10:], rtol=1e-12)
    assert queries.reconstruct(one(family), batch.take(slice(0, 0))).shape == (0, 4)


def with_context(batch: Batch, seed: int = 9) -> Batch:
    context = 3 * torch.randn(len(batch), 1, generator=generator(seed), dtype=F64)
    return Batch(batch.x, batch.seen, batch.weight, batch.total, context)


def test_context_reaches_every_query():
    family = Mixed()
    batch = with_context(Batch.empty(3000, 2, F64, "cpu"))
    x = queries.sample(one(family), batch, generator())
    z = x[:, 0] - batch.context[:, 0]
    assert st.kstest(z.numpy(), st.norm(0, 1.01**0.5).cdf).pvalue > 1e-3
    assert set(x[:, 1].tolist()) <= {0.0, 1.0, 2.0}
    seen = torch.tensor([True, False]).expand(3000, 2)
    only = Batch(x * seen, seen, batch.weight, 3000.0, batch.context)
    found = queries.log_prob(one(family), only.take(slice(0, 50)), particles=400)
    error = (found.value - dist.Normal(0, 1.01**0.5).log_prob(z[:50])) / found.se
    assert error.abs().max() < 4.5
    assert draw_globals(family, 3, seed=0) == {}


def test_reconstruction_of_a_category_is_its_likeliest_code():
    x = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [2.0, 0.0]], dtype=F64)
    batch = Batch.of(x, context=torch.zeros(3, 1, dtype=F64))
    found = queries.reconstruct(one(Mixed()), batch, particles=200)
    assert found[:, 1].tolist() == [2.0, 0.0, 2.0]
    assert (found[:, 0] - x[:, 0]).abs().max() < 4.5 * 0.1 / 200**0.5


def test_automatic_guide_of_globals():
    class Auto(Means):
        def __init__(self):
            super().__init__()
            # a PyroModule fixes at its birth whether its parameters are local
            with guarded(0):
                hidden = pyro.poutine.block(self.model, hide=["x"])
                self.auto = AutoNormal(hidden, init_scale=0.3)

        def guide(self, batch):
            return self.auto(batch)

    family, rows = Auto(), table(4, 1)
    draws = draw_globals(family, 200, seed=0, batch=rows)
    assert set(draws) == {"mean"} and abs(float(draws["mean"].std()) - 0.3) < 0.06
    found = queries.log_prob(one(family, **draws), rows).value
    by_draw = dist.Normal(draws["mean"][:, None], 1.0).log_prob(rows.x[:, 0])
    assert torch.allclose(found, by_draw.logsumexp(0) - math.log(200))
    assert len(pyro.get_param_store()) == 0


def test_plugin_of_constrained_globals_is_legal():
    class Shares(Labelled):
        def model(self, batch):
            shares = pyro.sample("shares", dist.Dirichlet(torch.ones(4, dtype=F64)))
            with batch.rows():
                label = pyro.sample(
                    "label", dist.Categorical(shares), infer={"enumerate": "parallel"}
                )
                for j in range(self.m):
                    fn = dist.Normal(self.loc[label, j], self.scale[label, j])
                    batch.observe(f"x{j}", fn, [j])

    draws = dist.Dirichlet(torch.tensor([1.0, 2, 3, 4], dtype=F64)).sample((50,))
    point = one(Shares(), shares=draws).at_point(table(2, 3))
    share = point.draws[0]["shares"]
    assert share.shape == (1, 4) and torch.allclose(share.sum(), torch.ones((), dtype=F64))
    assert (share > 0).all() and not point.integrated


def test_single_precision_pairs_keep_their_precision():
    family, batch = Labelled().float(), table(10, 3)
    family.scale = family.scale.float()
    narrow = Batch.of(batch.x.float())
    found = queries.log_prob(one(family), narrow)
    expected = Labelled().log_density(batch.x, batch.seen)
    assert found.value.dtype == torch.float32
    assert torch.allclose(found.value.double(), expected, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_scores_agree_between_devices():
    batch = table(50, 1)
    means = torch.linspace(-1, 1, 7, dtype=F64)
    key = queries.draws.keyed(batch).key
    there = Batch.of(batch.x.cuda())
    assert torch.equal(queries.draws.keyed(there).key.cpu(), key)
    here = queries.log_prob(one(Means(), mean=means), batch).value
    found = queries.log_prob(one(Means().cuda(), mean=means.cuda()), there).value
    assert torch.allclose(found.cpu(), here, rtol=1e-10)
    stream = Stream(key, 0).normal((50,))
    assert torch.allclose(Stream(key.cuda(), 0).normal((50,)).cpu(), stream, rtol=1e-12)


def test_no_latents_is_said():
    with pytest.raises(NotSupported, match="without latents"):
        queries.reconstruct(one(Labelled()), table(3, 3))
    with pytest.raises(NotSupported, match="without latents"):
        queries.latent(one(Means(), mean=torch.zeros(2, dtype=F64)), table(3, 1))


# --- threads and globals


@pytest.mark.parametrize("family", [ExactLabelled(), Labelled(), Factor(m=3)])
def test_threads_score_together(family):
    batch = table(40, 3)
    expected = queries.log_prob(one(family), batch, particles=16).value
    results: list = [None] * 4

    def work(i: int) -> None:
        results[i] = [queries.log_prob(one(family), batch, particles=16).value for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(value, expected) for result in results for value in result)


def test_closed_forms_take_no_lock(monkeypatch):
    def forbidden(*_args, **_kwargs):
        raise AssertionError("a closed form entered Pyro")

    for module in (queries.density, queries.sampling):
        monkeypatch.setattr(module, "guarded", forbidden)
    predictive = one(ExactLabelled())
    queries.log_prob(predictive, table(5, 3))
    queries.sample(predictive, table(5, 3, 0.5), generator())
    queries.interval(one(ExactMeans(), mean=torch.zeros(3, dtype=F64)), table(5, 1), 0.5)


def test_nothing_global_is_left_behind():
    before = torch.get_rng_state()
    predictive = one(Factor())
    queries.log_prob(predictive, table(3, 4))
    queries.sample(predictive, Batch.empty(3, 4, F64, "cpu"), generator())
    queries.reconstruct(predictive, table(3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert len(pyro.get_param_store()) == 0
