"""What the checks look at: scored rows, the floor, rows that the model drew."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probgen import queries
from probgen.batch import Batch
from probgen.diagnostics.drawn import context_rows, numbers, shared_rows
from probgen.diagnostics.posterior import Fitted
from probgen.schema import Schema
from probgen.table import encode

__all__ = [
    "BAD_KHAT",
    "BOTH",
    "ROWS",
    "Evidence",
    "Floor",
    "Rival",
    "Scored",
    "known_rows",
    "score",
    "some",
]

Floats = NDArray[np.float64]
#: fits a model of independent columns that shares the schema to given rows
Floor = Callable[[pd.DataFrame], Fitted]
#: fits a mixture to given rows, and scores others by it: nats, table units
Rival = Callable[[pd.DataFrame], Callable[[pd.DataFrame], Floats]]
BOTH = ("density", "intervals")
#: rows that are looked at, at most
ROWS = 10_000
#: Vehtari et al. (2024)
BAD_KHAT = 0.7
#: of the model of independent columns, where the fitted rows are not known
FOLDS = 5
#: rows that the model draws for comparison
DRAWN = 10_000
#: rows that independent columns are fitted to, at most
FLOOR_ROWS = 2_000


@dataclass
class Scored:
    """Rows, and their log density under a model (NaN where it has none), nats."""

    frame: pd.DataFrame
    batch: Batch
    log_p: Floats
    khat: Floats
    illegal: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.frame)


@dataclass
class Evidence:
    """A fitted model with the rows it is judged by.

    Attributes
    ----------
    model : Density
    seen : Scored or None
        Rows to judge by.
    known : Scored or None
        The fitted rows, or 10,000 of them.
    fitted : int
        Number of rows of the fit; 0 where it is not known.
    in_sample : bool
        Whether `seen` are the fitted rows.
    whole : bool
        Whether `known` are all the fitted rows, each counted once.
    fit_floor : callable or None
    fit_rival : callable or None
    """

    model: Fitted
    seen: Scored | None
    known: Scored | None
    fitted: int
    in_sample: bool
    whole: bool
    fit_floor: Floor | None = None
    fit_rival: Rival | None = None
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def schema(self) -> Schema:
        """Of the model."""
        return self.model.schema_

    @property
    def fair(self) -> str:
        """How a text says that the rows judged by were fitted to."""
        return " (in sample)" if self.in_sample else ""

    @cached_property
    def x_drawn(self) -> Floats:
        """Encoded rows of the model: 10,000, or one in the context of each seen row."""
        generator = torch.Generator().manual_seed(0)
        if self.schema.context_slots and self.seen is not None:
            return context_rows(self.model, self.seen.batch, generator)
        return shared_rows(self.model, DRAWN, generator)

    @cached_property
    def drawn(self) -> dict[Hashable, Floats]:
        """The same as numbers by column."""
        return numbers(self.x_drawn, np.ones(self.x_drawn.shape, bool), self.schema)

    @cached_property
    def cells(self) -> dict[Hashable, Floats]:
        """The cells of the seen rows as numbers by column."""
        assert self.seen is not None  # only asked where there are rows
        batch = self.seen.batch
        x = queries.encoded(batch).double().cpu().numpy()
        return numbers(x, batch.seen.cpu().numpy(), self.schema)

    @cached_property
    def floor(self) -> tuple[Floats, str]:
        """Log density (n,) of the seen rows under independent columns, and what they saw."""
        assert self.seen is not None and self.fit_floor is not None
        if self.known is not None:
            how = "the same rows" if self.in_sample else "train"
            return self._floor_of(self.known.frame, self.seen), f"fitted to {how}"
        return self._crossfitted(self.seen), f"{FOLDS}-fold on table"

    @cached_property
    def rival(self) -> Floats:
        """Log density (n,) of the seen rows under a mixture fitted to the known ones."""
        assert self.seen is not None and self.known is not None and self.fit_rival is not None
        return self.fit_rival(known_rows(self.schema, self.known.frame))(self.seen.frame)

    @cached_property
    def floor_of_known(self) -> Floats:
        """The same of the fitted rows, in sample."""
        assert self.known is not None and self.fit_floor is not None
        return self._floor_of(self.known.frame, self.known)

    def _floor_of(self, rows: pd.DataFrame, judged: Scored) -> Floats:
        known = known_rows(self.schema, rows)
        if len(known) < 2:
            return np.full(len(judged), np.nan)
        assert self.fit_floor is not None
        if "floor" not in self.cache:
            self.cache["floor"] = self.fit_floor(known)
        return _floor_score(self.cache["floor"], judged.frame)

    def _crossfitted(self, seen: Scored) -> Floats:
        """Log density of each row under independent columns fitted to the other folds."""
        found = np.full(len(seen), np.nan)
        fold = np.random.default_rng(0).permutation(len(seen)) % FOLDS
        assert self.fit_floor is not None
        for number in range(FOLDS):
            rest = known_rows(self.schema, seen.frame[fold != number])
            if len(rest) > 1 and (fold == number).any():
                held = seen.frame[fold == number]
                found[fold == number] = _floor_score(self.fit_floor(rest), held)
        return found


def some(frame: pd.DataFrame) -> pd.DataFrame:
    """10,000 random rows at most."""
    return frame if len(frame) <= ROWS else frame.sample(ROWS, random_state=0)


def score(model: Fitted, frame: pd.DataFrame) -> Scored:
    """Rows with their log density, table units; no density is NaN, outside the support -inf."""
    encoded = encode(frame, model.schema_, unseen="rare")
    batch = model._batch(encoded, model._device)
    if model.members_[0].density == "none":
        nothing = np.full(len(frame), np.nan)
        return Scored(frame, batch, nothing, nothing, encoded.illegal)
    with torch.no_grad():
        estimate = queries.log_prob(model._predictive(), batch)
        shift = model.schema_.log_det(batch.x, batch.seen)  # type: ignore[arg-type]
    log_p = (estimate.value.double() + shift).cpu().numpy()
    log_p[encoded.illegal] = -np.inf
    return Scored(frame, batch, log_p, estimate.khat.double().cpu().numpy(), encoded.illegal)


def _floor_score(floor: Fitted, frame: pd.DataFrame) -> Floats:
    return score(floor, frame[list(floor.schema_.names)]).log_p


def known_rows(schema: Schema, table: pd.DataFrame) -> pd.DataFrame:
    """The rows that independent columns can be fitted to, 2,000 at most."""
    keep = ~encode(table, schema, unseen="rare").illegal
    for column in schema.columns:
        if column.labelled and column.role == "modelled" and column.name in table.columns:
            cells = table[column.name]
            keep &= (cells.isna() | cells.isin(list(column.levels or ()))).to_numpy()
    kept = table[keep]
    return kept if len(kept) <= FLOOR_ROWS else kept.sample(FLOOR_ROWS, random_state=0)
