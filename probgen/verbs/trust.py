"""How far to trust a fit: the report, ArviZ, plots."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from sklearn.utils.validation import check_is_fitted

from probgen.diagnostics.loo import Loo
from probgen.diagnostics.report import Report
from probgen.door import check_weight
from probgen.errors import DataWarning
from probgen.frames import to_frame
from probgen.verbs.base import Asked

if TYPE_CHECKING:
    from probgen.evaluation.simulations import Simulations

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
        >>> model = pg.GaussianMixture(8, random_state=0).fit(birds[:240])
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

        return check(self._density, table, train, fit_floor, self._density._rival)

    def to_arviz(self, table: Any = None, column: Hashable | None = None) -> Any:
        """The model as ArviZ groups, with those of the rows if `table`, the fitted rows, is given.

        Returns an ``InferenceData`` (ArviZ 0.2x) or a ``DataTree`` (1.x); see
        `probgen.diagnostics.arviz.to_arviz` for the groups. `column` names the log likelihood
        of the rows after a column, as `plot_loo_pit` of ArviZ 1 wants it.
        """
        from probgen.diagnostics.arviz import to_arviz

        check_is_fitted(self)
        return to_arviz(self._density, table, column)

    def loo(
        self,
        table: Any,
        *,
        draws: int | None = None,
        refit: int = 0,
        folds: int = 10,
        method: Literal["auto", "folds"] = "auto",
        sample_weight: Any = None,
    ) -> Loo:
        """Leave-one-out: how probable each row is to a model of all other rows.

        Pareto smoothed importance sampling on the posterior draws, corrected for the guide
        where they are its draws and not the posterior's. A model without a posterior is
        refitted without each fold of the rows instead; ``.method`` says which it was.

        Parameters
        ----------
        table : data frame of n rows
            The fitted rows, all of them; holes are integrated out.
        draws : int, optional
            Draws of a guide for each restart, made anew: 1,000 by default, as many as the
            model keeps where the density of a row is itself estimated at each draw. The
            draws of a chain are those that the fit kept.
        refit : int
            Rows whose k-hat is above 0.7 that are scored by a fit without them, at most, the
            worst first. Each costs a fit.
        folds : int
            Of K-fold refits, drawn at random by a fixed seed.
        method : {"auto", "folds"}
            "folds" refits also where there is a posterior.
        sample_weight : array (n,), optional
            The frequency weights of the fit: one copy of a row is left out.

        Returns
        -------
        Loo
            ``elpd``, ``se``, ``p``, ``bad``, ``method``, and ``pointwise`` by row: nats, in
            the table's units.

        Raises
        ------
        NotSupported
            For a family without a normalised density.

        Warns
        -----
        ApproximationWarning
            If k-hat stays above 0.7 in some rows.

        Notes
        -----
        It is about the posterior of the model, which a guide only proposes; refits and folds
        are about the density as it is fitted, guide included. Draws that stay in one mode leave
        a row out within it: of mixtures of many components K-fold is the more careful number
        (benchmarks/loo.py). A rounded column is scored at
        its recorded value, while its fit spread it over the cell: the difference is far below
        the Monte Carlo error unless a cell is as wide as the column.

        References
        ----------
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using
        leave-one-out cross-validation and WAIC, Statistics and Computing 27.
        Magnusson, Andersen, Jonasson and Vehtari (2019), Bayesian leave-one-out
        cross-validation for large data, ICML.

        Examples
        --------
        >>> import probgen as pg
        >>> from probgen.datasets import penguins
        >>> table = penguins()[["bill_length_mm", "body_mass_g"]]
        >>> model = pg.GaussianMixture(components=3, random_state=0).fit(table)
        >>> loo = model.loo(table)
        >>> round(loo.elpd / len(table), 1), loo.bad < 0.02
        (-10.7, True)
        """
        from probgen.evaluation.refitting import loo

        check_is_fitted(self)
        frame = to_frame(table, self.schema_.names)
        weight = check_weight(sample_weight, len(frame))
        return loo(
            self._density, frame, draws=draws, refit=refit, folds=folds, method=method,
            weight=weight,
        )  # fmt: skip

    def calibrate(
        self,
        simulations: int = 100,
        table: Any = None,
        rows: int | None = None,
        quantities: Mapping[str, Callable[[dict[str, Any]], float]] | None = None,
        random_state: int = 0,
        progress: bool = False,
        **fit: Any,
    ) -> Simulations:
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
