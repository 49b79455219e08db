"""Log density of rows, derived from any model/guide pair: values, errors, intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.errors import NotSupported, SchemaError, message
from probgen.family import Draws, Family
from probgen.queries.annealing import CHAINS, anneal
from probgen.queries.companion import Companion, keyed_proposals
from probgen.queries.contraction import row_log_weights, survey
from probgen.queries.draws import Predictive, count_draws, keyed, log_mean_exp, one_draw, tile
from probgen.queries.estimates import Estimate, estimate_of, exact, joined, methods, mixed
from probgen.queries.hidden import holes, scores_whole_rows, slots_of
from probgen.queries.noise import Stream, particle_keys
from probgen.queries.particles import PARTICLES, hard, improved
from probgen.session import guarded

__all__ = ["Estimate", "companion_of", "log_prob", "log_prob_given", "log_weights", "mixed"]

#: numbers in the widest intermediate of a closed form: 4 MB of float64
WIDE = 2**19
#: share of the draws of latents that are wider than the guide, and how much
#: (benchmarks/vae_tables.py --what wide)
WIDER, STRETCH = 0.1, 3.0
#: rows, times particles, that a pair sees at once
TILED = 2**15
#: particles of each draw at the least, so that the spread within a draw can be measured
_FEWEST = 4

_Folded = TypeVar("_Folded")


@torch.no_grad()
def log_prob(
    predictive: Predictive,
    batch: Batch,
    *,
    particles: int = PARTICLES,
    plugin: bool = False,
    error: float | None = None,
    annealing: int = 0,
) -> Estimate:
    """Log density of the seen cells of each row under the predictive.

    A closed form of the family is used where it has one, and never enters Pyro; otherwise
    the pair is run: enumerated sites are summed out, and other row latents are integrated
    by importance sampling from the guide, with noise keyed by the content of the row.

    Parameters
    ----------
    predictive : Predictive
    batch : Batch of n rows
        Unseen cells are integrated out.
    particles : int
        Importance draws a row, shared out among the draws of the globals (at least four
        each). Cost is proportional to it.
    plugin : bool
        Score at one value of the globals instead of averaging over their draws.
    error : float, optional
        Wanted standard error of a row, nats: rows above it get four times as many particles,
        again and again, up to 65,536.
    annealing : int
        Steps of annealed importance sampling for rows whose weights are too uneven (k-hat
        above 0.7) or whose error is above `error` in the end; 0 for none. Families that give
        their weights as a function of noise only.

    Returns
    -------
    Estimate

    Raises
    ------
    NotSupported
        If `annealing` is asked for rows of a family without such weights.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling. Neal
    (2001), Annealed importance sampling.
    """
    predictive = predictive.at_point(batch) if plugin else predictive

    def ask(rows: Tensor | None, count: int) -> Estimate:
        return _by_particles(predictive, batch if rows is None else batch.take(rows), count)

    found = improved(ask, particles, error)
    if annealing:
        rows = hard(found, error)
        if len(rows):
            again = _annealed(predictive, batch.take(rows), annealing)
            found.replace(rows, again)
    return found


@torch.no_grad()
def log_prob_given(
    predictive: Predictive,
    batch: Batch,
    given: Batch,
    *,
    particles: int = PARTICLES,
    error: float | None = None,
    annealing: int = 0,
) -> Estimate:
    """Log density of the seen cells of each row given some of them: those seen in `given`.

    The family's own conditional where it has one (members weigh by the density of what is
    given); else the ratio of two densities, whose errors count together. Settings are as in
    `log_prob`; rows above the wanted error get more particles for both.
    """
    parts = [member.estimate_given(batch, given) for member in predictive.members]
    own = [Estimate(*part) for part in parts if part is not None]
    if len(own) < len(parts):

        def ask(rows: Tensor | None, count: int) -> Estimate:
            joint, known = (b if rows is None else b.take(rows) for b in (batch, given))
            over = _by_particles(predictive, known, count)
            return _by_particles(predictive, joint, count).over(over)

        found = improved(ask, particles, error)
        bad = hard(found, error)
        if annealing and len(bad):
            joint, known = (_annealed(predictive, b.take(bad), annealing) for b in (batch, given))
            found.replace(bad, joint.over(known))
        return found
    if len(own) == 1:
        return own[0]
    each = [
        log_prob(predictive.of(r), given, particles=particles, error=error, annealing=annealing)
        for r in range(len(own))
    ]
    log_weights = torch.stack([part.value for part in each]).log_softmax(0)
    return mixed(own, log_weights)


def _by_particles(predictive: Predictive, batch: Batch, particles: int) -> Estimate:
    """The density by a number of particles, hidden cells of whole-row families proposed."""
    if any(scores_whole_rows(member) for member in predictive.members):
        hidden = holes(batch, slots_of(predictive.members[0])).any(1)
        if bool(hidden.any()):
            return _with_holes(predictive, batch, hidden, particles)
    return _seen(predictive, batch, particles)


def _annealed(predictive: Predictive, batch: Batch, steps: int) -> Estimate:
    """The density by annealed chains of each member."""
    batch, parts = keyed(batch), []
    for number, member in enumerate(predictive.members):
        found = []
        for rows in chunks(len(batch), max(1, WIDE // (CHAINS * cost_of(member, batch)))):
            part = batch.take(rows)
            own = member.importance(part)
            if own is None:
                raise NotSupported(message(
                    f"annealing={steps} for rows of a {type(member).__name__}",
                    "a family that gives its importance weights as a function of noise",
                    "leave annealing out, or ask for more particles by a smaller error",
                ))  # fmt: skip
            assert part.key is not None  # noqa: S101 - just made
            each = anneal(*own, part.key, steps, first=number * CHAINS)
            found.append(replace(estimate_of(True, each[None]), method="annealing"))
        parts.append(joined(found))
    return mixed(parts)


def _seen(predictive: Predictive, batch: Batch, particles: int) -> Estimate:
    """The density of the seen cells, by the members' own ways."""
    parts = []
    share = _share(particles, predictive)
    first = 0
    for member, draws in zip(predictive.members, predictive.draws, strict=True):
        parts.append(_member(predictive, member, draws, batch, share, first))
        first += share * count_draws(draws)
    return mixed(parts)


