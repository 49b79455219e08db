"""Analyses of several imputed tables as one, by Rubin's rules.

References: Rubin (1987), Multiple imputation for nonresponse in surveys, chapter 3; Barnard and
Rubin (1999), Small-sample degrees of freedom with multiple imputation, Biometrika 86.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from probgen.errors import SchemaError, message

__all__ = ["Pooled", "pool"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pooled:
    """What `pool` found: one number a parameter, on the names of the parameters.

    Attributes
    ----------
    params : Series
        Pooled estimates: the mean over the tables.
    bse : Series
        Standard errors: the root of ``within + (1 + 1/m) between``.
    dof : Series
        Degrees of freedom of the t distribution of estimate over error; may be infinite.
    fmi : Series
        Fraction of missing information: the share of the knowledge about the parameter that
        the holes took.
    riv : Series
        Relative increase of the variance due to the holes, (1 + 1/m) between / within.
    within, between : Series
        Mean of the variances, and variance of the estimates over the tables.
    draws : int
        Number of tables, m.
    """

    params: pd.Series
    bse: pd.Series
    dof: pd.Series
    fmi: pd.Series
    riv: pd.Series
    within: pd.Series
    between: pd.Series
    draws: int

    @property
    def tvalues(self) -> pd.Series:
        """Estimate over standard error."""
        return self.params / self.bse

    @property
    def pvalues(self) -> pd.Series:
        """Two-sided p-values for a parameter of 0."""
        tail = stdtr(self.dof.to_numpy(), -self.tvalues.abs().to_numpy())
        return pd.Series(2 * tail, index=self.params.index)

    def conf_int(self, level: float = 0.95) -> pd.DataFrame:
        """Ends of intervals with this probability: a frame ``lower, upper``."""
        if not 0 < level < 1:
            raise SchemaError(message(f"level={level}", "0 < level < 1", "pass 0.95, say"))
        half = self.bse * stdtrit(self.dof.to_numpy(), 0.5 + 0.5 * level)
        return pd.DataFrame({"lower": self.params - half, "upper": self.params + half})

    def frame(self, level: float = 0.95) -> pd.DataFrame:
        """All of it, a row a parameter."""
        return pd.DataFrame({
            "estimate": self.params, "std_error": self.bse, "t": self.tvalues, "dof": self.dof,
            "p": self.pvalues, **self.conf_int(level), "fmi": self.fmi, "riv": self.riv,
        })  # fmt: skip

    def __repr__(self) -> str:
        return f"{self.frame()}\npooled over {self.draws} tables"

    def _repr_html_(self) -> str:
        return f"{self.frame().to_html()}<p>pooled over {self.draws} tables</p>"


def pool(results: Iterable[Any], dof: float | None = None) -> Pooled:
    """Pool the analyses of several imputed tables by Rubin's rules.

    Parameters
    ----------
    results : iterable
        One a table of ``model.impute(table, draws=m)``. Fits with ``params`` and ``bse`` or
        ``cov_params()``, as statsmodels' are; or pairs (estimate, variance) of numbers, arrays
        or Series. Variances are squares of standard errors; a matrix gives its diagonal.
    dof : float, optional
        Degrees of freedom that the analysis would have without holes, n minus parameters. By
        default those that the fits state as ``df_resid``; where these are infinite or not
        stated, the sample counts as large.

    Returns
    -------
    Pooled
        With ``params, bse, dof, tvalues, pvalues, conf_int(), fmi, riv`` and ``frame()``.

    Raises
    ------
    SchemaError
        For fewer than two results, results whose parameters differ, variances that are not
        finite and positive, or objects of another kind.

    Notes
    -----
    With estimates q_i and variances u_i of m tables: W = mean(u), B = var(q), T = W + (1 + 1/m) B.
    The rules hold for estimates that are nearly normal: pool the logarithm of an odds ratio or a
    variance, Fisher's z of a correlation. Some 20 tables do; more where `fmi` is large, about
    100 times `fmi` (White, Royston and Wood 2011, Multiple imputation using chained equations,
    Statistics in Medicine 30).

    Examples
    --------
    >>> pooled = pool([(10.0, 4.0), (12.0, 4.0), (11.0, 4.0)])
    >>> float(pooled.params.iloc[0]), round(float(pooled.bse.iloc[0]), 3)
    (11.0, 2.309)
    """
    found = [_read(result) for result in results]
    m = len(found)
    if m < 2:
        raise SchemaError(message(
            f"{m} result(s) to pool", "two or more",
            "analyse each table of impute(table, draws=20)",
        ))  # fmt: skip
    names = found[0][0]
    for own, *_ in found[1:]:
        if not own.equals(names):
            raise SchemaError(message(
                f"results with parameters {list(own)[:8]} beside {list(names)[:8]}",
                "the same parameters in the same order",
                "fit one formula to all tables, with the same levels of every category",
            ))  # fmt: skip
    estimates = np.stack([q for _, q, _, _ in found])
    variances = np.stack([u for _, _, u, _ in found])
    _check(estimates, variances, names)
    stated = [d for *_, d in found if d is not None]
    complete = min(stated) if dof is None and stated else dof
    if complete is not None and not complete > 0:
        raise SchemaError(message(
            f"dof={complete}", "a positive number", "pass n minus the number of parameters"
        ))  # fmt: skip
    return _rubin(estimates, variances, names, math.inf if complete is None else complete)


def _rubin(q: Floats, u: Floats, names: pd.Index, complete: float) -> Pooled:
    m = len(q)
    within, between = u.mean(0), q.var(0, ddof=1)
    extra = (1 + 1 / m) * between
    total = within + extra
    riv, share = extra / within, extra / total
    with np.errstate(divide="ignore"):
        dof = (m - 1) / share**2  # infinite where the tables agree
    if math.isfinite(complete):
        observed = (complete + 1) / (complete + 3) * complete * (1 - share)
        dof = 1 / (1 / dof + 1 / observed)
    fmi = (riv + 2 / (dof + 3)) / (riv + 1)

    def named(values: Floats) -> pd.Series:
        return pd.Series(values, index=names)

    return Pooled(
        named(q.mean(0)), named(np.sqrt(total)), named(dof), named(np.where(extra > 0, fmi, 0.0)),
        named(riv), named(within), named(between), m,
    )  # fmt: skip


def _check(q: Floats, u: Floats, names: pd.Index) -> None:
    bad = (~np.isfinite(q) | ~np.isfinite(u) | (u <= 0)).any(0)
    if bad.any():
        raise SchemaError(message(
            f"estimates or variances of {list(names[bad])[:8]} that are missing, infinite or not "
            "positive", "finite estimates with positive variances",
            "look at the fits of single tables",
        ))  # fmt: skip


def _read(result: Any) -> tuple[pd.Index, Floats, Floats, float | None]:
    """(names, estimates (p,), variances (p,), residual degrees of freedom or None)."""
    if hasattr(result, "params"):
        variance = _variance(result)
        stated = getattr(result, "df_resid", None)
        dof = float(stated) if isinstance(stated, int | float | np.number) else math.nan
        return *_named(result.params, variance), dof if math.isfinite(dof) else None
    pair = isinstance(result, tuple | list) and len(result) == 2
    if not pair:
        raise SchemaError(message(
            f"a {type(result).__name__} to pool", "fits with params and bse, or pairs "
            "(estimate, variance)", "return (estimate, variance) from the analysis",
        ))  # fmt: skip
    return *_named(*result), None


def _variance(fit: Any) -> Any:
    if hasattr(fit, "bse"):
        errors = fit.bse
        return errors**2 if isinstance(errors, pd.Series) else np.square(np.asarray(errors, float))
    if callable(getattr(fit, "cov_params", None)):
        return fit.cov_params()
    raise SchemaError(message(
        f"a {type(fit).__name__} with params but no bse and no cov_params()",
        "standard errors", "pass pairs (estimate, variance)",
    ))  # fmt: skip


def _named(estimate: Any, variance: Any) -> tuple[pd.Index, Floats, Floats]:
    if isinstance(variance, pd.DataFrame) and set(variance.columns) == set(variance.index):
        variance = variance[variance.index]  # its diagonal, whatever the order of its columns
    try:
        q = np.atleast_1d(np.asarray(estimate, dtype=np.float64))
        u = np.asarray(variance, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SchemaError(message(
            f"an estimate or variance that is no number ({error})", "numbers", "correct them"
        )) from error  # fmt: skip
    u = np.atleast_1d(np.diagonal(u) if u.ndim == 2 else u)
    if q.ndim != 1 or u.shape != q.shape:
        raise SchemaError(message(
            f"estimates of shape {q.shape} with variances of shape {u.shape}",
            "one variance for each estimate", "pass the squares of the standard errors",
        ))  # fmt: skip
    names = estimate.index if isinstance(estimate, pd.Series) else pd.RangeIndex(len(q))
    if isinstance(variance, pd.Series | pd.DataFrame) and isinstance(estimate, pd.Series):
        if set(variance.index) != set(names):
            raise SchemaError(message(
                "estimates and variances with other names", "the same names", "align them"
            ))  # fmt: skip
        place = variance.index.get_indexer(names)
        u = u[place]
    return names, q, u
