"""Each unseen cell of a row given the seen ones, as distributions in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from probgen.conditionals import (
    Cells,
    Conditionals,
    Counts,
    Levels,
    Reals,
    atom_slots,
    unseen_rows,
)
from probgen.elimination.sums import marginals
from probgen.nodes.groups import GroupNode
from probgen.nodes.layout import groups
from probgen.nodes.network import Network, Values
from probgen.nodes.regressions import T
from probgen.nodes.rows import posterior_table
from probgen.nodes.sums import Integral, configurations, terms_of

__all__ = ["conditionals_of", "distribution_of"]


def conditionals_of(
    network: Network, x: Tensor, seen: Tensor, values_: Values
) -> Conditionals | None:
    """Every unseen cell of rows x (n, d) given the seen cells of its row, under the predictive.

    None where some unseen normal cell has an unseen input: a sum of Student's t is none.
    """
    layout, slots = network.layout, network.slots
    open_ = unseen_rows(slots, seen)
    for i, rows in open_.items():
        if network.is_normal(i) and not bool(seen[rows][:, list(layout.inputs[i])].all()):
            return None
    if bool(layout.hidden_inputs(seen).any()):
        return None
    found: Conditionals = {}
    for i, p in _states(network, x, seen, values_, open_).items():
        rows = open_[i]
        if str(i) in network.values:
            own = network.group(i)
            weights = p[:, own.group] * values_[1][i].exp()
            found[i] = rows, _grouped(own, weights)
        else:
            if i in network.nameable:
                p[:, network.nameable[i] :] = 0.0
            found[i] = rows, Levels(p)
    atoms = atom_slots(slots)
    for i, rows in open_.items():
        if not network.is_normal(i):
            continue
        own_seen, own_x = seen[rows].clone(), x[rows].clone()
        if i in atoms:  # the number counts where no atom is drawn
            own_seen[:, atoms[i]], own_x[:, atoms[i]] = True, 0.0
        cells = _reals(network, own_x, own_seen, values_, i)
        if i in atoms:
            cells = cells.scaled(_no_atom(found, atoms[i], rows, x, seen))
        found[i] = rows, cells
    return found


def distribution_of(
    network: Network, x: Tensor, seen: Tensor, values_: Values, node: int
) -> Cells:
    """One unseen node of rows x (n, d) given the seen cells of its row, at given parameters."""
    layout = network.layout
    if not network.is_normal(node):
        every = torch.arange(len(x), device=x.device)
        p = _states(network, x, seen, values_, {node: every})[node]
        if str(node) in network.values:
            own = network.group(node)
            return _grouped(own, p[:, own.group] * values_[1][node].exp())
        p[:, network.nameable.get(node, p.shape[1]) :] = 0.0
        return Levels(p)
    codes, values = network.split(x, seen)
    parts = []
    for group in groups(layout, seen):
        rows = group.rows
        terms = terms_of(layout, group, codes[rows], values[rows], seen[rows], values_[0], [node])
        [part] = [p for p in terms.parts if isinstance(p, Integral) and node in p.hidden]
        at = part.hidden.index(node)
        share = posterior_table(terms, layout, len(rows), part.scope)
        variance = torch.cholesky_inverse(part.root)[part.kind][..., at, at]
        parts.append((rows, *(
            t.reshape(len(rows), -1) for t in (share, part.mean[..., at], variance.sqrt())
        )))  # fmt: skip
    width = max(share.shape[1] for _, share, _, _ in parts)
    found = [x.new_zeros(len(x), width), x.new_zeros(len(x), width), x.new_ones(len(x), width)]
    for rows, *own_parts in parts:
        for into, value in zip(found, own_parts, strict=True):
            into[rows, : value.shape[1]] = value
    weights, mean, scale = found
    return Reals(weights, mean, scale, torch.full_like(mean, torch.inf))


def _grouped(own: GroupNode, weights: Tensor) -> Cells:
    leaf: Any = own
    return Counts([(leaf, weights)])


def _no_atom(found: Conditionals, atom: int, rows: Tensor, x: Tensor, seen: Tensor) -> Tensor:
    """Probability (c,) that the rows hold no atom."""
    none = torch.ones(len(seen), dtype=torch.float64, device=seen.device)
    if atom in found:
        at, cells = found[atom]
        assert isinstance(cells, Levels)  # noqa: S101 - atoms are states
        none[at] = cells.probs[:, 0] / cells.probs.sum(1)
    return none[rows]


def _states(
    network: Network, x: Tensor, seen: Tensor, values_: Values, open_: dict[int, Tensor]
) -> dict[int, Tensor]:
    """Probabilities (c, size) of the states of unseen discrete cells, slot by slot."""
    layout = network.layout
    wanted = [i for i in open_ if not network.is_normal(i)]
    codes, values = network.split(x, seen)
    whole = {i: values.new_zeros(len(x), layout.sizes[i]) for i in wanted}
    for group in groups(layout, seen):
        rows = group.rows
        targets = [i for i in wanted if i not in group.fixed]
        if not targets:
            continue
        own = codes[rows], values[rows], seen[rows]
        terms = terms_of(layout, group, *own, values_[0], targets)
        for i, p in marginals(terms.factors, layout.states, len(rows), targets).items():
            whole[i][rows] = p
    return {i: p[open_[i]] for i, p in whole.items()}


def _reals(network: Network, x: Tensor, seen: Tensor, values_: Values, node: int) -> Reals:
    """An unseen normal node of rows, all of which see its inputs, as a mixture of t's."""
    layout = network.layout
    codes, values = network.split(x, seen)
    c = layout.configurations(node)
    out = [values.new_zeros(len(x), c) for _ in range(4)]
    own = values_[0].normals[node]
    assert isinstance(own, T)  # noqa: S101 - asked of the predictive
    for group in groups(layout, seen):
        rows = group.rows
        part = codes[rows], values[rows], seen[rows]
        scope = tuple(p for p in layout.labels[node] if p not in group.fixed)
        terms = terms_of(layout, group, *part, values_[0], layout.labels[node])
        share = posterior_table(terms, layout, len(rows), scope).reshape(len(rows), -1)
        config = configurations(layout, part[0], node, scope).reshape(-1, share.shape[1])
        config = config.expand(len(rows), -1)
        r = values[rows][:, list(layout.inputs[node])]
        design = torch.cat([torch.ones_like(r[:, :0].sum(1))[:, None], r], 1)
        middle, scale, dof = own.at(config, design)
        for into, value in zip(out, (share, middle, scale, dof), strict=True):
            into[rows, : share.shape[1]] = value
            if into is not out[0]:
                into[rows, share.shape[1] :] = value[:, :1]
    return Reals(*out)
