"""How far to trust a fit: the report, ArviZ, plots."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
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

    def calibrate(
        self,
        simulations: int = 100,
        table: Any = None,
        rows: int | None = None,
        quantities: Mapping[str, Callable[[dict[str, Any]], float]] | None = None,
        random_state: int = 0,
        progress: bool = False,
        **fit: Any,
    ) -> Any:
        """Simulation-based calibration: is the posterior that `fit` finds the right one?

        Each simulation draws the parameters from the model's own prior, generates a table from
        them, fits the same settings to it, and ranks the truth among the posterior draws. It
        tests the way of fitting under tables like those of the prior, not this one fit.

        Ranked are the log likelihood of the simulated table, the log density of a few rows and
        of a few fixed points, the entries of all global sites, and what `quantities` adds. Where
        parts are exchangeable (the components of a mixture) their numbers have no identity:
        single numbers a part are sorted, others left out.

        Parameters
        ----------
        simulations : int
            How many. Cost: as many fits.
        table : data frame, optional
            Its context columns, its holes and its number of rows are those of the simulated
            tables, and its first rows the fixed points. Needed where the model has context.
        rows : int, optional
            Rows of a simulated table; by default those of `table`, or of the fit.
        quantities : dict of str to callable, optional
            More to rank: functions of one draw of the globals, a dict of arrays by site, that
            return a number. They must not depend on the order of exchangeable parts.
        random_state : int
            Seed. A simulation depends on it and on its own number only: 200 simulations start
            with those of 100.
        progress : bool
            Show a progress bar with the time left.
        **fit
            Further arguments of `fit`, the same as those of this model.

        Returns
        -------
        probgen.evaluation.Simulations
            Its ``summary`` says of each quantity whether the posterior is right, biased, too
            wide or too narrow, and how often intervals covered the truth.

        Raises
        ------
        NotSupported
            If the family has no posterior.
        SchemaError
            If `table` lacks context columns, or the number of rows is not known.
        FitError
            If hardly any truth of the prior has a table that can be fitted; it names the site
            whose prior is too wide.

        References
        ----------
        Talts, Betancourt, Simpson, Vehtari and Gelman (2018), Validating Bayesian inference
        algorithms with simulation-based calibration.

        Examples
        --------
        >>> import probgen as pg
        >>> from probgen.datasets import penguins
        >>> columns = penguins()[["bill_length_mm", "bill_depth_mm"]].dropna()
        >>> model = pg.GaussianMixture(1, random_state=0).fit(columns)
        >>> found = model.calibrate(simulations=20, rows=30)
        >>> found.ranks.shape[0], found.summary.loc["log likelihood", "verdict"]
        (20, 'ok')
        """
        from probgen.evaluation.simulating import calibrate

        check_is_fitted(self)
        return calibrate(
            self._density, simulations, table, rows, quantities, random_state, progress, fit
        )

    @property
    def plot(self) -> Any:
        """Plots of the fitted model, ``model.plot.pairs(table)``: see `probgen.plots`."""
        from probgen.plots import Plots

        check_is_fitted(self)
        return Plots(self._density)
