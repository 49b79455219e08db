"""Posterior draws of a network from rows with unseen cells, by data augmentation.

Mean-field draws are too narrow where cells with seen descendants are unseen. The chain draws
these cells given parameters, and parameters given all cells, both exactly (Tanner and Wong 1987,
The calculation of posterior distributions by data augmentation, JASA 82).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from probgen.nodes.network import Draw, Network
from probgen.nodes.statistics import Statistics
from probgen.nodes.training import settled_statistics

__all__ = ["augmented_draws"]

#: sweeps before the first draw, and for each that is kept
WARM_UP, THIN = 20, 2


def augmented_draws(
    network: Network,
    x: Tensor,
    seen: Tensor,
    weight: Tensor,
    count: int,
    generator: torch.Generator,
) -> Draw:
    """`count` posterior draws by site name, each (S, ...); empty where the guide is exact.

    Parameters
    ----------
    network : Network
        At its variational posterior, where the chain starts. Not changed.
    x, seen : Tensor (n, d)
    weight : Tensor (n,)
        A row of weight w counts as w rows with the same unseen cells.
    """
    layout = network.layout
    informed = layout.informed(seen)
    open_ = (informed & ~seen).any(1)
    if not bool(open_.any()):
        return {}
    chain = copy.deepcopy(network)
    settled = _statistics(chain, x[~open_], seen[~open_], weight[~open_])
    x, seen, informed, weight = x[open_], seen[open_], informed[open_], weight[open_]
    kept: list[Draw] = []
    draw = chain.posterior_draws(1, generator)
    for sweep in range(WARM_UP + THIN * count):
        at = chain.at({name: value[0] for name, value in draw.items()})
        whole = chain.complete(x, seen, at, generator, reserved=True)
        found = _statistics(chain, whole, informed, weight)
        for i, counts in settled.tables.items():
            found.tables[i] = found.tables[i] + counts
        for i, moments in settled.moments.items():
            found.moments[i] = found.moments[i] + moments
        for i, rows in settled.curves.items():
            found.curves[i] = [*rows, *found.curves[i]]
        chain.blend(found, 1.0)
        draw = chain.posterior_draws(1, generator)
        if sweep >= WARM_UP and (sweep - WARM_UP) % THIN == THIN - 1:
            kept.append(draw)
    return {name: torch.cat([draw[name] for draw in kept]) for name in kept[0]}


def _statistics(network: Network, x: Tensor, known: Tensor, weight: Tensor) -> Statistics:
    """Counts and moments of rows that show all that matters."""
    return settled_statistics(network.layout, *network.split(x, known), known, weight)
