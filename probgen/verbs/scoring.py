"""How probable: log densities of rows, marginal, conditional, with intervals."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from probgen import queries
from probgen.batch import Batch
from probgen.door import Given, given_parts
from probgen.errors import NotSupported, SchemaError, message
from probgen.table import encode, to_frame
from probgen.verbs.base import Asked, Extra, Unseen, doubt, outside, short_of

__all__ = ["Scoring"]


class Scoring(Asked):
    """Verbs that score rows."""

    def log_prob(
        self,
        table: Any,
        given: Given = None,
        interval: float | None = None,
        details: bool = False,
        posterior: bool = True,
        strict: bool = False,
        unseen: Unseen = "error",
        extra: Extra = "error",
        particles: int | None = None,
        error: float | None = None,
        annealing: int = 0,
    ) -> pd.Series | pd.DataFrame:
        """Log density of each row, in nats and the table's own units.

        Parameters
        ----------
        table : data frame of n rows
            Any of the fitted columns, in any order; those left out and NaN cells are
            integrated out.
        given : dict, data frame or str, optional
            What to condition on: the same cells for all rows (dict), row by row (a frame
            of n rows), or an event in the syntax of `DataFrame.query`, which may be about
            columns of the table. NaN conditions on nothing.
        interval : float, optional
            Posterior probability: return lower and upper ends as well.
        details : bool
            Return Monte Carlo error (`se`), effective sample size (`ess`), Pareto `khat`
            and `method` as well; with `particles`, `error` or `annealing` also how many
            particles each row took.
        posterior : bool
            False scores at one value of the parameters instead of averaging over their
            posterior.
        strict : bool
            Raise where an estimate cannot be trusted, instead of warning.
        unseen : {"error", "missing", "rare"}
            What a level absent at fit means: an error, a hole, or the predictive mass of
            one reserved level.
        extra : {"error", "ignore"}
            What to do with columns that were not fitted.
        particles : int, optional
            Importance draws a row, for densities that are estimated so; 512 by default.
        error : float, optional
            Wanted Monte Carlo standard error of a row, nats: rows above it get four times
            as many particles, again and again up to 65,536; the others keep theirs.
        annealing : int
            Steps of annealed importance sampling (Neal 2001) for rows whose k-hat is above
            0.7, or whose error stays above `error`; 0 for none. 100 is a good number; such a
            row costs about as much as 30,000 particles.

        Returns
        -------
        Series of float64 on the table's index, or a frame with a column ``log_prob``.
            -inf where a value lies outside the support (with a `DataWarning`).

        Raises
        ------
        SchemaError
            For foreign columns or levels, or a column on both sides.
        NotSupported
            If `interval` is asked of a family without posterior, or `annealing` for rows of
            one without a differentiable importance weight.
        ApproximationError
            If `strict`, and the Pareto k-hat of some row is above 0.7, or its standard error
            above `error`.

        Warns
        -----
        ApproximationWarning
            The same without `strict`.
        """
        check_is_fitted(self)
        effort: dict[str, Any] = {
            "particles": queries.PARTICLES if particles is None else particles, "error": error,
            "annealing": annealing,
        }  # fmt: skip
        if isinstance(given, str):
            if interval is not None:
                raise NotSupported(message(
                    "interval with an event as given", "values as given",
                    "condition on a dict or a frame, or leave interval out",
                ))  # fmt: skip
            base = self.log_prob(
                table, None, None, True, posterior, strict, unseen, extra,
                particles, error, annealing,
            )  # fmt: skip
            found = self._log_prob_event(table, given, base, posterior, unseen)
            return found if details else found["log_prob"]
        asked = encode(table, self.schema_, unseen=unseen, extra=extra)
        named = to_frame(table, self.schema_.names)
        joint, known = given_parts(asked, named, given, self.schema_, unseen, extra)
        predictive = self._predictive(posterior)
        batch = self._batch(joint, self._device)
        with torch.no_grad():
            shift = self.schema_.log_det(queries.encoded(batch), batch.seen)
            given_batch = None
            if known is None:
                estimate = queries.log_prob(predictive, batch, **effort)
            else:
                given_batch = self._batch(known, self._device)
                estimate = queries.log_prob_given(predictive, batch, given_batch, **effort)
                shift = shift - self.schema_.log_det(
                    queries.encoded(given_batch), given_batch.seen
                )
            value = estimate.value.double() + shift
        if known is not None and bool(value.isnan().any()):
            rows = [str(label) for label in asked.index[value.isnan().cpu().numpy()][:5]]
            raise SchemaError(message(
                f"given cells of probability 0 in row(s) {', '.join(rows)}",
                "conditions that can be met", "correct these cells, or leave them out",
            ))  # fmt: skip
        doubt(estimate.khat, strict, "log densities")
        short_of(estimate, error, strict)
        numbers = {"log_prob": outside(value, asked)}
        if interval is not None:
            lower, upper = self._interval(batch, given_batch, interval)
            numbers["lower"] = outside(lower + shift, asked)
            numbers["upper"] = outside(upper + shift, asked)
        if details:
            numbers |= {"se": estimate.se.cpu().numpy(), "ess": estimate.ess.cpu().numpy(),
                        "khat": estimate.khat.cpu().numpy()}  # fmt: skip
            if particles is not None or error is not None or annealing:
                numbers["particles"] = estimate.particles.cpu().numpy()
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
