"""Convergence of Markov chains: split R-hat and effective sample size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from probgen.errors import message, warn
from probgen.family import Family
from probgen.training import FitResult

__all__ = ["effective_size", "judged", "split_rhat"]

Floats = NDArray[np.float64]
#: a chain beyond these has not converged (Vehtari et al. 2021)
LARGEST_RHAT, SMALLEST_SIZE = 1.01, 100


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


def judged(families: Sequence[Family], results: Sequence[FitResult]) -> list[FitResult]:
    """The results of chains (one a restart) with R-hat, effective size and what follows.

    Over all chains and every number of every global: the largest R-hat, the smallest effective
    size. `converged` is false, with a ConvergenceWarning, beyond 1.01, below 100, or where
    steps diverged.
    """
    sites = families[0].sampled
    flat = [torch.cat([_flat(family.sampled[n]) for n in sites], 1) for family in families]
    draws = torch.stack(flat).cpu().numpy()
    rhat = float(np.nanmax(split_rhat(draws)))
    size = effective_size(draws)
    ess = float(np.nanmin(size)) if np.isfinite(size).any() else 0.0
    diverged = int(sum(result.chain["divergences"] for result in results))
    found = f"R-hat {rhat:.3f}, effective size {ess:.0f}, {diverged} divergences"
    good = rhat <= LARGEST_RHAT and ess >= SMALLEST_SIZE and not diverged
    if not good:
        warn(message(
            f"chains of NUTS with {found}",
            f"R-hat up to {LARGEST_RHAT}, effective size from {SMALLEST_SIZE}, no divergences",
            "fit with inference=pg.NUTS(acceptance=0.95), or write scales as factors of "
            "standard normal sites" if diverged
            else "fit with inference=pg.NUTS(warmup=..., steps=...), both larger",
        ), ConvergenceWarning)  # fmt: skip
    return [
        replace(
            r, converged=good, reason=f"NUTS: {found}", chain=r.chain | {"rhat": rhat, "ess": ess}
        )
        for r in results
    ]


def _flat(draws: torch.Tensor) -> torch.Tensor:
    return draws.double().reshape(len(draws), -1)
