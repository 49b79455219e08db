"""Parts of a model that hold nothing: empty components, collapsed latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probgen import queries
from probgen.batch import Batch
from probgen.diagnostics.checks.evidence import Evidence, Scored
from probgen.diagnostics.posterior import Fitted
from probgen.diagnostics.report import Finding
from probgen.errors import NotSupported
from probgen.family import Family
from probgen.queries.contraction import Plan, row_sites, survey, traced
from probgen.queries.draws import Predictive, keyed, one_draw
from probgen.session import guarded

__all__ = ["collapsed", "components", "labels"]

Floats = NDArray[np.float64]
#: variance over rows of the posterior mean, in units of the prior variance, above which a
#: latent dimension is active (Burda et al. 2016)
ACTIVE = 0.01
#: rows that are encoded, and draws of the globals under which they are
ENCODED, DRAWS = 1000, 5


def labels(model: Fitted, rows: Scored) -> dict[str, Floats]:
    """Probabilities (n, codes) of the labels that the family sums out, by name."""
    with torch.no_grad():
        found = model.members_[0].row_latents(rows.batch) or {}
    return {name: p.double().cpu().numpy() for name, p in found.items()}


def components(evidence: Evidence) -> Iterator[Finding]:
    """Labels that the model sums out, and how many rows each of them holds."""
    rows = evidence.known or evidence.seen
    if rows is None or not len(rows):
        return
    for name, share in labels(evidence.model, rows).items():
        held = share.sum(0)
        empty = int((held < 1).sum())
        if len(held) < 2:
            continue
        if empty:
            yield Finding(
                f"empty {name}s", "note", ("density",),
                f"{empty} of {len(held)} hold less than one of {len(rows)} rows",
                "harmless to the density; fewer are faster",
                {"rows": held.tolist()},
            )  # fmt: skip
        else:
            yield Finding(
                f"empty {name}s", "ok", ("density",),
                f"none of {len(held)}: the smallest holds {held.min():.1f} of {len(rows)} rows",
                details={"rows": held.tolist()},
            )  # fmt: skip


def collapsed(evidence: Evidence) -> Iterator[Finding]:
    """Latents of rows that the guide draws, and whether they say anything of the row.

    A dimension is active if the mean of its posterior varies between rows by more than a
    hundredth of its prior variance (Burda, Grosse and Salakhutdinov 2016). The divergence
    KL(q(z | x) || p(z)) of each dimension is that of normals of these moments, nats.
    """
    rows = evidence.known or evidence.seen
    if rows is None or len(rows) < 2:
        return
    found = _moments(evidence.model, rows.batch)
    if not found:
        return
    units, divergence = {}, {}
    for site, (mean, sd, prior_mean, prior_sd) in found.items():
        variance = np.maximum(prior_sd**2, 1e-300)
        units[site] = (mean / prior_sd).var(0)
        ratio = np.maximum(sd**2, 1e-300) / variance
        kl = 0.5 * (ratio + (mean - prior_mean) ** 2 / variance - 1 - np.log(ratio))
        divergence[site] = kl.mean(0)
    names = [f"{site}[{i}]" if len(u) > 1 else site for site, u in units.items()
             for i in range(len(u))]  # fmt: skip
    active = np.concatenate(list(units.values())) > ACTIVE
    kl = np.concatenate(list(divergence.values()))
    dead = [name for name, on in zip(names, active, strict=True) if not on]
    details = {"active": dict(zip(names, active.tolist(), strict=True)),
               "kl": dict(zip(names, kl.tolist(), strict=True))}  # fmt: skip
    shown = ", ".join(dead[:3]) + (f" and {len(dead) - 3} more" if len(dead) > 3 else "")
    text = f"{int(active.sum())} of {len(names)} dimensions are active"
    text += (
        f", KL {kl.min():.2f} to {kl.max():.2f} nats" if len(kl) > 1 else f", KL {kl[0]:.2f} nats"
    )
    if not active.any():
        yield Finding(
            "collapsed latents", "fail", ("density",),
            f"{text}: the guide says the same of every row, so the latents explain nothing",
            "train from other starts, raise the weight of the latents slowly, make the decoder "
            "weaker, or leave them out", details,
        )  # fmt: skip
    elif dead:
        yield Finding(
            "collapsed latents", "note", ("density",), f"{text}; collapsed: {shown}",
            "harmless to the density; fewer latents are faster", details,
        )  # fmt: skip
    else:
        yield Finding("collapsed latents", "ok", ("density",), text, details=details)


def _moments(model: Fitted, batch: Batch) -> dict[str, tuple[Floats, ...]]:
    """Mean and sd (n, dims) of each continuous row latent of the guide, and of its prior."""
    family = model.members_[0]
    draws = {name: value[:DRAWS] for name, value in model._with_draws.draws[0].items()}
    whole = batch.seen.all(1).nonzero()[:, 0][:ENCODED]  # hidden cells are no latents
    if len(whole) < 2 or family.row_latents(batch.take(slice(0, 1))) is not None:
        return {}
    some = keyed(replace(batch.take(whole), complete=True))
    with torch.no_grad(), guarded(0):
        plan = survey(family, some, one_draw(draws, 0))
        if not plan.proposed:
            return {}
        prior = _prior(family, some, one_draw(draws, 0), plan)
    try:
        found = queries.latent(Predictive([family], [draws]), some)
    except NotSupported:
        return {}
    result = {}
    for name, (mean, sd) in found.items():
        if name in prior:
            parts = (mean, sd, *prior[name])
            result[name] = tuple(_flat(part, len(some)) for part in parts)
    return result


def _flat(value: Tensor, n: int) -> Floats:
    return value.double().cpu().numpy().reshape(n, -1)


def _prior(
    family: Family, batch: Batch, values: dict[str, Tensor], plan: Plan
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and sd of each proposed site under the model, given what it depends on."""
    guide = row_sites(traced(family.guide, batch, values, batch.key), observed=False)
    drawn = {name: site["value"] for name, site in guide.items()}
    sites = row_sites(traced(family.model, batch, {**values, **drawn}, batch.key))
    found = {}
    for name in plan.proposed & set(sites):
        moments = _of(sites[name]["fn"])
        if moments is not None and moments[0].shape == drawn[name].shape:
            found[name] = moments
    return found


def _of(fn: Any) -> tuple[Tensor, Tensor] | None:
    if getattr(fn.support, "is_discrete", False):
        return None
    try:
        return fn.mean, fn.variance.sqrt()
    except NotImplementedError:
        return None
