"""Log density of rows, derived from any model/guide pair: values, errors, intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.errors import NotSupported, SchemaError, message
from probgen.family import Draws, Family
from probgen.queries.companion import Companion, keyed_proposals
from probgen.queries.contraction import row_log_weights, survey
from probgen.queries.draws import Predictive, count_draws, keyed, log_mean_exp, one_draw, tile
from probgen.queries.hidden import holes, scores_whole_rows, slots_of
from probgen.queries.noise import Stream, particle_keys
from probgen.queries.pareto import pareto_k
from probgen.session import guarded

__all__ = ["Estimate", "companion_of", "log_prob", "log_prob_given", "log_weights", "mixed"]

#: numbers in the widest intermediate of a closed form: 4 MB of float64
WIDE = 2**19
#: rows, times particles, that a pair sees at once
TILED = 2**15
#: particles of each draw at the least, so that the spread within a draw can be measured
_FEWEST = 4

_Folded = TypeVar("_Folded")


@dataclass
class Estimate:
    """A number a row, and how exact it is.

    Attributes
    ----------
    value : Tensor (n,)
        Log density, nats, encoded units.
    se : Tensor (n,)
        Monte Carlo standard error of `value`; 0 where it is exact.
    ess : Tensor (n,)
        Effective sample size of the importance weights; inf where it is exact.
    khat : Tensor (n,)
        Pareto shape of the weights (above 0.7: do not trust); NaN where it is exact.
    method : str
        "exact" (closed form; "bound" or "estimate" where the family says its own form is
        one), "enumerated" (summed out through the pair), "importance", or these joined
        by "+" where members differ.
    """

    value: Tensor
    se: Tensor
    ess: Tensor
    khat: Tensor
    method: str

    def __len__(self) -> int:
        return len(self.value)

    def over(self, other: Estimate) -> Estimate:
        """The ratio of two densities of the same rows: the errors of both count."""
        khat = torch.fmax(self.khat, other.khat)  # NaN only where both are exact
        return Estimate(
            self.value - other.value,
            (self.se.square() + other.se.square()).sqrt(),
            torch.minimum(self.ess, other.ess),
            khat,
            "+".join(sorted({self.method, other.method})),
        )

    def take(self, rows: Tensor) -> Estimate:
        """The numbers of some rows."""
        return Estimate(
            self.value[rows], self.se[rows], self.ess[rows], self.khat[rows], self.method
        )

    def put(self, rows: Tensor, other: Estimate) -> None:
        """Set the numbers of some rows."""
        for name in ("value", "se", "ess", "khat"):
            own = getattr(self, name)
            own[rows] = getattr(other, name).to(own.dtype)


def joined(parts: list[Estimate]) -> Estimate:
    """The numbers of rows, part after part."""
    return Estimate(
        value=torch.cat([part.value for part in parts]),
        se=torch.cat([part.se for part in parts]),
        ess=torch.cat([part.ess for part in parts]),
        khat=torch.cat([part.khat for part in parts]),
        method="+".join(sorted({part.method for part in parts})),
    )


@torch.no_grad()
def log_prob(
    predictive: Predictive, batch: Batch, *, particles: int = 512, plugin: bool = False
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

    Returns
    -------
    Estimate

    References
    ----------
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.
    """
    predictive = predictive.at_point(batch) if plugin else predictive
    if any(scores_whole_rows(member) for member in predictive.members):
        hidden = holes(batch, slots_of(predictive.members[0])).any(1)
        if bool(hidden.any()):
            return _with_holes(predictive, batch, hidden, particles)
    return _seen(predictive, batch, particles)


@torch.no_grad()
def log_prob_given(
    predictive: Predictive, batch: Batch, given: Batch, *, particles: int = 512
) -> Estimate:
    """Log density of the seen cells of each row given some of them: those seen in `given`.

    The family's own conditional where it has one (members weigh by the density of what is
    given); else the ratio of two densities.
    """
    parts = [member.estimate_given(batch, given) for member in predictive.members]
    own = [Estimate(*part) for part in parts if part is not None]
    if len(own) < len(parts):
        joint = log_prob(predictive, batch, particles=particles)
        return joint.over(log_prob(predictive, given, particles=particles))
    if len(own) == 1:
        return own[0]
    each = [log_prob(predictive.of(r), given, particles=particles) for r in range(len(own))]
    log_weights = torch.stack([part.value for part in each]).log_softmax(0)
    return mixed(own, log_weights)


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
    out = _exact(batch.weight.new_zeros(len(batch), dtype=torch.float64), "importance")
    whole, part = hole_rows(batch, hidden)
    if len(whole):
        seen = _seen(predictive, batch.take(whole), particles)
        out.put(whole, seen)
        out.method = seen.method if not len(part) else "+".join(sorted({seen.method, out.method}))
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


