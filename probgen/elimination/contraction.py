"""How the steps of a plan are carried out: on numbers or on logarithms, by sum or by maximum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probgen.elimination.factors import Factor, safe_log
from probgen.elimination.plans import Plan, Step

__all__ = ["LINEAR", "LOG", "MAXIMUM", "Ring", "Slots", "beliefs", "chunks", "finish", "held",
           "log_plus", "prepare", "walk", "wide"]  # fmt: skip

#: the tensor of each slot: ``(*sizes, rows)``, or ``(*sizes, 1)`` where all rows share it
Slots = list[Tensor | None]

#: numbers in a slot from which on its product is added up state by state, never held as a whole:
#: two to four times faster where it does not fit into the cache
LARGE = 10**5


@dataclass(frozen=True)
class Ring:
    """What stands for product and sum (over some axes): a commutative semiring."""

    times: Callable[[Tensor, Tensor], Tensor]
    plus: Callable[[Tensor, tuple[int, ...]], Tensor]


def log_plus(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """`logsumexp` whose gradient is 0, not NaN, where all are -inf."""
    top = x.detach().amax(axes, keepdim=True)
    top = torch.where(top > -math.inf, top, 0.0)
    return safe_log((x - top).exp().sum(axes)) + top.squeeze(axes)


LINEAR = Ring(torch.mul, torch.sum)
LOG = Ring(torch.add, log_plus)
MAXIMUM = Ring(torch.add, torch.amax)


def prepare(plan: Plan, factors: Sequence[Factor]) -> Slots:
    """The values of the factors as the plan's first slots, rows last."""
    found: Slots = []
    for factor, axes in zip(factors, plan.axes, strict=True):
        if factor.batched:
            found.append(factor.values.permute(*(a + 1 for a in axes), 0))
        else:
            found.append(factor.values.permute(axes).unsqueeze(-1))
    found += [None] * len(plan.steps)
    return found


def held(slots: Slots, number: int) -> Tensor:
    """The tensor of a slot that must be filled."""
    found = slots[number]
    assert found is not None
    return found


def wide(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A slot with axes of one for the variables of another."""
    return x.reshape(*shape, x.shape[-1])


def product(x: Tensor, y: Tensor, ring: Ring, summed: bool) -> Tensor:
    """The product of two slots, summed over the first axis, which both have, or not."""
    if not summed:
        return ring.times(x, y)
    traced = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)
    if ring is not LINEAR or traced or max(x.numel(), y.numel()) < LARGE:
        return ring.plus(ring.times(x, y), (0,))
    found = x[0] * y[0]
    for own, other in zip(x[1:], y[1:], strict=True):
        found.addcmul_(own, other)
    return found


def walk(plan: Plan, slots: Slots, ring: Ring, batched: bool, keep: bool = False) -> None:
    """Carry out the steps that differ between rows, or those that all rows share, in place.

    Slots that were used are emptied unless `keep`. The list is that of one chunk: slots that all
    rows share are still there for the next.
    """
    first = len(slots) - len(plan.steps)
    for number, step in enumerate(plan.steps, first):
        if step.batched is not batched:
            continue
        x = held(slots, step.left)
        if step.right < 0:
            slots[number] = ring.plus(x, (0,)) if step.summed >= 0 else x
        else:
            x = wide(x, step.left_shape)
            y = wide(held(slots, step.right), step.right_shape)
            slots[number] = product(x, y, ring, step.summed >= 0)
        if not keep:
            slots[step.left] = None
            if step.right >= 0:
                slots[step.right] = None


def beliefs(plan: Plan, slots: Slots, ring: Ring, variables: Iterable[int]) -> dict[int, Tensor]:
    """Of each variable, the sum over all others of the product of all factors: (size, rows).

    A second pass, from the last slot back: what is outside of a slot, as a function of its
    variables, times the slot itself. All slots must have been kept.
    """
    first = len(slots) - len(plan.steps)
    wanted = set(variables)
    home = {}  # of each variable, the smaller of the slots from whose product it is summed
    for step in plan.steps:
        if step.summed in wanted:
            smaller = step.right >= 0 and math.prod(step.right_shape) < math.prod(step.left_shape)
            home[step.right if smaller else step.left] = step.summed
    needed = set(home)
    for number, step in enumerate(plan.steps, first):
        if step.left in needed or step.right in needed:
            needed.add(number)
    one = torch.zeros if ring is LOG else torch.ones
    last = held(slots, plan.last)
    outside: Slots = [None] * len(slots)
    outside[plan.last] = one(last.shape, dtype=last.dtype, device=last.device)
    found = {}
    for number in reversed(range(len(slots))):
        if number in home:
            x = ring.times(held(outside, number), held(slots, number))
            found[home[number]] = ring.plus(x.flatten(1, -2), (1,)) if x.dim() > 2 else x
        if number >= first and number in needed:
            _spread(plan.steps[number - first], slots, outside, number, ring, needed)
    return found


def _spread(
    step: Step, slots: Slots, outside: Slots, number: int, ring: Ring, needed: set[int]
) -> None:
    """What is outside of a step's slots, from what is outside of its result."""
    around = held(outside, number)
    if step.summed >= 0:
        around = around.unsqueeze(0)
    pairs = ((step.left, step.left_shape, step.right, step.right_shape),
             (step.right, step.right_shape, step.left, step.left_shape))  # fmt: skip
    for slot, shape, other, other_shape in pairs:
        if slot not in needed:
            continue
        if other < 0:
            outside[slot] = around.expand(*shape, around.shape[-1])
            continue
        x = ring.times(around, wide(held(slots, other), other_shape))
        alone = tuple(axis for axis, size in enumerate(shape) if size < x.shape[axis])
        x = ring.plus(x, alone) if alone else x
        outside[slot] = x.reshape(*held(slots, slot).shape[:-1], x.shape[-1])
    outside[number] = None


def chunks(
    plan: Plan, slots: Slots, n: int, outside: bool = False
) -> Iterator[tuple[slice, Slots]]:
    """The rows in chunks: their numbers, and slots that hold those rows only."""
    size = plan.chunk(n, outside)
    if size >= n:
        yield slice(0, n), list(slots)
        return
    own = [s is not None and s.shape[-1] == n for s in slots]
    for start in range(0, n, size):
        part = slice(start, min(start + size, n))
        yield (
            part,
            [
                s[..., part] if s is not None and rows else s
                for s, rows in zip(slots, own, strict=True)
            ],
        )


def finish(plan: Plan, last: Tensor, out: Sequence[int], sizes: Sequence[int], n: int) -> Tensor:
    """The last slot as ``(n, *sizes of out)``, repeated along variables that no factor has."""
    shape = [sizes[v] if v in plan.scope else 1 for v in out]
    found = last.reshape(*shape, last.shape[-1]).expand(*(sizes[v] for v in out), n)
    return found.movedim(-1, 0)
