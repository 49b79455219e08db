"""Importance sampling of unseen cells, where no exact sum can be had.

Unseen nodes are drawn one after another given their parents, and a row weighs by the density of
its seen cells given what was drawn above them (likelihood weighting; Fung and Chang 1990, Weighing
and integrating evidence for stochastic simulation in Bayesian networks, UAI). The mean of the
weights is the density of the seen cells without bias.
"""

from __future__ import annotations

import torch
from scipy.special import stdtrit
from torch import Tensor

from probgen.nodes.network import Network, Values
from probgen.nodes.regressions import T
from probgen.nodes.sums import config_of, design_of, state_probabilities

__all__ = ["weighted_rows"]


def weighted_rows(
    network: Network,
    x: Tensor,
    seen: Tensor,
    values_: Values,
    uniform: Tensor,
    reserved: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes and values (n, d) with unseen nodes drawn, and log weights (n,).

    Parameters
    ----------
    network : Network
    x, seen : Tensor (n, d)
    values_ : Values
        Of the predictive.
    uniform : Tensor (n, d)
        Numbers in (0, 1), one a node: what is drawn follows from them.
    reserved : bool
        Whether states without a name are drawn too.
    """
    layout, (at, shapes) = network.layout, values_
    codes, values = (part.clone() for part in network.split(x, seen))
    log_weight = network.log_shapes(x, seen, shapes)
    row = torch.arange(len(x), device=x.device)
    for i in layout.dag.order:
        own, u = seen[:, i], uniform[:, i]
        if layout.sizes[i]:
            p = state_probabilities(layout, at, i, codes, values)
            steps = (p if reserved else p[:, : network.nameable.get(i)]).cumsum(1)
            drawn = (steps < u[:, None] * steps[:, -1:]).sum(1).clamp_max(steps.shape[1] - 1)
            codes[:, i] = torch.where(own, codes[:, i], drawn)
            log_p = p[row, codes[:, i]].log()
        else:
            node = at.normals[i]
            assert isinstance(node, T)  # noqa: S101 - asked of the predictive
            config, design = config_of(layout, codes, i), design_of(layout, values, i)
            middle, scale, dof = node.at(config, design)
            step = torch.from_numpy(stdtrit(dof.cpu().numpy(), u.cpu().numpy())).to(scale.device)
            values[:, i] = torch.where(own, values[:, i], middle + scale * step)
            log_p = node.log_prob(values[:, i], config, design)
        log_weight = log_weight + torch.where(own, log_p, torch.zeros_like(log_p))
    return codes, values, log_weight
