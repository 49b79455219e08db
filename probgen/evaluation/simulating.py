"""Simulation-based calibration: truths from the prior, refits, and the ranks of the truths."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from torch import Tensor
from tqdm.auto import tqdm

from probgen.batch import Batch
from probgen.density import Density
from probgen.diagnostics.chains import effective_size
from probgen.diagnostics.posterior import kind, log_sites, posterior
from probgen.errors import FitError, NotSupported, ProbgenError, SchemaError, message, warn
from probgen.evaluation.quantities import LOOKED, Quantities, Quantity
from probgen.evaluation.simulations import NOMINAL, Simulations
from probgen.evaluation.truths import Tables, Truth, Unwritable, simulated_schema
from probgen.family import Draws, Family
from probgen.frames import to_frame
from probgen.queries.contraction import global_sites, traced
from probgen.queries.draws import one_draw
from probgen.queries.intervals import quantiles
from probgen.schema import Schema
from probgen.session import guarded, spawn_seeds
from probgen.table import encode

__all__ = ["calibrate"]

Floats = NDArray[np.float64]
#: truths that are drawn for a table that a data frame can hold, before a simulation is given up
TRIES = 20
#: rows fixed beforehand whose log density is ranked
POINTS = 2
#: simulations in which it is looked whether the prior of the fit is that of the truth
COMPARED = 3
#: fits that may fail before it is said that few are left
FEW = 0.5


def calibrate(
    model: Density,
    simulations: int = 100,
    table: Any = None,
    rows: int | None = None,
    quantities: Mapping[str, Quantity] | None = None,
    random_state: int = 0,
    progress: bool = False,
    fit: Mapping[str, Any] | None = None,
) -> Simulations:
    """Rank truths from the prior of a model among the draws of refits.

    See `Density.calibrate`, which hands over to this function.
    """
    _check(model, simulations, rows)
    with warnings.catch_warnings():
        # of hundreds of fits to simulated tables; what matters is counted in the result
        warnings.simplefilter("ignore")
        run = _Run.of(model, table, rows, quantities or {}, random_state, dict(fit or {}))
        clock = time.perf_counter()
        found: dict[int, _Outcome] = {}
        try:
            for number in tqdm(
                range(int(simulations)), unit="fit", disable=not progress, leave=False
            ):
                found[number] = run.simulate(number)
        except KeyboardInterrupt:
            if len(found) < 2:
                raise
        seconds = time.perf_counter() - clock
    return run.gathered(found, int(simulations), seconds)


def _check(model: Density, simulations: int, rows: int | None) -> None:
    asked = {"simulations": simulations} | ({} if rows is None else {"rows": rows})
    for name, value in asked.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 2:
            raise SchemaError(message(
                f"{name}={value!r}", "a whole number, 2 or more", f"change {name}"
            ))  # fmt: skip
    if kind(model) == "none":
        raise NotSupported(message(
            f"a {type(model).__name__} without posterior draws", "a family with priors over its "
            "parameters, and draws of their posterior",
            "judge it by held-out log density: score, check, or compare",
        ))  # fmt: skip
    if kind(model) == "parts":
        raise NotSupported(message(
            f"a {type(model).__name__}, whose parts have a posterior each", "one prior, from "
            "which tables can be generated, and its posterior",
            "calibrate each part on its own",
        ))  # fmt: skip


@dataclass(frozen=True)
class _Outcome:
    """Of one simulation: ranks and coverage (Q,), or why there are none."""

    ranks: NDArray[np.int64] | None = None
    covered: NDArray[np.bool_] | None = None
    converged: bool = True
    source: str = ""
    redrawn: int = 0
    moved: frozenset[str] = frozenset()
    why: str = ""
    site: str = ""


@dataclass(frozen=True)
class _Run:
    """What all simulations share."""

    model: Density
    schema: Schema
    tables: Tables
    given: list[Hashable]
    quantities: Quantities
    seed: int
    fit: dict[str, Any]
    source: str
    draws: int

    @classmethod
    def of(
        cls, model: Density, table: Any, rows: int | None, own: Mapping[str, Quantity],
        seed: int, fit: dict[str, Any],
    ) -> _Run:  # fmt: skip
        schema = model.schema_
        given = [c.name for c in schema.columns if c.role == "context"]
        frame = None if table is None else to_frame(table, schema.names)
        context = _context(model, frame, given, rows)
        reserves = bool(model._traits.reserves) and any(slot.reserved for slot in schema.slots)
        simulated = simulated_schema(schema, reserves)
        blank = _blank(model, context, simulated)
        member = model.members_[0]
        if reserves or len(context) != _fitted_rows(model):
            # a prior may go by the number of rows, and by the number of levels
            drawn = _rows_of(model, context, given, seed)
            member = _refit(model, simulated, drawn, given, seed, fit).members_[0]
        tables = Tables(member, simulated, blank, context, _holes(frame, context, schema))
        prior = _prior(member, blank, seed)
        points = _points(model, simulated, frame, context, given, seed)
        found = Quantities.of(member, prior, own, points)
        count = len(posterior(model))
        return cls(model, simulated, tables, given, found, seed, fit, kind(model), count)

    # --- one simulation ---------------------------------------------------------------------

    def simulate(self, number: int) -> _Outcome:
        """One truth, its table, the refit, and the rank of the truth; by its number alone."""
        first, second, third = spawn_seeds([self.seed, 1, number], 3)
        why: list[Unwritable] = []
        truth: Truth | None = None
        for own in spawn_seeds(first, TRIES):
            try:
                truth = self.tables.draw(own)
                break
            except Unwritable as error:
                why.append(error)
        if truth is None:
            return _Outcome(why=str(why[0]), site=why[0].site, redrawn=len(why))
        try:
            refit = _refit(self.model, self.schema, truth.table, self.given, second, self.fit)
            outcome = self._ranked(truth, refit, np.random.default_rng(third))
        except NotSupported:  # of any table: not a failure of this fit
            raise
        except (ProbgenError, ArithmeticError, RuntimeError, ValueError) as error:
            return _Outcome(why=f"{type(error).__name__}: {_first_line(error)}", redrawn=len(why))
        moved = self._moved(truth, refit) if number < COMPARED else frozenset()
        return replace(outcome, redrawn=len(why), moved=moved)

    def _ranked(self, truth: Truth, refit: Density, rng: np.random.Generator) -> _Outcome:
        encoded = encode(truth.table, self.schema)
        batch = refit._batch(encoded, refit._device)
        held = posterior(refit)
        true = replace(held, members=[self.tables.member], draws=[truth.globals], integrated=False)
        draws = self.quantities.values(held, batch)
        value = self.quantities.values(true, batch)[0]
        covered = []
        ordered = torch.from_numpy(np.sort(draws, 0))
        for level in NOMINAL:
            lower, upper = (end.numpy() for end in quantiles(ordered, level))
            covered.append((value >= lower) & (value <= upper))
        source = kind(refit)
        chained = source in ("sampler", "nuts")
        steps = _steps(draws, len(held.members)) if chained else np.ones(len(value), int)
        ranks = np.array([
            -1 if math.isnan(value[q]) or np.isnan(draws[:, q]).any()
            else _rank(value[q], draws[:: steps[q], q], self.draws, rng)
            for q in range(len(value))
        ])  # fmt: skip
        return _Outcome(ranks, np.stack(covered), bool(refit.converged_), source)

    def _moved(self, truth: Truth, refit: Density) -> frozenset[str]:
        """Global sites whose prior in the fit is another one than that of the truth."""
        values = one_draw(truth.globals, 0)
        one = self.tables.blank.take(slice(0, 1))
        with torch.no_grad(), guarded(0):
            before = log_sites(self.tables.member.model, one, values)
            own = global_sites(traced(refit.members_[0].model, one, {}))
            same = {
                name: value for name, value in values.items()
                if name in own and own[name]["value"].shape == value.shape
            }  # fmt: skip
            after = log_sites(refit.members_[0].model, one, same)
            after = {name: value for name, value in after.items() if name in same}
        return frozenset(
            name for name, value in before.items()
            if name not in after or abs(float(value - after[name])) > 1e-6 * (1 + abs(value))
        )  # fmt: skip

    # --- all of them ------------------------------------------------------------------------

    def gathered(self, found: dict[int, _Outcome], asked: int, seconds: float) -> Simulations:
        """The ranks of all simulations, or an error where hardly any gave a fit."""
        sound = {i: one for i, one in found.items() if one.ranks is not None}
        failed = {i: one.why for i, one in found.items() if one.ranks is None}
        if len(sound) < 2 or len(failed) > FEW * len(found):
            self._complain(found, failed, fatal=len(sound) < 2)
        index = pd.Index(list(sound), name="simulation")
        names = pd.Index(self.quantities.names, name="quantity")
        ranks = pd.DataFrame(np.stack([_held(one.ranks) for one in sound.values()]), index, names)
        moved = frozenset[str]().union(*(one.moved for one in found.values()))
        whole = (ranks >= 0).all() & ~names.isin(self.quantities.of_sites(moved))
        covered = np.stack([_held(one.covered) for one in sound.values()])
        return Simulations(
            ranks.loc[:, whole], self.draws,
            {
                level: pd.DataFrame(covered[:, i], index, names).loc[:, whole]
                for i, level in enumerate(NOMINAL)
            },
            len(self.tables.blank), repr(self.model), failed,
            sum(not one.converged for one in sound.values()),
            self._notes(found, asked, moved), seconds,
        )  # fmt: skip

    def _complain(self, found: dict[int, _Outcome], failed: dict[int, str], fatal: bool) -> None:
        reasons = pd.Series(list(failed.values())).value_counts()
        sites = pd.Series([one.site for one in found.values() if one.site]).value_counts()
        do = "fit by hand to a table that the model draws, and see why"
        if len(sites):
            do = f"give site {sites.index[0]!r} a narrower prior"
        text = message(
            f"{len(failed)} of {len(found)} simulations without a fit, most often: "
            f"{reasons.index[0]}", "truths from the prior whose tables can be fitted", do,
        )  # fmt: skip
        if fatal:
            raise FitError(text)
        warn(text)

    def _notes(
        self, found: dict[int, _Outcome], asked: int, moved: frozenset[str]
    ) -> tuple[str, ...]:
        notes = []
        if len(found) < asked:
            notes.append(f"Interrupted: {len(found)} of {asked} simulations were made.")
        if moved:
            notes.append(
                f"The prior of {', '.join(sorted(moved))} follows the table that is fitted: "
                "truths come from another prior than that of the fits. Its numbers are not "
                "compared, and what is off in other quantities need not be the posterior's fault."
            )
        sources = {one.source for one in found.values() if one.source} - {self.source}
        if sources:
            notes.append(
                f"Draws of the model came from its {self.source}, those of the fits from their "
                f"{', '.join(sorted(sources))}: pass on what its fit was given, if anything."
            )
        redrawn = sum(one.redrawn for one in found.values())
        if redrawn:
            notes.append(
                f"{redrawn} truths were left out because no data frame can hold their tables; "
                "that leaves the ranks of the others as they are."
            )
        if self.quantities.dropped:
            notes.append(f"{self.quantities.dropped} more entries of globals were not ranked.")
        return tuple(notes)


def _steps(draws: Floats, chains: int) -> NDArray[np.int64]:
    """Every how many draws (S, Q) of a chain are nearly independent, by quantity."""
    each = len(draws) // chains
    if each < 8:
        return np.ones(draws.shape[1], dtype=np.int64)
    with np.errstate(invalid="ignore"):
        size = effective_size(draws.reshape(chains, each, -1))
    size = np.where(np.isfinite(size) & (size > 0), size, len(draws))
    return np.clip(np.ceil(len(draws) / size - 0.1), 1, max(1, each // 4)).astype(np.int64)


def _held(value: NDArray[Any] | None) -> NDArray[Any]:
    assert value is not None  # noqa: S101 - of a sound simulation
    return value


def _rank(truth: float, draws: Floats, scale: int, rng: np.random.Generator) -> int:
    """The rank among draws, ties broken at random, on 0..scale.

    Uniform ranks among fewer draws become uniform ranks of the larger scale by a random place
    inside their cell.
    """
    rank = int((draws < truth).sum())
    rank += int(rng.integers(0, int((draws == truth).sum()) + 1))
    if len(draws) == scale:
        return rank
    return min(scale, int((rank + rng.random()) / (len(draws) + 1) * (scale + 1)))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _refit(
    model: Density, schema: Schema, table: pd.DataFrame, given: list[Hashable], seed: int,
    fit: dict[str, Any],
) -> Density:  # fmt: skip
    """The same settings fitted to another table; the schema, and so the prior, is fixed."""
    fresh = clone(model).set_params(
        schema=schema, columns=None, random_state=seed % 2**31, progress=False
    )
    fresh.fit(table, given=given, **fit)
    if any(result.reason == "interrupted" for result in fresh.results_):
        raise KeyboardInterrupt  # a fit keeps its best state; half a simulation is worth nothing
    return fresh


def _context(
    model: Density, frame: pd.DataFrame | None, given: list[Hashable], rows: int | None
) -> pd.DataFrame:
    """The context of the simulated rows, whose number it says."""
    if given:
        missing = given if frame is None else [name for name in given if name not in frame]
        if frame is None or missing:
            raise SchemaError(message(
                f"no context column(s) {missing}", f"a table with {given}, which the model "
                "conditions on", "pass table=, with a row for each row to simulate",
            ))  # fmt: skip
        chosen = frame[given] if rows is None else frame[given].iloc[np.arange(rows) % len(frame)]
        return chosen.reset_index(drop=True)
    n = rows if rows is not None else len(frame) if frame is not None else None
    n = _fitted_rows(model) if n is None else n
    if n is None:
        raise SchemaError(message(
            "a model that no longer knows how many rows it was fitted to", "a number of rows",
            "pass rows=",
        ))  # fmt: skip
    return pd.DataFrame(index=pd.RangeIndex(int(n)))


def _fitted_rows(model: Density) -> int | None:
    """How many rows a model was fitted to, where it remembers."""
    return None if model.fitted_rows_ is None else model.fitted_rows_.rows


def _blank(model: Density, context: pd.DataFrame, schema: Schema) -> Batch:
    """Rows of which nothing is seen but their context."""
    encoded = encode(context, schema)
    batch = model._batch(encoded, model._device, None, schema)
    return replace(batch, x=None, seen=torch.zeros_like(batch.seen), complete=False)


def _holes(
    frame: pd.DataFrame | None, context: pd.DataFrame, schema: Schema
) -> pd.DataFrame | None:
    """Where the table has holes, if it has as many rows as are simulated."""
    if frame is None or len(frame) != len(context):
        return None
    names = [c.name for c in schema.columns if c.role == "modelled"]
    if any(name not in frame for name in names):
        return None
    holes = frame[names].isna()
    return holes.reset_index(drop=True) if holes.to_numpy().any() else None


def _rows_of(
    model: Density, context: pd.DataFrame, given: list[Hashable], seed: int
) -> pd.DataFrame:
    """New rows of the fitted model, one for each row of context."""
    if given:
        return model.sample(1, given=context, random_state=seed).reset_index(drop=True)
    return model.sample(len(context), random_state=seed)


def _points(
    model: Density, schema: Schema, frame: pd.DataFrame | None, context: pd.DataFrame,
    given: list[Hashable], seed: int,
) -> Batch:  # fmt: skip
    """Rows fixed beforehand: of the table if it has the modelled columns, else of the model."""
    if frame is not None and all(name in frame for name in schema.names):
        own = frame.dropna().iloc[:POINTS]
    else:
        own = _rows_of(model, context.iloc[:POINTS], given, seed)
    encoded = encode(own, schema)
    return model._batch(encoded, model._device, None, schema)


def _prior(member: Family, blank: Batch, seed: int) -> Draws:
    """A few draws of the globals, (S, *shape) each."""
    with torch.no_grad(), guarded(seed):
        drawn: list[dict[str, Tensor]] = []
        for _ in range(LOOKED):
            sites = global_sites(traced(member.model, blank.take(slice(0, 1)), {}))
            drawn.append({name: site["value"].detach() for name, site in sites.items()})
    return {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}
