"""Plans of elimination: in which order variables are summed, and what that costs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from probgen.errors import NotSupported, message

__all__ = ["LIMIT", "Plan", "Step", "plan"]

#: most bytes that one row may take
LIMIT = 2 * 1024**3
#: bytes of the widest intermediate of a chunk of rows
WIDEST = 2 * 1024**2
BYTES = 8
#: (cells, orders): up to how many cells so many orders are tried; a wide one is worth a search
EFFORT = ((10**4, 2), (10**6, 6), (math.inf, 48))

Scope = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One product of two slots, or a slot alone, and the sum over its first variable.

    Slots are numbered: the given factors first, then the result of each step. The axes of every
    slot are in one order of all variables, in which those summed earlier come first, so that
    a product needs no transposition and a sum is one over the first axis.

    Parameters
    ----------
    left, right : int
        The slots; `right` is -1 where there is one only.
    left_shape, right_shape : tuple of int
        Their sizes with ones for the variables of the other, without the axis of rows.
    scope : tuple of int
        The variables of the product, before the sum.
    summed : int
        The variable that is summed, the first of the scope; -1 for none.
    batched : bool
        Whether the result differs between rows.
    """

    left: int
    right: int
    left_shape: tuple[int, ...]
    right_shape: tuple[int, ...]
    scope: Scope
    summed: int
    batched: bool


