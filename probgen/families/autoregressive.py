"""Any-order autoregressive rows: one masked network, a head a column, exact along any order.

    p(row) = mean over E fixed orders e of  prod_i p(cell e_i | seen cells before it in e)

Training takes random orders, half of the time one of the fixed ones, and hides some cells
from the others at random, so that the network also learns what it needs for rows with holes.
"""

from __future__ import annotations

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from probgen.batch import Batch
from probgen.family import Draws, Family
from probgen.nn.cells import Cells
from probgen.nn.rows import RowNetwork, places, seen_first, tied_order
from probgen.schema import Schema

__all__ = ["AnyOrder"]

#: numbers in the widest intermediate of a score: 4 MB of float64
WIDE = 2**19
#: rows that draw at once
DRAWN = 2**13
#: orders in a training step, and the least number of rows that one of them is for
RUNS, RUN_ROWS = 4, 32


class AnyOrder(Family):
    """The pair; `probgen.Autoregressive` describes the settings."""

    holes = "masked"
    coherent = False
    closed_form = True
    row_cost = 1
    takes_context = True
    orders: Tensor

    def __init__(
        self,
        schema: Schema,
        hidden: int = 256,
        layers: int = 2,
        dropout: float = 0.0,
        parts: int = 8,
        orders: int = 8,
        masked: float = 0.25,
    ) -> None:
        super().__init__(schema)
        slots = schema.slots
        self.masked = masked
        self.context = Cells(schema.context_slots) if schema.context_slots else None
        width = 0 if self.context is None else self.context.width
        self.net = RowNetwork(slots, width, hidden, layers, dropout, parts) if slots else None
        columns = 1 + max((slot.column for slot in slots), default=0)
        fixed = tied_order(slots, torch.rand(orders, columns)) if slots else torch.zeros(1, 0)
        self.register_buffer("orders", fixed.long())

    # --- the pair -------------------------------------------------------------------

    def model(self, batch: Batch) -> Tensor:
        """One site for all slots of a row."""
        row = AnyOrderRows(self, batch)
        with batch.rows():
            return batch.observe("row", row, range(batch.seen.shape[1]))

    def guide(self, batch: Batch) -> None:
        """Nothing is latent."""

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Start from independent columns: every head gives its marginal, whatever is seen."""
        if self.net is not None and batch.x is not None:
            self.net.start(batch.x, batch.seen, batch.weight)
        if self.context is not None and batch.context is not None:
            on = torch.ones_like(batch.context, dtype=torch.bool)
            self.context.start(batch.context, on, batch.weight)

    # --- densities ------------------------------------------------------------------

    def training_log_prob(self, batch: Batch) -> Tensor:
        """Log density (n,) of rows along random orders, some cells hidden from the others.

        Each run of rows has an order of its own. A cell that is hidden from the others is
        still scored, so that every draw of orders and masks is a normalised density.
        """
        x, seen, net = _values(batch), batch.seen, self._network()
        noise = float(self.noise)
        if noise:
            real = torch.tensor([slot.kind == "real" for slot in net.slots], device=x.device)
            x = x + noise * torch.randn_like(x) * real
        runs = max(1, min(RUNS, len(x) // RUN_ROWS))
        columns = 1 + max(slot.column for slot in net.slots)
        free = tied_order(net.slots, torch.rand(runs, columns, device=x.device))
        fixed = self.orders[torch.randint(len(self.orders), (runs,), device=x.device)]
        odd = (torch.arange(runs, device=x.device) + torch.randint(2, (1,), device=x.device)) % 2
        order = torch.where((odd == 1)[:, None], fixed, free)
        known = seen
        if self.masked:
            share = torch.rand(len(x), 2, device=x.device)
            keep = torch.where(share[:, 0] < self.masked, share[:, 1], torch.ones_like(share[:, 0]))
            known = seen & (torch.rand(x.shape, device=x.device) < keep[:, None])
        return net.log_probs(x, seen, order, self._given(batch), known).sum(1)

    def by_order(self, batch: Batch) -> Tensor:
        """Log density (E, n) of the seen cells of each row along each fixed order."""
        return torch.cat(
            [
                torch.stack([
                    self._network().log_probs(_values(part), part.seen, order, self._given(part))
                    .sum(1) for order in self.orders
                ])
                for part in self._parts(batch)
            ],
            1,
        )  # fmt: skip

    def by_order_given(self, batch: Batch, given: Batch) -> Tensor:
        """Log density (E, n) of the seen cells of each row that are unseen in `given`.

        Along each fixed order with the cells of `given` moved to its front, so that each is a
        normalised conditional.
        """
        net, found = self._network(), []
        for part, known in zip(self._parts(batch), self._parts(given), strict=True):
            asked, context = part.seen & ~known.seen, self._given(part)
            alike = bool((known.seen == known.seen[:1]).all())
            rows = []
            for order in self.orders:
                place = seen_first(order, known.seen[:1] if alike else known.seen)
                if alike:
                    own = net.log_probs(_values(part), part.seen, places(place[0]), context)
                else:
                    own = net.log_probs_by_row(_values(part), part.seen, place, context)
                rows.append(torch.where(asked, own, torch.zeros_like(own)).sum(1))
            found.append(torch.stack(rows))
        return torch.cat(found, 1)

    def _parts(self, batch: Batch) -> list[Batch]:
        net = self._network()
        step = max(64, WIDE // max(net.hidden, net.heads.width, net.cells.width))
        return [batch.take(slice(i, i + step)) for i in range(0, max(1, len(batch)), step)]

    def _network(self) -> RowNetwork:
        if self.net is None:
            raise TypeError("a schema without modelled columns has no network")
        return self.net

    def _given(self, batch: Batch) -> Tensor | None:
        """Features of the context of each row."""
        if self.context is None or batch.context is None:
            return None
        return self.context(batch.context, torch.ones_like(batch.context, dtype=torch.bool))

    def exact_log_prob(self, batch: Batch, draws: Draws | None) -> Tensor:
        """The log of the mean density over the fixed orders (n,)."""
        if self.net is None:
            return torch.zeros(len(batch), dtype=batch.weight.dtype, device=batch.seen.device)
        return _log_mean(self.by_order(batch))

    def estimate(
        self, batch: Batch, draws: Draws | None, particles: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, str] | None:
        """The same with the standard error that other orders would bring.

        The density is the mean over the fixed orders, and that is exact. As a mean over all
        orders it is an estimate from a sample of E: `se` is the error of that.
        """
        if self.net is None:
            return None
        return _summed_up(self.by_order(batch))

    def estimate_given(
        self, batch: Batch, given: Batch
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, str] | None:
        """The mean over the fixed orders with the given cells first: a normalised conditional.

        Not the ratio of two densities, which have their cells in other turns: it is normalised
        only as far as all orders agree.
        """
        if self.net is None:
            return None
        return _summed_up(self.by_order_given(batch, given))

    # --- drawing --------------------------------------------------------------------

    def complete(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Unseen cells drawn with the seen ones first, each row along one of the fixed orders.

        Of rows without seen cells this is the density that `exact_log_prob` scores; of others
        it is that of `estimate_given`, the mean over the same orders with the seen cells first.
        """
        return self._drawn(batch, generator)

    def _drawn(self, batch: Batch, generator: torch.Generator) -> Tensor:
        x = _values(batch).double().clone()
        if self.net is None:
            return x
        n, device = len(x), x.device
        choice = torch.randint(len(self.orders), (n,), generator=generator, device=generator.device)
        choice = choice.to(device)
        for e, order in enumerate(self.orders):
            for rows in (choice == e).nonzero()[:, 0].split(DRAWN):
                part = batch.take(rows)
                found = self.net.draw(x[rows], part.seen, order, self._given(part), generator)
                x[rows] = found.double()
        return x


