"""Holes filled: by one value each, or by draws from which uncertainty can be pooled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from probgen import queries
from probgen.batch import Batch
from probgen.conditionals import Conditionals, Levels, from_draws, mixed
from probgen.door import generator_of
from probgen.errors import SchemaError, message, warn
from probgen.family import Draws, Family
from probgen.frames import keep_seen
from probgen.queries import Predictive
from probgen.table import encode, to_frame
from probgen.verbs.base import Asked, Extra, Unseen, doubt
from probgen.verbs.centres import Centre, fill_centres, plan
from probgen.verbs.shifts import Delta, Shifts, shifts_of

__all__ = ["Imputing"]

Complete: TypeAlias = Callable[[Batch, torch.Generator], torch.Tensor]

#: rows whose cells are worked out together, and draws a cell where a family has no closed form
ROWS, DRAWS = 1024, 400
#: copies at most of a row that is drawn anew under a tilt
COPIES = 256


class Imputing(Asked):
    """The verb that fills holes."""

    def impute(
        self,
        table: Any,
        draws: int | None = None,
        random_state: int | None = None,
        centre: Centre = "auto",
        delta: Delta = None,
        strict: bool = False,
        unseen: Unseen = "error",
        extra: Extra = "error",
    ) -> pd.DataFrame | list[pd.DataFrame]:
        """Fill the holes of a table; seen cells come back as they are.

        Without `draws` each hole gets the centre of its distribution given the seen cells of
        its row: a good guess for each cell, but a table that varies too little and whose
        analyses look too sure. With `draws` the holes are drawn, `draws` times: analyse each
        table and `probgen.pool` the results (Rubin 1987, Multiple imputation for nonresponse
        in surveys). Each of these tables takes one posterior draw of the parameters for all its
        rows, so that the tables differ by what the fit does not know too; a family without a
        posterior draws from its density, each restart in turn.

        Parameters
        ----------
        table : data frame
            All or some of the fitted columns.
        draws : int, optional
            None fills each hole with one value; a number returns that many tables.
        random_state : int, optional
            Seed of the draws.
        centre : {"auto", "mean", "median", "mode"} or dict
            What one value is, in the table's units. "auto" goes by kind: the mean of real
            columns and dates, the median of positive, unit, bounded and count columns and of
            ordered levels, the mode of categories and booleans; of a column with atoms the
            likeliest atom, or the centre of the rest if that is likelier than any. Another
            name holds for the columns that it can be said of, a dict by column name for
            these. The value is moved to the nearest legal one (a grid, whole counts). The mean
            of a positive column leaves the outermost hundredth of each tail out: a mixture's
            has no finite one.
        delta : dict, optional
            How imputed cells differ from what the seen ones say, by column name: a number is
            added (a time span for dates), in the table's units; a function gets the imputed
            values and returns as many, ``lambda values: 0.9 * values``; for categories, booleans
            and ordered levels a dict of shifts of log odds by level. Values are kept inside the
            support, and atoms stay. With `draws` the other holes of a row are drawn anew given
            its moved cells.
        strict : bool
            Raise where a family without exact conditionals cannot draw the holes well enough,
            instead of warning.
        unseen, extra
            As in `log_prob`; foreign columns and levels come back as they are.

        Returns
        -------
        data frame, or a list of them
            On the caller's index, with the caller's columns and data types.

        Raises
        ------
        SchemaError
            For columns or levels that are unknown here, in `centre` and in `delta`, and for a
            centre or delta that does not suit a column's kind.

        Warns
        -----
        DataWarning
            For columns that were all missing at fit: nothing is known to fill them with.
        ApproximationWarning
            Where draws of a family without exact conditionals cannot be trusted.

        Examples
        --------
        >>> import probgen as pg
        >>> from probgen.datasets import penguins
        >>> table = penguins()
        >>> model = pg.GaussianMixture(3, random_state=0).fit(table)
        >>> int(table.isna().sum().sum()), int(model.impute(table).isna().sum().sum())
        (19, 0)
        >>> tables = model.impute(table, draws=5, random_state=0)
        >>> heavier = model.impute(table, 5, random_state=0, delta={"body_mass_g": 300})
        """
        check_is_fitted(self)
        whole = isinstance(draws, int | np.integer) and not isinstance(draws, bool)
        if draws is not None and not (whole and draws >= 0):
            raise SchemaError(message(f"draws={draws!r}", "a whole number, 0 or more, or None",
                                      "pass an int"))  # fmt: skip
        frame = to_frame(table, self.schema_.names)
        how = plan(self.schema_, centre)
        shifts = shifts_of(delta, self.schema_, frame.columns.tolist())
        encoded = encode(frame, self.schema_, unseen=unseen, extra=extra)
        self._warn_of_empty(frame)
        batch = self._batch(encoded, self._device)
        with torch.no_grad():
            if draws is None:
                return self._filled(self._centred(batch, how, shifts, random_state, strict), frame)
            generator = generator_of(random_state)
            sources = self._sources(int(draws), generator, strict)
            # a stream for each table: with another delta the same cells are drawn, then moved
            seeds = torch.randint(2**62, (int(draws),), generator=generator).tolist()
            return [
                self._filled(
                    self._moved(own, batch, shifts, torch.Generator().manual_seed(seed)), frame
                )
                for own, seed in zip(sources, seeds, strict=True)
            ]

    def _warn_of_empty(self, frame: pd.DataFrame) -> None:
        left_out = [c.name for c in self.schema_.columns if c.role == "empty"]
        empty = [name for name in left_out if name in frame and frame[name].isna().any()]
        if empty:
            warn(message(
                f"holes in column(s) {empty}, all missing at fit", "values to learn from",
                "these holes stay; drop the columns",
            ))  # fmt: skip

    def _filled(self, x: np.ndarray, frame: pd.DataFrame) -> pd.DataFrame:
        """The caller's frame with its holes taken from encoded rows without holes."""
        for place, slot in enumerate(self.schema_.slots):
            if slot.reserved:  # a foreign level: the caller's own cell stands there
                x[x[:, place] == slot.size - 1, place] = 0.0
        decoded = self._decode(x, frame.index)  # context columns are the caller's own
        known = [name for name in frame.columns if name in decoded]
        filled = keep_seen(decoded[known], frame[known])
        columns = {n: filled[n] if n in filled else frame[n] for n in frame.columns}
        return pd.DataFrame(columns, index=frame.index)

    # --- one value a hole -------------------------------------------------------------

    def _centred(
        self,
        batch: Batch,
        how: dict[Any, str],
        shifts: Shifts,
        random_state: int | None,
        strict: bool,
    ) -> np.ndarray:
        x = queries.encoded(batch).double().cpu().numpy().copy()
        generator = generator_of(0 if random_state is None else random_state)
        holes = (~batch.seen).any(1).nonzero()[:, 0]
        for rows in holes.split(ROWS):
            part, at = batch.take(rows), rows.cpu().numpy()
            cells = self._conditionals(part, generator, strict)
            for slot, odds in shifts.tilts.items():
                if slot in cells:
                    where, own = cells[slot]
                    assert isinstance(own, Levels)  # noqa: S101 - tilts are of labelled columns
                    tilt = odds[: own.probs.shape[1]].exp().to(own.probs.device)
                    cells[slot] = where, Levels(own.probs * tilt)
            own_x = x[at]
            fill_centres(own_x, self.schema_, cells, how)
            x[at] = own_x
        if shifts.moves:
            shifts.move(x, batch.seen.cpu().numpy(), self._decode(self._nameable(x), None))
        return x

    def _conditionals(
        self, batch: Batch, generator: torch.Generator, strict: bool
    ) -> Conditionals:
        """Each unseen cell; restarts weigh by the density of the seen cells of a row."""
        with torch.no_grad():
            each = [member.conditionals(batch) for member in self.members_]
        found = [cells for cells in each if cells is not None]
        if len(found) < len(each):
            many = torch.arange(len(batch), device=batch.seen.device).repeat(DRAWS)
            drawn = queries.draw(self._predictive(), batch.take(many), generator)
            doubt(drawn.khat.view(DRAWS, -1).amax(0), strict, "imputed values")
            x = drawn.x.view(DRAWS, *batch.seen.shape)
            return from_draws(x, self.schema_.slots, batch.seen)
        if len(found) == 1:
            return found[0]
        single = [Predictive([m], [{}]) for m in self.members_]
        logs = torch.stack([queries.log_prob(p, batch).value for p in single])
        return mixed(found, logs.softmax(0))

    # --- draws ------------------------------------------------------------------------

    def _sources(self, count: int, generator: torch.Generator, strict: bool) -> list[Complete]:
        """For each of `count` tables, what draws the unseen cells of a batch."""
        order = torch.randperm(len(self.members_), generator=generator).tolist()
        members = [order[t % len(order)] for t in range(count)]
        globals_ = {r: self._globals(r, members.count(r), generator) for r in set(members)}
        whole = self._predictive()
        return [_source(whole.of(r), globals_[r].pop(), strict) for r in members]

    def _globals(self, member: int, count: int, generator: torch.Generator) -> list[Draws]:
        """`count` posterior draws of one member's globals, each (1, ...), in random order."""
        stored = self._with_draws.draws[member]
        if not stored:
            return [{}] * count
        have = len(next(iter(stored.values())))
        if have < count:  # a guide can be asked for more, a chain may not have them
            seed = int(torch.randint(2**31, (), generator=generator))
            stored = queries.draw_globals(self.members_[member], count, seed)
            have = len(next(iter(stored.values())))
        order = torch.cat([
            torch.randperm(have, generator=generator) for _ in range(-(-count // have))
        ]).tolist()  # fmt: skip
        return [{name: v[s : s + 1] for name, v in stored.items()} for s in order[:count]]

    def _moved(
        self,
        complete: Complete,
        batch: Batch,
        shifts: Shifts,
        generator: torch.Generator,
    ) -> np.ndarray:
        """Encoded rows (n, m) without holes: drawn, tilted, shifted."""
        x = _tilted(complete, batch, shifts, generator)
        if not shifts.moves:
            return x.double().cpu().numpy()
        values, seen = x.double().cpu().numpy().copy(), batch.seen.cpu().numpy()
        moved = shifts.move(values, seen, self._decode(self._nameable(values), None))
        # the other holes of these rows are drawn given the moved cells
        again = np.flatnonzero(moved.any(1) & (~seen & ~moved).any(1))
        if len(again):
            rows = torch.from_numpy(again).to(batch.seen.device)
            part = batch.take(rows)
            now = torch.from_numpy(values[again]).to(part.seen.device)
            atoms = self.schema_.slots_of(shifts.moves)
            known = part.seen.clone()
            known[:, atoms] = True  # an atom that was drawn for a moved column stays as well
            part = replace(part, x=now.to(x.dtype), seen=known, key=None, complete=False)
            values[again] = _tilted(complete, part, shifts, generator).double().cpu().numpy()
        return values

    def _nameable(self, x: np.ndarray) -> np.ndarray:
        """Encoded rows without reserved codes, which no table can hold."""
        x = x.copy()
        for place, slot in enumerate(self.schema_.slots):
            if slot.reserved:
                x[x[:, place] == slot.size - 1, place] = 0.0
        return x


def _source(predictive: Predictive, draw: Draws, strict: bool) -> Complete:
    """What draws the unseen cells of rows from one member, its globals at one draw."""
    [member] = predictive.members

    def complete(batch: Batch, generator: torch.Generator) -> torch.Tensor:
        found = member.complete_at(batch, draw, generator) if draw else None
        if found is not None:
            return torch.where(batch.seen, queries.encoded(batch), found)
        # a family that completes rows by its density alone is taken at that
        whole = not draw or type(member).complete is not Family.complete
        one = replace(predictive, draws=[{} if whole else draw], integrated=whole)
        drawn = queries.draw(one, batch, generator)
        doubt(drawn.khat, strict, "imputed draws")
        return drawn.x

    return complete


def _tilted(
    complete: Complete,
    batch: Batch,
    shifts: Shifts,
    generator: torch.Generator,
) -> torch.Tensor:
    """Completed rows; those with tilted cells by rejection, which keeps the joint draw exact."""
    x = complete(batch, generator)
    if not shifts.tilts:
        return x
    left = shifts.open(batch.seen).nonzero()[:, 0]
    trial = x[left]
    copies = 1
    while len(left):
        seen = batch.seen[left].repeat_interleave(copies, 0)
        u = torch.rand(len(trial), generator=generator, dtype=torch.float64).to(x.device)
        kept = (u.log() < shifts.log_accept(trial, seen)).view(-1, copies)
        done, first = kept.any(1), kept.double().argmax(1)
        places = torch.arange(len(left), device=x.device) * copies + first
        x[left[done]] = trial[places[done]]
        left = left[~done]
        copies = max(1, min(COPIES, len(batch) // max(1, len(left))))
        if len(left):
            trial = complete(batch.take(left.repeat_interleave(copies)), generator)
    return x
