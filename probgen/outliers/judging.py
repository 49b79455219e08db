"""Rows beside rows that a model draws: how surprising they are, and which cells are to blame."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probgen.density import Density
from probgen.outliers.conformal import at_least
from probgen.outliers.scorer import Scorer, patterns
from probgen.verbs.base import doubt

__all__ = ["Findings", "blame", "joined", "judge"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Places = NDArray[np.intp]
#: fresh rows that say what is usual for a column, at most: their mean is good to a tenth of a nat
USUAL = 500
#: rows that a model with context columns draws in the context of each row
IN_CONTEXT = 200


@dataclass
class Findings:
    """What a model says of some rows: (n,) each, and `excess` (n, columns)."""

    surprisal: Floats
    tail: Floats
    far: Floats
    excess: Floats
    names: list[Hashable]
    impossible: dict[Hashable, Bools]
    #: the smallest tail probability that a row can have
    least: float


def judge(scorer: Scorer, frame: pd.DataFrame, samples: int, random_state: int) -> Findings:
    """Rows beside fresh rows that the model draws, pattern by pattern of their holes."""
    model, n = scorer.model, len(scorer)
    fresh = _Fresh.of(model, frame, samples, random_state)
    surprisal, tail, far, khat = np.zeros(n), np.ones(n), np.zeros(n), np.full(n, math.nan)
    excess = np.full((n, len(scorer.names)), -math.inf)
    for seen, rows in patterns(scorer.seen()):
        own, usual = scorer.take(rows), fresh.showing(seen, rows)
        surprisal[rows], khat[rows] = own.scored()
        reference = fresh.by_row(usual.surprisal())
        tail[rows] = (1 + _as_large(surprisal[rows], reference)) / (1 + fresh.count)
        spread = reference.std(1) if seen.any() else np.zeros(1)
        far[rows] = (surprisal[rows] - reference.mean(1)) / np.maximum(spread, 1e-12)
        if seen.any():
            places = np.flatnonzero(seen)
            few = usual if fresh.own else usual.take(slice(0, USUAL))
            mean = fresh.by_row(few.given_others(places)).mean(-1)
            excess[np.ix_(rows, places)] = (own.given_others(places) - mean).T
    doubt(torch.from_numpy(khat), False, "surprisals")
    for bad in scorer.impossible.values():
        surprisal[bad], tail[bad], far[bad] = math.inf, 1 / (1 + fresh.count), math.inf
    least = 1 / (1 + fresh.count)
    return Findings(surprisal, tail, far, excess, scorer.names, scorer.impossible, least)


@dataclass
class _Fresh:
    """Rows that a model draws for comparison: the same for all rows, or in the context of each.

    `count` of them belong to one row. With context, `own` is True and row i has those from
    i * count on.
    """

    scorer: Scorer
    count: int
    own: bool

    @classmethod
    def of(cls, model: Density, frame: pd.DataFrame, samples: int, seed: int) -> _Fresh:
        names = [c.name for c in model.schema_.columns if c.role == "context"]
        if not names:
            drawn = model.sample(samples, random_state=seed)
            return cls(Scorer.of(model, drawn), samples, False)
        count = min(samples, IN_CONTEXT)
        held = frame[[name for name in names if name in frame]].reset_index(drop=True)
        drawn = model.sample(count, given=held, random_state=seed).reset_index(drop=True)
        return cls(Scorer.of(model, drawn), count, True)

    def showing(self, seen: Bools, rows: Places) -> Scorer:
        """Those to compare some rows with, only some columns seen."""
        if not self.own:
            return self.scorer.showing(seen)
        at = rows[:, None] * self.count + np.arange(self.count)
        return self.scorer.take(at.reshape(-1)).showing(seen)

    def by_row(self, values: Floats) -> Floats:
        """Values (..., r * count) as (..., r, count); r is 1 where all rows share theirs."""
        width = self.count if self.own else values.shape[-1]
        return values.reshape(*values.shape[:-1], -1, width)


def _as_large(scores: Floats, reference: Floats) -> NDArray[np.int64]:
    """How many reference scores (1 or n, c) are as large as each score (n,), ties included."""
    if len(reference) == 1:
        return at_least(scores, reference[0])
    pairs = zip(scores, reference, strict=True)
    return np.array([at_least(score[None], own)[0] for score, own in pairs], dtype=np.int64)


def joined(parts: list[tuple[Places, Findings]]) -> Findings:
    """The findings of disjoint parts of a table, in its order."""
    n, first = sum(len(rows) for rows, _ in parts), parts[0][1]
    excess = np.zeros((n, len(first.names)))
    zeros = np.zeros(n), np.zeros(n), np.zeros(n)
    whole = Findings(*zeros, excess, first.names, {}, first.least)
    for rows, part in parts:
        whole.surprisal[rows], whole.tail[rows] = part.surprisal, part.tail
        whole.far[rows], whole.excess[rows] = part.far, part.excess
        for name, bad in part.impossible.items():
            whole.impossible.setdefault(name, np.zeros(n, dtype=bool))[rows] = bad
    return whole


def blame(excess: Floats, names: list[Hashable]) -> tuple[NDArray[np.object_], Floats]:
    """The column of the largest excess of each row, and that excess."""
    n = len(excess)
    if not names:
        return np.full(n, None, dtype=object), np.full(n, np.nan)
    worst, at = excess.max(1), excess.argmax(1)
    none = worst == -math.inf
    labels = np.empty(len(names), dtype=object)
    labels[:] = names
    culprit = labels[at]
    culprit[none] = None
    worst[none] = math.nan
    return culprit, worst
