"""Estimators that fit by closed-form updates: mixtures, the independent floor, Student's t."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import pandas as pd

from probgen import cells
from probgen.density import Density
from probgen.door import check_settings, count_distinct
from probgen.errors import SchemaError, message
from probgen.families.mixture import Mixture
from probgen.families.student import Student
from probgen.family import Family
from probgen.likelihoods import Covariance
from probgen.schema import Schema
from probgen.selection import Selection, select_components
from probgen.table import Encoded

__all__ = ["GaussianMixture", "Independent", "StudentT"]


@dataclass(eq=False, repr=False)
class Independent(Density):
    """Each column on its own: the floor that every comparison prints.

    A column's density is flexible: a weighted grid of normals for real-like columns, of
    overdispersed and narrow kernels for counts, one weight a level for categories, each
    with a Dirichlet posterior.

    Parameters are those of `Density`.

    Examples
    --------
    >>> from probgen.datasets import penguins
    >>> model = Independent(random_state=0).fit(penguins())
    >>> len(model.sample(3))
    3
    """

    family: ClassVar[type[Family]] = Mixture

    def _make(self, schema: Schema) -> Family:
        return Mixture(schema, 1, "flexible", draws=self.draws)


@dataclass(eq=False, repr=False)
class GaussianMixture(Density):
    """A mixture of Gaussians over the real columns, mixed columns and holes included.

    Inside a component real-like columns are jointly normal (in encoded units: standardised,
    positive columns by their logarithm) and all others independent: a weight a level for
    categories, a weighted grid of kernels for counts. The label is summed out, holes are
    integrated out, the posterior over all parameters is conjugate, and the density is the
    posterior predictive in closed form (a mixture of Student's t).

    Parameters
    ----------
    components : int
        Number of components k; more than the rows need are emptied by the prior.
    covariance : {"full", "tied", "diag", "spherical", "flexible"}
        Covariance inside a component. "flexible" makes real columns independent inside a
        component, each a mixture of normals on a shared grid: for skewed or many-peaked
        columns.
    weights : {"dirichlet", "dp"}
        Prior of the weights: symmetric Dirichlet with total `concentration`, or a
        truncated stick-breaking Dirichlet process.
    concentration : float
        Total pseudo-count of the weights.
    mean_strength : float
        Pseudo-count of the prior mean (the column's own mean).
    dof : float, optional
        Degrees of freedom of the covariance prior, above the least that is proper.
    spread : float, optional
        Prior variance inside a component, as a share of the column's variance. None goes by
        the rows there are for each component and column: from dof 3 and spread 0.1 where
        they are plenty to a prior as strong as the columns are many, at spread 1, where
        there are three or fewer (benchmarks/mixture_defaults.py compares it with fixed ones).
    category_strength : float
        Pseudo-count of each level of a category inside a component.
    posterior : {"auto", "gibbs", "mean_field"}
        Where posterior draws come from: a short Gibbs chain started at the variational
        optimum, the variational posterior itself, or the chain where it is cheap.
    batch_size : int, optional
        Rows of a stochastic update; None uses all rows in each.

    Other parameters are those of `Density`.

    References
    ----------
    Bishop (2006), Pattern Recognition and Machine Learning, chapter 10.
    Hoffman, Blei, Wang and Paisley (2013), Stochastic variational inference, JMLR 14.

    Examples
    --------
    >>> from probgen.datasets import penguins
    >>> model = GaussianMixture(components=4, random_state=0).fit(penguins())
    >>> round(model.log_prob(penguins().head(2)).mean(), 1)  # doctest: +SKIP
    -13.9
    """

    components: int = 8
    covariance: Covariance = "full"
    weights: Literal["dirichlet", "dp"] = "dirichlet"
    concentration: float = 1.0
    mean_strength: float = 0.01
    dof: float | None = None
    spread: float | None = None
    category_strength: float = 0.3
    posterior: Literal["auto", "gibbs", "mean_field"] = "auto"
    batch_size: int | None = None
    starts: int = field(default=4, kw_only=True)

    family: ClassVar[type[Family]] = Mixture

    def _make(self, schema: Schema) -> Family:
        return Mixture(
            schema, self.components, self.covariance, self.weights, self.concentration,
            self.mean_strength, self.dof, self.spread, category_strength=self.category_strength,
            posterior=self.posterior, draws=self.draws,
        )  # fmt: skip

    def select(
        self,
        table: Any,
        components: Iterable[int] = range(1, 11),
        criterion: Literal["heldout", "bic", "icl"] = "heldout",
        folds: int = 5,
    ) -> Selection:
        """Choose the number of components; the other settings are those of this estimator.

        Parameters
        ----------
        table : data frame
        components : iterable of int
            Numbers to try.
        criterion : {"heldout", "bic", "icl"}
            Log density of held-out rows over `folds` folds; Bayesian information criterion;
            or integrated completed likelihood, which prefers components that do not overlap.
        folds : int
            Folds of "heldout".

        Returns
        -------
        Selection
            ``best``, fitted to the whole table, and ``scores``.
        """
        return select_components(self, table, components, criterion, folds)

    def _check(self, encoded: Encoded) -> None:
        check_settings(
            self, components=1, covariance=get_args(Covariance), weights=("dirichlet", "dp"),
            posterior=("auto", "gibbs", "mean_field"), concentration=0.0, mean_strength=0.0,
            category_strength=0.0,
        )  # fmt: skip
        given = {n: 0.0 for n in ("dof", "spread") if getattr(self, n) is not None}
        check_settings(self, **given)
        distinct = count_distinct(encoded, self.components)
        if distinct < self.components:
            raise SchemaError(message(
                f"components={self.components} for {distinct} distinct rows",
                "at least as many distinct rows as components", f"set components <= {distinct}",
            ))  # fmt: skip


@dataclass(eq=False, repr=False)
class StudentT(Density):
    """One multivariate Student's t: the joint density of real columns that outliers do not bend.

    Real-like columns are jointly Student's t (in encoded units: standardised, positive columns
    by their logarithm), and all others independent of them: a weight a level for categories, a
    weighted grid of kernels for counts. A row far from the others counts for little in the fit,
    so that rows which do not belong cannot hide themselves: the density that `OutlierDetector`
    takes by default. Marginals, conditionals and samples are exact; the fit is the maximum of
    a penalised likelihood, so there are no posterior draws.

    Parameters
    ----------
    dof : float, optional
        Degrees of freedom. None learns them, in [1, 1000]: the fewer, the less a far row counts.
    strength : float
        How many rows of a standard normal, for each real column, the scale matrix is fitted to
        besides the table's own: it keeps the scale sound where rows are few or columns repeat
        one another (benchmarks/adbench.py compares it).
    numbers : {"kinds", "real"}
        "kinds" takes each column as what it is. "real" takes every column of numbers as real,
        counts and repeated values too: the joint then covers them all, and the order of rows by
        density is the same in any units. Kinds given in `columns` stay.
    category_strength : float
        Pseudo-count of each level of a category.

    Other parameters are those of `Density`.

    References
    ----------
    Lange, Little and Taylor (1989), Robust statistical modeling using the t distribution,
    JASA 84. Liu and Rubin (1995), ML estimation of the t distribution using EM and its
    extensions, ECM and ECME, Statistica Sinica 5.

    Examples
    --------
    >>> import numpy as np
    >>> table = np.random.default_rng(0).normal(size=(200, 2))
    >>> table[:20] *= 30.0
    >>> model = StudentT(random_state=0).fit(table)
    >>> bool(model.score_samples(table)[:20].max() < model.score_samples(table)[20:].min())
    True
    """

    dof: float | None = None
    strength: float = 1.0
    numbers: Literal["kinds", "real"] = "kinds"
    category_strength: float = 0.3

    family: ClassVar[type[Family]] = Student

    def _make(self, schema: Schema) -> Family:
        return Student(schema, self.dof, self.strength, self.category_strength)

    def _describe(self, frame: pd.DataFrame, given: Sequence[Hashable]) -> Schema:
        """Columns of numbers as real, all of them, where that is asked for."""
        if self.schema is not None or self.numbers == "kinds":
            return super()._describe(frame, given)
        plain = {"kind": "real", "atoms": (), "grid": None}
        names = [n for n in frame.columns.tolist() if cells.storage(frame[n]) == "number"]
        own = dict.fromkeys(names, plain) | dict(self.columns or {})
        return Schema.infer(frame, own, given, self.dequantise)

    def _check(self, encoded: Encoded) -> None:
        check_settings(self, numbers=("kinds", "real"), strength=0.0, category_strength=0.0)
        if self.dof is not None:
            check_settings(self, dof=0.0)
