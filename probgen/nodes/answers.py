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
from probgen.errors import NotSupported, message
from probgen.nodes.layout import groups
from probgen.nodes.network import Network, Values
from probgen.nodes.regressions import T
from probgen.nodes.rows import posterior_table
from probgen.nodes.sums import Integral, configurations, design_of, terms_of

#: draws of the regressions over which a distribution is averaged
FEWER = 64

__all__ = ["conditionals_of", "distribution_of", "posterior_states"]


def conditionals_of(network: Network, x: Tensor, seen: Tensor) -> Conditionals | None:
    """Every unseen cell of rows x (n, d) given the seen cells of its row, under the predictive.

    Rows in which an unseen normal node has unseen inputs or seen descendants are averaged over
    draws of the regressions. None where a softmax node counts with unseen normal parents.
    """
    layout = network.layout
    if any(bool((~seen[:, list(layout.inputs[i])]).any()) for i in layout.curved):
        return None
    open_ = network.layout.entangled(seen)
    parts = []
    closed, rows = (~open_).nonzero()[:, 0], open_.nonzero()[:, 0]
    if len(closed):
        parts.append((closed, _cells(network, x[closed], seen[closed], network.predictive())))
    if len(rows):
        parts.append((rows, _averaged(network, x[rows], seen[rows])))
    slots = {i for _, found in parts for i in found}
    return {
        i: _stacked([(at[found[i][0]], found[i][1]) for at, found in parts if i in found])
        for i in sorted(slots)
    }


def posterior_states(network: Network, x: Tensor, seen: Tensor, node: int) -> Tensor:
    """Probabilities (n, size) of the states of a discrete node that no row sees.

    Rows whose seen cells have probability 0 are 0 throughout.
    """
    tables = network.discrete()
    if tables is not None:
        codes, _ = network.split(x, seen)
        known = torch.tensor(tables.sizes, device=codes.device) - 1
        p = tables.posterior(codes.minimum(known), seen, node)
        return torch.where((codes > known).any(1, keepdim=True), 0.0, p)
    found = conditionals_of(network, x, seen)
    if found is None:
        raise NotSupported(message(
            "rows whose unseen cells have no exact sum", "rows that show the normal parents of "
            "discrete columns", "use prob, which draws where it must",
        ))  # fmt: skip
    cells = found[node][1]
    if isinstance(cells, Levels):
        return cells.probs
    assert isinstance(cells, Counts)  # noqa: S101 - a discrete node
    group, weights = network.group(node), cells.parts[0][1]
    return weights.new_zeros(len(x), group.size).index_add(1, group.group, weights)


