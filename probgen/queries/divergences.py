"""What latents hold of their rows: spread, divergence from the prior, mutual information."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from probgen.batch import Batch
from probgen.errors import NotSupported, message
from probgen.family import Family
from probgen.queries.contraction import Plan, row_sites, survey, traced
from probgen.queries.draws import Predictive, keyed, one_draw, one_row, tile
from probgen.queries.latents import latent
from probgen.queries.noise import Stream
from probgen.session import guarded

__all__ = [
    "ACTIVE",
    "Divergences",
    "LatentDraws",
    "Moments",
    "latent_divergences",
    "latent_draws",
    "latent_moments",
]

#: variance over rows of the mean of a latent, in units of the prior variance, above which it is
#: active (Burda et al. 2016)
ACTIVE = 0.01
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
#: numbers in the widest intermediate: 4 MB of float64
WIDE = 2**19
#: draws of a prior whose marginals have no closed form
DRAWN = 2048
#: rows, and draws of each, among which the density of a guide that is a flow is looked up
WARPED, TWICE = 300, 2


@dataclass(frozen=True)
class Moments:
    """Moments of one latent site by row and dimension, each (n, L).

    Attributes
    ----------
    mean, sd : Tensor
        Of the guide q(z | row).
    prior_mean, prior_sd : Tensor
        Of the model p(z).
    """

    mean: Tensor
    sd: Tensor
    prior_mean: Tensor
    prior_sd: Tensor

    @property
    def activity(self) -> Tensor:
        """Variance (L,) over rows of the guide's mean, in units of the prior variance.

        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders.
        """
        if not len(self.mean):
            return self.mean.new_full(self.mean.shape[1:], torch.nan)
        return (self.mean / self.prior_sd).var(0, correction=0)

    @property
    def divergence(self) -> Tensor:
        """KL(q(z | row) || p(z)) (n, L) of normals with these moments, nats."""
        variance = self.prior_sd.square().clamp_min(1e-300)
        ratio = self.sd.square().clamp_min(1e-300) / variance
        return 0.5 * (ratio + (self.mean - self.prior_mean).square() / variance - 1 - ratio.log())


def latent_moments(predictive: Predictive, batch: Batch, member: int = 0) -> dict[str, Moments]:
    """Moments of the continuous row latents that the guide draws, beside those of their prior.

    Parameters
    ----------
    predictive : Predictive
    batch : Batch of n rows
    member : int

    Returns
    -------
    dict
        By site; empty for a family without such latents. A prior that depends on other latents
        is that at one draw of these.
    """
    family, draws = predictive.members[member], predictive.draws[member]
    if family.row_latents(batch.take(slice(0, 1))) is not None:
        return {}
    # no rows: a blank one tells the shapes, and is cut off again
    rows = keyed(batch) if len(batch) else one_row(family, batch)
    with torch.no_grad(), guarded(0):
        plan = survey(family, rows, one_draw(draws, 0))
        if not plan.proposed:
            return {}
        sites = _both(family, rows, one_draw(draws, 0), plan)
        priors = {name: _moments(p["fn"], q["value"]) for name, (q, p) in sites.items()}
    found = latent(predictive, batch, member=member)
    made = {}
    for name, prior in priors.items():
        if prior is not None and name in found:
            parts = (part[: len(batch)].double() for part in (*found[name], *prior))
            made[name] = Moments(*(flat(part) for part in parts))
    return made


@dataclass(frozen=True)
class Divergences:
    """Averages over n rows, nats; of each dimension (L,) or of all together ().

    Attributes
    ----------
    kl : Tensor
        Mean of KL(q(z | row) || p(z)).
    information : Tensor
        Mutual information of z and which row it is of, at most ``log n``.
    aggregate : Tensor
        KL of the aggregate posterior, the mean of q(z | row) over rows, to the prior.
    se : Tensor
        Largest of their Monte Carlo errors.

    References
    ----------
    Hoffman and Johnson (2016), ELBO surgery: ``kl = information + aggregate``.
    """

    kl: Tensor
    information: Tensor
    aggregate: Tensor
    se: Tensor

    @classmethod
    def of(cls, own: Tensor, pooled: Tensor, prior: Tensor) -> Divergences:
        """From log densities (K, n, ...) of K draws of the guide of each row."""

        def mean(value: Tensor) -> Tensor:
            return value.flatten(0, 1).mean(0)

        def error(value: Tensor) -> Tensor:
            return (value.var(0).sum(0) / len(value)).sqrt() / value.shape[1]

        kl, information, aggregate = own - prior, own - pooled, pooled - prior
        errors = torch.stack([error(value) for value in (kl, information, aggregate)])
        se = errors.nan_to_num(0.0).amax(0)
        return cls(mean(kl), mean(information), mean(aggregate), se)

    def at(self, kl: Tensor) -> Divergences:
        """The same where the first of the three is known exactly."""
        return replace(self, kl=kl, aggregate=kl - self.information)


def latent_divergences(
    predictive: Predictive, batch: Batch, particles: int = 8, member: int = 0
) -> tuple[dict[str, Divergences], Divergences]:
    """What the latents of rows hold, by site and dimension, and all together.

    Parameters
    ----------
    predictive : Predictive
        Its first draw of the globals is used.
    batch : Batch of n rows, at least 1
    particles : int
        Keyed draws of the latents a row, at least 2. Cost: n squared times particles.
    member : int

    Returns
    -------
    by site, total
        By dimension, of normals with the moments of the guide (the guide itself where it is a
        normal) against the prior's own marginal: closed where that is a normal, a mixture of
        normals, or from a kernel estimate of 2,048 draws for a prior with neither. The total
        is that of guide and prior as they are, for a guide that is a flow of 300 rows; its
        parts are NaN where the guide has several sites.

    Raises
    ------
    NotSupported
        If the family has no continuous row latents.
    """
    family, draws = predictive.members[member], predictive.draws[member]
    moments = latent_moments(predictive, batch, member)
    if not moments or not len(batch):
        raise NotSupported(message(
            f"{len(batch)} rows and {len(moments)} continuous latent(s) of a "
            f"{type(family).__name__}", "rows whose guide draws continuous latents",
            "ask a family with a latent space, such as an autoencoder",
        ))  # fmt: skip
    batch, values = keyed(batch), one_draw(draws, 0)
    with torch.no_grad(), guarded(0):
        plan = survey(family, batch, values)
        sites = {name: both for name, both in _both(family, batch, values, plan).items()
                 if name in moments}  # fmt: skip
        found = {name: _by_dimension(own, sites[name][1]["fn"], batch, particles)
                 for name, own in moments.items()}  # fmt: skip
        if any(hasattr(q["fn"], "from_noise") for q, _ in sites.values()):
            # to know its density at the draws of other rows such a guide is inverted
            keep = torch.arange(min(WARPED, len(batch)), device=batch.seen.device)
            batch, particles = batch.take(keep * len(batch) // len(keep)), TWICE
            sites = _both(family, batch, values, plan)
        total = _together(family, batch, values, plan, sites, particles)
    return found, total


@dataclass(frozen=True)
class LatentDraws:
    """Draws of one latent site.

    Attributes
    ----------
    guide : Tensor (n, L)
        One of q(z | row) for each row: draws of the aggregate posterior.
    prior : Tensor (K * n, L)
        K of p(z) for each row.
    normal : tuple of two Tensors (L,), optional
        Means and sds of the prior, where it is independent normals, the same for all rows.
    """

    guide: Tensor
    prior: Tensor
    normal: tuple[Tensor, Tensor] | None


def latent_draws(
    predictive: Predictive, batch: Batch, particles: int = 4, member: int = 0
) -> dict[str, LatentDraws]:
    """Draws of the continuous row latents of guide and model, by site; the same at each call.

    Under the first draw of the globals; `particles` of the prior a row.
    """
    family, draws = predictive.members[member], predictive.draws[member]
    known = latent_moments(predictive, batch, member)
    if not known or not len(batch):
        return {}
    batch, values = keyed(batch), one_draw(draws, 0)
    found = {}
    with torch.no_grad(), guarded(0):
        plan = survey(family, batch, values)
        tiled, keys = tile(batch, particles)
        both = _both(family, tiled, values, plan, keys)
        for name in known:
            (q, p), n = both[name], len(batch)
            drawn = p["fn"].sample().reshape(q["value"].shape)
            found[name] = LatentDraws(
                flat(q["value"])[:n].double(), flat(drawn).double(), _one_normal(p["fn"])
            )
    return found


def _one_normal(fn: Any) -> tuple[Tensor, Tensor] | None:
    """Means and sds (L,) of independent normals that are the same for all rows."""
    while isinstance(fn, td.Independent):
        fn = fn.base_dist
    if not isinstance(fn, td.Normal) or not len(fn.mean):
        return None
    mean, sd = flat(fn.mean).double(), flat(fn.stddev).double()
    alike = bool((mean == mean[0]).all() and (sd == sd[0]).all())
    return (mean[0], sd[0]) if alike else None


# --- one dimension at a time ------------------------------------------------------------------


@dataclass(frozen=True)
class _Normals:
    """Mixtures of k normals in each dimension: log weights (n, k, 1), places (n, k, L)."""

    log_weight: Tensor
    mean: Tensor
    sd: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density (K, n, L) at z (K, n, L); one row of mixtures may serve all."""
        k, size = self.mean.shape[1:]
        step = max(1, WIDE // (k * size * len(z)))
        parts = []
        for at in range(0, z.shape[1], step):
            rows = slice(at, at + step)
            w, mean, sd = (part if len(part) == 1 else part[rows]
                           for part in (self.log_weight, self.mean, self.sd))  # fmt: skip
            parts.append((w + _normal(z[:, rows, None], mean, sd)).logsumexp(2))
        return torch.cat(parts, 1)


def _normal(z: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    return -0.5 * ((z - mean) / sd).square() - sd.log() - HALF_LOG_TAU


def _marginals(fn: Any, own: Moments) -> _Normals:
    """The marginal of each dimension of a prior."""
    n = len(own.mean)
    found = _parts(fn)
    if found is None:
        points = getattr(fn, "points", None)
        if points is None:  # of which nothing but its moments is known
            found = own.prior_mean[:, None], own.prior_sd[:, None]
        else:
            z = points(DRAWN).double()[None]
            # the rule of Silverman (1986) for the width of a kernel
            width = 0.9 * z.std(1, keepdim=True) * DRAWN**-0.2
            found = z, width.expand_as(z)
    mean, sd = (part.double() for part in found)
    if isinstance(fn, td.MixtureSameFamily):
        log_weight = fn.mixture_distribution.logits.double()[..., None]
    else:
        log_weight = mean.new_full((1, mean.shape[1], 1), -math.log(mean.shape[1]))
    return _Normals(log_weight[:n], mean[:n], sd[:n])


def _parts(fn: Any) -> tuple[Tensor, Tensor] | None:
    """Means and sds (n, k, L) of the normals whose mixture a distribution is."""
    if isinstance(fn, td.MixtureSameFamily):
        each = _parts(fn.component_distribution)
        return None if each is None else (each[0][..., 0, :], each[1][..., 0, :])
    while isinstance(fn, td.Independent):
        fn = fn.base_dist
    if isinstance(fn, td.Normal | td.MultivariateNormal):
        mean, sd = fn.mean, fn.variance.sqrt()
        if mean.dim() == 1:
            mean, sd = mean[:, None], sd[:, None]
        return mean.unsqueeze(-2), sd.unsqueeze(-2)
    return None


def _by_dimension(own: Moments, prior: Any, batch: Batch, particles: int) -> Divergences:
    assert batch.key is not None  # the caller has made it
    stream = Stream(batch.key, axis=1)
    noise = stream.normal((particles, *own.mean.shape)).to(own.mean)
    z = own.mean + own.sd * noise
    even = own.mean.new_full((1, len(batch), 1), -math.log(len(batch)))
    pooled = _Normals(even, own.mean[None], own.sd[None])
    against = _marginals(prior, own)
    found = Divergences.of(_normal(z, own.mean, own.sd), pooled.log_prob(z), against.log_prob(z))
    return found.at(own.divergence.mean(0)) if against.mean.shape[1] == 1 else found


# --- all together -----------------------------------------------------------------------------


def _together(
    family: Family, batch: Batch, values: dict[str, Tensor], plan: Plan,
    sites: dict[str, tuple[dict[str, Any], dict[str, Any]]], particles: int,
) -> Divergences:  # fmt: skip
    """Of guide and prior as they are, at draws of the guide."""
    tiled, keys = tile(batch, particles)
    both = _both(family, tiled, values, plan, keys)
    shape = particles, len(batch)

    def joint(which: int) -> Tensor:
        each = [both[name][which]["fn"].log_prob(both[name][0]["value"]) for name in sites]
        return torch.stack([one.reshape(-1, *shape).sum(0) for one in each]).sum(0).double()

    own, prior = joint(0), joint(1)
    pooled, kl = torch.full_like(own, torch.nan), None
    if len(sites) == 1:
        ((name, (q, p)),) = sites.items()
        elsewhere = _pooled(q["fn"], both[name][0]["value"], len(batch))
        pooled = pooled if elsewhere is None else elsewhere.reshape(shape).double()
        kl = _closed(q["fn"], p["fn"])
    found = Divergences.of(own, pooled, prior)
    return found if kl is None else found.at(kl.double().mean())


def _closed(q: Any, p: Any) -> Tensor | None:
    """KL (n,) of two distributions where torch knows it."""
    try:
        return td.kl_divergence(q, p)
    except NotImplementedError:
        return None


def _pooled(fn: Any, z: Tensor, n: int) -> Tensor | None:
    """Log of the mean over n rows of the guide's density, at z (N, *event)."""
    if fn.batch_shape != (n,):
        return None
    step = max(1, WIDE // (n * max(1, fn.event_shape.numel())))
    try:
        parts = [fn.log_prob(z[at : at + step, None]).logsumexp(1)
                 for at in range(0, len(z), step)]  # fmt: skip
    except NotImplementedError:
        return None
    return torch.cat(parts) - math.log(n)


def _both(
    family: Family, batch: Batch, values: dict[str, Tensor], plan: Plan, keys: Tensor | None = None
) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Each proposed site of the guide, and that of the model at the same draws."""
    keys = batch.key if keys is None else keys
    guide = row_sites(traced(family.guide, batch, values, keys), observed=False)
    drawn = {name: site["value"] for name, site in guide.items()}
    model = row_sites(traced(family.model, batch, {**values, **drawn}, keys))
    return {name: (site, model[name]) for name, site in guide.items()
            if name in plan.proposed and name in model}  # fmt: skip


def _moments(fn: Any, value: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and sd of a continuous distribution, of the shape of a draw."""
    if getattr(fn.support, "is_discrete", False):
        return None
    try:
        mean, sd = fn.mean, fn.variance.sqrt()
    except NotImplementedError:
        return None
    return (mean, sd) if mean.shape == value.shape else None


def flat(value: Tensor) -> Tensor:
    """(n, ...) as (n, dimensions)."""
    return value.flatten(1) if value.dim() > 1 else value[:, None]
