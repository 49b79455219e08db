"""Rows drawn by a fitted model beside the rows of a table, as numbers that can be compared."""

from __future__ import annotations

from collections.abc import Collection, Hashable

import numpy as np
import torch
from numpy.typing import NDArray

from probgen import queries
from probgen.batch import Batch
from probgen.columns import Column
from probgen.decoding import real_values
from probgen.diagnostics.posterior import Fitted
from probgen.schema import Schema

__all__ = ["context_rows", "modelled", "numbers", "shared_rows"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def modelled(schema: Schema) -> dict[Hashable, tuple[Column, slice]]:
    """Each column that the model draws, with its slots, by name."""
    found: dict[Hashable, tuple[Column, slice]] = {}
    place = 0
    for number, column in enumerate(schema.columns):
        width = 0 if column.role == "context" else len(column.slots(number))
        if width:
            found[column.name] = column, slice(place, place + width)
        place += width
    return found


def numbers(
    x: Floats, seen: Bools, schema: Schema, only: Collection[Hashable] | None = None
) -> dict[Hashable, Floats]:
    """The cells (n,) of each modelled column (or `only` some) as numbers, NaN in holes.

    Real-like columns and counts in table units (dates in days), rounded where the column is;
    levels by code. Cells of a table and cells that a model drew are equal where they would
    be equal in a table.
    """
    found = {}
    for name, (column, part) in modelled(schema).items():
        if only is not None and name not in only:
            continue
        cells, there = x[:, part], seen[:, part]
        if column.labelled or column.kind == "count":
            value, hole = np.rint(cells[:, 0]), ~there[:, 0]
        else:
            value, hole = real_values(cells, there, column)
            if column.unit and column.grid:  # dates are rounded only as they are written
                value = np.rint(value / column.grid) * column.grid
        found[name] = np.where(hole, np.nan, value)
    return found


def shared_rows(model: Fitted, draws: int, generator: torch.Generator) -> Floats:
    """Encoded rows (draws, m) of a model without context."""
    batch = Batch.empty(draws, len(model.schema_.slots), torch.float64, model._device)
    return queries.sample(model._predictive(), batch, generator).double().cpu().numpy()


def context_rows(model: Fitted, batch: Batch, generator: torch.Generator) -> Floats:
    """One encoded row (n, m) drawn in the context of each row of a batch."""
    blank = Batch.of(
        torch.zeros_like(queries.encoded(batch)), torch.zeros_like(batch.seen),
        context=batch.context,
    )  # fmt: skip
    return queries.sample(model._predictive(), blank, generator).double().cpu().numpy()
