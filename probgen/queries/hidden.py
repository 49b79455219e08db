"""Which cells of a batch are holes, and rows without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.columns import Slot
from probgen.family import Family

__all__ = ["holes", "scores_whole_rows", "slots_of", "without_holes"]


def slots_of(family: Family) -> Sequence[Slot]:
    """The encoded columns of a family; none known for one without a schema."""
    return getattr(family.schema, "slots", ())


def scores_whole_rows(family: Family | type[Family]) -> bool:
    """Whether rows with holes take the way over a companion: proposals, weighed."""
    return family.holes == "refuse" or family.whole_rows


def holes(batch: Batch, slots: Sequence[Slot]) -> Tensor:
    """Slots (n, m) that are not observed.

    The real slot beside an atom is no hole where the row holds the atom: it has no value.
    """
    hidden = ~batch.seen
    for atom, real in _beside_atoms(slots):
        hidden[:, real] &= ~_holds_atom(batch, atom)
    return hidden


def _holds_atom(batch: Batch, atom: int) -> Tensor:
    """Rows (n,) that are seen to hold an atom."""
    held = batch.seen[:, atom]
    return held if batch.x is None else held & (batch.x[:, atom] > 0)


def without_holes(batch: Batch, x: Tensor, slots: Sequence[Slot]) -> Batch:
    """The rows of a batch with the values x (n, m) in all their slots."""
    seen = torch.ones_like(batch.seen)
    for atom, real in _beside_atoms(slots):
        seen[:, real] = x[:, atom] == 0
    complete = bool(seen.all())
    return replace(batch, x=torch.where(seen, x, 0.0), seen=seen, key=None, complete=complete)


def _beside_atoms(slots: Sequence[Slot]) -> list[tuple[int, int]]:
    """(slot that says which atom a row holds, real slot of the same column)."""
    return [
        (place - 1, place)
        for place, slot in enumerate(slots)
        if place and slot.kind == "real" and slots[place - 1].column == slot.column
    ]
