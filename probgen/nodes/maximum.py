"""The most probable values of all unseen cells of a row together."""

from __future__ import annotations

import torch
from torch import Tensor

from probgen.elimination.factors import Factor
from probgen.elimination.states import maximise
from probgen.nodes.groups import GroupNode
from probgen.nodes.layout import Group, groups
from probgen.nodes.network import Network, Values
from probgen.nodes.regressions import LOG_2PI
from probgen.nodes.sums import Integral, Terms, terms_of

__all__ = ["most_probable_rows"]


def most_probable_rows(
    network: Network, x: Tensor, seen: Tensor, values_: Values
) -> tuple[Tensor, Tensor]:
    """Rows x (n, d) with their unseen cells at the joint maximum, and its log density (n,).

    Max-product elimination (Dawid 1992, Applications of a general propagation algorithm for
    probabilistic expert systems, Statistics and Computing 2). Unseen normal nodes stand at their
    mean given the states, and count with their density there.

    Parameters
    ----------
    network : Network
    x, seen : Tensor (n, d)
    values_ : Values
        Parameters at a point.
    """
    layout, (at, shapes) = network.layout, values_
    codes, values = network.split(x, seen)
    out, best = x.clone(), x.new_zeros(len(x))
    modes = {i: _modes(network.group(i), shapes[i]) for i in network.grouped}
    for group in groups(layout, seen):
        rows = group.rows
        own = codes[rows], values[rows], seen[rows]
        named = network.nameable
        terms = terms_of(
            layout, group, *own, at, range(len(layout)), nameable=named, everywhere=True
        )
        factors, scale = _peaks(terms)
        for i, (_, log_top) in modes.items():
            factors += _top(group, own[2], i, log_top)
        state = own[0].clone()
        if any(factor.scope for factor in factors):
            value, found = maximise(factors, layout.states, len(rows))
            scale = scale + value
            for i, code in found.items():
                state[:, i] = torch.where(own[2][:, i], state[:, i], code.clamp_min(0))
        filled = own[1].clone()
        for i in layout.discrete:
            value = modes[i][0][state[:, i]] if i in modes else state[:, i].double()
            filled[:, i] = torch.where(own[2][:, i], filled[:, i], value)
        for part in terms.parts:
            if isinstance(part, Integral):
                place = torch.arange(len(rows), device=x.device)
                chosen = (place, *(state[:, p] for p in part.scope))
                filled[:, list(part.hidden)] = part.mean[chosen]
        out[rows] = filled
        best[rows] = scale + network.log_shapes(own[1], own[2], shapes)
    return out, best


def _peaks(terms: Terms) -> tuple[list[Factor], Tensor]:
    """The factors with unseen normal nodes at their mean instead of integrated out."""
    factors = [f for f in terms.factors]
    scale = terms.log_scale.clone()
    for part in terms.parts:
        if not isinstance(part, Integral):
            continue
        h = len(part.hidden)
        log_det = 2 * part.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)[part.kind]
        gain = 0.5 * (log_det - h * LOG_2PI)
        if part.scope:
            factors.append(Factor.of_log(part.scope, gain))
        else:
            scale = scale + gain
    return factors, scale


def _modes(own: GroupNode, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest value (g,) of each group, and its log density there."""
    means = own.basis_means() if own.whole else own.leaf.basis_means()[own.kernel]
    tried = torch.cat([means.round() if own.whole else means, own.cuts + 0.5, own.cuts - 0.5])
    tried = tried[tried >= 0] if own.whole else tried
    tried = tried.round().unique() if own.whole else tried.unique()
    log_p, code = own.log_prob(tried, log_weights), own.code(tried)
    values = torch.zeros(own.size, dtype=torch.float64, device=tried.device)
    top = torch.full_like(values, -torch.inf)
    for g in range(own.size):
        inside = (code == g).nonzero()[:, 0]
        at = inside[log_p[inside].argmax()]
        values[g], top[g] = tried[at], log_p[at]
    return values, top


def _top(group: Group, seen: Tensor, node: int, log_top: Tensor) -> list[Factor]:
    """What an unseen value adds at its best, by group."""
    if node in group.fixed:
        return []
    hidden = torch.where(seen[:, node, None], torch.zeros_like(log_top), log_top)
    return [Factor.of_log((node,), hidden)]
