"""A Bayesian network of discrete variables that answers exactly, many rows at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from probgen.elimination.factors import sliced
from probgen.elimination.plans import LIMIT
from probgen.elimination.sums import log_sum
from probgen.graphs.dag import Dag

__all__ = ["DiscreteNetwork", "patterns"]


def patterns(seen: Tensor) -> list[tuple[tuple[bool, ...], Tensor]]:
    """Rows grouped by which of their cells are seen.

    Parameters
    ----------
    seen : Tensor (n, d) of bool

    Returns
    -------
    list of (pattern, rows)
        The pattern as a tuple of bool (d,), the numbers of its rows (m,) in ascending order.

    Examples
    --------
    >>> patterns(torch.tensor([[True, False], [True, True], [True, False]]))
    [((True, False), tensor([0, 2])), ((True, True), tensor([1]))]
    """
    if not len(seen):
        return []
    if bool((seen == seen[0]).all()):
        return [(tuple(seen[0].tolist()), torch.arange(len(seen), device=seen.device))]
    packed = np.packbits(seen.cpu().numpy(), axis=1)
    keys = packed.view(f"V{packed.shape[1]}")[:, 0]
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(group, kind="stable")
    bounds = np.cumsum(np.bincount(group))
    rows = torch.from_numpy(order).to(seen.device)
    found = [
        (tuple(seen[int(start)].tolist()), rows[low:high])
        for start, low, high in zip(first, (0, *bounds[:-1]), bounds, strict=True)
    ]
    return sorted(found, key=lambda one: int(one[1][0]))


class DiscreteNetwork:
    """Exact answers of a network whose tables are fixed.

    Parameters
    ----------
    dag : Dag
        The graph.
    tables : sequence of Tensor (size, *sizes of parents)
        The conditional table of each node, its parents in the order of ``dag.parents``.
    """

    def __init__(self, dag: Dag, tables: Sequence[Tensor]) -> None:
        self.dag = dag
        self.tables = tuple(tables)
        self.sizes = tuple(len(table) for table in tables)

    def log_evidence(self, codes: Tensor, seen: Tensor, limit: int = LIMIT) -> Tensor:
        """Log probability (n,) of the seen cells of each row, in nats.

        Parameters
        ----------
        codes : Tensor (n, d) of long
        seen : Tensor (n, d) of bool
        limit : int
            Most bytes that one row may take.

        Raises
        ------
        NotSupported
            If one row takes more memory than the limit.
        """
        found = torch.zeros(len(codes), dtype=torch.float64, device=codes.device)
        for pattern, rows in patterns(seen):
            relevant = self.dag.ancestors(v for v, own in enumerate(pattern) if own)
            factors = sliced(self.dag.parents, self.tables, codes[rows], pattern, sorted(relevant))
            found = found.index_copy(0, rows, log_sum(factors, self.sizes, len(rows), (), limit))
        return found

    def log_prob(self, codes: Tensor) -> Tensor:
        """Log probability (n,) of rows without hidden cells (n, d): look-ups only."""
        every = [True] * len(self.sizes)
        (factor,) = sliced(self.dag.parents, self.tables, codes, every)
        assert factor.log_scale is not None
        return factor.log_scale
