"""What a row would have been, had some of its cells been set otherwise.

Three steps (Pearl 2009, Causality, 2nd edition, chapter 7): the noise of each node is drawn given
what the row shows, the nodes are set, and what lies below them is worked out again with the same
noise. A graph with tables does not say how noise and parents make a state, so that it has to be
stated:

gumbel
    A state is the largest of log probability plus Gumbel noise (Oberst and Sontag 2019,
    Counterfactual off-policy evaluation with Gumbel-max structural causal models, ICML): a change
    that makes a state relatively more probable never leads away from it.
quantile
    A state is where one uniform number falls among the cumulative probabilities: monotone in the
    order of the states, for which they should have one.

A normal node keeps its residual, in units of its standard deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from probgen.nodes.network import Network, Values
from probgen.nodes.regressions import Potential
from probgen.nodes.sums import line_of, state_probabilities

__all__ = ["Noise", "counterfactual_rows"]

Noise = Literal["gumbel", "quantile"]


def counterfactual_rows(
    network: Network,
    x: Tensor,
    values_: Values,
    settings: Mapping[int, float],
    noise: Noise,
    generator: torch.Generator,
) -> Tensor:
    """Rows x (n, d) without holes, as they would have been with some nodes set.

    Parameters
    ----------
    network : Network
    x : Tensor (n, d)
    values_ : Values
        Parameters at a point.
    settings : dict
        By node, the code of a discrete node (of a grouped one a value), the value of a normal one.
    noise : {"gumbel", "quantile"}
    generator : torch.Generator
    """
    layout, (at, shapes) = network.layout, values_
    every = torch.ones_like(x, dtype=torch.bool)
    codes, values = network.split(x, every)
    told = x.clone()
    for i, value in settings.items():
        told[:, i] = value
    new_codes, new_values = network.split(told, every)
    below = layout.dag.descendants(settings) - set(settings)
    for i in layout.dag.order:
        if i not in below:
            continue
        if not layout.sizes[i]:
            own = at.normals[i]
            assert isinstance(own, Potential)  # noqa: S101 - asked at a point
            middle, sd = line_of(layout, own, i, codes, values)
            new_middle, new_sd = line_of(layout, own, i, new_codes, new_values)
            new_values[:, i] = new_middle + (values[:, i] - middle) / sd * new_sd
            told[:, i] = new_values[:, i]
            continue
        before = state_probabilities(layout, at, i, codes, values)
        after = state_probabilities(layout, at, i, new_codes, new_values)
        keep = network.nameable.get(i, layout.sizes[i])
        new = _state(codes[:, i], before[:, :keep], after[:, :keep], noise, generator)
        # with the same parents the same noise leads to the same state
        new_codes[:, i] = torch.where((before == after).all(1), codes[:, i], new)
        told[:, i] = new_codes[:, i].double()
        if str(i) in network.values:
            drawn = network.group(i).draw(new_codes[:, i], shapes[i], generator)
            told[:, i] = torch.where(new_codes[:, i] == codes[:, i], x[:, i], drawn)
    return told


def _state(
    code: Tensor, before: Tensor, after: Tensor, noise: Noise, generator: torch.Generator
) -> Tensor:
    """The state (n,) under probabilities `after`, with noise given the state under `before`."""
    shape = before.shape
    u = torch.rand(shape, generator=generator, dtype=before.dtype, device=before.device)
    u = u.clamp(1e-300, 1 - 1e-16)
    row = torch.arange(len(code), device=code.device)
    if noise == "quantile":
        upper = before.cumsum(1) / before.sum(1, keepdim=True)
        lower = torch.cat([torch.zeros_like(upper[:, :1]), upper[:, :-1]], 1)
        at = torch.lerp(lower[row, code], upper[row, code], u[:, 0])
        steps = after.cumsum(1) / after.sum(1, keepdim=True)
        return (steps < at[:, None]).sum(1).clamp_max(shape[1] - 1)
    log_p = (before / before.sum(1, keepdim=True)).log()
    free = -(-u.log()).log()
    most = free[row, code]  # the largest of all is a Gumbel about 0, whichever it is
    # those of the others are cut off there
    cut = -torch.logaddexp(-most[:, None], -(free + log_p))
    cut[row, code] = most
    kept = torch.where(log_p.isfinite(), cut - log_p, free)
    return (after.log() + kept).argmax(1)
