"""The same rows in the encodings of two schemas that share a measure."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from probgen.columns import Column
from probgen.schema import Schema

__all__ = ["Moved", "foreign_cells", "moved", "recoded"]

#: slots that are encoded otherwise: (place, column of one schema, column of the other)
Moved: TypeAlias = list[tuple[int, Column, Column]]


def foreign_cells(x: Tensor | None, seen: Tensor, schema: Schema) -> Tensor:
    """Cells (n, m) that hold a level which no row of the fit did."""
    found = torch.zeros_like(seen)
    if x is None:
        return found
    for place, slot in enumerate(schema.slots):
        if slot.reserved:
            found[:, place] = seen[:, place] & (x[:, place] == slot.size - 1)
    return found


def moved(one: Schema, two: Schema) -> Moved:
    """Real slots that two schemas of one measure encode by another bijection, centre or scale."""
    found = []
    for place, (a, b) in enumerate(zip(one.slots, two.slots, strict=True)):
        own, other = one.columns[a.column], two.columns[b.column]
        how = [(c.loc, c.scale, c.native) for c in (own, other)]
        if a.kind == "real" and how[0] != how[1]:
            found.append((place, own, other))
    return found


def recoded(x: Tensor, slots: Moved, back: bool = False) -> Tensor:
    """Rows x (n, m) of the first schema in the encoding of the second, or back.

    Slots that both encode alike stay bit for bit.
    """
    if not slots:
        return x
    x = x.double().clone()
    for place, own, other in slots:
        start, end = (other, own) if back else (own, other)
        value = start.backward(x[:, place].cpu().numpy() * start.scale + start.loc)
        x[:, place] = torch.from_numpy((end.forward(value) - end.loc) / end.scale).to(x.device)
    return x
