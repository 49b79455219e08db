"""Proposals of hidden cells from a companion: a density whose conditionals are exact.

A family that can only score whole rows has neither marginals nor conditional draws of its
own. A companion over the same slots proposes the hidden cells of a row from its exact
conditional given the seen ones, and the family's density over the companion's weighs the
proposals: ``w = p(x_seen, x_hidden) / q(x_hidden | x_seen)``, whose mean is p(x_seen).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from probgen.batch import Batch, mix
from probgen.family import Family
from probgen.queries.holes import slots_of, without_holes

__all__ = ["Proposed", "keyed_proposals", "proposals"]

#: another stream of noise than that of the row latents, from the same key
_STREAM = 0x636F6D70


class Proposed(NamedTuple):
    """K proposals for each of n rows.

    `x` (K, n, m) holds the seen cells and proposals of the others; `rows` are the same as a
    batch of K * n whole rows, proposal by proposal; `log_q` (K, n) is log q(hidden | seen).
    """

    x: Tensor
    rows: Batch
    log_q: Tensor

    def weights(self, log_p: Tensor) -> Tensor:
        """Log weights (..., K, n) from log densities (..., K * n) of the whole rows."""
        return log_p.double().unflatten(-1, self.log_q.shape) - self.log_q


def proposals(companion: Family, batch: Batch, times: int, generator: torch.Generator) -> Proposed:
    """`times` proposals for each row of a batch that is seen in part."""
    tiled = _tiled(batch, times)
    return _scored(companion, batch, tiled, companion.complete(tiled, generator))


def keyed_proposals(companion: Family, batch: Batch, times: int) -> Proposed:
    """The same by noise that belongs to the content of each row, whatever rows stand beside it.

    Rows are proposed for one by one, each from a generator seeded by its key. The cost of
    that is small beside the scoring of `times` rows by a family without closed forms.
    """
    if batch.key is None:
        raise TypeError("keyed proposals need a batch with keys: pass keyed(batch)")
    drawn = []
    for row, key in enumerate(mix(batch.key ^ _STREAM).tolist()):
        generator = torch.Generator().manual_seed(key & ((1 << 62) - 1))
        one = _tiled(batch.take(slice(row, row + 1)), times)
        drawn.append(companion.complete(one, generator))
    x = torch.stack([value for value in drawn if value is not None], 1).flatten(0, 1)
    return _scored(companion, batch, _tiled(batch, times), x)


def _tiled(batch: Batch, times: int) -> Batch:
    """The rows `times` over, the whole batch after itself."""
    rows = torch.arange(len(batch), device=batch.seen.device).repeat(times)
    return replace(batch.take(rows), key=None)


def _scored(companion: Family, batch: Batch, tiled: Batch, x: Tensor | None) -> Proposed:
    assert x is not None and tiled.x is not None  # noqa: S101 - conditionals are exact
    x = torch.where(tiled.seen, tiled.x, x.to(tiled.x.dtype))
    rows = without_holes(tiled, x, slots_of(companion))
    joint, seen = companion.exact_log_prob(rows, None), companion.exact_log_prob(batch, None)
    assert joint is not None and seen is not None  # noqa: S101 - a companion is a closed form
    n = len(batch)
    return Proposed(x.unflatten(0, (-1, n)), rows, joint.unflatten(0, (-1, n)) - seen)
