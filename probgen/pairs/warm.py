"""Where the training of a user's pair starts, whatever the units of its table.

Adam moves every parameter by about its rate in each step, so an intercept of 4,200 grams is
out of reach and a slope of 0.001 is lost in the noise. A few quasi-Newton steps, which are
free of scale, come first (L-BFGS, Liu and Nocedal 1989, on a bound with its noise held
fixed); each parameter is then measured from there, in the unit 1 / sqrt(information of one
row), the globals in the spread of their guide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
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
    seeds = [int(torch.randint(2**62, (), generator=generator)) for _ in range(DRAWS if noisy else 1)]
    _search(pair, few, plan, parameters, seeds)
    if pair.global_guide is not None:
        pair.global_guide.recentre()
    _measure(pair, few, plan, seeds[0])


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
) -> None:
    before = [p.detach().clone() for p in parameters]
    search = torch.optim.LBFGS(
        parameters, max_iter=STEPS, max_eval=2 * STEPS, history_size=20,
        tolerance_grad=1e-7, tolerance_change=1e-10, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> float:
        search.zero_grad()
        loss = _loss(pair, batch, plan, seeds)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    first = closure()
    search.step(closure)  # type: ignore[arg-type]
    with torch.no_grad():
        last = float(_loss(pair, batch, plan, seeds))
        sound = all(bool(p.isfinite().all()) for p in parameters)
        if not sound or not last <= first:
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
    search.zero_grad()


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
