"""The repair of an odd row: which one cell to change, into what, and how probable it is then."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from probgen import queries
from probgen.batch import Batch
from probgen.density import Density
from probgen.door import generator_of
from probgen.errors import SchemaError, message
from probgen.outliers.scorer import Extra, Scorer, Unseen
from probgen.table import decode, encode, to_frame

__all__ = ["repair"]

Floats = NDArray[np.float64]
#: levels of a category that are all tried; of more, those that are drawn
LEVELS = 200
#: steps of the golden section search, each of which keeps 0.62 of the stretch
STEPS, GOLDEN = 16, (math.sqrt(5) - 1) / 2
#: rows worked on at once
ROWS = 2000


def repair(
    model: Density,
    table: Any,
    candidates: int = 64,
    random_state: int = 0,
    unseen: Unseen = "error",
    extra: Extra = "error",
) -> pd.DataFrame:
    """Find the one cell of each row whose replacement raises the density most.

    Parameters
    ----------
    model : Density
        A fitted model.
    table : data frame of n rows
        Any of the fitted columns, usually the rows that `outliers` flags. Missing cells stay
        missing.
    candidates : int
        Values that are drawn for each cell, given the other cells of its row. All levels of a
        category are tried; the best of the numbers is improved by a search between its
        neighbours. The cost is `candidates` densities for each cell.
    random_state : int
        Seed of the draws.
    unseen, extra
        As in `Density.log_prob`.

    Returns
    -------
    DataFrame (n, 6)
        On the caller's index:

        ``column``
            The column to change; missing where no change of one cell raises the density.
        ``value``
            What the cell holds.
        ``repaired``
            The most probable value given the other cells: legal, of the column's own type.
        ``log_prob``, ``log_prob_after``
            Log density of the row as it is, and with the repaired value, nats, table units.
        ``gain``
            By how much the repair raises it, nats; the same in any units.

    Notes
    -----
    A proposal, not a correction: what was really measured is not known. A repaired value is
    chosen by density in the table's units, so of a skewed column it is the mode in these units.

    In a column with atoms (a spike at 0, say) the density of a number and the probability of an
    atom cannot be compared. A number is replaced by another number. For an atom the gain is that
    of changing which atom, or none, the cell holds, whatever the number is; if it should be none,
    the most probable number is filled in.

    Examples
    --------
    >>> import numpy as np, pandas as pd, probgen as pg
    >>> rng = np.random.default_rng(0)
    >>> height = rng.normal(170, 8, 300).round(1)
    >>> table = pd.DataFrame(
    ...     {"cm": height, "kg": (height - 105 + rng.normal(0, 3, 300)).round(1)}
    ... )
    >>> model = pg.GaussianMixture(1, random_state=0).fit(table)
    >>> slip = pd.DataFrame({"cm": [171.0], "kg": [660.0]})
    >>> model.repair(slip)[["column", "value", "repaired"]].round(0)
      column  value  repaired
    0     kg  660.0      66.0
    """
    if not isinstance(candidates, int | np.integer) or candidates < 2:
        raise SchemaError(message(
            f"candidates={candidates!r}", "a whole number, at least 2", "pass 64, say"
        ))  # fmt: skip
    frame = to_frame(table, model.schema_.names)
    scorer = Scorer.of(model, frame, unseen, extra)
    search = Search(scorer, int(candidates), generator_of(random_state))
    n = len(frame)
    log_prob = np.where(scorer.impossible_rows(), -math.inf, -scorer.surprisal())
    best = pd.DataFrame(
        {"column": None, "value": None, "repaired": None, "log_prob": log_prob,
         "log_prob_after": log_prob, "gain": 0.0},
        index=pd.RangeIndex(n),
    ).astype({"column": object, "value": object, "repaired": object})  # fmt: skip
    for name in frame.columns:
        if name not in model.schema_.number:
            continue
        rows, values, after, gain = search.column(name, frame[name].notna().to_numpy())
        better = gain > best["gain"].to_numpy()[rows]
        rows = rows[better]
        best.loc[rows, ["log_prob_after", "gain"]] = np.stack([after, gain], 1)[better]
        for key, cells in (("value", frame[name].astype(object).to_numpy()[rows]),
                           ("repaired", values[better])):  # fmt: skip
            best.loc[rows, key] = pd.Series(cells, index=rows, dtype=object)
        labels = np.empty(len(rows), dtype=object)
        labels[:] = [name] * len(rows)
        best.loc[rows, "column"] = pd.Series(labels, index=rows, dtype=object)
    for key in ("value", "repaired"):  # numbers alone are numbers, not objects
        best[key] = best[key].infer_objects()
    return best.set_axis(frame.index)


class Search:
    """The best value of one column in each row, given the other cells."""

    def __init__(self, scorer: Scorer, candidates: int, generator: torch.Generator) -> None:
        self.scorer, self.model = scorer, scorer.model
        self.candidates, self.generator = candidates, generator
        self.schema = scorer.model.schema_

    def column(
        self, name: Hashable, filled: NDArray[np.bool_]
    ) -> tuple[NDArray[np.intp], NDArray[np.object_], Floats, Floats]:
        """(rows, values, log density after, gain) of the rows in which a change may help."""
        bad = self.scorer.impossible
        elsewhere = np.zeros(len(self.scorer), dtype=bool)
        for other, wrong in bad.items():
            if other != name:
                elsewhere |= wrong  # stays of density 0 whatever this cell holds
        rows = np.flatnonzero(filled & ~elsewhere)
        slots = self.schema.slots_of([name])
        if not slots:  # a constant: its one value, where the cell holds another
            rows = rows[bad.get(name, np.zeros_like(elsewhere))[rows]]
        parts = [self._part(name, slots, rows[i : i + ROWS]) for i in range(0, len(rows), ROWS)]
        if not parts:
            return rows, np.empty(0, dtype=object), np.zeros(0), np.zeros(0)
        values, after, gain = (np.concatenate(part) for part in zip(*parts, strict=True))
        return rows, values, after, gain

    def _part(
        self, name: Hashable, slots: list[int], rows: NDArray[np.intp]
    ) -> tuple[NDArray[np.object_], Floats, Floats]:
        part = self.scorer.take(rows)
        batch, wrong = part.batch, part.impossible_rows()
        x, gain = queries.encoded(batch).clone(), np.full(len(rows), math.nan)
        if len(slots) == 2:
            gain = self._atoms(batch, x, slots, wrong)
        elif slots:
            place, slot = slots[0], self.schema.slots[slots[0]]
            if slot.kind == "category" and slot.size <= LEVELS:
                x[:, place] = self._level(batch, place)[0]
            else:
                x[:, place] = self._number(batch, x, place)
        seen = torch.zeros_like(batch.seen)
        seen[:, slots] = True
        if len(slots) == 2:
            seen[:, slots[1]] = x[:, slots[0]] == 0
        decoded = decode(x.cpu().numpy(), self.schema, None, seen.cpu().numpy())[[name]]
        own = encode(decoded, self.schema)  # the legal value itself, rounded as it is written
        x[:, slots] = torch.from_numpy(own.x[:, slots]).to(x)
        seen = batch.seen.clone()
        seen[:, slots] = torch.from_numpy(own.seen[:, slots]).to(seen.device)
        after = self._log_density(batch, x, seen).cpu().numpy()
        before = np.where(wrong, -math.inf, -part.surprisal())
        with np.errstate(invalid="ignore"):
            gain = np.where(np.isnan(gain), after - before, gain)
        return decoded[name].astype(object).to_numpy(), after, np.where(np.isnan(gain), 0.0, gain)

    def _atoms(
        self, batch: Batch, x: Tensor, slots: list[int], wrong: NDArray[np.bool_]
    ) -> Floats:
        """Fill x of a column with atoms; the gains (n,) of atoms, NaN where a number stays."""
        code, real = slots
        atom = batch.seen[:, code] & (x[:, code] > 0)
        hidden = batch.seen.clone()
        hidden[:, real] = False
        level, gained = self._level(replace(batch, seen=hidden, key=None, complete=False), code)
        x[:, code] = torch.where(atom, level, 0.0)
        number = (x[:, code] == 0).nonzero()[:, 0]
        known = hidden[number].clone()
        known[:, code] = True
        part = replace(batch.take(number), x=x[number], seen=known, key=None, complete=False)
        x[number, real] = self._number(part, x[number], real)
        x[atom & (x[:, code] > 0), real] = 0.0
        return np.where(atom.cpu().numpy() & ~wrong, gained.cpu().numpy(), math.nan)

    def _level(self, batch: Batch, place: int) -> tuple[Tensor, Tensor]:
        """The most probable code (n,) of a slot, and what it gains over the present one."""
        slot = self.schema.slots[place]
        size = slot.size - slot.reserved
        x, seen = queries.encoded(batch).clone(), batch.seen.clone()
        seen[:, place] = True
        logs = []
        for code in range(size):
            x[:, place] = code
            logs.append(self._log_density(batch, x, seen))
        found = torch.stack(logs)
        top, level = found.max(0)
        return level.to(x), top - self._log_density(batch, queries.encoded(batch), batch.seen)

    def _number(self, batch: Batch, x: Tensor, place: int) -> Tensor:
        """The best value (n,) of a slot of numbers: the best of some draws, then a search."""
        n = len(batch)
        if not n:
            return x[:, place]
        whole = self.schema.slots[place].kind == "count"
        hidden = batch.seen.clone()
        hidden[:, place] = False
        rows = torch.arange(n, device=hidden.device).repeat_interleave(self.candidates)
        empty = torch.where(hidden, queries.encoded(batch), 0.0)
        own = replace(batch, x=empty, seen=hidden, key=None, complete=False)
        drawn = torch.from_numpy(self.model._draw(own.take(rows), self.generator)).to(x)
        values = drawn[:, place].view(n, -1).sort(1).values

        def height(u: Tensor) -> Tensor:
            return self._heights(own, place, u.round() if whole else u)

        logs = height(values)
        at = logs.argmax(1, keepdim=True)
        low = values.gather(1, (at - 1).clamp_min(0))[:, 0]
        high = values.gather(1, (at + 1).clamp_max(values.shape[1] - 1))[:, 0]
        top, best = logs.gather(1, at)[:, 0], values.gather(1, at)[:, 0]
        for _ in range(STEPS):
            left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
            below, above = height(torch.stack([left, right], 1)).unbind(1)
            for u, value in ((left, below), (right, above)):
                best, top = torch.where(value > top, u, best), torch.maximum(value, top)
            rising = below < above
            low, high = torch.where(rising, left, low), torch.where(rising, high, right)
        return best.round() if whole else best

    def _heights(self, batch: Batch, place: int, values: Tensor) -> Tensor:
        """Log density (n, k) of the rows with each of k values (n, k) in a slot."""
        n = len(values)
        step = max(1, ROWS // n)  # few calls for few rows: a call has a cost of its own
        found = []
        for some in values.split(step, 1):
            rows = torch.arange(n, device=values.device).repeat_interleave(some.shape[1])
            part = batch.take(rows)
            x, seen = queries.encoded(part).clone(), part.seen.clone()
            x[:, place], seen[:, place] = some.reshape(-1), True
            found.append(self._log_density(part, x, seen).view(n, -1))
        return torch.cat(found, 1)

    def _log_density(self, batch: Batch, x: Tensor, seen: Tensor) -> Tensor:
        """Log density (n,) of the rows of a batch with other cells, nats, table units."""
        own = replace(batch, x=torch.where(seen, x, 0.0), seen=seen, key=None, complete=False)
        with torch.no_grad():
            value = queries.log_prob(self.scorer.predictive, own).value.double()
            return value + self.schema.log_det(queries.encoded(own), seen)
