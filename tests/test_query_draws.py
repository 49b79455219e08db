"""The mixture of stored draws and restarts, and posterior intervals."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats as st
import torch

from probgen import queries
from probgen.batch import Batch
from probgen.errors import NotSupported, SchemaError
from probgen.queries.draws import Predictive, draw_globals
from tests.query_toys import (
    ExactMeans,
    Factor,
    Labelled,
    Means,
    table,
)

F64 = torch.float64


def one(family, **draws) -> Predictive:
    return Predictive([family], [draws])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the mixture of draws and of members


def test_predictive_averages_densities_not_logs():
    batch = table(20, 1)
    means = torch.tensor([-1.0, 0.5, 2.0], dtype=F64)
    by_draw = dist.Normal(means[:, None], 1.0).log_prob(batch.x[:, 0])
    expected = by_draw.exp().mean(0).log()
    for family in (Means(), ExactMeans()):
        predictive = one(family, mean=means)
        assert torch.allclose(queries.log_prob(predictive, batch).value, expected, atol=1e-12)
        assert torch.allclose(queries.log_prob_draws(predictive, batch), by_draw, atol=1e-12)
    assert (expected - by_draw.mean(0)).min() > 1e-3


def test_restarts_are_mixed():
    batch = table(30, 4)
    members = [Labelled(m=4), Labelled(m=4)]
    with torch.no_grad():
        members[1].loc += 1.0
    found = queries.log_prob(Predictive(members, [{}, {}]), batch).value
    each = torch.stack([f.log_density(batch.x, batch.seen) for f in members])
    assert torch.allclose(found, each.logsumexp(0) - math.log(2), atol=1e-10)


def test_error_of_mixed_restarts_is_combined():
    batch = table(50, 4)
    members = [Factor(), Factor(widen=1.5)]
    found = queries.log_prob(Predictive(members, [{}, {}]), batch, particles=400)
    exact = members[0].log_density(batch.x, batch.seen)
    z = (found.value - exact) / found.se
    assert z.abs().max() < 4.5 and 0.6 < z.square().mean() < 1.6
    assert found.method == "importance"


def test_draws_are_strata_of_the_error():
    class Shifted(Factor):
        def model(self, batch):
            shift = pyro.sample("shift", dist.Normal(self.bias * 0, 1.0).to_event(1))
            with pyro.poutine.block(hide=[]):
                original = self.bias.data.clone()
                self.bias.data += shift
                try:
                    super().model(batch)
                finally:
                    self.bias.data = original

    family, batch = Shifted(), table(40, 4)
    draws = torch.linspace(-1, 1, 5, dtype=F64)[:, None].expand(5, 4)
    found = queries.log_prob(one(family, shift=draws), batch, particles=1000)
    exact = torch.stack(
        [family.log_density(batch.x - shift, batch.seen) for shift in draws]
    ).logsumexp(0) - math.log(5)
    z = (found.value - exact) / found.se
    assert z.abs().max() < 4.5 and 0.5 < z.square().mean() < 1.8


def test_members_need_equally_many_draws():
    with pytest.raises(SchemaError, match="found .*draws.*; needed .*; do: "):
        Predictive([Means(), Means()], [{"mean": torch.zeros(3)}, {"mean": torch.zeros(2)}])
    with pytest.raises(SchemaError):
        Predictive([], [])


def test_draws_of_globals_follow_the_guide_and_the_seed():
    family = Means(loc=1.0, scale=0.7)
    rows = table(3, 1)
    draws = draw_globals(family, 400, seed=3, batch=rows)
    assert draws["mean"].shape == (400,) and not draws["mean"].requires_grad
    assert st.kstest(draws["mean"].numpy(), st.norm(1.0, 0.7).cdf).pvalue > 1e-3
    assert torch.equal(draw_globals(family, 400, seed=3, batch=rows)["mean"], draws["mean"])
    assert not torch.equal(draw_globals(family, 400, 4, rows)["mean"], draws["mean"])


def test_global_that_the_guide_lacks_is_drawn_from_the_model():
    class Unguided(Means):
        def guide(self, batch):
            pass

    draws = draw_globals(Unguided(), 300, seed=0, batch=table(3, 1))
    assert st.kstest(draws["mean"].numpy(), st.norm(0, 2).cdf).pvalue > 1e-3


def test_no_globals_no_draws():
    assert draw_globals(Labelled(), 5, seed=0, batch=table(2, 3)) == {}


def test_plugin_density_sits_at_one_value():
    batch = table(10, 1)
    means = torch.tensor([-1.0, 0.5, 2.0], dtype=F64)
    found = queries.log_prob(one(ExactMeans(), mean=means), batch, plugin=True).value
    expected = dist.Normal(0.5, 1.0).log_prob(batch.x[:, 0])
    assert torch.allclose(found, expected)


# --- intervals


def test_interval_is_the_quantile_of_the_draws():
    family, batch = ExactMeans(), table(15, 1)
    means = torch.linspace(-2, 2, 101, dtype=F64)
    lower, upper = queries.interval(one(family, mean=means), batch, 0.9)
    by_draw = dist.Normal(means[:, None], 1.0).log_prob(batch.x[:, 0])
    wanted = np.quantile(by_draw.numpy(), [0.05, 0.95], axis=0, method="weibull")
    np.testing.assert_allclose(torch.stack([lower, upper]).numpy(), wanted)


def test_too_few_draws_for_a_level_give_their_whole_range():
    family, batch = ExactMeans(), table(5, 1)
    means = torch.linspace(-2, 2, 10, dtype=F64)
    ends = queries.interval(one(family, mean=means), batch, 0.95)
    by_draw = dist.Normal(means[:, None], 1.0).log_prob(batch.x[:, 0])
    assert torch.equal(ends[0], by_draw.amin(0)) and torch.equal(ends[1], by_draw.amax(0))


def test_interval_of_a_conditional_is_of_the_ratio_draw_by_draw():
    family = ExactMeans()
    batch = table(9, 1)
    nothing = Batch.of(torch.zeros_like(batch.x), torch.zeros_like(batch.seen))
    means = torch.linspace(-2, 2, 21, dtype=F64)
    predictive = one(family, mean=means)
    plain = queries.interval(predictive, batch, 0.8)
    given = queries.interval(predictive, batch, 0.8, nothing, rows=4)
    assert all(torch.allclose(a, b) for a, b in zip(plain, given, strict=True))
    same = queries.interval(predictive, batch, 0.8, batch)
    assert all((part == 0).all() for part in same)


def test_interval_needs_draws_and_a_level():
    with pytest.raises(NotSupported, match="single draw"):
        queries.interval(one(Labelled()), table(3, 3), 0.9)
    with pytest.raises(SchemaError, match="interval = 1.5"):
        queries.interval(one(Means(), mean=torch.zeros(3)), table(3, 1), 1.5)


def test_interval_where_a_density_is_zero():
    class Hard(ExactMeans):
        def exact_log_prob(self, batch, draws):
            return super().exact_log_prob(batch, draws) - torch.tensor([math.inf, 0.0])[:, None]

    means = torch.zeros(2, dtype=F64)
    lower, upper = queries.interval(one(Hard(), mean=means), table(4, 1), 0.999)
    assert (lower == -math.inf).all() and not upper.isnan().any()
