"""Normals whose rows have no holes: matrix products over all components at once."""

from __future__ import annotations

import torch
from torch import Tensor

from probgen.normals import LOG_2PI, Kernel, Moments, log_det_of, log_kernel

__all__ = ["WholeRows", "moments_of"]


class WholeRows:
    """k kernels over rows that are seen in whole.

    `exact` whitens the rows; otherwise, for normals, log densities are one product with
    quadratic features. Features are faster, also because they serve the statistics, and
    lose digits where a component is much smaller than the table: they train, never score.
    """

    def __init__(self, kernel: Kernel, exact: bool) -> None:
        self.kernel = kernel
        root = kernel.root()
        self.log_det = log_det_of(root)
        self.weights: Tensor | None = None
        self._features: Tensor | None = None
        if kernel.dof is None and not exact:
            self.weights = _quadratic_weights(kernel, self.log_det)
        else:
            self.blocks = _whitening(root, kernel.mean)

    def log_dets(self, n: int) -> Tensor:
        """Log determinants (n, k) of the precisions."""
        return self.log_det.expand(n, -1)

    def log_rows(self, x: Tensor, seen: Tensor) -> Tensor:
        """Log density (n, k) of rows x (n, d)."""
        if self.weights is not None:
            self._features = _quadratic_features(x)  # kept for `accumulate`
            return (self.weights @ self._features).T
        n, d = x.shape
        k = len(self.log_det)
        # a row of ones carries the shift: cheaper than adding it to every product
        values = x.new_ones(d + 1, n)
        values[:d] = x.T
        quad = x.new_zeros(k, n)
        for first, width, weight in self.blocks:
            white = weight @ values[first:]
            quad += white.square_().view(k, width, -1).sum(1)
        return log_kernel(quad.T, self.log_det, d, self.kernel)

    def accumulate(self, x: Tensor, seen: Tensor, r: Tensor) -> Moments:
        """Statistics of the rows just scored, with responsibilities r (n, k)."""
        features = _quadratic_features(x) if self._features is None else self._features
        return _unpack((features @ r).T, x.shape[1])

    def fill(self, x: Tensor, seen: Tensor, label: Tensor, g: torch.Generator) -> Tensor:
        """Nothing is hidden: x itself."""
        return x


def moments_of(x: Tensor, r: Tensor) -> Moments:
    """Statistics of whole rows x (n, d) with responsibilities r (n, k)."""
    return _unpack((_quadratic_features(x) @ r).T, x.shape[1])


def _whitening(root: Tensor, mean: Tensor) -> list[tuple[int, int, Tensor]]:
    """(first row, width, weights (k * width, d + 1 - first)) of the whitening.

    The root is lower triangular, so a block of its columns needs only the rows from its
    first on: four blocks save three eighths of the multiplications. The last column holds
    the shift.
    """
    d = mean.shape[1]
    step = max(4, -(-d // 4))
    blocks = []
    for first in range(0, d, step):
        width = min(step, d - first)
        part = root[:, first:, first : first + width]
        shift = torch.einsum("kij,ki->kj", part, mean[:, first:])
        weight = torch.cat([part.mT, -shift[..., None]], -1)
        blocks.append((first, width, weight.reshape(-1, d - first + 1).contiguous()))
    return blocks


def _quadratic_features(x: Tensor) -> Tensor:
    """(1 + d + d (d + 1) / 2, n): one, the values, and their pairwise products.

    Features come first: each is then written, and read by the products, in one stretch.
    """
    n, d = x.shape
    out = x.new_empty(1 + d + d * (d + 1) // 2, n)
    out[0] = 1.0
    values = out[1 : 1 + d]
    values.copy_(x.T)
    row = 1 + d
    for i in range(d):
        torch.mul(values[i:], values[i], out=out[row : row + d - i])
        row += d - i
    return out


def _quadratic_weights(kernel: Kernel, log_det: Tensor) -> Tensor:
    """Weights (k, features) that turn quadratic features into log densities."""
    p, m = kernel.precision, kernel.mean
    d = m.shape[1]
    i, j = torch.triu_indices(d, d, device=m.device)
    linear = torch.einsum("kij,kj->ki", p, m)
    const = kernel.log_const + 0.5 * (log_det - d * LOG_2PI - (linear * m).sum(-1))
    products = p[:, i, j] * torch.where(i == j, -0.5, -1.0)
    return torch.cat([const[:, None], linear, products], 1)


def _unpack(sums: Tensor, d: int) -> Moments:
    """Moments from responsibilities' sums (k, features) of quadratic features."""
    i, j = torch.triu_indices(d, d, device=sums.device)
    second = sums.new_zeros(len(sums), d, d)
    second[:, i, j] = sums[:, 1 + d :]
    second[:, j, i] = sums[:, 1 + d :]
    return Moments(sums[:, 0], sums[:, 1 : 1 + d], second)