class AnyOrderRows(TorchDistribution):
    """The rows of an `AnyOrder`, unseen cells left out; batch shape (n,), event shape (m,)."""

    arg_constraints: dict = {}
    support = constraints.real_vector
    has_rsample = False
    skips_unseen = True

    def __init__(self, family: AnyOrder, batch: Batch) -> None:
        self.family, self.batch = family, batch
        super().__init__(batch.seen.shape[:1], batch.seen.shape[1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """(n,) log density of the seen cells; along random orders while the family trains."""
        rows = Batch(value, self.batch.seen, self.batch.weight, 1.0, self.batch.context)
        if self.family.net is None:
            return value.new_zeros(len(value))
        if self.family.training:
            return self.family.training_log_prob(rows)
        return _log_mean(self.family.by_order(rows))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """(n, m) new rows, from torch's global generator (Pyro's convention)."""
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        n, m = self.batch.seen.shape
        empty = Batch(
            torch.zeros(n, m, dtype=torch.float64, device=self.batch.seen.device),
            torch.zeros_like(self.batch.seen), self.batch.weight, 1.0, self.batch.context,
        )  # fmt: skip
        return self.family._drawn(empty, generator)


def _log_mean(each: Tensor) -> Tensor:
    return each.logsumexp(0) - math.log(len(each))


def _spread(each: Tensor) -> tuple[Tensor, Tensor]:
    """Standard error of the log of the mean by the delta method, and effective orders (n,)."""
    count = len(each)
    if count == 1:
        return torch.full_like(each[0], math.nan), torch.ones_like(each[0])
    share = each.softmax(0) * count  # p of each order over the mean
    se = ((share - 1).square().sum(0) / (count * (count - 1))).sqrt()
    return se, count**2 / share.square().sum(0)


def _summed_up(each: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, str]:
    """Log of the mean over orders, its error, effective orders, no Pareto shape; the method."""
    value, (se, ess) = _log_mean(each), _spread(each)
    return value, se, ess, torch.full_like(value, math.nan), "orders"


def _values(batch: Batch) -> Tensor:
    """The encoded values; zeros where there are none yet."""
    if batch.x is None:
        return torch.zeros(batch.seen.shape, dtype=batch.weight.dtype, device=batch.seen.device)
    return batch.x
