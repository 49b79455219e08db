"""Truths drawn from the prior of a fitted model, and the tables that they generate."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import biject_to

from probgen.batch import Batch
from probgen.columns import Column
from probgen.family import Draws, Family
from probgen.queries.contraction import global_sites, traced
from probgen.queries.generation import generated
from probgen.schema import Schema
from probgen.session import guarded
from probgen.table import decode, encode

__all__ = ["Tables", "Truth", "Unwritable", "simulated_schema"]

#: stands for the levels that a fit did not see
OTHER = "(another level)"
#: encoded values that come back from a table this far off, relative to 1 + their size, are lost
LOST = 1e-6


def simulated_schema(schema: Schema, reserves: bool) -> Schema:
    """The schema of tables that hold exactly what the model draws, with slots of the same sizes.

    Columns are not rounded to a grid. Columns in table units take any number, as the model that
    was written for them does. Where a family gives the reserved level mass, it is a level like
    the others: a table that cannot hold it would not be a draw of the model.
    """
    return Schema(tuple(_column(column, reserves) for column in schema.columns))


def _column(column: Column, reserves: bool) -> Column:
    if column.role != "modelled":
        return column
    if column.labelled and reserves and column.kind != "boolean":
        levels = (*(column.levels or ()), OTHER)  # a boolean column has no reserved level
        return replace(column, kind="boolean", levels=levels, dtype="object")
    if not column.real_like or column.unit:
        return replace(column, grid=None)
    dtype = "float64"
    if column.native:
        return replace(column, kind="real", lower=None, upper=None, grid=None, dtype=dtype)
    return replace(column, grid=None, dtype=dtype)


class Unwritable(Exception):
    """A truth whose table no data frame can hold; `site` names a global to look at."""

    def __init__(self, text: str, site: str) -> None:
        super().__init__(text)
        self.site = site


@dataclass(frozen=True)
class Truth:
    """One draw of the globals, each ``(1, *shape)``, and a table that they generated."""

    globals: Draws
    table: pd.DataFrame


@dataclass(frozen=True)
class Tables:
    """Generates tables from truths.

    Parameters
    ----------
    member : Family
        Whose prior is drawn from.
    schema : Schema
        Of the tables, see `simulated_schema`.
    blank : Batch of n rows
        Nothing of it is seen; holds the context.
    context : data frame of n rows
        The columns that are conditioned on.
    holes : data frame of n rows, optional
        True where a cell of a column is to be missing.
    """

    member: Family
    schema: Schema
    blank: Batch
    context: pd.DataFrame
    holes: pd.DataFrame | None = None

    def draw(self, seed: int) -> Truth:
        """A truth and its table.

        Raises
        ------
        Unwritable
            If the table holds values that are infinite, or beyond what its columns can hold.
            That is a property of the table, so leaving such tables out changes neither the
            posterior of the others nor the law of their ranks.
        """
        with torch.no_grad(), guarded(seed):
            trace = traced(self.member.model, self.blank.take(slice(0, 1)), {})
            sites = global_sites(trace)
            values = {name: site["value"].detach().clone() for name, site in sites.items()}
            broken = [name for name, value in values.items() if not torch.isfinite(value).all()]
            if broken:
                raise Unwritable(f"site {broken[0]!r} drew a value that is not finite", broken[0])
            far = _farthest(sites)
            x = generated(self.member, self.blank, values).double().cpu().numpy()
        table = self._written(x, far)
        return Truth({name: value[None] for name, value in values.items()}, table)

    def _written(self, x: NDArray[np.float64], far: tuple[str, float]) -> pd.DataFrame:
        """The rows as a table from which they can be read again, with its holes."""
        site, value = far
        where = f" (a draw of site {site!r} was {value:.3g})" if site else ""
        infinite = ~np.isfinite(x)
        if infinite.any():
            name = self._name(int(np.flatnonzero(infinite.any(0))[0]))
            raise Unwritable(f"column {name!r} drew a value that is not finite{where}", site)
        index = self.context.index
        table = decode(x, self.schema, index, context=self.context)
        again = encode(table, self.schema)
        lost = (np.abs(again.x - x) > LOST * (1 + np.abs(x))) & again.seen
        if lost.any():
            name = self._name(int(np.flatnonzero(lost.any(0))[0]))
            raise Unwritable(f"column {name!r} cannot hold what it drew{where}", site)
        if self.holes is None:
            return table
        return decode(x, self.schema, index, self._seen(), self.context)

    def _seen(self) -> NDArray[np.bool_]:
        assert self.holes is not None  # noqa: S101 - asked only where there are some
        columns = [self.schema.columns[slot.column].name for slot in self.schema.slots]
        return np.stack([~self.holes[name].to_numpy() for name in columns], 1)

    def _name(self, slot: int) -> Hashable:
        return self.schema.columns[self.schema.slots[slot].column].name


def _farthest(sites: dict[str, dict[str, Any]]) -> tuple[str, float]:
    """The site, and the value of it, that lies farthest out in unconstrained space."""
    found = ("", 0.0, 0.0)
    for name, site in sites.items():
        value: Tensor = site["value"]
        if not value.is_floating_point() or not value.numel():
            continue
        try:
            free = biject_to(site["fn"].support).inv(value)
        except NotImplementedError:  # a support without a bijection
            free = value
        reach = float(free.abs().max())
        if reach > found[2]:
            found = (name, float(value.flatten()[value.abs().argmax()]), reach)
    return found[0], found[1]
