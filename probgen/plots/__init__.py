"""Pictures of a fitted model (matplotlib): every function returns the axes it drew on.

Nothing global is changed: no style, no backend. A figure is made where no axes are passed;
close it with ``matplotlib.pyplot.close``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from probgen.density import Density
from probgen.plots.columns import marginals, pairs
from probgen.plots.fits import loss
from probgen.plots.rows import p_values, surprisal, waterfall

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Plots", "loss", "marginals", "p_values", "pairs", "surprisal", "waterfall"]


class Plots:
    """The plots of one fitted model: ``model.plot.pairs(table)``."""

    def __init__(self, model: Density) -> None:
        self._model = model

    def __repr__(self) -> str:
        names = [name for name in vars(Plots) if not name.startswith("_")]
        return f"<plots of {type(self._model).__name__}: {', '.join(names)}>"

    def loss(self, **options: Any) -> Axes:
        """Loss of each epoch; see `loss`."""
        return loss(self._model, **options)

    def marginals(self, table: Any, **options: Any) -> NDArray[np.object_]:
        """Columns of a table beside the model; see `marginals`."""
        return marginals(self._model, table, **options)

    def pairs(self, table: Any, **options: Any) -> NDArray[np.object_]:
        """Pairs of columns, real beside sampled rows; see `pairs`."""
        return pairs(self._model, table, **options)

    def surprisal(self, table: Any, **options: Any) -> Axes:
        """Histogram of surprisal with the oddest rows; see `surprisal`."""
        return surprisal(self._model, table, **options)

    def p_values(self, table: Any, **options: Any) -> Axes:
        """Whether the p-values of sound rows are uniform; see `p_values`."""
        return p_values(self._model, table, **options)

    def waterfall(self, row: Any, **options: Any) -> Axes:
        """What makes one row odd; see `waterfall`."""
        return waterfall(self._model, row, **options)
