"""Densities of pairs of cells: the lower-order margins of a row, added up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.errors import NotSupported, message
from probgen.queries.density import log_prob
from probgen.queries.draws import Predictive

__all__ = ["log_pairs"]


def log_pairs(predictive: Predictive, batch: Batch) -> Tensor:
    """Summed log densities of the pairs of seen cells of each row, each cell counted once.

    A pairwise composite log likelihood (Varin, Reid and Firth 2011): of a row with d seen
    cells, the sum over its d (d - 1) / 2 pairs over d - 1, in which each cell stands as often
    as in the row itself. Of two cells it is the log density of the row, of one cell that of the
    cell, of none 0.

    Parameters
    ----------
    predictive : Predictive
        Its marginals must be those of one joint density.
    batch : Batch of n rows

    Returns
    -------
    Tensor (n,)
        Nats, encoded units.

    Raises
    ------
    NotSupported
        If a family has no coherent marginals.

    Notes
    -----
    A family's own form is used where it has one (`Family.log_pairs`). Otherwise each pair of
    slots is one marginal of all rows: the cost is d (d - 1) / 2 times that of `log_prob`.
    """
    families = predictive.members
    if not all(f.coherent and f.holes in ("exact", "latent") for f in families):
        raise NotSupported(message(
            f"pairs of cells under {type(families[0]).__name__}",
            "a family whose marginals are those of one joint density",
            "take a family with exact marginals, such as StudentT or GaussianMixture",
        ))  # fmt: skip
    own = families[0].log_pairs(batch) if len(families) == 1 else None
    if own is not None:
        return own
    count = batch.seen.sum(-1)
    total = torch.zeros(len(batch), dtype=torch.float64, device=batch.seen.device)
    for rows, columns in _groups(batch):
        part = batch.take(rows)
        total[rows] += log_prob(predictive, _showing(part, columns)).value.double()
    return total / (count - 1).clamp_min(1)


def _groups(batch: Batch) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Rows that see both cells of a pair, for each pair; and rows of a single cell."""
    seen = batch.seen
    alone = seen.sum(-1) == 1
    for i in range(seen.shape[1]):
        rows = (alone & seen[:, i]).nonzero()[:, 0]
        if len(rows):
            yield rows, (i,)
    for i, j in combinations(range(seen.shape[1]), 2):
        rows = (seen[:, i] & seen[:, j]).nonzero()[:, 0]
        if len(rows):
            yield rows, (i, j)


def _showing(batch: Batch, columns: tuple[int, ...]) -> Batch:
    """The same rows with only some slots seen."""
    seen = torch.zeros_like(batch.seen)
    seen[:, list(columns)] = True
    x = None if batch.x is None else torch.where(seen, batch.x, 0.0)
    return replace(batch, x=x, seen=seen, complete=False, key=None)
