"""How far an estimate can be trusted, and which model predicts best."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from probgen.density import Density
from probgen.errors import SchemaError, message
from probgen.plots.shared import (
    DATA,
    GREY,
    MODEL,
    Array,
    clean,
    date_ticks,
    is_date,
    numbers,
    own_axes,
    short,
)
from probgen.table import to_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Compared", "LeftOut", "elpd", "gains", "khat"]

#: Vehtari et al. (2024): below the first an average of weights is reliable, above the second
#: it is not
GOOD, BAD = 0.5, 0.7
#: bins in which a mean is drawn
BINS = 12


class LeftOut(Protocol):
    """What `khat` needs of `probgen.evaluation.Loo`."""

    @property
    def pointwise(self) -> pd.DataFrame: ...


class Compared(Protocol):
    """What `elpd` needs of `probgen.evaluation.Comparison`."""

    @property
    def table(self) -> pd.DataFrame: ...
    @property
    def pointwise(self) -> pd.DataFrame: ...


def khat(
    source: Density | LeftOut, table: Any = None, worst: int = 5, ax: Axes | None = None
) -> Axes:
    """Pareto k-hat of each row: where an importance estimate cannot be trusted.

    Parameters
    ----------
    source : Loo or Density
        Leave-one-out of ``model.loo(table)``; or a model, whose densities of the rows of
        `table` are estimates.
    table : data frame, optional
        Rows to score, for a model.
    worst : int
        Rows above 0.7 to mark with their index, at most.
    ax : Axes, optional

    Returns
    -------
    Axes
        Rows in the order of the table. Below 0.5 the estimate is reliable, between 0.5 and
        0.7 it serves, above 0.7 its error is larger than stated.

    Raises
    ------
    SchemaError
        Where no row has a k-hat: the densities of the model are exact.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.
    """
    values = _khat_of(source, table)
    known = values[values.notna()]
    if not len(known):
        raise SchemaError(message(
            "no k-hat in any row", "densities that are estimated by importance sampling",
            "nothing is to be feared where densities are exact; pass model.loo(table) to look "
            "at leave-one-out",
        ))  # fmt: skip
    ax = own_axes(ax)
    place = np.flatnonzero(values.notna())
    # an infinite k-hat (weights on one draw) is drawn at the top
    top = max(1.0, float(known[np.isfinite(known)].max()) if np.isfinite(known).any() else 1.0)
    height = np.clip(known.to_numpy(), None, 1.05 * top)
    kinds = ((height <= GOOD, DATA, "o", f"up to {GOOD}"),
             ((height > GOOD) & (height <= BAD), GREY, "s", f"{GOOD} to {BAD}"),
             (height > BAD, MODEL, "^", f"above {BAD}"))  # fmt: skip
    for rows, colour, mark, text in kinds:
        share = f"{int(rows.sum())} rows ({100 * rows.mean():.3g} %)"
        ax.scatter(place[rows], height[rows], s=14, c=colour, marker=mark, alpha=0.7,
                   linewidths=0, label=f"{text}: {share}", rasterized=True)  # fmt: skip
    for line in (GOOD, BAD):
        ax.axhline(line, color=GREY, linewidth=0.9, linestyle=":")
    for spot in np.argsort(-known.to_numpy(), kind="stable")[:worst]:
        if height[spot] > BAD:
            ax.annotate(short(known.index[spot], 14), (place[spot], height[spot]), (4, 3),
                        textcoords="offset points", fontsize="small")  # fmt: skip
    low = min(0.0, float(height.min()))
    ax.set(xlabel="row", ylabel="Pareto k-hat", ylim=(low - 0.05, 1.15 * top))
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3,
              fontsize="small", handletextpad=0.2)  # fmt: skip
    return clean(ax)


def _khat_of(source: Density | LeftOut, table: Any) -> pd.Series:
    if not isinstance(source, Density):
        return source.pointwise["khat"].astype(np.float64)
    if table is None:
        raise SchemaError(message("a model without rows", "rows to score", "pass table"))
    return source.log_prob(table, details=True)["khat"].astype(np.float64)


def elpd(comparison: Compared, ax: Axes | None = None) -> Axes:
    """Which model predicts best: differences of expected log predictive density, with errors.

    Parameters
    ----------
    comparison : Comparison
        Of ``pg.compare({...}, table)``.
    ax : Axes, optional

    Returns
    -------
    Axes
        The best model on top, at 0; each other model as far to the left as it predicts worse,
        nats a row, with one (thick) and two (thin) standard errors of the difference. On the right
        the elpd itself with its own standard error, and the weight of the model in the stack.
    """
    found = comparison.table
    if not len(found):
        raise SchemaError(message("no models", "a comparison of some", "pass pg.compare(...)"))
    ax = own_axes(ax, (7.6, 1.2 + 0.42 * len(found)))
    places = np.arange(len(found))[::-1]
    gap = -np.abs(found["difference"].to_numpy(dtype=np.float64))
    error = np.nan_to_num(found["difference_se"].to_numpy(dtype=np.float64), posinf=0.0)
    finite = np.isfinite(gap)
    for place in places[~finite]:
        ax.annotate("some row has density 0", (0.02, place), va="center", color=GREY,
                    xycoords=("axes fraction", "data"), fontsize="small")  # fmt: skip
    gap, error, at = gap[finite], error[finite], places[finite]
    ax.axvline(0, color=GREY, linewidth=0.9, linestyle=":")
    ax.errorbar(gap, at, xerr=2 * error, fmt="none", ecolor=DATA, elinewidth=1)
    ax.errorbar(gap, at, xerr=error, fmt="o", color=DATA, markersize=5.5, elinewidth=3)
    ax.set_yticks(places, [short(name, 28) for name in found.index])
    ax.set_ylim(-0.6, len(found) - 0.4)
    ax.set_xlabel("elpd less that of the best (nats a row), with 1 and 2 standard errors")
    right = ax.twinx()
    right.set_ylim(ax.get_ylim())
    right.set_yticks(places, [_summary(row) for _, row in found.iterrows()], fontsize="small")
    right.tick_params(axis="y", length=0)
    right.spines[["top", "right"]].set_visible(False)
    return clean(ax)


def _summary(row: pd.Series) -> str:
    """The elpd of a model, and its weight."""
    se = float(row["se"])
    if not np.isfinite(row["elpd"]) or not np.isfinite(se):
        return f"{row['elpd']:,.3f}"
    digits = int(np.clip(1 - np.floor(np.log10(se)), 0, 6)) if se > 0 else 3
    text = f"{row['elpd']:,.{digits}f} ± {se:,.{digits}f}"
    weight = row.get("weight", np.nan)
    return f"{text}   weight {weight:.2f}" if pd.notna(weight) else text


def gains(
    comparison: Compared,
    table: Any,
    column: Hashable,
    models: tuple[Hashable, Hashable] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Where one model predicts better than another: differences row by row along a column.

    Parameters
    ----------
    comparison : Comparison
    table : data frame
        The rows that were compared, on their index.
    column : name
        Whose values to draw along: numbers, dates or levels.
    models : (first, second), optional
        By default the two best.
    ax : Axes, optional

    Returns
    -------
    Axes
        A dot for each row: log p of the first less log p of the second, nats. The line is the
        mean within bins of equally many rows, or within levels, with two standard errors.
    """
    first, second = models or tuple(comparison.table.index[:2])
    gap = comparison.pointwise[first] - comparison.pointwise[second]
    frame = to_frame(table)
    if column not in frame or len(frame) != len(gap):
        raise SchemaError(message(
            f"{len(frame)} rows with columns {list(frame.columns)[:20]}",
            f"the {len(gap)} rows that were compared, with a column {column!r}",
            "pass the same table",
        ))  # fmt: skip
    ax = own_axes(ax)
    values, labels = _along(frame[column])
    height = gap.to_numpy(dtype=np.float64)
    keep = np.isfinite(values) & np.isfinite(height)
    values, height = values[keep], height[keep]
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, len(values)) if labels else 0.0
    ax.scatter(values + jitter, height, s=9, c=DATA, alpha=0.4, linewidths=0, rasterized=True)
    centre, mean, error = _binned(values, height, labels)
    ax.errorbar(centre, mean, yerr=2 * error, fmt="o" if labels else "o-", color=MODEL,
                markersize=4.5, elinewidth=1.6)  # fmt: skip
    ax.axhline(0, color=GREY, linewidth=0.9, linestyle=":")
    if labels:
        ax.set_xticks(range(len(labels)), [short(label, 12) for label in labels])
    elif is_date(frame[column]):
        date_ticks(ax.xaxis)
    ax.set_xlabel(short(column))
    ax.set_ylabel("log p, difference (nats)")
    ax.set_title(f"above 0, {short(first)} predicts better than {short(second)}",
                 fontsize="medium", loc="left")  # fmt: skip
    return clean(ax)


def _along(series: pd.Series) -> tuple[Array, list[Any]]:
    """Places (n,) of values on an axis, NaN in the holes, and their labels if they are levels."""
    from pandas.api.types import is_bool_dtype, is_datetime64_any_dtype, is_numeric_dtype

    dtype = series.dtype
    if (is_numeric_dtype(dtype) and not is_bool_dtype(dtype)) or is_datetime64_any_dtype(dtype):
        out = np.full(len(series), np.nan)
        out[series.notna().to_numpy()] = numbers(series)
        return out, []
    codes, levels = pd.factorize(series, sort=True)
    return np.where(codes < 0, np.nan, codes), list(levels)


def _binned(values: Array, height: Array, labels: list[Any]) -> tuple[Array, Array, Array]:
    """Centres of bins of equally many rows (or levels), means and standard errors there."""
    if labels:
        group = values.astype(int)
    else:
        inner = np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1])
        group = np.searchsorted(np.unique(inner), values, "right")
    frame = pd.DataFrame({"at": values, "height": height}).groupby(group)
    error = frame["height"].sem().fillna(0.0)
    return frame["at"].mean().to_numpy(), frame["height"].mean().to_numpy(), error.to_numpy()
