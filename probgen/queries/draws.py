"""The predictive of a fitted model: members, and stored draws of their global latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from probgen.batch import Batch, row_keys
from probgen.errors import SchemaError, message
from probgen.family import Draws, Family
from probgen.queries.companion import Companion
from probgen.queries.contraction import global_sites, traced
from probgen.queries.hidden import holes, slots_of
from probgen.queries.noise import particle_keys
from probgen.session import guarded

__all__ = [
    "Predictive",
    "count_draws",
    "draw_globals",
    "encoded",
    "keyed",
    "log_mean_exp",
    "one_draw",
    "one_row",
    "tile",
]


@dataclass
class Predictive:
    """The density of a fitted model: an equal mixture over members and their draws.

    ``p(x) = mean_r mean_s p_r(x | t_rs)``: averages of p, never of log p.

    Parameters
    ----------
    members : list of Family
        Independently fitted families (restarts).
    draws : list of Draws
        For each member, S draws of its global latents by site name, each `(S, *shape)`;
        an empty dict for a family without global latents, which counts as one draw.
    integrated : bool
        Whether a member's closed form of the whole mixture of draws may stand for the
        average over the stored draws. False for a plug-in density.
    companion : callable, optional
        Gives densities over the same slots with exact conditionals, which propose hidden
        cells for members that have none; called only where it is needed.
    """

    members: list[Family]
    draws: list[Draws]
    integrated: bool = True
    companion: Callable[[], Companion] | None = None

    def __post_init__(self) -> None:
        counts = [count_draws(draws) for draws in self.draws]
        if not self.members or len(counts) != len(self.members) or len(set(counts)) > 1:
            raise SchemaError(
                message(
                    f"{len(self.members)} members with {counts} draws",
                    "at least one member and equally many draws of each",
                    "draw the globals of every member with the same count",
                )
            )

    def __len__(self) -> int:
        """Number of draws of all members together."""
        return sum(count_draws(draws) for draws in self.draws)

    @property
    def dtype(self) -> torch.dtype:
        """Of the learned numbers of the members; float64 where there are none."""
        return _like(self.members[0]).dtype

    @property
    def device(self) -> torch.device:
        """Where the members live."""
        return _like(self.members[0]).device

    def at_point(self, batch: Batch | None = None) -> Predictive:
        """The plug-in density: each member at one value of its globals.

        The mean of the draws in unconstrained space, mapped back (the mode for discrete
        sites), unless the family has `point_globals` of its own. The
        model is run once, on the first row of `batch` if given, to learn the supports.
        """
        points = [
            _point(member, draws, batch)
            for member, draws in zip(self.members, self.draws, strict=True)
        ]
        return replace(self, draws=points, integrated=False)

    def of(self, member: int) -> Predictive:
        """The predictive of one member."""
        return replace(self, members=[self.members[member]], draws=[self.draws[member]])


def count_draws(draws: Draws) -> int:
    """S; one for a family without global latents."""
    return next((len(value) for value in draws.values()), 1)


def one_draw(draws: Draws, s: int) -> dict[str, Tensor]:
    """The globals of draw s, without the leading dimension."""
    return {name: value[s] for name, value in draws.items()}


def keyed(batch: Batch) -> Batch:
    """The same batch with the content keys of its rows."""
    if batch.key is not None or batch.x is None:
        return batch
    key = row_keys(batch.x, batch.seen)
    return Batch(batch.x, batch.seen, batch.weight, batch.total, batch.context, key)


def encoded(batch: Batch) -> Tensor:
    """The values (n, m) of a batch that has some."""
    if batch.x is None:
        raise SchemaError(
            message("a batch without values", "encoded rows", "pass rows, unseen where unknown")
        )
    return batch.x


def tile(batch: Batch, times: int, first: int = 0) -> tuple[Batch, Tensor]:
    """The batch `times` over, particle-major, and the noise keys of its rows.

    `first` is the number of the first particle: other numbers, other noise.
    """

    def repeated(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.repeat(times, *[1] * (value.dim() - 1))

    if batch.key is None:
        raise TypeError("keyed noise needs a batch with keys: pass keyed(batch)")
    tiled = Batch(
        repeated(batch.x), batch.seen.repeat(times, 1), batch.weight.repeat(times),
        batch.total, repeated(batch.context),
    )  # fmt: skip
    return tiled, particle_keys(batch.key, times, first)


def draw_globals(family: Family, count: int, seed: int, batch: Batch | None = None) -> Draws:
    """Draws of the global latents of a fitted family.

    Parameters
    ----------
    family : Family
        Its own `draw_globals` is used where it has one; otherwise its guide is run, and a
        global site that the guide lacks is drawn from the model.
    count : int
        Number of draws S.
    seed : int
    batch : Batch, optional
        Any rows, of which the first is shown to the guide (as unseen, without context,
        when None).

    Returns
    -------
    Draws
        Site name -> `(S, *shape)`; empty for a family without global latents.
    """
    generator = torch.Generator().manual_seed(seed)
    own = family.draw_globals(count, generator)
    if own is not None:
        return {name: value.detach() for name, value in own.items()}
    one = one_row(family, batch)
    found: list[dict[str, Tensor]] = []
    with torch.no_grad(), guarded(seed):
        while len(found) < count:
            guide = _values_of(traced(family.guide, one, {}))
            if found and found[0].keys() == guide.keys():  # nothing is left to the model
                found.append({name: guide[name] for name in found[0]})
                continue
            found.append(_values_of(traced(family.model, one, guide)))
            if not found[0]:
                return {}
    return {name: torch.stack([draw[name] for draw in found]) for name in found[0]}


def _values_of(trace: Any) -> dict[str, Tensor]:
    return {name: site["value"].detach().clone() for name, site in global_sites(trace).items()}


def _like(family: Family) -> Tensor:
    for tensor in (*family.parameters(), *family.buffers()):
        if tensor.is_floating_point():
            return tensor
    return torch.zeros((), dtype=torch.float64)


def one_row(family: Family, batch: Batch | None = None) -> Batch:
    """The first row of a batch; where there is none, or it has holes that the pair cannot be
    run on, an example of the family's own, or a row of unseen cells.
    """
    own, like = family.example(), _like(family)
    if batch is not None and len(batch) and batch.x is not None:
        first = batch.take(slice(0, 1))
        if own is None or not bool(holes(first, slots_of(family)).any()):
            return keyed(first)
    if own is not None:
        held = None if own.context is None else own.context.to(like)
        return keyed(Batch.of(encoded(own).to(like), own.seen.to(like.device), context=held))
    if batch is None:
        m, context = len(family.schema.slots), len(family.schema.context_slots)
    else:
        m = batch.seen.shape[1]
        context = 0 if batch.context is None else batch.context.shape[1]
    x = torch.zeros(1, m, dtype=like.dtype, device=like.device)
    columns = x.new_zeros(1, context) if context else None
    return keyed(Batch.of(x, torch.zeros_like(x, dtype=torch.bool), context=columns))


def _point(family: Family, draws: Draws, batch: Batch | None) -> Draws:
    own = family.point_globals()
    if own is not None:
        return own
    if not draws:
        return {}
    with torch.no_grad(), guarded(0):
        trace = traced(family.model, one_row(family, batch), one_draw(draws, 0))
        sites = global_sites(trace)
        return {name: _centre(value, sites[name]["fn"]) for name, value in draws.items()}


def _centre(value: Tensor, fn: Any) -> Tensor:
    """One value (1, *shape) that stands for S draws."""
    if len(value) == 1:
        return value
    if not value.is_floating_point() or fn.support.is_discrete:
        return value.mode(0).values[None]
    free = biject_to(fn.support)
    return free(free.inv(value).mean(0))[None]


def log_mean_exp(value: Tensor, dim: int) -> Tensor:
    """Logarithm of the average of exponentials along a dimension."""
    return torch.logsumexp(value, dim) - math.log(value.shape[dim])
