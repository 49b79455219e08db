"""The first state of a network: groups, graph, priors and counts, from the rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from probgen.graphs.dag import Dag
from probgen.graphs.nodes import NodeRows
from probgen.nodes.network import Network
from probgen.nodes.tables import best_sample_size
from probgen.nodes.training import seen_moments, seen_table

__all__ = ["Learner", "begin"]

#: steps of the densities inside groups before the first pass over the rows
FIRST = 30
#: finds a graph: rows over the nodes, and a seeded generator
Learner = Callable[[NodeRows, np.random.Generator], Dag]


def begin(
    network: Network,
    x: Tensor,
    seen: Tensor,
    weight: Tensor,
    learner: Learner,
    seed: int,
    *,
    sample_size: float | None,
    strength: float,
    dof: float,
    groups: int,
    bins: int | None,
) -> None:
    """Cut groups, learn the graph, set the priors, and count the rows that see a whole family.

    Parameters
    ----------
    network : Network
        Changed in place.
    x, seen : Tensor (n, d)
    weight : Tensor (n,)
    learner : callable
    seed : int
        Of the learner's randomness, and of the first guess at columns that no row sees.
    sample_size : float or None
        Equivalent sample size of the tables; None takes that of highest evidence.
    strength, dof : float
        How many rows the prior of a regression and of its variance stands for.
    groups : int
        Groups of a count at most.
    bins : int or None
        Groups of a real column at most, where these are cut.
    """
    rng = np.random.default_rng(seed)
    for i in network.grouped:
        own = seen[:, i]
        most = groups if network.group(i).whole else bins or groups
        network.group(i).lay(x[own, i], weight[own], most)
    network.refresh()
    codes, values = network.split(x, seen)
    sizes = network.layout.sizes
    _guess(codes, values, seen, sizes, network.nameable, rng)
    known = seen | ~seen.any(0)
    rows = NodeRows(
        torch.where(known & (torch.tensor(sizes) > 0).to(x.device), codes, -1).cpu().numpy(),
        torch.where(known & (torch.tensor(sizes) == 0).to(x.device), values, torch.nan)
        .cpu().numpy(),
        tuple(network.nameable.get(i, size) for i, size in enumerate(sizes)),
        weight.double().cpu().numpy(),
    )  # fmt: skip
    network.set_graph(learner(rows, rng))
    _lay(network, codes, values, known, weight, sample_size, strength, dof)


def _guess(
    codes: Tensor,
    values: Tensor,
    seen: Tensor,
    sizes: Iterable[int],
    nameable: dict[int, int],
    rng: np.random.Generator,
) -> None:
    """Random states of columns that no row sees: equal ones would stay equal."""
    for i, size in enumerate(sizes):
        if bool(seen[:, i].any()) or not len(codes):
            continue
        if size:
            drawn = rng.integers(nameable.get(i, size), size=len(codes))
            codes[:, i] = torch.from_numpy(drawn).to(codes.device)
        else:
            values[:, i] = torch.from_numpy(rng.normal(size=len(codes))).to(values.device)


def _lay(
    network: Network,
    codes: Tensor,
    values: Tensor,
    known: Tensor,
    weight: Tensor,
    sample_size: float | None,
    strength: float,
    dof: float,
) -> None:
    layout, sizes = network.layout, network.layout.sizes
    named = [network.nameable.get(i, size) for i, size in enumerate(sizes)]
    every = bool(known.all())

    def rows(node: int) -> Tensor | slice:
        family = [node, *layout.dag.parents[node]]
        return slice(None) if every else known[:, family].all(1).nonzero()[:, 0]

    counts, cells = {}, {}
    for i in layout.discrete:
        counts[i] = seen_table(layout, codes, weight, i, rows(i))
        cells[i] = int(np.prod([named[v] for v in (i, *layout.labels[i])]))
    if sample_size is None:
        part = [
            (counts[i][tuple(slice(named[v]) for v in (i, *layout.labels[i]))]
             .reshape(named[i], -1), cells[i])
            for i in layout.discrete
        ]  # fmt: skip
        sample_size = best_sample_size(part)
    for i in layout.discrete:
        network.table(i).lay(counts[i].flatten(1) if counts[i].dim() > 1 else counts[i][:, None],
                             cells[i], sample_size)  # fmt: skip
    for i in layout.normal:
        moments = seen_moments(layout, codes, values, weight, i, rows(i))
        network.regression(i).lay(moments, strength, dof)
        network.regression(i).take(moments)
    for i in network.grouped:
        seen = known[:, i]
        network.group(i).learn(values[seen, i], weight[seen], 1.0, FIRST)