def mixed(parts: list[Estimate], log_weights: Tensor | None = None) -> Estimate:
    """The mixture of densities of the same rows: equal, or by log weights (parts,), (parts, n)."""
    if len(parts) == 1:
        return parts[0]
    values = torch.stack([part.value for part in parts])
    if log_weights is None:
        values = values - math.log(len(parts))
    else:
        values = values + log_weights.reshape(len(parts), -1)
    value = torch.logsumexp(values, 0)
    peak = torch.where(value.isinf(), torch.zeros_like(value), value)
    shares = (values - peak).exp()
    se = (shares * torch.stack([part.se for part in parts])).square().sum(0).sqrt()
    khat = torch.stack([part.khat for part in parts])
    worst = khat.nan_to_num(-math.inf).amax(0)
    return Estimate(
        value=value,
        se=se,
        ess=torch.stack([part.ess for part in parts]).amin(0),
        khat=torch.where(khat.isnan().all(0), khat[0], worst),
        method="+".join(sorted({part.method for part in parts})),
    )


def _member(
    predictive: Predictive, member: Family, draws: Draws, batch: Batch, share: int, first: int
) -> Estimate:
    """The density of one member, averaged over its draws."""
    at = None if predictive.integrated or not draws else draws
    own = member.estimate(batch, at, share * count_draws(draws))
    if own is not None:
        return Estimate(*own)
    if member.importance(batch.take(slice(0, 0))) is not None:
        return _by_noise(member, batch, share, first)
    value = _closed_form(member, draws, batch, predictive.integrated)
    if value is not None:
        return _exact(value, member.density)
    return _through_pair(member, draws, batch, share, first)


def _by_noise(member: Family, batch: Batch, share: int, first: int) -> Estimate:
    """The mean of weights that the family computes from noise, keyed by the content of rows."""
    if not len(batch):
        return _exact(no_rows(batch), "importance")
    batch, parts = keyed(batch), []
    for rows in chunks(len(batch), max(1, WIDE // (share * cost_of(member, batch)))):
        part = batch.take(rows)
        assert part.key is not None  # just made
        size, weights = _require(member.importance(part))
        keys = particle_keys(part.key, share, first)
        noise = Stream(keys, axis=0).normal((len(keys), size))
        each = weights(noise.view(share, len(part), size)).double()
        parts.append(estimate_of(True, each[None]))
    return joined(parts)


def _require(found: _Folded | None) -> _Folded:
    assert found is not None  # noqa: S101 - asked once before
    return found


def _exact(value: Tensor, method: str) -> Estimate:
    zero = torch.zeros_like(value)
    return Estimate(value, zero, zero + math.inf, zero + math.nan, method)


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
        return _exact(no_rows(batch), "enumerated")
    found = []
    for rows in kinds:
        part = batch if len(kinds) == 1 else batch.take(rows)
        found.append(joined(log_weights(member, draws, part, share, first, estimate_of)))
    if len(kinds) == 1:
        return found[0]
    return joined(found).take(torch.cat(kinds).argsort())


def estimate_of(sampled: bool, weights: Tensor) -> Estimate:
    """The average of the weights (S, K, n) of each row, and how exact it is."""
    flat = weights.flatten(0, 1)
    value = log_mean_exp(flat, 0)
    if not sampled:
        return _exact(value, "enumerated")
    se, ess = _errors(weights, value)
    return Estimate(value, se, ess, pareto_k(flat), "importance")


def _errors(weights: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Standard error of the log of the average, by the delta method, and sample size.

    The draws of the globals are strata: only the spread within each of them is error.
    """
    count, particles, _ = weights.shape
    peak = torch.where(value.isinf(), torch.zeros_like(value), value)
    relative = (weights - peak).exp()
    spread = relative.var(1) if particles > 1 else torch.full_like(relative[:, 0], math.nan)
    se = (spread.sum(0) / particles).sqrt() / count
    ess = relative.sum((0, 1)).square() / relative.square().sum((0, 1)).clamp_min(1e-300)
    return se, ess
