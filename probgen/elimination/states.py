"""The states of hidden variables: the most probable ones, and exact draws of all at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from probgen.elimination.contraction import (
    LINEAR,
    LOG,
    MAXIMUM,
    Ring,
    Slots,
    chunks,
    held,
    prepare,
    walk,
)
from probgen.elimination.factors import Factor, safe_log
from probgen.elimination.plans import LIMIT, Plan
from probgen.elimination.sums import below, in_logs, like, planned, scaled

__all__ = ["draw", "drawn", "inverse", "maximise"]

States = dict[int, Tensor]
#: from the weights (size, rows) of a variable's states, its number and the rows: states (rows,)
Choose = Callable[[Tensor, int, slice], Tensor]


def maximise(
    factors: Sequence[Factor], sizes: Sequence[int], n: int, limit: int = LIMIT
) -> tuple[Tensor, States]:
    """The most probable states of all variables jointly: the most probable explanation.

    By maxima in place of sums and a way back (Dawid 1992, Applications of a general propagation
    algorithm for probabilistic expert systems, Statistics and Computing 2).

    Parameters
    ----------
    factors, sizes, n, limit
        As for `log_sum`.

    Returns
    -------
    value : Tensor (n,)
        Log of the largest product, in nats; -inf where the product is 0 throughout.
    states : dict of int to Tensor (n,) of long
        Of each variable that any factor has; the lowest code where several are best, and -1 where
        the product is 0 throughout.

    Raises
    ------
    NotSupported
        If one row takes more memory than the limit.

    Examples
    --------
    >>> prior = Factor((0,), torch.tensor([0.25, 0.75]), batched=False)
    >>> rows = Factor((0,), torch.tensor([[1.0, 1.0], [1.0, 0.0]]), batched=True)
    >>> value, states = maximise([prior, rows], [2], 2)
    >>> value.exp(), states[0]
    (tensor([0.7500, 0.2500]), tensor([1, 0]))
    """
    variables = sorted({v for factor in factors for v in factor.scope})
    kept, scale = scaled(factors)
    value = torch.zeros(n, **like(factors))
    states: States = {}
    if kept and n:
        path = planned(kept, sizes, (), limit, kept=True)
        logs = [replace(f, values=safe_log(f.values)) for f in kept]
        value, states = _back(path, logs, n, MAXIMUM, lambda weights, v, rows: first_best(weights))
    value = value if scale is None else value + scale
    return value, _possible(states, variables, value > -math.inf)


def first_best(weights: Tensor) -> Tensor:
    """The lowest code (rows,) among the largest of weights (size, rows)."""
    size = len(weights)
    codes = torch.arange(size, device=weights.device)[:, None]
    return torch.where(weights == weights.amax(0), codes, size - 1).amin(0)


def draw(
    factors: Sequence[Factor],
    sizes: Sequence[int],
    n: int,
    generator: torch.Generator,
    limit: int = LIMIT,
) -> States:
    """Exact joint draws of all variables, from the product of the factors scaled to sum to 1.

    Each variable is drawn given those eliminated after it, by the inverse of its cumulative
    distribution. Row and variable have a number of their own in the stream of the generator, so
    that a plan does not change a draw.

    Parameters
    ----------
    factors, sizes, n, limit
        As for `log_sum`.
    generator : torch.Generator
        Of the CPU; the answers are where the factors are.

    Returns
    -------
    dict of int to Tensor (n,) of long
        A state of each variable that any factor has; -1 where the product is 0 throughout.

    Raises
    ------
    NotSupported
        If one row takes more memory than the limit.

    Examples
    --------
    >>> coin = Factor((0,), torch.tensor([0.5, 0.5]), batched=False)
    >>> copy = Factor((0, 1), torch.eye(2), batched=False)
    >>> states = draw([coin, copy], [2, 2], 100, torch.Generator().manual_seed(0))
    >>> bool((states[0] == states[1]).all()), 30 < int(states[0].sum()) < 70
    (True, True)
    """
    uniform = torch.rand(n, len(sizes), dtype=torch.float64, generator=generator)
    return drawn(factors, sizes, uniform, limit)[0]


def drawn(
    factors: Sequence[Factor], sizes: Sequence[int], uniform: Tensor, limit: int = LIMIT
) -> tuple[States, Tensor]:
    """`draw` with given numbers (n, d), uniform on [0, 1), of each row and variable.

    Also returns whether each row (n,) is possible.
    """
    variables = sorted({v for factor in factors for v in factor.scope})
    kept, scale = scaled(factors)
    n = len(uniform)
    states: States = {}
    possible = torch.ones(n, dtype=torch.bool, device=uniform.device)
    if kept and n:
        uniform = uniform.to(kept[0].values)
        path = planned(kept, sizes, (), limit, kept=True)
        z, states = _back(path, kept, n, LINEAR, _inverse(uniform, LINEAR))
        small = below(z)
        possible = (z > 0).expand(n)
        if bool(small.any()):
            rows = small.expand(n).nonzero()[:, 0]
            logs = in_logs(kept, rows)
            top, again = _back(path, logs, len(rows), LOG, _inverse(uniform[rows], LOG))
            states = {v: codes.index_copy(0, rows, again[v]) for v, codes in states.items()}
            possible = possible.index_copy(0, rows, (top > -math.inf).expand(len(rows)))
    if scale is not None:
        possible = possible.to(scale.device) & (scale > -math.inf)
    return _possible(states, variables, possible), possible


def inverse(weights: Tensor, uniform: Tensor) -> Tensor:
    """The state at which cumulative weights (size, rows) pass the uniform numbers (rows,)."""
    steps = weights.cumsum(0)
    passed = (steps <= uniform * steps[-1]).sum(0)
    # never a state of weight 0 at the end, should the product be rounded up
    return torch.minimum(passed, (steps < steps[-1]).sum(0))


def _inverse(uniform: Tensor, ring: Ring) -> Choose:
    """Choose by `inverse`, from weights or their logarithms."""

    def choose(weights: Tensor, v: int, rows: slice) -> Tensor:
        if ring is LOG:
            top = weights.amax(0)
            weights = (weights - torch.where(top > -math.inf, top, 0.0)).exp()
        return inverse(weights, uniform[rows, v])

    return choose


def _possible(states: States, variables: Iterable[int], possible: Tensor) -> States:
    """States of all variables; -1 in rows that are impossible."""
    return {v: states[v].masked_fill(~possible, -1) for v in variables}


def _back(
    path: Plan, factors: Sequence[Factor], n: int, ring: Ring, choose: Choose
) -> tuple[Tensor, States]:
    """The sum or maximum (n,) or (1,), and the states chosen on the way back."""
    slots = prepare(path, factors)
    walk(path, slots, ring, batched=False, keep=True)
    sums, found = [], []
    for rows, part in chunks(path, slots, n):
        walk(path, part, ring, batched=True, keep=True)
        found.append(_states(path, part, ring, rows, choose))
        sums.append(held(part, path.last))
    states = {v: torch.cat([part[v] for part in found]) for v in path.order}
    return torch.cat(sums, -1) if len(sums) > 1 else sums[0], states


def _states(path: Plan, slots: Slots, ring: Ring, rows: slice, choose: Choose) -> States:
    found: States = {}
    for step in reversed(path.steps):
        if step.summed < 0:
            continue
        pairs = ((step.left, step.left_shape), (step.right, step.right_shape))
        parts = [
            _at(held(slots, slot), shape, step.scope, found, rows) for slot, shape in pairs
            if slot >= 0
        ]  # fmt: skip
        weights = parts[0] if len(parts) == 1 else ring.times(*parts)
        found[step.summed] = choose(weights, step.summed, rows).expand(rows.stop - rows.start)
    return found


def _at(
    slot: Tensor, shape: tuple[int, ...], scope: Sequence[int], found: States, rows: slice
) -> Tensor:
    """A slot ``(*sizes, rows)`` at the states of all its variables but the first: (size, rows)."""
    index: Tensor | None = None
    for v, size in zip(scope[1:], shape[1:], strict=True):
        if size > 1:
            index = found[v] if index is None else index * size + found[v]
    size, n = shape[0], rows.stop - rows.start
    flat = slot.reshape(size, -1, slot.shape[-1])
    if index is None:
        return flat[:, 0]
    if slot.shape[-1] == 1:
        return flat[:, :, 0].gather(1, index.expand(size, n))
    return flat.gather(1, index.expand(size, 1, n))[:, 0]
