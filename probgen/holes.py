"""Normals whose rows have holes: marginals, conditional means and draws, pattern by pattern.

All is worked out on the hidden block of the precision, whose size is the number of holes of a
row: its inverse is the covariance of the hidden slots given the seen ones, its determinant
turns that of the joint into that of the marginal, and the squared distance of the seen slots
is that of the whole row with its holes at their conditional mean. Rows with equally many
holes are worked out together in batched calls, whatever their patterns: with a fifth of 16
columns hidden nearly every row has a pattern of its own, and blocks of 3 x 3 cost a
hundredth of the whole matrix.

Small blocks are inverted by the sweep operator, written for many matrices at once (Beaton
1964; Dempster 1969, Elements of continuous multivariate analysis; Little and Rubin 2019,
Statistical analysis with missing data, chapter 7).

Sizes: n rows, k components, d slots, p patterns, h hidden slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probgen.leaves import gamma_draws
from probgen.normals import Hidden, Kernel, Moments, cholesky, log_det_of, log_kernel

__all__ = ["Marginals", "Patterns", "pattern_groups"]

#: rows from which a pattern is worked out by itself, without a gather of its matrices
OWN_GROUP = 64
#: numbers in the widest intermediate of a group of rows (4 MB of float64), and in the hidden
#: blocks gathered for its rows (16 MB)
WIDEST, GATHERED = 500_000, 2_000_000
#: hidden slots up to which blocks are swept: beyond, the overhead of LAPACK is the smaller one
SWEPT = 8


@dataclass
class Patterns:
    """Patterns (p, d), True where seen, and which of them each row has (n,).

    All have equally many hidden slots. `back` is None where there is one pattern for all rows.
    """

    values: Tensor
    back: Tensor | None = None

    def take(self, rows: slice) -> Patterns:
        """The patterns of some of the rows, which are in the order of their patterns."""
        if self.back is None:
            return self
        back = self.back[rows]
        if not len(back):
            return Patterns(self.values[:1], back)
        first, last = int(back[0]), int(back[-1])
        return Patterns(self.values[first : last + 1], back - first)

    def hidden(self) -> Tensor:
        """Numbers (p, h) of the hidden slots."""
        return (~self.values).nonzero()[:, 1].view(len(self.values), -1)


def pattern_groups(seen: Tensor, k: int) -> Iterator[tuple[Tensor | slice, Patterns | None]]:
    """Rows that are worked out together, and their patterns (None: nothing is hidden)."""
    n, d = seen.shape
    if bool(seen.all()):
        yield slice(0, n), None
        return
    values, back, sizes = _distinct(seen)
    hidden = d - values.sum(-1)
    # rows by number of holes, then by pattern
    rank = hidden.argsort(stable=True)
    order = torch.empty_like(rank)
    order[rank] = torch.arange(len(rank), device=rank.device)
    back = order[back]
    values, sizes, hidden = values[rank], sizes[rank], hidden[rank]
    rows = back.argsort(stable=True)
    ends = sizes.cumsum(0)
    own = (hidden == 0) | (sizes >= OWN_GROUP)
    for i in own.nonzero()[:, 0].tolist():
        part = rows[ends[i] - sizes[i] : ends[i]]
        yield part, None if hidden[i] == 0 else Patterns(values[i : i + 1])
    few = rows[~own[back[rows]]]
    holes = hidden[back[few]]
    for h in holes.unique().tolist():
        same = few[holes == h]
        step = max(1, min(WIDEST // (k * d), GATHERED // (k * h * h)))
        for part in same.split(step):
            found, which = back[part].unique_consecutive(return_inverse=True)
            yield part, Patterns(values[found], which)


def _distinct(seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct rows of seen (n, d), which of them each row is, and how many there are."""
    d = seen.shape[1]
    if d > 62:
        return seen.unique(dim=0, return_inverse=True, return_counts=True)
    powers = 2 ** torch.arange(d, device=seen.device)
    values, back, sizes = (seen * powers).sum(-1).unique(return_inverse=True, return_counts=True)
    return (values[:, None] & powers) > 0, back, sizes


