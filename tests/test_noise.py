"""Keyed noise: right distributions, and nothing but the key of a row decides its noise."""

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats as st
import torch

from probgen.batch import row_keys
from probgen.errors import NotSupported
from probgen.queries.noise import Stream, keyed_sample, particle_keys, site_key

F64 = torch.float64
N = 4000


def keys(n: int = N, seed: int = 0) -> torch.Tensor:
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return row_keys(x, torch.ones_like(x, dtype=torch.bool))


def test_uniforms_fill_the_unit_square():
    u = Stream(keys(), axis=0).uniform((N, 4))
    assert u.dtype == F64 and u.min() > 0 and u.max() < 1
    for column in u.T:
        assert st.kstest(column.numpy(), "uniform").pvalue > 1e-3
    rank = torch.corrcoef(u.T) - torch.eye(4)
    assert rank.abs().max() < 5 / N**0.5


def test_uniforms_of_one_row_are_uniform_over_counters_particles_and_sites():
    key = keys(1)
    over_counter = Stream(key, axis=0).uniform((1, N))[0]
    assert st.kstest(over_counter.numpy(), "uniform").pvalue > 1e-3
    over_particles = Stream(particle_keys(key, N), axis=0).uniform((N,))
    assert st.kstest(over_particles.numpy(), "uniform").pvalue > 1e-3
    names = torch.tensor([site_key(f"z{i}") for i in range(N)])
    over_sites = Stream(key ^ names, axis=0).uniform((N,))
    assert st.kstest(over_sites.numpy(), "uniform").pvalue > 1e-3


def test_neighbouring_particles_are_uncorrelated():
    u = Stream(particle_keys(keys(), 2), axis=0).uniform((2 * N,)).reshape(2, N)
    assert abs(np.corrcoef(u.numpy())[0, 1]) < 4 / N**0.5


def test_first_particle_continues_a_sequence():
    key = keys(5)
    whole = particle_keys(key, 4).reshape(4, 5)
    assert torch.equal(whole[2:], particle_keys(key, 2, first=2).reshape(2, 5))


ONE = torch.ones(N, dtype=F64)
TRIL = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=F64)
CASES = {
    "normal": (dist.Normal(2 * ONE, 3 * ONE), st.norm(2, 3).cdf),
    "masked": (dist.Normal(0 * ONE, 1.0).mask(ONE > 0), st.norm().cdf),
    "lognormal": (dist.LogNormal(0 * ONE, 0.5), st.lognorm(0.5).cdf),
    "laplace": (dist.Laplace(0 * ONE, 1.0), st.laplace().cdf),
    "gamma": (dist.Gamma(2.5 * ONE, 2.0), st.gamma(2.5, scale=0.5).cdf),
    "small gamma": (dist.Gamma(0.2 * ONE, 1.0), st.gamma(0.2).cdf),
    "inverse gamma": (dist.InverseGamma(3.0 * ONE, 1.0), st.invgamma(3).cdf),
    "beta": (dist.Beta(0.7 * ONE, 2.0), st.beta(0.7, 2).cdf),
    "student": (dist.StudentT(4.0 * ONE, 1.0, 2.0), st.t(4, 1, 2).cdf),
    "half cauchy": (dist.HalfCauchy(ONE), st.halfcauchy().cdf),
    "von mises": (dist.VonMises(0 * ONE, 2.0), st.vonmises(2.0).cdf),
}


@pytest.mark.parametrize("name", CASES)
def test_continuous_distributions(name):
    fn, cdf = CASES[name]
    value = keyed_sample(fn, keys(), name)
    assert value.shape == (N,) and value.dtype == F64
    assert st.kstest(value.numpy(), cdf).pvalue > 1e-3


def test_multivariate_and_independent():
    full = dist.MultivariateNormal(torch.zeros(N, 2, dtype=F64), scale_tril=TRIL)
    low = dist.LowRankMultivariateNormal(
        torch.zeros(N, 2, dtype=F64), torch.ones(N, 2, 1, dtype=F64), ONE[:, None].expand(N, 2)
    )
    for fn in (full, low):
        value = keyed_sample(fn, keys(), "z")
        error = torch.cov(value.T) - fn.covariance_matrix[0]
        assert value.shape == (N, 2) and error.abs().max() < 6 * 2 / N**0.5
    independent = keyed_sample(dist.Normal(torch.zeros(N, 3), 1.0).to_event(1), keys(), "z")
    assert independent.shape == (N, 3) and independent.dtype == torch.float32


@pytest.mark.parametrize(
    "fn, mass",
    [
        (dist.Bernoulli(0.3 * ONE), [0.7, 0.3]),
        (dist.Categorical(torch.tensor([0.2, 0.5, 0.3]).expand(N, 3)), [0.2, 0.5, 0.3]),
        (dist.Poisson(0.8 * ONE), st.poisson(0.8).pmf(range(12))),
        (dist.NegativeBinomial(3.0 * ONE, probs=0.3), st.nbinom(3, 0.7).pmf(range(30))),
        (dist.Binomial(5, 0.4 * ONE), st.binom(5, 0.4).pmf(range(6))),
    ],
)
def test_discrete_distributions(fn, mass):
    value = keyed_sample(fn, keys(), "z").long()
    share = torch.bincount(value, minlength=len(mass)) / N
    error = np.sqrt(np.asarray(mass) / N) * 4.5 + 1e-9
    assert (abs(share.numpy() - mass) <= error).all()


