"""Draws of hidden cells given the seen ones, for pairs without closed-form conditionals.

Candidates for the hidden cells are proposed and weighted by the density of the row; one is
picked with probability proportional to its weight (sampling-importance-resampling, Rubin
1988), and a few Metropolis steps that propose afresh from the same source move the pick
towards the exact conditional. Candidates come, in this order, from

- noise, where the family weighs it (`Family.importance`): the cells are drawn for the pick alone;
- the family itself (`Family.propose`);
- its row latents, drawn from the guide, and the cells that the model generates from them;
- a companion density with exact conditionals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch import distributions as td

from probgen.batch import Batch, mix, row_keys
from probgen.family import Draws, Family
from probgen.queries.companion import proposals
from probgen.queries.contraction import (
    Plan,
    label_log_probs,
    row_log_weights,
    row_sites,
    survey,
    traced,
)
from probgen.queries.density import TILED, chunks, companion_of, defensive, log_prob
from probgen.queries.draws import Predictive, count_draws, encoded, one_draw
from probgen.queries.generation import generated
from probgen.queries.hidden import scores_whole_rows
from probgen.queries.noise import keyed_sample, particle_keys
from probgen.queries.pareto import pareto_k
from probgen.session import guarded

__all__ = ["Drawn", "resample"]

#: candidates of a row that are weighed at first, and that each Metropolis step adds
#: (benchmarks/conditionals.py compares others)
CANDIDATES, FRESH = 64, 16
#: Metropolis steps
STEPS = 4
#: numbers that all candidates of the rows that are drawn together hold
HELD = 2**22


@dataclass
class Drawn:
    """Completed rows, and how far the way they were drawn can be trusted.

    Attributes
    ----------
    x : Tensor (n, m)
        Encoded rows without holes.
    ess : Tensor (n,)
        Effective number of the first candidates of a row; inf where the draw is exact.
    khat : Tensor (n,)
        Pareto shape of their weights (above 0.7: do not trust); NaN where it is exact.
    method : str
        "exact" or "resampling".
    """

    x: Tensor
    ess: Tensor
    khat: Tensor
    method: str = "exact"

    @classmethod
    def exact(cls, x: Tensor) -> Drawn:
        """Rows that were drawn exactly."""
        one = torch.ones(len(x), dtype=torch.float64, device=x.device)
        return cls(x, one * torch.inf, one * torch.nan)

    def put(self, rows: Tensor, other: Drawn) -> None:
        """Set some rows."""
        self.x[rows] = other.x.to(self.x.dtype)
        self.ess[rows], self.khat[rows] = other.ess, other.khat
        if other.method != "exact":
            self.method = other.method


_Found = TypeVar("_Found")


class _Candidates(NamedTuple):
    x: Tensor  # (K, n, m), or what the rows are made from
    log_weight: Tensor  # (K, n)


#: `times` candidates for each row of a batch
_Propose = Callable[[Batch, int], _Candidates]


class _Source(NamedTuple):
    """Where candidates come from, what a row takes at most, and rows (n, m) from picks (n, .)."""

    propose: _Propose
    share: int
    rows: Callable[[Batch, Tensor], Tensor] = lambda batch, x: x


def resample(predictive: Predictive, batch: Batch, generator: torch.Generator) -> Drawn:
    """Hidden cells of rows that are seen in part, drawn given the seen ones.

    Candidates are spread over the members and their draws of the globals, so that the
    weights pick among these too.

    Parameters
    ----------
    predictive : Predictive
    batch : Batch of n rows
    generator : torch.Generator
        On the CPU; advanced.

    Returns
    -------
    Drawn
        Cost: 128 densities a row.

    References
    ----------
    Rubin (1988), Using the SIR algorithm to simulate posterior distributions, Bayesian
    Statistics 3. Andrieu, Doucet and Holenstein (2010), Particle Markov chain Monte Carlo
    methods, JRSS B 72: the step that picks anew among the present row and fresh candidates.
    """
    source = _source(predictive, batch, generator)
    # what one call works on, and what all candidates take, are both bounded
    most = min(TILED // source.share, HELD // (CANDIDATES * max(1, batch.seen.shape[1])))
    parts = [
        _resampled(source, batch.take(rows), generator)
        for rows in chunks(len(batch), max(1, most))
    ]
    return Drawn(
        torch.cat([part.x for part in parts]),
        torch.cat([part.ess for part in parts]),
        torch.cat([part.khat for part in parts]),
        "resampling",
    )


def _resampled(source: _Source, batch: Batch, generator: torch.Generator) -> Drawn:
    x, log_weight = source.propose(batch, CANDIDATES)
    share = _softmax(log_weight)
    ess, khat = 1 / share.square().sum(0), _shapes(batch, log_weight)
    now = _picked(x, log_weight, generator)
    for _ in range(STEPS):
        fresh = source.propose(batch, FRESH)
        both = torch.cat([now.x, fresh.x]), torch.cat([now.log_weight, fresh.log_weight])
        now = _picked(*both, generator)
    return Drawn(source.rows(batch, now.x[0]), ess, khat)


def _shapes(batch: Batch, log_weight: Tensor) -> Tensor:
    """Pareto shape (n,) of the weights (K, n); rows that are equal pool theirs."""
    key = row_keys(encoded(batch), batch.seen)
    if batch.context is not None:
        key = mix(key) + row_keys(batch.context, torch.ones_like(batch.context, dtype=torch.bool))
    _, group = key.unique(return_inverse=True)
    if len(group) == int(group.max()) + 1:
        return pareto_k(log_weight)
    khat = torch.empty_like(log_weight[0])
    for number in range(int(group.max()) + 1):
        rows = (group == number).nonzero()[:, 0]
        khat[rows] = pareto_k(log_weight[:, rows].reshape(-1, 1))
    return khat


def _softmax(log_weight: Tensor) -> Tensor:
    """Shares of the weights; equal where all are 0."""
    dead = log_weight.isneginf().all(0)
    return torch.where(dead, torch.zeros_like(log_weight), log_weight).softmax(0)


def _picked(x: Tensor, log_weight: Tensor, generator: torch.Generator) -> _Candidates:
    """One candidate of each row, with probability proportional to its weight."""
    steps = _softmax(log_weight).cumsum(0)
    u = torch.rand(x.shape[1], generator=generator, dtype=torch.float64).to(steps.device)
    choice = (u * steps[-1] >= steps[:-1]).sum(0)
    rows = torch.arange(x.shape[1], device=x.device)
    return _Candidates(x[choice, rows][None], log_weight[choice, rows][None])


# --- where candidates come from ------------------------------------------------------------


def _source(predictive: Predictive, batch: Batch, generator: torch.Generator) -> _Source:
    """Where candidates come from."""
    none = batch.take(slice(0, 0))
    if all(member.importance(none) is not None for member in predictive.members):
        return _from_noise(predictive.members, generator)
    ways = []
    for member, draws in zip(predictive.members, predictive.draws, strict=True):
        way = _own_way(member, draws, batch)
        if way is None:
            return _Source(_from_companion(predictive, generator), CANDIDATES)
        ways += [_AtDraw(way, one_draw(draws, s)) for s in range(count_draws(draws))]
    share = -(-CANDIDATES // min(len(ways), CANDIDATES))
    return _Source(lambda rows, times: _over_draws(ways, rows, times, generator), share)


def _from_noise(members: Sequence[Family], generator: torch.Generator) -> _Source:
    """Noise that the members weigh; a candidate is noise (L,) and the number of its member."""

    def propose(batch: Batch, times: int) -> _Candidates:
        turn = torch.randperm(len(members), generator=generator)
        parts, weights = [], []
        for r in turn[:times].tolist():
            size, weigh = _require(members[r].importance(batch))
            count = len(range(int((turn == r).nonzero()), times, len(members)))
            noise = torch.randn(count, len(batch), size, generator=generator, dtype=torch.float64)
            chance = torch.rand(noise.shape[:2], generator=generator, dtype=torch.float64)
            noise, log_ratio = (part.to(batch.seen.device) for part in defensive(noise, chance))
            parts.append(torch.nn.functional.pad(noise, (0, 1), value=r))
            weights.append(weigh(noise).double() + log_ratio)
        return _Candidates(torch.cat(parts), torch.cat(weights))

    def rows(batch: Batch, picks: Tensor) -> Tensor:
        x = encoded(batch).double().clone()
        for r in picks[:, -1].unique().tolist():
            own = (picks[:, -1] == r).nonzero()[:, 0]
            x[own] = members[int(r)].from_noise(batch.take(own), picks[own, :-1], generator)
        return x

    return _Source(propose, CANDIDATES, rows)


def _from_companion(predictive: Predictive, generator: torch.Generator) -> _Propose:
    companion = companion_of(predictive)

    def proposed(rows: Batch, times: int) -> _Candidates:
        found = proposals(companion, rows, times, generator)
        return _Candidates(found.x, found.weights(log_prob(predictive, found.rows).value))

    return proposed


#: candidates of a tiled batch at one draw of the globals, by its noise keys
_Way = Callable[[Batch, dict[str, Tensor], Tensor], tuple[Tensor, Tensor]]


class _AtDraw(NamedTuple):
    """A member's way at one draw of its globals."""

    way: _Way
    values: dict[str, Tensor]


