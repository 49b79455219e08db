"""Checks of the pair behind a family: what it derives from Pyro equals what it says itself."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from pyro.infer import Trace_ELBO

from probgen import queries
from probgen.batch import Batch
from probgen.density import Density
from probgen.family import Draws, Family
from probgen.queries import Predictive
from probgen.queries.draws import log_mean_exp
from probgen.queries.hidden import holes, scores_whole_rows, slots_of
from probgen.session import guarded
from probgen.testing.subject import NotApplicable, Subject, check, gap, need

__all__ = ["without_overrides"]

#: what a family may answer itself
OVERRIDES = (
    "draw_globals", "exact_log_prob", "exact_log_prob_masked", "log_pairs", "complete",
    "complete_at", "conditionals", "point_globals", "reconstruct", "row_latents",
)  # fmt: skip
TABLES = ("mixed", "real2")


def without_overrides(family: Family) -> Family:
    """A copy of a family that has nothing but its model and its guide."""
    plain = copy.deepcopy(family)
    body = {name: getattr(Family, name) for name in OVERRIDES}
    plain.__class__ = type(f"Plain{type(family).__name__}", (type(family),), body)
    return plain


def _member(subject: Subject, name: str) -> tuple[Density, Family, Batch]:
    model = subject.fitted(name)
    return model, model.members_[0], subject.batch(name)


def elbo(family: Family, batch: Batch, seeds: range) -> torch.Tensor:
    """Pyro's own estimate of the ELBO of a batch, one for each seed; the family's own bound
    where it has one.
    """
    found = []
    plain = replace(batch, sites={})
    own = family.engine(batch)
    for seed in seeds:
        with torch.no_grad(), guarded(seed):
            if own is not None:
                found.append(-float(own[1](plain)) * plain.total)
            else:
                found.append(-Trace_ELBO().loss(family.model, family.guide, plain))
    return torch.tensor(found, dtype=torch.float64)


def _guide_draws(family: Family, count: int) -> Draws:
    return queries.draw_globals(without_overrides(family), count, seed=0)


@check
def closed_form_equals_the_pair(subject: Subject) -> None:
    """The density that a family states equals the one that Pyro's handlers derive from it."""
    for name in TABLES:
        _, family, batch = _member(subject, name)
        if scores_whole_rows(family):  # the others need a companion
            batch = batch.take((~holes(batch, slots_of(family))).all(1))
        draws = _guide_draws(family, 5)
        own = family.exact_log_prob(batch, draws or None)
        if own is None:
            raise NotApplicable("the family states no density of its own")
        if own.dim() == 1:
            own = own[None]
        plain = Predictive([without_overrides(family)], [draws], integrated=False)
        derived = queries.log_prob_draws(plain, batch)
        error = 4 * queries.log_prob(plain, batch).se + 1e-9
        off = (derived - own).abs()
        need(bool((off <= error + 1e-10 * own.abs()).all()), f"{name}: off by {float(off.max())}")


@check
def closed_form_averages_the_guide(subject: Subject) -> None:
    """A density in closed form is the average of p(x given t) over the guide's t (5 se)."""
    for name in TABLES:
        _, family, batch = _member(subject, name)
        if not family.closed_form:
            raise NotApplicable("the family has no closed form of its predictive")
        draws = _guide_draws(family, 400)
        value = family.exact_log_prob(batch, None)
        by_draw = family.exact_log_prob(batch, draws or None)
        if value is None or by_draw is None:
            raise NotApplicable("the family states no density at its draws")
        by_draw = by_draw.reshape(-1, len(batch))
        ratio = (by_draw - value).exp()
        # rows with a handful of draws in charge tell nothing: their error is unknown
        se = ratio.std(0, correction=0) / math.sqrt(len(ratio))
        sound = se < 0.1
        off = (ratio.mean(0) - 1).abs()[sound]
        need(bool(sound.double().mean() > 0.8), f"{name}: too few rows with a sound average")
        worst = float((off - 5 * se[sound] - 1e-9).max())
        need(worst <= 0, f"{name}: relative density off by {worst:.3f} beyond 5 standard errors")


@check
def completion_follows_the_model(subject: Subject) -> None:
    """Rows of the family's own sampler and rows that the model generates score alike (4 se)."""
    for name in TABLES:
        _, family, _ = _member(subject, name)
        draws = _guide_draws(family, 50)
        n = 1000
        empty = Batch.empty(n, len(family.schema.slots), torch.float64, "cpu")
        generator = torch.Generator().manual_seed(0)
        own = Predictive([family], [draws])
        plain = Predictive([without_overrides(family)], [draws], integrated=False)
        if family.exact_log_prob(Batch.of(torch.zeros(1, empty.seen.shape[1])), None) is None:
            raise NotApplicable("the family states no density of its own")
        values = [
            queries.log_prob(
                own, _complete_rows(queries.sample(p, empty, generator), family)
            ).value
            for p in (own, plain)
        ]
        off = float(values[0].mean() - values[1].mean())
        # draws of the globals are shared by many rows of the second sample
        se = float((values[0].var() / n + values[1].var() / n + values[1].var() / 50).sqrt())
        need(abs(off) < 4 * se, f"{name}: {off:.3f} nats apart, standard error {se:.3f}")


