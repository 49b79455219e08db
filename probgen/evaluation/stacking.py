"""Stacking weights: the mixture of densities with the highest held-out log density."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, cholesky
from scipy.optimize import nnls

from probgen.errors import SchemaError, message

__all__ = ["Weights", "stacking_weights"]

Floats = NDArray[np.float64]
#: nats a row by which the weights may miss the optimum, and steps at most
GAP, STEPS = 1e-8, 200


@dataclass(frozen=True)
class Weights:
    """What `stacking_weights` found.

    Attributes
    ----------
    weights : ndarray (k,)
        Not negative, 1 together.
    elpd : float
        Mean log density of the weighted mixture, nats a row.
    gap : float
        Nats a row by which other weights could be better, at most.
    impossible : int
        Rows that have density 0 under every model; they are left out.
    """

    weights: Floats
    elpd: float
    gap: float
    impossible: int


def stacking_weights(log_p: Floats, row_weight: Floats | None = None) -> Weights:
    """Weights of k densities that maximise the mean log density of their mixture.

    Parameters
    ----------
    log_p : ndarray (n, k)
        Log density of each row under each model, nats, of rows that the models did not see.
        -inf is a density of 0.
    row_weight : ndarray (n,), optional
        Frequency weights of the rows.

    Returns
    -------
    Weights

    Raises
    ------
    SchemaError
        If a number is NaN, or no row has a positive density under any model.

    Notes
    -----
    The problem is concave. Each step solves the quadratic approximation over weights that are
    not negative (sequential quadratic programming), and is shortened until the value rises.
    With ``g_k = mean(p_k / mixture)``, the gain that other weights could bring is at most
    ``max(g) - 1``: that is the gap. Cost: n k^2 a step, some ten steps.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), Using stacking to average Bayesian predictive
    distributions, Bayesian Analysis 13. Kim, Carbonetto, Stephens and Anitescu (2020), A fast
    algorithm for maximum likelihood estimation of mixture proportions using sequential
    quadratic programming, JCGS 29.

    Examples
    --------
    >>> found = stacking_weights(np.log([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]))
    >>> found.weights.round(4)
    array([0.8125, 0.1875])
    """
    log_p = np.asarray(log_p, dtype=np.float64)
    n, k = log_p.shape
    share = np.ones(n) if row_weight is None else np.asarray(row_weight, dtype=np.float64)
    peak = log_p.max(1) if k else np.full(n, -math.inf)
    known = np.isfinite(peak) & (share > 0)
    if np.isnan(log_p).any() or not known.any():
        raise SchemaError(message(
            "log densities that are NaN, or 0 everywhere, to stack",
            "a number for each row and model, and a row with a positive density",
            "look at log_prob of the models",
        ))  # fmt: skip
    share = share[known] / share[known].sum()
    p = np.exp(log_p[known] - peak[known, None])
    w, gap = _ascend(p, share)
    elpd = float(share @ (np.log(p @ w) + peak[known]))
    return Weights(w, elpd, gap, int((~np.isfinite(peak)).sum()))


def _ascend(p: Floats, share: Floats) -> tuple[Floats, float]:
    """Weights (k,) of densities p (n, k), and their gap."""
    w = np.full(p.shape[1], 1 / p.shape[1])
    for _ in range(STEPS):
        relative = p / (p @ w)[:, None]
        slope = share @ relative
        gap = float(slope.max() - 1)
        if gap < GAP:
            break
        w = _step(p, share, w, relative, slope)
    return w, max(0.0, gap)


def _step(p: Floats, share: Floats, w: Floats, relative: Floats, slope: Floats) -> Floats:
    """The next weights: on the way to the optimum of the quadratic, as far as the value rises."""
    now = share @ np.log(p @ w)
    target = _quadratic(relative, share, slope)
    for length in 0.5 ** np.arange(12):
        trial = w + length * (target - w)
        trial /= trial.sum()
        mixture = p @ trial
        if (mixture > 0).all() and share @ np.log(mixture) > now:
            return trial
    return w * slope  # a step of expectation maximisation never lowers the value


def _quadratic(relative: Floats, share: Floats, slope: Floats) -> Floats:
    """Weights v >= 0 that minimise v'Hv / 2 - (2 slope - 1)'v, H the curvature at w.

    The sum of the weights stands in the objective with factor 1, which makes it 1 at the
    optimum (Kim et al. 2020), so that only the signs are constrained.
    """
    curvature = relative.T @ (share[:, None] * relative)
    curvature[np.diag_indices_from(curvature)] += 1e-9 * curvature.diagonal().max()
    lower = cho_factor(curvature, lower=True)
    root = cholesky(curvature)  # upper, root.T @ root = curvature
    goal = root @ cho_solve(lower, 2 * slope - 1)
    found, _ = nnls(root, goal)
    return found if found.sum() > 0 else np.full(len(slope), 1 / len(slope))
