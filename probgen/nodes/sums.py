"""Rows under a network at given parameters: sums over all that they do not see.

Discrete nodes give factors, and so do normal nodes: those that are seen with their parents as
functions of their discrete parents, unseen ones after they are integrated out. What is left is a
sum over discrete nodes, by elimination. Nodes without seen descendants are left out: they sum to
one.

Sizes: n rows, c configurations of the discrete parents of a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from probgen.elimination.factors import Factor
from probgen.elimination.plans import LIMIT, plan
from probgen.errors import NotSupported, message
from probgen.nodes.layout import Group, Layout, kinds_of, mixed_radix
from probgen.nodes.regressions import LOG_2PI, Potential, T
from probgen.nodes.softmax import Softmax

__all__ = [
    "Curve", "Direct", "Integral", "Parameters", "Terms", "cells_of", "config_of",
    "configurations", "design_of", "line_of", "state_probabilities", "terms_of", "too_wide",
]  # fmt: skip


@dataclass
class Parameters:
    """Values of all parameters, at which rows are scored.

    `tables` ``(size, *parent sizes)`` of the discrete nodes; `normals` of the normal ones, a
    `Potential` each; `curves` of the softmax nodes. Of the predictive a normal node is a
    Student's t, which does not stay one when an unseen node is integrated out: there `inner` holds
    potentials at several posterior draws, those of a draw after those of the draw before, and
    `turn` (n,) says which draw each row takes.
    """

    tables: dict[int, Tensor]
    normals: Mapping[int, Potential | T]
    curves: Mapping[int, Softmax] = field(default_factory=dict)
    inner: dict[int, Potential] | None = None
    turn: Tensor | None = None

    def take(self, rows: Tensor) -> Parameters:
        """The same for some of the rows."""
        return self if self.turn is None else replace(self, turn=self.turn[rows])


@dataclass
class Direct:
    """The log density of a seen normal node with seen inputs, over its unseen discrete parents."""

    node: int
    scope: tuple[int, ...]
    log_values: Tensor  # (n, *sizes of the scope)
    config: Tensor  # of the same shape: configurations of the node


@dataclass
class Curve:
    """The log probabilities of a softmax node, over its own state and its discrete parents."""

    node: int
    scope: tuple[int, ...]
    log_values: Tensor  # (n, *sizes of the scope)
    cells: Tensor  # of the same shape: places in (c, k)
    design: Tensor  # (n, q): 1 and the normal parents


@dataclass
class Integral:
    """Unseen normal nodes that hang together, integrated out, over unseen discrete parents."""

    hidden: tuple[int, ...]
    nodes: tuple[int, ...]  # whose densities are in the integral
    scope: tuple[int, ...]
    log_values: Tensor  # (n, *scope)
    mean: Tensor  # (n, *scope, h) of the hidden nodes given the configuration
    root: Tensor  # (u, *scope, h, h) Cholesky root of their precision, of u kinds of rows
    kind: Tensor  # (n,)
    config: dict[int, Tensor]  # (n, *scope) of each node


@dataclass
class Terms:
    """What the rows of a group multiply: factors over unseen discrete nodes, and a log scale."""

    factors: list[Factor]
    log_scale: Tensor  # (n,)
    parts: list[Direct | Integral | Curve] = field(default_factory=list)
    #: discrete nodes whose whole family is seen: number and cell of its table (n,)
    whole: list[tuple[int, Tensor]] = field(default_factory=list)


def cells_of(table: Tensor, axes: list[int], codes: list[Tensor]) -> Tensor:
    """The table with the first axes `axes` taken at codes (n,) each: ``(n, *other axes)``."""
    rest = [a for a in range(table.dim()) if a not in axes]
    sizes = [table.shape[a] for a in axes]
    flat = table.permute(*axes, *rest).reshape(-1, *(table.shape[a] for a in rest))
    return flat[mixed_radix(codes, sizes)]


def terms_of(
    layout: Layout,
    group: Group,
    codes: Tensor,
    values: Tensor,
    seen: Tensor,
    at: Parameters,
    targets: Iterable[int] = (),
    leaves: bool = False,
    nameable: Mapping[int, int] | None = None,
    everywhere: bool = False,
) -> Terms:
    """The factors of a group of rows; `codes`, `values` and `seen` (n, d) are those rows' own.

    Barren nodes are left out, unless they are among `targets` or above one of them. With `leaves`
    the log values of normal nodes become leaves of the graph: their gradients are the posterior
    weights of configurations. `nameable` leaves states without a name out of unseen nodes above
    seen ones, or out of all unseen ones where `everywhere` is set: the numbers of states that have
    a name, of nodes where these are not all.
    """
    kept = layout.dag.ancestors([*group.some, *targets])
    found = Terms([], values.new_zeros(len(codes)))
    for i in layout.discrete:
        if i not in kept:
            continue
        if layout.inputs[i]:
            _add(found, _curve(layout, group, codes, values, i, at.curves[i]), leaves)
        else:
            _add_table(found, layout, group, codes, i, at.tables[i], leaves)
        if i in group.soft:
            hot = torch.nn.functional.one_hot(codes[:, i], layout.sizes[i]).to(values.dtype)
            found.factors.append(
                Factor((i,), torch.where(seen[:, i, None], hot, torch.ones_like(hot)), True)
            )
    bound = ~seen if everywhere or not nameable else layout.informed(seen) & ~seen
    for i, count in (nameable or {}).items():
        if i in kept and i not in group.fixed:
            good = torch.arange(layout.sizes[i], device=seen.device) < count
            found.factors.append(Factor((i,), (good | ~bound[:, i, None]).to(values.dtype), True))
    inside, apart = _components(layout, group, kept)
    for i in apart:
        _add(found, _direct(layout, group, codes, values, i, at.normals[i]), leaves)
    for hidden, nodes in inside:
        _add(found, _integral(layout, group, codes, values, hidden, nodes, at), leaves)
    return found


def too_wide(layout: Layout, seen: Tensor, limit: int = LIMIT) -> Tensor:
    """Rows (n,) whose exact sum is predicted to take more than `limit` bytes a row."""
    _, back = kinds_of(seen.long(), [2] * seen.shape[1])
    found = torch.zeros(len(seen), dtype=torch.bool, device=seen.device)
    for kind in range(int(back.max()) + 1 if len(seen) else 0):
        rows = (back == kind).nonzero()[:, 0]
        own = seen[rows[0]].tolist()
        group = Group(
            rows[:1], frozenset(i for i in layout.discrete if own[i]), frozenset(),
            frozenset(i for i in layout.normal if own[i]),
        )  # fmt: skip
        kept = layout.dag.ancestors(group.some)
        scopes = [(i, *layout.labels[i]) for i in layout.discrete if i in kept]
        inside, apart = _components(layout, group, kept)
        scopes += [layout.labels[i] for i in apart]
        scopes += [_free(layout, group, nodes) for _, nodes in inside]
        scopes = [tuple(v for v in scope if v not in group.fixed) for scope in scopes]
        left = tuple(scope for scope in scopes if scope)
        path = plan(left, (True,) * len(left), layout.states)
        found[rows] = path.memory(1) > limit
    return found


def _add_table(
    found: Terms,
    layout: Layout,
    group: Group,
    codes: Tensor,
    node: int,
    table: Tensor,
    leaves: bool,
) -> None:
    scope = (node, *layout.labels[node])
    axes = [a for a, i in enumerate(scope) if i in group.fixed]
    own = [codes[:, scope[a]] for a in axes]
    if len(axes) == len(scope):
        cell = mixed_radix(own, table.shape)
        assert isinstance(cell, Tensor)  # noqa: S101 - a table has an axis
        found.whole.append((node, cell))
        own_table = table.detach() if leaves else table  # what is counted needs no gradient
        found.log_scale = found.log_scale + own_table.reshape(-1)[cell].log()
        return
    free = tuple(i for i in scope if i not in group.fixed)
    values = cells_of(table, axes, own) if axes else table
    found.factors.append(Factor(free, values, bool(axes)))


def _add(found: Terms, part: Direct | Integral | Curve, leaves: bool) -> None:
    found.parts.append(part)
    if leaves:
        part.log_values = part.log_values.detach().requires_grad_(True)
    flat = part.log_values.detach().flatten(1) if part.scope else part.log_values.detach()[:, None]
    top = flat.amax(1)
    top = torch.where(top.isfinite(), top, torch.zeros_like(top))
    found.log_scale = found.log_scale + top
    shift = top.view(-1, *[1] * len(part.scope))
    if part.scope:
        found.factors.append(Factor(part.scope, (part.log_values - shift).exp(), True))
    else:
        found.log_scale = found.log_scale + (part.log_values - shift)


def _components(
    layout: Layout, group: Group, kept: frozenset[int]
) -> tuple[list[tuple[tuple[int, ...], tuple[int, ...]]], list[int]]:
    """Unseen normal nodes that meet in a density, with these densities; and densities without."""
    nodes = [i for i in layout.normal if i in kept]
    hidden = {i: [v for v in (i, *layout.inputs[i]) if v not in group.known] for i in nodes}
    owner: dict[int, int] = {}

    def root(v: int) -> int:
        while owner.setdefault(v, v) != v:
            v = owner[v]
        return v

    for own in hidden.values():
        for v in own[1:]:
            owner[root(v)] = root(own[0])
    sets: dict[int, tuple[set[int], list[int]]] = {}
    for i in nodes:
        if hidden[i]:
            members, densities = sets.setdefault(root(hidden[i][0]), (set(), []))
            members.update(hidden[i])
            densities.append(i)
    inside = [(tuple(sorted(members)), tuple(own)) for members, own in sets.values()]
    return inside, [i for i in nodes if not hidden[i]]


def configurations(layout: Layout, codes: Tensor, node: int, scope: tuple[int, ...]) -> Tensor:
    """Configurations of a node ``(n or 1, *sizes of scope)``, over its unseen discrete parents."""
    found = codes.new_zeros((1,) * (len(scope) + 1))
    for p in layout.labels[node]:
        found = found * layout.sizes[p]
        if p in scope:
            shape = [1] * (len(scope) + 1)
            shape[1 + scope.index(p)] = layout.sizes[p]
            found = found + torch.arange(layout.sizes[p], device=codes.device).view(shape)
        else:
            found = found + codes[:, p].view(-1, *[1] * len(scope))
    return found


def _free(layout: Layout, group: Group, nodes: Iterable[int]) -> tuple[int, ...]:
    """Discrete parents of nodes that not all rows see."""
    return tuple(sorted({p for i in nodes for p in layout.labels[i]} - group.fixed))


def _full(config: Tensor, n: int, layout: Layout, scope: tuple[int, ...]) -> Tensor:
    return config.expand(n, *(layout.sizes[p] for p in scope))


def _direct(
    layout: Layout, group: Group, codes: Tensor, values: Tensor, node: int, own: Potential | T
) -> Direct:
    scope = _free(layout, group, [node])
    config = _full(configurations(layout, codes, node, scope), len(codes), layout, scope)
    y, r = values[:, node], values[:, list(layout.inputs[node])]
    if isinstance(own, T):
        design = torch.cat([torch.ones_like(y)[:, None], r], 1)
        return Direct(node, scope, own.log_prob(y, config, design), config)
    v = torch.cat([y[:, None], r], 1)
    across = torch.einsum("n...ij,nj->n...i", own.quadratic[config], v)
    square = torch.einsum("n...i,ni->n...", across, v)
    line = torch.einsum("n...i,ni->n...", own.linear[config], v)
    return Direct(node, scope, own.constant[config] + line - 0.5 * square, config)


def design_of(layout: Layout, values: Tensor, node: int) -> Tensor:
    """Rows (n, q) of 1 and the normal parents of a node."""
    r = values[:, list(layout.inputs[node])]
    return torch.cat([torch.ones(len(r), 1, dtype=r.dtype, device=r.device), r], 1)


def _curve(
    layout: Layout, group: Group, codes: Tensor, values: Tensor, node: int, own: Softmax
) -> Curve:
    hidden = [p for p in layout.inputs[node] if p not in group.known]
    if hidden:
        raise NotSupported(message(
            f"unseen numbers in {layout.named(hidden)}, parents of {layout.named([node])}, which "
            "counts",
            "these cells: a softmax has no exact integral over them",
            "fill the cells, or set approximate=True for importance sampling",
        ))  # fmt: skip
    scope = tuple(v for v in (node, *layout.labels[node]) if v not in group.fixed)
    cells = configurations(layout, codes, node, scope) * layout.sizes[node]
    if node in scope:
        shape = [1] * (len(scope) + 1)
        shape[1] = layout.sizes[node]
        cells = cells + torch.arange(layout.sizes[node], device=codes.device).view(shape)
    else:
        cells = cells + codes[:, node].view(-1, *[1] * len(scope))
    cells = _full(cells, len(codes), layout, scope)
    design = design_of(layout, values, node)
    log_p = own.log_probs(design).flatten(1)
    log_values = log_p.gather(1, cells.reshape(len(codes), -1)).view(cells.shape)
    return Curve(node, scope, log_values, cells, design)


def config_of(layout: Layout, codes: Tensor, node: int) -> Tensor:
    """The configuration (n,) of the discrete parents of a node."""
    labels = layout.labels[node]
    found = mixed_radix([codes[:, p] for p in labels], layout.shape(node))
    return torch.as_tensor(found, device=codes.device).expand(len(codes))


def line_of(
    layout: Layout, own: Potential, node: int, codes: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (n,) of a normal node given its parents."""
    config, r = config_of(layout, codes, node), values[:, list(layout.inputs[node])]
    precision = own.quadratic[config, 0, 0]
    middle = own.linear[config, 0] - (own.quadratic[config, 0, 1:] * r).sum(-1)
    return middle / precision, precision.rsqrt()


