"""Training of a flow over the globals: bounds of many draws at once.

A flow that is learned from single draws wanders: its gradient has the noise of one point of
the posterior. The log joint density at many draws costs little more than at one where torch
can vectorise the user's function.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.family import Family
from probgen.pairs.flow import UNIT, draw, noise_like
from probgen.pairs.guides import GlobalGuide
from probgen.queries.contraction import Plan, log_joint

__all__ = ["bend", "many"]

#: draws of the globals a step, and where the function cannot be vectorised
DRAWS, FEW = 64, 4
#: steps, first rate and largest gradient (nats) of the flow's own schedule
STEPS, RATE, CLIP = 500, 1e-2, 10.0
#: weight of the divergence from the posterior to the guide beside that from the guide to it
COVER = 1.0


def many(family: Family, guide: GlobalGuide, plan: Plan) -> Callable[[Batch], Tensor]:
    """The loss of a batch, nats a row of the table, averaged over many draws of a flow.

    For pairs whose globals are all the flow's, and whose row latents are not sampled.
    """
    whole = [True]

    def loss(batch: Batch) -> Tensor:
        def joint(free: Tensor) -> Tensor:
            values, stretch = guide.sites(free)
            rows, prior = log_joint(family, batch, plan, values)
            return (rows * batch.scale).sum() + prior + stretch

        def at(count: int) -> tuple[Tensor, Tensor, Tensor]:
            loc, root = guide.affine()
            noise = noise_like(loc, (count,))
            value, log_q, still = draw(guide.bend, loc, root, noise)
            log_q = log_q.sum(-1)
            return value, log_q, log_q if still is None else still.sum(-1)

        if whole[0]:
            value, log_q, still = at(DRAWS)
            try:
                log_p = torch.func.vmap(joint)(value)
            except (RuntimeError, NotImplementedError, ValueError, TypeError):
                whole[0] = False  # the function looks at single values
        if not whole[0]:
            value, log_q, still = at(FEW)
            log_p = torch.stack([joint(one) for one in value])
        # the gradient of log q at fixed values, whose own value is 0
        score = log_q - still
        cover = (_weights(log_p.detach() - still.detach()) * score).sum()
        return ((still - log_p).mean() - COVER * cover) / batch.total

    return loss


def _weights(log_ratio: Tensor) -> Tensor:
    """Importance weights (K,) that sum to one, truncated at the root of K times their mean.

    Ionides (2008), Truncated importance sampling.
    """
    count = len(log_ratio)
    ratio = (log_ratio - log_ratio.logsumexp(0)).exp() * count
    ratio = ratio.clamp(max=count**0.5)
    return ratio / ratio.sum()


def bend(guide: GlobalGuide, loss: Callable[[Batch], Tensor], batch: Batch) -> None:
    """Bend a flow on a schedule of its own: the loop would stop while it has hardly moved.

    Adam whose rate falls to 0 along a cosine.
    """
    weights = list(guide.bend.parameters())
    others = [guide.loc, guide.log_scale, guide.lower]
    parameters = weights + others
    adam = torch.optim.Adam([{"params": weights}, {"params": others}])
    for step in range(STEPS):
        rate = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        for group, unit in zip(adam.param_groups, (UNIT, 1.0), strict=True):
            group["lr"] = rate / unit
        found = torch.autograd.grad(loss(batch) * batch.total, parameters, allow_unused=True)
        norm = math.sqrt(sum(float(g.square().sum()) for g in found if g is not None))
        if not math.isfinite(norm):
            continue
        for parameter, gradient in zip(parameters, found, strict=True):
            shrink = min(1.0, CLIP / max(norm, 1e-12))
            parameter.grad = None if gradient is None else gradient * shrink
        adam.step()
    for parameter in parameters:
        parameter.grad = None
