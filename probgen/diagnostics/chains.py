"""Convergence of Markov chains: split R-hat and effective sample size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["effective_size", "split_rhat"]

Floats = NDArray[np.float64]


def _split(draws: Floats) -> Floats:
    """(chains, S, n) to halves of chains (2 * chains, S // 2, n)."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def split_rhat(draws: Floats) -> Floats:
    """R-hat of half chains.

    Parameters
    ----------
    draws : ndarray (chains, S, n)
        S >= 4 draws of n quantities.

    Returns
    -------
    ndarray (n,)
        Near 1 where all halves look alike; 1 where nothing varies.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Rank-normalization, folding, and
    localization: an improved R-hat, Bayesian Analysis 16 (equation 4; without the ranks).
    """
    halves = _split(draws)
    length = halves.shape[1]
    within = halves.var(1, ddof=1).mean(0)
    between = halves.mean(1).var(0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt((length - 1) / length + between / within)
    return np.where((within == 0) & (between == 0), 1.0, ratio)


def effective_size(draws: Floats) -> Floats:
    """Number of independent draws that are worth as much, (n,).

    Parameters
    ----------
    draws : ndarray (chains, S, n)
        S >= 8 draws of n quantities.

    References
    ----------
    Geyer (1992), Practical Markov chain Monte Carlo, Statistical Science 7; split chains as in
    Vehtari et al. (2021).
    """
    halves = _split(draws)
    chains, length, n = halves.shape
    centred = halves - halves.mean(1, keepdims=True)
    size = 1 << (2 * length - 1).bit_length()
    spectrum = np.fft.rfft(centred, size, axis=1)
    covariance = np.fft.irfft(spectrum * spectrum.conj(), size, axis=1)[:, :length] / length
    within = covariance[:, 0].mean(0) * length / (length - 1)
    total = within * (length - 1) / length + halves.mean(1).var(0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = 1 - (within - covariance.mean(0) * length / (length - 1)) / total
    rho[0] = 1.0
    pairs = rho[: 2 * (length // 2)].reshape(-1, 2, n).sum(1)
    # sums of neighbours are positive and fall: what does not is noise
    positive = np.cumprod(pairs > 0, 0).astype(bool)
    pairs = np.where(positive, np.minimum.accumulate(np.where(positive, pairs, np.inf)), 0.0)
    tau = np.maximum(2 * pairs.sum(0) - 1, 1 / np.log10(chains * length))
    return np.where(total > 0, chains * length / tau, np.nan)
