"""What the posterior draws of a fitted model are, and how good the guide that gave them is."""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from probgen.batch import Batch
from probgen.family import Draws, Family
from probgen.queries import Predictive, log_prob_draws
from probgen.queries.contraction import global_sites, traced
from probgen.queries.draws import count_draws, draw_globals, one_draw, one_row
from probgen.queries.pareto import pareto_k
from probgen.schema import Schema
from probgen.session import guarded

__all__ = [
    "Fitted", "Kind", "guide_khat", "guide_log_p_q", "held_fixed", "khat_limit", "kind",
    "log_globals", "log_sites", "posterior", "site_units",
]  # fmt: skip

Floats = NDArray[np.float64]
#: where posterior draws come from: nowhere, the guide, a sampler of the family's own that
#: starts from it, the No-U-Turn sampler, whose chains are of one posterior, or the posteriors
#: of the parts that a model is made of
Kind = Literal["none", "guide", "sampler", "nuts", "parts"]


class Fitted(Protocol):
    """What diagnostics need of a fitted estimator."""

    schema_: Schema
    members_: list[Family]
    results_: list[Any]
    converged_: bool
    draws: int

    @property
    def _with_draws(self) -> Predictive: ...
    @property
    def _device(self) -> torch.device: ...
    def _batch(self, encoded: Any, device: torch.device) -> Batch: ...
    def _predictive(self, posterior: bool = True) -> Predictive: ...
    def _decode(self, x: NDArray[Any], index: pd.Index | None) -> pd.DataFrame: ...


def posterior(model: Fitted) -> Predictive:
    """The members with the stored draws of their global latents."""
    return model._with_draws


def kind(model: Fitted) -> Kind:
    """Where the posterior draws of a model come from."""
    if not any(posterior(model).draws):
        return "none"
    if not all(member.joint_posterior for member in model.members_):
        return "parts"
    own = [m.draw_globals(1, torch.Generator().manual_seed(0)) for m in model.members_]
    if any(draws is None for draws in own):
        return "guide"
    return "nuts" if all("nuts" in result.engine for result in model.results_) else "sampler"


def held_fixed(member: Family, draws: Draws, batch: Batch) -> int:
    """How many learned numbers of the model have no posterior: point estimates beside its draws.

    Found by differentiating the model's log density of some rows.
    """
    learned = [value for value in member.parameters() if value.requires_grad]
    if not learned or not len(batch):
        return 0
    few = batch.take(slice(0, 8))
    with torch.enable_grad(), guarded(0):
        total = traced(member.model, few, one_draw(draws, 0)).log_prob_sum()
        if not total.requires_grad:
            return 0
        found = torch.autograd.grad(total, learned, allow_unused=True)
    return sum(v.numel() for v, slope in zip(learned, found, strict=True) if slope is not None)


def guide_log_p_q(
    member: Family, draws: Draws, batch: Batch, likelihood: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log joint density and log guide density of each draw, (S,) each, nats.

    Parameters
    ----------
    member : Family
    draws : Draws
        Draws from the guide of this member.
    batch : Batch
        The rows that the member was fitted to; row latents are integrated out.
    likelihood : Tensor (S, n), optional
        Log density of each row at each draw, where it is known already.

    Returns
    -------
    log_p, log_q : Tensor (S,)
        ``log p(rows, t)`` and ``log q(t)``, with the rows in the units of `likelihood`
        (encoded ones without it).
    """
    if likelihood is None:
        likelihood = log_prob_draws(Predictive([member], [draws]), batch)
    rows = (likelihood.double() * batch.weight).sum(1)
    one = one_row(member)
    prior, guide = [], []
    with torch.no_grad(), guarded(0):
        for s in range(count_draws(draws)):
            values = one_draw(draws, s)
            prior.append(log_globals(member.model, one, values))
            guide.append(log_globals(member.guide, one, values))
    return rows + torch.stack(prior), torch.stack(guide)


def log_globals(program: Any, one: Batch, values: dict[str, Tensor]) -> Tensor:
    """Log density of values of the globals under a model or guide, nats; inside `guarded`."""
    terms = list(log_sites(program, one, values).values())
    return torch.stack(terms).sum().double() if terms else torch.zeros((), dtype=torch.float64)


def log_sites(program: Any, one: Batch, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The terms of `log_globals`, by site."""
    sites = global_sites(traced(program, one, values))
    return {name: site["fn"].log_prob(site["value"]).sum() for name, site in sites.items()}


def khat_limit(draws: int) -> float:
    """The k-hat up to which this many draws stand for the posterior.

    min(1 - 1 / log10(draws), 0.7): Vehtari et al. (2024), Pareto smoothed importance sampling.

    Examples
    --------
    >>> khat_limit(100), khat_limit(10_000)
    (0.5, 0.7)
    """
    return min(1 - 1 / math.log10(max(draws, 2)), 0.7)


def site_units(schema: Schema) -> Literal["table", "encoded"]:
    """Units in which a model's globals are stated: the table's own, or encoded.

    "table" where the family sees no standardised column, as a `Pair` does.
    """
    native = all(c.native for c in schema.columns if c.real_like)
    return "table" if native else "encoded"


def guide_khat(model: Fitted, batch: Batch, draws: int | None = None) -> Floats:
    """Pareto k-hat of log p - log q for each restart (R,).

    Parameters
    ----------
    model : Density
        One whose draws come from its guide.
    batch : Batch
        The rows that it was fitted to.
    draws : int, optional
        New draws of the guide, seeded by the fit; None takes those of the model. k-hat of few
        draws is itself uncertain, by about 0.15 at 100.

    Notes
    -----
    Below 0.5 the guide is good; see `khat_limit` for when its draws do not stand for the
    posterior. Cost draws * rows.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), Yes, but did it work? Evaluating variational
    inference. Vehtari et al. (2024), Pareto smoothed importance sampling, JMLR 25.
    """
    stored = posterior(model).draws
    found = []
    for member, result, own in zip(model.members_, model.results_, stored, strict=True):
        if draws is not None and draws != count_draws(own):
            own = draw_globals(member, draws, seed=result.seed)
        log_p, log_q = guide_log_p_q(member, own, batch)
        found.append(float(pareto_k((log_p - log_q)[:, None])[0]))
    return np.array(found)
