"""What can be asked of a fitted density: one method a verb, pandas in and out."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from probgen import queries
from probgen.batch import Batch
from probgen.diagnostics.report import Report
from probgen.door import Given, given_parts, given_rows
from probgen.errors import NotSupported, SchemaError, message
from probgen.family import Family
from probgen.frames import keep_seen, with_dtypes
from probgen.queries import Predictive
from probgen.schema import Schema
from probgen.table import Encoded, decode, encode, to_frame

__all__ = ["Extra", "Unseen", "Verbs"]

Unseen = Literal["error", "missing", "rare"]
Extra = Literal["error", "ignore"]


class Verbs:
    """The questions; `probgen.Density` adds fitting and scikit-learn's conventions."""

    schema_: Schema
    members_: list[Family]

    def _batch(
        self, encoded: Encoded, device: torch.device, weight: np.ndarray | None = None
    ) -> Batch:
        raise TypeError(f"{type(self).__name__} must define _batch")

    @property
    def _device(self) -> torch.device:
        raise TypeError(f"{type(self).__name__} must define _device")

    def _predictive(self, posterior: bool = True) -> Predictive:
        raise TypeError(f"{type(self).__name__} must define _predictive")

    @property
    def _density(self) -> Any:
        """This object, as the `Density` that it is once fitting is added."""
        return self

    @property
    def _with_draws(self) -> Predictive:
        raise TypeError(f"{type(self).__name__} must define _with_draws")

    # --- scoring ----------------------------------------------------------------------

    def log_prob(
        self,
        table: Any,
        given: Given = None,
        interval: float | None = None,
        details: bool = False,
        posterior: bool = True,
        unseen: Unseen = "error",
        extra: Extra = "error",
    ) -> pd.Series | pd.DataFrame:
        """Log density of each row, in nats and the table's own units.

        Parameters
        ----------
        table : data frame of n rows
            Any of the fitted columns, in any order; those left out and NaN cells are
            integrated out.
        given : dict or data frame, optional
            What to condition on: the same cells for all rows (dict) or row by row (a frame
            of n rows). NaN conditions on nothing.
        interval : float, optional
            Posterior probability: return lower and upper ends as well.
        details : bool
            Return Monte Carlo error (`se`), effective sample size (`ess`), Pareto `khat`
            and `method` as well.
        posterior : bool
            False scores at one value of the parameters instead of averaging over their
            posterior.
        unseen : {"error", "missing", "rare"}
            What a level absent at fit means: an error, a hole, or the predictive mass of
            one reserved level.
        extra : {"error", "ignore"}
            What to do with columns that were not fitted.

        Returns
        -------
        Series of float64 on the table's index, or a frame with a column ``log_prob``.
            -inf where a value lies outside the support (with a `DataWarning`).

        Raises
        ------
        SchemaError
            For foreign columns or levels, or a column on both sides.
        NotSupported
            If `interval` is asked of a family without posterior.
        """
        check_is_fitted(self)
        asked = encode(table, self.schema_, unseen=unseen, extra=extra)
        named = to_frame(table, self.schema_.names)
        joint, known = given_parts(asked, named, given, self.schema_, unseen, extra)
        predictive = self._predictive(posterior)
        batch = self._batch(joint, self._device)
        with torch.no_grad():
            estimate = queries.log_prob(predictive, batch)
            shift = self.schema_.log_det(queries.encoded(batch), batch.seen)
            value, se = estimate.value.double() + shift, estimate.se
            given_batch = None
            if known is not None:
                given_batch = self._batch(known, self._device)
                below = queries.log_prob(predictive, given_batch)
                base = self.schema_.log_det(queries.encoded(given_batch), given_batch.seen)
                value = value - below.value - base
                shift, se = shift - base, (se.square() + below.se.square()).sqrt()
        numbers = {"log_prob": _outside(value, asked)}
        if interval is not None:
            lower, upper = self._interval(batch, given_batch, interval)
            numbers["lower"] = _outside(lower + shift, asked)
            numbers["upper"] = _outside(upper + shift, asked)
        if details:
            numbers |= {"se": se.cpu().numpy(), "ess": estimate.ess.cpu().numpy(),
                        "khat": estimate.khat.cpu().numpy()}  # fmt: skip
        frame = pd.DataFrame(numbers, index=asked.index)
        if details:
            frame["method"] = estimate.method
        return frame if frame.shape[1] > 1 else frame["log_prob"]

    def _interval(
        self, batch: Batch, given: Batch | None, level: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not 0 < level < 1:
            raise SchemaError(message(f"interval={level}", "0 < interval < 1", "pass 0.9, say"))
        if len(self._with_draws) < 2:
            raise NotSupported(message(
                f"{type(self).__name__} with one value of its parameters",
                "posterior draws", "fit with draws=100 or more",
            ))  # fmt: skip
        with torch.no_grad():
            return queries.interval(self._with_draws, batch, level, given)

    # --- generating ---------------------------------------------------------------------

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
        given : dict or data frame, optional
            Cells that are held fixed.
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
        generator = _generator(random_state)
        if given is None:
            m = len(self.schema_.slots)
            batch = Batch.empty(int(n), m, torch.float64, self._device)
            return self._decode(self._draw(batch, generator), None)
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

    def _draw(self, batch: Batch, generator: torch.Generator) -> np.ndarray:
        return queries.sample(self._predictive(), batch, generator).cpu().numpy()

    def _decode(self, x: np.ndarray, index: pd.Index | None) -> pd.DataFrame:
        return decode(x, self.schema_, index)

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
        generator = _generator(random_state)
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

    # --- latents ------------------------------------------------------------------------

    def latent(self, table: Any, unseen: Unseen = "error", extra: Extra = "error") -> pd.DataFrame:
        """Latents of each row: label probabilities, or mean and sd under the guide.

        Columns are ``name[code]`` for labels; ``name`` and ``name.sd`` (with an index where
        there are several dimensions) for others. Of several restarts, those of the first.
        """
        check_is_fitted(self)
        encoded = encode(table, self.schema_, unseen=unseen, extra=extra)
        batch = self._batch(encoded, self._device)
        with torch.no_grad():
            labels = self.members_[0].row_latents(batch)
            if labels is not None:
                parts = {f"{name}[{k}]": p[:, k] for name, p in labels.items()
                         for k in range(p.shape[1])}  # fmt: skip
            else:
                parts = {}
                for name, both in queries.latent(self._predictive(), batch).items():
                    for suffix, value in zip(("", ".sd"), both, strict=True):
                        flat = value.reshape(len(batch), -1)
                        parts |= {f"{name}[{i}]{suffix}": flat[:, i] for i in range(flat.shape[1])}
        return pd.DataFrame(
            {name: value.cpu().numpy() for name, value in parts.items()}, index=encoded.index
        )

    def reconstruct(
        self, table: Any, unseen: Unseen = "error", extra: Extra = "error"
    ) -> pd.DataFrame:
        """The rows as the model sees them, through their latents and back."""
        check_is_fitted(self)
        encoded = encode(table, self.schema_, unseen=unseen, extra=extra)
        batch = self._batch(encoded, self._device)
        with torch.no_grad():
            x = self.members_[0].reconstruct(batch)
            if x is None:
                x = queries.reconstruct(self._predictive(), batch)
        return self._decode(x.cpu().numpy(), encoded.index)

    # --- odd rows, and trust ------------------------------------------------------------

    def surprisal(self, table: Any, unseen: Unseen = "error", extra: Extra = "error") -> pd.Series:
        """-log_prob of each row, nats, on the caller's index: larger is stranger."""
        value = self.log_prob(table, unseen=unseen, extra=extra)
        return (-value).rename("surprisal")

    def explain(
        self, table: Any, unseen: Unseen = "error", extra: Extra = "error"
    ) -> pd.DataFrame:
        """Surprisal split into one share a column; see `probgen.outliers.explain`."""
        from probgen.outliers import explain

        check_is_fitted(self)
        return explain(self._density, table, unseen, extra)

    def outliers(
        self,
        table: Any,
        samples: int = 2000,
        random_state: int = 0,
        unseen: Unseen = "error",
        extra: Extra = "error",
    ) -> pd.DataFrame:
        """How odd each row is, and the column to blame; see `probgen.outliers.outliers`."""
        from probgen.outliers import outliers

        check_is_fitted(self)
        return outliers(self._density, table, samples, random_state, unseen, extra)

    def check(self, table: Any = None, train: Any = None) -> Report:
        """Whether the fit can be believed: fit for density? fit for intervals? why?

        Parameters
        ----------
        table : data frame, optional
            Rows to judge the density by, beside independent columns; rows that the fit did
            not see say most.
        train : data frame, optional
            The fitted rows: adds the gap between the two, and k-hat of a guide.

        Returns
        -------
        Report
            Prints as text, shows as HTML in notebooks, and has ``density``, ``intervals``,
            ``findings`` and ``to_dict()``.
        """
        from probgen.diagnostics.checks import check
        from probgen.estimators import Independent

        check_is_fitted(self)

        def fit_floor(rows: pd.DataFrame) -> Any:
            return Independent(schema=self.schema_, random_state=0, draws=0).fit(rows)

        joint = not self.schema_.context_slots
        return check(self._density, table, train, fit_floor if joint else None)

    def to_arviz(self, table: Any = None) -> Any:
        """The model as ArviZ groups, with those of the rows if `table`, the fitted rows, is given.

        Returns an ``InferenceData`` (ArviZ 0.2x) or a ``DataTree`` (1.x); see
        `probgen.diagnostics.arviz.to_arviz` for the groups.
        """
        from probgen.diagnostics.arviz import to_arviz

        check_is_fitted(self)
        return to_arviz(self._density, table)

    @property
    def plot(self) -> Any:
        """Plots of the fitted model, ``model.plot.pairs(table)``: see `probgen.plots`."""
        from probgen.plots import Plots

        check_is_fitted(self)
        return Plots(self._density)


def _outside(value: torch.Tensor, encoded: Encoded) -> np.ndarray:
    """As an array, -inf where the row lies outside the support."""
    out = value.double().cpu().numpy()
    return np.where(encoded.illegal, -math.inf, out) if encoded.illegal.any() else out


def _generator(random_state: int | None) -> torch.Generator:
    if random_state is None:
        seed = secrets.randbits(62)
    elif isinstance(random_state, np.random.RandomState):  # as `fit` takes it
        seed = int(random_state.randint(2**31))
    elif isinstance(random_state, int | np.integer) and not isinstance(random_state, bool):
        seed = int(random_state)
    else:
        raise SchemaError(message(
            f"random_state={random_state!r}", "a whole number, or None", "pass an int"
        ))  # fmt: skip
    return torch.Generator().manual_seed(seed)
