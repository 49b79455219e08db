"""How a fit went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from probgen.density import Density
from probgen.errors import SchemaError, message
from probgen.family import Family
from probgen.plots.shared import DATA, GREY, MODEL, OTHERS, brief, clean, own_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["loss"]

#: nats: a loss that moves less than this is drawn flat
FLAT = 0.01
#: share of the epochs that may fall outside the picture at the start
FALL = 0.1
#: restarts that have a colour and an entry of the legend each
NAMED = 5


def loss(model: Density, ax: Axes | None = None) -> Axes:
    """Loss of each epoch, one line a restart, with the score of held-out rows if there is one.

    Parameters
    ----------
    model : Density
    ax : Axes, optional

    Returns
    -------
    Axes
        Negative ELBO, nats a row, in encoded units. A first fall that would flatten all that
        follows is cut, and the picture says where it began. The loss of a family that trains by
        several objectives is their sum, which need not fall; a held-out score of a family's own
        has an axis of its own on the right.

    Raises
    ------
    SchemaError
        If the fit optimised nothing, as one by sampling.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    results = model.results_
    if not any(len(result.losses) for result in results):
        raise SchemaError(message(
            "a fit without losses", "one that optimised something",
            "look at model.result_, or model.check()",
        ))  # fmt: skip
    ax = own_axes(ax)
    name, own_score = _said(model.members_[0])
    right = ax.twinx() if own_score and any(len(r.validation) for r in results) else None
    for number, result in enumerate(results):
        _line(ax, right or ax, number, len(results), result)
    ax.set(xlabel="epoch", ylabel=name)
    _frame(ax, [np.asarray(part) for result in results for part in
                ((result.losses,) if right else (result.losses, result.validation))])  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(FuncFormatter(brief))
    lines = ax.get_lines()
    if right is not None:
        right.set_ylabel("held-out score (of the family's own)")
        right.spines[["top"]].set_visible(False)
        lines = [*lines, *right.get_lines()]
    done = sum(result.converged for result in results)
    ax.set_title(_verdict(done, results), fontsize="medium", loc="left")
    named = [line for line in lines if not str(line.get_label()).startswith("_")]
    if len(named) > 1:
        ax.legend(handles=named, frameon=False, fontsize="small")
    return clean(ax)


def _said(member: Family) -> tuple[str, bool]:
    """What the losses are, and whether the held-out score is another thing than they."""
    own_score = type(member).validate is not Family.validate
    objectives = [objective.name for objective in member.objectives()]
    if objectives:
        return f"sum of the objectives: {', '.join(objectives)}", True
    return "negative ELBO (nats a row, encoded units)", own_score


def _line(ax: Axes, right: Axes, number: int, restarts: int, result: Any) -> None:
    """The losses of one restart, and its held-out scores."""
    many = restarts > NAMED
    name = "training" if restarts == 1 else f"restart {number}"
    if many:
        name = "_" if number else f"{restarts} restarts"
    colour = DATA if many or restarts == 1 else OTHERS[number]
    held = (GREY if right is not ax else MODEL) if many or restarts == 1 else colour
    epochs = np.arange(1, len(result.losses) + 1)
    style: dict[str, Any] = {"linewidth": 0.8 if many else 1.5, "alpha": 0.6 if many else 1.0}
    # shorter dashes on top: restarts that agree stay visible
    dashes = (0, (6, 3 * number)) if number and not many else "-"
    mark = "o" if len(epochs) < 15 else None
    ax.plot(epochs, result.losses, marker=mark, color=colour, label=name, linestyle=dashes,
            markersize=4, **style)  # fmt: skip
    if len(result.validation):
        at = np.arange(1, len(result.validation) + 1)
        label = name if name == "_" else f"{name}, held out"
        right.plot(at, result.validation, "--", color=held, label=label, **style)


def _frame(ax: Axes, curves: list[NDArray[np.float64]]) -> None:
    """Limits that show what happened after the first fall."""
    curves = [curve[np.isfinite(curve)] for curve in curves]
    curves = [curve for curve in curves if len(curve)]
    late = np.concatenate([curve[int(np.ceil(FALL * len(curve))) :] for curve in curves])
    every = np.concatenate(curves)
    late = late if len(late) else every
    low, high = float(every.min()), float(every.max())
    spread = float(np.ptp(late))
    if spread > 0 and high - low > max(10 * spread, FLAT):
        ax.annotate(f"began at {brief(round(high, 2))}", (0, 1), (6, -4),
                    xycoords="axes fraction", textcoords="offset points", va="top", color=GREY,
                    fontsize="small")  # fmt: skip
        high = float(late.max())
        low = min(low, float(late.min()))
    room = max(0.05 * (high - low), (FLAT - (high - low)) / 2)
    ax.set_ylim(low - room, high + room)


def _verdict(done: int, results: Sequence[Any]) -> str:
    if len(results) > 1:
        return f"{done} of {len(results)} restarts converged"
    return f"{'converged' if done else 'not converged'}: {results[0].reason}"