def _own_way(member: Family, draws: Draws, batch: Batch) -> _Way | None:
    """How the family itself proposes: by `propose`, or through its row latents."""
    values = one_draw(draws, 0)
    with torch.no_grad(), guarded(0):
        one = replace(batch.take(slice(0, 1)), key=None)
        if member.propose(one, values, _fresh_keys(one, torch.Generator())) is not None:
            return lambda rows, at, noise: _require(member.propose(rows, at, noise))
        if scores_whole_rows(member):
            return None
        plan = survey(member, batch, values)
    if not (plan.sampled or plan.enumerated):
        return None
    return lambda rows, at, noise: _through_latents(member, rows, at, noise, plan)


def _require(found: _Found | None) -> _Found:
    assert found is not None  # noqa: S101 - asked once before
    return found


def _fresh_keys(batch: Batch, generator: torch.Generator) -> Tensor:
    """Keys (n,) that have nothing to do with the rows: equal rows are drawn independently."""
    return torch.randint(2**62, (len(batch),), generator=generator).to(batch.seen.device)


def _over_draws(
    ways: list[_AtDraw], batch: Batch, times: int, generator: torch.Generator
) -> _Candidates:
    """Candidates spread evenly over members and draws: the weights pick among these.

    Each row takes a choice of draws of its own, so that rows share no luck.
    """
    keys = particle_keys(_fresh_keys(batch, generator), times).unflatten(0, (times, -1))
    n, m, device = *batch.seen.shape, batch.seen.device
    rounds, rest = divmod(times, len(ways))
    some = torch.rand(n, len(ways), generator=generator).argsort(1)[:, :rest]
    all_ = torch.arange(len(ways)).expand(n, -1).repeat(1, rounds)
    choice = torch.cat([all_, some], 1).to(device)  # (n, K)
    x = torch.zeros(times, n, m, dtype=encoded(batch).dtype, device=device)
    log_weight = torch.zeros(times, n, dtype=torch.float64, device=device)
    with torch.no_grad(), guarded(int(torch.randint(2**62, (), generator=generator))):
        for s in choice.unique().tolist():
            row, place = (choice == s).nonzero(as_tuple=True)
            part = replace(batch.take(row), key=None)
            found, weight = ways[s].way(part, ways[s].values, keys[place, row])
            x[place, row] = torch.where(part.seen, encoded(part), found.to(x.dtype))
            log_weight[place, row] = weight.double()
    return _Candidates(x, log_weight)


def _through_latents(
    member: Family, batch: Batch, values: dict[str, Tensor], keys: Tensor, plan: Plan
) -> tuple[Tensor, Tensor]:
    """Row latents given the seen cells, and the rows that the model generates from them."""
    single = len(plan.enumerated) == 1
    if not single:  # several labels are not drawn jointly: the model proposes them
        prior = plan.prior | plan.enumerated
        plan = replace(plan, enumerated=frozenset(), prior=prior)
    log_weight = row_log_weights(member, batch, values, keys, plan)
    fixed = dict(values)
    if plan.proposed:
        guide = row_sites(traced(member.guide, batch, values, keys), observed=False)
        fixed |= {name: site["value"] for name, site in guide.items()}
    if single:
        [(name, log_p)] = label_log_probs(member, batch, values, keys, plan).items()
        fixed[name] = keyed_sample(td.Categorical(logits=log_p), keys, name)
    if plan.prior:
        model = row_sites(traced(member.model, batch, fixed, keys), observed=False)
        fixed |= {name: site["value"] for name, site in model.items() if name in plan.prior}
    return generated(member, batch, fixed, keys), log_weight
