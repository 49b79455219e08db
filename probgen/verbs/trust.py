"""How far to trust a fit: the report, ArviZ, plots."""

from __future__ import annotations

import warnings
from typing import Any

import pandas as pd
from sklearn.utils.validation import check_is_fitted

from probgen.diagnostics.report import Report
from probgen.errors import DataWarning
from probgen.verbs.base import Asked

__all__ = ["Trust"]


class Trust(Asked):
    """Verbs about the fit itself."""

    def check(self, table: Any = None, train: Any = None) -> Report:
        """Whether the fit can be believed: fit for density? fit for intervals? why?

        Parameters
        ----------
        table : data frame, optional
            Rows to judge the density by, beside independent columns; rows that the fit did
            not see say most. Levels that the fit did not see are the reserved level.
        train : data frame, optional
            The fitted rows: adds the gap between the two, k-hat of a guide, and whether the
            loss still falls. That `table` itself is the fitted table is noticed.

        Returns
        -------
        Report
            Prints as text, shows as HTML in notebooks, and has ``density``, ``intervals``,
            ``findings`` and ``to_dict()``, which holds all numbers. Seeded: two calls agree.

        Raises
        ------
        SchemaError
            If a table is foreign.

        Examples
        --------
        >>> import probgen as pg
        >>> from probgen.datasets import penguins
        >>> birds = penguins().sample(frac=1, random_state=0)
        >>> model = pg.GaussianMixture(3, random_state=0).fit(birds[:240])
        >>> model.check(birds[240:], train=birds[:240]).density
        'yes'
        """
        from probgen.diagnostics.checks import check
        from probgen.estimators import Independent

        check_is_fitted(self)

        def fit_floor(rows: pd.DataFrame) -> Any:
            schema = self.schema_.standard().without_context()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataWarning)  # said when the model was fitted
                floor = Independent(schema=schema, random_state=0, draws=0)
                return floor.fit(rows[list(schema.names)])

        return check(self._density, table, train, fit_floor)

    def to_arviz(self, table: Any = None) -> Any:
        """The model as ArviZ groups, with those of the rows if `table`, the fitted rows, is given.

        Returns an ``InferenceData`` (ArviZ 0.2x) or a ``DataTree`` (1.x); see
        `probgen.diagnostics.arviz.to_arviz` for the groups.
        """
        from probgen.diagnostics.arviz import to_arviz

        check_is_fitted(self)
        return to_arviz(self._density, table)

    @property
    def plot(self) -> Any:
        """Plots of the fitted model, ``model.plot.pairs(table)``: see `probgen.plots`."""
        from probgen.plots import Plots

        check_is_fitted(self)
        return Plots(self._density)
