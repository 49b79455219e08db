"""New rows from the predictive, and the unseen cells of given rows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.family import Draws, Family
from probgen.queries.density import log_prob
from probgen.queries.draws import Predictive, count_draws, draw_globals, encoded, one_draw
from probgen.queries.generation import generated
from probgen.queries.hidden import holes, slots_of
from probgen.queries.resampling import Drawn, resample
from probgen.session import guarded

__all__ = ["draw", "sample"]

#: rows generated or completed at once
_ROWS = 2**15
#: draws of the globals for rows of a family that is scored without any
_DRAWS = 100


def sample(predictive: Predictive, batch: Batch, generator: torch.Generator) -> Tensor:
    """The rows (n, m) that `draw` completes, without what it says of them."""
    return draw(predictive, batch, generator).x


def draw(predictive: Predictive, batch: Batch, generator: torch.Generator) -> Drawn:
    """Draw the unseen cells of each row from the predictive given its seen cells.

    Each row picks a member, and a draw of the globals, with probability proportional to the
    density of its seen cells there (equally where nothing is seen). Members that have
    `complete` draw exactly; others generate whole rows by running the model, and complete
    rows that are seen in part by resampling (`probgen.queries.resampling`).

    Parameters
    ----------
    predictive : Predictive
    batch : Batch of n rows
        ``batch.x`` may be None where nothing is seen.
    generator : torch.Generator
        On the CPU; advanced.

    Returns
    -------
    Drawn
        Seen cells come back bit for bit.

    Raises
    ------
    NotSupported
        If some rows are seen in part and nothing proposes their hidden cells.
    """
    if batch.x is None:
        like = batch.weight
        zeros = torch.zeros(batch.seen.shape, dtype=like.dtype, device=like.device)
        batch = replace(batch, x=zeros, seen=torch.zeros_like(batch.seen))
    x = encoded(batch)
    drawn = Drawn.exact(x.clone())
    with torch.no_grad():
        rows = torch.arange(len(batch), device=x.device)
        if not _completes(predictive, batch):
            hidden = holes(batch, slots_of(predictive.members[0])).any(1)
            partial = (hidden & batch.seen.any(1)).nonzero()[:, 0]
            if len(partial):
                drawn.put(partial, resample(predictive, batch.take(partial), generator))
            rows = (hidden & ~batch.seen.any(1)).nonzero()[:, 0]
        chosen = batch.take(rows)
        for r, some in _grouped(_pick_members(predictive, chosen, generator)):
            for part in some.to(x.device).split(_ROWS):
                found = _draw_rows(predictive, r, chosen.take(part), generator)
                drawn.x[rows[part]] = found.to(x.dtype)
    drawn.x = torch.where(batch.seen, x, drawn.x)
    return drawn


def _completes(predictive: Predictive, batch: Batch) -> bool:
    """Whether the members complete rows exactly; asked on one row, with noise that is lost."""
    if not predictive.integrated:
        return False
    one = batch.take(slice(0, 1))
    return predictive.members[0].complete(one, torch.Generator()) is not None


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
            value = log_prob(predictive.of(r), batch.take(some)).value
            log_p[some.cpu(), r] = value.double().cpu()
    return _categorical(log_p, generator)


def _categorical(log_p: Tensor, generator: torch.Generator) -> Tensor:
    """One code a row with probability proportional to exp(log_p); equal where all are -inf."""
    log_p = torch.where(log_p.isinf().all(1, keepdim=True), torch.zeros_like(log_p), log_p)
    steps = torch.softmax(log_p, 1).cumsum(1)
    u = torch.rand(len(log_p), 1, generator=generator, dtype=torch.float64)
    return (u * steps[:, -1:] >= steps[:, :-1]).sum(1)


def _draw_rows(predictive: Predictive, r: int, batch: Batch, generator: torch.Generator) -> Tensor:
    """Rows completed in closed form, or generated where nothing is seen."""
    member, draws = predictive.members[r], predictive.draws[r]
    completed = member.complete(batch, generator) if predictive.integrated else None
    return _ancestral(member, draws, batch, generator) if completed is None else completed


def _ancestral(member: Family, draws: Draws, batch: Batch, generator: torch.Generator) -> Tensor:
    """Whole rows (n, m) by running the model, each at its own draw of the globals."""
    n, m = batch.seen.shape
    if member.closed_form and not draws:  # scored without draws: rows need some
        seed = int(torch.randint(2**62, (), generator=generator))
        draws = draw_globals(member, _DRAWS, seed)
    x = torch.zeros(n, m, dtype=batch.weight.dtype, device=batch.seen.device)
    choice = torch.randint(count_draws(draws), (n,), generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    with guarded(seed):
        for s, rows in _grouped(choice):
            rows = rows.to(x.device)
            x[rows] = generated(member, batch.take(rows), one_draw(draws, s)).to(x.dtype)
    return x
