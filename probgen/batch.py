"""The rows that a model and a guide see: encoded values, what was observed, weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import CondIndepStackFrame, IndepMessenger
from pyro.poutine.plate_messenger import PlateMessenger
from torch import Tensor

__all__ = ["Batch", "row_keys"]

ROWS = "rows"


@dataclass
class Batch:
    """Encoded rows of one table.

    Parameters
    ----------
    x : Tensor (n, m) or None
        Encoded values, one column a slot of the schema; 0 where unseen; None when generating.
    seen : Tensor (n, m) of bool
        True where the cell was observed.
    weight : Tensor (n,)
        Frequency weights.
    total : float
        Sum of weights of the whole table that this batch is a part of: the rows plate
        scales each row by ``weight * total / weight.sum()``, so a minibatch is unbiased.
    context : Tensor (n, c) or None
        Encoded columns that are conditioned on and never modelled.
    key : Tensor (n,) of int64 or None
        Hash of the content of each row: seeds the noise of importance estimates.
    uniform : bool
        True only if all weights are known to be equal: the rows are then scaled by one
        number, which is faster and which enumeration needs.
    complete : bool
        True only if every cell is known to be seen: no masks are then built.
    """

    x: Tensor | None
    seen: Tensor
    weight: Tensor
    total: float
    context: Tensor | None = None
    key: Tensor | None = None
    #: (site name, slot numbers) of every `observe` call of the last run of the model
    sites: dict[str, tuple[int, ...]] = field(default_factory=dict)
    uniform: bool = False
    complete: bool = False

    def __len__(self) -> int:
        return self.seen.shape[0]

    @classmethod
    def of(
        cls,
        x: Tensor,
        seen: Tensor | None = None,
        weight: Tensor | None = None,
        total: float | None = None,
        context: Tensor | None = None,
    ) -> Batch:
        """A batch of all rows of x (n, m); everything is seen and weighs 1 unless given."""
        complete = seen is None or bool(seen.all())
        seen = torch.ones_like(x, dtype=torch.bool) if seen is None else seen
        uniform = weight is None or not len(x) or bool((weight == weight[0]).all())
        weight = x.new_ones(x.shape[0]) if weight is None else weight
        total = float(weight.sum()) if total is None else total
        return cls(x, seen, weight, total, context, uniform=uniform, complete=complete)

    @classmethod
    def empty(cls, n: int, m: int, dtype: torch.dtype, device: torch.device | str) -> Batch:
        """n rows to be generated: nothing is seen."""
        seen = torch.zeros(n, m, dtype=torch.bool, device=device)
        return cls(None, seen, torch.ones(n, dtype=dtype, device=device), float(n))

    def take(self, rows: Tensor | slice) -> Batch:
        """The batch of some rows; `total` stays that of the whole table."""

        def pick(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows]

        seen, weight = self.seen, self.weight
        index = isinstance(rows, Tensor) and rows.dtype == torch.int64 and len(rows) <= len(self)
        # any rows of equal ones are as good as the chosen ones, and a view costs no copy
        same = slice(0, len(rows)) if isinstance(rows, Tensor) and index else rows
        seen = seen[same if self.complete else rows]
        weight = weight[same if self.uniform else rows]
        return Batch(
            pick(self.x), seen, weight, self.total,
            pick(self.context), pick(self.key), uniform=self.uniform, complete=self.complete,
        )  # fmt: skip

    def rows(self) -> AbstractContextManager[object]:
        """The rows plate: everything that belongs to one row sits inside it (dim -1)."""
        return _Rows(len(self), self.scale, self.seen.device)

    @property
    def scale(self) -> Tensor | float:
        """What each row counts for: (n,), or one number where all weigh the same."""
        n = len(self)
        if self.uniform:
            return self.total / n if n else 1.0
        return self.weight * (self.total / self.weight.sum()) if n else 1.0

    def observe(
        self, name: str, distribution: dist.TorchDistribution, columns: Sequence[int]
    ) -> Tensor:
        """Sample site `name` over the slots `columns`, observed unless generating.

        `distribution` has batch shape (n,) (or broadcasts to it) and event shape
        (len(columns),), or an empty event where columns holds one slot. A distribution
        with an attribute ``skips_unseen = True`` was built with `seen` and integrates
        unseen cells out itself; any other one is masked to rows that are seen in whole.
        """
        columns = tuple(columns)
        self.sites[name] = columns
        if self.x is None:
            return pyro.sample(name, distribution)
        pick = _selection(columns, self.seen.shape[1])
        value = self.x if pick is None else self.x[:, pick]
        if not distribution.event_shape:
            value = value[:, 0]
        if not self.complete and not getattr(distribution, "skips_unseen", False):
            seen = self.seen if pick is None else self.seen[:, pick]
            distribution = distribution.mask(seen.all(-1))
        return pyro.sample(name, distribution, obs=value)


def _selection(columns: tuple[int, ...], width: int) -> list[int] | slice | None:
    """How to index `columns`: None for all in order; a slice makes a view, a list a copy."""
    first = columns[0] if columns else 0
    if columns == tuple(range(first, first + len(columns))):
        return None if len(columns) == width else slice(first, first + len(columns))
    return list(columns)


class _Rows(PlateMessenger):
    """The rows plate and the weights of its rows in one messenger.

    Does what ``pyro.plate(ROWS, n, dim=-1)`` with ``poutine.scale`` inside does, without
    their cost in each step: no index tensor is made, no site is announced for it, and a
    distribution that already has n rows is not expanded again.
    """

    def __init__(self, n: int, scale: Tensor | float, device: torch.device) -> None:
        IndepMessenger.__init__(self, ROWS, n, dim=-1, device=str(device))
        self.subsample_size = n
        self._scale = scale
        self._frame = CondIndepStackFrame(ROWS, -1, n, 0, n)

    def _process_message(self, msg: Any) -> None:
        outer = msg["cond_indep_stack"]
        msg["cond_indep_stack"] = (self._frame, *outer)
        outside = msg["scale"]
        plain = isinstance(outside, float) and outside == 1
        msg["scale"] = self._scale if plain else outside * self._scale
        shape = getattr(msg["fn"], "batch_shape", None)
        if outer or shape is None or len(shape) != 1 or shape[0] != self.size:
            BroadcastMessenger._pyro_sample(msg)


def row_keys(x: Tensor, seen: Tensor) -> Tensor:
    """A 64-bit hash (n,) of the content of each row, the same in any batch, order or device."""
    bits = torch.where(seen, x.double() + 0.0, torch.full_like(x, torch.nan, dtype=torch.float64))
    words = bits.contiguous().view(torch.int64)
    key = torch.full((x.shape[0],), -7046029254386353131, dtype=torch.int64, device=x.device)
    for column in range(words.shape[1]):
        key = mix(key ^ words[:, column])
    return key


def mix(key: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014) on int64 tensors."""
    key = key + -7046029254386353131
    key = (key ^ _shift(key, 30)) * -4658895280553007687
    key = (key ^ _shift(key, 27)) * -7723592293110705685
    return key ^ _shift(key, 31)


def _shift(key: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch shifts int64 arithmetically."""
    return (key >> bits) & ((1 << (64 - bits)) - 1)
