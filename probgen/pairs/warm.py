"""Where the training of a user's pair starts, whatever the units of its table.

Adam moves every parameter by about its rate in each step, so an intercept of 4,200 grams is
out of reach and a slope of 0.001 is lost in the noise. A few quasi-Newton steps, which are
free of scale, come first (L-BFGS, Liu and Nocedal 1989, on a bound with its noise held
fixed); each parameter is then measured from there, in the unit 1 / sqrt(information of one
row), the globals in the spread of their guide.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from probgen.batch import Batch
from probgen.queries.contraction import Plan, survey
from probgen.session import noise

if TYPE_CHECKING:
    from probgen.families.pair import UserPair

__all__ = ["warm_start"]

#: rows that are looked at, at most
ROWS = 1000
#: draws of the noise that is held fixed; pairs of opposite ones for the globals
DRAWS = 4
#: steps of the search
STEPS = 60
#: searches, each in the units that the one before found, and the gain (nats a row) of the last
ROUNDS, ENOUGH = 5, 1e-3
#: stands for a loss that is not finite
FAR = 1e100
#: groups of rows by which the information of a row is estimated
GROUPS = 24


def warm_start(pair: UserPair, batch: Batch, generator: torch.Generator) -> None:
    """Move the parameters of a pair near their best values, and set their units.

    Networks keep their initial weights: a quasi-Newton search on few rows would overfit them.
    """
    parameters = [*pair.store.raw.values()]
    if pair.global_guide is not None:
        parameters += pair.global_guide.parameters()
    if not parameters:
        return
    few = _some(batch, generator)
    with torch.no_grad():
        plan = survey(pair, few, pair._one_global(pair.typical(few)))
    noisy = plan.sampled or pair.global_guide is not None
    count = DRAWS if noisy else 1
    seeds = [int(torch.randint(2**62, (), generator=generator)) for _ in range(count)]
    for _ in range(ROUNDS):
        gain = _search(pair, few, plan, parameters, seeds)
        if pair.global_guide is not None:
            pair.global_guide.recentre()
        _measure(pair, few, plan, seeds[0])
        if gain < ENOUGH:
            break


def _some(batch: Batch, generator: torch.Generator) -> Batch:
    if len(batch) <= ROWS:
        return batch
    rows = torch.randperm(len(batch), generator=generator)[:ROWS].sort()[0]
    return batch.take(rows.to(batch.seen.device))


def _loss(pair: UserPair, batch: Batch, plan: Plan, seeds: list[int]) -> Tensor:
    particles = pair.particles if plan.sampled else 1
    terms = []
    for seed in seeds:
        with noise(seed):
            terms.append(pair.bound(batch, plan, particles))
    return torch.stack(terms).mean()


def _search(
    pair: UserPair, batch: Batch, plan: Plan, parameters: list[nn.Parameter], seeds: list[int]
) -> float:
    """Minimise the bound with its noise held fixed; by how much it fell, nats a row."""
    before = [p.detach().clone() for p in parameters]
    sizes = [p.numel() for p in parameters]

    def put(flat: np.ndarray) -> None:
        parts = torch.from_numpy(flat).split(sizes)
        with torch.no_grad():
            for parameter, value in zip(parameters, parts, strict=True):
                parameter.copy_(value.view_as(parameter))

    def target(flat: np.ndarray) -> tuple[float, np.ndarray]:
        put(flat)
        loss = _loss(pair, batch, plan, seeds)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        slope = torch.cat([
            torch.zeros_like(p).reshape(-1) if g is None else g.reshape(-1)
            for p, g in zip(parameters, found, strict=True)
        ])  # fmt: skip
        value = float(loss.detach())
        if not (math.isfinite(value) and bool(slope.isfinite().all())):
            return FAR, np.zeros(len(flat))  # the line search turns back
        return value, slope.double().cpu().numpy()

    flat = torch.cat([p.detach().reshape(-1) for p in parameters]).double().cpu().numpy()
    first, _ = target(flat)
    found = minimize(
        target, flat, jac=True, method="L-BFGS-B",
        options={"maxiter": STEPS, "maxfun": 2 * STEPS, "maxls": 40, "ftol": 1e-9},
    )  # fmt: skip
    put(found.x)
    if not first >= found.fun:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
        return 0.0
    return first - float(found.fun)


def _measure(pair: UserPair, batch: Batch, plan: Plan, seed: int) -> None:
    """The unit of each `pyro.param`: 1 / sqrt of the information in one row."""
    keys = list(pair.store.raw)
    if not keys:
        return
    raw = [pair.store.raw[key] for key in keys]
    groups = torch.arange(len(batch)).tensor_split(min(GROUPS, max(2, len(batch) // 2)))
    found: list[list[Tensor]] = []
    for rows in groups:
        loss = _loss(pair, batch.take(rows.to(batch.seen.device)), plan, [seed])
        gradient = torch.autograd.grad(loss, raw, allow_unused=True)
        found.append([
            torch.zeros_like(p) if g is None else g for p, g in zip(raw, gradient, strict=True)
        ])  # fmt: skip
    size = len(batch) / len(groups)
    for place, key in enumerate(keys):
        spread = torch.stack([one[place] for one in found]).var(0) * size
        unit = getattr(pair.store.unit, key) * spread.rsqrt()
        known = unit.isfinite() & (unit > 1e-12) & (unit < 1e12)
        pair.store.rescale(key, torch.where(known, unit, getattr(pair.store.unit, key)))
