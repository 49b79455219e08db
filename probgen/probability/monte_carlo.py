"""Probabilities of events from draws, with standard errors."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from probgen.events import Event, both
from probgen.events.nodes import Values
from probgen.probability.answers import Answers, exact_answers, plain_rows
from probgen.probability.drawing import Conditioned, impossible, satisfied
from probgen.probability.points import is_hard
from probgen.probability.source import Rows, Source, TooHard

__all__ = ["Effort", "estimated", "estimated_given"]

Floats = NDArray[np.float64]

#: draws of the first round; each later one doubles them all
FIRST = 2_000
#: rows that are drawn at once
AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Effort:
    """When to stop drawing.

    Attributes
    ----------
    tolerance, relative : float
        The standard error that is enough: at most `tolerance`, and at most `relative` times the
        probability.
    samples : int
        Draws at most, for each row that is conditioned on.
    """

    tolerance: float = 0.002
    relative: float = 0.05
    samples: int = 100_000

    def enough(self, value: Floats, se: Floats) -> bool:
        """Whether all estimates are exact enough."""
        return bool(((se <= self.tolerance) & (se <= self.relative * value)).all())


def estimated(
    source: Source, event: Event, rows: Rows, values: Values, effort: Effort,
    generator: torch.Generator,
) -> Answers:  # fmt: skip
    """P(event given the seen cells of each of r rows): shares of draws.

    Of an exact family only the columns that resist integration are drawn, and the probability
    given them is averaged (Rao and Blackwell), so that discrete columns add no noise.
    """
    r = len(rows)
    outer = _outer(source, event, values) if source.exact else None
    sums, squares, count = np.zeros(r), np.zeros(r), 0
    size = min(FIRST, effort.samples)
    while True:
        for start in range(0, r, max(1, AT_ONCE // size)):
            part = np.arange(start, min(r, start + max(1, AT_ONCE // size)))
            each = np.repeat(part, size)
            own = {name: value[each] for name, value in values.items()}
            hits, outer = _hits(source, event, rows.take(each), own, outer, generator)
            hits = hits.reshape(len(part), size)
            sums[part] += hits.sum(1)
            squares[part] += np.square(hits).sum(1)
        count += size
        value = sums / count
        se = _standard_error(value, squares / count, count, outer is None)
        size = min(count, effort.samples - count)
        if size <= 0 or effort.enough(value, se):
            return Answers(value, se, "monte carlo", np.full(r, float(count)))


def _standard_error(value: Floats, square: Floats, count: int, counted: bool) -> Floats:
    """Of a mean; of a share that is 0 or 1, as if half a draw had gone the other way."""
    # so too where the probability given each draw was 0, or 1: that says no more than a count
    alike = (square <= 0.0) | (square >= 1.0) | counted
    clipped = np.clip(value, 0.5 / count, 1 - 0.5 / count)
    value, square = np.where(alike, clipped, value), np.where(alike, clipped, square)
    return np.sqrt(np.maximum(square - value**2, 0.0) / max(1, count - 1))


def _outer(source: Source, event: Event, values: Values) -> list[int] | None:
    """Slots of the columns that are drawn, or None to draw whole rows."""
    free = [source.schema[n] for n in event.columns if n not in values]
    hard = [c.name for c in free if c.role == "modelled" and is_hard(event, c)]
    discrete = [c for c in free if c.role == "modelled" and c.labelled]
    if not discrete or not hard:
        return None
    return source.schema.slots_of(hard)


def _hits(
    source: Source, event: Event, rows: Rows, values: Values, outer: list[int] | None,
    generator: torch.Generator,
) -> tuple[Floats, list[int] | None]:  # fmt: skip
    """The probability of the event given each draw, 0 or 1 where whole rows are drawn."""
    x = source.completed(rows, generator)
    if outer is not None:
        seen = rows.seen.copy()
        seen[:, outer] = True
        drawn = Rows(np.where(seen, x, 0.0), seen, rows.context)
        own = _merged(plain_rows(source, event, drawn.x, seen), values)
        try:
            return exact_answers(source, event, drawn, own).value, outer
        except TooHard:
            outer = None
    return _holds(source, event, x, values).astype(np.float64), outer


def _holds(source: Source, event: Event, x: Floats, values: Values) -> NDArray[np.bool_]:
    """Whether drawn rows satisfy the event; columns that are given count as they were given."""
    found = _merged(plain_rows(source, event, x, np.ones(x.shape, bool)), values)
    return np.broadcast_to(event.holds(found)[0], len(x))


def _merged(found: dict[Hashable, Floats], values: Values) -> dict[Hashable, Floats]:
    """Plain values as they were given, and as they were drawn elsewhere."""
    for name, value in values.items():
        found[name] = np.where(np.isnan(value), found.get(name, np.nan), value)
    return found


def estimated_given(
    source: Source, event: Event, given: Event, part: Conditioned, effort: Effort,
    generator: torch.Generator,
) -> Answers:  # fmt: skip
    """P(event given another event): among draws that satisfy the one, the share of the other.

    Rows are drawn given the part of the condition that can be drawn exactly.

    Raises
    ------
    SchemaError
        If no draw satisfies the condition.
    """
    if part.probability <= 0:
        raise impossible(given)
    joint = both(event, given)
    hits = conditions = count = 0
    size = min(FIRST, effort.samples)
    while size > 0:
        for start in range(0, size, AT_ONCE):
            rows = part.columns(source, min(AT_ONCE, size - start), generator)
            x = source.completed(rows, generator)
            hits += int(satisfied(source, joint, x).sum())
            conditions += int(satisfied(source, given, x).sum())
        count += size
        size = min(count, effort.samples - count)
        if conditions:
            value = np.array([hits / conditions])
            se = _standard_error(value, value, conditions, True)
            if size <= 0 or effort.enough(value, se):
                return Answers(value, se, "monte carlo", np.array([float(conditions)]))
    raise impossible(given, count)
