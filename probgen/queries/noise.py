"""Noise keyed by row content, site and particle, so that a score never depends on its batch.

Counter-based generation (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"):
number i of a stream is a hash of the key of the stream and i. A row therefore sees the same
noise whatever rows stand beside it, in whatever order, on whatever device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.distributions.zero_inflated import ZeroInflatedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch import distributions as td

from probgen.batch import ROWS, mix
from probgen.errors import NotSupported, message
from probgen.session import noise as forked

__all__ = ["KeyedNoise", "Stream", "even_uniforms", "keyed_sample", "particle_keys", "site_key"]

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the step of SplitMix64, as int64
_ROUNDS = 256  # a rejection step of a gamma fails with probability below 0.05


def site_key(name: str) -> int:
    """A 64-bit signed hash of a site name, the same in every process.

    >>> site_key("z") == site_key("z"), site_key("z") == site_key("y")
    (True, False)
    """
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def particle_keys(keys: Tensor, particles: int, first: int = 0) -> Tensor:
    """Keys (particles * n,) of particles first, first + 1, ... of each row, particle-major."""
    number = torch.arange(first, first + particles, device=keys.device)
    return mix(mix(keys) + mix(number)[:, None]).reshape(-1)


def even_uniforms(count: int, size: int, seed: int = 0) -> Tensor:
    """Uniform numbers (count, size) inside (0, 1) that cover the cube evenly.

    A scrambled Sobol sequence (Owen 1997), float64.
    """
    engine = torch.quasirandom.SobolEngine(size, scramble=True, seed=seed)
    return engine.draw(count, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)


class Stream:
    """Random numbers of n rows: one key a row, read along one axis of the wanted shape.

    Parameters
    ----------
    key : Tensor (n,) of int64
    axis : int
        The non-negative axis of every shape asked for along which the rows lie.
    """

    def __init__(self, key: Tensor, axis: int) -> None:
        self.key = key
        self.axis = axis
        self._used = 0

    def split(self) -> Stream:
        """A new independent stream; the i-th split of a stream is always the same one."""
        self._used += 1
        return Stream(mix(self.key ^ mix(torch.full_like(self.key, self._used))), self.axis)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Uniform float64 numbers strictly inside (0, 1), with 52 random bits, of a shape."""
        rows = [1] * len(shape)
        rows[self.axis] = -1
        others = list(shape)
        others[self.axis] = 1
        count = torch.Size(others).numel()
        number = torch.arange(count, dtype=torch.int64, device=self.key.device).reshape(others)
        bits = mix(self.split().key.reshape(rows) + number * _GOLDEN)
        # 52 bits and a half: the largest is 1 - 2**-53, so that 0 and 1 never occur
        return (((bits >> 12) & ((1 << 52) - 1)).double() + 0.5) * 2.0**-52

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal float64 numbers of a shape, by inversion."""
        return torch.special.ndtri(self.uniform(shape))


class KeyedNoise(Messenger):
    """Draws the row latents of a pair from keyed noise instead of torch's random state.

    Replaces the value of each unobserved sample site inside the rows plate that has no
    value yet; sites outside the plate are left alone.

    Parameters
    ----------
    keys : Tensor (n,) of int64
        One key a row of the batch that the pair sees.
    lenient : bool
        Leave a site to torch's random state where its distribution cannot be drawn row by
        row, instead of raising `NotSupported`.
    """

    def __init__(self, keys: Tensor, lenient: bool = False) -> None:
        super().__init__()
        self._keys = keys
        self._lenient = lenient

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["done"] or msg["is_observed"] or msg["value"] is not None:
            return
        if site_is_subsample(msg) or not any(f.name == ROWS for f in msg["cond_indep_stack"]):
            return
        try:
            with torch.no_grad():
                msg["value"] = keyed_sample(msg["fn"], self._keys, msg["name"])
        except NotSupported:
            if not self._lenient:
                raise


def keyed_sample(distribution: td.Distribution, keys: Tensor, name: str) -> Tensor:
    """One draw of `distribution`, whose rightmost batch dim holds the rows, by keyed noise.

    Parameters
    ----------
    distribution : Distribution
        Batch shape (..., n).
    keys : Tensor (n,) of int64
    name : str
        Of the site: another name, other noise.

    Returns
    -------
    Tensor
        Of shape batch + event; the values of one row depend on its key and parameters only.
    """
    key = mix(keys ^ site_key(name))
    stream = Stream(key, axis=len(distribution.batch_shape) - 1)
    return _draw(distribution, stream, distribution.batch_shape + distribution.event_shape)


def _draw(d: td.Distribution, stream: Stream, shape: torch.Size) -> Tensor:
    own = getattr(d, "from_noise", None)
    if own is not None:  # the image of standard normal noise
        drawn: Tensor = own(stream.normal(shape))
        return drawn
    for kinds, rule in _RULES:
        if isinstance(d, kinds):
            return rule(d, stream, shape)
    if d.has_rsample and not d.event_shape:
        try:
            return _inverse(d, stream.split(), shape)
        except NotImplementedError:
            pass  # no quantile function: row by row below
    return _row_by_row(d, stream, shape)


def _inverse(d: td.Distribution, stream: Stream, shape: torch.Size) -> Tensor:
    like = next(v for v in vars(d).values() if isinstance(v, Tensor) and v.is_floating_point())
    tiny = torch.finfo(like.dtype).eps / 2
    return d.icdf(stream.uniform(shape).to(like.dtype).clamp(tiny, 1 - tiny))


def _base(d: Any, stream: Stream, shape: torch.Size) -> Tensor:
    return _draw(d.base_dist, stream, shape)


def _transformed(d: td.TransformedDistribution, stream: Stream, shape: torch.Size) -> Tensor:
    base = d.base_dist
    value = _draw(base, stream, base.batch_shape + base.event_shape)
    for transform in d.transforms:
        value = transform(value)
    return value


def _delta(d: dist.Delta, stream: Stream, shape: torch.Size) -> Tensor:
    return d.v.expand(shape)


def _normal(d: td.Normal, stream: Stream, shape: torch.Size) -> Tensor:
    return d.loc + d.scale * stream.normal(shape).to(d.loc.dtype)


def _multivariate(d: td.MultivariateNormal, stream: Stream, shape: torch.Size) -> Tensor:
    eps = stream.normal(shape).to(d.loc.dtype)
    return d.loc + (d._unbroadcasted_scale_tril * eps.unsqueeze(-2)).sum(-1)


def _low_rank(d: td.LowRankMultivariateNormal, stream: Stream, shape: torch.Size) -> Tensor:
    factor = d._unbroadcasted_cov_factor
    wide = stream.normal(shape[:-1] + factor.shape[-1:]).to(d.loc.dtype)
    eps = stream.normal(shape).to(d.loc.dtype)
    own = d._unbroadcasted_cov_diag.sqrt() * eps
    return d.loc + (factor * wide.unsqueeze(-2)).sum(-1) + own


def _bernoulli(d: td.Bernoulli, stream: Stream, shape: torch.Size) -> Tensor:
    return (stream.uniform(shape) < d.probs).to(d.probs.dtype)


def _categorical(d: td.Categorical, stream: Stream, shape: torch.Size) -> Tensor:
    steps = d.probs.double().cumsum(-1)
    steps = steps / steps[..., -1:]
    return (stream.uniform(shape).unsqueeze(-1) > steps[..., :-1]).sum(-1)


def _one_hot(d: td.OneHotCategorical, stream: Stream, shape: torch.Size) -> Tensor:
    code = _categorical(td.Categorical(probs=d.probs), stream, shape[:-1])
    return torch.nn.functional.one_hot(code, shape[-1]).to(d.probs.dtype)


def _standard_gamma(concentration: Tensor, stream: Stream, shape: torch.Size) -> Tensor:
    """Gamma(concentration, 1) by Marsaglia and Tsang (2000), rejection rounds by counter."""
    stream = stream.split()  # the number of rounds depends on the batch: keep it to ourselves
    alpha = concentration.double().expand(shape)
    boost = torch.where(alpha < 1, stream.uniform(shape).log() / alpha, torch.zeros_like(alpha))
    d = torch.where(alpha < 1, alpha + 1, alpha) - 1 / 3
    log_value = d.log()
    todo = torch.ones_like(alpha, dtype=torch.bool)
    for _round in range(_ROUNDS):
        eps, log_u = stream.normal(shape), stream.uniform(shape).log()
        root = 1 + eps / (3 * d.sqrt())
        log_v = 3 * root.clamp_min(1e-300).log()
        accepted = todo & (root > 0) & (log_u < eps**2 / 2 + d * (1 - root**3 + log_v))
        log_value = torch.where(accepted, d.log() + log_v, log_value)
        todo &= ~accepted
        if not todo.any():
            break
    return (log_value + boost).exp().clamp_min(1e-300)


def _gamma(d: td.Gamma, stream: Stream, shape: torch.Size) -> Tensor:
    return (_standard_gamma(d.concentration, stream, shape) / d.rate).to(d.rate.dtype)


def _beta(d: td.Beta, stream: Stream, shape: torch.Size) -> Tensor:
    one = _standard_gamma(d.concentration1, stream, shape)
    other = _standard_gamma(d.concentration0, stream, shape)
    return _inside((one / (one + other)).to(d.concentration1.dtype))


def _inside(value: Tensor) -> Tensor:
    """Keeps rounding from reaching 0 or 1."""
    info = torch.finfo(value.dtype)
    return value.clamp(info.tiny, 1 - info.eps)


def _dirichlet(d: td.Dirichlet, stream: Stream, shape: torch.Size) -> Tensor:
    value = _standard_gamma(d.concentration, stream, shape)
    return (value / value.sum(-1, keepdim=True)).to(d.concentration.dtype)


def _student(d: td.StudentT, stream: Stream, shape: torch.Size) -> Tensor:
    chi2 = 2 * _standard_gamma(d.df / 2, stream, shape)
    eps = stream.normal(shape) * (d.df / chi2).sqrt()
    return d.loc + d.scale * eps.to(d.loc.dtype)


def _poisson(d: td.Poisson, stream: Stream, shape: torch.Size) -> Tensor:
    return _poisson_counts(d.rate, stream, shape)


def _poisson_counts(rate: Tensor, stream: Stream, shape: torch.Size) -> Tensor:
    """Inversion, count by count; far from 0 the rounded normal quantile with its skewness."""
    wide = rate.double().expand(shape)
    u = stream.uniform(shape)
    small = wide.clamp(max=_INVERTED)
    term, count = (-small).exp(), torch.zeros_like(u)
    total = term
    number = 0
    while bool((todo := u > total).any()) and number < 2 * _INVERTED + 100:
        number += 1
        term = term * small / number
        total = total + term
        count = count + todo
    z = torch.special.ndtri(u)
    # Cornish and Fisher (1938): off by less than one count in ten thousand at these rates
    far = wide + wide.sqrt() * z + (z.square() - 1) / 6
    return torch.where(wide > _INVERTED, (far + 0.5).floor().clamp_min(0), count).to(rate.dtype)


def _gamma_poisson(d: dist.GammaPoisson, stream: Stream, shape: torch.Size) -> Tensor:
    return _poisson_counts(_draw(d._gamma, stream, shape), stream, shape)


def _negative_binomial(d: td.NegativeBinomial, stream: Stream, shape: torch.Size) -> Tensor:
    rate = _standard_gamma(d.total_count, stream, shape) * d.logits.exp()
    return _poisson_counts(rate.to(d.logits.dtype), stream, shape)


def _zero_inflated(d: Any, stream: Stream, shape: torch.Size) -> Tensor:
    value = _draw(d.base_dist.expand(shape), stream, shape)
    return torch.where(stream.uniform(shape) < d.gate, torch.zeros_like(value), value)


def _mixture(d: td.MixtureSameFamily, stream: Stream, shape: torch.Size) -> Tensor:
    batch, parts = d.batch_shape, d.component_distribution
    values = _draw(parts, stream, parts.batch_shape + parts.event_shape)
    code = _categorical(d.mixture_distribution, stream, batch)
    code = code.reshape(batch + (1,) * (1 + len(d.event_shape)))
    code = code.expand(batch + (1,) + d.event_shape)
    return values.gather(len(batch), code).squeeze(len(batch))


def _row_by_row(d: td.Distribution, stream: Stream, shape: torch.Size) -> Tensor:
    """Torch's own sampler, seeded by the key of each row: slow, for any plain distribution."""
    if not _sliceable(d):
        raise NotSupported(
            message(
                f"a row latent distributed as {type(d).__name__}",
                "one that can be drawn for each row by itself",
                "write it as a TransformedDistribution of a Normal, or from torch's families",
            )
        )
    axis, batch = stream.axis, len(d.batch_shape)
    target = list(shape[:batch])
    target[axis] = 1
    rows = []
    for row, seed in enumerate(stream.split().key.tolist()):
        with forked(seed & ((1 << 62) - 1)):
            rows.append(_slice(d, axis - batch, row).expand(torch.Size(target)).sample())
    return torch.cat(rows, axis) if rows else torch.zeros(shape, device=stream.key.device)