def _inverse(block: Tensor) -> tuple[Tensor, Tensor]:
    """Inverses of symmetric positive blocks (k, h, h, p), and their log determinants (k, p)."""
    h = block.shape[1]
    if h > SWEPT:
        root = cholesky(block.permute(0, 3, 1, 2))
        return torch.cholesky_inverse(root).permute(0, 2, 3, 1), log_det_of(root)
    log_det = block.new_zeros(block.shape[0], block.shape[3])
    out = block.clone()
    for j in range(h):
        # rounding must not turn the pivot of a nearly singular block negative
        pivot = torch.maximum(out[:, j, j], 1e-14 * block[:, j, j])
        log_det += pivot.log()
        row = out[:, j] / pivot[:, None]
        out -= out[:, :, j].clone()[:, :, None] * row[:, None]
        out[:, j], out[:, :, j] = row, row
        out[:, j, j] = -1 / pivot
    return out.neg_(), log_det


class Marginals:
    """k kernels conditioned on the seen slots of rows of some patterns.

    `exact` takes distances from whitened rows; otherwise from products with the precision,
    which are at hand and lose digits where a component is much smaller than the table.
    """

    def __init__(self, kernel: Kernel, patterns: Patterns, exact: bool = True) -> None:
        self.kernel, self.back = kernel, patterns.back
        self.index = patterns.hidden()
        p, self.h = self.index.shape
        k, d = kernel.mean.shape
        # the cells of hidden blocks in flattened matrices, (h * h * p,)
        self.cells = (self.index.T[:, None] * d + self.index.T).flatten()
        block = kernel.precision.reshape(k, d * d)[:, self.cells].view(k, self.h, self.h, p)
        self.inverse, log_det = _inverse(block)
        self.root = kernel.root()
        self.log_det = (log_det_of(self.root)[:, None] - log_det).T  # (p, k), of the seen slots
        self.exact, self.d_seen = exact, d - self.h
        # of the rows that were scored last: chunks are scored, then counted or filled
        self._last: tuple[Tensor, Tensor] | None = None

    def _of_rows(self, value: Tensor, dim: int) -> Tensor:
        """Values of patterns as values of rows; of one pattern, as they are."""
        return value if self.back is None else value.index_select(dim, self.back)

    def _score(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Rows with holes at their conditional means, less the mean (k, n, d), and distances.

        Distances (k, n) are the squared Mahalanobis distances of the seen slots.
        """
        gap = (x - self.kernel.mean[:, None]) * seen
        scaled = gap @ self.kernel.precision
        index = self._of_rows(self.index, 0).expand(len(gap), len(x), self.h)
        pull = scaled.gather(2, index).mT
        step = -(self._of_rows(self.inverse, 3) * pull[:, None]).sum(2)  # (k, h, n)
        if not self.exact:
            distance = (gap * scaled).sum(-1) + (step * pull).sum(1)
        gap = gap.scatter_(2, index, step.mT)
        if self.exact:
            distance = (gap @ self.root).square().sum(-1)
        return gap, distance

    def log_dets(self, n: int) -> Tensor:
        """Log determinants (n, k) of the precisions of the seen slots."""
        return self._of_rows(self.log_det, 0).expand(n, -1)

    def log_rows(self, x: Tensor, seen: Tensor) -> Tensor:
        """Log density (n, k) of the seen slots of rows x (n, d)."""
        self._last = self._score(x, seen)
        log_det = self._of_rows(self.log_det, 0)
        return log_kernel(self._last[1].T, log_det, self.d_seen, self.kernel)

    def gaps(self, x: Tensor, seen: Tensor) -> Tensor:
        """Rows just scored less the mean (k, n, d), their holes at the conditional mean."""
        return self._filled(x, seen)[0]

    def _filled(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        return self._score(x, seen) if self._last is None else self._last

    def pulls(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With P the precision of the seen slots: what leaving one of them out changes.

        Squared distances (n, k), P (x - mean) (n, k, d), and the diagonal of P (n or 1, k, d);
        the last two are of use for seen slots only.
        """
        gap, distance = self._score(x, seen)
        precision = self.kernel.precision
        across = precision[:, :, self.index]  # (k, d, p, h)
        moved = torch.einsum("kdpa,kabp,kdpb->pkd", across, self.inverse, across)
        own = precision.diagonal(dim1=-2, dim2=-1) - moved
        return distance.T, (gap @ precision).transpose(0, 1), self._of_rows(own, 0)

    def conditional(self, x: Tensor, seen: Tensor) -> Hidden:
        """The unseen slots of rows just scored given the seen ones."""
        gap, distance = self._filled(x, seen)
        mean = (gap + self.kernel.mean[:, None]).transpose(0, 1)
        variance = self._of_rows(self.inverse.diagonal(dim1=1, dim2=2).mT, 2)  # (k, h, n)
        index = self._of_rows(self.index, 0).expand(len(variance), len(x), self.h)
        scale = torch.ones_like(gap)
        scale = scale.scatter_(2, index, variance.mT.expand(index.shape).sqrt()).transpose(0, 1)
        if self.kernel.dof is None:
            return Hidden(mean, scale, torch.full_like(mean, torch.inf))
        dof = self.kernel.dof + self.d_seen
        wider = ((self.kernel.dof + distance.T) / dof).sqrt()
        return Hidden(mean, scale * wider[..., None], dof[:, None].expand_as(mean))

    def accumulate(self, x: Tensor, seen: Tensor, r: Tensor) -> Moments:
        """Expected statistics of the rows just scored, with responsibilities r (n, k)."""
        filled = self._filled(x, seen)[0] + self.kernel.mean[:, None]
        weighted = filled * r.T[:, :, None]
        second = self.add_spread(weighted.mT @ filled, r)
        return Moments(r.sum(0), weighted.sum(1), second)

    def add_spread(self, second: Tensor, r: Tensor) -> Tensor:
        """Second moments (k, d, d) plus the covariance of what rows hide, r (n, k) times."""
        if self.back is None:
            share = r.sum(0)[:, None]
        else:
            share = r.new_zeros(self.inverse.shape[3], r.shape[1]).index_add_(0, self.back, r).T
        spread = (self.inverse * share[:, None, None]).flatten(1)
        second.flatten(1).scatter_add_(1, self.cells.expand(len(second), -1), spread)
        return second

    def fill(self, x: Tensor, seen: Tensor, label: Tensor, g: torch.Generator) -> Tensor:
        """x (n, d) with its unseen slots drawn given the seen ones and the component."""
        rows = torch.arange(len(x), device=x.device)
        gap, distance = self._filled(x, seen)
        mean = gap[label, rows] + self.kernel.mean[label]
        which = torch.zeros_like(rows) if self.back is None else self.back
        block = self.inverse.permute(0, 3, 1, 2)
        few = block.shape[0] * block.shape[1] <= len(x)  # a factor a pattern, or one a row
        root = cholesky(block)[label, which] if few else cholesky(block[label, which])
        eps = torch.randn(len(x), self.h, 1, generator=g, dtype=x.dtype, device=x.device)
        step = (root @ eps)[..., 0]
        if self.kernel.dof is not None:  # a t given part of itself is a t with more degrees
            dof = self.kernel.dof[label]
            chi = 2 * gamma_draws(0.5 * (dof + self.d_seen), g)
            step = step * ((dof + distance[label, rows]) / chi).sqrt()[:, None]
        index = self._of_rows(self.index, 0).expand(len(x), self.h)
        return torch.where(seen, x, mean.scatter_add(1, index, step))
