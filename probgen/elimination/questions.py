"""A question to a network that is asked often: planned once, shared sums worked out once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probgen.elimination.contraction import LINEAR, Slots, held, walk
from probgen.elimination.factors import Cut, cuts, evidence, flat, radix, sliced, taken
from probgen.elimination.groups import Pattern
from probgen.elimination.plans import Plan, plan
from probgen.elimination.pruning import requisite
from probgen.elimination.sums import below, log_sum
from probgen.graphs.dag import Dag

__all__ = ["Question"]


@dataclass(frozen=True)
class _Look:
    """A table to look rows up in: its slot, its matrix, and how to number a row's seen cells."""

    slot: int
    matrix: Tensor
    shape: tuple[int, ...]
    given: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class _Ready:
    """A plan whose shared steps are done."""

    plan: Plan
    slots: Slots
    looks: tuple[_Look, ...]
    marks: tuple[tuple[int, int], ...]


class Question:
    """The posterior of one variable where some columns are seen, and some in part of the rows.

    A single row costs as many calls as there are steps that evidence enters, and no planning.

    Parameters
    ----------
    dag : Dag
        The graph.
    tables : sequence of Tensor
        Of each node, as for `network.DiscreteNetwork`.
    seen : tuple of bool (d,)
        The columns that are seen in all rows.
    mixed : tuple of int
        The columns that are seen in some.
    variable : int
        The variable asked for, which is not in `seen`.
    limit : int
        Most bytes a row.

    Raises
    ------
    NotSupported
        If one row takes more memory than the limit.
    """

    def __init__(
        self,
        dag: Dag,
        tables: Sequence[Tensor],
        seen: Pattern,
        mixed: tuple[int, ...],
        variable: int,
        limit: int,
    ) -> None:
        self.dag, self.tables, self.seen, self.variable = dag, tables, seen, variable
        self.limit = limit
        self.sizes = tuple(len(table) for table in tables)
        given = [v for v, own in enumerate(seen) if own]
        #: the tables that are needed, and the columns whose states are
        self.nodes, self.columns = requisite(dag, [variable], given, mixed)
        self.mixed = tuple(v for v in mixed if v in self.columns)
        self._ready: _Ready | None = None

    def ask(self, codes: Tensor, fixed: bool) -> Tensor:
        """Posterior (n, size) of rows of codes (n, d), -1 where a mixed column is hidden.

        `fixed` says that no gradient by the tables is wanted.
        """
        if not fixed:
            return self._slowly(codes)
        if self._ready is None:
            self._ready = self._get_ready()
        ready, n = self._ready, len(codes)
        size = ready.plan.chunk(n)
        parts = [self._joint(ready, codes[i : i + size]) for i in range(0, n, size)]
        z = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        total = z.sum(0)
        found = (z / total).movedim(-1, 0)
        small = below(total)
        if bool(small.any()):
            rows = small.expand(n).nonzero()[:, 0]
            found = found.expand(n, -1).index_copy(0, rows, self._slowly(codes[rows]))
        return found.expand(n, -1)

    def _slowly(self, codes: Tensor) -> Tensor:
        """Without preparation, differentiable, and safe from underflow."""
        factors = sliced(self.dag.parents, self.tables, codes, self.seen, self.nodes)
        factors += evidence(codes, self.sizes, self.mixed, self.tables[0].dtype)
        logs = log_sum(factors, self.sizes, len(codes), (self.variable,), self.limit)
        top = logs.detach().amax(1, keepdim=True)
        weights = (logs - torch.where(top > -math.inf, top, 0.0)).exp()
        return weights / weights.sum(1, keepdim=True).masked_fill(top == -math.inf, 1.0)

    def _get_ready(self) -> _Ready:
        every = list(cuts(self.dag.parents, self.seen, self.nodes))
        scopes = (*(one.scope for one in every), *((v,) for v in self.mixed))
        batched = (*(bool(one.given) for one in every), *(True for _ in self.mixed))
        path = plan(scopes, batched, self.sizes, (self.variable,)).check(self.limit)
        tables = [self.tables[one.node].detach() for one in every]
        slots: Slots = [
            None if one.given else table.permute(path.axes[i]).unsqueeze(-1)
            for i, (one, table) in enumerate(zip(every, tables, strict=True))
        ]
        slots += [None] * (len(self.mixed) + len(path.steps))
        walk(path, slots, LINEAR, batched=False)
        looks = tuple(
            _look(i, one, tables[i], path.axes[i]) for i, one in enumerate(every) if one.given
        )
        marks = tuple((len(every) + i, v) for i, v in enumerate(self.mixed))
        return _Ready(path, slots, looks, marks)

    def _joint(self, ready: _Ready, codes: Tensor) -> Tensor:
        """Joint probability of the variable and the seen cells (size, n), or (size, 1)."""
        slots = list(ready.slots)
        indices: dict[tuple[int, ...], Tensor] = {}
        for look in ready.looks:
            index = indices.get(look.given)
            if index is None:
                index = indices[look.given] = radix(codes, look.given, look.sizes)
            slots[look.slot] = taken(look.matrix, index).view(*look.shape, -1)
        marks = evidence(codes, self.sizes, (v for _, v in ready.marks), self.tables[0].dtype)
        for (slot, _), factor in zip(ready.marks, marks, strict=True):
            slots[slot] = factor.values.movedim(0, -1)
        walk(ready.plan, slots, LINEAR, batched=True)
        return held(slots, ready.plan.last)


def _look(slot: int, one: Cut, table: Tensor, order: tuple[int, ...]) -> _Look:
    """The table's hidden axes in the order of the plan."""
    hidden = [one.axes[i] for i in order]
    given = one.axes[len(one.scope) :]
    own = Cut(one.node, one.scope, one.given, (*hidden, *given))
    shape = tuple(table.shape[axis] for axis in hidden)
    sizes = tuple(table.shape[axis] for axis in given)
    return _Look(slot, flat(table, own).contiguous(), shape, one.given, sizes)