def _averaged(network: Network, x: Tensor, seen: Tensor) -> Conditionals:
    """Cells of rows, averaged over draws by the density of what the rows show."""
    n = len(x)
    share = network.log_rows_by_draw(x, seen, FEWER, named=True).softmax(0)
    turn = torch.arange(FEWER, device=x.device).repeat_interleave(n)
    again = x.repeat(FEWER, 1), seen.repeat(FEWER, 1)
    found = _cells(network, *again, network.averaged(turn, FEWER))
    return {
        i: (rows[: len(rows) // FEWER], _folded(cells.scaled(share.flatten()[rows])))
        for i, (rows, cells) in found.items()
    }


def _folded(cells: Any) -> Cells:
    """The mixture of the same cells at each draw, draw by draw, of which the masses are shares."""

    def summed(values: Tensor) -> Tensor:
        return values.unflatten(0, (FEWER, -1)).sum(0)

    if isinstance(cells, Levels):
        return Levels(summed(cells.probs))
    if isinstance(cells, Counts):
        [(leaf, weights)] = cells.parts
        return Counts([(leaf, summed(weights))])
    names = ("weights", "mean", "scale", "dof")
    parts = (getattr(cells, name).unflatten(0, (FEWER, -1)) for name in names)
    return Reals(*(part.movedim(0, 1).flatten(1) for part in parts))


def _stacked(parts: list[tuple[Tensor, Any]]) -> tuple[Tensor, Cells]:
    """Cells of several sets of rows as those of one, in the order of the rows."""
    at = torch.cat([rows for rows, _ in parts])
    order, each = at.argsort(), [cells for _, cells in parts]
    if isinstance(each[0], Levels):
        return at[order], Levels(torch.cat([cells.probs for cells in each])[order])
    if isinstance(each[0], Counts):
        leaf = each[0].parts[0][0]
        weights = torch.cat([cells.parts[0][1] for cells in each])
        return at[order], Counts([(leaf, weights[order])])
    width = max(cells.weights.shape[1] for cells in each)
    names = ("weights", "mean", "scale", "dof")
    return at[order], Reals(*(
        torch.cat([_wide(getattr(cells, name), width, name) for cells in each])[order]
        for name in names
    ))  # fmt: skip


def _wide(values: Tensor, width: int, name: str) -> Tensor:
    """Values (c, k) of a mixture with more parts (c, width), those of no weight."""
    more = width - values.shape[1]
    rest = values[:, :1].expand(-1, more)
    return torch.cat([values, torch.zeros_like(rest) if name == "weights" else rest], 1)


def _cells(network: Network, x: Tensor, seen: Tensor, values_: Values) -> Conditionals:
    """Every unseen cell of rows, at given parameters."""
    open_ = unseen_rows(network.slots, seen)
    found: Conditionals = {}
    for i, p in _states(network, x, seen, values_, open_).items():
        found[i] = open_[i], _of_states(network, values_, i, p)
    atoms = atom_slots(network.slots)
    for i, rows in open_.items():
        if not network.is_normal(i):
            continue
        own_seen, own_x = seen[rows].clone(), x[rows].clone()
        if i in atoms:  # the number counts where no atom is drawn
            own_seen[:, atoms[i]], own_x[:, atoms[i]] = True, 0.0
        own = values_[0].take(rows), values_[1]
        cells = _normal(network, own_x, own_seen, own, i)
        if i in atoms:
            cells = cells.scaled(_no_atom(found, atoms[i], rows, seen))
        found[i] = rows, cells
    return found


def _of_states(network: Network, values_: Values, node: int, p: Tensor) -> Cells:
    """A discrete cell from probabilities (c, size) of its states."""
    if str(node) in network.values:
        own: Any = network.group(node)
        return Counts([(own, p[:, own.group] * values_[1][node].exp())])
    p[:, network.nameable.get(node, p.shape[1]) :] = 0.0
    return Levels(p)


def distribution_of(
    network: Network, x: Tensor, seen: Tensor, values_: Values, node: int
) -> Cells:
    """One unseen node of rows x (n, d) given the seen cells of its row, at given parameters."""
    if not network.is_normal(node):
        every = torch.arange(len(x), device=x.device)
        p = _states(network, x, seen, values_, {node: every})[node]
        return _of_states(network, values_, node, p)
    return _normal(network, x, seen, values_, node)


def _normal(network: Network, x: Tensor, seen: Tensor, values_: Values, node: int) -> Reals:
    """An unseen normal node of rows as a mixture of normals, or of t's where that is closed."""
    if values_[0].inner is None and isinstance(values_[0].normals[node], T):
        return _reals(network, x, seen, values_, node)
    layout = network.layout
    codes, values = network.split(x, seen)
    parts = []
    for group in groups(layout, seen):
        rows = group.rows
        own = codes[rows], values[rows], seen[rows]
        terms = terms_of(
            layout, group, *own, values_[0].take(rows), [node], nameable=network.nameable
        )
        [part] = [p for p in terms.parts if isinstance(p, Integral) and node in p.hidden]
        place = part.hidden.index(node)
        share = posterior_table(terms, layout, len(rows), part.scope)
        variance = torch.cholesky_inverse(part.root)[part.kind][..., place, place]
        parts.append((rows, *(
            t.reshape(len(rows), -1) for t in (share, part.mean[..., place], variance.sqrt())
        )))  # fmt: skip
    width = max(share.shape[1] for _, share, _, _ in parts)
    found = [x.new_zeros(len(x), width), x.new_zeros(len(x), width), x.new_ones(len(x), width)]
    for rows, *own_parts in parts:
        for into, value in zip(found, own_parts, strict=True):
            into[rows, : value.shape[1]] = value
    weights, mean, scale = found
    return Reals(weights, mean, scale, torch.full_like(mean, torch.inf))


def _no_atom(found: Conditionals, atom: int, rows: Tensor, seen: Tensor) -> Tensor:
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
        terms = terms_of(
            layout, group, *own, values_[0].take(rows), targets, nameable=network.nameable
        )
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
        terms = terms_of(
            layout, group, *part, values_[0], layout.labels[node], nameable=network.nameable
        )
        share = posterior_table(terms, layout, len(rows), scope).reshape(len(rows), -1)
        config = configurations(layout, part[0], node, scope).reshape(-1, share.shape[1])
        config = config.expand(len(rows), -1)
        middle, scale, dof = own.at(config, design_of(layout, part[1], node))
        for into, value in zip(out, (share, middle, scale, dof), strict=True):
            into[rows, : share.shape[1]] = value
            if into is not out[0]:
                into[rows, share.shape[1] :] = value[:, :1]
    return Reals(*out)
