"""Training of a flow over the globals: one smooth objective at many fixed draws.

A flow that is learned from single draws wanders: its gradient has the noise of one point of
the posterior. At noise that is held fixed and spread evenly, the divergence from the guide to
the posterior is one smooth function, and a quasi-Newton search brings it down in a few hundred
steps (L-BFGS, Liu and Nocedal 1989). The log joint density at many draws costs little more than
at one where torch can vectorise the user's function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from probgen.batch import Batch
from probgen.errors import ApproximationWarning, message, warn
from probgen.family import Family
from probgen.pairs.flow import UNIT, draw, noise_like, push, spread_noise
from probgen.pairs.guides import GlobalGuide
from probgen.queries.contraction import Plan, log_joint

__all__ = ["bend", "many"]

#: draws of the globals a step of the loop, and where the function cannot be vectorised
DRAWS, FEW = 64, 4
#: fixed draws of the search, and its steps: what they reach is in benchmarks/guides.py --only
#: shapes; on posteriors of more than two globals they have not been compared
FIXED, STEPS = 1024, 300
#: stands for a loss that is not finite
FAR = 1e100
#: what a function that cannot be vectorised raises
NOT_VECTORISED = (RuntimeError, NotImplementedError, ValueError, TypeError)


def _joint(
    family: Family, guide: GlobalGuide, plan: Plan, batch: Batch
) -> Callable[[Tensor], Tensor]:
    """Log density of the rows and the globals at an unconstrained vector (d,)."""

    def joint(free: Tensor) -> Tensor:
        values, stretch = guide.sites(free)
        rows, prior = log_joint(family, batch, plan, values)
        return (rows * batch.scale).sum() + prior + stretch

    return joint


def many(family: Family, guide: GlobalGuide, plan: Plan) -> Callable[[Batch], Tensor]:
    """The loss of a batch, nats a row of the table, averaged over many draws of a flow.

    For pairs whose globals are all the flow's, and whose row latents are not sampled.
    """
    whole = [True]

    def loss(batch: Batch) -> Tensor:
        joint = _joint(family, guide, plan, batch)

        def at(count: int) -> tuple[Tensor, Tensor]:
            loc, root = guide.affine()
            value, log_q, still = draw(guide.bend, loc, root, noise_like(loc, (count,)))
            return value, (log_q if still is None else still).sum(-1)

        if whole[0]:
            value, still = at(DRAWS)
            try:
                log_p = torch.func.vmap(joint)(value)
            except NOT_VECTORISED:
                whole[0] = False  # the function looks at single values
        if not whole[0]:
            value, still = at(FEW)
            log_p = torch.stack([joint(one) for one in value])
        return (still - log_p).mean() / batch.total

    return loss


def bend(
    family: Family, guide: GlobalGuide, plan: Plan, batch: Batch, generator: torch.Generator
) -> None:
    """Bend a flow that is straight as yet, unless that makes it worse at other draws.

    A function that cannot be vectorised leaves it straight: so many runs would take too long.
    """
    joint = torch.func.vmap(_joint(family, guide, plan, batch))
    loc = guide.affine()[0].detach()
    seeds = torch.randint(2**31, (2,), generator=generator).tolist()
    noise, others = (spread_noise(loc, FIXED, seed) for seed in seeds)

    def loss(at: Tensor) -> Tensor:
        value, log_q = push(guide.bend, *guide.affine(), at)
        return (log_q.sum(-1) - joint(value)).mean()

    try:
        with torch.no_grad():
            before = float(loss(others))
    except NOT_VECTORISED as error:
        warn(message(
            "a function that torch cannot run at many draws of its globals at once "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})",
            "a function of tensors, without a branch on a value, for guide='flow'",
            "rewrite it, or take guide='multivariate', to which this flow stays close",
        ), ApproximationWarning)  # fmt: skip
        return
    weights = list(guide.bend.parameters())
    parameters: list[Tensor] = [*weights, guide.loc, guide.log_scale, guide.lower]
    kept = [p.detach().clone() for p in parameters]
    _search(lambda: loss(noise), parameters, [UNIT] * len(weights) + [1.0] * 3)
    with torch.no_grad():
        if not float(loss(others)) < before:
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


def _search(
    loss: Callable[[], Tensor], parameters: Sequence[Tensor], units: Sequence[float]
) -> None:
    """Minimise a smooth loss over parameters that are measured in units."""
    sizes = [p.numel() for p in parameters]

    def flat(values: Sequence[Tensor], powers: int) -> np.ndarray:
        parts = [v.detach().reshape(-1) * u**powers for v, u in zip(values, units, strict=True)]
        return torch.cat(parts).double().cpu().numpy()

    def put(vector: np.ndarray) -> None:
        parts = torch.from_numpy(vector).split(sizes)
        with torch.no_grad():
            for parameter, part, unit in zip(parameters, parts, units, strict=True):
                parameter.copy_((part / unit).view_as(parameter))

    def value_and_slope(vector: np.ndarray) -> tuple[float, np.ndarray]:
        put(vector)
        found = loss()
        slopes = torch.autograd.grad(found, parameters, allow_unused=True)
        slope = flat([torch.zeros_like(p) if g is None else g
                      for p, g in zip(parameters, slopes, strict=True)], -1)  # fmt: skip
        value = float(found.detach())
        if not (math.isfinite(value) and np.isfinite(slope).all()):
            return FAR, np.zeros(len(vector))  # the line search turns back
        return value, slope

    found = minimize(
        value_and_slope, flat(parameters, 1), jac=True, method="L-BFGS-B",
        options={"maxiter": STEPS, "maxfun": 2 * STEPS, "maxcor": 20, "ftol": 1e-12},
    )  # fmt: skip
    put(found.x)