def _complete_rows(x: torch.Tensor, family: Family) -> Batch:
    """Generated rows as a batch: a real slot beside an atom is unseen where an atom is held."""
    seen = torch.ones_like(x, dtype=torch.bool)
    slots = family.schema.slots
    for place, slot in enumerate(slots):
        if place and slot.kind == "real" and slots[place - 1].column == slot.column:
            seen[:, place] = x[:, place - 1] == 0
    return Batch.of(torch.where(seen, x, 0.0), seen)


@check
def losses_of_minibatches_are_unbiased(subject: Subject) -> None:
    """The loss of a minibatch, averaged over the minibatches, is the loss of the table."""
    _, family, batch = _member(subject, "mixed")
    size = len(batch) // 3
    batch = batch.take(slice(0, 3 * size))
    batch = replace(batch, total=float(batch.weight.sum()))
    parts = [batch.take(slice(at, at + size)) for at in range(0, 3 * size, size)]
    seeds = range(12)
    whole = elbo(family, batch, seeds)
    mean = torch.stack([elbo(family, part, seeds) for part in parts]).mean(0)
    off = (whole - mean) / batch.total
    se = float(off.std()) / math.sqrt(len(off))
    need(abs(float(off.mean())) <= 4 * se + 1e-9, f"ELBO off by {float(off.mean()):.3g} a row")
    if family.updates:
        one = copy.deepcopy(family).update(batch, 0.0)
        few = sum(copy.deepcopy(family).update(part, 0.0) for part in parts) / 3
        need(abs(one - few) < 1e-9, f"loss of updates off by {one - few:.3g} a row")


@check
def the_own_bound_is_below_the_elbo(subject: Subject) -> None:
    """The bound that `update` ascends is no larger than the ELBO that Pyro estimates (4 se)."""
    if not subject.family.updates:
        raise NotApplicable("the family is trained by its ELBO")
    for name in TABLES:
        _, family, batch = _member(subject, name)
        bound = -copy.deepcopy(family).update(batch, 0.0)
        pyro_elbo = elbo(family, batch, range(60)) / batch.total
        mean, se = float(pyro_elbo.mean()), float(pyro_elbo.std()) / math.sqrt(60)
        need(
            bound <= mean + 4 * se + 1e-9,
            f"{name}: bound {bound:.4f} above the ELBO {mean:.4f} ({se:.4f}) a row",
        )


@check
def updates_never_lose(subject: Subject) -> None:
    """A whole closed-form step never raises the loss of the family."""
    if not subject.family.updates:
        raise NotApplicable("the family is trained by gradients")
    for name in TABLES:
        _, family, batch = _member(subject, name)
        family = copy.deepcopy(family)
        generator = torch.Generator().manual_seed(3)
        family.start(batch, generator)
        losses = [family.update(batch, 1.0) for _ in range(12)]
        rises = max(b - a for a, b in zip(losses, losses[1:], strict=False))
        need(rises <= 1e-9 * max(map(abs, losses)), f"{name}: a step raised the loss by {rises}")


@check
def gradients_reach_every_parameter(subject: Subject) -> None:
    """Every parameter has a gradient that is finite and not all zero."""
    _, family, batch = _member(subject, "mixed")
    family = copy.deepcopy(family)
    if family.updates or not list(family.parameters()):
        raise NotApplicable("the family has no parameters that learn by gradients")
    if family.objectives():
        raise NotApplicable("the family trains by objectives of its own")
    dtype = next(family.parameters()).dtype
    x = None if batch.x is None else batch.x.to(dtype)
    batch = replace(batch, x=x, weight=batch.weight.to(dtype), sites={})
    with guarded(0):
        own = family.engine(batch)
        if own is not None:
            own[1](batch).backward()
        else:
            Trace_ELBO().differentiable_loss(family.model, family.guide, batch).backward()
    lost = [n for n, p in family.named_parameters() if p.grad is None or not p.grad.any()]
    broken = [
        n
        for n, p in family.named_parameters()
        if p.grad is not None and not torch.isfinite(p.grad).all()
    ]
    need(not lost, f"no gradient for {lost}")
    need(not broken, f"non-finite gradients for {broken}")


@check
def restarts_are_averaged_as_densities(subject: Subject) -> None:
    """The density of several restarts is the mean of their densities, never of the logs."""
    model = subject.fitted()
    if len(model.members_) < 2:
        raise NotApplicable("one restart")
    batch = subject.batch()
    each = torch.stack(
        [queries.log_prob(Predictive([m], [{}]), batch).value for m in model.members_]
    )
    both = queries.log_prob(model._predictive(), batch).value
    need(gap(both, log_mean_exp(each, 0)) < 1e-9, "not the average of the members")
