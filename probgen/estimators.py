"""The estimators: one dataclass a family, whose fields are its settings."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from probgen import cells
from probgen.batch import Batch
from probgen.columns import Column
from probgen.density import Density
from probgen.door import check_settings, count_distinct, hide_reserved
from probgen.errors import SchemaError, message
from probgen.families.mixture import Mixture
from probgen.families.pair import Program, UserPair
from probgen.families.student import Student
from probgen.family import Family
from probgen.likelihoods import Covariance
from probgen.pairs.guides import GUIDES, GuideKind
from probgen.schema import Schema
from probgen.selection import Selection, select_components
from probgen.table import Encoded
from probgen.training import Training

__all__ = ["GaussianMixture", "Independent", "Pair", "StudentT"]

#: rows a step of a `Pair`
ROWS_A_STEP = 1024


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
class Pair(Density):
    """Your own Pyro functions, `model(batch)` and optionally `guide(batch)`, as a density.

    ``batch["column"]`` is a column in the table's own units, a tensor of n numbers: codes of
    categories, ordered levels and booleans, days since the schema's origin of dates, None
    while rows are generated. Write one site a modelled column, named after it, inside ``with
    batch.rows():``, with ``obs=batch["column"]``; use the value that `pyro.sample` returns
    where one column depends on another, so that holes can be filled and rows generated.
    Columns named in ``fit(table, given=[...])`` are conditioned on, never modelled, and
    needed by every verb. `pyro.param`, `pyro.module`, modules and methods of modules may be
    used; their parameters live in the fitted object, never in Pyro's store.

    Globals (sites outside the rows) that the guide lacks get a guide by name. Row latents
    that it lacks are proposed from the model and trained by an importance-weighted bound;
    those marked ``infer={"enumerate": "parallel"}`` are summed out. An unseen cell is a
    latent proposed from the model: marginals are exact where nothing depends on the column,
    importance estimates elsewhere.

    Parameters
    ----------
    model : callable
        ``model(batch)``, a Pyro function, `nn.Module` or `PyroModule`. Modules are copied.
    guide : callable or name, optional
        ``guide(batch)`` over some or all latents of the model. A name stands for
        ``globals_guide``: the guide of all globals.
    globals_guide : {"auto", "mean_field", "multivariate", "flow"}
        Guide of the globals that `guide` lacks, in the unconstrained space of their supports:
        independent normals; one normal with a full covariance; or that normal bent by a
        normalizing flow. "auto" is "multivariate" up to 50 globals, where it costs as much as
        the mean field, and "mean_field" beyond (benchmarks/guides.py).
        ``check(table, train=...)`` tells by k-hat whether it is rich enough.
    particles : int
        Draws a row of the bound by which row latents are trained; cost is proportional
        (chosen by benchmarks/pair_particles.py).
    learning_rate : float
        Step of Adam, in units of the error of one row; for modules, of their weights.
    batch_size : int, optional
        Rows a step; None: 1,024, or all where they are fewer. A step of a Pyro program costs
        about the same up to there, and the gradient has the less noise.
    precision : {"float64", "float32"}
        Of training: table units differ by many orders of magnitude.

    Other parameters are those of `Density`; a value is taken as it is (``dequantise=False``)
    and no atoms are inferred.

    Attributes
    ----------
    params_ : dict
        Values of the `pyro.param` statements by name, of the first restart.

    References
    ----------
    Bingham et al. (2019), Pyro: deep universal probabilistic programming, JMLR 20.
    Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders.

    Examples
    --------
    >>> import pyro, torch, pyro.distributions as dist
    >>> from probgen.datasets import penguins
    >>> def model(batch):
    ...     a = pyro.sample("a", dist.Normal(4000.0, 2000.0))
    ...     b = pyro.sample("b", dist.Normal(0.0, 100.0))
    ...     s = pyro.sample("s", dist.HalfNormal(1000.0))
    ...     with batch.rows():
    ...         loc = a + b * (batch["flipper_length_mm"] - 200.0)
    ...         pyro.sample("body_mass_g", dist.Normal(loc, s), obs=batch["body_mass_g"])
    >>> table = penguins()[["flipper_length_mm", "body_mass_g"]].dropna()
    >>> fitted = Pair(model, random_state=0).fit(table, given=["flipper_length_mm"])
    >>> round(float(fitted.log_prob(table).mean()), 1)
    -7.4
    """

    model: Program
    guide: Program | GuideKind | None = None
    globals_guide: GuideKind = "auto"
    particles: int = 16
    learning_rate: float = 1e-2
    batch_size: int | None = None
    precision: Literal["float64", "float32"] = "float64"
    dequantise: bool = field(default=False, kw_only=True)

    family: ClassVar[type[Family]] = UserPair
    functions: ClassVar[tuple[str, ...]] = ("model", "guide")

    def _training(self) -> Training:
        own = super()._training()
        return own if own.batch_size is not None else replace(own, batch_size=ROWS_A_STEP)

    def _make(self, schema: Schema) -> Family:
        check_settings(self, globals_guide=GUIDES)
        guide: Any = self.guide
        kind: Any = self.globals_guide
        if isinstance(guide, str) and guide in GUIDES:
            if kind not in ("auto", guide):
                raise SchemaError(message(
                    f"guide={guide!r} and globals_guide={kind!r}", "one guide of the globals",
                    f"pass guide={guide!r} alone",
                ))  # fmt: skip
            guide, kind = None, guide
        again = self.starts * self.restarts > 1
        return UserPair(schema, self.model, guide, kind, self.particles, reset=again)

    def _describe(self, frame: pd.DataFrame, given: Sequence[Hashable]) -> Schema:
        """Columns in table units, without atoms unless the caller's schema has them."""
        if self.schema is not None:
            return self.schema.with_context(given).native()
        own = dict(self.columns or {})
        schema = Schema.infer(frame, own, given, self.dequantise)
        spikes = {c.name: _without_atoms(c, own.get(c.name)) for c in schema.columns if c.atoms}
        if spikes:
            schema = Schema.infer(frame, own | spikes, given, self.dequantise)
        return schema.native()

    def _batch(
        self,
        encoded: Encoded,
        device: torch.device,
        weight: np.ndarray | None = None,
        schema: Schema | None = None,
    ) -> Batch:
        hide_reserved(encoded, schema or self.schema_)
        return super()._batch(encoded, device, weight, schema)

    @property
    def params_(self) -> dict[str, np.ndarray]:
        """Values of the `pyro.param` statements by name, of the first restart."""
        check_is_fitted(self)
        member = self.members_[0]
        assert isinstance(member, UserPair)
        return {name: value.cpu().numpy() for name, value in member.params().items()}


def _without_atoms(column: Column, own: Any) -> dict[str, Any]:
    """An override under which a column has only the atoms that the caller declares."""
    spec = {"kind": own} if isinstance(own, str) else dict(own or {})
    legal = bool(column.legal(np.array(column.atoms)).all())
    free = {"kind": column.kind if legal else "real", "atoms": ()}
    return free | {key: value for key, value in spec.items() if value is not None}


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
