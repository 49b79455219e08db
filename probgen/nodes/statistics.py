"""Expected sufficient statistics of rows with unseen cells: the gradient of their log density."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from probgen.elimination.sums import log_sum
from probgen.nodes.layout import Group, Layout, groups
from probgen.nodes.sums import Curve, Direct, Integral, Parameters, Terms, terms_of

__all__ = ["Statistics", "expected_statistics"]


@dataclass
class Statistics:
    """Expected counts of each table, and moments (c, q + 1, q + 1) of (1, r, y) by configuration.

    `value` is the weighted log density of the rows.
    """

    tables: dict[int, Tensor]
    moments: dict[int, Tensor]
    value: Tensor
    #: of softmax nodes rows (n, q) of their parents, and shares (n, c, k) of their states
    curves: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)


def expected_statistics(
    layout: Layout, codes: Tensor, values: Tensor, seen: Tensor, weight: Tensor, at: Parameters
) -> Statistics:
    """What the rows say of each node, given what they see, at given parameters.

    The gradient of the log of a sum of products by the log of a factor is the posterior
    probability of its entries (Darwiche 2003, A differential approach to inference in Bayesian
    networks, JACM 50).
    """
    tables = {i: t.detach().clone().requires_grad_(True) for i, t in at.tables.items()}
    found = Statistics(
        {i: torch.zeros_like(t) for i, t in at.tables.items()},
        {i: _no_moments(layout, i, values) for i in layout.normal},
        values.new_zeros(()),
    )
    for group in groups(layout, seen):
        rows = group.rows
        own = codes[rows], values[rows], seen[rows]
        with torch.enable_grad():
            terms = terms_of(
                layout, group, *own, Parameters(tables, at.normals, at.curves), leaves=True
            )
            total = _backward(terms, layout, weight[rows])
        found.value = found.value + total
        for node, cell in terms.whole:
            found.tables[node].view(-1).index_add_(0, cell, weight[rows])
        for part in terms.parts:
            share = weight[rows] if part.log_values.grad is None else part.log_values.grad
            if isinstance(part, Curve):
                _add_curve(found, layout, part, share)
            elif isinstance(part, Direct):
                _add_seen(found, layout, own[1], part, share)
            else:
                _add_hidden(found, layout, group, own[1], part, share)
    for i, table in tables.items():
        if table.grad is not None:
            found.tables[i] += table.detach() * table.grad
    return found


def _no_moments(layout: Layout, node: int, values: Tensor) -> Tensor:
    q = len(layout.inputs[node]) + 2
    return values.new_zeros(layout.configurations(node), q, q)


def _backward(terms: Terms, layout: Layout, weight: Tensor) -> Tensor:
    """The weighted sum of log densities; its gradients are left on the leaves."""
    value = terms.log_scale
    if terms.factors:
        value = value + log_sum(terms.factors, layout.states, len(weight))
    total = weight @ value
    if total.requires_grad:
        total.backward()
    return total.detach()


def _design(layout: Layout, values: Tensor, node: int) -> Tensor:
    """Rows (n, q + 1) of (1, r, y)."""
    y, r = values[:, node], values[:, list(layout.inputs[node])]
    return torch.cat([torch.ones_like(y)[:, None], r, y[:, None]], 1)


def _add_seen(
    found: Statistics, layout: Layout, values: Tensor, part: Direct, share: Tensor
) -> None:
    z = _design(layout, values, part.node)
    into = found.moments[part.node]
    shares = share.reshape(len(z), -1)
    configs = part.config.reshape(len(z), -1)
    if len(into) * len(z) <= shares.numel() * 4 or len(into) <= 64:
        # a weight for each configuration: products of whole matrices instead of one a row
        spread = z.new_zeros(len(z), len(into)).scatter_add_(1, configs, shares)
        square = (z[:, :, None] * z[:, None, :]).flatten(1)
        into += (spread.mT @ square).view_as(into)
        return
    square = z[:, :, None] * z[:, None, :]
    for k in range(shares.shape[1]):
        into.index_add_(0, configs[:, k], shares[:, k, None, None] * square)


def _add_curve(found: Statistics, layout: Layout, part: Curve, share: Tensor) -> None:
    n, c, k = len(part.design), layout.configurations(part.node), layout.sizes[part.node]
    spread = share.new_zeros(n, c * k)
    spread.scatter_add_(1, part.cells.reshape(n, -1), share.reshape(n, -1))
    found.curves.setdefault(part.node, []).append((part.design, spread.view(n, c, k)))


def _add_hidden(
    found: Statistics,
    layout: Layout,
    group: Group,
    values: Tensor,
    part: Integral,
    share: Tensor,
) -> None:
    """Moments of nodes under the posterior of the unseen ones, configuration by configuration."""
    cover = torch.cholesky_inverse(part.root)[part.kind]  # (n, *scope, h, h)
    for node in part.nodes:
        places = (*layout.inputs[node], node)
        shape = part.mean.shape[:-1]
        columns = [values.new_ones(shape)]
        for place in places:
            if place in group.known:
                column = values[:, place].view(-1, *[1] * len(part.scope)).expand(shape)
            else:
                column = part.mean[..., part.hidden.index(place)]
            columns.append(column)
        z = torch.stack(columns, -1)
        square = z[..., :, None] * z[..., None, :]
        off = [a for a, place in enumerate(places) if place not in group.known]
        at = [part.hidden.index(places[a]) for a in off]
        for a, own in zip(off, at, strict=True):
            square[..., 1 + a, [1 + b for b in off]] += cover[..., own, at]
        flat = (share[..., None, None] * square).reshape(-1, *square.shape[-2:])
        found.moments[node].index_add_(0, part.config[node].reshape(-1), flat)