def state_probabilities(
    layout: Layout, at: Parameters, node: int, codes: Tensor, values: Tensor
) -> Tensor:
    """Probabilities (n, size) of the states of a discrete node given its parents."""
    labels = layout.labels[node]
    if layout.inputs[node]:
        log_p = at.curves[node].log_probs(design_of(layout, values, node))
        row = torch.arange(len(codes), device=codes.device)
        return log_p[row, config_of(layout, codes, node)].exp()
    table = at.tables[node]
    if not labels:
        return table.expand(len(codes), -1)
    return cells_of(table, list(range(1, table.dim())), [codes[:, p] for p in labels])


def _integral(
    layout: Layout,
    group: Group,
    codes: Tensor,
    values: Tensor,
    hidden: tuple[int, ...],
    nodes: tuple[int, ...],
    at: Parameters,
) -> Integral:
    scope, n = _free(layout, group, nodes), len(codes)
    labels = sorted({p for i in nodes for p in layout.labels[i]} & group.fixed)
    turn = codes.new_zeros(len(codes)) if at.turn is None else at.turn
    tags = torch.cat([codes[:, labels], turn[:, None]], 1)
    first, kind = kinds_of(tags, [*(layout.sizes[p] for p in labels), int(turn.max()) + 1])
    like, shift, count = codes[first], turn[first], len(first)
    sizes = [layout.sizes[p] for p in scope]
    h = len(hidden)
    quadratic = values.new_zeros(count, *sizes, h, h)
    linear = values.new_zeros(n, *sizes, h)
    constant = values.new_zeros(n, *sizes)
    config = {}
    for i in nodes:
        own = at.normals[i] if at.inner is None else at.inner[i]
        assert isinstance(own, Potential)  # noqa: S101 - a t has no integral
        places = (i, *layout.inputs[i])
        on = [a for a, v in enumerate(places) if v in group.known]
        off = [a for a, v in enumerate(places) if v not in group.known]
        into = [hidden.index(places[a]) for a in off]
        c = configurations(layout, like, i, scope)
        c = c + (shift * layout.configurations(i)).view(-1, *[1] * len(scope))
        few = _full(c, count, layout, scope)
        config[i] = many = few[kind]
        block = own.quadratic[few][..., off, :][..., :, off]
        for a, place in enumerate(into):
            quadratic[..., place, into] += block[..., a, :]
        y = values[:, [places[a] for a in on]]
        pull = own.linear[many]
        linear[..., into] += pull[..., off]
        constant = constant + own.constant[many]
        if on:
            across = own.quadratic[many][..., on, :]
            linear[..., into] -= torch.einsum("n...ij,ni->n...j", across[..., off], y)
            pushed = torch.einsum("n...ij,ni->n...j", across[..., on], y)
            square = torch.einsum("n...j,nj->n...", pushed, y)
            constant = constant - 0.5 * square
            constant = constant + torch.einsum("n...i,ni->n...", pull[..., on], y)
    root = torch.linalg.cholesky(quadratic)
    half = torch.linalg.solve_triangular(root[kind], linear[..., None], upper=False)
    mean = torch.linalg.solve_triangular(root[kind].mT, half, upper=True)[..., 0]
    log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_values = (
        constant + 0.5 * half[..., 0].square().sum(-1) + 0.5 * (h * LOG_2PI - log_det[kind])
    )
    return Integral(hidden, nodes, scope, log_values, mean, root, kind, config)
