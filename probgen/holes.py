"""Normals whose rows have holes: marginals, conditional means and draws, pattern by pattern.

Padded algebra keeps every matrix (d, d): with the hidden rows and columns of a covariance
replaced by those of the identity, its Cholesky factor gives the marginal of the seen slots,
and products with a gap that is 0 where hidden give conditional means. So rows of many
patterns are worked out in a few batched calls.

Sizes: n rows, k components, d slots, p patterns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probgen.leaves import gamma_draws
from probgen.normals import Kernel, Moments, cholesky, log_det_of, log_kernel

__all__ = ["Marginals", "Patterns", "pattern_groups"]

#: rows from which a pattern is worked out by itself, without a gather of its matrices
OWN_GROUP = 64
#: numbers in the gathered matrices of a group of rows: 16 MB of float64
GATHERED = 2_000_000


@dataclass
class Patterns:
    """Patterns (p, d), True where seen, and which of them each row has (n,).

    `back` is None where there is one pattern for all rows.
    """

    values: Tensor
    back: Tensor | None = None

    def take(self, rows: slice) -> Patterns:
        """The patterns of some of the rows."""
        return self if self.back is None else Patterns(self.values, self.back[rows])


def pattern_groups(seen: Tensor, k: int) -> Iterator[tuple[Tensor | slice, Patterns | None]]:
    """Rows that are worked out together, and their patterns (None: nothing is hidden)."""
    n, d = seen.shape
    if bool(seen.all()):
        yield slice(0, n), None
        return
    values, back, sizes = _distinct(seen)
    order = back.argsort(stable=True)
    few: list[Tensor] = []
    for rows, pattern in zip(order.split(sizes.tolist()), values, strict=True):
        if bool(pattern.all()):
            yield rows, None
        elif len(rows) >= OWN_GROUP:
            yield rows, Patterns(pattern[None])
        else:
            few.append(rows)
    if few:
        # sorted by pattern, so that few patterns fall into each group
        for rows in torch.cat(few).split(max(1, GATHERED // (k * d * d))):
            own, back, _ = _distinct(seen[rows])
            yield rows, Patterns(own, back)


def _distinct(seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct rows of seen (n, d), which of them each row is, and how many there are."""
    d = seen.shape[1]
    if d > 62:
        return seen.unique(dim=0, return_inverse=True, return_counts=True)
    powers = 2 ** torch.arange(d, device=seen.device)
    values, back, sizes = (seen * powers).sum(-1).unique(return_inverse=True, return_counts=True)
    return (values[:, None] & powers) > 0, back, sizes


class Marginals:
    """k kernels conditioned on the seen slots of rows of some patterns."""

    def __init__(self, kernel: Kernel, patterns: Patterns) -> None:
        self.kernel, self.back = kernel, patterns.back
        covariance = kernel.covariance()
        on = patterns.values[:, None]
        self.on = on
        both = on[..., :, None] & on[..., None, :]
        eye = torch.eye(on.shape[-1], dtype=covariance.dtype, device=covariance.device)
        root = cholesky(torch.where(both, covariance, eye))
        self.log_det = -log_det_of(root)  # (p, k), of the precision of the seen slots
        self.precision = torch.where(both, torch.cholesky_inverse(root), 0.0)  # (p, k, d, d)
        self.covariance = covariance
        self.d_seen = patterns.values.sum(-1).to(covariance.dtype)
        self._hidden: Tensor | None = None
        # of the rows that were scored last: chunks are scored, then counted or filled
        self._last: tuple[Tensor, Tensor] | None = None

    def _of_rows(self, value: Tensor) -> Tensor:
        """Values (p, ...) as (n, ...), or (1, ...) where one pattern stands for all rows."""
        return value if self.back is None else value[self.back]

    def _gap(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """(x - mean, its product with the precision of the seen slots), both (n, k, d)."""
        gap = (x[:, None] - self.kernel.mean) * seen[:, None]
        if self.back is None:
            return gap, torch.einsum("nkd,kde->nke", gap, self.precision[0])
        return gap, (gap[:, :, None] @ self.precision[self.back])[:, :, 0]

    def log_dets(self, n: int) -> Tensor:
        """Log determinants (n, k) of the precisions of the seen slots."""
        return self._of_rows(self.log_det).expand(n, -1)

    def log_rows(self, x: Tensor, seen: Tensor) -> Tensor:
        """Log density (n, k) of the seen slots of rows x (n, d)."""
        gap, scaled = self._last = self._gap(x, seen)
        d_seen = self._of_rows(self.d_seen)[:, None]
        quad = (gap * scaled).sum(-1)
        return log_kernel(quad, self._of_rows(self.log_det), d_seen, self.kernel)

    def expect(self, x: Tensor, seen: Tensor) -> Tensor:
        """(n, k, d): rows just scored with unseen slots at their mean given the seen ones."""
        _, scaled = self._gap(x, seen) if self._last is None else self._last
        mean = self.kernel.mean + torch.einsum("nkd,kde->nke", scaled, self.covariance)
        return torch.where(seen[:, None], x[:, None], mean)

    def hidden_covariance(self) -> Tensor:
        """Covariance (p, k, d, d) of the hidden slots given the seen ones, 0 elsewhere."""
        if self._hidden is None:
            moved = self.covariance @ self.precision @ self.covariance
            off = ~(self.on[..., :, None] | self.on[..., None, :])
            self._hidden = torch.where(off, self.covariance - moved, 0.0)
        return self._hidden

    def accumulate(self, x: Tensor, seen: Tensor, r: Tensor) -> Moments:
        """Expected statistics of the rows just scored, with responsibilities r (n, k)."""
        filled = self.expect(x, seen).transpose(0, 1)  # (k, n, d)
        weighted = filled * r.T[:, :, None]
        spread = self.hidden_covariance()
        if self.back is None:
            share = r.sum(0, keepdim=True)
        else:
            share = r.new_zeros(len(spread), r.shape[1]).index_add_(0, self.back, r)
        second = weighted.mT @ filled + torch.einsum("pk,pkij->kij", share, spread)
        return Moments(r.sum(0), weighted.sum(1), second)

    def fill(self, x: Tensor, seen: Tensor, label: Tensor, g: torch.Generator) -> Tensor:
        """x (n, d) with its unseen slots drawn given the seen ones and the component."""
        rows = torch.arange(len(x), device=x.device)
        gap, scaled = self._gap(x, seen) if self._last is None else self._last
        gap, scaled = gap[rows, label], scaled[rows, label]
        mean = self.kernel.mean[label] + torch.einsum(
            "nd,nde->ne", scaled, self.covariance[label]
        )  # fmt: skip
        eye = torch.diag_embed(self.on.to(x.dtype).expand(-1, len(self.covariance), -1))
        root = cholesky(self.hidden_covariance() + eye)  # (p, k, d, d)
        which = 0 if self.back is None else self.back
        eps = torch.randn(x.shape, generator=g, dtype=x.dtype, device=x.device)
        step = torch.einsum("nij,nj->ni", root[which, label], eps)
        if self.kernel.dof is not None:  # a t given part of itself is a t with more degrees
            dof = self.kernel.dof[label]
            distance = (gap * scaled).sum(-1)
            chi = 2 * gamma_draws(0.5 * (dof + self._of_rows(self.d_seen)), g)
            step = step * ((dof + distance) / chi).sqrt()[:, None]
        return torch.where(seen, x, mean + step)
