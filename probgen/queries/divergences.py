"""What latents hold of their rows: spread, divergence from the prior, mutual information."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.family import Family
from probgen.queries.contraction import Plan, row_sites, survey, traced
from probgen.queries.draws import Predictive, keyed, one_draw, one_row
from probgen.queries.latents import latent
from probgen.session import guarded

__all__ = ["ACTIVE", "Moments", "latent_moments"]

#: variance over rows of the mean of a latent, in units of the prior variance, above which it is
#: active (Burda et al. 2016)
ACTIVE = 0.01
#: numbers in the widest intermediate: 4 MB of float64
WIDE = 2**19
#: draws of a prior whose marginals have no closed form
DRAWN = 2048


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
            made[name] = Moments(*(_flat(part) for part in parts))
    return made


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


def _flat(value: Tensor) -> Tensor:
    """(n, ...) as (n, dimensions)."""
    return value.flatten(1) if value.dim() > 1 else value[:, None]
