"""The log of a sum of products over hidden variables, and the marginals it implies, a row each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from probgen.elimination.contraction import (
    LINEAR,
    LOG,
    Ring,
    Slots,
    beliefs,
    chunks,
    finish,
    held,
    log_plus,
    prepare,
    walk,
)
from probgen.elimination.factors import Factor, safe_log
from probgen.elimination.plans import LIMIT, Plan, plan

__all__ = ["below", "in_logs", "like", "log_sum", "marginals", "planned", "scaled"]

#: A row whose sum is below the smallest number to this power (1e-200 in float64) is done again on
#: logarithms. With factors of at most 1, what underflow loses is below the smallest number times
#: the number of states.
FLOOR = 0.65
#: Bytes that may be kept for a gradient. Where it takes more, each chunk is done again on the way
#: back, so that memory does not grow with the rows.
RETAINED = LIMIT // 4


def log_sum(
    factors: Sequence[Factor],
    sizes: Sequence[int],
    n: int,
    out: tuple[int, ...] = (),
    limit: int = LIMIT,
) -> Tensor:
    """Log of the sum, over all variables not in `out`, of the product of the factors.

    Parameters
    ----------
    factors : sequence of Factor
        Shared or of n rows each.
    sizes : sequence of int
        The states of each variable.
    n : int
        The number of rows.
    out : tuple of int
        Variables that stay.
    limit : int
        Most bytes that one row may take.

    Returns
    -------
    Tensor (n,) or ``(n, *sizes of out)``
        In nats; -inf where the product is 0 throughout. States that are less probable than the
        row's best by a factor of 1e-100 may be -inf too. Differentiable in the factors' values
        and scales; the gradient by values that are exactly 0 may be 0.

    Raises
    ------
    NotSupported
        If one row takes more memory than the limit.

    Examples
    --------
    >>> prior = Factor((0,), torch.tensor([0.25, 0.75]), batched=False)
    >>> rows = Factor((0,), torch.tensor([[1.0, 1.0], [0.0, 1.0]]), batched=True)
    >>> log_sum([prior, rows], [2], 2).exp()
    tensor([1.0000, 0.7500])
    """
    kept, scale = scaled(factors)
    if not kept or not n:
        found = torch.zeros(n, *(sizes[v] for v in out), **like(factors))
    else:
        found = _log_sum(kept, sizes, n, out, limit)
    if scale is None:
        return found
    return found + scale.reshape(-1, *[1] * len(out))


def scaled(factors: Sequence[Factor]) -> tuple[list[Factor], Tensor | None]:
    """Factors of at most 1 that have variables, and the sum (n,) or () of all log scales."""
    bounded = [factor.scaled() if factor.scope else factor for factor in factors]
    scales = [f.log_scale for f in bounded if f.log_scale is not None]
    scales += [safe_log(f.values) for f in bounded if not f.scope]
    return [f for f in bounded if f.scope], sum(scales[1:], scales[0]) if scales else None


def like(factors: Sequence[Factor]) -> dict[str, Any]:
    """The type and device of answers."""
    if not factors:
        return {"dtype": torch.float64}
    return {"dtype": factors[0].values.dtype, "device": factors[0].values.device}


def planned(
    factors: Sequence[Factor],
    sizes: Sequence[int],
    out: tuple[int, ...],
    limit: int,
    kept: bool = False,
) -> Plan:
    """The plan for factors, checked against the limit."""
    found = plan(
        tuple(f.scope for f in factors), tuple(f.batched for f in factors), tuple(sizes), out
    )
    return found.check(limit, kept)


def _log_sum(
    factors: Sequence[Factor], sizes: Sequence[int], n: int, out: tuple[int, ...], limit: int
) -> Tensor:
    path = planned(factors, sizes, out, limit)
    z = _last(path, factors, n, LINEAR)
    logs, small = safe_log(z), below(z)
    if bool(small.any()):
        rows = small.nonzero()[:, 0]
        redone = _last(path, in_logs(factors, rows), len(rows), LOG)
        logs = logs.index_copy(-1, rows, redone)
    return finish(path, logs, out, sizes, n)


def _last(path: Plan, factors: Sequence[Factor], n: int, ring: Ring) -> Tensor:
    """The plan's answer ``(*sizes, n)``, or ``(*sizes, 1)`` where all rows share it."""
    slots = prepare(path, factors)
    walk(path, slots, ring, batched=False)
    parts = []
    traced = torch.is_grad_enabled() and any(f.values.requires_grad for f in factors)
    heavy = traced and n * path.kept_bytes > RETAINED
    for _, part in chunks(path, slots, n):
        if heavy:
            parts.append(checkpoint(
                _chunk, path, part, ring, use_reentrant=False, preserve_rng_state=False
            ))  # fmt: skip
        else:
            parts.append(_chunk(path, part, ring))
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _chunk(path: Plan, slots: Slots, ring: Ring) -> Tensor:
    """The answer of a chunk of rows; the slots stay as they are."""
    slots = list(slots)
    walk(path, slots, ring, batched=True)
    return held(slots, path.last)


