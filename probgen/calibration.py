"""Rows held apart from a fit, by which p-values of new rows are worked out.

Nothing of the fit may have seen them: not the parameters, not early stopping, not the schema
(levels that only they hold count as foreign). Scores of these rows and of new ones are then
exchangeable, which is all that a conformal p-value needs.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probgen import queries
from probgen.batch import Batch, row_keys
from probgen.errors import DataWarning, NotSupported, SchemaError, message
from probgen.schema import Schema
from probgen.table import Encoded, encode

__all__ = ["Calibration", "Held", "hold_apart", "illegal_by_column"]

Bools = NDArray[np.bool_]
#: hashes of fitted rows that are kept, to notice a table that was fitted: the smallest ones
SKETCH = 1000


@dataclass(frozen=True)
class Held:
    """The rows of a table that were held apart, before the schema is known."""

    frame: pd.DataFrame
    rows: NDArray[np.int64]
    share: float


@dataclass(frozen=True)
class Calibration:
    """Encoded rows that the fit did not see.

    Attributes
    ----------
    share : float
        The share of the table that was asked for.
    rows : ndarray (c,) of int64
        Their places in the fitted table: ``table.iloc[model.calibration_.rows]``.
    x, seen : ndarray (c, m)
        As in `probgen.table.Encoded`; a level that no fitted row holds has the reserved code.
    illegal : ndarray (c, columns) of bool
        Cells outside the support, by column of the schema.
    context, context_seen : ndarray (c, m')
        As in `probgen.table.Encoded`.
    fitted : ndarray of int64
        The smallest hashes of fitted rows, 1000 at most.
    """

    share: float
    rows: NDArray[np.int64]
    x: NDArray[np.float64]
    seen: Bools
    illegal: Bools
    context: NDArray[np.float64]
    context_seen: Bools
    fitted: NDArray[np.int64]

    @classmethod
    def of(cls, held: Held, fitted: pd.DataFrame, schema: Schema) -> Calibration:
        """Encode the rows held apart by the schema of the others."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # odd cells are what they are for
            own = encode(held.frame, schema, unseen="rare")
            # without the noise of dequantisation, so that the rows are known again
            train = encode(fitted, schema)
        illegal = np.zeros((len(own.x), len(schema.columns)), dtype=bool)
        for name, bad in illegal_by_column(held.frame, own, schema, "rare").items():
            illegal[:, schema.number[name]] = bad
        keys = row_keys(torch.from_numpy(train.x), torch.from_numpy(train.seen))
        hashes = np.unique(keys.numpy())[:SKETCH]
        return cls(held.share, held.rows, own.x, own.seen, illegal, own.context,
                   own.context_seen, hashes)  # fmt: skip

    def __len__(self) -> int:
        return len(self.x)

    def encoded(self) -> Encoded:
        """The rows as `probgen.table.encode` returns them."""
        index = pd.RangeIndex(len(self))
        illegal: Bools = np.asarray(self.illegal.any(1))
        return Encoded(self.x, self.seen.copy(), illegal, index, self.context, self.context_seen)

    def share_fitted(self, batch: Batch) -> float:
        """Share of rows that equal a row of the fit: an estimate, for tables with real columns.

        Rows without real cells equal one another by chance.
        """
        hashes = row_keys(queries.encoded(batch), batch.seen).cpu().numpy()
        if len(self.fitted) == SKETCH:  # larger hashes of fitted rows were not kept
            hashes = hashes[hashes <= self.fitted.max()]
        return float(np.isin(hashes, self.fitted).mean()) if len(hashes) else 0.0

    def tensors(self) -> dict[str, torch.Tensor]:
        """All arrays by name, for a file."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}

    @classmethod
    def from_tensors(
        cls, share: float, tensors: dict[str, torch.Tensor], schema: Schema
    ) -> Calibration:
        """The inverse of `tensors`; ValueError if sizes or types cannot be of this schema."""
        found = {name: tensors[name].numpy() for name in ARRAYS}
        c, m, extra = len(found["x"]), len(schema.slots), len(schema.context_slots)
        shapes = {"rows": (c,), "x": (c, m), "seen": (c, m), "illegal": (c, len(schema.columns)),
                  "context": (c, extra), "context_seen": (c, extra)}  # fmt: skip
        for name, shape in shapes.items():
            if found[name].shape != shape or found[name].dtype != ARRAYS[name]:
                own = f"shape {found[name].shape} and type {found[name].dtype}"
                raise ValueError(f"{name!r} of {own}, not {shape} and {ARRAYS[name]}")
        hashes = found["fitted"]
        if hashes.ndim != 1 or len(hashes) > SKETCH or hashes.dtype != ARRAYS["fitted"]:
            raise ValueError(f"'fitted' of shape {hashes.shape}")
        if not (np.isfinite(found["x"]).all() and 0 < share < 1):
            raise ValueError("calibration rows that are not finite, or a share outside (0, 1)")
        return cls(share, **found)


#: the arrays of a calibration and their types
ARRAYS: dict[str, type] = {
    "rows": np.int64, "x": np.float64, "seen": np.bool_, "illegal": np.bool_,
    "context": np.float64, "context_seen": np.bool_, "fitted": np.int64,
}  # fmt: skip


def hold_apart(
    frame: pd.DataFrame, weight: NDArray[np.float64] | None, share: float | None, seed: int
) -> tuple[pd.DataFrame, NDArray[np.float64] | None, Held | None]:
    """(frame, weight) of the rows to fit, those of weight 0 left out, and the rows held apart.

    Raises
    ------
    SchemaError
        If the share is not inside (0, 1), or leaves no row on a side (two to fit).
    NotSupported
        If some rows weigh more than others: copies of a row are not exchangeable with it.
    """
    places = np.arange(len(frame))
    if weight is not None and not weight.all():  # weight 0 equals no row
        places = np.flatnonzero(weight)
        frame, weight = frame.iloc[places], weight[places]
    if share is None:
        return frame, weight, None
    number = isinstance(share, int | float | np.number) and not isinstance(share, bool)
    if not number or not 0 < share < 1:
        raise SchemaError(message(
            f"calibration={share!r}", "a share of the rows, 0 < calibration < 1, or None",
            "pass 0.2, say",
        ))  # fmt: skip
    if weight is not None and not (weight == 1).all():
        raise NotSupported(message(
            "calibration with sample_weight other than 0 and 1",
            "rows that are exchangeable: a row of weight 2 is two equal rows, of which one could "
            "be fitted and the other held apart",
            "leave sample_weight out, or judge rows by outliers(table, method='model')",
        ))  # fmt: skip
    n = len(frame)
    count = round(n * float(share))
    if count < 1 or n - count < 2:
        raise SchemaError(message(
            f"calibration={share} of {n} rows: {count} held apart, {n - count} to fit",
            "at least 1 row held apart and 2 to fit", "pass more rows, or another share",
        ))  # fmt: skip
    apart = np.zeros(n, dtype=bool)
    apart[np.random.default_rng(seed).permutation(n)[:count]] = True
    held = Held(frame[apart], places[apart].astype(np.int64), float(share))
    return frame[~apart], None if weight is None else weight[~apart], held


def illegal_by_column(
    frame: pd.DataFrame, encoded: Encoded, schema: Schema, unseen: Any
) -> dict[Hashable, Bools]:
    """Rows (n,) with a value outside the support, by column, where there are any."""
    found: dict[Hashable, Bools] = {}
    rows = np.flatnonzero(encoded.illegal)
    if not len(rows):
        return found
    part = frame.iloc[rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # said when the table was encoded
        for name in schema.names:
            if name in part.columns and schema[name].role != "context":
                own = encode(part[[name]], schema, unseen=unseen)
                if own.illegal.any():
                    found[name] = np.zeros(len(frame), dtype=bool)
                    found[name][rows[own.illegal]] = True
    return found
