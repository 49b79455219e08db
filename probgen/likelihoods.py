"""Rows over mixed columns: which likelihood each slot gets, and k of them as one density.

`MixedRows` is the density of a row under k components in plain torch: one block of normals
for the real slots and a leaf for each other slot. It scores, gathers sufficient
statistics, fills holes and never enters Pyro, so it is fast and safe in threads.
`RowMixture` is the same density as a Pyro distribution, one site for all columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from probgen.columns import Slot
from probgen.counts import CountLeaf
from probgen.full_normals import FullNormals
from probgen.holes import Patterns
from probgen.leaves import CategoryLeaf, Leaf, Look, RealLeaf, pick
from probgen.normals import DiagonalNormals, Kernel, Moments

__all__ = ["Chunk", "Components", "Covariance", "MixedRows", "RowMixture", "Statistics"]

Covariance = Literal["full", "tied", "diag", "spherical", "flexible"]

#: elements of the widest intermediate of a chunk of rows: 4 MB of float64, the size at
#: which scoring is fastest (benchmarks/scoring.py)
CHUNK_ELEMENTS = 500_000
#: basis densities that may be kept between the sweeps of a fit: 256 MB of float64
KEEP_ELEMENTS = 32_000_000


@dataclass
class Components:
    """What scores rows: log weights (k,), the kernels of the normals, log leaf weights."""

    log_weights: Tensor
    kernel: Kernel | None
    leaves: dict[int, Tensor]  # slot -> (k, b)


@dataclass
class Statistics:
    """Expected sufficient statistics of some rows."""

    weights: Tensor
    moments: Moments | None
    leaves: dict[int, Tensor]


class Glance(NamedTuple):
    """What the leaf of one slot needs of some rows: those that are seen (None: all)."""

    rows: Tensor | None
    look: Look


class Piece(NamedTuple):
    """Rows that are worked out together, and all that does not depend on parameters."""

    at: Tensor | slice
    x: Tensor
    seen: Tensor
    block: Tensor  # the real slots of x
    block_seen: Tensor
    patterns: Patterns | None
    looks: dict[int, Glance]


class Chunk(NamedTuple):
    """A piece under given components."""

    piece: Piece
    logits: Tensor  # (rows, k): log weight plus log density of the seen cells
    prepared: Any  # the normals' factors for the pattern of these rows

    @property
    def at(self) -> Tensor | slice:
        """Which rows of the table."""
        return self.piece.at

    @property
    def x(self) -> Tensor:
        """Their values."""
        return self.piece.x

    @property
    def seen(self) -> Tensor:
        """Which cells are seen."""
        return self.piece.seen


@dataclass
class Kept:
    """Pieces of training rows, with the rows they were cut from.

    Holding the rows keeps their memory from being given to others: as long as this lives,
    another minibatch cannot come to lie at the same address.
    """

    x: Tensor
    seen: Tensor
    version: int
    pieces: list[Piece]

    def fits(self, x: Tensor, seen: Tensor) -> bool:
        """Whether the pieces are those of these rows."""
        return (
            self.x.data_ptr() == x.data_ptr()
            and self.seen.data_ptr() == seen.data_ptr()
            and self.x.shape == x.shape
            and self.version == x._version
        )


class MixedRows(nn.Module):
    """k components over the slots of a schema.

    Parameters
    ----------
    slots : sequence of Slot
        The encoded columns.
    k : int
        Number of components.
    covariance : "full", "tied", "diag", "spherical" or "flexible"
        The block of normals over the real slots; with "flexible" each real slot is a leaf
        of its own, a mixture of normals on a shared grid.
    mean_strength, dof, spread : float
        Prior of the normals (see `probgen.normals`).
    leaf_spread, leaf_strength, category_strength : float
        Dirichlet pseudo-counts of the leaves (see `probgen.leaves`).
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        k: int,
        covariance: Covariance,
        mean_strength: float,
        dof: float | None,
        spread: float | None,
        leaf_spread: float,
        leaf_strength: float,
        category_strength: float,
    ) -> None:
        super().__init__()
        self.k, self.m = k, len(slots)
        self.real: list[int] = []
        self.leaves = nn.ModuleDict()
        for i, slot in enumerate(slots):
            if slot.kind == "category":
                self.leaves[str(i)] = CategoryLeaf(k, slot.size, slot.reserved, category_strength)
            elif slot.kind == "count":
                self.leaves[str(i)] = CountLeaf(k, leaf_spread, leaf_strength)
            elif covariance == "flexible":
                self.leaves[str(i)] = RealLeaf(k, leaf_spread, leaf_strength)
            else:
                self.real.append(i)
        block = FullNormals if covariance in ("full", "tied") else DiagonalNormals
        shared = covariance in ("tied", "spherical")
        self._kept: Kept | None = None
        self.normals = block(k, len(self.real), shared, mean_strength, dof, spread)

    def leaf(self, slot: int) -> Leaf:
        """The leaf of a slot."""
        return self.leaves[str(slot)]  # type: ignore[return-value]

    def leaf_items(self) -> Iterator[tuple[int, Leaf]]:
        """(slot, leaf) of every slot that is not in the block of normals."""
        for name, leaf in self.leaves.items():
            yield int(name), leaf  # type: ignore[misc]

    def begin(self, x: Tensor, seen: Tensor, weight: Tensor, total: float) -> None:
        """Lay the leaves out over training rows of a table of `total` rows; forget all rows."""
        for i, leaf in self.leaf_items():
            on = seen[:, i] & (weight > 0)
            leaf.begin(x[on, i], weight[on])
        self.normals.begin(total)
        self.forget()

    def block(self, values: Tensor) -> Tensor:
        """The real slots of (n, m) values."""
        return values if len(self.real) == self.m else values[:, self.real]

    def chunks(
        self,
        x: Tensor,
        seen: Tensor,
        components: Components,
        exact: bool = True,
        keep: bool = False,
    ) -> Iterator[Chunk]:
        """Every row once, in chunks of bounded memory, rows of one pattern together.

        `keep` what does not depend on parameters for the next sweep over the same rows, until
        `forget`; sweeps that are not `exact` always do.
        """
        patterns, prepared = None, None
        for piece in self._pieces(x, seen, exact, keep or not exact):
            fresh = prepared is None or piece.patterns is not patterns
            if components.kernel is not None and fresh:
                patterns = piece.patterns
                prepared = self.normals.prepare(components.kernel, patterns, exact)
            logits = self._logits(piece, components, prepared)
            yield Chunk(piece, logits, prepared)

    def _pieces(self, x: Tensor, seen: Tensor, exact: bool, keep: bool) -> Iterable[Piece]:
        """What chunks are made of; kept between the sweeps of a fit where that is small."""
        if not keep:
            return self._cut(x, seen, exact)
        if self._kept is None or not self._kept.fits(x, seen):
            width = sum(leaf.size for _, leaf in self.leaf_items())
            if not width or len(x) * width > KEEP_ELEMENTS:
                return self._cut(x, seen, exact)
            self._kept = Kept(x, seen, x._version, list(self._cut(x, seen, exact)))
        return self._kept.pieces

    def forget(self) -> None:
        """Drop what was kept of the training rows."""
        self._kept = None

    def _cut(self, x: Tensor, seen: Tensor, exact: bool) -> Iterator[Piece]:
        k, d = self.k, len(self.real)
        pairs = 0 if exact else d * (d + 1) // 2
        widest = max([k * max(1, d if exact else 1), pairs]
                     + [leaf.size for _, leaf in self.leaf_items()])  # fmt: skip
        # 256 rows at least, for speed, but not where a row is so wide that these are gigabytes
        step = max(1, CHUNK_ELEMENTS // widest, min(256, 32 * CHUNK_ELEMENTS // widest))
        for rows, patterns in self.normals.groups(self.block(seen)):
            n = rows.stop if isinstance(rows, slice) else len(rows)
            for start in range(0, n, step):
                part = slice(start, min(n, start + step))
                at = part if isinstance(rows, slice) else rows[part]
                values, on = x[at], seen[at]
                looks = {}
                for slot, leaf in self.leaf_items():
                    mask = on[:, slot]
                    hit = None if bool(mask.all()) else mask.nonzero()[:, 0]
                    own = values[:, slot] if hit is None else values[hit, slot]
                    looks[slot] = Glance(hit, leaf.look(own))
                own_patterns = None if patterns is None else patterns.take(part)
                yield Piece(
                    at, values, on, self.block(values), self.block(on), own_patterns, looks
                )

    def _logits(self, piece: Piece, components: Components, prepared: Any) -> Tensor:
        logits = components.log_weights.expand(len(piece.x), self.k)
        if prepared is not None:
            logits = logits + prepared.log_rows(piece.block, piece.block_seen)
        for slot, log_w in components.leaves.items():
            glance = piece.looks[slot]
            log_p = self.leaf(slot).log_prob(glance.look, log_w)
            logits = (
                logits + log_p if glance.rows is None
                else logits.index_add(0, glance.rows, log_p)
            )  # fmt: skip
        return logits

    def log_rows(self, x: Tensor, seen: Tensor, components: Components) -> Tensor:
        """Log density (n,) of the seen cells of each row, encoded units, float64."""
        out = torch.empty(len(x), dtype=torch.float64, device=x.device)
        for chunk in self.chunks(x.double(), seen, components):
            out[chunk.at] = log_sum_exp(chunk.logits)[0]
        return out

    def responsibilities(self, x: Tensor, seen: Tensor, components: Components) -> Tensor:
        """p(label | seen cells) of each row (n, k)."""
        out = torch.empty(len(x), self.k, dtype=torch.float64, device=x.device)
        for chunk in self.chunks(x.double(), seen, components):
            out[chunk.at] = chunk.logits.softmax(-1)
        return out

    def sweep(
        self,
        x: Tensor,
        seen: Tensor,
        weight: Tensor,
        components: Components,
        fixed: Tensor | None = None,
    ) -> tuple[Statistics, Tensor]:
        """Statistics of weighted rows, and their summed log normalisers.

        `fixed` (n, k) replaces the responsibilities that the components imply.
        """
        stats = self.no_rows()
        bound = torch.zeros((), dtype=torch.float64, device=x.device)
        for chunk in self.chunks(x, seen, components, exact=False):
            w = weight[chunk.at, None]
            total, share, norm = log_sum_exp(chunk.logits)
            bound += total @ weight[chunk.at]
            # one exponential a cell serves the bound and the responsibilities
            r = share.mul_(w / norm) if fixed is None else fixed[chunk.at] * w
            self.gather(stats, chunk, r, components)
        return stats, bound

    def no_rows(self) -> Statistics:
        """Statistics of no rows."""
        device = self.normals.count.device
        return Statistics(
            torch.zeros(self.k, dtype=torch.float64, device=device),
            self.normals.zeros(device) if self.real else None,
            {i: torch.zeros_like(leaf.counts) for i, leaf in self.leaf_items()},
        )

    def gather(self, stats: Statistics, chunk: Chunk, r: Tensor, components: Components) -> None:
        """Add the expected statistics of a chunk with weighted responsibilities r (rows, k)."""
        stats.weights += r.sum(0)
        if stats.moments is not None:
            stats.moments += chunk.prepared.accumulate(
                chunk.piece.block, chunk.piece.block_seen, r
            )
        for slot, total in stats.leaves.items():
            rows, look = chunk.piece.looks[slot]
            total += self.leaf(slot).expected_counts(
                look, components.leaves[slot], r if rows is None else r[rows]
            )

    def blend(self, new: Statistics, rate: float) -> None:
        """Move the statistics held here towards `new`."""
        if new.moments is not None:
            self.normals.set(self.normals.moments.blend(new.moments, rate))
        for i, leaf in self.leaf_items():
            leaf.counts = leaf.counts.lerp(new.leaves[i], rate)

    def reorder(self, order: Tensor) -> None:
        """Permute the components."""
        self.normals.reorder(order)
        for _, leaf in self.leaf_items():
            leaf.reorder(order)

    def complete(
        self, x: Tensor, seen: Tensor, components: Components, generator: torch.Generator
    ) -> Tensor:
        """x (n, m) with unseen cells drawn exactly given the seen ones of their row."""
        out = x.double().clone()
        for chunk in self.chunks(out.clone(), seen, components):
            label = pick(chunk.logits.softmax(-1), generator)
            out[chunk.at] = self.fill(chunk, label, components, generator)
        return out

    def fill(
        self, chunk: Chunk, label: Tensor, components: Components, generator: torch.Generator
    ) -> Tensor:
        """The rows of a chunk with unseen cells drawn given their component."""
        out = chunk.x.clone()
        if chunk.prepared is not None:
            out[:, self.real] = chunk.prepared.fill(
                chunk.piece.block, chunk.piece.block_seen, label, generator
            )
        for slot, log_w in components.leaves.items():
            off = ~chunk.seen[:, slot]
            if bool(off.any()):
                out[off, slot] = self.leaf(slot).draw(log_w.exp(), label[off], generator)
        return out

    def centres(self, share: Tensor, components: Components) -> Tensor:
        """Rows (n, m) at the mean (mode of a category) of components mixed by share (n, k)."""
        out = torch.empty(len(share), self.m, dtype=torch.float64, device=share.device)
        if components.kernel is not None:
            out[:, self.real] = share @ components.kernel.mean
        for slot, log_w in components.leaves.items():
            out[:, slot] = self.leaf(slot).centre_of(share @ log_w.exp())
        return out


def log_sum_exp(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(log sum (n,), exp(logits - largest) (n, k), their sum (n, 1)) over components.

    Differences below -700 are cut there: exp of less is 0 or a denormal, ten times slower,
    and adds nothing to a sum that is at least 1.
    """
    top = logits.amax(-1, keepdim=True)
    # rows of density 0 under every component stay -inf instead of nan
    share = (logits - top.clamp_min(-1e300)).clamp_min_(-700.0).exp_()
    norm = share.sum(-1, keepdim=True)
    return (norm.log() + top)[:, 0], share, norm


class RowMixture(TorchDistribution):
    """A mixture of k components over all slots of a row, label summed out, unseen cells too.

    Batch shape (n,), event shape (m,). `seen` (n, m) marks the cells that are observed.
    """

    arg_constraints: dict = {}
    support = constraints.real_vector
    has_rsample = False
    skips_unseen = True

    def __init__(self, rows: MixedRows, components: Components, seen: Tensor) -> None:
        self.rows, self.components, self.seen = rows, components, seen
        super().__init__(seen.shape[:1], seen.shape[1:], validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> RowMixture:
        seen = self.seen.expand(*batch_shape, self.rows.m)
        return RowMixture(self.rows, self.components, seen)

    def log_prob(self, value: Tensor) -> Tensor:
        """(n,) log density of the seen cells."""
        parts = list(self.rows.chunks(value, self.seen, self.components))
        if len(parts) == 1 and isinstance(parts[0].at, slice):
            return parts[0].logits.logsumexp(-1)
        out = value.new_zeros(len(value))
        for chunk in parts:
            out = out.index_put(
                (torch.arange(len(value), device=value.device)[chunk.at],),
                chunk.logits.logsumexp(-1),
            )
        return out

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """(n, m) new rows, from torch's global generator (Pyro's convention)."""
        n = self.batch_shape[0]
        # RowMixture is sampled under Pyro, whose randomness is torch's global state
        seed = int(torch.randint(2**62, ()))
        generator = torch.Generator(self.seen.device).manual_seed(seed)
        x = torch.zeros(n, self.rows.m, dtype=torch.float64, device=self.seen.device)
        return self.rows.complete(x, torch.zeros_like(self.seen), self.components, generator)
