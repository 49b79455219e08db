"""Factors over discrete variables, shared by all rows or of each row, and tables cut at cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Cut", "Factor", "cuts", "evidence", "flat", "radix", "safe_log", "sliced", "taken"]


@dataclass(frozen=True)
class Factor:
    """A non-negative function of the variables in its scope, in the linear domain.

    Parameters
    ----------
    scope : tuple of int
        The variables, one an axis of the values.
    values : Tensor ``(*sizes)`` or ``(n, *sizes)``
        Of all rows alike, or of each row, by `batched`.
    batched : bool
        Whether the first axis of the values is that of the rows.
    log_scale : Tensor (n,), optional
        A logarithm to add in each row: the factor is ``values * exp(log_scale)``.
    bounded : bool
        Whether the values are known to be at most 1, which saves a look at them.

    Examples
    --------
    >>> factor = Factor.of_log((3,), torch.tensor([[-1000.0, -1001.0]]))
    >>> factor.log_scale, factor.values[0, 0]
    (tensor([-1000.]), tensor(1.))
    """

    scope: tuple[int, ...]
    values: Tensor
    batched: bool
    log_scale: Tensor | None = None
    bounded: bool = False

    @classmethod
    def of_log(cls, scope: tuple[int, ...], log_values: Tensor) -> Factor:
        """The factor of each row of logarithms ``(n, *sizes)``, scaled to at most 1 a row."""
        largest = log_values.detach().flatten(1).amax(1) if scope else log_values.detach()
        shift = torch.where(torch.isfinite(largest), largest, 0.0)
        values = (log_values - shift.reshape(-1, *[1] * len(scope))).exp()
        return cls(scope, values, True, shift, True)

    def scaled(self) -> Factor:
        """The same factor with values of at most 1: each row's largest goes into its scale."""
        if self.bounded or not self.values.numel():
            return self
        values = self.values.detach()
        largest = values.reshape(len(values), -1).amax(1) if self.batched else values.amax()
        if bool((largest <= 1).all()):
            return replace(self, bounded=True)
        largest = torch.where(largest > 0, largest, 1.0)
        shape = (-1, *[1] * len(self.scope)) if self.batched else ()
        scale = largest.log() if self.log_scale is None else self.log_scale + largest.log()
        return replace(self, values=self.values / largest.reshape(shape), log_scale=scale,
                       bounded=True)  # fmt: skip


def safe_log(x: Tensor) -> Tensor:
    """Logarithm with -inf at 0, whose gradient is 0 there and never NaN."""
    positive = x > 0
    return torch.where(positive, x, 1.0).log().masked_fill(~positive, -math.inf)


def radix(codes: Tensor, columns: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """The mixed-radix code (n,) of some columns of codes (n, d), the last column fastest."""
    found = codes[:, columns[0]]
    for column, size in zip(columns[1:], sizes[1:], strict=True):
        found = found * size + codes[:, column]
    return found


def sliced(
    parents: Sequence[Sequence[int]],
    tables: Sequence[Tensor],
    codes: Tensor,
    seen: Sequence[bool],
    keep: Iterable[int] | None = None,
) -> list[Factor]:
    """Conditional tables with the axes of seen variables taken at each row's codes.

    Parameters
    ----------
    parents : sequence of sequences of int
        The parents of each node, in the order of its table's axes.
    tables : sequence of Tensor ``(size, *sizes of parents)``
        Of each node; entries of at most 1.
    codes : Tensor (n, d) of long
        State of each seen cell; what stands in the others is not read.
    seen : sequence of bool (d,)
        Which variables are seen, in all of these rows.
    keep : iterable of int, optional
        The nodes whose tables are wanted; all by default.

    Returns
    -------
    list of Factor
        Over hidden variables; one for all tables without a hidden variable, which is a log scale
        with an empty scope. Shared where a table has no seen axis. All differentiable in the
        tables.
    """
    found, logs = [], []
    indices: dict[tuple[int, ...], Tensor] = {}
    for one in cuts(parents, seen, range(len(parents)) if keep is None else keep):
        table = tables[one.node]
        if not one.given:
            found.append(Factor(one.scope, table, False, bounded=True))
            continue
        index = indices.get(one.given)
        if index is None:
            sizes = [table.shape[axis] for axis in one.axes[len(one.scope) :]]
            index = indices[one.given] = radix(codes, one.given, sizes)
        if not one.scope:
            logs.append(safe_log(table).permute(one.axes).flatten().gather(0, index))
            continue
        values = taken(flat(table, one), index).view(*(table.shape[a] for a in one.hidden), -1)
        found.append(Factor(one.scope, values.movedim(-1, 0), True, bounded=True))
    if logs:
        unit = torch.ones((), dtype=logs[0].dtype, device=logs[0].device)
        found.append(Factor((), unit, False, sum(logs[1:], logs[0]), True))
    return found


@dataclass(frozen=True)
class Cut:
    """How a node's table is cut at seen variables.

    Parameters
    ----------
    node : int
        The node.
    scope : tuple of int
        The hidden variables of its family.
    given : tuple of int
        The seen ones.
    axes : tuple of int
        The table's axes: those of the hidden variables, then those of the seen ones.
    """

    node: int
    scope: tuple[int, ...]
    given: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def hidden(self) -> tuple[int, ...]:
        """The axes of hidden variables."""
        return self.axes[: len(self.scope)]


def cuts(
    parents: Sequence[Sequence[int]], seen: Sequence[bool], keep: Iterable[int]
) -> Iterator[Cut]:
    """How the table of each node in `keep` is cut."""
    for node in keep:
        family = (node, *parents[node])
        axes = sorted(range(len(family)), key=lambda axis: seen[family[axis]])
        scope = tuple(v for v in family if not seen[v])
        yield Cut(node, scope, tuple(v for v in family if seen[v]), tuple(axes))


def flat(table: Tensor, one: Cut) -> Tensor:
    """The table as a matrix: states of its hidden variables by states of its seen ones."""
    cells = math.prod(table.shape[axis] for axis in one.hidden)
    return table.permute(one.axes).reshape(cells, -1)


def taken(matrix: Tensor, index: Tensor) -> Tensor:
    """The column of each row's code: (cells, n).

    The rows come last in memory: what follows works on whole rows of rows. `gather`, whose
    gradient is a `scatter_add`, as that of `index_select` takes a call a row.
    """
    return matrix.gather(1, index.expand(len(matrix), -1))


def evidence(
    codes: Tensor,
    sizes: Sequence[int],
    columns: Iterable[int],
    dtype: torch.dtype = torch.float64,
) -> list[Factor]:
    """Indicators of columns that are seen in some rows only: by them one plan serves all rows.

    Parameters
    ----------
    codes : Tensor (n, d) of long
        State of each seen cell, -1 where a cell is hidden.
    sizes : sequence of int (d,)
        States of each variable.
    columns : iterable of int
        The columns.
    dtype : torch.dtype
        Of the values.

    Returns
    -------
    list of Factor
        A column each (n, size): 1 at the seen state and 0 elsewhere, or 1 throughout.
    """
    found = []
    for column in columns:
        code = codes[:, column]
        states = torch.arange(sizes[column], device=codes.device)[:, None]
        values = ((states == code) | (code < 0)).to(dtype)
        found.append(Factor((column,), values.movedim(-1, 0), True, bounded=True))
    return found
