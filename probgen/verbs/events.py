"""Events: how probable they are, and conditioning on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from probgen.answers import Answer
from probgen.door import Given, generator_of, given_rows, refuse_without_context
from probgen.errors import NotSupported, SchemaError, message
from probgen.events import Event, both
from probgen.events.values import from_frame
from probgen.probability import (
    Answers,
    Conditioned,
    Effort,
    Rows,
    Source,
    TooHard,
    conditioned,
    draw_rows,
    estimated,
    estimated_given,
    exact_answers,
    impossible,
    satisfied,
)
from probgen.table import Encoded, encode, to_frame
from probgen.verbs.base import Asked, Extra, Unseen

__all__ = ["Events"]


class Events(Asked):
    """Verbs about events."""

    def prob(
        self,
        event: str,
        given: Given = None,
        *,
        tolerance: float = 0.002,
        relative: float = 0.05,
        samples: int = 100_000,
        random_state: int | None = None,
        posterior: bool = True,
        unseen: Unseen = "error",
        extra: Extra = "error",
    ) -> Answer | pd.DataFrame:
        """The probability of an event, given values or another event.

        Parameters
        ----------
        event : str
            In the syntax of `DataFrame.query`: ``"income > 50_000 and job != 'nurse'"``. See
            `probgen.events.Event` for the language. It is parsed, never run.
        given : dict, data frame or str, optional
            What to condition on: values (a dict), values row by row (a frame), or an event.
            NaN conditions on nothing. The event may name columns that are given.
        tolerance, relative : float
            Where draws are needed: they stop when the standard error is at most `tolerance`,
            and at most `relative` times the probability.
        samples : int
            Draws at most, for each row of `given`.
        random_state : int, optional
            Seed of draws; None draws afresh at each call. Exact answers need none.
        posterior : bool
            False answers at one value of the parameters. Draws need the predictive: where
            there is no exact way, False raises `NotSupported`.
        unseen, extra
            As in `log_prob`, for the values of `given`.

        Returns
        -------
        Answer
            With ``value``, ``se``, ``method`` and ``ess``; ``float()`` gives the value.
        DataFrame
            With these columns on the index of `given`, where that is a frame.

        Raises
        ------
        SchemaError
            For an event outside the language, unknown columns or levels, values outside the
            support, or a condition of probability 0.

        Notes
        -----
        Only the columns of the event matter: the others are integrated out by the family.
        Where its marginals are exact, levels and counts are summed and one real-like column is
        integrated (``method`` "exact" or "quadrature"); of two such columns both are, while
        that costs less than a second or so. ``se`` is then a bound of the numerical error. All
        else is estimated from draws ("monte carlo"), doubled until the standard error is
        small enough or `samples` is reached; the error says which.

        A rounded column counts as it is recorded: ``x < 5`` is the mass of all cells of its
        grid whose value is below 5. A level never seen in training satisfies ``!=`` and ``not
        in``, and nothing else: it has the mass of the rare level.

        Examples
        --------
        >>> from probgen import Independent
        >>> from probgen.datasets import penguins
        >>> model = Independent(random_state=0).fit(penguins())
        >>> p = model.prob("bill_length_mm > 45 and species == 'Adelie'")
        >>> p.method, round(float(p), 2)
        ('quadrature', 0.21)
        """
        check_is_fitted(self)
        effort = _effort(tolerance, relative, samples)
        asked = Event(event, self.schema_)
        source = self._source(posterior)
        generator = generator_of(random_state)
        if isinstance(given, str):
            condition = Event(given, self.schema_)
            refuse_without_context(self.schema_)
            return self._given_event(source, asked, condition, effort, generator)
        if given is None:
            refuse_without_context(self.schema_)
            return self._answers(source, asked, source.none(), {}, effort, generator)[0]
        frame = given_rows(given, self.schema_)
        known = encode(frame, self.schema_, unseen=unseen, extra=extra)
        rows = self._rows(known)
        if known.illegal.any():
            raise SchemaError(message(
                f"{int(known.illegal.sum())} impossible row(s) in given",
                "values inside the support", "correct the values",
            ))  # fmt: skip
        values = from_frame(frame, self.schema_, asked.columns, unseen)
        found = self._answers(source, asked, rows, values, effort, generator)
        return found[0] if isinstance(given, Mapping) else _as_frame(found, frame.index)

    def _source(self, posterior: bool = True, strict: bool = False) -> Source:
        def draw(batch: Any, generator: torch.Generator) -> np.ndarray:
            if not posterior:
                raise NotSupported(message(
                    "posterior=False where rows must be drawn", "the predictive",
                    "leave posterior=True, or ask an event that is integrated",
                ))  # fmt: skip
            return self._draw(batch, generator, strict)

        return Source(self.schema_, self._predictive(posterior), self._device, draw)

    def _rows(self, known: Encoded) -> Rows:
        """Encoded rows as the family takes them; cells that it gives no mass become illegal.

        Raises
        ------
        SchemaError
            If the context of a row is not known.
        """
        self._batch(known, self._device)
        return Rows(known.x, known.seen, known.context if known.context.shape[1] else None)

    @staticmethod
    def _answers(
        source: Source, event: Event, rows: Rows, values: Any, effort: Effort,
        generator: torch.Generator,
    ) -> Answers:  # fmt: skip
        try:
            return exact_answers(source, event, rows, values)
        except TooHard:
            return estimated(source, event, rows, values, effort, generator)

    @staticmethod
    def _given_event(
        source: Source, event: Event, given: Event, effort: Effort, generator: torch.Generator
    ) -> Answer:
        """P(A and B) / P(B), by sums and integrals where both are, else from draws given B."""
        try:
            below = exact_answers(source, given, source.none(), {})[0]
            if below.value <= below.se:
                raise impossible(given)
            above = exact_answers(source, both(event, given), source.none(), {})[0]
        except TooHard:
            part = conditioned(source, given)
            try:
                return estimated_given(source, event, given, part, effort, generator)[0]
            except NotSupported:  # a family that draws whole rows only
                whole = Conditioned(None, None, 1.0)
                return estimated_given(source, event, given, whole, effort, generator)[0]
        value = min(above.value / below.value, 1.0)
        error = (above.se + value * below.se) / below.value
        methods = {above.method, below.method}
        return Answer(value, error, max(methods), np.inf)

    def _unconditioned(
        self, source: Source, event: Event, rows: Rows, values: Any, effort: Effort,
        generator: torch.Generator,
    ) -> Answers:  # fmt: skip
        """P(event), of one row that serves all; in the context of each row if there is any."""
        if rows.context is None:
            return self._answers(source, event, source.none(), {}, effort, generator)
        empty = source.none(len(rows))
        schema = self.schema_
        held = {name: v for name, v in values.items() if schema[name].role == "context"}
        own = Rows(empty.x, empty.seen, rows.context)
        return self._answers(source, event, own, held, effort, generator)

    # --- conditioning on an event -----------------------------------------------------------

    def _sample_event(
        self, n: int, given: str, generator: torch.Generator, strict: bool
    ) -> pd.DataFrame:
        """n rows that satisfy the event: drawn exactly where that is possible."""
        event, source = Event(given, self.schema_), self._source(strict=strict)
        refuse_without_context(self.schema_)

        def fits(x: np.ndarray) -> np.ndarray:
            return satisfied(source, event, x)

        part = conditioned(source, event)
        try:
            x = draw_rows(source, event, n, generator, part, fits)
        except NotSupported:  # a family that draws whole rows only
            x = draw_rows(source, event, n, generator, Conditioned(None, None, 1.0), fits)
        return self._decode(x, None)

    def _log_prob_event(
        self, table: Any, given: str, base: pd.DataFrame, posterior: bool, unseen: Unseen
    ) -> pd.DataFrame:
        """Turn log p(x), with its details, into log p(x given an event).

        By Bayes: log p(x) + log P(event given x) - log P(event).
        """
        event, source = Event(given, self.schema_), self._source(posterior)
        frame = to_frame(table, self.schema_.names)
        known = encode(frame, self.schema_, unseen=unseen, extra="ignore")
        rows = self._rows(known)
        values = from_frame(frame, self.schema_, event.columns, unseen)
        effort, generator = Effort(), generator_of(0)
        whole = self._unconditioned(source, event, rows, values, effort, generator)
        least = np.where(np.isinf(whole.ess), whole.se, 0.0)
        if (whole.value <= least).any():
            draws = whole.ess[whole.value <= least][0]
            raise impossible(event, 0 if np.isinf(draws) else int(draws))
        each = self._answers(source, event, rows, values, effort, generator)
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = np.log(each.value) - np.log(whole.value)
            error = np.where(each.value > 0, each.se / each.value, 0.0)
            shift[np.isneginf(base["log_prob"])] = 0.0  # impossible rows stay so
        methods = (
            {*str(base["method"].iloc[0]).split("+"), each.method, whole.method}
            if len(base)
            else {whole.method}
        )
        return base.assign(
            log_prob=base["log_prob"] + shift,
            se=np.sqrt(base["se"] ** 2 + error**2 + (whole.se / whole.value) ** 2),
            ess=np.minimum(base["ess"], np.minimum(each.ess, whole.ess)),
            method="+".join(sorted(methods - {"exact"} or {"exact"})),
        )


def _effort(tolerance: float, relative: float, samples: int) -> Effort:
    for name, value in (("tolerance", tolerance), ("relative", relative)):
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not number or not value > 0:
            raise SchemaError(message(
                f"{name}={value!r}", "a number above 0", "pass 0.01, say; inf asks for nothing"
            ))  # fmt: skip
    whole = isinstance(samples, int | np.integer) and not isinstance(samples, bool)
    if not whole or samples < 2:
        raise SchemaError(message(
            f"samples={samples!r}", "a whole number, 2 or more", "pass 100_000, say"
        ))  # fmt: skip
    return Effort(float(tolerance), float(relative), int(samples))


def _as_frame(found: Answers, index: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(
        {"value": found.value, "se": found.se, "method": found.method, "ess": found.ess},
        index=index,
    )
