"""The lean bound against Pyro's estimators, on values and gradients."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from probgen.batch import Batch
from probgen.elbo import estimator, inspect_pair, lean_loss, pyro_loss
from probgen.engines import choose_engine
from probgen.errors import NotSupported
from probgen.family import Family
from probgen.session import guarded, noise
from tests.toys import (
    FactorAnalysis,
    GlobalMean,
    LabelledMixture,
    NormalMixture,
    Regression,
    RowDist,
    blobs,
)


class Awkward(Family):
    """Masks, scales, nested plates, factors, deterministic and auxiliary sites, a MAP site."""

    def __init__(self) -> None:
        super().__init__(None)
        self.a = nn.Parameter(torch.tensor([0.3, -0.2]).double())
        self.b = nn.Parameter(torch.tensor(0.7).double())
        self.point = nn.Parameter(torch.tensor(1.3).double())

    def model(self, batch: Batch) -> None:
        zero = self.a.new_zeros(())
        width = pyro.sample("width", dist.Gamma(zero + 2.0, zero + 2.0))
        groups = pyro.plate("groups", 2, dim=-2)
        with groups:
            level = pyro.sample("level", dist.Normal(zero, 1.0 + width))
        pyro.deterministic("twice", 2 * level)
        pyro.factor("tilt", -0.1 * (level**2).sum())
        with batch.rows():
            z = pyro.sample("z", dist.Normal(zero, 1.0))
            with poutine.mask(mask=batch.seen[:, 1]):
                loc = level.sum(-2) + z
                pyro.sample("y", dist.Normal(loc, width), obs=batch.x[:, 1])
            with poutine.scale(scale=0.5):
                batch.observe("x", dist.StudentT(self.b.exp() + 3, z, 1.0), [0])
            with groups:
                pyro.sample("w", dist.Normal(level + z, 1.0), obs=batch.x[:, :2].T)
            with poutine.mask(mask=False):
                pyro.sample("off", dist.Normal(zero, 1.0), obs=batch.x[:, 0])

    def guide(self, batch: Batch) -> None:
        pyro.sample("width", dist.Delta(self.point))
        with pyro.plate("groups", 2, dim=-2):
            pyro.sample("level", dist.Normal(self.a[:, None], self.b.exp()))
        with batch.rows():
            extra = pyro.sample("extra", dist.Normal(self.b, 0.5), infer={"is_auxiliary": True})
            with poutine.mask(mask=batch.seen[:, 0]):
                pyro.sample("z", dist.LogNormal(0.1 * self.a[0] * batch.x[:, 0] + extra, 0.3))


def weighted(n: int = 24, m: int = 4) -> Batch:
    g = torch.Generator().manual_seed(5)
    seen = torch.rand(n, m, generator=g) > 0.3
    x = torch.where(seen, blobs(n, m), 0.0)
    return Batch.of(x, seen, torch.rand(n, generator=g).double() + 0.5, total=300.0)


def plain(n: int = 24, m: int = 4) -> Batch:
    return Batch.of(blobs(n, m), total=300.0)


def value_and_gradients(family: Family, loss) -> tuple[Tensor, list[Tensor]]:
    with guarded(11):
        value = loss()
        parameters = list(family.parameters())
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    return value.detach(), [
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)
    ]


@pytest.mark.parametrize("batch", [weighted(), plain()], ids=["weighted holes", "plain"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: FactorAnalysis(4, 2),
        lambda: NormalMixture(4, 3),
        lambda: GlobalMean(4),
        lambda: Regression(4),
        Awkward,
    ],
    ids=["factors", "mixture", "mean", "regression", "awkward"],
)
def test_lean_equals_trace_elbo(make, batch):
    family = make().double()
    elbo = Trace_ELBO()
    lean = value_and_gradients(family, lambda: lean_loss(family, batch))
    full = value_and_gradients(
        family,
        lambda: elbo.differentiable_loss(family.model, family.guide, batch) / batch.total,
    )
    torch.testing.assert_close(lean, full, rtol=1e-10, atol=1e-12)


def test_minibatch_loss_is_unbiased():
    x = blobs(30, 4)
    family, whole = NormalMixture(4, 3).double(), Batch.of(x)
    with guarded(0):
        parts = [lean_loss(family, whole.take(slice(i, i + 10))) for i in (0, 10, 20)]
        torch.testing.assert_close(torch.stack(parts).mean(), lean_loss(family, whole))


def test_weights_equal_repeated_rows():
    x = blobs(5, 4)
    family = NormalMixture(4, 3).double()
    counts = torch.tensor([1, 3, 2, 1, 1])
    with guarded(0):
        a = lean_loss(family, Batch.of(x, weight=counts.double()))
        b = lean_loss(family, Batch.of(x.repeat_interleave(counts, 0)))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_latent_without_guide_contributes_nothing():
    class Prior(Family):
        def model(self, batch: Batch) -> None:
            with batch.rows():
                z = pyro.sample("z", dist.Normal(batch.x.new_zeros(len(batch)), 1.0))
                batch.observe("x", dist.Normal(z, 1.0), [0])

    family, batch = Prior(None), Batch.of(blobs(6, 1))
    with guarded(1):
        loss = lean_loss(family, batch)
    with guarded(1):
        z = torch.randn(6, dtype=torch.float64)
    expected = -dist.Normal(z, 1.0).log_prob(batch.x[:, 0]).mean()
    torch.testing.assert_close(loss, expected)


def test_engine_follows_the_sites():
    def engine(family: Family, batch: Batch) -> str:
        with guarded(0):
            return choose_engine(family, batch).name

    batch = Batch.of(blobs(20, 4).float())
    assert engine(FactorAnalysis(4, 2), batch) == "lean"
    assert engine(LabelledMixture(4, 3), batch) == "traceenum"
    assert engine(LabelledMixture(4, 3, enumerate_=False), batch) == "trace"
    with pytest.raises(NotSupported, match="unequal row weights"):
        engine(LabelledMixture(4, 3), Batch.of(batch.x, weight=torch.rand(20) + 0.1))


def test_inspection_changes_nothing():
    class Normed(FactorAnalysis):
        def __init__(self) -> None:
            super().__init__(4, 2)
            self.norm = nn.BatchNorm1d(4)

        def guide(self, batch: Batch) -> None:
            super().guide(Batch.of(self.norm(batch.x)))

    family, batch = Normed(), Batch.of(blobs(20, 4).float())
    before = {k: v.clone() for k, v in family.state_dict().items()}
    with guarded(0):
        state = torch.get_rng_state()
        inspect_pair(family, batch)
        assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in family.state_dict().items())


def test_enumerated_label_equals_label_summed_out():
    batch = Batch.of(blobs(20, 4).float())
    summed, labelled = NormalMixture(4, 3), LabelledMixture(4, 3)
    with guarded(0):
        need = inspect_pair(labelled, batch)
        a = lean_loss(summed, batch)
        b = pyro_loss(estimator(need), labelled)(batch)
    torch.testing.assert_close(a, b)


def test_score_gradient_is_unbiased():
    batch = Batch.of(blobs(3, 4))
    family = LabelledMixture(4, 2, enumerate_=False).double()
    with guarded(0):
        loss = pyro_loss(estimator(inspect_pair(family, batch)), family)
        draws = torch.stack(
            [torch.autograd.grad(loss(batch), family.scores.bias)[0] for _ in range(600)]
        )
    # the exact gradient: the expectation over the label taken by hand
    log_q = family.scores(batch.x).log_softmax(-1)
    normal = dist.Normal(family.loc, family.log_scale.exp()).to_event(1)
    log_p = normal.log_prob(batch.x[:, None]) + family.logits.log_softmax(-1)
    exact = -(log_q.exp() * (log_p - log_q)).sum(-1).mean()
    (gradient,) = torch.autograd.grad(exact, family.scores.bias)
    error = draws.std(0) / 600**0.5
    assert ((draws.mean(0) - gradient).abs() < 4 * error + 1e-12).all()


def test_orphan_discrete_latent_is_refused():
    family = LabelledMixture(4, 3, enumerate_=False)
    family.guide = lambda batch: None
    with guarded(0), pytest.raises(NotSupported, match="'label'.*infer="):
        inspect_pair(family, Batch.of(blobs(20, 4).float()))


def test_detached_scale_gets_no_gradient():
    class Detached(Family):
        def __init__(self) -> None:
            super().__init__(None)
            self.loc = nn.Parameter(torch.zeros(()))
            self.scale = nn.Parameter(torch.ones(2))

        def model(self, batch: Batch) -> None:
            with batch.rows():
                loc = self.loc.expand(len(batch), 2)
                batch.observe("x", dist.Normal(loc, self.scale.detach()).to_event(1), [0, 1])

    family = Detached()
    with guarded(0):
        loss = lean_loss(family, Batch.of(blobs(5, 2).float()))
    loc, scale = torch.autograd.grad(loss, [family.loc, family.scale], allow_unused=True)
    assert scale is None and loc.abs() > 0


def test_svi_stays_usable_with_the_same_loss():
    batch = Batch.of(blobs(40, 4).float())
    family = GlobalMean(4)
    with guarded(0), torch.no_grad():
        expected = float(lean_loss(family, batch))

    def model(rows: Batch) -> None:  # what a user of SVI writes: the store learns the weights
        pyro.module("pair", family)
        family.model(rows)

    with pyro.get_param_store().scope(), noise(0):
        svi = SVI(model, family.guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        losses = [svi.step(batch) / batch.total for _ in range(30)]
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert sum(losses[-5:]) < 5 * losses[0]
    assert not list(pyro.get_param_store().keys())


def test_rows_plate_equals_pyro_plate():
    x = blobs(7, 2)
    weight = torch.arange(1, 8).double()
    batch = Batch.of(x, weight=weight, total=70.0)

    def ours() -> None:
        with batch.rows():
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1), obs=x)
            with pyro.plate("inner", 3, dim=-2):
                pyro.sample("y", dist.Normal(0.0, 1.0))

    def theirs() -> None:
        with pyro.plate("rows", 7, dim=-1), poutine.scale(scale=weight * 70 / weight.sum()):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1), obs=x)
            with pyro.plate("inner", 3, dim=-2):
                pyro.sample("y", dist.Normal(0.0, 1.0))

    with guarded(0, validate=True):
        a = poutine.trace(ours).get_trace()
    with guarded(0, validate=True):
        b = poutine.trace(theirs).get_trace()
    torch.testing.assert_close(a.log_prob_sum(), b.log_prob_sum())
    for name in "xy":
        assert a.nodes[name]["cond_indep_stack"] == b.nodes[name]["cond_indep_stack"]
        assert a.nodes[name]["fn"].batch_shape == b.nodes[name]["fn"].batch_shape


def test_observe_selects_views_and_masks():
    x = blobs(6, 3)
    seen = torch.ones_like(x, dtype=torch.bool)
    seen[0, 1] = False
    for columns in ([0, 1, 2], [1, 2], [2, 0]):
        batch = Batch.of(x, seen)
        with guarded(0), poutine.trace() as trace, batch.rows():
            fn = RowDist(lambda v: v.sum(-1), 6, len(columns))
            batch.observe("x", fn, columns)
        site = trace.trace.nodes["x"]
        assert torch.equal(site["value"], x[:, columns])
        expected = torch.where(seen[:, columns].all(-1), x[:, columns].sum(-1), 0.0)
        torch.testing.assert_close(site["fn"].log_prob(site["value"]), expected)
