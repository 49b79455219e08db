"""Rows of a table whose columns can be hidden at will: what odd rows are judged with."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probgen import queries
from probgen.batch import Batch
from probgen.calibration import Calibration, illegal_by_column
from probgen.density import Density
from probgen.table import Encoded, encode

__all__ = ["Extra", "Scorer", "Unseen", "patterns"]

Unseen = Literal["error", "missing", "rare"]
Extra = Literal["error", "ignore"]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


#: particles of an importance estimate; of a family that scores whole rows only fewer, since
#: each is a density of a whole row, and one hidden column is proposed for well
MANY, FEW = 512, 64


class Scorer:
    """Log densities of encoded rows under any sets of their columns.

    Values outside the support are hidden, and listed in `impossible`: their rows have
    infinite surprisal, but the other cells can still be judged.

    Parameters
    ----------
    model : Density
    encoded : Encoded of n rows
        Its `seen` is changed where cells lie outside the support.
    impossible : dict
        Rows (n,) with a value outside the support, by column; added to.
    """

    def __init__(
        self, model: Density, encoded: Encoded, impossible: dict[Hashable, Bools]
    ) -> None:
        schema = model.schema_
        self.model, self.predictive = model, model._predictive()
        # columns that have slots, and these
        self.names: list[Hashable] = []
        self.slots: list[list[int]] = []
        for name in schema.names:
            if slots := schema.slots_of([name]):
                self.names.append(name)
                self.slots.append(slots)
        self.impossible = impossible
        n = len(encoded.x)
        for name, bad in impossible.items():
            for slot in schema.slots_of([name]):
                encoded.seen[bad, slot] = False
        held = encoded.seen.copy()
        self.batch = model._batch(encoded, model._device)
        # levels to which a family gives no mass are hidden there
        for name, slots in zip(self.names, self.slots, strict=True):
            if (lost := held[:, slots[0]] & ~encoded.seen[:, slots[0]]).any():
                impossible[name] = impossible.get(name, False) | lost
        # cells outside the support (n, columns), and rows where that is a column without slots
        self.illegal = np.zeros((n, len(self.names)), dtype=bool)
        self.broken = np.zeros(n, dtype=bool)
        for name, bad in impossible.items():
            if name in self.names:
                self.illegal[bad, self.names.index(name)] = True
            else:
                self.broken |= bad

    @classmethod
    def of(
        cls, model: Density, frame: pd.DataFrame, unseen: Unseen = "error", extra: Extra = "error"
    ) -> Scorer:
        """The rows of a data frame."""
        encoded = encode(frame, model.schema_, unseen=unseen, extra=extra)
        return cls(model, encoded, illegal_by_column(frame, encoded, model.schema_, unseen))

    @classmethod
    def of_calibration(cls, model: Density, rows: Calibration, unseen: Unseen) -> Scorer:
        """Rows held apart from the fit, foreign levels read as those of new rows are."""
        encoded, schema = rows.encoded(), model.schema_
        if unseen == "missing":
            for place, slot in enumerate(schema.slots):
                if slot.reserved:
                    encoded.seen[encoded.x[:, place] == slot.size - 1, place] = False
        bad = {schema.names[j]: rows.illegal[:, j] for j in np.flatnonzero(rows.illegal.any(0))}
        return cls(model, encoded, bad)

    def __len__(self) -> int:
        return len(self.batch)

    def _with(self, batch: Batch, rows: Any = slice(None)) -> Scorer:
        other = Scorer.__new__(Scorer)
        other.__dict__.update(
            self.__dict__, batch=batch, illegal=self.illegal[rows], broken=self.broken[rows],
            impossible={name: bad[rows] for name, bad in self.impossible.items()},
        )  # fmt: skip
        return other

    def take(self, rows: Any) -> Scorer:
        """The same for some rows."""
        at = rows if isinstance(rows, slice) else torch.as_tensor(rows)
        return self._with(self.batch.take(at), rows)

    def seen(self) -> Bools:
        """Which columns of which rows are seen, (n, columns)."""
        if not self.slots:
            return np.zeros((len(self.batch), 0), dtype=bool)
        first = [slots[0] for slots in self.slots]
        return self.batch.seen[:, first].cpu().numpy()

    def held(self) -> Bools:
        """Which cells hold a value, possible or not, (n, columns)."""
        return self.seen() | self.illegal

    def impossible_rows(self) -> Bools:
        """Rows of density 0 (n,): with a value outside the support."""
        return self.illegal.any(1) | self.broken

    def comparable(self, columns: Bools) -> Floats:
        """Surprisal under a set of columns of the rows that hold all of them, nats.

        Infinite where such a cell lies outside the support.
        """
        rows = self.take((self.held() | ~columns).all(1))
        wrong = rows.illegal[:, columns].any(1) | rows.broken
        return np.where(wrong, np.inf, rows.showing(columns).surprisal())

    def mask(self, columns: Bools) -> torch.Tensor:
        """Slots (..., m) of some columns (..., columns)."""
        out = np.zeros((*columns.shape[:-1], self.batch.seen.shape[1]), dtype=bool)
        for place, slots in enumerate(self.slots):
            out[..., slots] = columns[..., place, None]
        return torch.from_numpy(out).to(self.batch.seen.device)

    def showing(self, columns: Bools) -> Scorer:
        """The same rows with only these columns seen."""
        return self._with(queries.masked(self.batch, self.mask(columns)))

    def surprisal(self) -> Floats:
        """-log p of the seen cells of each row (n,), nats, table units."""
        return self.scored()[0]

    def scored(self) -> tuple[Floats, Floats]:
        """Surprisal (n,), and the Pareto k-hat (n,) where it is an estimate, else NaN."""
        with torch.no_grad():
            found = queries.log_prob(self.predictive, self.batch)
            x = queries.encoded(self.batch)
            value = found.value.double() + self.model.schema_.log_det(x, self.batch.seen)
        return -value.cpu().numpy(), found.khat.double().cpu().numpy()

    def surprisals(self, columns: Bools) -> tuple[Floats, Floats]:
        """-log p of the seen cells among each set of columns, and its standard error.

        Parameters
        ----------
        columns : ndarray (g, columns) of bool

        Returns
        -------
        value, se : ndarray (g, n)
            Nats, table units.
        """
        masks = self.mask(columns)
        with torch.no_grad():
            few = FEW if self.model._traits.holes == "refuse" else MANY
            found = queries.log_prob_masked(self.predictive, self.batch, masks, particles=few)
            slopes = self._slopes()
            value = found.value.double() + masks.to(slopes.dtype) @ slopes
        return -value.cpu().numpy(), found.se.cpu().numpy()

    def _slopes(self) -> torch.Tensor:
        """What each cell adds to the log density in table units (m, n)."""
        x, seen = queries.encoded(self.batch), self.batch.seen
        return torch.where(seen, self.model.schema_.log_slopes(x), 0.0).T

    def given_others(self, places: NDArray[np.intp]) -> Floats:
        """-log p of each of some columns given all other seen cells, (places, n), nats."""
        columns = np.ones((len(places) + 1, len(self.names)), dtype=bool)
        columns[np.arange(len(places)), places] = False
        value, _ = self.surprisals(columns)
        return value[-1] - value[:-1]


def patterns(cells: Bools) -> Iterator[tuple[Bools, NDArray[np.intp]]]:
    """(columns, rows) for each distinct row of cells (n, columns)."""
    if not len(cells):
        return
    kinds, which = np.unique(cells, axis=0, return_inverse=True)
    order = np.argsort(which.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(which.reshape(-1), minlength=len(kinds)))
    yield from zip(kinds, np.split(order, ends[:-1]), strict=True)