def _sliceable(d: td.Distribution) -> bool:
    constraints = getattr(type(d), "arg_constraints", None)
    return isinstance(constraints, dict) and bool(constraints)


def _slice(d: td.Distribution, dim: int, row: int) -> td.Distribution:
    """The same distribution for one row; `dim` is the negative batch dim of the rows."""
    kept = {}
    constraints: Any = type(d).arg_constraints
    for name, constraint in constraints.items():
        if name in ("probs", "logits") and name not in vars(d):
            continue  # of the two, the one that it was built from
        value = getattr(d, name)
        at = dim - constraint.event_dim
        if isinstance(value, Tensor) and value.dim() >= -at and value.shape[at] > 1:
            value = value.narrow(at, row, 1)
        kept[name] = value
    return type(d)(**kept)


_Rule = Callable[[Any, Stream, torch.Size], Tensor]
#: rates up to which counts are found by adding up their probabilities
_INVERTED = 400
_RULES: list[tuple[type | tuple[type, ...], _Rule]] = [
    ((MaskedDistribution, ExpandedDistribution, td.Independent), _base),
    (td.TransformedDistribution, _transformed),
    (dist.Delta, _delta),
    (td.Normal, _normal),
    (td.MultivariateNormal, _multivariate),
    (td.LowRankMultivariateNormal, _low_rank),
    (td.Bernoulli, _bernoulli),
    (td.Categorical, _categorical),
    (td.OneHotCategorical, _one_hot),
    (td.Gamma, _gamma),
    (td.Beta, _beta),
    (td.Dirichlet, _dirichlet),
    (td.StudentT, _student),
    (td.MixtureSameFamily, _mixture),
    (td.Poisson, _poisson),
    (td.NegativeBinomial, _negative_binomial),
    (dist.GammaPoisson, _gamma_poisson),
    (ZeroInflatedDistribution, _zero_inflated),
]