def test_dirichlet_one_hot_and_mixture():
    value = keyed_sample(dist.Dirichlet(torch.tensor([0.5, 1.0, 2.0]).expand(N, 3)), keys(), "z")
    assert torch.allclose(value.sum(-1), torch.ones(N))
    assert (value.mean(0) - torch.tensor([0.5, 1.0, 2.0]) / 3.5).abs().max() < 0.02
    one = keyed_sample(dist.OneHotCategorical(torch.tensor([0.1, 0.9]).expand(N, 2)), keys(), "z")
    assert one.shape == (N, 2) and (one.sum(1) == 1).all()
    assert abs(one[:, 1].mean() - 0.9) < 0.02
    parts = dist.Normal(torch.tensor([-5.0, 5.0], dtype=F64).expand(N, 2), 1.0)
    mixture = dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.25, 0.75]).expand(N, 2)), parts
    )
    value = keyed_sample(mixture, keys(), "z")
    assert value.shape == (N,) and abs((value > 0).double().mean() - 0.75) < 0.03


@pytest.mark.parametrize("name", [*CASES, "inner plate", "poisson"])
def test_noise_of_a_row_ignores_other_rows(name):
    n = 12
    loc = torch.linspace(-1, 1, n, dtype=F64)
    makers = {
        "normal": lambda v: dist.Normal(v, 1.0),
        "masked": lambda v: dist.Normal(v, 1.0).mask(v > 0),
        "lognormal": lambda v: dist.LogNormal(v, 1.0),
        "laplace": lambda v: dist.Laplace(v, 1.0),
        "gamma": lambda v: dist.Gamma(v.exp(), 1.0),
        "small gamma": lambda v: dist.Gamma(0.1 * v.exp(), 1.0),
        "inverse gamma": lambda v: dist.InverseGamma(v.exp(), 1.0),
        "beta": lambda v: dist.Beta(v.exp(), (-v).exp()),
        "student": lambda v: dist.StudentT(3 + v, v, 1.0),
        "half cauchy": lambda v: dist.HalfCauchy(v.exp()),
        "von mises": lambda v: dist.VonMises(v, 1.0),
        "poisson": lambda v: dist.Poisson(v.exp()),
        "inner plate": lambda v: dist.Normal(v.expand(3, len(v)), 1.0),
    }
    key = keys(n)
    whole = keyed_sample(makers[name](loc), key, "z")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(3))
    assert torch.equal(keyed_sample(makers[name](loc[order]), key[order], "z"), whole[..., order])
    assert torch.equal(keyed_sample(makers[name](loc[4:5]), key[4:5], "z"), whole[..., 4:5])
    assert len(whole.unique()) == whole.numel() or name == "poisson"


def test_global_random_state_is_untouched():
    before = torch.get_rng_state()
    keyed_sample(dist.Poisson(ONE[:5]), keys(5), "z")
    keyed_sample(dist.Gamma(ONE[:5], 1.0), keys(5), "z")
    assert torch.equal(before, torch.get_rng_state())


def test_a_distribution_that_cannot_be_drawn_row_by_row_says_so():
    class Odd(dist.TorchDistribution):
        arg_constraints = {}

        def rsample(self, sample_shape=()):
            return torch.zeros(3)

    with pytest.raises(NotSupported, match="found .*Odd.*; needed .*; do: "):
        keyed_sample(Odd(torch.Size([3]), validate_args=False), keys(3), "z")


COUNTS = {
    "poisson": (dist.Poisson(3.5 * ONE), st.poisson(3.5)),
    "large poisson": (dist.Poisson(900.0 * ONE), st.poisson(900)),
    "negative binomial": (dist.NegativeBinomial(2.5 * ONE, 0.6), st.nbinom(2.5, 0.4)),
    "gamma poisson": (dist.GammaPoisson(2.0 * ONE, 0.5), st.nbinom(2.0, 1 / 3)),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_follow_their_distribution(name):
    fn, wanted = COUNTS[name]
    value = keyed_sample(fn, keys(), "x").numpy()
    edges = np.unique(wanted.ppf(np.linspace(0.05, 0.95, 12)))
    inside = np.searchsorted(edges, value)
    mass = np.diff(np.concatenate([[0.0], wanted.cdf(edges), [1.0]]))
    found = np.bincount(inside, minlength=len(mass))
    assert st.chisquare(found, N * mass).pvalue > 1e-3
    some = keyed_sample(dist.Poisson(3.5 * ONE[:7]), keys()[:7], "x")
    assert torch.equal(some, keyed_sample(dist.Poisson(3.5 * ONE), keys(), "x")[:7])


def test_zero_inflated_counts():
    value = keyed_sample(dist.ZeroInflatedPoisson(4.0 * ONE, gate=0.3 * ONE), keys(), "x")
    zero = 0.3 + 0.7 * np.exp(-4)
    assert abs(float((value == 0).double().mean()) - zero) < 4 * 0.5 / N**0.5
    assert abs(float(value.mean()) - 2.8) < 4 * float(value.std()) / N**0.5
