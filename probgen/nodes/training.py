"""Training rows, of which most need to be looked at once: what they say is in a few sums.

Where all cells that matter are seen, the counts and moments of a row do not depend on parameters,
and its expected log density is linear in them. Only rows with an unseen cell above a seen one are
worked out again in every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probgen.nodes.layout import Layout, mixed_radix
from probgen.nodes.regressions import Potential
from probgen.nodes.statistics import Statistics, expected_statistics
from probgen.nodes.sums import Parameters, design_of

__all__ = ["TrainingRows", "settled_statistics"]


@dataclass
class TrainingRows:
    """The rows of a table, prepared for a graph.

    `settled` are the counts and moments of the rows that show all that matters; the other rows
    are held as they are. `source` holds the tensors that all was made from: as long as they
    live, no others can lie at their address.
    """

    source: tuple[Tensor, Tensor, Tensor]
    version: int
    settled: Statistics
    codes: Tensor
    values: Tensor
    seen: Tensor
    weight: Tensor

    @classmethod
    def of(
        cls, layout: Layout, codes: Tensor, values: Tensor, source: tuple[Tensor, Tensor, Tensor]
    ) -> TrainingRows:
        """From codes and values (n, d) of rows (x, seen, weight)."""
        x, seen, weight = source
        open_ = torch.zeros(len(seen), dtype=torch.bool, device=seen.device)
        if not bool(seen.all()):
            open_ = (layout.informed(seen) & ~seen).any(1)
        rows = open_.nonzero()[:, 0]
        part = (codes, values, seen, weight.double())
        held = part if not len(rows) else tuple(t[~open_] for t in part)
        left = codes[rows], values[rows], seen[rows], weight[rows].double()
        return cls(source, x._version, settled_statistics(layout, *held), *left)

    def fits(self, source: tuple[Tensor, Tensor, Tensor]) -> bool:
        """Whether this was made from these very tensors."""
        same = all(
            one.data_ptr() == two.data_ptr() and one.shape == two.shape
            for one, two in zip(self.source, source, strict=True)
        )
        return same and self.version == source[0]._version

    def statistics(self, layout: Layout, at: Parameters, factor: float) -> Statistics:
        """Expected counts, moments and log density at given parameters, times a factor."""
        found = expected_statistics(layout, self.codes, self.values, self.seen, self.weight, at)
        return Statistics(
            {i: factor * (found.tables[i] + own) for i, own in self.settled.tables.items()},
            {i: factor * (found.moments[i] + own) for i, own in self.settled.moments.items()},
            factor * (found.value + _value(layout, self.settled, at)),
            {
                i: [(r, factor * share) for r, share in [*own, *found.curves.get(i, [])]]
                for i, own in self.settled.curves.items()
            },
        )


def settled_statistics(
    layout: Layout, codes: Tensor, values: Tensor, seen: Tensor, weight: Tensor
) -> Statistics:
    """Counts and moments of rows that show the whole family of every node that they show."""
    every = bool(seen.all())

    def rows(node: int) -> Tensor | slice:
        return slice(None) if every else seen[:, node].nonzero()[:, 0]

    return Statistics(
        {i: _table(layout, codes, weight, i, rows(i)) for i in layout.tabled},
        {i: _moments(layout, codes, values, weight, i, rows(i)) for i in layout.normal},
        weight.new_zeros(()),
        {i: [_shares(layout, codes, values, weight, i, rows(i))] for i in layout.curved},
    )


def _table(
    layout: Layout, codes: Tensor, weight: Tensor, node: int, rows: Tensor | slice
) -> Tensor:
    """Weighted counts ``(size, *parent sizes)`` of rows that see a node and its parents."""
    family = (node, *layout.labels[node])
    shape = [layout.sizes[v] for v in family]
    cell = mixed_radix([codes[rows, v] for v in family], shape)
    assert isinstance(cell, Tensor)  # noqa: S101 - a table has an axis
    size = layout.sizes[node] * layout.configurations(node)
    return torch.bincount(cell, weight[rows], minlength=size).view(shape)


def _moments(
    layout: Layout, codes: Tensor, values: Tensor, weight: Tensor, node: int,
    rows: Tensor | slice,
) -> Tensor:  # fmt: skip
    """Weighted products of (1, r, y) by configuration (c, q + 1, q + 1), of such rows."""
    w, y = weight[rows], values[rows, node]
    inputs = [values[rows, p] for p in layout.inputs[node]]
    z = torch.stack([torch.ones_like(y), *inputs, y], 1)
    c, labels = layout.configurations(node), layout.labels[node]
    if c == 1:
        return (z.mT @ (w[:, None] * z))[None]
    config = mixed_radix([codes[rows, p] for p in labels], layout.shape(node))
    square = w[:, None, None] * z[:, :, None] * z[:, None, :]
    found = z.new_zeros(c, z.shape[1], z.shape[1])
    return found.index_add(0, torch.as_tensor(config, device=z.device), square)


def _shares(
    layout: Layout, codes: Tensor, values: Tensor, weight: Tensor, node: int, rows: Tensor | slice
) -> tuple[Tensor, Tensor]:
    """Parents (n, q) of a softmax node, and weights (n, c, k) at its configuration and state."""
    c, k, own = layout.configurations(node), layout.sizes[node], codes[rows]
    config = mixed_radix([own[:, p] for p in layout.labels[node]], layout.shape(node))
    cell = config * k + own[:, node]
    share = weight.new_zeros(len(own), c * k, dtype=torch.float64)
    share.scatter_(1, cell[:, None], weight[rows].double()[:, None])
    return design_of(layout, values[rows], node), share.view(-1, c, k)


def _value(layout: Layout, found: Statistics, at: Parameters) -> Tensor:
    """The weighted log density of rows from their counts and moments."""
    total = found.value
    for i, counts in found.tables.items():
        total = total + torch.xlogy(counts, at.tables[i]).sum()
    normals: Mapping[int, object] = at.normals
    for i, moments in found.moments.items():
        own = normals[i]
        assert isinstance(own, Potential)  # noqa: S101 - a t has no linear value
        v = [moments.shape[1] - 1, *range(1, moments.shape[1] - 1)]  # (y, r)
        square = moments[:, v][:, :, v]
        total = total + (own.constant * moments[:, 0, 0]).sum()
        total = total + (own.linear * moments[:, 0, v]).sum()
        total = total - 0.5 * (own.quadratic * square).sum()
    for i, rows in found.curves.items():
        for r, share in rows:
            total = total + (share * at.curves[i].log_probs(r)).sum()
    return total
