"""A user's own Pyro functions, `model(batch)` and `guide(batch)`, as a family.

The functions see a `View` of the rows: ``batch["column"]`` in the table's own units. Their
parameters live in a `Store`. Globals that the guide lacks get a guide of ours; row latents
that it lacks are proposed from the model, and trained by an importance-weighted bound with
several particles (Burda, Grosse and Salakhutdinov 2016, Importance weighted autoencoders).
Unseen cells are latents proposed from the model: see `probgen.pairs.sites`.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, Literal

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from probgen.batch import Batch
from probgen.errors import NotSupported, SchemaError, message
from probgen.family import Family
from probgen.pairs.bending import bend, many
from probgen.pairs.contract import check_guide, check_model, explained
from probgen.pairs.guides import GUIDES, GlobalGuide, GuideKind
from probgen.pairs.sites import Columns, Tainted, hidden_name
from probgen.pairs.store import Collect, Store, own_copy, strangers
from probgen.pairs.view import Place, View, dummy_batch, places
from probgen.pairs.warm import warm_start
from probgen.queries.contraction import (
    Plan,
    global_sites,
    row_log_weights,
    row_sites,
    survey,
    traced,
    weighed,
)
from probgen.schema import Schema
from probgen.session import guarded, validated

__all__ = ["Program", "UserPair"]

#: what a user writes: a Pyro function of the rows
Program = Callable[[Any], Any]
#: prior draws of the globals by which their guide is centred and scaled
PRIOR_DRAWS = 50
#: rows that are looked at before training
LOOKED = 64


class UserPair(Family):
    """The pair; `probgen.Pair` describes the settings.

    `density`, `holes` and `coherent` are found out when the pair is made: they are what the
    functions are.
    """

    density: Literal["exact", "bound", "estimate", "none"] = "estimate"
    holes: Literal["exact", "latent", "masked", "refuse"] = "latent"
    coherent = False
    takes_context = True
    reserves = False

    def __init__(
        self,
        schema: Schema,
        model: Program,
        guide: Program | None = None,
        globals_guide: GuideKind = "auto",
        particles: int = 16,
        reset: bool = False,
    ) -> None:
        super().__init__(schema)
        self.particles = particles
        self.places: dict[Hashable, Place] = places(schema)
        self.modelled = {p.name: p for p in self.places.values() if not p.context}
        self.empty = frozenset(c.name for c in schema.columns if c.role == "empty")
        self.store = Store(reset)
        self.own_model, self.own_guide = self._taken(model, guide, reset)
        self.global_guide: GlobalGuide | None = None
        #: columns on which no other site depends, and latent sites that the guide draws
        self.free: frozenset[str] = frozenset()
        self.kept: frozenset[str] = frozenset()
        # the caller's seed, where there is one: `guarded` set it
        with guarded(torch.initial_seed() & (2**62 - 1)):
            self._discover(globals_guide)
        self.store.open = False

    def _taken(
        self, model: Program, guide: Program | None, reset: bool
    ) -> tuple[Program, Program | None]:
        """The functions; what is a module, or a method of one, as a copy of our own."""
        for role, program in (("model", model), ("guide", guide)):
            if not callable(program) and not (role == "guide" and program is None):
                names = f", or one of {GUIDES}" * (role == "guide")
                raise SchemaError(message(
                    f"{role}={program!r}",
                    f"a Pyro function of the rows, def {role}(batch){names}",
                    "pass the function itself"
                    + (", or leave guide out for a guide of the globals" * (role == "guide")),
                ))  # fmt: skip
        copies: dict[int, nn.Module] = {}

        def own(owner: nn.Module) -> nn.Module:
            if id(owner) not in copies:
                copies[id(owner)] = own_copy(owner, reset)
            return copies[id(owner)]

        def taken(program: Any) -> Any:
            if isinstance(program, nn.Module):
                return own(program)
            owner = getattr(program, "__self__", None)
            if isinstance(owner, nn.Module):
                return types.MethodType(program.__func__, own(owner))
            return program

        found = taken(model), None if guide is None else taken(guide)
        self.modules_of_programs = nn.ModuleList(copies.values())
        # kept out of the registry of submodules: they are in the list above already
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("own_model", "own_guide"):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    # --- the pair -------------------------------------------------------------------

    def model(self, batch: Batch) -> Tensor | None:
        """The user's model; returns the rows (n, m) that it drew, where it generates."""
        columns = self._columns(batch)
        self._run(self.own_model, "model", columns)
        return self._rows(columns) if batch.x is None else None

    def guide(self, batch: Batch) -> None:
        """The user's guide, and the guide over the globals that it lacks."""
        if self.global_guide is not None:
            self.global_guide()
        if self.own_guide is not None:
            view = View(batch, self.places, self.empty)
            self._run(self.own_guide, "guide", Columns(view, batch, {}))

    def _columns(self, batch: Batch, **how: Any) -> Columns:
        view = View(batch, self.places, self.empty)
        free = self.free if "free" not in how else how.pop("free")
        return Columns(view, batch, self.modelled, free, self.kept, **how)

    def _run(self, program: Program, which: str, columns: Columns) -> None:
        try:
            with Collect(self.store, self), columns:
                program(columns.view)
        except (TypeError, AttributeError, IndexError, ValueError) as error:
            better = explained(error, columns.view, which)
            if better is None:
                raise
            raise better from error

    def _rows(self, columns: Columns) -> Tensor:
        """Values of the columns in table units as encoded rows (n, m)."""
        n, m = columns.batch.seen.shape
        x = columns.batch.weight.new_zeros(n, m)
        for name, place in self.modelled.items():
            place.encode(x, columns.found[name].expand(n))
        return x

    # --- what the functions are -------------------------------------------------------

    def _discover(self, kind: GuideKind) -> None:
        """Run the functions on rows of middling values: parameters, globals, dependence."""
        full = dummy_batch(self.schema)
        blank = replace(full, x=None, seen=torch.zeros_like(full.seen), complete=False)
        for batch in (full, blank):
            columns = self._columns(batch)
            with validated():
                trace = self._traced(columns)
            check_model(trace, columns)
        guided: dict[str, Any] = {}
        if self.own_guide is not None:
            guide = traced(self.guide, full, {})
            guided = global_sites(guide)
            self.kept = frozenset(row_sites(guide, observed=False))
            columns = self._columns(full)
            check_guide(guide, self._traced(columns), columns)
        self._guide_globals(kind, full, set(guided))
        self.free = frozenset(name for name in self.modelled if not self._matters(name, full))
        self._declare(full)

    def _traced(self, columns: Columns) -> Trace:
        def run(_: Batch) -> None:
            self._run(self.own_model, "model", columns)

        return traced(run, columns.batch, {})

    def _guide_globals(self, kind: GuideKind, batch: Batch, guided: set[str]) -> None:
        draws: dict[str, list[Tensor]] = {}
        supports: dict[str, Any] = {}
        with torch.no_grad():
            for _ in range(PRIOR_DRAWS):
                for name, site in global_sites(self._traced(self._columns(batch))).items():
                    if name in guided:
                        continue
                    support = site["fn"].support
                    _check_global(name, support, supports.setdefault(name, support))
                    draws.setdefault(name, []).append(site["value"])
        if draws:
            stacked = {name: torch.stack(values) for name, values in draws.items()}
            self.global_guide = GlobalGuide(stacked, supports, kind)

    def _matters(self, name: str, batch: Batch) -> bool:
        """Whether another site of the rows is computed from the value of a column."""
        columns = self._columns(batch, taint=name)
        try:
            trace = self._traced(columns)
            return any(
                isinstance(site["mask"], Tainted)
                or isinstance(site["fn"].log_prob(site["value"]), Tainted)
                for other, site in row_sites(trace).items()
                if columns.column(other) != (name, "whole")
                and other not in (f"{name}_observed", f"{name}_unobserved", name)
                and "_deterministic" not in site["infer"]
            )
        except Exception:  # noqa: BLE001 - code that cannot bear marked tensors: assume so
            return True

    def _declare(self, batch: Batch) -> None:
        """Set `density`, `holes` and `coherent` by the structure that was found."""
        with torch.no_grad():
            values = self._one_global(batch)
            whole = survey(self, batch, values)
            hidden = replace(batch, seen=torch.zeros_like(batch.seen), complete=False)
            self.density = "estimate" if whole.sampled else "exact"
            try:
                sampled = survey(self, hidden, values).sampled
            except SchemaError:  # the functions use a column where it may be unseen
                self.holes, self.coherent = "refuse", False
                return
        self.holes = "latent" if sampled else "exact"
        self.coherent = not sampled

    def _one_global(self, batch: Batch) -> dict[str, Tensor]:
        guide = global_sites(traced(self.guide, batch, {}))
        values = {name: site["value"] for name, site in guide.items()}
        model = global_sites(traced(self.model, batch, values))
        return {name: site["value"] for name, site in model.items()}

    def typical(self, batch: Batch) -> Batch:
        """The first row, with a hole wherever some row of the batch has one."""
        one = batch.take(slice(0, 1))
        if batch.complete or batch.x is None or not len(batch):
            return one
        seen = batch.seen.all(0, keepdim=True)
        # an atom's neighbour is unseen in whole rows too
        for place in self.modelled.values():
            if len(place.slots) > 1:
                whole = bool(place.seen(batch).all())
                seen[:, place.slots[0]] = whole
                seen[:, place.slots[1]] = one.seen[:, place.slots[1]] if whole else False
        return replace(one, seen=seen)

    # --- training ---------------------------------------------------------------------

    def engine(self, batch: Batch) -> tuple[str, Callable[[Batch], Tensor]]:
        """The importance-weighted bound, exact where no row latent is sampled."""
        with guarded(torch.initial_seed() & (2**62 - 1)):
            return self._engine(batch)

    def _engine(self, batch: Batch) -> tuple[str, Callable[[Batch], Tensor]]:
        self._look(batch)
        with torch.no_grad():
            plan = survey(self, batch, self._one_global(self.typical(batch)))
        particles = self.particles if plan.sampled else 1
        few = batch.take(slice(0, LOOKED))
        unknown = strangers(self.bound(few, plan, particles), list(self.parameters()))
        if unknown:
            raise SchemaError(message(
                f"learned tensors of shapes {unknown} that the pair does not hold",
                "parameters by pyro.param, or modules registered by pyro.module",
                "register the module in the function, or pass it as the model itself",
            ))  # fmt: skip
        bent = self._bent(plan)
        if bent is not None:
            return "exact", many(self, bent, plan)
        name = f"importance-{particles}" if plan.sampled else "exact"
        return name, lambda rows: self.bound(rows, plan, particles)

    def _bent(self, plan: Plan) -> GlobalGuide | None:
        """The flow, where all globals are its own, and no row latent is sampled."""
        guide = self.global_guide
        if guide is None or guide.kind != "flow" or self.own_guide is not None or plan.sampled:
            return None
        return guide

    def bound(
        self, batch: Batch, plan: Plan, particles: int, given: dict[str, Tensor] | None = None
    ) -> Tensor:
        """Minus the bound a row of the table, nats, a differentiable scalar.

        `given` are values of the globals to take instead of draws.
        """
        n = len(batch)
        found = weighed(self, _repeated(batch, particles), plan, given)
        rows = found.rows.reshape(particles, n)
        value = rows.logsumexp(0) - math.log(particles)
        if found.score.requires_grad:  # worth 0: moves the guide towards the heavy draws
            score = found.score.reshape(particles, n)
            value = value + (rows.softmax(0).detach() * (score - score.detach())).sum(0)
        total = (value * batch.scale).sum() + found.globals
        return -total / batch.total

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Initial values that the functions state of these rows, then a scale-free search."""
        with torch.no_grad(), self.store.starting():
            self.model(batch)
            self.guide(batch)
            plan = survey(self, batch, self._one_global(self.typical(batch)))
        warm_start(self, plan, batch, generator)
        bent = self._bent(plan)
        if bent is not None:
            bend(self, bent, plan, batch, generator)

    def _look(self, batch: Batch) -> None:
        """Run the model on real rows, those with holes first, and hold it to the rules."""
        holes = (~batch.seen).any(1)
        order = holes.to(torch.int8).argsort(descending=True, stable=True)
        few = replace(batch.take(order[:LOOKED].sort()[0]), total=float(min(LOOKED, len(batch))))
        few = replace(few, weight=torch.ones_like(few.weight), uniform=True)
        columns = self._columns(few)
        with torch.no_grad():
            check_model(self._traced(columns), columns)
            keys = torch.zeros(len(few), dtype=torch.int64, device=few.seen.device)
            values = self._one_global(few)
            plan = survey(self, few, values)
            weight = row_log_weights(self, few, values, keys, plan)
        bad = weight.isnan() | (weight == math.inf)
        if bool(bad.any()):
            raise SchemaError(message(
                f"a log density that is NaN or infinite in {int(bad.sum())} of {len(few)} rows, "
                f"of sites {self._broken(few, values)}",
                "a number for every row", "look at the parameters of these sites: a negative "
                "scale, a division by 0, batch['column'] where it holds NaN",
            ))  # fmt: skip

    def _broken(self, batch: Batch, values: dict[str, Tensor]) -> list[str]:
        sites = row_sites(traced(self.model, batch, values))
        logs = {name: site["fn"].log_prob(site["value"]) for name, site in sites.items()}
        return [n for n, v in logs.items() if bool((v.isnan() | (v == math.inf)).any())]

    def example(self) -> Batch | None:
        """A row of middling values, for functions that use a column where it may be unseen."""
        return dummy_batch(self.schema).take(slice(1, 2)) if self.holes == "refuse" else None

    # --- queries ------------------------------------------------------------------------

    def propose(
        self, batch: Batch, values: dict[str, Tensor], keys: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Unseen cells and row latents from the guide and the model, weighed by what was seen.

        With an empty guide this is likelihood weighting (Fung and Chang 1990): exact, with
        equal weights, where nothing seen depends on what was drawn. None where the functions
        cannot be run on holes.
        """
        if self.holes == "refuse":
            return None
        with torch.no_grad(), guarded(0):
            guide = row_sites(traced(self.guide, batch, values, keys), observed=False)
            drawn = {name: site["value"] for name, site in guide.items()}
            columns = self._columns(batch, fill=True)

            def run(_: Batch) -> None:
                self._run(self.own_model, "model", columns)

            given = {**values, **drawn}
            plan = Plan(frozenset(guide), frozenset(), frozenset(), 1)
            sites = row_sites(traced(run, batch, given, keys), observed=False)
            plan = replace(plan, prior=frozenset(set(sites) - set(guide)))
            filled: Any = _Filled(self)  # the part of a family that is run here
            log_weight = row_log_weights(filled, batch, given, keys, plan)
            x = torch.where(batch.seen, _values(batch), self._rows(columns).to(_values(batch)))
        return x, log_weight

    def params(self) -> dict[str, Tensor]:
        """The values of `pyro.param` statements by name, constrained, detached."""
        return {name: self.store.value(name).detach() for name in self.store.names}


