"""What a user's functions are given as `batch`: columns by name, in the table's own units."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.columns import Column
from probgen.errors import SchemaError, message
from probgen.schema import Schema

__all__ = ["Place", "View", "dummy_batch", "places"]


@dataclass(frozen=True)
class Place:
    """Where a column lies in the encoded rows: `slots` of x, or of the context."""

    column: Column
    slots: tuple[int, ...]
    context: bool

    @property
    def name(self) -> str:
        """What its site is called."""
        return str(self.column.name)

    def seen(self, batch: Batch) -> Tensor:
        """Where the cell was observed (n,)."""
        if self.context:  # a hole in the context never comes this far
            return torch.ones(len(batch), dtype=torch.bool, device=batch.seen.device)
        seen = batch.seen[:, self.slots[-1]]
        if len(self.slots) == 1:
            return seen
        atom = self.slots[0]
        held = batch.seen[:, atom]
        return held if batch.x is None else held & (seen | (batch.x[:, atom] > 0))

    def decode(self, x: Tensor) -> Tensor:
        """Values (n,) in table units from encoded rows; labels as codes (int64)."""
        value = x[:, self.slots[-1]]
        if self.column.labelled:
            return value.long()
        if self.column.kind == "count":
            return value + self.column.support()[0]
        if len(self.slots) == 1:
            return value
        atoms = value.new_tensor([math.nan, *self.column.atoms])
        code = x[:, self.slots[0]].long()
        return torch.where(code > 0, atoms[code], value)

    def encode(self, x: Tensor, value: Tensor) -> None:
        """Write values (n,) in table units into encoded rows x (n, m)."""
        value = value.to(x.dtype)
        if self.column.kind == "count":
            value = value - self.column.support()[0]
        x[:, self.slots[-1]] = value
        if len(self.slots) > 1:
            code = torch.zeros_like(value)
            for number, atom in enumerate(self.column.atoms, start=1):
                code = torch.where(value == atom, float(number), code)
            x[:, self.slots[0]] = code
            x[:, self.slots[-1]] = torch.where(code > 0, 0.0, value)


def places(schema: Schema) -> dict[Hashable, Place]:
    """The place of each modelled or context column, by name."""
    found: dict[Hashable, Place] = {}
    for context in (False, True):
        slots = schema.context_slots if context else schema.slots
        for number, column in enumerate(schema.columns):
            own = tuple(i for i, slot in enumerate(slots) if slot.column == number)
            if own and (column.role == "context") == context:
                found[column.name] = Place(column, own, context)
    return found


class View:
    """Rows of a table as a model or a guide sees them.

    ``batch["column"]`` is the column in the table's own units, a tensor (n,): numbers and
    counts as float64, categories, ordered levels and booleans as codes (int64), dates as
    days since the schema's origin. A modelled column is None while rows are generated, and
    holds NaN where a cell is unseen (codes are then float64, as in pandas); use the value
    that `pyro.sample` returns wherever one column depends on another. ``batch.rows()`` is
    the plate of the rows, ``len(batch)`` their number, ``batch.seen("column")`` where the
    cell was observed.
    """

    def __init__(self, batch: Batch, known: dict[Hashable, Place], empty: frozenset) -> None:
        self._batch, self._places, self._empty = batch, known, empty
        self._handed: dict[Hashable, Tensor | None] = {}
        #: whether a column with holes was read, so that NaN may have entered the model
        self.holed = False

    def __len__(self) -> int:
        return len(self._batch)

    def __iter__(self) -> Iterator[Hashable]:
        return iter([*self._places, *self._empty])

    def __contains__(self, name: object) -> bool:
        return name in self._places or name in self._empty

    def __getitem__(self, name: Hashable) -> Tensor | None:
        if name not in self._handed:
            self._handed[name] = self._read(name)
        return self._handed[name]

    @property
    def generating(self) -> bool:
        """Whether the modelled columns are to be drawn."""
        return self._batch.x is None

    @property
    def device(self) -> torch.device:
        """Where tensors made by the functions must lie."""
        return self._batch.seen.device

    def rows(self) -> AbstractContextManager[object]:
        """The rows plate (dim -1): all that belongs to one row sits inside it."""
        return self._batch.rows()

    def seen(self, name: Hashable) -> Tensor:
        """Where the cell of a column was observed (n,); nowhere while generating."""
        self._require(name)
        if name in self._empty:
            return torch.zeros(len(self), dtype=torch.bool, device=self.device)
        return self._places[name].seen(self._batch)

    def _require(self, name: Hashable) -> None:
        if name not in self:
            raise SchemaError(message(
                f"batch[{name!r}] in the functions of a pair", f"one of {list(self)}",
                "correct the name, or fit a table that has this column",
            ))  # fmt: skip

    def _read(self, name: Hashable) -> Tensor | None:
        self._require(name)
        if name in self._empty:
            return None
        place, batch = self._places[name], self._batch
        if place.context:
            if batch.context is None:
                raise SchemaError(message(
                    f"no values of context column {name!r}", "its value for every row",
                    f"pass it: in the table, or as given={{{name!r}: ...}}",
                ))  # fmt: skip
            return place.decode(batch.context)
        if batch.x is None:
            return None
        value = place.decode(batch.x)
        if batch.complete:
            return value
        seen = place.seen(batch)
        if bool(seen.all()):
            return value
        self.holed = True
        return torch.where(seen, value.to(batch.x.dtype), math.nan)


def dummy_batch(schema: Schema, n: int = 3) -> Batch:
    """n rows of legal values near the middle of each column, float64, on the CPU."""
    t = np.linspace(-0.5, 0.5, n)

    def columns(context: bool) -> Tensor:
        slots = schema.context_slots if context else schema.slots
        x = torch.zeros(n, len(slots), dtype=torch.float64)
        for place, slot in enumerate(slots):
            column = schema.columns[slot.column]
            if slot.kind == "real":
                loc, scale = column.native or (column.loc, column.scale)
                plain = schema.standard().columns[slot.column]
                value = plain.backward(loc + scale * t) if column.native else t
                x[:, place] = torch.from_numpy(value)
            elif slot.kind == "category":
                codes = max(1, slot.size - slot.reserved)
                atom = column.real_like  # the slot of an atom: most rows hold none
                x[:, place] = 0.0 if atom else torch.arange(n) % codes
            else:
                lower, upper = column.support()
                x[:, place] = (torch.arange(n) % 3).clamp(max=upper - lower)
        return x

    context = columns(True) if schema.context_slots else None
    return Batch.of(columns(False), context=context)
