"""The first state of a network: groups, graph, priors and counts, from the rows of a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from scipy.stats import skew
from torch import Tensor

from probgen.graphs.dag import Dag
from probgen.graphs.nodes import NodeRows
from probgen.nodes.network import Network, joined_rows
from probgen.nodes.statistics import Statistics
from probgen.nodes.tables import best_sample_size
from probgen.nodes.training import TrainingRows, settled_statistics

__all__ = ["Learner", "Units", "begin", "node_rows"]

#: steps of the densities inside groups before the first pass over the rows
FIRST = 30
#: location and scale of encoded real columns, by node
Units = Mapping[int, tuple[float, float]]
#: finds a graph: rows over the nodes, and a seeded generator
Learner = Callable[[NodeRows, np.random.Generator], Dag]


def begin(
    network: Network,
    x: Tensor,
    seen: Tensor,
    weight: Tensor,
    learner: Dag | Learner,
    seed: int,
    *,
    sample_size: float | None,
    strength: float,
    dof: float,
    groups: int,
    bins: int | None,
    units: Units | None = None,
) -> None:
    """Cut groups, learn the graph, set the priors, and count the rows that see a whole family.

    Parameters
    ----------
    network : Network
        Changed in place.
    x, seen : Tensor (n, d)
    weight : Tensor (n,)
    learner : Dag or callable
        The graph, or what finds it.
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
    units : dict, optional
        See `node_rows`.
    """
    rng = np.random.default_rng(seed)
    for i in network.grouped:
        own, most = seen[:, i], groups if network.group(i).whole else bins or groups
        if not len(network.group(i).kernel):  # another fit to the same rows may have laid them
            network.group(i).lay(x[own, i], weight[own], most)
    network.refresh()
    codes, values = network.split(x, seen)
    shown = torch.ones_like(seen[0]) if bool(seen.all()) else seen.any(0)
    known = seen if bool(shown.all()) else seen | ~shown
    if known is not seen:
        values = values.clone()
        _guess(codes, values, seen, network.layout.sizes, network.nameable, rng)
    if isinstance(learner, Dag):
        network.set_graph(learner)
    else:
        network.set_graph(learner(node_rows(network, codes, values, known, weight, units), rng))
    rows = TrainingRows.of(network.layout, codes, values, (x, seen, weight))
    network.rows = rows
    if len(rows.weight):
        counted = settled_statistics(
            network.layout, codes, values, _families(network, known), weight
        )
    else:
        counted = rows.settled
    _lay(network, counted, shown.tolist(), sample_size, strength, dof)
    for i in network.grouped:
        network.group(i).learn(x[seen[:, i], i], weight[seen[:, i]], 1.0, FIRST)


def _families(network: Network, known: Tensor) -> Tensor:
    """Cells (n, d) that are known with all their parents."""
    found = known.clone()
    for node, parents in enumerate(network.layout.dag.parents):
        if parents:
            found[:, node] &= known[:, list(parents)].all(1)
    return found


def node_rows(
    network: Network,
    codes: Tensor,
    values: Tensor,
    known: Tensor,
    weight: Tensor,
    units: Units | None = None,
) -> NodeRows:
    """The rows as graphs are learned from them.

    `units` holds location and scale of real columns: those whose values all lie above 0 in the
    table are taken by their logarithm where that makes them less skewed. Directions are read from
    noise that is added, and of a skewed column it is multiplied more often than not
    (benchmarks/structure_continuous.py).
    """
    sizes = network.layout.sizes
    discrete = torch.tensor(sizes, device=codes.device) > 0
    shown = torch.where(known & ~discrete, values, torch.nan).cpu().numpy()
    for i, (loc, scale) in (units or {}).items():
        shown[:, i] = _symmetric(shown[:, i], loc, scale)
    return NodeRows(
        torch.where(known & discrete, codes, -1).cpu().numpy(),
        shown,
        tuple(network.nameable.get(i, size) for i, size in enumerate(sizes)),
        weight.double().cpu().numpy(),
    )


def _symmetric(values: np.ndarray, loc: float, scale: float) -> np.ndarray:
    """Standardised values (n,), or their logarithms, standardised again."""
    own = values[~np.isnan(values)] * scale + loc
    if len(own) < 3 or own.min() <= 0 or own.min() == own.max():
        return values
    if abs(skew(np.log(own))) >= abs(skew(own)):
        return values
    logs = np.log(values * scale + loc)
    return np.asarray((logs - np.nanmean(logs)) / np.nanstd(logs))


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
    counted: Statistics,
    shown: list[bool],
    sample_size: float | None,
    strength: float,
    dof: float,
) -> None:
    """Priors and first counts of all tables and regressions.

    The equivalent sample size goes by tables of columns that some row shows: the random guess at
    the others says nothing.
    """
    layout = network.layout
    named = [network.nameable.get(i, size) for i, size in enumerate(layout.sizes)]
    cells = {i: math.prod(named[v] for v in (i, *layout.labels[i])) for i in layout.tabled}
    if sample_size is None:
        part = [
            (counts[tuple(slice(named[v]) for v in (i, *layout.labels[i]))]
             .reshape(named[i], -1), cells[i])
            for i, counts in counted.tables.items()
            if all(shown[v] for v in (i, *layout.labels[i]))
        ]  # fmt: skip
        sample_size = best_sample_size(part)
    for i, counts in counted.tables.items():
        network.table(i).lay(counts.reshape(layout.sizes[i], -1), cells[i], sample_size)
    for i, rows in counted.curves.items():
        shape = layout.configurations(i), named[i], len(layout.inputs[i])
        network.curve(i).lay(*shape, reserved=named[i] < layout.sizes[i])
        network.curve(i).learn(*joined_rows(rows), FIRST)
    for i, moments in counted.moments.items():
        network.regression(i).lay(moments, strength, dof)
        network.regression(i).take(moments)
