"""Parts of a model that hold nothing: empty components, collapsed latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from probgen import queries
from probgen.batch import Batch
from probgen.diagnostics.checks.evidence import Evidence, Scored
from probgen.diagnostics.posterior import Fitted
from probgen.diagnostics.report import Finding
from probgen.errors import NotSupported
from probgen.queries import Predictive

__all__ = ["collapsed", "components", "labels"]

Floats = NDArray[np.float64]
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
    found = _latents(evidence.model, rows.batch)
    if not found:
        return
    sizes = {site: moments.mean.shape[1] for site, moments in found.items()}
    names = [f"{site}[{i}]" if size > 1 else site for site, size in sizes.items()
             for i in range(size)]  # fmt: skip
    active = _array(torch.cat([m.activity for m in found.values()])) > queries.ACTIVE
    kl = _array(torch.cat([m.divergence.mean(0) for m in found.values()]))
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
            "lower beta, or give the latents free_bits=0.5 or a warmup where the model has these; "
            "train from other starts, make the decoder weaker, or leave the latents out", details,
        )  # fmt: skip
    elif dead:
        yield Finding(
            "collapsed latents", "note", ("density",), f"{text}; collapsed: {shown}",
            "harmless to the density; fewer latents are faster", details,
        )  # fmt: skip
    else:
        yield Finding("collapsed latents", "ok", ("density",), text, details=details)


def _array(value: torch.Tensor) -> Floats:
    return value.double().cpu().numpy()


def _latents(model: Fitted, batch: Batch) -> dict[str, queries.Moments]:
    """Moments of the row latents of the first restart, on 1,000 rows at most."""
    family = model.members_[0]
    draws = {name: value[:DRAWS] for name, value in model._with_draws.draws[0].items()}
    if len(batch) and family.importance(batch.take(slice(0, 1))) is None:
        # the guide of such a family draws hidden cells too, which are no latents
        batch = replace(batch.take(batch.seen.all(1).nonzero()[:, 0]), complete=True)
    batch = batch.take(torch.arange(min(ENCODED, len(batch)), device=batch.seen.device))
    if len(batch) < 2:
        return {}
    try:
        return queries.latent_moments(Predictive([family], [draws]), batch)
    except NotSupported:
        return {}