@dataclass(frozen=True)
class Plan:
    """The order of elimination, its steps and its cost.

    Parameters
    ----------
    order : tuple of int
        The variables that are summed, the first first.
    axes : tuple of tuples of int
        For each given factor, its axes in the order of the plan.
    steps : tuple of Step
        Those without rows come first in each bucket only; see `Step.batched`.
    last : int
        The slot of the answer; -1 where there is no factor.
    scope : tuple of int
        Its variables: those of `out` that are in any factor, in that order.
    width : int
        The treewidth of this order: the variables of the widest product less one.
    cells, widest : int
        The cells of the widest product that differs between rows, and of the widest of all.
    row_bytes, shared_bytes : int
        Predicted peak memory of a row, and of what all rows share.
    kept_bytes : int
        Predicted memory of a row where every slot is kept, as for states, and what is outside of
        a slot differs between rows even where the slot does not, as for marginals.
    total : int
        The cells of all products that differ between rows: the work for a row.
    """

    order: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]
    last: int
    scope: Scope
    width: int
    cells: int
    widest: int
    row_bytes: int
    shared_bytes: int
    kept_bytes: int
    total: int

    def memory(self, n: int, kept: bool = False) -> int:
        """Predicted peak memory in bytes for n rows at once, without gradients."""
        return self.shared_bytes + n * (self.kept_bytes if kept else self.row_bytes)

    def chunk(self, n: int, outside: bool = False) -> int:
        """How many of n rows to take at once: the widest product then stays in the cache.

        With `outside` for marginals, where all products differ between rows if any does.
        """
        cells = self.widest if outside else self.cells
        return max(1, min(n, WIDEST // (BYTES * cells))) if self.cells else n

    def check(self, limit: int = LIMIT, kept: bool = False) -> Plan:
        """The plan itself.

        Raises
        ------
        NotSupported
            If one row would take more than `limit` bytes.
        """
        needed = self.memory(1, kept)
        if needed <= limit:
            return self
        raise NotSupported(message(
            f"a network of treewidth {self.width} over its hidden cells, whose exact answer takes "
            f"{needed / 1024**3:,.1f} GiB a row",
            f"at most {limit / 1024**3:,.1f} GiB",
            "set approximate=True for importance sampling, leave fewer cells hidden, or learn "
            "with fewer parents a node",
        ))  # fmt: skip


@lru_cache(maxsize=4096)
def plan(
    scopes: tuple[Scope, ...],
    batched: tuple[bool, ...],
    sizes: tuple[int, ...],
    out: tuple[int, ...] = (),
    hasty: bool = False,
) -> Plan:
    """The best of several plans that sum the product of factors over all variables not in `out`.

    Orders are greedy: the variable whose neighbours make the smallest product next (min-weight)
    or the fewest new edges (min-fill); where both are wide, more with ties broken at random
    (Kjaerulff 1990, Triangulation of graphs).

    Parameters
    ----------
    scopes : tuple of tuples of int
        The variables of each factor.
    batched : tuple of bool
        Whether each factor differs between rows.
    sizes : tuple of int
        The states of each variable.
    out : tuple of int
        The variables that stay, in the order of the answer's axes.
    hasty : bool
        Two orders only, to know about what it costs.

    Examples
    --------
    A chain of three variables, summed for its end:

    >>> chain = plan(((0,), (0, 1), (1, 2)), (False, False, False), (2, 2, 2), (2,))
    >>> chain.order, chain.width, chain.shared_bytes
    ((0, 1), 1, 144)
    """
    masks = [sum(1 << v for v in scope) for scope in scopes]
    present = {v for scope in scopes for v in scope}
    hidden = sorted(present - set(out))
    best: Plan | None = None
    for trial in range(2 if hasty else EFFORT[-1][1]):
        if best is not None and trial >= _effort(best):
            break
        chance = random.Random(trial) if trial > 1 else None
        cost = (_weight, _fill)[trial % 2]
        order = _order(masks, hidden, out, sizes, cost, chance)
        found = _steps(scopes, batched, sizes, order, out)
        if best is None or _rank(found) < _rank(best):
            best = found
    assert best is not None
    return best


def _effort(best: Plan) -> int:
    """How many orders to try, by the cells of the best so far."""
    cells = best.cells + best.shared_bytes // BYTES
    return next(orders for most, orders in EFFORT if cells <= most)


def _rank(found: Plan) -> tuple[int, int]:
    return found.total * 64 + found.shared_bytes, found.row_bytes


Cost = Callable[[int, dict[int, int], Sequence[float]], float]


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def _weight(v: int, near: dict[int, int], logs: Sequence[float]) -> float:
    return logs[v] + sum(logs[w] for w in _bits(near[v]))


def _fill(v: int, near: dict[int, int], logs: Sequence[float]) -> float:
    """New edges between the neighbours; by weight where equal."""
    neighbours = _bits(near[v])
    missing = sum((near[v] & ~near[w]).bit_count() - 1 for w in neighbours)
    return missing + 1e-4 * _weight(v, near, logs)


def _order(
    masks: Iterable[int],
    hidden: Sequence[int],
    out: Sequence[int],
    sizes: Sequence[int],
    cost: Cost,
    chance: random.Random | None,
) -> tuple[int, ...]:
    """A greedy order; ties, and near ties where there is chance, are broken at random."""
    near: dict[int, int] = dict.fromkeys((*hidden, *out), 0)
    for mask in masks:
        for v in _bits(mask):
            near[v] |= mask
    for v in near:
        near[v] &= ~(1 << v)
    logs = [math.log2(size) + 1e-3 for size in sizes]
    costs = {v: cost(v, near, logs) for v in hidden}
    order = []
    while costs:
        if chance is None:
            v = min(costs, key=costs.__getitem__)
        else:
            v = min(costs, key=lambda w: costs[w] + 0.3 * chance.random())
        del costs[v]
        order.append(v)
        neighbours, touched = near.pop(v), 0
        for w in _bits(neighbours):
            near[w] = (near[w] | neighbours) & ~(1 << v) & ~(1 << w)
            touched |= near[w] if cost is _fill else 0
        for w in _bits(touched | neighbours):
            if w in costs:
                costs[w] = cost(w, near, logs)
    return tuple(order)


class _Builder:
    """The steps so far, and the cells that are alive at each."""

    def __init__(
        self,
        scopes: Sequence[Scope],
        batched: Sequence[bool],
        sizes: Sequence[int],
        rank: dict[int, int],
    ) -> None:
        self.sizes = sizes
        self.place = rank
        self.scopes = [tuple(sorted(scope, key=rank.__getitem__)) for scope in scopes]
        self.batched = list(batched)
        self.steps: list[Step] = []
        self.width = self.cells = self.widest = self.total = 0
        self.alive = [0, 0]
        self.peak = [0, 0]
        for scope, rows in zip(self.scopes, self.batched, strict=True):
            self.alive[rows] += self.count(scope)
        self.peak = list(self.alive)
        self.stored = self.alive[1]

    @property
    def kept(self) -> int:
        """Cells of a row where all slots are kept, beside what is outside of the widest."""
        return self.stored + self.widest

    def count(self, scope: Iterable[int]) -> int:
        return math.prod(self.sizes[v] for v in scope)

    def size(self, slot: int) -> tuple[bool, int]:
        return self.batched[slot], self.count(self.scopes[slot])

    def combine(self, left: int, right: int, summed: int) -> int:
        """Add a step; the number of its result."""
        own, other = self.scopes[left], self.scopes[right] if right >= 0 else ()
        scope = tuple(sorted({*own, *other}, key=self.place.__getitem__))
        rows = self.batched[left] or (right >= 0 and self.batched[right])
        cells = self.count(scope)
        self.steps.append(Step(
            left, right, self.shape(own, scope), self.shape(other, scope), scope, summed, rows,
        ))  # fmt: skip
        result = scope[1:] if summed >= 0 else scope
        self.scopes.append(result)
        self.batched.append(rows)
        self.width = max(self.width, len(scope) - 1)
        self.widest = max(self.widest, cells)
        if rows:
            self.cells = max(self.cells, cells)
            self.total += cells
        kept = self.count(result) if summed >= 0 else 0
        self.peak[rows] = max(self.peak[rows], self.alive[rows] + cells + kept)
        self.alive[rows] += self.count(result)
        self.stored += self.count(result) if rows else 0
        for slot in (left, right):
            if slot >= 0 and self.batched[slot]:
                self.alive[1] -= self.count(self.scopes[slot])
        return len(self.scopes) - 1

    def shape(self, own: Scope, scope: Scope) -> tuple[int, ...]:
        return tuple(self.sizes[v] if v in own else 1 for v in scope)

    def merge(self, slots: list[int], summed: int) -> int:
        """Multiply slots, what all rows share first and small ones first; sum at the last."""
        while len(slots) > 2:
            slots.sort(key=self.size, reverse=True)
            slots.append(self.combine(slots.pop(), slots.pop(), -1))
        if len(slots) == 2:
            return self.combine(slots[0], slots[1], summed)
        return self.combine(slots[0], -1, summed) if summed >= 0 else slots[0]


def _steps(
    scopes: Sequence[Scope],
    batched: Sequence[bool],
    sizes: Sequence[int],
    order: tuple[int, ...],
    out: tuple[int, ...],
) -> Plan:
    """Bucket elimination in this order (Dechter 1999, Artificial Intelligence 113)."""
    rank = {v: i for i, v in enumerate((*order, *out))}
    built = _Builder(scopes, batched, sizes, rank)
    axes = tuple(
        tuple(scope.index(v) for v in ordered)
        for scope, ordered in zip(scopes, built.scopes, strict=True)
    )
    buckets: dict[int, list[int]] = {v: [] for v in order}
    rest: list[int] = []

    def file(slot: int) -> None:
        scope = built.scopes[slot]
        (buckets[scope[0]] if scope and scope[0] in buckets else rest).append(slot)

    for slot in range(len(scopes)):
        file(slot)
    for v in order:
        file(built.merge(buckets[v], v))
    last = built.merge(rest, -1) if rest else -1
    return Plan(
        order, axes, tuple(built.steps), last, built.scopes[last] if rest else (),
        built.width, built.cells, built.widest,
        BYTES * built.peak[1], BYTES * built.peak[0], BYTES * built.kept, built.total,
    )  # fmt: skip
