"""The scikit-learn face: a data frame in, pandas out; one small dataclass a family."""

from __future__ import annotations

import math
import os
import secrets
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted

from probgen import queries
from probgen.batch import Batch
from probgen.diagnostics.report import Report
from probgen.door import (
    Given, check_settings, check_weight, count_distinct, fit_frame, given_parts, require_rows,
    score_frame,
)  # fmt: skip
from probgen.errors import NotSupported, SchemaError, message
from probgen.families.mixture import Mixture
from probgen.family import Family
from probgen.fitting import FitResult, Training, fit_starts, resolve_device, split
from probgen.likelihoods import Covariance
from probgen.queries import Predictive
from probgen.schema import Schema
from probgen.session import spawn_seeds
from probgen.table import Encoded, decode, encode, to_frame

__all__ = ["Density", "GaussianMixture", "Independent"]

Unseen = Literal["error", "missing", "rare"]
Extra = Literal["error", "ignore"]


@dataclass(eq=False, repr=False, kw_only=True)
class Density(DensityMixin, BaseEstimator):
    """Base of all estimators: fields are the parameters, verbs are the questions.

    Parameters
    ----------
    max_epochs : int
        Passes over the table at most.
    patience : int
        Epochs without improvement on held-out rows after which training stops.
    validation : float
        Share of rows held out for early stopping; 0 trains on all rows.
    tolerance : float
        Improvement of the loss (nats a row) that counts.
    starts : int
        Short runs from different starting values, of which the best is trained on.
    restarts : int
        Full fits from different seeds, all kept; the density is their equal mixture.
    draws : int
        Posterior draws of the global parameters, for intervals and ArviZ.
    device : str
        "auto" uses a GPU where there is one.
    random_state : int, optional
        Seed; None takes a fresh one, recorded in ``result_.seed``.
    progress : bool
        Show a progress bar.
    columns : dict, optional
        Kinds by column name that override inference (see `probgen.Schema.infer`).
    schema : Schema, optional
        A schema to use instead of inferring one: densities that are compared share one.
    dequantise : bool
        Whether rounded columns are spread over their grid cells in training.

    Attributes
    ----------
    schema_ : Schema
        What the columns are.
    members_ : list of Family
        The fitted pair of each restart.
    results_ : list of FitResult
        What happened in each fit.
    result_ : FitResult
        The same of the first restart.
    converged_ : bool
        Whether every restart converged.
    n_features_in_, feature_names_in_
        As in scikit-learn.
    """

    max_epochs: int = 500
    patience: int = 25
    validation: float = 0.0
    tolerance: float = 1e-3
    starts: int = 1
    restarts: int = 1
    draws: int = 100
    device: str = "auto"
    random_state: int | None = None
    progress: bool = False
    columns: Mapping[Hashable, Any] | None = None
    schema: Schema | None = None
    dequantise: bool = True

    #: the family that `_make` builds
    family: ClassVar[type[Family]]

    # --- fitting --------------------------------------------------------------------

    def fit(
        self,
        X: Any,  # noqa: N803 - scikit-learn's name
        y: object = None,
        sample_weight: Any = None,
        given: Sequence[Hashable] = (),
    ) -> Self:
        """Fit the density of a table.

        Parameters
        ----------
        X : data frame or array of n rows
            pandas, polars, Arrow, a dict of columns or a two-dimensional array. NaN means
            "not observed". Never changed.
        y : ignored
        sample_weight : array (n,), optional
            Frequency weights: weight 2 equals the row twice.
        given : sequence of column names
            Columns to condition on and never to model; families that model the joint
            refuse it and take ``given`` in the verbs instead.

        Returns
        -------
        self

        Raises
        ------
        SchemaError
            If the table cannot be read; the message names columns and rows.
        FitError
            If training found no usable model.
        """
        frame = fit_frame(self, X)
        if given and not self.family.takes_context:
            raise NotSupported(message(
                f"given={list(given)} in fit", "a family that conditions on context columns",
                f"fit {type(self).__name__} to the whole table and pass given= to its verbs",
            ))  # fmt: skip
        check_settings(self, draws=1)
        weight = check_weight(sample_weight, len(frame))
        training = self._training()
        schema = self.schema or Schema.infer(frame, self.columns, given, self.dequantise)
        seeds = spawn_seeds(training.random_state or 0, 2)
        encoded = encode(frame, schema, jitter=np.random.default_rng(seeds[0]))
        require_rows(encoded, weight)
        self._check(encoded)
        device = resolve_device(self.device)
        batch = self._batch(encoded, device, weight)
        held = None
        if self.validation:
            batch, held = split(batch, self.validation, torch.Generator().manual_seed(seeds[1]))
        with warnings.catch_warnings():
            fits = fit_starts(lambda: self._make(schema).to(device), batch, training, held)
        self._install(schema, fits)
        return self

    def _install(self, schema: Schema, fits: list[tuple[Family, FitResult]]) -> None:
        """Learned attributes from fitted members."""
        self.schema_ = schema
        self.members_ = [family for family, _ in fits]
        for member in self.members_[1:]:
            member.align(self.members_[0])
        self.results_ = [result for _, result in fits]
        self.result_ = self.results_[0]
        self.converged_ = all(result.converged for result in self.results_)
        self.__dict__.pop("_with_draws", None)

    def _training(self) -> Training:
        """The fields that the training loop knows, under the same names."""
        own = {f.name for f in fields(Training)}
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name in own}
        state = values["random_state"]
        if isinstance(state, np.random.RandomState):
            values["random_state"] = int(state.randint(2**31))
        elif state is None:
            values["random_state"] = secrets.randbits(31)
        return Training(**values)

    def _make(self, schema: Schema) -> Family:
        """A new family over the slots of a schema."""
        raise TypeError(f"{type(self).__name__} must define _make(schema)")

    def _check(self, encoded: Encoded) -> None:
        """Refuse settings that these rows cannot bear."""

    def _batch(
        self, encoded: Encoded, device: torch.device, weight: np.ndarray | None = None
    ) -> Batch:
        def tensor(value: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(value).to(device)

        context = tensor(encoded.context) if encoded.context.shape[1] else None
        return Batch.of(
            tensor(encoded.x), tensor(encoded.seen),
            None if weight is None else tensor(weight), context=context,
        )  # fmt: skip

    # --- the predictive ---------------------------------------------------------------

    @property
    def _device(self) -> torch.device:
        tensors = self.members_[0].tensors().values()
        return next((t.device for t in tensors), torch.device("cpu"))

    def _predictive(self, posterior: bool = True) -> Predictive:
        """What every verb uses: closed forms need no draws."""
        if posterior and self.family.closed_form:
            return Predictive(self.members_, [{} for _ in self.members_])
        return self._with_draws if posterior else self._with_draws.at_point()

    @cached_property
    def _with_draws(self) -> Predictive:
        """Members with their draws: equal at every call, so threads may race for it."""
        draws = [
            queries.draw_globals(member, self.draws, seed=result.seed)
            for member, result in zip(self.members_, self.results_, strict=True)
        ]
        return Predictive(self.members_, draws)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__().copy()
        state.pop("_with_draws", None)
        return state

    # --- scoring ----------------------------------------------------------------------

    def log_prob(
        self,
        table: Any,
        given: Given = None,
        interval: float | None = None,
        details: bool = False,
        posterior: bool = True,
        unseen: Unseen = "error",
        extra: Extra = "error",
    ) -> pd.Series | pd.DataFrame:
        """Log density of each row, in nats and the table's own units.

        Parameters
        ----------
        table : data frame of n rows
            Any of the fitted columns, in any order; those left out and NaN cells are
            integrated out.
        given : dict or data frame, optional
            What to condition on: the same cells for all rows (dict) or row by row (a frame
            of n rows). NaN conditions on nothing.
        interval : float, optional
            Posterior probability: return lower and upper ends as well.
        details : bool
            Return Monte Carlo error (`se`), effective sample size (`ess`), Pareto `khat`
            and `method` as well.
        posterior : bool
            False scores at one value of the parameters instead of averaging over their
            posterior.
        unseen : {"error", "missing", "rare"}
            What a level absent at fit means: an error, a hole, or the predictive mass of
            one reserved level.
        extra : {"error", "ignore"}
            What to do with columns that were not fitted.

        Returns
        -------
        Series of float64 on the table's index, or a frame with a column ``log_prob``.
            -inf where a value lies outside the support (with a `DataWarning`).

        Raises
        ------
        SchemaError
            For foreign columns or levels, or a column on both sides.
        NotSupported
            If `interval` is asked of a family without posterior.
        """
        check_is_fitted(self)
        asked = encode(table, self.schema_, unseen=unseen, extra=extra)
        joint, known = given_parts(asked, to_frame(table), given, self.schema_, unseen, extra)
        predictive = self._predictive(posterior)
        batch = self._batch(joint, self._device)
        with torch.no_grad():
            estimate = queries.log_prob(predictive, batch)
            shift = self.schema_.log_det(batch.x, batch.seen)
            value, se = estimate.value.double() + shift, estimate.se
            given_batch = None
            if known is not None:
                given_batch = self._batch(known, self._device)
                below = queries.log_prob(predictive, given_batch)
                base = self.schema_.log_det(given_batch.x, given_batch.seen)
                value = value - below.value - base
                shift, se = shift - base, (se.square() + below.se.square()).sqrt()
        numbers = {"log_prob": _outside(value, asked)}
        if interval is not None:
            lower, upper = self._interval(batch, given_batch, interval)
            numbers["lower"] = _outside(lower + shift, asked)
            numbers["upper"] = _outside(upper + shift, asked)
        if details:
            numbers |= {"se": se.cpu().numpy(), "ess": estimate.ess.cpu().numpy(),
                        "khat": estimate.khat.cpu().numpy()}  # fmt: skip
        frame = pd.DataFrame(numbers, index=asked.index)
        if details:
            frame["method"] = estimate.method
        return frame if frame.shape[1] > 1 else frame["log_prob"]

    def _interval(
        self, batch: Batch, given: Batch | None, level: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not 0 < level < 1:
            raise SchemaError(message(f"interval={level}", "0 < interval < 1", "pass 0.9, say"))
        if len(self._with_draws) < 2:
            raise NotSupported(message(
                f"{type(self).__name__} with one value of its parameters",
                "posterior draws", "fit with draws=100 or more",
            ))  # fmt: skip
        with torch.no_grad():
            return queries.interval(self._with_draws, batch, level, given)

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """Log density (n,) of rows with exactly the fitted columns; NaN cells integrated out."""
        check_is_fitted(self)
        frame = score_frame(self, X)
        with warnings.catch_warnings():
            return self.log_prob(frame).to_numpy()

    def score(self, X: Any, y: object = None, sample_weight: Any = None) -> float:  # noqa: N803
        """Mean log density a row, nats, weighted by `sample_weight`."""
        values = self.score_samples(X)
        weight = check_weight(sample_weight, len(values))
        return float(np.average(values, weights=weight))

    # --- generating ---------------------------------------------------------------------

    def sample(
        self, n: int = 1, given: Given = None, random_state: int | None = None
    ) -> pd.DataFrame:
        """New rows: fitted columns, data types and legal values.

        Parameters
        ----------
        n : int
            Rows; for each row of `given` where that is a frame.
        given : dict or data frame, optional
            Cells that are held fixed.
        random_state : int, optional
            Seed; None draws afresh at each call.

        Returns
        -------
        data frame
            n rows on a RangeIndex, or m * n rows indexed (given index, draw).
        """
        check_is_fitted(self)
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise SchemaError(message(f"n={n!r}", "a whole number, 0 or more", "pass an int"))
        generator = _generator(random_state)
        if given is None:
            m = len(self.schema_.slots)
            batch = Batch.empty(int(n), m, torch.float64, self._device)
            return self._decode(self._draw(batch, generator), None)
        single = isinstance(given, Mapping)
        frame = pd.DataFrame([dict(given)]) if single else to_frame(given)
        known = encode(frame, self.schema_)
        if known.illegal.any():
            raise SchemaError(message(
                f"{int(known.illegal.sum())} impossible row(s) in given",
                "values inside the support", "correct the values",
            ))  # fmt: skip
        batch = self._batch(known, self._device)
        rows = torch.arange(len(batch), device=self._device).repeat_interleave(int(n))
        index = None
        if not single:
            draw = np.tile(np.arange(n), len(frame))
            index = pd.MultiIndex.from_arrays(
                [frame.index.repeat(int(n)), draw], names=[frame.index.name, "draw"]
            )
        table = self._decode(self._draw(batch.take(rows), generator), index)
        return _keep_seen(table, frame.iloc[np.repeat(np.arange(len(frame)), int(n))])

    def _draw(self, batch: Batch, generator: torch.Generator) -> np.ndarray:
        return queries.sample(self._predictive(), batch, generator).cpu().numpy()

    def _decode(self, x: np.ndarray, index: pd.Index | None) -> pd.DataFrame:
        return decode(x, self.schema_, index)

    def impute(
        self, table: Any, draws: int | None = None, random_state: int | None = None
    ) -> pd.DataFrame | list[pd.DataFrame]:
        """Fill the holes of a table; seen cells come back as they are.

        Parameters
        ----------
        table : data frame
            All or some of the fitted columns.
        draws : int, optional
            None fills with means (modes of categories) given the seen cells; a number
            returns that many tables with holes drawn from their joint predictive.
        random_state : int, optional
            Seed of the draws.

        Returns
        -------
        data frame, or a list of them
        """
        check_is_fitted(self)
        frame = to_frame(table)
        encoded = encode(frame, self.schema_)
        batch = self._batch(encoded, self._device)
        if draws is None:
            with torch.no_grad():
                filled = self._expected(batch)
            return _keep_seen(self._decode(filled, frame.index)[list(frame.columns)], frame)
        generator = _generator(random_state)
        return [
            _keep_seen(
                self._decode(self._draw(batch, generator), frame.index)[list(frame.columns)],
                frame,
            )
            for _ in range(draws)
        ]

    def _expected(self, batch: Batch) -> np.ndarray:
        """Holes at their mean or mode; restarts weigh by the density of the seen cells."""
        each = [member.expect(batch) for member in self.members_]
        found = [x for x in each if x is not None]
        if len(found) < len(each):
            raise NotSupported(message(
                f"{type(self).__name__} without closed-form conditional means",
                "a family with exact conditionals", "pass draws=20 to draw instead",
            ))  # fmt: skip
        if len(found) == 1:
            return found[0].cpu().numpy()
        single = [Predictive([m], [{}]) for m in self.members_]
        logs = torch.stack([queries.log_prob(p, batch).value for p in single])
        share = logs.softmax(0)
        mean = torch.einsum("rn,rnm->nm", share, torch.stack(found))
        best = torch.stack(found)[share.argmax(0), torch.arange(len(batch))]
        codes = [i for i, s in enumerate(self.schema_.slots) if s.kind == "category"]
        mean[:, codes] = best[:, codes]
        return mean.cpu().numpy()

    # --- latents ------------------------------------------------------------------------

    def latent(self, table: Any) -> pd.DataFrame:
        """Latents of each row: label probabilities, or mean and sd under the guide.

        Columns are ``name[code]`` for labels; ``name`` and ``name.sd`` (with an index where
        there are several dimensions) for others. Of several restarts, those of the first.
        """
        check_is_fitted(self)
        encoded = encode(table, self.schema_)
        batch = self._batch(encoded, self._device)
        with torch.no_grad():
            labels = self.members_[0].row_latents(batch)
            if labels is not None:
                parts = {f"{name}[{k}]": p[:, k] for name, p in labels.items()
                         for k in range(p.shape[1])}  # fmt: skip
            else:
                parts = {}
                for name, both in queries.latent(self._predictive(), batch).items():
                    for suffix, value in zip(("", ".sd"), both, strict=True):
                        flat = value.reshape(len(batch), -1)
                        parts |= {f"{name}[{i}]{suffix}": flat[:, i] for i in range(flat.shape[1])}
        return pd.DataFrame(
            {name: value.cpu().numpy() for name, value in parts.items()}, index=encoded.index
        )

    def reconstruct(self, table: Any) -> pd.DataFrame:
        """The rows as the model sees them, through their latents and back."""
        check_is_fitted(self)
        encoded = encode(table, self.schema_)
        batch = self._batch(encoded, self._device)
        with torch.no_grad():
            x = self.members_[0].reconstruct(batch)
            if x is None:
                x = queries.reconstruct(self._predictive(), batch)
        return self._decode(x.cpu().numpy(), encoded.index)

    # --- odd rows, and trust ------------------------------------------------------------

    def surprisal(self, table: Any, unseen: Unseen = "error", extra: Extra = "error") -> pd.Series:
        """-log_prob of each row, nats, on the caller's index: larger is stranger."""
        value = self.log_prob(table, unseen=unseen, extra=extra)
        return (-value).rename("surprisal")

    def explain(
        self, table: Any, unseen: Unseen = "error", extra: Extra = "error"
    ) -> pd.DataFrame:
        """Surprisal split into one share a column; see `probgen.outliers.explain`."""
        from probgen.outliers import explain

        check_is_fitted(self)
        return explain(self, table, unseen, extra)

    def outliers(
        self,
        table: Any,
        samples: int = 2000,
        random_state: int = 0,
        unseen: Unseen = "error",
        extra: Extra = "error",
    ) -> pd.DataFrame:
        """How odd each row is, and the column to blame; see `probgen.outliers.outliers`."""
        from probgen.outliers import outliers

        check_is_fitted(self)
        return outliers(self, table, samples, random_state, unseen, extra)

    def check(self, table: Any = None, train: Any = None) -> Report:
        """Whether the fit can be believed: fit for density? fit for intervals? why?

        Parameters
        ----------
        table : data frame, optional
            Rows to judge the density by, beside independent columns; rows that the fit did
            not see say most.
        train : data frame, optional
            The fitted rows: adds the gap between the two, and k-hat of a guide.

        Returns
        -------
        Report
            Prints as text, shows as HTML in notebooks, and has ``density``, ``intervals``,
            ``findings`` and ``to_dict()``.
        """
        from probgen.diagnostics.checks import check

        check_is_fitted(self)

        def fit_floor(rows: pd.DataFrame) -> Density:
            return Independent(schema=self.schema_, random_state=0, draws=0).fit(rows)

        joint = not self.schema_.context_slots
        return check(self, table, train, fit_floor if joint else None)

    def to_arviz(self, table: Any = None) -> Any:
        """The model as ArviZ groups, with those of the rows if `table`, the fitted rows, is given.

        Returns an ``InferenceData`` (ArviZ 0.2x) or a ``DataTree`` (1.x); see
        `probgen.diagnostics.arviz.to_arviz` for the groups.
        """
        from probgen.diagnostics.arviz import to_arviz

        check_is_fitted(self)
        return to_arviz(self, table)

    @property
    def plot(self) -> Any:
        """Plots of the fitted model, ``model.plot.pairs(table)``: see `probgen.plots`."""
        from probgen.plots import Plots

        check_is_fitted(self)
        return Plots(self)

    # --- files --------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a folder (or one file, if the name ends in .zip), atomically."""
        from probgen.saving import save

        check_is_fitted(self)
        save(self, path)

    # --- scikit-learn -------------------------------------------------------------------

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.family.holes != "refuse"
        return tags


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
    dof : float
        Degrees of freedom of the covariance prior, above the least that is proper.
    spread : float
        Prior variance inside a component, as a share of the column's variance.
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
    dof: float = 3.0
    spread: float = 0.01
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

    def _check(self, encoded: Encoded) -> None:
        check_settings(
            self, components=1, covariance=get_args(Covariance), weights=("dirichlet", "dp"),
            posterior=("auto", "gibbs", "mean_field"), concentration=0.0, mean_strength=0.0,
            dof=0.0, spread=0.0, category_strength=0.0,
        )  # fmt: skip
        distinct = count_distinct(encoded, self.components)
        if distinct < self.components:
            raise SchemaError(message(
                f"components={self.components} for {distinct} distinct rows",
                "at least as many distinct rows as components", f"set components <= {distinct}",
            ))  # fmt: skip


def _outside(value: torch.Tensor, encoded: Encoded) -> np.ndarray:
    """As an array, -inf where the row lies outside the support."""
    out = value.double().cpu().numpy()
    return np.where(encoded.illegal, -math.inf, out) if encoded.illegal.any() else out


def _generator(random_state: int | None) -> torch.Generator:
    seed = secrets.randbits(62) if random_state is None else int(random_state)
    return torch.Generator().manual_seed(seed)


def _keep_seen(table: pd.DataFrame, source: pd.DataFrame) -> pd.DataFrame:
    """`table` with every seen cell of `source` exactly as it was."""
    out = {}
    for name in table.columns:
        if name not in source.columns:
            out[name] = table[name]
            continue
        own = source[name].set_axis(table.index)
        out[name] = (
            table[name].astype(own.dtype)
            if own.isna().all()
            else own.where(own.notna(), table[name])
        )
    return pd.DataFrame(out, index=table.index)
