"""Log densities of the same rows under many sets of columns."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.queries.density import Estimate, log_prob
from probgen.queries.draws import Predictive, encoded, log_mean_exp

__all__ = ["log_prob_masked", "masked"]


def masked(batch: Batch, mask: Tensor) -> Batch:
    """The same rows with only the slots of a mask (m,) seen."""
    seen = batch.seen & mask
    x = torch.where(seen, encoded(batch), 0.0)
    return replace(batch, x=x, seen=seen, complete=False, key=None)


def log_prob_masked(
    predictive: Predictive, batch: Batch, masks: Tensor, *, particles: int = 512
) -> Estimate:
    """Log density of the cells of each row that are seen and inside a mask.

    Parameters
    ----------
    predictive : Predictive
    batch : Batch of n rows
    masks : Tensor (g, m) of bool
    particles : int
        As in `log_prob`, where the family has no closed form.

    Returns
    -------
    Estimate
        Of tensors (g, n), nats, encoded units. Cost: that of g calls of `log_prob`, unless the
        family has `exact_log_prob_masked`.
    """
    if predictive.integrated:
        parts = [member.exact_log_prob_masked(batch, masks) for member in predictive.members]
        found = [part for part in parts if part is not None]
        if len(found) == len(parts):
            value = found[0] if len(found) == 1 else log_mean_exp(torch.stack(found), 0)
            zero = torch.zeros_like(value)
            method = predictive.members[0].density
            return Estimate(value, zero, zero + math.inf, zero + math.nan, method)
    each = [log_prob(predictive, masked(batch, mask), particles=particles) for mask in masks]
    return Estimate(
        value=torch.stack([one.value for one in each]),
        se=torch.stack([one.se for one in each]),
        ess=torch.stack([one.ess for one in each]),
        khat=torch.stack([one.khat for one in each]),
        method=each[0].method if each else "exact",
    )
