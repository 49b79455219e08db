"""Rows given an event: the event's columns drawn exactly, or by bounded rejection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.polynomial import legendre
from numpy.typing import NDArray

from probgen.columns import Column
from probgen.errors import SchemaError, message
from probgen.events import Event, both
from probgen.probability.along import relative
from probgen.probability.answers import known, plain_rows
from probgen.probability.mass import Pieces, pieces, summed
from probgen.probability.points import is_hard
from probgen.probability.quadrature import NODES
from probgen.probability.source import Rows, Source, TooHard

__all__ = ["Conditioned", "conditioned", "draw_rows"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

#: rows that are tried before the event is given up, and as a multiple of those asked for
TRIES, PER_ROW = 500_000, 50
#: rows of a try
BATCH = 1 << 15
#: bound of a density over the polynomial that proposes its whole numbers
BOUND = 1.1
#: coefficients of the polynomial through the nodes: rows are Legendre polynomials
_LEGENDRE = np.linalg.inv(legendre.legvander(NODES, len(NODES) - 1))


@dataclass
class Conditioned:
    """The part of an event that is drawn exactly.

    Attributes
    ----------
    event : Event
        The part; every row drawn by `columns` satisfies it.
    pieces : Pieces or None
        What its columns are drawn from; None if nothing is.
    probability : float
        Of the part.
    """

    event: Event | None
    pieces: Pieces | None
    probability: float

    def columns(self, source: Source, n: int, generator: torch.Generator) -> Rows:
        """n rows with the part's columns seen."""
        return source.none(n) if self.pieces is None else draw(source, self.pieces, n, generator)


def conditioned(source: Source, event: Event) -> Conditioned:
    """The part of an event with the smallest probability that can be drawn exactly.

    Candidates are, for each column that is integrated, the conjuncts with no other such
    column: discrete columns join any of them.
    """
    nothing = Conditioned(None, None, 1.0)
    if not source.exact:
        return nothing
    parts = event.conjuncts
    hard = [
        source.schema[name] for name in event.columns
        if is_hard(event, source.schema[name]) and source.schema[name].role == "modelled"
    ]  # fmt: skip
    counts = [c for name in event.columns if (c := source.schema[name]).kind == "count"
              and c not in hard and c.role == "modelled"]  # fmt: skip
    best = nothing
    for along in [None, *hard, *counts]:
        others = {column.name for column in hard if column is not along}
        without = {column.name for column in counts if column is not along}
        for left in (others, others | without):
            chosen = [part for part in parts if not left & set(part.columns)]
            if not chosen or (along and along.name not in both(*chosen).columns):
                continue
            found = _part(source, both(*chosen), along)
            if found is not None:
                best = found if found.probability < best.probability else best
                break
    return best


def _part(source: Source, event: Event, along: Column | None) -> Conditioned | None:
    rows = source.none()
    fixed = known(event, {}, 1)
    try:
        made = pieces(source, event, rows, fixed, source.log_prob(rows), along, whole=True)
    except TooHard:
        return None
    return Conditioned(event, made, float(summed(made, 1).value[0]))


def draw(source: Source, made: Pieces, n: int, generator: torch.Generator) -> Rows:
    """n rows with the columns of the pieces seen, drawn by their masses."""
    mass = made.factor * made.mass
    panels = made.panels
    if panels is not None:
        mass = np.concatenate([mass, np.maximum(panels.factor * panels.value, 0.0)])
    steps = np.cumsum(mass)
    u = torch.rand(2, n, generator=generator, dtype=torch.float64).numpy()
    piece = np.searchsorted(steps, u[0] * steps[-1], side="right").clip(max=len(mass) - 1)
    cells = len(made.factor)
    cell = piece.copy()
    along = piece >= cells
    if panels is not None and made.axis is not None and along.any():
        at = piece[along] - cells
        cell[along] = panels.cell[at]
        rows = made.rows.take(cell)
        rows.x[along, made.slot] = _inside(source, made, at, u[1, along], generator)
        rows.seen[along, made.slot] = True
        return rows
    return made.rows.take(cell)


