"""One masked network for all orders of the slots of a row.

A masked autoencoder for distribution estimation (Germain, Gregor, Murray and Larochelle
2015, MADE) whose hidden units have fixed degrees: a unit of degree d reads the slots in the
first d places of an order, and the head of the slot in place p reads the units of degree p at
most. Only the masks of the first and last products depend on the order, so one set of weights
serves all of them (Uria, Murray and Larochelle 2014, A deep and tractable density estimator).
An unseen cell reads like one whose turn has not come.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from probgen.columns import Slot
from probgen.conditionals import atom_slots
from probgen.nn.cells import Cells
from probgen.nn.heads import Heads

__all__ = ["RowNetwork", "by_rank", "patterns", "places", "tied_order"]

#: rows of equal holes, on average, from which on they are drawn pattern by pattern
ALIKE = 16
#: strips into which wide layers are cut, and the least width for which that pays
STRIPS, STRIPPED = 4, 512


def tied_order(slots: Sequence[Slot], noise: Tensor) -> Tensor:
    """Orders (..., m) of the slots by one number a column, noise (..., columns).

    The slots of one column stay together, the one that says which atom a row holds first.
    """
    names = sorted({slot.column for slot in slots})
    of = torch.tensor([names.index(slot.column) for slot in slots], device=noise.device)
    return noise[..., of].argsort(dim=-1, stable=True)


def places(order: Tensor) -> Tensor:
    """By slot, its place in an order: the inverse permutation (..., m)."""
    return order.argsort(-1)


def by_rank(order: Tensor, rank: Tensor) -> Tensor:
    """Orders (n, m) of rows: slots of lower rank (n, m) first, those of equal rank by `order`."""
    return order[rank[:, order].to(torch.uint8).argsort(dim=-1, stable=True)]


def patterns(rank: Tensor) -> list[Tensor] | None:
    """Rows (c,) of each pattern (n, m) of small numbers; None where most rows have their own.

    Rows of one pattern go by one order, with one mask for all.
    """
    found, which = torch.unique(rank, dim=0, return_inverse=True)
    if len(found) > 1 and len(found) * ALIKE > len(rank):
        return None
    return [(which == number).nonzero()[:, 0] for number in range(len(found))]


class RowNetwork(nn.Module):
    """Log densities of the cells of rows, each given those before it, in any order.

    Parameters
    ----------
    slots : sequence of Slot
        At least one.
    context : int
        Features of a row that every cell is conditioned on.
    hidden : int
        Units of a layer; their degrees are spread evenly over the places of an order.
    layers : int
        Residual blocks of two layers each, after the first.
    dropout : float
        Share of the hidden units of a block that are dropped in training.
    parts : int
        Parts of the mixture of a real or a count slot.

    Notes
    -----
    Memory and time of a row are those of a dense network of the same sizes. The parameters
    are float64 until a fit casts them.
    """

    degree: Tensor
    below: Tensor

    def __init__(
        self,
        slots: Sequence[Slot],
        context: int = 0,
        hidden: int = 256,
        layers: int = 2,
        dropout: float = 0.0,
        parts: int = 8,
    ) -> None:
        super().__init__()
        self.slots, self.hidden, self.dropout = tuple(slots), hidden, dropout
        self.m = m = len(self.slots)
        self.cells, self.heads = Cells(slots), Heads(slots, parts)
        degree = torch.arange(hidden) * m // hidden
        self.register_buffer("degree", degree, persistent=False)
        below = degree[None, :] <= degree[:, None]
        self.register_buffer("below", below, persistent=False)
        self.degree_of = degree.tolist()
        self.strip = hidden if hidden < STRIPPED else -(-hidden // STRIPS)
        #: units of degree d at most: [: reach[d]]
        self.reach = [int((degree <= d).sum()) for d in range(m)]
        width = self.cells.width
        self.first = _weight(hidden, width, 0.5 * width)
        self.first_bias = nn.Parameter(torch.zeros(hidden, dtype=torch.float64))
        self.given = _weight(hidden, context, context) if context else None
        fan = below.sum(1, keepdim=True).double()
        self.inner = nn.ParameterList(_weight(hidden, hidden, fan) for _ in range(2 * layers))
        self.inner_bias = nn.ParameterList(
            nn.Parameter(torch.zeros(hidden, dtype=torch.float64)) for _ in range(2 * layers)
        )
        for weight in self.inner[1::2]:  # each block starts as a small step
            weight.data *= 0.1
        self.last = nn.Parameter(torch.zeros(self.heads.width, hidden, dtype=torch.float64))
        self.last_bias = nn.Parameter(torch.zeros(self.heads.width, dtype=torch.float64))
        self.direct = nn.Parameter(torch.zeros(self.heads.width, width, dtype=torch.float64))

    @torch.no_grad()
    def start(self, x: Tensor, seen: Tensor, weight: Tensor) -> None:
        """Start from independent columns: scales, and heads that give the marginals."""
        self.cells.start(x, seen, weight)
        self.last_bias.copy_(self.heads.start(x, seen, weight))
        self.last.zero_()
        self.direct.zero_()

    # --- the network, dense ---------------------------------------------------------------

    def log_probs(
        self,
        x: Tensor,
        seen: Tensor,
        order: Tensor,
        context: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Log density (n, m) of each seen cell given the seen cells before it, 0 where unseen.

        Parameters
        ----------
        x, seen : Tensor (n, m)
        order : Tensor (m,) or (g, m)
            Slots by turn. With g orders the rows fall into g runs of about equal length, and
            each run goes by its own.
        context : Tensor (n, context), optional
        known : Tensor (n, m) of bool, optional
            Cells that the others may be conditioned on; all seen ones by default.
        """
        place = places(order.view(-1, self.m))
        features = self.cells(x, seen if known is None else known)
        n, g = len(x), len(place)
        runs = [slice(i * n // g, (i + 1) * n // g) for i in range(g)]
        entered = [
            linear(features[rows], self.first * self._reads(own))
            for rows, own in zip(runs, place, strict=True)
        ]
        h = self._hidden(torch.cat(entered) if g > 1 else entered[0], context)
        out = [
            linear(h[rows], self.last * self._feeds(own), self.last_bias)
            + linear(features[rows], self.direct * self._precedes(own))
            for rows, own in zip(runs, place, strict=True)
        ]
        value = self.heads.log_probs(torch.cat(out) if g > 1 else out[0], x)
        return torch.where(seen, value, torch.zeros_like(value))

    def _reads(self, place: Tensor) -> Tensor:
        """Which features each unit of the first layer reads (hidden, features)."""
        return (place[self.cells.owner] < self.degree[:, None]).to(self.first.dtype)

    def _feeds(self, place: Tensor) -> Tensor:
        """Which units each output reads (outputs, hidden)."""
        return (self.degree <= place[self.heads.owner][:, None]).to(self.last.dtype)

    def _precedes(self, place: Tensor) -> Tensor:
        """Which features each output reads directly (outputs, features)."""
        earlier = place[self.cells.owner] < place[self.heads.owner][:, None]
        return earlier.to(self.direct.dtype)

    def _hidden(self, entered: Tensor, context: Tensor | None) -> Tensor:
        """The last hidden layer from the products of the first."""
        h = entered + self.first_bias
        if self.given is not None and context is not None:
            h = h + linear(context.to(h.dtype), self.given)
        for a in range(0, len(self.inner), 2):
            step = dropout(self._inner(a, h.relu()).relu(), self.dropout, self.training)
            h = h + self._inner(a + 1, step)
        return h.relu()

    def _inner(self, layer: int, h: Tensor) -> Tensor:
        """An inner layer, a strip of units at a time: a unit reads none of higher degree."""
        mask, bias = self.below.to(h.dtype), self.inner_bias[layer]
        weights = self.inner[layer].split(self.strip)
        stops = [min(self.hidden, (k + 1) * self.strip) for k in range(len(weights))]
        ends = [self.reach[int(self.degree_of[stop - 1])] for stop in stops]
        parts = [
            h[:, :end] @ (own[:, :end] * mask[stop - len(own) : stop, :end]).T
            for own, stop, end in zip(weights, stops, ends, strict=True)
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, 1)) + bias

    # --- rows of their own orders ---------------------------------------------------------

    def log_probs_by_row(
        self, x: Tensor, seen: Tensor, place: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """As `log_probs`, with places (n, m) of the slots of each row.

        Cost n m hidden beyond that of `log_probs`: the masks are applied slot by slot.
        """
        value = self.heads.log_probs(self.outputs_by_row(x, seen, place, context), x)
        return torch.where(seen, value, torch.zeros_like(value))

    def outputs_by_row(
        self, x: Tensor, seen: Tensor, place: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """Outputs (n, outputs) of all slots; slots that share a place do not read one another."""
        features = self.cells(x, seen)
        h = self._hidden(self._entered(features, place), context)
        out = h.new_zeros(len(h), self.heads.width)
        for i in range(self.m):
            _, _, span = self.heads.at[i]
            read = h * (self.degree <= place[:, i, None])
            before = features * (place[:, self.cells.owner] < place[:, i, None])
            out[:, span] = linear(read, self.last[span], self.last_bias[span])
            out[:, span] += linear(before, self.direct[span])
        return out

    def outputs_of(
        self, slot: int, x: Tensor, seen: Tensor, order: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """Outputs (n, outputs of the slot) of an unseen slot given all seen cells of its row."""
        place = places(by_rank(order, ~seen))
        features = self.cells(x, seen)
        entered = self._entered(features, place)
        return self._output(slot, entered, features, seen.sum(1), context)

    def _output(
        self, slot: int, entered: Tensor, features: Tensor, place: Tensor, context: Tensor | None
    ) -> Tensor:
        """The same from the first layer; every known cell has its place (n,) before the slot."""
        read = self._hidden(entered, context) * (self.degree <= place[:, None])
        _, _, span = self.heads.at[slot]
        out = linear(read, self.last[span], self.last_bias[span])
        return out + linear(features, self.direct[span])

    def _entered(self, features: Tensor, place: Tensor) -> Tensor:
        entered = features.new_zeros(len(features), self.hidden)
        for i in range(self.m):
            entered += self._one(features, i) * (self.degree > place[:, i, None])
        return entered

    def _one(self, features: Tensor, slot: int) -> Tensor:
        """What one slot adds to the products of the first layer (n, hidden)."""
        own = self._owned(slot)
        return features[:, own] @ self.first[:, own].T

    def _owned(self, slot: int) -> Tensor:
        return (self.cells.owner == slot).nonzero()[:, 0]

    # --- drawing --------------------------------------------------------------------------

    @torch.no_grad()
    def draw(
        self,
        x: Tensor,
        seen: Tensor,
        order: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Fill the unseen cells of x (n, m), in `order` (m,) with the seen cells of a row first.

        Exact for the density along that order. Randomness is that of `generator`, of torch's
        global one if None. Rows that are unseen in the same slots cost one pass of the
        network together: each unit is computed once, when what it reads is known. Other rows
        take a pass a slot.

        Returns
        -------
        Tensor (n, m)
            The cell of a number whose column holds an atom stays 0.
        """
        x, seen = torch.where(seen, x, torch.zeros_like(x)), seen.clone()
        open_ = ~seen & ~self._settled(x, seen)
        if not len(x) or not bool(open_.any()):
            return x
        alike = patterns(seen)
        if alike is None:
            return self._draw_apart(x, seen, order, context, generator)
        for at in alike:
            part = None if context is None else context[at]
            x[at] = self._draw_alike(x[at], seen[at], order, part, generator)
        return x

    def _settled(self, x: Tensor, seen: Tensor) -> Tensor:
        """Numbers (n, m) that are no question, as their column is seen to hold an atom."""
        out = torch.zeros_like(seen)
        for i, j in atom_slots(self.slots).items():
            out[:, i] = seen[:, j] & (x[:, j] != 0)
        return out

    def _draw_alike(
        self,
        x: Tensor,
        seen: Tensor,
        order: Tensor,
        context: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Rows seen in the same slots: units enter by their degree, each once."""
        atoms = atom_slots(self.slots)
        turn = by_rank(order, ~seen[:1])[0].tolist()
        entered = self.first_bias.expand(len(x), -1).clone()
        if self.given is not None and context is not None:
            entered += linear(context.to(entered.dtype), self.given)
        layers = [entered, *(torch.zeros_like(entered) for _ in self.inner)]
        features = entered.new_zeros(len(x), self.cells.width)  # of the cells before this one
        done = 0
        for place, slot in enumerate(turn):
            reach = self.reach[place]
            self._advance(layers, done, reach)
            done = reach
            if not bool(seen[0, slot]):
                _, _, span = self.heads.at[slot]
                h = layers[-1][:, :reach].relu()
                out = linear(h, self.last[span, :reach], self.last_bias[span])
                out += linear(features, self.direct[span])
                value = self.heads.draw(out, slot, generator).to(x.dtype)
                on = torch.ones_like(seen[:, slot])
                if slot in atoms:
                    on = x[:, atoms[slot]] == 0
                x[:, slot] = torch.where(on, value, torch.zeros_like(value))
                seen[:, slot] = on
            own = self._owned(slot)
            features[:, own] = self.cells(x, seen)[:, own]
            entered[:, reach:] += features[:, own] @ self.first[reach:, own].T
        return x

    def _advance(self, layers: list[Tensor], start: int, stop: int) -> None:
        """Compute the units from `start` to `stop` of every layer after the first."""
        if start == stop:
            return
        new = slice(start, stop)
        below = self.below[new, :stop].to(layers[0].dtype)
        h = layers[0]
        for a in range(0, len(self.inner), 2):
            middle, after = layers[a + 1], layers[a + 2]
            one, two = self.inner[a][new, :stop] * below, self.inner[a + 1][new, :stop] * below
            middle[:, new] = linear(h[:, :stop].relu(), one, self.inner_bias[a][new]).relu()
            step = linear(middle[:, :stop], two, self.inner_bias[a + 1][new])
            after[:, new] = h[:, new] + step
            h = after

    def _draw_apart(
        self,
        x: Tensor,
        seen: Tensor,
        order: Tensor,
        context: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Rows of any patterns of holes: a pass a slot over the rows that lack it."""
        atoms, place = atom_slots(self.slots), places(by_rank(order, ~seen))
        hidden = ~seen & ~self._settled(x, seen)
        features = self.cells(x, seen)
        entered = self._entered(features, place)  # unseen cells add nothing
        for slot in order.tolist():
            rows = hidden[:, slot]
            if slot in atoms:
                rows = rows & (x[:, atoms[slot]] == 0)
            at = rows.nonzero()[:, 0]
            if not len(at):
                continue
            part = None if context is None else context[at]
            out = self._output(slot, entered[at], features[at], place[at, slot], part)
            x[at, slot] = self.heads.draw(out, slot, generator).to(x.dtype)
            seen[at, slot] = True
            features[at] = self.cells(x[at], seen[at])
            added = self._one(features[at], slot)
            entered[at] += added * (self.degree > place[at, slot, None])
        return x


def _weight(rows: int, columns: int, fan: float | Tensor) -> nn.Parameter:
    """Normal weights for `fan` active inputs a unit (He, Zhang, Ren and Sun 2015)."""
    scale = math.sqrt(2.0) / torch.as_tensor(fan, dtype=torch.float64).clamp_min(1.0).sqrt()
    return nn.Parameter(torch.randn(rows, columns, dtype=torch.float64) * scale)