def below(z: Tensor) -> Tensor:
    """Which rows (n,) of sums ``(*sizes, n)`` are small enough to be done again on logarithms."""
    z = z.detach()
    largest = z.reshape(-1, z.shape[-1]).amax(0) if z.dim() > 1 else z
    return largest < torch.finfo(z.dtype).tiny ** FLOOR


def in_logs(factors: Sequence[Factor], rows: Tensor) -> list[Factor]:
    """The factors of some rows, their values as logarithms."""
    return [
        replace(f, values=safe_log(f.values[rows] if f.batched else f.values)) for f in factors
    ]


def marginals(
    factors: Sequence[Factor],
    sizes: Sequence[int],
    n: int,
    variables: Sequence[int],
    limit: int = LIMIT,
) -> dict[int, Tensor]:
    """The posterior of each of some variables, all from one pass and its gradient.

    The gradient of the log of the sum by an indicator of a state is that state's posterior
    (Darwiche 2003, A differential approach to inference in Bayesian networks, JACM 50).

    Parameters
    ----------
    factors, sizes, n, limit
        As for `log_sum`.
    variables : sequence of int
        The variables wanted.

    Returns
    -------
    dict of int to Tensor (n, size)
        Each row sums to 1, or is 0 throughout where the product is.

    Raises
    ------
    NotSupported
        If one row takes more memory than the limit.

    Examples
    --------
    >>> prior = Factor((0,), torch.tensor([0.25, 0.75]), batched=False)
    >>> rows = Factor((0,), torch.tensor([[1.0, 1.0], [0.0, 0.0]]), batched=True)
    >>> marginals([prior, rows], [2], 2, [0])[0]
    tensor([[0.2500, 0.7500],
            [0.0000, 0.0000]])
    """
    kind = like(factors)
    if not n:
        return {v: torch.zeros(0, sizes[v], **kind) for v in variables}
    kept, scale = scaled(factors)
    found = {}
    if kept:
        path = planned(kept, sizes, (), limit, kept=True)
        joint, z = _beliefs(path, kept, n, variables, LINEAR)
        small = below(z)
        found = {v: x / x.sum(0).masked_fill(small, 1.0) for v, x in joint.items()}
        if bool(small.any()):
            rows = small.nonzero()[:, 0]
            logs, _ = _beliefs(path, in_logs(kept, rows), len(rows), variables, LOG)
            for v, x in logs.items():
                found[v] = found[v].index_copy(-1, rows, _softmax(x))
    free = {v: torch.full((sizes[v], 1), 1 / sizes[v], **kind) for v in variables}
    every = {v: found.get(v, free[v]).expand(-1, n).movedim(-1, 0) for v in variables}
    if scale is None:
        return every
    impossible = (scale.detach() == -math.inf).reshape(-1, 1)
    return {v: x.masked_fill(impossible, 0.0) for v, x in every.items()}


def _softmax(logs: Tensor) -> Tensor:
    """Posterior (size, n) from logarithms: 0 throughout where all are -inf."""
    total = log_plus(logs, (0,))
    return (logs - torch.where(total > -math.inf, total, 0.0)).exp()


def _beliefs(
    path: Plan, factors: Sequence[Factor], n: int, variables: Sequence[int], ring: Ring
) -> tuple[dict[int, Tensor], Tensor]:
    """The joint of each variable with the evidence (size, n), and the sum (n,)."""
    slots = prepare(path, factors)
    walk(path, slots, ring, batched=False, keep=True)
    parts, sums = [], []
    for _, part in chunks(path, slots, n, outside=True):
        walk(path, part, ring, batched=True, keep=True)
        parts.append(beliefs(path, part, ring, variables))
        sums.append(held(part, path.last))
    if len(parts) == 1:
        return parts[0], sums[0]
    return {v: torch.cat([p[v] for p in parts], -1) for v in parts[0]}, torch.cat(sums, -1)
