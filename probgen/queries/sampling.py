"""New rows from the predictive, and the unseen cells of given rows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.errors import FitError, NotSupported, message
from probgen.family import Draws, Family
from probgen.queries.contraction import traced
from probgen.queries.density import log_prob
from probgen.queries.draws import Predictive, count_draws, encoded, one_draw
from probgen.session import guarded

__all__ = ["sample"]

#: rows generated or completed at once
_ROWS = 2**15


def sample(predictive: Predictive, batch: Batch, generator: torch.Generator) -> Tensor:
    """Draw the unseen cells of each row from the predictive given its seen cells.

    Each row picks a member, and a draw of the globals, with probability proportional to the
    density of its seen cells there (equally where nothing is seen). Members that have
    `complete` draw exactly; others generate whole rows by running the model.

    Parameters
    ----------
    predictive : Predictive
    batch : Batch of n rows
        ``batch.x`` may be None where nothing is seen.
    generator : torch.Generator
        On the CPU; advanced.

    Returns
    -------
    Tensor (n, m)
        Seen cells come back bit for bit.

    Raises
    ------
    NotSupported
        If some rows are seen in part and the family has no closed form for the rest.
    """
    if batch.x is None:
        like = batch.weight
        zeros = torch.zeros(batch.seen.shape, dtype=like.dtype, device=like.device)
        batch = replace(batch, x=zeros, seen=torch.zeros_like(batch.seen))
    x = encoded(batch)
    drawn = x.clone()
    with torch.no_grad():
        for r, rows in _grouped(_pick_members(predictive, batch, generator)):
            for part in rows.split(_ROWS):
                drawn[part] = _draw_rows(
                    predictive, r, batch.take(part.to(batch.seen.device)), generator
                ).to(drawn.dtype)
    return torch.where(batch.seen, x, drawn)


def _grouped(choice: Tensor) -> list[tuple[int, Tensor]]:
    """(value, rows that hold it) in ascending order of the value."""
    return [(int(value), (choice == value).nonzero()[:, 0]) for value in torch.unique(choice)]


def _pick_members(predictive: Predictive, batch: Batch, generator: torch.Generator) -> Tensor:
    """The number of a member for each row (n,), on the CPU."""
    n, count = len(batch), len(predictive.members)
    if count == 1:
        return torch.zeros(n, dtype=torch.int64)
    log_p = torch.zeros(n, count, dtype=torch.float64)
    some = batch.seen.any(1).nonzero()[:, 0]
    if len(some):
        for r in range(count):
            one = Predictive([predictive.members[r]], [predictive.draws[r]], predictive.integrated)
            log_p[some.cpu(), r] = log_prob(one, batch.take(some)).value.double().cpu()
    return _categorical(log_p, generator)


def _categorical(log_p: Tensor, generator: torch.Generator) -> Tensor:
    """One code a row with probability proportional to exp(log_p); equal where all are -inf."""
    log_p = torch.where(log_p.isinf().all(1, keepdim=True), torch.zeros_like(log_p), log_p)
    steps = torch.softmax(log_p, 1).cumsum(1)
    u = torch.rand(len(log_p), 1, generator=generator, dtype=torch.float64)
    return (u * steps[:, -1:] >= steps[:, :-1]).sum(1)


def _draw_rows(predictive: Predictive, r: int, batch: Batch, generator: torch.Generator) -> Tensor:
    member, draws = predictive.members[r], predictive.draws[r]
    if predictive.integrated:
        completed = member.complete(batch, generator)
        if completed is not None:
            return completed
    whole = batch.seen.all(1)
    partial = batch.seen.any(1) & ~whole
    if partial.any():
        raise NotSupported(
            message(
                f"{int(partial.sum())} rows that are seen in part, and a {type(member).__name__} "
                "without a closed-form conditional",
                "rows with no seen cell, or a family that implements complete()",
                "sample without given, or fit a family with exact conditionals",
            )
        )
    x = encoded(batch).clone()
    fresh = (~whole).nonzero()[:, 0]
    x[fresh] = _ancestral(member, draws, batch.take(fresh), generator).to(x.dtype)
    return x


def _ancestral(member: Family, draws: Draws, batch: Batch, generator: torch.Generator) -> Tensor:
    """Whole rows (n, m) by running the model, each at its own draw of the globals."""
    n, m = batch.seen.shape
    x = torch.zeros(n, m, dtype=batch.weight.dtype, device=batch.seen.device)
    choice = torch.randint(count_draws(draws), (n,), generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    with guarded(seed):
        for s, rows in _grouped(choice):
            rows = rows.to(x.device)
            part = replace(batch.take(rows), x=None, key=None)
            x[rows] = _generate(member, part, one_draw(draws, s)).to(x.dtype)
    return x


def _generate(member: Family, batch: Batch, values: dict[str, Tensor]) -> Tensor:
    """The rows that the model generates, from its `observe` sites or what it returns."""
    trace = traced(member.model, batch, values)
    returned = trace.nodes["_RETURN"]["value"]
    if not batch.sites and isinstance(returned, Tensor) and returned.shape == batch.seen.shape:
        return returned
    n, m = batch.seen.shape
    x = batch.weight.new_zeros(n, m)
    missing = set(range(m))
    for name, columns in batch.sites.items():
        value = trace.nodes[name]["value"].to(x.dtype)
        x[:, list(columns)] = value.reshape(n, len(columns))
        missing -= set(columns)
    if missing:
        raise FitError(
            message(
                f"a model of {type(member).__name__} that generates nothing for slots "
                f"{sorted(missing)}",
                "every modelled slot in some batch.observe call",
                "observe all slots, or return the generated (n, m) rows",
            )
        )
    return x
