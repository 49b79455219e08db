"""The plots of one fitted model: ``model.plot``."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from probgen.density import Density
from probgen.plots import fits, maps, networks, rows, trust, uniform, warps
from probgen.plots.latents import latents
from probgen.plots.marginals import marginals
from probgen.plots.pairs import pairs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Plots"]

Panels = NDArray[np.object_]


class Plots:
    """The plots of one fitted model: ``model.plot.pairs(table)``.

    Each method is the function of the same name in `probgen.plots`, whose docstring says what
    is drawn and how to read it, and returns the axes it drew on.
    """

    def __init__(self, model: Density) -> None:
        self._model = model

    def __repr__(self) -> str:
        names = [name for name in vars(Plots) if not name.startswith("_")]
        return f"<plots of {type(self._model).__name__}: {', '.join(names)}>"

    # --- the fit ----------------------------------------------------------------------

    def loss(self, ax: Axes | None = None) -> Axes:
        """Loss of each epoch and score of held-out rows; see `probgen.plots.loss`.

        One line a restart; a title says whether they converged.
        """
        return fits.loss(self._model, ax)

    # --- the table beside the model ---------------------------------------------------

    def marginals(
        self,
        table: Any,
        columns: Sequence[Hashable] | None = None,
        interval: float | None = 0.9,
        samples: int = 2000,
        random_state: int = 0,
    ) -> Panels:
        """Each column of a table beside the model's density; see `probgen.plots.marginals`.

        `interval` is the posterior probability of the band (None: no band), `samples` the rows
        drawn to see how far the axes must reach.
        """
        return marginals(
            self._model, table, columns, interval, samples, random_state
        )  # fmt: skip

    def pairs(
        self,
        table: Any,
        columns: Sequence[Hashable] | None = None,
        rows: int = 1000,
        random_state: int = 0,
    ) -> Panels:
        """Pairs of two to six columns, real beside sampled rows; see `probgen.plots.pairs`."""
        return pairs(self._model, table, columns, rows, random_state)

    def density(
        self,
        table: Any,
        columns: Sequence[Hashable] | None = None,
        masses: Sequence[float] = (0.5, 0.8, 0.95),
        rows: int = 1000,
        random_state: int = 0,
        ax: Axes | None = None,
    ) -> Axes:
        """Contours of the joint density of two columns; see `probgen.plots.density`.

        `columns` are two columns of numbers, counts or dates; each contour holds a share
        `masses` of the model's mass.
        """
        return maps.density(self._model, table, columns, masses, rows, random_state, ax)

    def components(
        self,
        table: Any,
        columns: Sequence[Hashable] | None = None,
        least: float = 0.01,
        rows: int = 1000,
        random_state: int = 0,
        ax: Axes | None = None,
    ) -> Axes:
        """Where each component lies over two columns; see `probgen.plots.components`.

        Components with less than `least` of the rows that the model draws are left out.
        """
        return maps.components(self._model, table, columns, least, rows, random_state, ax)

    def latent(
        self,
        table: Any,
        dimensions: tuple[int, int] = (0, 1),
        colour: Hashable | None = None,
        rows: int = 2000,
        random_state: int = 0,
        ax: Axes | None = None,
    ) -> Axes:
        """Rows by two continuous latents; see `probgen.plots.latent`.

        `colour` names a column of the table that colours the rows.
        """
        return maps.latent(self._model, table, dimensions, colour, rows, random_state, ax)

    def latents(
        self,
        table: Any,
        colour: Hashable | None = None,
        rows: int = 1000,
        random_state: int = 0,
    ) -> Panels:
        """What each latent dimension holds, and where the rows lie; see `probgen.plots.latents`.

        `colour` names a column of the table that colours the rows.
        """
        return latents(self._model, table, colour, rows, random_state)

    def warp(self, table: Any, lines: int = 13, rows: int = 1000, random_state: int = 0) -> Panels:
        """A grid of a flow's base space and its image in the table; see `probgen.plots.warp`."""
        return warps.warp(self._model, table, lines, rows, random_state)

    def network(self, highlight: Collection[Hashable] = (), ax: Axes | None = None) -> Axes:
        """The graph over the columns, with edge probabilities; see `probgen.plots.network`.

        `highlight` names columns to mark.
        """
        return networks.network(self._model, highlight, ax)

    # --- can it be trusted? -----------------------------------------------------------

    def pit(
        self,
        table: Any,
        columns: Sequence[Hashable] | None = None,
        shape: Literal["difference", "histogram"] = "difference",
        level: float = 0.95,
        random_state: int = 0,
    ) -> Panels:
        """Whether each column's values fill the model's distribution; see `probgen.plots.pit`.

        The band holds the whole curve of a column with probability `level` if the model is
        right.
        """
        return uniform.pit(self._model, table, columns, shape, level, random_state)

    def khat(self, table: Any, worst: int = 5, ax: Axes | None = None) -> Axes:
        """Pareto k-hat of each row's estimated density; see `probgen.plots.khat`."""
        return trust.khat(self._model, table, worst, ax)

    # --- odd rows ---------------------------------------------------------------------

    def surprisal(
        self,
        table: Any,
        odd: int = 5,
        samples: int = 4000,
        random_state: int = 0,
        ax: Axes | None = None,
    ) -> Axes:
        """Histogram of surprisal with the oddest rows; see `probgen.plots.surprisal`.

        `odd` rows are marked with their index, beside `samples` rows that the model draws.
        """
        return rows.surprisal(self._model, table, odd, samples, random_state, ax)

    def p_values(
        self,
        table: Any,
        folds: int | None = None,
        method: Literal["auto", "model"] = "auto",
        ax: Axes | None = None,
        **options: Any,
    ) -> Axes:
        """Whether the p-values of sound rows are uniform; see `probgen.plots.p_values`.

        `folds`, `method` and other options are those of `Density.outliers`.
        """
        return rows.p_values(self._model, table, folds, method, ax, **options)

    def waterfall(self, row: Any, ax: Axes | None = None) -> Axes:
        """What makes one row odd, column by column; see `probgen.plots.waterfall`."""
        return rows.waterfall(self._model, row, ax)
