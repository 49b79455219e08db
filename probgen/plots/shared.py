"""What the plots share: axes, colours, and values as places on an axis."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probgen.columns import Column
from probgen.density import Density
from probgen.errors import SchemaError, message

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]

#: Okabe and Ito (2008): told apart by readers with any colour vision
DATA, MODEL, GREY = "#0072B2", "#D55E00", "#6b6b6b"
#: of the same palette, for components and levels
OTHERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: levels shown by name
LEVELS = 12


def whole_contexts(model: Density, frame: pd.DataFrame) -> pd.DataFrame | None:
    """The context columns of rows that hold all of them; None for a model without context.

    Raises
    ------
    SchemaError
        If there is no such row.
    """
    names = [c.name for c in model.schema_.columns if c.role == "context"]
    if not names:
        return None
    held = frame[[name for name in names if name in frame]].dropna()
    if not len(held) or held.shape[1] < len(names):
        raise SchemaError(message(
            "no row with a whole context", f"the columns {names}, which the model conditions on",
            "pass a table that holds them",
        ))  # fmt: skip
    return held


def drawn_beside(model: Density, frame: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """`count` rows that the model draws; what it conditions on comes from rows of the frame."""
    context = whole_contexts(model, frame)
    if context is None:
        return model.sample(count, random_state=seed)
    held = context.iloc[np.random.default_rng(seed).integers(len(context), size=count)]
    return model.sample(1, given=held, random_state=seed).reset_index(drop=True)


def own_axes(ax: Axes | None, size: tuple[float, float] = (6.4, 4.0)) -> Axes:
    """The axes to draw on, in a new figure of that size (inches) where none are given."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def grid_of_axes(
    count: int, width: float, height: float
) -> tuple[NDArray[np.object_], list[Axes]]:
    """`count` axes in a new figure, and those left over in its last row."""
    import matplotlib.pyplot as plt

    across = min(4, int(np.ceil(np.sqrt(count))) if count > 3 else count)
    down = -(-count // across)
    figure, axes = plt.subplots(
        down, across, figsize=(width * across, height * down + 0.4), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for ax in axes.flat[count:]:
        ax.axis("off")
    return axes.flat[:count], list(axes.flat[count:])


def handles(data: str, model: str) -> list[Any]:
    """Entries of a legend that says which colour is what."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Patch(color=DATA, alpha=0.45, label=data),
        Line2D([], [], color=MODEL, linewidth=1.8, marker="o", markersize=5, label=model),
    ]


def legend_below(
    axes: NDArray[np.object_], unused: list[Axes], entries: list[tuple[Any, str]]
) -> None:
    """A legend where there is room: in an unused panel, or below all."""
    marks, labels = [mark for mark, _ in entries], [label for _, label in entries]
    if unused:
        labels = ["\n".join(textwrap.wrap(label, 28)) for label in labels]
        unused[0].legend(marks, labels, loc="center", frameon=False)
    else:
        figure = axes[0].figure
        # about 0.09 inches a letter, and what the mark takes
        across = max(1, int(figure.get_figwidth() / (0.09 * max(map(len, labels)) + 0.7)))
        figure.legend(marks, labels, loc="outside lower center", frameon=False,
                      ncols=min(across, len(labels)))  # fmt: skip


def drawable(
    model: Density, frame: pd.DataFrame, columns: Sequence[Hashable] | None
) -> list[Hashable]:
    """The columns to draw: known to the model, and in the table."""
    schema = model.schema_
    drawable = [c.name for c in schema.columns if c.role == "modelled" and c.name in frame.columns]
    if columns is None:
        return drawable
    missing = [name for name in columns if name not in drawable]
    if missing:
        raise SchemaError(message(
            f"column(s) {missing} to draw", f"columns among {drawable}", "check the names"
        ))  # fmt: skip
    return list(columns)


def is_date(series: pd.Series) -> bool:
    """Whether a column holds dates."""
    return pd.api.types.is_datetime64_any_dtype(series.dtype)


def numbers(series: pd.Series) -> Array:
    """Seen values (n,) as numbers; dates in days since 1970, durations in days."""
    seen = series.dropna()
    if is_date(seen):
        start = pd.Timestamp(0, tz=getattr(seen.dt, "tz", None))
        return ((seen - start) / pd.Timedelta(days=1)).to_numpy(dtype=np.float64)
    if pd.api.types.is_timedelta64_dtype(seen.dtype):
        return (seen / pd.Timedelta(days=1)).to_numpy(dtype=np.float64)
    return pd.to_numeric(seen).to_numpy(dtype=np.float64)


def fit_ticks(axis: Any, column: Column) -> None:
    """Ticks that suit the values of a column: levels by name, dates, whole numbers."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    levels = list(column.levels or ())
    if column.labelled and len(levels) <= LEVELS:
        axis.set_ticks(range(len(levels)), [short(level, 10) for level in levels])
    elif column.kind == "date":
        date_ticks(axis)
    else:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=column.kind == "count"))
        axis.set_major_formatter(FuncFormatter(brief))


def date_ticks(axis: Any) -> None:
    """Ticks of dates, given in days since 1970 as matplotlib counts them."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=2, maxticks=5)
    axis.set_major_locator(locator)
    axis.set_major_formatter(ConciseDateFormatter(locator))


def brief(value: float, _place: object = None) -> str:
    """A number as short as it can be said, thousands by letter: 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size <= abs(value) < 1e12:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{value:.6g}"


def positions(series: pd.Series, column: Column, noise: np.random.Generator) -> Array:
    """Where rows go on an axis (n,): levels by code, spread a little; NaN where unseen."""
    if column.labelled:
        levels = pd.Index(list(column.levels or ()), dtype=object)
        codes = levels.get_indexer(pd.Index(series.astype(object))).astype(np.float64)
        codes[codes < 0] = np.nan
        return codes + noise.uniform(-0.25, 0.25, len(codes))
    out = np.full(len(series), np.nan)
    out[series.notna().to_numpy()] = numbers(series)
    return out


def short(value: object, most: int = 24) -> str:
    """A label of `most` characters at most."""
    text = str(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def wrapped(value: object) -> str:
    """The name of a column on as many lines as it needs beside an axis."""
    return "\n".join(textwrap.wrap(short(value).replace("_", " "), 14))


def cell(value: object) -> str:
    """A value of the table as a short text."""
    if isinstance(value, float | np.floating):
        return f"{value:,.6g}"
    if isinstance(value, pd.Timestamp):
        return str(value.date()) if value == value.normalize() else f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, pd.Timedelta):
        return str(value.round("s"))
    return short(value, 16)


def clean(ax: Axes) -> Axes:
    """The axes without the frame that says nothing."""
    ax.spines[["top", "right"]].set_visible(False)
    return ax
