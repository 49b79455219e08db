"""Log densities, draws and conditionals of rows under a network at given parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from probgen.elimination.states import draw
from probgen.elimination.sums import log_sum
from probgen.leaves import gamma_draws, pick
from probgen.nodes.layout import Group, Layout, groups
from probgen.nodes.regressions import T
from probgen.nodes.sums import (
    Integral,
    Parameters,
    Terms,
    config_of,
    design_of,
    line_of,
    state_probabilities,
    terms_of,
)

__all__ = ["RowNetwork", "complete_rows", "log_density", "posterior_table"]


def log_density(
    layout: Layout,
    codes: Tensor,
    values: Tensor,
    seen: Tensor,
    at: Parameters,
    nameable: Mapping[int, int] | None = None,
) -> Tensor:
    """Log density (n,) of the seen cells of rows, all others summed and integrated out.

    With `nameable` over states that have a name only, as in `complete_rows`.
    """
    places, found = [], []
    for group in groups(layout, seen):
        rows = group.rows
        own = codes[rows], values[rows], seen[rows]
        terms = terms_of(layout, group, *own, at.take(rows), nameable=nameable)
        value = terms.log_scale
        if terms.factors:
            value = value + log_sum(terms.factors, layout.states, len(rows))
        places.append(rows)
        found.append(value)
    if not found:
        return values.new_zeros(0)
    return torch.cat(found)[torch.cat(places).argsort()]


def posterior_table(terms: Terms, layout: Layout, n: int, scope: tuple[int, ...]) -> Tensor:
    """p(scope | seen cells), ``(n, *sizes)``: 0 for rows of density 0."""
    if not scope:
        return terms.log_scale.new_ones(n)
    log_p = log_sum(terms.factors, layout.states, n, scope)
    flat = log_p.reshape(n, -1)
    return torch.nan_to_num(flat.softmax(1)).reshape(log_p.shape)


def complete_rows(
    layout: Layout,
    codes: Tensor,
    values: Tensor,
    seen: Tensor,
    at: Parameters,
    nameable: dict[int, int],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Codes and values (n, d) with unseen nodes drawn given the seen ones of their row.

    `nameable` holds the number of states of a node that may be drawn, the first ones, where
    these are not all.
    """
    codes, values = codes.clone(), values.clone()
    with torch.no_grad():
        for group in groups(layout, seen):
            rows = group.rows
            own = codes[rows], values[rows], seen[rows]
            found = _complete(layout, group, *own, at.take(rows), nameable, generator)
            codes[rows], values[rows] = found
    return codes, values


def _complete(
    layout: Layout,
    group: Group,
    codes: Tensor,
    values: Tensor,
    seen: Tensor,
    at: Parameters,
    nameable: dict[int, int],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    kept = layout.dag.ancestors(group.some)
    terms = terms_of(layout, group, codes, values, seen, at, nameable=nameable, everywhere=True)
    if any(factor.scope for factor in terms.factors):
        for node, state in draw(terms.factors, layout.states, len(codes), generator).items():
            state = state.clamp_min(0)  # rows that are impossible have none
            codes[:, node] = torch.where(seen[:, node], codes[:, node], state)
    for part in terms.parts:
        if isinstance(part, Integral):
            _draw_hidden(layout, codes, values, part, generator)
    for node in layout.dag.order:
        if node in kept:
            continue
        if layout.sizes[node]:
            weights = state_probabilities(layout, at, node, codes, values)
            codes[:, node] = pick(weights[:, : nameable.get(node)], generator)
        else:
            values[:, node] = _draw_normal(layout, codes, values, node, at, generator)
    return codes, values


def _draw_hidden(
    layout: Layout, codes: Tensor, values: Tensor, part: Integral, generator: torch.Generator
) -> None:
    """Unseen normal nodes given the states of the discrete ones, jointly."""
    row = torch.arange(len(codes), device=codes.device)
    state = [codes[:, p] for p in part.scope]
    mean, root = part.mean[(row, *state)], part.root[(part.kind, *state)]
    noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
    step = torch.linalg.solve_triangular(root.mT, noise[..., None], upper=True)[..., 0]
    values[:, list(part.hidden)] = mean + step


def _draw_normal(
    layout: Layout,
    codes: Tensor,
    values: Tensor,
    node: int,
    at: Parameters,
    generator: torch.Generator,
) -> Tensor:
    """A normal node without seen descendants, given its parents."""
    own = at.normals[node]
    noise = torch.randn(len(codes), dtype=values.dtype, device=values.device, generator=generator)
    if isinstance(own, T):
        config = config_of(layout, codes, node)
        middle, scale, dof = own.at(config, design_of(layout, values, node))
        return middle + scale * noise / (2 * gamma_draws(dof / 2, generator) / dof).sqrt()
    middle, sd = line_of(layout, own, node, codes, values)
    return middle + sd * noise


class RowNetwork(TorchDistribution):
    """All slots of n rows as one site of the pair.

    Parameters
    ----------
    log_rows : callable
        Log density (n,) of rows x (n, d) of which cells are seen (n, d).
    new_rows : callable
        Draws that many rows (n, d).
    seen : Tensor (n, d) of bool
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    #: unseen cells are summed out here: `Batch.observe` need not mask rows
    skips_unseen = True

    def __init__(
        self,
        log_rows: Callable[[Tensor, Tensor], Tensor],
        new_rows: Callable[[int], Tensor],
        seen: Tensor,
    ) -> None:
        self.log_rows, self.new_rows, self.seen = log_rows, new_rows, seen
        super().__init__(torch.Size([len(seen)]), torch.Size([seen.shape[1]]), validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> RowNetwork:
        """Itself: rows cannot be repeated."""
        if torch.Size(batch_shape) != self.batch_shape:
            raise ValueError(f"rows {tuple(self.batch_shape)} cannot become {tuple(batch_shape)}")
        return self

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density (n,) of the seen cells."""
        return self.log_rows(value, self.seen)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's
        """New rows ``(*sample_shape, n, d)``."""
        shape = torch.Size(sample_shape) + self.shape()
        count = shape[:-1].numel()
        return self.new_rows(count).view(shape)
