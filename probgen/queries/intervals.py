"""Log densities by draw of the globals, and the posterior intervals made of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.errors import NotSupported, SchemaError, message
from probgen.family import Draws, Family
from probgen.queries.companion import keyed_proposals
from probgen.queries.density import (
    TILED,
    WIDE,
    chunks,
    companion_of,
    cost_of,
    hole_rows,
    log_weights,
    no_rows,
)
from probgen.queries.draws import Predictive, count_draws, keyed, log_mean_exp
from probgen.queries.hidden import holes, scores_whole_rows, slots_of

__all__ = ["estimate_draws", "interval", "log_prob_draws", "quantiles"]


def log_prob_draws(predictive: Predictive, batch: Batch, *, particles: int = 512) -> Tensor:
    """Log density of each row at each draw of the globals.

    Parameters
    ----------
    predictive : Predictive
    batch : Batch of n rows
    particles : int
        Importance draws a row and draw of the globals, where the pair has row latents.

    Returns
    -------
    Tensor (S, n)
        S counts the draws of all members, member by member. Memory is S * n numbers: pass
        rows in pieces, or use `interval`.
    """
    return estimate_draws(predictive, batch, particles=particles)[0]


def estimate_draws(
    predictive: Predictive, batch: Batch, *, particles: int = 512
) -> tuple[Tensor, Tensor]:
    """As `log_prob_draws`, and the Monte Carlo standard error of each number.

    Returns
    -------
    value, se : Tensor (S, n)
        Nats, encoded units; `se` is 0 where the value is exact.
    """
    if any(scores_whole_rows(member) for member in predictive.members):
        hidden = holes(batch, slots_of(predictive.members[0])).any(1)
        if bool(hidden.any()):
            return _with_holes(predictive, batch, hidden, particles)
    return _seen(predictive, batch, particles)


def _with_holes(
    predictive: Predictive, batch: Batch, hidden: Tensor, particles: int
) -> tuple[Tensor, Tensor]:
    """Members that score whole rows only: hidden cells are proposed, the same for all draws."""
    batch, count = keyed(batch), len(predictive)
    out = batch.weight.new_zeros(2, count, len(batch), dtype=torch.float64)
    whole, part = hole_rows(batch, hidden)
    if len(whole):
        found = _seen(predictive, batch.take(whole), particles)
        out[:, :, whole] = torch.stack(found).double()
    if not len(part):
        return out[0], out[1]
    companion = companion_of(predictive)
    for rows in part.split(max(1, TILED // particles)):
        proposed = keyed_proposals(companion, batch.take(rows), particles)
        weights = proposed.weights(_seen(predictive, proposed.rows, particles)[0])
        out[:, :, rows] = torch.stack(_averaged(True, weights)).to(out.dtype)
    return out[0], out[1]


def _averaged(sampled: bool, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the average of weights (S, K, n), and its error by the delta method."""
    value = log_mean_exp(weights, 1)
    if not sampled or weights.shape[1] < 2:
        unknown = math.nan if sampled else 0.0
        return value, torch.full_like(value, unknown)
    peak = torch.where(value.isinf(), torch.zeros_like(value), value)
    spread = (weights - peak[:, None]).exp().std(1)
    return value, spread / math.sqrt(weights.shape[1])


def _seen(predictive: Predictive, batch: Batch, particles: int) -> tuple[Tensor, Tensor]:
    """By the members' own ways, (S, n)."""
    parts = []
    first = 0
    for member, draws in zip(predictive.members, predictive.draws, strict=True):
        value = _closed_form_draws(member, draws, batch)
        if value is None:
            parts.append(_through_pair_draws(member, draws, batch, particles, first))
        else:
            parts.append((value, torch.zeros_like(value)))
        first += particles * count_draws(draws)
    values, errors = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(errors)