class _Filled:
    """The pair with the unseen cells of every column drawn at sites of their own."""

    def __init__(self, pair: UserPair) -> None:
        self.pair, self.guide = pair, pair.guide

    def model(self, batch: Batch) -> None:
        self.pair._run(self.pair.own_model, "model", self.pair._columns(batch, fill=True))


def _values(batch: Batch) -> Tensor:
    assert batch.x is not None  # proposals are for rows that are seen in part
    return batch.x


def _repeated(batch: Batch, times: int) -> Batch:
    """The rows `times` over, particle-major."""
    if times == 1:
        return batch
    index = torch.arange(len(batch), device=batch.seen.device).repeat(times)
    return Batch(
        None if batch.x is None else batch.x[index], batch.seen[index], batch.weight[index],
        batch.total, None if batch.context is None else batch.context[index],
        uniform=batch.uniform, complete=batch.complete,
    )  # fmt: skip


def _check_global(name: str, support: Any, first: Any) -> None:
    if support.is_discrete:
        raise NotSupported(message(
            f"a discrete global latent {name!r}", "continuous globals",
            "sum it out, or give a guide of your own with a site of that name",
        ))  # fmt: skip
    if _bounds(support) != _bounds(first):
        raise NotSupported(message(
            f"a global {name!r} whose support depends on other latents", "a fixed support",
            "draw it in a fixed one and scale it: u = sample('u', Uniform(0, 1)); u * upper",
        ))  # fmt: skip


def _bounds(support: Any) -> list[Any]:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    ends = [getattr(support, name, None) for name in ("lower_bound", "upper_bound")]
    return [end.tolist() if isinstance(end, Tensor) else end for end in ends]


__all__ += ["hidden_name"]
