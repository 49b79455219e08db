"""Proposals of hidden cells from a companion: densities whose conditionals are exact.

A family that can only score whole rows has neither marginals nor conditional draws of its
own. A companion over the same slots proposes the hidden cells of a row from its exact
conditional given the seen ones, and the family's density over the companion's weighs the
proposals: ``w = p(x_seen, x_hidden) / q(x_hidden | x_seen)``, whose mean is p(x_seen).

A companion may have several parts, each with a fixed share of the proposals: a close one for
accuracy and a wide one so that no region is left out (defensive importance sampling). Weights
are over the mixture of all parts, whichever made the proposal.

References: Hesterberg (1995), Weighted average importance sampling and defensive mixture
distributions, Technometrics 37; Owen and Zhou (2000), Safe and effective importance sampling,
JASA 95.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from probgen.batch import Batch, mix
from probgen.errors import SchemaError, message
from probgen.family import Family
from probgen.queries.hidden import slots_of, without_holes

__all__ = ["Companion", "Proposed", "keyed_proposals", "proposals"]

#: another stream of noise than that of the row latents, from the same key
_STREAM = 0x636F6D70


class Proposed(NamedTuple):
    """K proposals for each of n rows.

    `x` (K, n, m) holds the seen cells and proposals of the others; `rows` are the same as a
    batch of K * n whole rows, proposal by proposal; `log_q` (K, n) is log q(hidden | seen),
    infinite for proposals outside the support of a column, which weigh nothing.
    """

    x: Tensor
    rows: Batch
    log_q: Tensor

    def weights(self, log_p: Tensor) -> Tensor:
        """Log weights (..., K, n) from log densities (..., K * n) of the whole rows."""
        weights = log_p.double().unflatten(-1, self.log_q.shape) - self.log_q
        return torch.where(self.log_q == math.inf, -math.inf, weights)


@dataclass(frozen=True)
class Companion:
    """Families with exact conditionals, and the share of the proposals that each makes."""

    parts: Sequence[Family]
    shares: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        fits = len(self.parts) == len(self.shares) and abs(sum(self.shares) - 1) < 1e-9
        if not fits or min(self.shares) <= 0:
            raise SchemaError(message(
                f"shares {list(self.shares)} of {len(self.parts)} parts",
                "one positive share a part, 1 together", "correct the shares",
            ))  # fmt: skip

    def complete(self, batch: Batch, times: int, generator: torch.Generator) -> Tensor:
        """`times` proposals x (K, n, m) for each row, in proportion to the shares."""
        drawn = []
        for part, count in zip(self.parts, self._counts(times), strict=True):
            x = part.complete(_tiled(batch, count), generator)
            assert x is not None  # noqa: S101 - a companion has exact conditionals
            drawn.append(x.unflatten(0, (count, len(batch))))
        return torch.cat(drawn)

    def _counts(self, times: int) -> list[int]:
        """Proposals of each part; at least one each."""
        rest = [max(1, round(times * share)) for share in self.shares[1:]]
        return [max(1, times - sum(rest)), *rest]

    def log_q(self, batch: Batch, rows: Batch) -> Tensor:
        """log q(hidden | seen), (K, n), of whole rows (K * n) proposed for a batch (n)."""
        n, logs = len(batch), []
        counts = self._counts(len(rows) // max(1, n))
        for part, count in zip(self.parts, counts, strict=True):
            joint, seen = part.exact_log_prob(rows, None), part.exact_log_prob(batch, None)
            assert joint is not None and seen is not None  # noqa: S101 - a closed form
            share = math.log(count / sum(counts))
            logs.append(joint.unflatten(0, (-1, n)) - seen + share)
        return torch.stack(logs).logsumexp(0)


def proposals(
    companion: Companion, batch: Batch, times: int, generator: torch.Generator
) -> Proposed:
    """`times` proposals for each row of a batch that is seen in part."""
    return _scored(companion, batch, companion.complete(batch, times, generator))


def keyed_proposals(companion: Companion, batch: Batch, times: int) -> Proposed:
    """The same by noise that belongs to the content of each row, whatever rows stand beside it.

    Rows are proposed for one by one, each from a generator seeded by its key. The cost of
    that is small beside the scoring of `times` rows by a family without closed forms.
    """
    if batch.key is None:
        raise TypeError("keyed proposals need a batch with keys: pass keyed(batch)")
    drawn = []
    for row, key in enumerate(mix(batch.key ^ _STREAM).tolist()):
        generator = torch.Generator().manual_seed(key & ((1 << 62) - 1))
        drawn.append(companion.complete(batch.take(slice(row, row + 1)), times, generator))
    return _scored(companion, batch, torch.cat(drawn, 1))


def _tiled(batch: Batch, times: int) -> Batch:
    """The rows `times` over, the whole batch after itself."""
    rows = torch.arange(len(batch), device=batch.seen.device).repeat(times)
    return replace(batch.take(rows), key=None)


def _scored(companion: Companion, batch: Batch, x: Tensor) -> Proposed:
    assert batch.x is not None  # noqa: S101 - made from encoded rows
    x = torch.where(batch.seen, batch.x, x.to(batch.x.dtype))
    tiled = _tiled(batch, len(x))
    rows = without_holes(tiled, x.flatten(0, 1), slots_of(companion.parts[0]))
    log_q = companion.log_q(batch, rows)
    outside = _outside(companion.parts[0], rows).unflatten(0, log_q.shape)
    return Proposed(x, rows, torch.where(outside, math.inf, log_q))


def _outside(part: Family, rows: Batch) -> Tensor:
    """Rows (n,) with a cell that its column cannot hold.

    Only columns in table units can: what is scored there would be a density where there is none.
    """
    found = torch.zeros(len(rows), dtype=torch.bool, device=rows.seen.device)
    for place, slot in enumerate(slots_of(part)):
        column = part.schema.columns[slot.column]
        if slot.kind == "real" and column.native is not None and rows.x is not None:
            legal = torch.from_numpy(column.legal(rows.x[:, place].double().cpu().numpy()))
            found |= rows.seen[:, place] & ~legal.to(found.device)
    return found
