"""Factor analysis of cells with holes, by expectation and maximisation: where networks start.

References: Rubin and Thayer (1982), EM algorithms for ML factor analysis, Psychometrika 47.
Tipping and Bishop (1999), Probabilistic principal component analysis, JRSS B 61: one variance for
all columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Factors", "ridge"]

#: sweeps, and the smallest own variance of a column of variance 1
SWEEPS, LEAST = 30, 0.003
#: numbers that the second moments of all rows hold at most
HELD = 2**24
#: products of a sweep at most, beyond which fewer rows are taken
WORK = 2**32


@dataclass
class Factors:
    """y = loadings z + noise, z standard normal, in principal axes: the strongest first.

    Attributes
    ----------
    loadings : Tensor (p, L)
    own : Tensor (p,)
        Variance of the noise of each column.
    """

    loadings: Tensor
    own: Tensor

    @staticmethod
    def rows(size: int, n: int, columns: int) -> int:
        """Rows of n that a fit of L = `size` factors takes, for its memory and its time."""
        square = max(1, size * size)
        return min(n, max(500, min(HELD // square, WORK // (square * max(1, columns)))))

    def given(self, y: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (n, L) of z given the cells of y (n, p) that are `on`."""
        mean, cover = _posterior(y, on.to(y), self.loadings, self.own)
        return mean, cover.diagonal(dim1=1, dim2=2)

    @classmethod
    def fit(
        cls, y: Tensor, seen: Tensor, weight: Tensor, size: int, shared: bool = False
    ) -> Factors:
        """Fit to centred rows y (n, p), 0 where unseen; `shared` is one variance for all columns.

        Cost n p L^2 a sweep.
        """
        on = seen.to(y)
        share = on * weight[:, None]
        held = share.sum(0).clamp_min(1e-12)
        spread = (share * y.square()).sum(0) / held
        loadings, own = _principal(y, weight, size, spread)
        eye = torch.eye(size, dtype=y.dtype, device=y.device)
        for _ in range(SWEEPS):
            mean, cover = _posterior(y, on, loadings, own)
            moment = cover + mean[:, :, None] * mean[:, None, :]
            cross = (share * y).T @ mean
            square = (share.T @ moment.flatten(1)).unflatten(1, (size, size))
            loadings = torch.linalg.solve(square + 1e-6 * eye, cross[..., None])[..., 0]
            own = spread - (cross * loadings).sum(1) / held
            if shared:
                own = ((own * held).sum() / held.sum()).expand_as(own)
            own = torch.maximum(own, LEAST * spread.clamp_min(1e-6))
        _, axes = torch.linalg.eigh(loadings.T @ (loadings / own[:, None]))
        return cls(loadings @ axes.flip(1), own)


def _principal(y: Tensor, weight: Tensor, size: int, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Loadings along the principal axes of the cells, and what these leave."""
    cover = (y * weight[:, None]).T @ y / weight.sum()
    value, axes = torch.linalg.eigh(cover)
    few = min(size, len(value))
    value, axes = value.flip(0)[:few], axes.flip(1)[:, :few]
    loadings = y.new_zeros(y.shape[1], size)
    loadings[:, :few] = axes * value.clamp_min(0).sqrt()
    own = torch.maximum(spread - loadings.square().sum(1), 0.05 * spread.clamp_min(1e-6))
    return loadings, own


def _posterior(y: Tensor, on: Tensor, loadings: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (n, L) and covariance (n, L, L) of the factors of each row."""
    size = loadings.shape[1]
    scaled = loadings / own[:, None]
    outer = (scaled[:, :, None] * loadings[:, None, :]).flatten(1)
    precision = (on @ outer).unflatten(1, (size, size))
    precision = precision + torch.eye(size, dtype=y.dtype, device=y.device)
    cover = torch.cholesky_inverse(torch.linalg.cholesky(precision))
    return (cover @ ((on * y) @ scaled)[..., None])[..., 0], cover


def ridge(x: Tensor, y: Tensor, weight: Tensor, penalty: float = 1.0) -> tuple[Tensor, Tensor]:
    """Slope (f, t) and level (t,) of the weighted ridge regression of y (n, t) on x (n, f).

    `penalty` counts pseudo-rows of features of their own variance; the level is free.
    """
    share = weight / weight.sum()
    centre, level = share @ x, share @ y
    gap = x - centre
    gram = (gap * weight[:, None]).T @ gap
    size = gram.diagonal() / weight.sum()
    gram = gram + torch.diag(penalty * size + 1e-9)
    slope = torch.linalg.solve(gram, (gap * weight[:, None]).T @ (y - level))
    return slope, level - centre @ slope
