"""Where the training of a user's pair starts, whatever the units of its table.

Adam moves every parameter by about its rate in each step, so an intercept of 4,200 grams is
out of reach and a slope of 0.001 is lost in the noise. A few quasi-Newton steps, which are
free of scale, come first (L-BFGS, Liu and Nocedal 1989, on a bound with its noise held
fixed); each parameter is then measured from there, in the unit 1 / sqrt(information of one
row), the globals in the spread of their guide.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from probgen.batch import Batch
from probgen.pairs.guides import GlobalGuide
from probgen.pairs.store import Store
from probgen.queries.contraction import Plan
from probgen.session import noise

__all__ = ["warm_start"]

#: rows that are looked at, at most
ROWS = 1000
#: draws of the noise of row latents that is held fixed
DRAWS = 3
#: steps of the search
STEPS = 40
#: searches, each in the units that the one before found, and the gain (nats a row) of the last
ROUNDS, ENOUGH = 5, 1e-3
#: globals up to which a multivariate guide or a flow starts from the curvature
WIDEST = 100
#: stands for a loss that is not finite
FAR = 1e100
#: groups of rows by which the information of a row is estimated
GROUPS = 24


class Trained(Protocol):
    """What the search needs of a pair."""

    store: Store
    global_guide: GlobalGuide | None
    particles: int

    def bound(
        self, batch: Batch, plan: Plan, particles: int, given: dict[str, Tensor] | None = None
    ) -> Tensor:
        """The loss, nats a row."""
        ...


def warm_start(pair: Trained, plan: Plan, batch: Batch, generator: torch.Generator) -> None:
    """Move the parameters of a pair near their best values, and set their units.

    Networks keep their initial weights: a quasi-Newton search on few rows would overfit them.
    """
    parameters = [*pair.store.raw.values()]
    guide = pair.global_guide
    if guide is not None:
        # not its covariances: a few draws would not bound them
        parameters += [guide.loc, guide.log_scale]
    if not parameters:
        return
    few = _some(batch, generator)
    target = _Target(pair, plan, generator)
    if guide is not None:
        guide.straight = True  # a flow is the identity as yet
    try:
        _warm(target, few, parameters)
    finally:
        if guide is not None:
            guide.straight = False


def _warm(target: _Target, few: Batch, parameters: list[nn.Parameter]) -> None:
    guide = target.pair.global_guide
    for _ in range(ROUNDS):
        gain = _search(target, few, parameters)
        if guide is not None:
            guide.recentre()
        _measure(target, few)
        if gain < ENOUGH:
            break
    if guide is not None and guide.kind != "mean_field" and guide.loc.numel() <= WIDEST:
        _curve(target, few)


class _Target:
    """The bound at noise that is held fixed, so that it is one smooth function.

    The globals take signs for noise, balanced over the draws and orthogonal as far as there
    are draws enough: a normal posterior then gives the guide its exact optimum.
    """

    def __init__(self, pair: Trained, plan: Plan, generator: torch.Generator) -> None:
        self.pair, self.plan = pair, plan
        self.seeds, self.signs = [], None
        count = DRAWS if plan.sampled else 1
        if pair.global_guide is not None:
            size = pair.global_guide.loc.numel()
            self.signs = _signs(size, generator).to(pair.global_guide.loc)
            count = len(self.signs)
        self.seeds = [int(torch.randint(2**62, (), generator=generator)) for _ in range(count)]

    def __call__(self, batch: Batch, first: bool = False) -> Tensor:
        """The loss of rows, nats a row; of the first draw only if `first`."""
        pair, guide = self.pair, self.pair.global_guide
        particles = pair.particles if self.plan.sampled else 1
        terms = []
        for number, seed in enumerate(self.seeds[:1] if first else self.seeds):
            given = None
            if guide is not None and self.signs is not None:
                given = guide.at(self.signs[number])
            with noise(seed):
                terms.append(pair.bound(batch, self.plan, particles, given))
        return torch.stack(terms).mean()

    def at(self, batch: Batch, given: dict[str, Tensor]) -> Tensor:
        """The loss at some values of the globals."""
        with noise(self.seeds[0]):
            particles = self.pair.particles if self.plan.sampled else 1
            return self.pair.bound(batch, self.plan, particles, given)


def _signs(size: int, generator: torch.Generator) -> Tensor:
    """Signs (draws, size): 4 draws for up to 3 globals, 8 for more; columns sum to 0."""
    half = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    square = torch.kron(half, half)
    if size > 3:
        square = torch.kron(square, half)
    patterns = square[:, 1:]  # the first column is constant
    pick = torch.arange(size) % patterns.shape[1]
    flip = torch.randint(2, (size,), generator=generator) * 2.0 - 1.0
    return patterns[:, pick] * flip


def _some(batch: Batch, generator: torch.Generator) -> Batch:
    if len(batch) <= ROWS:
        return batch
    rows = torch.randperm(len(batch), generator=generator)[:ROWS].sort()[0]
    return batch.take(rows.to(batch.seen.device))


def _search(target: _Target, batch: Batch, parameters: list[nn.Parameter]) -> float:
    """Minimise the bound with its noise held fixed; by how much it fell, nats a row."""
    before = [p.detach().clone() for p in parameters]
    sizes = [p.numel() for p in parameters]

    def put(flat: np.ndarray) -> None:
        parts = torch.from_numpy(flat).split(sizes)
        with torch.no_grad():
            for parameter, value in zip(parameters, parts, strict=True):
                parameter.copy_(value.view_as(parameter))

    def value_and_slope(flat: np.ndarray) -> tuple[float, np.ndarray]:
        put(flat)
        loss = target(batch)
        if not loss.requires_grad:  # nothing depends on any of them
            return float(loss), np.zeros(len(flat))
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
    first, _ = value_and_slope(flat)
    found = minimize(
        value_and_slope, flat, jac=True, method="L-BFGS-B",
        options={"maxiter": STEPS, "maxfun": 2 * STEPS, "maxls": 40, "ftol": 1e-9},
    )  # fmt: skip
    put(found.x)
    if not first >= found.fun:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
        return 0.0
    return first - float(found.fun)


def _measure(target: _Target, batch: Batch) -> None:
    """The unit of each `pyro.param`: 1 / sqrt of the information in one row."""
    pair = target.pair
    keys = list(pair.store.raw)
    if not keys:
        return
    raw = [pair.store.raw[key] for key in keys]
    groups = torch.arange(len(batch)).tensor_split(min(GROUPS, max(2, len(batch) // 2)))
    found: list[list[Tensor]] = []
    for rows in groups:
        loss = target(batch.take(rows.to(batch.seen.device)), first=True)
        if not loss.requires_grad:
            return
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


def _curve(target: _Target, batch: Batch) -> None:
    """The covariance of a multivariate guide from the curvature at its location (Laplace).

    By central differences of gradients, one standard deviation of the guide apart: twice as
    many evaluations as there are globals.
    """
    guide = target.pair.global_guide
    assert guide is not None  # the caller looked
    size = guide.loc.numel()

    def slope(noise_: Tensor) -> Tensor:
        at = noise_.requires_grad_()
        loss = target.at(batch, guide.at(at)) * batch.total
        [found] = torch.autograd.grad(loss, at)
        return found

    eye = torch.eye(size, dtype=guide.loc.dtype, device=guide.loc.device)
    rows = [(slope(step.clone()) - slope(-step)) / 2 for step in eye]
    half = torch.stack(rows)
    # the loss holds + log q, whose curvature in these units is that of a standard normal
    curvature = (half + half.T) / 2 + eye
    root, wrong = torch.linalg.cholesky_ex(curvature)
    if bool(wrong) or not bool(root.isfinite().all()):
        return
    lower = torch.linalg.cholesky(torch.cholesky_inverse(root))
    with torch.no_grad():
        guide.log_scale.copy_(lower.diagonal().log())
        guide.lower.copy_(lower.tril(-1))
