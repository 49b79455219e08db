"""What probabilities are worked out from: the density and the draws of a fitted model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from probgen import queries
from probgen.batch import Batch
from probgen.queries import Predictive
from probgen.schema import Schema

__all__ = ["Rows", "Source", "TooDear", "TooHard"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]


#: densities beyond one a row after which an event is estimated by draws: about a second
MOST_EXTRA = 50_000


class TooHard(Exception):
    """The exact way costs too much, or does not exist: draw instead."""


class TooDear(TooHard):
    """The exact way exists and costs too much."""


@dataclass
class Rows:
    """Encoded rows: x (r, m), seen (r, m), and the context columns (r, c) or None."""

    x: Floats
    seen: Bools
    context: Floats | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Ints | slice) -> Rows:
        """Some rows, in any order and number."""
        return Rows(
            self.x[rows], self.seen[rows], None if self.context is None else self.context[rows]
        )

    def put(self, slot: int, values: Floats | float, seen: Bools | bool = True) -> None:
        """Set one slot of every row, in place."""
        self.x[:, slot] = np.where(seen, values, 0.0)
        self.seen[:, slot] = seen

    def shown(self, slots: Sequence[int]) -> Rows:
        """The same rows with only some slots seen."""
        seen = np.zeros_like(self.seen)
        seen[:, list(slots)] = self.seen[:, list(slots)]
        return Rows(np.where(seen, self.x, 0.0), seen, self.context)


@dataclass
class Source:
    """A fitted density as functions of encoded rows.

    Parameters
    ----------
    schema : Schema
    predictive : Predictive
        What scores.
    device : torch.device
    draw : callable
        (batch, generator) -> x (n, m) with the unseen cells drawn given the seen ones.
    evaluated : int
        Densities so far.
    """

    schema: Schema
    predictive: Predictive
    device: torch.device
    draw: Callable[[Batch, torch.Generator], Floats]
    evaluated: int = field(default=0)
    #: densities beyond one a row, see `Family.extra_work`
    extra: int = field(default=0)

    def batch(self, rows: Rows) -> Batch:
        """The rows as a family sees them."""

        def tensor(value: NDArray[np.generic]) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(value)).to(self.device)

        context = None if rows.context is None else tensor(rows.context)
        return Batch.of(tensor(rows.x), tensor(rows.seen), context=context)

    def log_prob(self, rows: Rows) -> Floats:
        """Log density (r,) of the seen cells, encoded units; 0 where nothing is seen."""
        if not rows.seen.any() and rows.context is None:
            return np.zeros(len(rows))
        self.evaluated += len(rows)
        batch = self.batch(rows)
        before = self.extra
        self.extra += sum(member.extra_work(batch) for member in self.predictive.members)
        if before <= MOST_EXTRA < self.extra:  # once: what is drawn afterwards may need some
            raise TooDear
        with torch.no_grad():
            return queries.log_prob(self.predictive, batch).value.double().cpu().numpy()

    def completed(self, rows: Rows, generator: torch.Generator) -> Floats:
        """x (r, m) with the unseen cells drawn."""
        return np.asarray(self.draw(self.batch(rows), generator), np.float64)

    def none(self, count: int = 1) -> Rows:
        """Rows in which nothing is seen."""
        m, c = len(self.schema.slots), len(self.schema.context_slots)
        context = np.zeros((count, c)) if c else None
        return Rows(np.zeros((count, m)), np.zeros((count, m), bool), context)

    @property
    def reserves(self) -> bool:
        """Whether a level that the fit did not see has mass."""
        return all(member.reserves for member in self.predictive.members)

    @property
    def exact(self) -> bool:
        """Whether marginals and conditionals of the family are exact numbers."""
        members = self.predictive.members
        if self.extra > MOST_EXTRA:
            return False
        if not all(m.density == "exact" and m.holes == "exact" for m in members):
            return False
        if all(m.closed_form for m in members):
            return True
        probe = self.none()
        if probe.x.shape[1]:
            probe.put(0, 0.0)
        with torch.no_grad():
            method = queries.log_prob(self.predictive, self.batch(probe)).method
        return set(method.split("+")) <= {"exact", "enumerated"}
