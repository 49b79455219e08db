"""The probability integral transform: where each cell lies among those that the model draws."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probgen.batch import Batch
from probgen.diagnostics.drawn import context_rows, modelled, numbers, shared_rows
from probgen.diagnostics.posterior import Fitted
from probgen.errors import SchemaError, message
from probgen.table import encode, to_frame

__all__ = ["IN_CONTEXT", "SHARED", "pit"]

Floats = NDArray[np.float64]
#: rows drawn once for all rows of the table, and for each row where it has a context
SHARED, IN_CONTEXT = 10_000, 200
#: rows drawn at once, where each has its own context
_AT_ONCE = 100_000


def pit(
    model: Fitted, table: Any, random_state: int | None = 0, draws: int | None = None
) -> pd.DataFrame:
    """The probability integral transform of each cell under its column's predictive.

    The rank of the cell among cells that the model draws for its column, given the context
    of the row where the model has one (and nothing else: other cells of the row are not
    conditioned on). Among equal values, and so for levels, atoms, counts and rounded
    columns, the rank is random. If the model is right each column is uniform on (0, 1).

    Parameters
    ----------
    model : Density
        A fitted model.
    table : data frame of n rows
        Levels that the fit did not see are holes.
    random_state : int, optional
        Seed of the draws and of the random ranks; None draws afresh.
    draws : int, optional
        Rows drawn: 10,000, the same for all rows; 200 for each row where the model has
        context columns.

    Returns
    -------
    data frame (n, modelled columns)
        On the table's index, values in (0, 1), NaN in holes. Its ``attrs`` state the number
        of ``draws`` and the largest standard error ``error`` = 0.5 / sqrt(draws) that it
        brings to a value: 0.005, or 0.035 in contexts, where it is independent between rows.

    Raises
    ------
    SchemaError
        If the table is foreign, or `draws` below 1.

    Notes
    -----
    Cost: `draws` rows of the model, or n * `draws` with context columns, in parts.

    References
    ----------
    Dawid (1984), Statistical theory: the prequential approach. Czado, Gneiting and Held
    (2009), Predictive model assessment for count data, Biometrics 65.

    Examples
    --------
    >>> from probgen import Independent
    >>> from probgen.datasets import penguins
    >>> birds = penguins()
    >>> values = pit(Independent(random_state=0).fit(birds), birds)
    >>> bool(0.4 < values["body_mass_g"].mean() < 0.6)
    True
    """
    schema = model.schema_
    encoded = encode(to_frame(table, schema.names), schema, unseen="missing")
    if draws is None:
        draws = IN_CONTEXT if schema.context_slots else SHARED
    if draws < 1:
        raise SchemaError(message(f"draws={draws}", "1 or more", "pass a positive number"))
    seed = np.random.default_rng(random_state)
    generator = torch.Generator().manual_seed(int(seed.integers(2**62)))
    cells = numbers(encoded.x, encoded.seen, schema)
    if schema.context_slots:
        batch = model._batch(encoded, model._device)
        below, equal = _in_context(model, batch, cells, draws, generator)
    else:
        drawn = shared_rows(model, draws, generator)
        below, equal = _among(cells, numbers(drawn, np.ones(drawn.shape, bool), schema))
    found = {}
    for name in modelled(schema):  # the cell itself is one of the equal ones
        u = seed.random(len(encoded.index))
        rank = (below[name] + u * (equal[name] + 1)) / (draws + 1)
        found[name] = np.where(np.isnan(cells[name]), np.nan, rank)
    result = pd.DataFrame(found, index=encoded.index, columns=pd.Index(list(found)))
    result.attrs |= {"draws": draws, "error": 0.5 / draws**0.5}
    return result


Counts = dict[Hashable, Floats]


def _among(cells: Counts, drawn: Counts) -> tuple[Counts, Counts]:
    """How many drawn values lie below each cell, and how many equal it."""
    below, equal = {}, {}
    for name, values in cells.items():
        order = np.sort(drawn[name])
        first = np.searchsorted(order, values, "left")
        below[name] = first.astype(float)
        equal[name] = (np.searchsorted(order, values, "right") - first).astype(float)
    return below, equal


def _in_context(
    model: Fitted, batch: Batch, cells: Counts, draws: int, generator: torch.Generator
) -> tuple[Counts, Counts]:
    """The same with draws in the context of each row."""
    n = len(batch)
    below = {name: np.zeros(n) for name in cells}
    equal = {name: np.zeros(n) for name in cells}
    times = max(1, min(draws, _AT_ONCE // max(n, 1)))
    for first in range(0, draws if n else 0, times):
        count = min(times, draws - first)
        rows = torch.arange(n, device=batch.seen.device).repeat(count)
        x = context_rows(model, batch.take(rows), generator)
        for name, values in numbers(x, np.ones(x.shape, bool), model.schema_).items():
            values = values.reshape(count, n)
            below[name] += (values < cells[name]).sum(0)
            equal[name] += (values == cells[name]).sum(0)
    return below, equal