def _inside(
    source: Source, made: Pieces, at: Ints, u: Floats, generator: torch.Generator
) -> Floats:
    """Encoded values (k,) in panels `at` by the inverse distribution function at u."""
    panels, axis = made.panels, made.axis
    if panels is None or axis is None:
        raise TypeError("pieces without panels")
    low, high, height = panels.low[at], panels.high[at], panels.height[at]
    if not axis.whole:
        place = _inverse(_integral(height), u)
        return axis.encoded(low + (high - low) * (place + 1) / 2)
    steps = np.cumsum(np.where(np.arange(len(NODES)) < (high - low)[:, None], height, 0), 1)
    place = (steps < u[:, None] * steps[:, -1:]).sum(1)
    value = low + 0.5 + np.minimum(place, high - low - 1)
    todo = np.flatnonzero(high - low > len(NODES))
    while len(todo):  # rounded draws from a polynomial, put right by rejection
        fresh, share = _rounded(height[todo], low[todo], high[todo], generator)
        rows = made.rows.take(panels.cell[at[todo]])
        rows.put(made.slot, fresh)
        ratio = relative(source, rows, np.zeros(len(todo))) / np.maximum(share, 1e-300)
        accept = torch.rand(len(todo), generator=generator, dtype=torch.float64).numpy()
        good = accept * BOUND <= ratio
        value[todo[good]] = fresh[good]
        todo = todo[~good]
    return value


def _rounded(
    height: Floats, low: Floats, high: Floats, generator: torch.Generator
) -> tuple[Floats, Floats]:
    """Whole numbers (k,) of wide panels, and their probability times the panel's total."""
    u = torch.rand(len(low), generator=generator, dtype=torch.float64).numpy()
    integral, half = _integral(height), (high - low) / 2
    value = np.rint(low + half * (_inverse(integral, u) + 1))
    value = np.clip(value, low + 0.5, high - 0.5)
    ends = [legendre.legval((value + side - low) / half - 1, integral, tensor=False)
            for side in (-0.5, 0.5)]  # fmt: skip
    return value, (ends[1] - ends[0]) * half


def _integral(height: Floats) -> Floats:
    """Coefficients (16, k) of the integral from -1 of the polynomials through heights (k, 15)."""
    return np.asarray(legendre.legint(_LEGENDRE @ height.T, lbnd=-1))


def _inverse(integral: Floats, u: Floats) -> Floats:
    """Places (k,) in (-1, 1) where integrals reach the share u of their whole."""
    whole = legendre.legval(np.ones(1), integral)[:, 0]
    low, high = np.full(len(u), -1.0), np.full(len(u), 1.0)
    for _ in range(52):
        middle = (low + high) / 2
        below = legendre.legval(middle, integral, tensor=False) < u * whole
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def draw_rows(
    source: Source,
    event: Event,
    n: int,
    generator: torch.Generator,
    conditioned_: Conditioned,
    check: Callable[[Floats], NDArray[np.bool_]],
) -> Floats:
    """Encoded rows (n, m) that satisfy the event, or an error in bounded time.

    Parameters
    ----------
    source : Source
    event : Event
    n : int
    generator : torch.Generator
    conditioned_ : Conditioned
    check : callable
        Which encoded rows satisfy the event as they would be written.
    """
    if conditioned_.probability <= 0:
        raise impossible(event)
    kept: list[Floats] = []
    have = tried = 0
    limit = max(TRIES, PER_ROW * n)
    while have < n and tried < limit:
        # by the rate so far; while there is none, twice as many at each turn
        want = (n - have) * tried / have * 1.1 if have else max(1.1 * n, tried)
        size = int(min(want + 16, BATCH, limit - tried))
        rows = conditioned_.columns(source, size, generator)
        x = source.completed(rows, generator)
        good = x[check(x)]
        kept.append(good)
        have, tried = have + len(good), tried + size
        if tried >= TRIES and not have:
            break
    if have < n:
        raise _too_rare(event, conditioned_, have, tried, n)
    x = np.concatenate(kept) if kept else np.zeros((0, len(source.schema.slots)))
    return x[:n]


def impossible(event: Event, tried: int = 0) -> SchemaError:
    """The error for an event of probability 0, or one that no draw satisfies."""
    found = f"none of {tried:,} draws in the event" if tried else "probability 0 of the event"
    return SchemaError(message(
        f"{found} {event.text!r} as given", "an event that can happen",
        "correct it; a value of a real column is conditioned on by a dict: given={'x': 1.5}",
    ))  # fmt: skip


def _too_rare(event: Event, part: Conditioned, have: int, tried: int, n: int) -> SchemaError:
    share = have / tried if have else 3 / tried
    about = "about" if have else "at most"
    exact = "" if part.event is None else (
        f" (of which the part {part.event.text!r} is exact: {part.probability:.3g})"
    )  # fmt: skip
    return SchemaError(message(
        f"{have} of {n} rows after {tried:,} tries: the event {event.text!r} has a probability "
        f"of {about} {share * part.probability:.2g}{exact}",
        "an event of larger probability, or one in which each condition is on one real column",
        "ask for fewer rows, or loosen the event",
    ))  # fmt: skip


def satisfied(source: Source, event: Event, x: Floats) -> NDArray[np.bool_]:
    """Which encoded rows without holes satisfy the event."""
    values = plain_rows(source, event, x, np.ones(x.shape, bool))
    return np.broadcast_to(event.holds(values)[0], len(x))