def _closed_form_draws(member: Family, draws: Draws, batch: Batch) -> Tensor | None:
    values = []
    count = count_draws(draws)
    with torch.no_grad():
        for rows in chunks(len(batch), max(64, WIDE // (cost_of(member, batch) * count))):
            part = batch.take(rows)
            value = member.exact_log_prob(part, draws or None)
            if value is None:
                return None
            values.append(value if draws else value[None])
    return torch.cat(values, 1) if values else no_rows(batch).expand(count, 0)


def _through_pair_draws(
    member: Family, draws: Draws, batch: Batch, particles: int, first: int
) -> tuple[Tensor, Tensor]:
    found = log_weights(member, draws, batch, particles, first, _averaged)
    if not found:
        none = no_rows(batch).expand(count_draws(draws), 0)
        return none, none
    values, errors = zip(*found, strict=True)
    return torch.cat(values, 1), torch.cat(errors, 1)


def interval(
    predictive: Predictive,
    batch: Batch,
    level: float,
    given: Batch | None = None,
    *,
    particles: int = 512,
    rows: int = 4096,
) -> tuple[Tensor, Tensor]:
    """Equal-tailed posterior interval of log p(x given t), or of log p(x | y, given t).

    Parameters
    ----------
    predictive : Predictive
        Of at least two draws.
    batch : Batch of n rows
    level : float
        Posterior probability inside, in (0, 1).
    given : Batch of n rows, optional
        The same rows with only the conditioning cells seen: the interval is then of
        ``log p(x | t) - log p(given | t)``.
    particles : int
        As in `log_prob_draws`.
    rows : int
        Rows worked on at once; memory is rows * S numbers.

    Returns
    -------
    lower, upper : Tensor (n,)
        Nats, encoded units. The predictive log density may lie outside.

    Raises
    ------
    SchemaError
        If level is not inside (0, 1).
    NotSupported
        If there is a single draw: a point has no interval.
    """
    if not 0 < level < 1:
        raise SchemaError(
            message(f"interval = {level}", "a probability in (0, 1)", "pass 0.9, for example")
        )
    if len(predictive) < 2:
        raise NotSupported(
            message(
                "a model with a single draw of its parameters",
                "several draws for an interval",
                "fit a family with priors, or with several restarts",
            )
        )
    lower, upper = [], []
    for piece in chunks(len(batch), rows):
        part = batch.take(piece)
        if given is None:
            values = log_prob_draws(predictive, part, particles=particles)
        else:
            values = _given_draws(predictive, part, given.take(piece), particles)
        ends = quantiles(values.sort(0).values, level)
        lower.append(ends[0])
        upper.append(ends[1])
    if not lower:
        return no_rows(batch), no_rows(batch)
    return torch.cat(lower), torch.cat(upper)


def _given_draws(predictive: Predictive, batch: Batch, given: Batch, particles: int) -> Tensor:
    """Conditional log densities (S, n) by draw: the family's own where it has some."""
    if len(predictive) == len(predictive.members):  # one value of the parameters each
        own = [member.estimate_given(batch, given) for member in predictive.members]
        known = [part[0] for part in own if part is not None]
        if len(known) == len(own):
            return torch.stack(known)
    joint = log_prob_draws(predictive, batch, particles=particles)
    return joint - log_prob_draws(predictive, given, particles=particles)


def quantiles(values: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Ends (n,) of the equal-tailed interval of sorted draws (S, n), right also at -inf.

    Between order statistics at ``q (S + 1)`` (Weibull's rule, type 6 of Hyndman and Fan 1996,
    Sample quantiles in statistical packages): an interval of S independent draws then covers
    at its nominal rate on average, where rules that stay further inside cover too seldom
    (0.931 for 0.95 at S = 100). With too few draws for the level it is their whole range.
    """
    return _quantile(values, (1 - level) / 2), _quantile(values, (1 + level) / 2)


def _quantile(values: Tensor, q: float) -> Tensor:
    place = min(max(q * (len(values) + 1) - 1, 0.0), len(values) - 1.0)
    below, above = values[math.floor(place)], values[math.ceil(place)]
    between = torch.lerp(below, above, place - math.floor(place))
    return torch.where((below == above) | below.isinf(), below, between)
