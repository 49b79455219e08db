"""Rows that are answered together: those of one pattern of seen cells, or of several alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probgen.elimination.factors import radix

__all__ = ["Group", "distinct", "grouped", "patterns"]

Pattern = tuple[bool, ...]
#: work (cells, a row) of a group whose columns are all seen, some seen, or all hidden; None where
#: it cannot be done
Work = Callable[[Pattern, tuple[int, ...]], float | None]

#: seconds that a group costs beside its rows, and that a cell of a row costs: by experiment
GROUP_SECONDS, CELL_SECONDS = 5e-4, 2e-9
#: more codes than these do not fit into an integer
MOST_CODES = 2**62


@dataclass(frozen=True)
class Group:
    """Rows that one plan answers.

    Parameters
    ----------
    rows : Tensor (m,) of long
        Their numbers, ascending.
    seen : tuple of bool (d,)
        The columns that are seen in all of them.
    mixed : tuple of int
        The columns that are seen in some of them only: evidence enters by `factors.evidence`.
    """

    rows: Tensor
    seen: Pattern
    mixed: tuple[int, ...] = ()


def patterns(seen: Tensor) -> list[tuple[Pattern, Tensor]]:
    """Rows grouped by which of their cells are seen.

    Parameters
    ----------
    seen : Tensor (n, d) of bool

    Returns
    -------
    list of (pattern, rows)
        The pattern as a tuple of bool (d,), the numbers of its rows (m,) in ascending order.

    Examples
    --------
    >>> patterns(torch.tensor([[True, False], [True, True], [True, False]]))
    [((True, False), tensor([0, 2])), ((True, True), tensor([1]))]
    """
    if not len(seen):
        return []
    if _alike(seen):
        return [(tuple(seen[0].tolist()), torch.arange(len(seen), device=seen.device))]
    starts, order, bounds = _runs(seen.cpu().numpy())
    rows = torch.from_numpy(order).to(seen.device)
    kinds = seen[torch.from_numpy(starts).to(seen.device)].tolist()
    return [
        (tuple(kind), rows[low:high])
        for kind, low, high in zip(kinds, bounds[:-1], bounds[1:], strict=True)
    ]


def _runs(seen: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], list[int]]:
    """First row of each pattern, rows sorted by pattern, and where each begins in these."""
    packed = np.ascontiguousarray(np.packbits(seen, axis=1))
    keys = packed.view(f"V{packed.shape[1]}")[:, 0]
    _, first, group, count = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    by_first = np.argsort(first)
    place = np.empty_like(by_first)
    place[by_first] = np.arange(len(by_first))
    order = np.argsort(place[group], kind="stable")
    return first[by_first], order, [0, *np.cumsum(count[by_first]).tolist()]


def grouped(seen: Tensor, work: Work) -> list[Group]:
    """Rows in as few groups as pays: many patterns with few rows each are answered together.

    A pattern with many rows is best cut out of the tables; with one row it costs more to plan
    than to answer. A group of several patterns is split at the column that halves its rows until
    its work, as `work` predicts it, is below what its patterns would cost one by one.

    Parameters
    ----------
    seen : Tensor (n, d) of bool
    work : callable
        From the columns that are seen in all rows and those that are seen in some, the cells of
        a row, or None if there are too many.

    Returns
    -------
    list of Group
        Every row is in one.

    Examples
    --------
    >>> every = torch.cartesian_prod(*[torch.tensor([True, False])] * 3)
    >>> [group.mixed for group in grouped(every, lambda seen, mixed: 10.0)]
    [(0, 1, 2)]
    """
    if not len(seen) or _alike(seen):
        return [Group(rows, pattern) for pattern, rows in patterns(seen)]
    starts, order, bounds = _runs(seen.cpu().numpy())
    kinds = seen.cpu().numpy()[starts]
    edges = np.array(bounds)
    groups = []
    for members in _split(np.arange(len(kinds)), kinds, np.diff(edges), work):
        own = kinds[members]
        always, ever = np.all(own, axis=0), np.any(own, axis=0)
        mixed = tuple(np.flatnonzero(ever & ~always).tolist())
        pieces = [order[low:high] for low, high in edges[members[:, None] + [0, 1]].tolist()]
        rows = torch.from_numpy(np.sort(np.concatenate(pieces))).to(seen.device)
        groups.append(Group(rows, tuple(always.tolist()), mixed))
    return groups


def _alike(seen: Tensor) -> bool:
    """Whether all rows have one pattern."""
    return len(seen) == 1 or bool((seen == seen[0]).all())


def _split(
    members: NDArray[np.int64],
    kinds: NDArray[np.bool_],
    counts: NDArray[np.int64],
    work: Work,
) -> list[NDArray[np.int64]]:
    """The patterns in groups, by halving."""
    done, waiting = [], [members]
    while waiting:
        own = waiting.pop()
        always, ever = np.all(kinds[own], axis=0), np.any(kinds[own], axis=0)
        mixed = np.flatnonzero(ever & ~always)
        if len(own) == 1:
            done.append(own)
            continue
        cells = work(tuple(always.tolist()), tuple(mixed.tolist()))
        total = counts[own].sum()
        if cells is not None and CELL_SECONDS * cells * total <= GROUP_SECONDS * (len(own) - 1):
            done.append(own)
            continue
        share = counts[own] @ kinds[np.ix_(own, mixed)] / total
        cut = kinds[own, mixed[np.abs(share - 0.5).argmin()]]
        waiting += [own[~cut], own[cut]]
    return done


def distinct(
    codes: Tensor, columns: Sequence[int], sizes: Sequence[int]
) -> tuple[Tensor, Tensor] | None:
    """One row of each combination of states, where there are clearly fewer than rows.

    Parameters
    ----------
    codes : Tensor (n, d) of long
    columns : sequence of int
        The columns that matter; -1 is a state of its own.
    sizes : sequence of int (d,)

    Returns
    -------
    first, inverse : Tensor (m,), Tensor (n,) of long
        A row of each combination, and the combination of each row; None where it would not pay.

    Examples
    --------
    >>> distinct(torch.tensor([[1, 5], [0, 6], [1, 7]] * 9), [0], [2, 8])[1][:4]
    tensor([1, 0, 1, 1])
    """
    n = len(codes)
    every = 1
    for column in columns:
        every *= sizes[column] + 1
        if every > MOST_CODES:
            return None
    if n < 16:
        return None
    if not columns:
        return torch.zeros(1, dtype=torch.long, device=codes.device), torch.zeros(
            n, dtype=torch.long, device=codes.device
        )
    key = radix(codes + 1, columns, [sizes[column] + 1 for column in columns])
    if every > 4 * n:
        values, inverse = key.unique(return_inverse=True)
        m = len(values)
    else:
        present = torch.zeros(every, dtype=torch.bool, device=codes.device)
        place = present.index_fill_(0, key, True).cumsum(0) - 1
        inverse, m = place[key], int(place[-1]) + 1
    if 5 * m > 4 * n:
        return None
    first = torch.empty(m, dtype=torch.long, device=codes.device)
    return first.scatter_(0, inverse, torch.arange(n, device=codes.device)), inverse
