"""Rows and cells that the model draws: samples, and holes filled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from probgen import queries
from probgen.batch import Batch
from probgen.door import Given, given_rows
from probgen.errors import NotSupported, SchemaError, message
from probgen.frames import keep_seen, with_dtypes
from probgen.queries import Predictive
from probgen.table import encode, to_frame
from probgen.verbs.base import Asked, Extra, Unseen, generator_of

__all__ = ["Generating"]


class Generating(Asked):
    """Verbs that draw."""

    def sample(
        self,
        n: int = 1,
        given: Given = None,
        random_state: int | None = None,
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
        unseen : {"error", "missing"}
            What a level absent at fit means in `given`: an error, or a cell to be drawn.
        extra : {"error", "ignore"}
            What to do with columns of `given` that were not fitted.

        Returns
        -------
        data frame
            n rows on a RangeIndex, or m * n rows indexed (given index, draw).
        """
        check_is_fitted(self)
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise SchemaError(message(f"n={n!r}", "a whole number, 0 or more", "pass an int"))
        generator = generator_of(random_state)
        if given is None:
            m = len(self.schema_.slots)
            batch = Batch.empty(int(n), m, torch.float64, self._device)
            return self._decode(self._draw(batch, generator), None)
        if isinstance(given, str):
            return self._sample_event(int(n), given, generator)
        single = isinstance(given, Mapping)
        frame = given_rows(given)
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
        table = self._decode(self._draw(batch.take(rows), generator), index)
        kept = keep_seen(table, drawn.iloc[np.repeat(np.arange(len(frame)), int(n))])
        return with_dtypes(kept, table)

    def impute(
        self,
        table: Any,
        draws: int | None = None,
        random_state: int | None = None,
        unseen: Unseen = "error",
        extra: Extra = "error",
    ) -> pd.DataFrame | list[pd.DataFrame]:
        """Fill the holes of a table; seen cells come back as they are.

        Parameters
        ----------
        table : data frame
            All or some of the fitted columns.
        draws : int, optional
            None fills with the centre given the seen cells: the mean of a real column, the
            median of a count, the mode of a category, and for positive and bounded columns
            the mean on the scale of their bijection, which is near their median. A number
            returns that many tables with holes drawn from their joint predictive.
        random_state : int, optional
            Seed of the draws.
        unseen, extra
            As in `log_prob`; foreign columns and levels come back as they are.

        Returns
        -------
        data frame, or a list of them
        """
        check_is_fitted(self)
        whole = isinstance(draws, int | np.integer) and not isinstance(draws, bool)
        if draws is not None and not (whole and draws >= 0):
            raise SchemaError(message(f"draws={draws!r}", "a whole number, 0 or more, or None",
                                      "pass an int"))  # fmt: skip
        frame = to_frame(table, self.schema_.names)
        encoded = encode(frame, self.schema_, unseen=unseen, extra=extra)
        batch = self._batch(encoded, self._device)
        if draws is None:
            with torch.no_grad():
                return self._filled(self._expected(batch), frame)
        generator = generator_of(random_state)
        return [self._filled(self._draw(batch, generator), frame) for _ in range(draws)]

    def _filled(self, x: np.ndarray, frame: pd.DataFrame) -> pd.DataFrame:
        """The caller's frame with its holes taken from encoded rows without holes."""
        for place, slot in enumerate(self.schema_.slots):
            if slot.reserved:  # a foreign level: the caller's own cell stands there
                x[x[:, place] == slot.size - 1, place] = 0.0
        known = [name for name in frame.columns if name in self.schema_.number]
        filled = keep_seen(self._decode(x, frame.index)[known], frame[known])
        columns = {n: filled[n] if n in self.schema_.number else frame[n] for n in frame.columns}
        return pd.DataFrame(columns, index=frame.index)

    def _expected(self, batch: Batch) -> np.ndarray:
        """Holes at their mean or mode; restarts weigh by the density of the seen cells."""
        each = [member.expect(batch) for member in self.members_]
        found = [x for x in each if x is not None]
        if len(found) < len(each):
            raise NotSupported(message(
                f"{type(self).__name__} without closed-form conditional means",
                "a family with exact conditionals", "pass draws=20 to draw instead",
            ))  # fmt: skip
        if len(found) == 1:
            return found[0].cpu().numpy()
        single = [Predictive([m], [{}]) for m in self.members_]
        logs = torch.stack([queries.log_prob(p, batch).value for p in single])
        share = logs.softmax(0)
        mean = torch.einsum("rn,rnm->nm", share, torch.stack(found))
        best = torch.stack(found)[share.argmax(0), torch.arange(len(batch))]
        codes = [i for i, s in enumerate(self.schema_.slots) if s.kind == "category"]
        mean[:, codes] = best[:, codes]
        return mean.cpu().numpy()