def _with_holes(predictive: Predictive, batch: Batch, hidden: Tensor, particles: int) -> Estimate:
    """Rows with holes of members that score whole rows only: cells that a companion proposes."""
    batch = keyed(batch)
    out = exact(batch.weight.new_zeros(len(batch), dtype=torch.float64), "importance")
    whole, part = hole_rows(batch, hidden)
    if len(whole):
        seen = _seen(predictive, batch.take(whole), particles)
        out.put(whole, seen)
        out.method = seen.method if not len(part) else methods(seen, out)
    if not len(part):
        return out
    companion = companion_of(predictive)
    distinct, back = _distinct(batch, part)
    parts = []
    for rows in distinct.split(max(1, TILED // particles)):
        proposed = keyed_proposals(companion, batch.take(rows), particles)
        log_p = _seen(predictive, proposed.rows, particles).value
        parts.append(estimate_of(True, proposed.weights(log_p)[None]))
    out.put(part, joined(parts).take(back))
    return out


def hole_rows(batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the rows without holes, and of those seen in part; others have density 1."""
    return (~hidden).nonzero()[:, 0], (hidden & batch.seen.any(1)).nonzero()[:, 0]


def _distinct(batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
    """One of each set of equal rows, and which of them each row is: equal rows, equal noise."""
    if batch.key is None:
        raise TypeError("equal rows are told by their keys: pass keyed(batch)")
    key, back = batch.key[rows].unique(return_inverse=True)
    first = torch.empty_like(key).scatter_(0, back, rows)
    return first, back


def companion_of(predictive: Predictive) -> Companion:
    """The companion of a predictive, or an error that says that it has none."""
    found = None if predictive.companion is None else predictive.companion()
    if found is None:
        raise NotSupported(
            message(
                f"rows with holes, and a {type(predictive.members[0]).__name__} that scores "
                "whole rows only",
                "a family with exact conditionals, or a companion that proposes the hidden cells",
                "ask about whole rows, or fit another family",
            )
        )
    return found


def _share(particles: int, predictive: Predictive) -> int:
    """Particles of each draw of the globals."""
    if particles < 1:
        raise SchemaError(
            message(f"particles = {particles}", "at least 1", "ask for some hundreds")
        )
    return max(_FEWEST, math.ceil(particles / len(predictive)))


def _member(
    predictive: Predictive, member: Family, draws: Draws, batch: Batch, share: int, first: int
) -> Estimate:
    """The density of one member, averaged over its draws."""
    at = None if predictive.integrated or not draws else draws
    own = member.estimate(batch, at, share * count_draws(draws))
    if own is not None:
        found = Estimate(*own)
        if "importance" in found.method:
            found.particles.fill_(share * count_draws(draws))
        return found
    if member.importance(batch.take(slice(0, 0))) is not None:
        return _by_noise(member, batch, share, first)
    value = _closed_form(member, draws, batch, predictive.integrated)
    if value is not None:
        return exact(value, member.density)
    return _through_pair(member, draws, batch, share, first)


def _by_noise(member: Family, batch: Batch, share: int, first: int) -> Estimate:
    """The mean of weights that the family computes from noise, keyed by the content of rows."""
    found = exact(batch.weight.new_zeros(len(batch), dtype=torch.float64), "importance")
    some = batch.seen.any(1)  # a row without seen cells has density 1
    if bool(some.any()):
        rows = some.nonzero()[:, 0]
        found.put(rows, _weighed(member, batch.take(rows), share, first))
    return found


def _weighed(member: Family, batch: Batch, share: int, first: int) -> Estimate:
    """The same for rows with seen cells, in pieces of rows and of particles."""
    batch, parts = keyed(batch), []
    cost = cost_of(member, batch)
    for rows in chunks(len(batch), max(1, WIDE // (share * cost))):
        part = batch.take(rows)
        assert part.key is not None  # just made
        size, weights = _require(member.importance(part))
        each = []
        for some in chunks(share, max(1, WIDE // (len(part) * cost))):
            count = some.stop - some.start
            keys = particle_keys(part.key, count, first + some.start)
            stream = Stream(keys, axis=0)
            noise, chance = stream.normal((len(keys), size)), stream.uniform((len(keys),))
            noise, log_ratio = defensive(noise, chance)
            own = weights(noise.view(count, len(part), size)).double()
            each.append(own + log_ratio.view(count, len(part)))
        parts.append(estimate_of(True, torch.cat(each)[None]))
    return joined(parts)


def defensive(noise: Tensor, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Noise (..., L), some of it wide, and the log ratio (...) of standard normal to its density.

    A guide that is narrower than the posterior misses what lies beyond, and its own draws cannot
    tell. A fixed share of wider draws, by uniform `chance` (...), bounds the weights there
    (Hesterberg 1995).
    """
    size = noise.shape[-1]
    noise = torch.where((chance < WIDER)[..., None], STRETCH * noise, noise)
    square = noise.square().sum(-1)
    far = math.log(WIDER) - size * math.log(STRETCH) + 0.5 * square * (1 - STRETCH**-2)
    near = torch.full_like(far, math.log1p(-WIDER))
    return noise, -torch.logaddexp(near, far)


def _require(found: _Folded | None) -> _Folded:
    assert found is not None  # noqa: S101 - asked once before
    return found


def chunks(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))


def cost_of(member: Family, batch: Batch) -> int:
    """Numbers a row in the family's widest intermediate; a family may say so itself."""
    return max(1, member.row_cost or max(64, batch.seen.shape[1]))


def no_rows(batch: Batch) -> Tensor:
    dtype = batch.weight.dtype if batch.x is None else batch.x.dtype
    return torch.zeros(0, dtype=dtype, device=batch.seen.device)


def _closed_form(member: Family, draws: Draws, batch: Batch, integrated: bool) -> Tensor | None:
    """The family's own answer (n,), or None. Plain torch: no lock, no handlers."""
    values = []
    size = max(1, WIDE // cost_of(member, batch))
    with torch.no_grad():
        for rows in chunks(len(batch), size):
            part = batch.take(rows)
            value = None
            if integrated or not draws:
                value = member.exact_log_prob(part, None)
            if value is None and draws:
                by_draw = member.exact_log_prob(part, draws)
                value = None if by_draw is None else log_mean_exp(by_draw, 0)
            if value is None:
                return None
            values.append(value)
    return torch.cat(values) if values else no_rows(batch)


def log_weights(
    member: Family,
    draws: Draws,
    batch: Batch,
    share: int,
    first: int,
    fold: Callable[[bool, Tensor], _Folded],
) -> list[_Folded]:
    """What `fold` makes of the log weights (S, K, rows) that the pair gives each chunk of rows.

    `fold` is told whether noise entered; where it did not, K is 1.
    """
    if not len(batch):
        return []
    count = count_draws(draws)
    batch = keyed(batch)
    folded = []
    with torch.no_grad(), guarded(0):
        plan = survey(member, batch, one_draw(draws, 0))
        times = share if plan.sampled else 1
        for rows in chunks(len(batch), max(1, TILED // times)):
            part = batch.take(rows)
            weights = []
            for s in range(count):
                tiled, keys = tile(part, times, first + s * times)
                weight = row_log_weights(member, tiled, one_draw(draws, s), keys, plan)
                weights.append(weight.reshape(times, len(part)))
            folded.append(fold(plan.sampled, torch.stack(weights)))
    return folded


def _through_pair(member: Family, draws: Draws, batch: Batch, share: int, first: int) -> Estimate:
    """The density by running the pair; whole rows apart, which may need no noise."""
    hidden = holes(batch, slots_of(member)).any(1)
    kinds = [rows for rows in ((~hidden).nonzero()[:, 0], hidden.nonzero()[:, 0]) if len(rows)]
    if not kinds:
        return exact(no_rows(batch), "enumerated")
    found = []
    for rows in kinds:
        part = batch if len(kinds) == 1 else batch.take(rows)
        found.append(joined(log_weights(member, draws, part, share, first, estimate_of)))
    if len(kinds) == 1:
        return found[0]
    return joined(found).take(torch.cat(kinds).argsort())
