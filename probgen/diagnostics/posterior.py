"""What the posterior draws of a fitted model are, and how good the guide that gave them is."""

from __future__ import annotations

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
from probgen.queries.draws import count_draws, one_draw, one_row
from probgen.queries.pareto import pareto_k
from probgen.schema import Schema
from probgen.session import guarded

__all__ = ["Fitted", "Kind", "guide_khat", "guide_log_p_q", "held_fixed", "kind", "posterior"]

Floats = NDArray[np.float64]
#: where posterior draws come from: nowhere, the guide, a sampler of the family's own that
#: starts from it, or the No-U-Turn sampler, whose chains are of one posterior
Kind = Literal["none", "guide", "sampler", "nuts"]


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
            prior.append(_log_globals(member.model, one, values))
            guide.append(_log_globals(member.guide, one, values))
    return rows + torch.stack(prior), torch.stack(guide)


def _log_globals(program: Any, one: Batch, values: dict[str, Tensor]) -> Tensor:
    sites = global_sites(traced(program, one, values))
    terms = [site["fn"].log_prob(values[name]).sum() for name, site in sites.items()]
    return torch.stack(terms).sum().double() if terms else torch.zeros((), dtype=torch.float64)


def guide_khat(model: Fitted, batch: Batch) -> Floats:
    """Pareto k-hat of log p - log q for each restart (R,).

    Below 0.5 the guide is good, above 0.7 its draws do not stand for the posterior.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), Yes, but did it work? Evaluating variational
    inference. Vehtari et al. (2024), Pareto smoothed importance sampling, JMLR 25.
    """
    found = []
    for member, draws in zip(model.members_, posterior(model).draws, strict=True):
        log_p, log_q = guide_log_p_q(member, draws, batch)
        found.append(float(pareto_k((log_p - log_q)[:, None])[0]))
    return np.array(found)
