"""A weighted mixture of other densities over the same columns, each fitted on its own.

    part ~ Categorical(weights)                       (stacking weights, fixed)
    row | part ~ the predictive of that part

The globals of the pair are those of all parts, under names of their own, with the parts'
priors and guides. A part may keep its columns in another encoding than the stack: its rows are
recoded, and its density counts the slope between the two. A conditional or a marginal is a
ratio of sums over the parts, never a mean of ratios: given the seen cells of a row, a part
weighs in proportion to the density it gives them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from probgen.batch import Batch, mix
from probgen.conditionals import Conditionals, mixed
from probgen.errors import NotSupported, message
from probgen.family import Draws, Family
from probgen.queries import Predictive, draw_globals, log_prob, log_prob_draws, sample
from probgen.queries.density import Estimate
from probgen.queries.density import mixed as mixed_estimates
from probgen.queries.draws import count_draws, encoded, keyed, one_row
from probgen.queries.scoped import scoped_globals
from probgen.recoding import Moved, foreign_cells, moved, recoded
from probgen.schema import Schema

__all__ = ["Stacked"]

#: from the most to the least that a family can do with holes
HOLES = ("exact", "latent", "masked", "refuse")


class Stacked(Family):
    """The pair; `probgen.Stack` describes the settings.

    Parameters
    ----------
    schema : Schema
        Of the rows that the stack sees.
    parts : sequence of sequences of Family
        The members of each part: its restarts, which share its weight equally.
    schemas : sequence of Schema
        Of each part: the same columns and measure, perhaps encoded otherwise.
    draws : sequence of int
        Draws of the globals by which a part without a closed form is scored.
    """

    closed_form = True  # scored without draws of its own: parts keep theirs
    joint_posterior = False
    trained = False  # its parts are, each on its own
    log_weights: Tensor
    seeds: Tensor

    def __init__(
        self,
        schema: Schema,
        parts: Sequence[Sequence[Family]],
        schemas: Sequence[Schema],
        draws: Sequence[int],
    ) -> None:
        super().__init__(schema)
        self.sizes = [len(members) for members in parts]
        self.part = [k for k, members in enumerate(parts) for _ in members]
        self.members = nn.ModuleList([member for members in parts for member in members])
        self.counts = [draws[k] for k in self.part]
        self.moved: list[Moved] = [moved(schema, schemas[k]) for k in self.part]
        self.schemas = [schemas[k] for k in self.part]
        even = torch.full((len(parts),), -math.log(len(parts)), dtype=torch.float64)
        self.register_buffer("log_weights", even)
        self.register_buffer("seeds", torch.zeros(len(self.part), dtype=torch.int64))
        self._stored: dict[int, Draws] = {}
        self._take_traits()

    def _take_traits(self) -> None:
        """What is true of the stack: what is true of all parts with a weight."""
        each = [self._families()[j] for j in self._weighty()]
        self.holes = max((m.holes for m in each), key=HOLES.index)
        self.coherent = all(m.coherent for m in each)
        kinds = {m.density for m in each}
        self.density = (
            "exact" if kinds == {"exact"} else "bound" if "bound" in kinds else "estimate"
        )
        traits: dict[str, Any] = {
            "reserves": any(m.reserves for m in each),
            "takes_context": all(m.takes_context for m in each),
            "row_cost": 1 if all(m.row_cost == 1 for m in each) else 0,
        }
        self.__dict__.update(traits)  # of the object, where a family has them of its class
        #: whether all parts have closed forms, without which nothing here is exact
        self.exact = all(m.closed_form and getattr(m, "exact", True) for m in each)

    def weigh(self, log_weights: Tensor, seeds: Tensor) -> None:
        """Set the weights of the parts, and the seeds of their draws."""
        self.log_weights, self.seeds, self._stored = log_weights, seeds, {}
        self._take_traits()

    def _families(self) -> list[Family]:
        return [cast(Family, member) for member in self.members]

    # --- the pair -------------------------------------------------------------------

    def model(self, batch: Batch) -> Tensor:
        """The globals of all parts by their priors, then one site for the row, part summed out."""
        draws = self._run(lambda member: member.model)
        drawn = self.generated(batch, draws) if batch.x is None else None
        with batch.rows():
            row = _Row(self, batch, draws, drawn)
            return batch.observe("row", row, range(len(self.schema.slots)))

    def guide(self, batch: Batch) -> None:
        """The guides of all parts over their globals."""
        self._run(lambda member: member.guide)

    def _run(self, program_of: Callable[[Family], Any]) -> Draws:
        """Run a program of every member for its globals: one draw (1, ...) by site."""
        found: Draws = {}
        for j, member in enumerate(self._families()):
            found |= scoped_globals(program_of(member), one_row(member), f"{j}.")
        return found

    # --- states ---------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Weights, seeds, and what the members learned."""
        found = {"log_weights": self.log_weights, "seeds": self.seeds}
        for j, member in enumerate(self._families()):
            found |= {f"members.{j}.{name}": value for name, value in member.tensors().items()}
        return found

    def load_tensors(self, values: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for j, member in enumerate(self._families()):
            head = f"members.{j}."
            own = {n.removeprefix(head): v for n, v in values.items() if n.startswith(head)}
            member.load_tensors(own)
        self.weigh(values["log_weights"], values["seeds"])

    # --- globals --------------------------------------------------------------------

    def draw_globals(self, count: int, generator: torch.Generator) -> Draws:
        """Draw s is draw s of every part with a weight that has a posterior."""
        each = {
            j: draw_globals(self._families()[j], count, int(self.seeds[j]))
            for j in self._weighty()
        }
        # a chain may be shorter
        have = min((count_draws(own) for own in each.values() if own), default=count)
        return {f"{j}.{n}": v[:have] for j, own in each.items() for n, v in own.items()}

    def point_globals(self) -> Draws:
        """The points of all parts with a weight."""
        found: Draws = {}
        for j in self._weighty():
            member = self._families()[j]
            own = member.point_globals()
            if own is None:
                drawn = draw_globals(member, max(1, self.counts[j]), int(self.seeds[j]))
                own = Predictive([member], [drawn]).at_point().draws[0]
            found |= {f"{j}.{name}": value for name, value in own.items()}
        return found

    def _own(self, j: int, draws: Draws | None) -> Draws | None:
        """The part of the draws that belongs to member j; None without draws."""
        if draws is None:
            return None
        head = f"{j}."
        return {n.removeprefix(head): v for n, v in draws.items() if n.startswith(head)}

    def _predictive(self, j: int, draws: Draws | None) -> Predictive:
        """What scores member j alone: at some draws, or its own predictive."""
        member = self._families()[j]
        own = self._own(j, draws)
        if own:
            return Predictive([member], [own], integrated=False)
        if member.closed_form:
            return Predictive([member], [{}])
        if j not in self._stored:  # equal at every call, so threads may race for it
            self._stored[j] = draw_globals(member, max(1, self.counts[j]), int(self.seeds[j]))
        return Predictive([member], [self._stored[j]])

    # --- scores ---------------------------------------------------------------------

    @property
    def shares(self) -> Tensor:
        """Log weight (members,): the weight of a part goes to its restarts in equal parts."""
        size = torch.tensor(self.sizes, dtype=torch.float64, device=self.log_weights.device)
        return (self.log_weights - size.log())[self.part]

    def _weighty(self) -> list[int]:
        """Members whose part has any weight."""
        return [j for j, share in enumerate(self.shares.tolist()) if share > -math.inf]

    def _inner(self, j: int, batch: Batch) -> tuple[Batch, Tensor]:
        """The rows as member j encodes them, and what to add to its log density of them (n,)."""
        member = self._families()[j]
        shift = torch.zeros(len(batch), dtype=torch.float64, device=batch.seen.device)
        if not member.reserves:  # a level that no row of the fit held has no mass
            foreign = foreign_cells(batch.x, batch.seen, self.schema)
            if bool(foreign.any()):
                seen, x = batch.seen & ~foreign, torch.where(foreign, 0.0, encoded(batch))
                batch = replace(batch, x=x, seen=seen, complete=False, key=None)
                shift = torch.where(foreign.any(1), -math.inf, shift)
        if not self.moved[j] or batch.x is None:
            return batch, shift
        x = torch.where(batch.seen, recoded(batch.x, self.moved[j]), 0.0)
        theirs, ours = self.schemas[j].log_det(x, batch.seen), self._log_det(batch)
        return replace(batch, x=x, key=None), shift + theirs - ours

    def _log_det(self, batch: Batch) -> Tensor:
        return self.schema.log_det(encoded(batch), batch.seen)

    def _exact_logs(self, batch: Batch, draws: Draws | None) -> Tensor:
        """Log weight and density (members, n) or (members, S, n); closed forms only."""
        found = []
        for j in self._weighty():
            own = self._own(j, draws)
            inner, shift = self._inner(j, batch)
            value = self._families()[j].exact_log_prob(inner, own or None)
            assert value is not None  # noqa: S101 - a closed form
            found.append(value.double() + shift + self.shares[j])
        wide = max(found, key=Tensor.dim)
        return torch.stack([value.expand_as(wide) for value in found])

    def exact_log_prob(self, batch: Batch, draws: Draws | None) -> Tensor | None:
        """The weighted sum of the parts' closed forms: (n,), or (S, n) at draws.

        At draws also of parts without one: the pair of the part is run, apart from this one.
        """
        if self.exact or not draws:
            return self.log_rows(batch, draws)
        found = []
        for j in self._weighty():
            inner, shift = self._inner(j, keyed(batch))
            value = log_prob_draws(self._predictive(j, draws), inner)
            found.append(value.double() + shift + self.shares[j])
        wide = max(found, key=len)  # one row where the part has no draws of its own
        return torch.stack([value.expand_as(wide) for value in found]).logsumexp(0)

    def without_posterior(self) -> list[int]:
        """Numbers of the parts with a weight that have no globals to draw."""
        drawn = {name.partition(".")[0] for name in self.draw_globals(1, torch.Generator())}
        return sorted({self.part[j] for j in self._weighty() if str(j) not in drawn})

    def log_rows(self, batch: Batch, draws: Draws | None) -> Tensor | None:
        """What `exact_log_prob` says, and the row's site of the pair."""
        if not self.exact:
            return None
        value = self._exact_logs(batch, draws).logsumexp(0)
        return value[None] if draws and value.dim() == 1 else value

    def exact_log_prob_masked(self, batch: Batch, masks: Tensor) -> Tensor | None:
        """The same of g sets of slots (g, n), where the parts have it."""
        if not self.exact or any(self.moved) or self._any_foreign(batch):
            return None
        found = []
        for j in self._weighty():
            value = self._families()[j].exact_log_prob_masked(batch, masks)
            if value is None:
                return None
            found.append(value.double() + self.shares[j])
        return torch.stack(found).logsumexp(0)

    def _any_foreign(self, batch: Batch) -> bool:
        every = all(member.reserves for member in self._families())
        return not every and bool(foreign_cells(batch.x, batch.seen, self.schema).any())

    def estimate(
        self, batch: Batch, draws: Draws | None, particles: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, str] | None:
        """The weighted sum of the parts' densities with the error of those that are estimates."""
        if self.exact:
            return None
        each = mixed_estimates(self._estimates(batch, draws, particles), self._weights())
        return each.value, each.se, each.ess, each.khat, each.method

    def _weights(self) -> Tensor:
        return self.shares[self._weighty()]

    def _estimates(self, batch: Batch, draws: Draws | None, particles: int) -> list[Estimate]:
        """Of each member with a weight, in the encoding of the stack."""
        batch = keyed(batch)
        found = []
        for j in self._weighty():
            inner, shift = self._inner(j, batch)
            assert batch.key is not None  # noqa: S101 - keyed above
            inner = replace(inner, key=mix(batch.key ^ j))  # noise of its own
            own = log_prob(self._predictive(j, draws), inner, particles=particles)
            found.append(replace(own, value=own.value.double() + shift))
        return found

    # --- what follows ---------------------------------------------------------------

    def _log_shares(self, batch: Batch, draws: Draws | None = None) -> Tensor:
        """Log weights (members, n) of the members given the seen cells, not normalised."""
        if self.exact:
            logs = self._exact_logs(batch, draws)
            return logs[:, 0] if logs.dim() == 3 else logs
        each = self._estimates(batch, draws, 512)
        return torch.stack([own.value for own in each]) + self._weights()[:, None]

    def row_latents(self, batch: Batch) -> dict[str, Tensor]:
        """p(part | seen cells) of each row (n, parts)."""
        share = self._log_shares(batch).softmax(0)
        total = share.new_zeros(len(self.sizes), len(batch))
        index = torch.tensor([self.part[j] for j in self._weighty()], device=share.device)
        return {"part": total.index_add_(0, index, share).T}

    def conditionals(self, batch: Batch) -> Conditionals | None:
        """Each unseen cell given the seen ones of its row, where all parts state it."""
        if not self.exact or any(self.moved):
            return None
        each = [
            self._families()[j].conditionals(self._inner(j, batch)[0]) for j in self._weighty()
        ]
        known = [own for own in each if own is not None]
        if len(known) < len(each):
            return None
        return known[0] if len(known) == 1 else mixed(known, self._log_shares(batch).softmax(0))

    def complete(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """Unseen cells drawn exactly: each row picks a part given its seen cells."""
        return self._completed(batch, None, generator)

    def complete_at(self, batch: Batch, draw: Draws, generator: torch.Generator) -> Tensor | None:
        """The same at one draw of all globals."""
        return self._completed(batch, draw, generator)

    def _completed(
        self, batch: Batch, draw: Draws | None, generator: torch.Generator
    ) -> Tensor | None:
        ways = [self._way(j, draw) for j in self._weighty()]
        one = replace(batch.take(slice(0, 1)), key=None)
        if not self.exact or any(way(one, torch.Generator()) is None for way in ways):
            return None
        if batch.x is None:
            blank = torch.zeros(batch.seen.shape, dtype=torch.float64, device=batch.seen.device)
            batch = replace(batch, x=blank)
        out = encoded(batch).double().clone()
        for place, rows in self._picked(batch, draw, generator):
            found = ways[place](batch.take(rows), generator)
            assert found is not None  # noqa: S101 - asked above
            out[rows] = torch.where(batch.seen[rows], out[rows], found.double())
        return out

    def _way(
        self, j: int, draw: Draws | None
    ) -> Callable[[Batch, torch.Generator], Tensor | None]:
        """How member j completes rows, in the encoding of the stack."""
        member, own = self._families()[j], self._own(j, draw)

        def complete(batch: Batch, generator: torch.Generator) -> Tensor | None:
            inner = self._inner(j, batch)[0]
            found = (
                member.complete_at(inner, own, generator) if own
                else member.complete(inner, generator)
            )  # fmt: skip
            return None if found is None else recoded(found, self.moved[j], back=True)

        return complete

    def _picked(
        self, batch: Batch, draw: Draws | None, generator: torch.Generator
    ) -> Iterator[tuple[int, Tensor]]:
        """(place among the members with a weight, rows that pick it)."""
        logs = self._log_shares(batch, draw)
        dead = logs.isneginf().all(0)
        steps = torch.where(dead, self._weights()[:, None], logs).softmax(0).cumsum(0)
        u = torch.rand(len(batch), generator=generator, dtype=torch.float64).to(steps.device)
        choice = (u * steps[-1] >= steps[:-1]).sum(0)
        for place in choice.unique().tolist():
            yield place, (choice == place).nonzero()[:, 0]

    def generated(self, batch: Batch, draws: Draws) -> Tensor:
        """Whole rows (n, m): each picks a part by its weight, and a row of it at these draws.

        Called inside a model: what parts run in Pyro stays hidden from the handlers around it.
        """
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        n, m = batch.seen.shape
        blank = replace(batch, x=None, seen=torch.zeros_like(batch.seen), key=None)
        zeros = replace(blank, x=batch.weight.new_zeros(n, m, dtype=torch.float64))
        out = encoded(zeros).clone()
        chosen = self._weights().softmax(0).multinomial(n, replacement=True, generator=generator)
        weighty = self._weighty()
        for place in chosen.unique().tolist():
            rows, j = (chosen == place).nonzero()[:, 0], weighty[place]
            with poutine.block():
                drawn = sample(self._predictive(j, draws), blank.take(rows), generator)
            out[rows] = recoded(drawn.double(), self.moved[j], back=True)
        return out


class _Row(dist.TorchDistribution):
    """Rows (n,) of a stack at one value of its globals, over all slots."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - as torch names it
    support = dist.constraints.real_vector
    skips_unseen = True

    def __init__(self, stack: Stacked, batch: Batch, draws: Draws, drawn: Tensor | None) -> None:
        self.stack, self.batch, self.draws, self.drawn = stack, batch, draws, drawn
        shape = torch.Size([len(stack.schema.slots)])
        super().__init__(torch.Size([len(batch)]), shape, False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The rows that were generated before the plate was entered."""
        drawn = self.drawn
        return self.stack.generated(self.batch, self.draws) if drawn is None else drawn

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density (n,) of the seen cells."""
        rows = replace(self.batch, x=value)
        found = self.stack.log_rows(rows, self.draws or None)
        if found is None:
            raise NotSupported(message(
                "a stack with parts whose density is an estimate, at draws of its parameters",
                "parts with closed forms", "ask the verbs of the stack instead of its pair",
            ))  # fmt: skip
        return found if found.dim() == 1 else found[0]

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Row:
        """Rows are n already."""
        return self
