"""Additive regressions with smooth terms: their basis, the choice of terms, and of the noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "chosen_terms",
    "coefficients",
    "laplace_log_likelihood",
    "normal_log_likelihood",
    "smooth_terms",
]

Floats = NDArray[np.float64]

#: Knots of a smooth term, at equal steps of the ranks from 5 to 95 %: three terms besides the
#: linear one (`benchmarks/structure_continuous.py`).
KNOTS = 5
#: Ridge, in shares of the rows: keeps copies of a column solvable.
RIDGE = 1e-9
#: Pseudo-rows of the column's variance in each configuration: keeps the likelihood of a few
#: rows, or of an exact copy of another column, finite. One row gains at most 2.3 nats.
VARIANCE_ROWS = 0.01
#: The same for the scale of Laplace noise.
SCALE_ROWS = 0.1
#: Floor of a residual variance, as a share of the column's.
LEAST_VARIANCE = 1e-8


def smooth_terms(x: Floats) -> Floats:
    """Nonlinear terms of a natural cubic spline: linear beyond the outer knots.

    Parameters
    ----------
    x : array (n,)
        NaN where unseen.

    Returns
    -------
    array (n, up to 3)
        Orthogonal to each other, to the constant and to x over the seen rows, with mean
        square 1. No columns where x has too few distinct values.
    """
    seen = ~np.isnan(x)
    own = x[seen]
    knots = np.unique(np.quantile(own, np.linspace(0.05, 0.95, KNOTS))) if len(own) else own
    if len(knots) < 3:
        return np.empty((len(x), 0))
    cubes = np.clip(own[:, None] - knots, 0, None) ** 3
    slopes = (cubes[:, :-1] - cubes[:, -1:]) / (knots[-1] - knots[:-1])
    terms = (slopes[:, :-1] - slopes[:, -1:]) / (knots[-1] - knots[0]) ** 2
    plain = np.column_stack([np.ones(len(own)), own])
    terms = terms - plain @ np.linalg.lstsq(plain, terms, rcond=None)[0]
    left, scale, _ = np.linalg.svd(terms, full_matrices=False)
    kept = left[:, scale > 1e-6 * scale.max(initial=1e-300)] * np.sqrt(len(own))
    found = np.full((len(x), kept.shape[1]), np.nan)
    found[seen] = kept
    return found


def coefficients(moments: Floats) -> Floats:
    """Least squares in each configuration (configurations, p): the last column on the others.

    Parameters
    ----------
    moments : array (configurations, p + 1, p + 1)
        Sums of products of all columns, weighted; the first column is 1.
    """
    inside = moments[:, :-1, :-1]
    ridge = RIDGE * np.maximum(moments[:, 0, 0], 1e-9)[:, None, None] * np.eye(inside.shape[1])
    return np.asarray(np.linalg.solve(inside + ridge, moments[:, :-1, -1:])[:, :, 0])


def _residual_sums(moments: Floats) -> Floats:
    """Residual sum of squares of each configuration."""
    rest = moments[:, -1, -1] - (coefficients(moments) * moments[:, :-1, -1]).sum(1)
    return np.maximum(rest, 0.0)


def chosen_terms(
    moments: Floats, linear: list[int], smooth: list[list[int]], price: float, variance: float
) -> list[int]:
    """Columns of the regression of the last column: all linear terms, and smooth ones that pay.

    The smooth terms of one parent after another, the best first, as long as BIC rises.

    Parameters
    ----------
    moments : array (configurations, columns, columns)
    linear : list of int
        With the constant.
    smooth : list of lists of int
        Of each parent.
    price : float
        Nats of a coefficient in all configurations.
    variance : float
        Of the last column.
    """

    def worth(columns: list[int]) -> float:
        which = [*columns, moments.shape[1] - 1]
        part = moments[:, which][:, :, which]
        return normal_log_likelihood(part, variance) - price * len(columns)

    chosen, left, best = linear, [own for own in smooth if own], -np.inf
    if left:
        best = worth(chosen)
    while left:
        values = [worth(chosen + own) for own in left]
        top = int(np.argmax(values))
        if values[top] <= best:
            break
        best, chosen = values[top], chosen + left.pop(top)
    return chosen


def normal_log_likelihood(moments: Floats, variance: float) -> float:
    """Maximum of the log-likelihood of a normal regression in each configuration, in nats.

    Parameters
    ----------
    moments : array (configurations, p + 1, p + 1)
        Sums of products of 1, the other regressors and the node, weighted.
    variance : float
        Of the node, the unit of the floors.
    """
    moments = moments[moments[:, 0, 0] > 0]
    size, rest = moments[:, 0, 0], _residual_sums(moments)
    spread = (rest + VARIANCE_ROWS * variance) / (size + VARIANCE_ROWS)
    spread = np.maximum(spread, LEAST_VARIANCE * variance)
    return float(-0.5 * (size * np.log(2 * np.pi * spread) + rest / spread).sum())


def laplace_log_likelihood(size: Floats, absolute: Floats, variance: float) -> float:
    """Log-likelihood of residuals under Laplace noise with a scale in each configuration.

    Parameters
    ----------
    size, absolute : array (configurations,)
        Weight of the rows, and weighted sum of the absolute residuals.
    variance : float
        Of the node, the unit of the floors.
    """
    unit = np.sqrt(variance)
    scale = (absolute + SCALE_ROWS * unit) / (size + SCALE_ROWS)
    scale = np.maximum(scale, np.sqrt(LEAST_VARIANCE) * unit)
    return float(-(size * np.log(2 * scale) + absolute / scale).sum())
