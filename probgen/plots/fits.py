"""How a fit went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probgen.density import Density
from probgen.plots.shared import DATA, clean, own_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["loss"]

#: nats: a loss that moves less than this is drawn flat
FLAT = 0.01


def loss(model: Density, ax: Axes | None = None) -> Axes:
    """Loss of each epoch, one line a restart, with the score of held-out rows if there is one.

    Parameters
    ----------
    model : Density
    ax : Axes, optional

    Returns
    -------
    Axes
        Negative ELBO, nats a row, in encoded units.
    """
    from matplotlib.ticker import MaxNLocator

    ax = own_axes(ax)
    results = model.results_
    for number, result in enumerate(results):
        name = f"restart {number}" if len(results) > 1 else "training"
        colour = f"C{number}" if len(results) > 1 else DATA
        epochs = np.arange(1, len(result.losses) + 1)
        # shorter dashes on top: restarts that agree stay visible
        dashes = (0, (6, 3 * number)) if number else "-"
        mark = "o" if len(epochs) < 15 else None
        ax.plot(epochs, result.losses, marker=mark, color=colour, label=name, linestyle=dashes,
                markersize=4)  # fmt: skip
        if len(result.validation):
            held = np.arange(1, len(result.validation) + 1)
            ax.plot(held, result.validation, "--", color=colour, label=f"{name}, held out")
    ax.set(xlabel="epoch", ylabel="negative ELBO (nats a row, encoded units)")
    low, high = ax.get_ylim()
    if high - low < FLAT:
        ax.set_ylim((low + high - FLAT) / 2, (low + high + FLAT) / 2)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.ticklabel_format(axis="y", useOffset=False)
    done = sum(result.converged for result in results)
    ax.set_title(_verdict(done, results), fontsize="medium", loc="left")
    if len(ax.get_lines()) > 1:
        ax.legend(frameon=False)
    return clean(ax)


def _verdict(done: int, results: Sequence[Any]) -> str:
    if len(results) > 1:
        return f"{done} of {len(results)} restarts converged"
    return f"{'converged' if done else 'not converged'}: {results[0].reason}"
