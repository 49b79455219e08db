"""Rows that the model draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from probgen.batch import Batch
from probgen.door import Given, generator_of, given_rows, refuse_without_context
from probgen.errors import SchemaError, message
from probgen.frames import keep_seen, with_dtypes
from probgen.table import encode
from probgen.verbs.base import Asked, Extra

__all__ = ["Generating"]


class Generating(Asked):
    """Verbs that draw."""

    def sample(
        self,
        n: int = 1,
        given: Given = None,
        random_state: int | None = None,
        strict: bool = False,
        unseen: Literal["error", "missing"] = "error",
        extra: Extra = "error",
    ) -> pd.DataFrame:
        """New rows: fitted columns, data types and legal values.

        Parameters
        ----------
        n : int
            Rows; for each row of `given` where that is a frame.
        given : dict, data frame or str, optional
            Cells that are held fixed; or an event in the syntax of `DataFrame.query` that all
            rows satisfy. Discrete columns and one real column of the event are drawn exactly,
            however rare it is; what is left is drawn until it fits, and an error after half a
            million tries at least states the probability.
        random_state : int, optional
            Seed; None draws afresh at each call.
        strict : bool
            Raise where conditional draws cannot be trusted, instead of warning.
        unseen : {"error", "missing"}
            What a level absent at fit means in `given`: an error, or a cell to be drawn.
        extra : {"error", "ignore"}
            What to do with columns of `given` that were not fitted.

        Returns
        -------
        data frame
            n rows on a RangeIndex, or m * n rows indexed (given index, draw). Where rows were
            drawn by resampling, its ``attrs`` hold the `method`, the smallest effective sample
            size (`ess`) and the largest Pareto `khat` of the weights.

        Raises
        ------
        SchemaError
            For impossible conditions.
        ApproximationError
            If `strict`, and the Pareto k-hat of some row is above 0.7.

        Warns
        -----
        ApproximationWarning
            The same without `strict`.
        """
        check_is_fitted(self)
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise SchemaError(message(f"n={n!r}", "a whole number, 0 or more", "pass an int"))
        generator = generator_of(random_state)
        if given is None:
            refuse_without_context(self.schema_)
            m = len(self.schema_.slots)
            batch = Batch.empty(int(n), m, torch.float64, self._device)
            return self._decode(self._draw(batch, generator), None)
        if isinstance(given, str):
            return self._sample_event(int(n), given, generator, strict)
        single = isinstance(given, Mapping)
        frame = given_rows(given, self.schema_)
        known = encode(frame, self.schema_, unseen=unseen, extra=extra)
        if known.illegal.any():
            raise SchemaError(message(
                f"{int(known.illegal.sum())} impossible row(s) in given",
                "values inside the support", "correct the values",
            ))  # fmt: skip
        batch = self._batch(known, self._device)
        rows = torch.arange(len(batch), device=self._device).repeat_interleave(int(n))
        index = None
        if not single:
            draw = np.tile(np.arange(n), len(frame))
            index = pd.MultiIndex.from_arrays(
                [frame.index.repeat(int(n)), draw], names=[frame.index.name, "draw"]
            )
        drawn = frame.copy(deep=False)
        for place, slot in enumerate(self.schema_.slots):
            name = self.schema_.columns[slot.column].name
            if slot.reserved and name in frame.columns:  # foreign levels are drawn, not kept
                drawn[name] = frame[name].where(known.seen[:, place])
        found = self._drawn(batch.take(rows), generator, strict)
        table = self._decode(found.x.cpu().numpy(), index)
        known_cells = drawn.iloc[np.repeat(np.arange(len(frame)), int(n))]
        result = with_dtypes(keep_seen(table, known_cells), table)
        for place, column in enumerate(self.schema_.columns):  # conditioned on, never drawn
            if column.role == "context" and column.name in known_cells:
                value = known_cells[column.name].set_axis(result.index)
                result.insert(min(place, result.shape[1]), column.name, value)
        if found.method != "exact" and len(result):
            worst = float(found.khat.nan_to_num(-math.inf).max())
            result.attrs |= {
                "method": found.method, "ess": float(found.ess.min()), "khat": worst
            }  # fmt: skip
        return result
