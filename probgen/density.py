"""The scikit-learn face of every density: fields are parameters, `fit`, scores and files."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted

from probgen import queries
from probgen.batch import Batch
from probgen.calibration import Calibration, hold_apart
from probgen.diagnostics.chains import judged
from probgen.diagnostics.fitted import FittedRows, fingerprint
from probgen.door import (
    check_settings,
    check_weight,
    fit_frame,
    require_context,
    require_rows,
    require_two_weights,
    score_frame,
    warn_of_structure,
    weighted_rows,
)  # fmt: skip
from probgen.errors import NotSupported, message
from probgen.family import Draws, Family
from probgen.fitting import fit_starts, split
from probgen.nuts import NUTS, sample_globals, sampler_of
from probgen.queries import Companion, Predictive
from probgen.schema import Schema
from probgen.session import spawn_seeds
from probgen.table import Encoded, encode
from probgen.training import FitResult, Training, resolve_device
from probgen.verbs import Verbs

__all__ = ["Density", "Fits"]

#: a family a restart, and what happened in its fit
Fits: TypeAlias = list[tuple[Family, FitResult]]


@dataclass(eq=False, repr=False, kw_only=True)
class Density(Verbs, DensityMixin, BaseEstimator):
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
        Seed; None takes a fresh one, recorded in ``seed_``.
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
    seed_ : int
        Repeats the fit as `random_state` (not kept in a saved model).
    converged_ : bool
        Whether every restart converged.
    calibration_ : Calibration or None
        The rows that `fit` held apart.
    fitted_rows_ : FittedRows or None
        Number and checksum of the fitted rows, by which `check` knows them again.
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
    #: fields that hold the user's functions, which no file holds
    functions: ClassVar[tuple[str, ...]] = ()

    # --- fitting --------------------------------------------------------------------

    def fit(
        self,
        X: Any,  # noqa: N803 - scikit-learn's name
        y: object = None,
        sample_weight: Any = None,
        given: Sequence[Hashable] = (),
        calibration: float | None = None,
        inference: Literal["vi", "nuts"] | NUTS = "vi",
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
        calibration : float, optional
            Share of the rows, in (0, 1), that is held apart, drawn by `random_state`: nothing
            of the fit sees them, and `outliers` ranks new rows among them.
        inference : {"vi", "nuts"} or NUTS
            Where posterior draws of the globals come from. "nuts" runs a Markov chain from the
            variational optimum of each restart, with the settings of `probgen.NUTS`: a
            reference for small models, at the cost of some ten thousand passes over the table.
            It needs continuous globals, row latents that are summed out, and a prior on
            every unknown number of the model.

        Returns
        -------
        self

        Raises
        ------
        SchemaError
            If the table cannot be read; the message names columns and rows.
        FitError
            If training found no usable model.
        NotSupported
            If the family cannot do what `given` or `inference` asks for.
        """
        sampler = sampler_of(inference)
        frame = fit_frame(self, X)
        if given and not self.family.takes_context:
            raise NotSupported(message(
                f"given={list(given)} in fit", "a family that conditions on context columns",
                f"fit {type(self).__name__} to the whole table and pass given= to its verbs",
            ))  # fmt: skip
        check_settings(self, draws=0)
        weight = check_weight(sample_weight, len(frame))
        require_two_weights(weight)
        training = self._training()
        seeds = spawn_seeds(training.random_state or 0, 3)
        frame, weight, apart = hold_apart(frame, weight, calibration, seeds[2])
        schema = self._describe(weighted_rows(frame, weight), given)
        jitter = np.random.default_rng(seeds[0]) if self.dequantise else None
        encoded = self._encode(frame, schema, jitter)
        require_rows(encoded)
        self._check(encoded)
        if not schema.context_slots:  # what is conditioned on tells rows apart
            warn_of_structure(encoded, schema)
        remembered = fingerprint(encoded, schema, weight is not None)
        device = resolve_device(self.device)
        batch = self._batch(encoded, device, weight, schema)
        held = None
        if self.validation:
            batch, held = split(batch, self.validation, torch.Generator().manual_seed(seeds[1]))
        fits = self._fits(lambda: self._make(schema).to(device), batch, training, held)
        if sampler is not None:
            fits = self._sampled(fits, batch, sampler)
        self._install(schema, fits)
        self.fitted_rows_: FittedRows | None = remembered
        self.calibration_ = None if apart is None else Calibration.of(apart, frame, schema)
        self.seed_ = training.random_state
        return self

    def _fits(
        self, make: Callable[[], Family], batch: Batch, training: Training, held: Batch | None
    ) -> Fits:
        """The fitted families with what happened, one a restart."""
        return fit_starts(make, batch, training, held)

    def _sampled(self, fits: Fits, batch: Batch, sampler: NUTS) -> Fits:
        """The same members, with the draws of a chain in place of those of the guide."""
        settings = replace(sampler, steps=max(sampler.steps, self.draws))
        families = [family for family, _ in fits]
        results = [sample_globals(f, batch, r, settings, self.progress) for f, r in fits]
        return list(zip(families, judged(families, results), strict=True))

    def _describe(self, frame: pd.DataFrame, given: Sequence[Hashable]) -> Schema:
        """What the columns of the table to fit are."""
        return self.schema or Schema.infer(frame, self.columns, given, self.dequantise)

    def _encode(
        self, frame: pd.DataFrame, schema: Schema, jitter: np.random.Generator | None
    ) -> Encoded:
        """The table to fit, as training reads it."""
        return encode(frame, schema, jitter=jitter)

    @property
    def _traits(self) -> Family | type[Family]:
        """What the family says of itself: a fitted one knows more than its class."""
        members = self.__dict__.get("members_")
        return members[0] if members else self.family

    def _install(self, schema: Schema, fits: Fits) -> None:
        """Learned attributes from fitted members."""
        self.schema_ = schema
        self.members_ = [family for family, _ in fits]
        for member in self.members_[1:]:
            member.align(self.members_[0])
        self.results_ = [result for _, result in fits]
        self.result_ = self.results_[0]
        self.fitted_rows_ = None
        self.converged_ = all(result.converged for result in self.results_)
        self._forget(self.__dict__)

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

    def _kinds(self, frame: pd.DataFrame) -> Mapping[Hashable, Any] | None:
        """Kinds by column name that override inference."""
        return self.columns

    def _make(self, schema: Schema) -> Family:
        """A new family over the slots of a schema."""
        raise TypeError(f"{type(self).__name__} must define _make(schema)")

    def _check(self, encoded: Encoded) -> None:
        """Refuse settings that these rows cannot bear."""

    def _batch(
        self,
        encoded: Encoded,
        device: torch.device,
        weight: np.ndarray | None = None,
        schema: Schema | None = None,
    ) -> Batch:
        require_context(encoded, schema or self.schema_)

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
        if posterior and self._traits.closed_form:
            return self._with([{} for _ in self.members_])
        if posterior:
            return self._with_draws
        points = [member.point_globals() for member in self.members_]
        known = [point for point in points if point is not None]
        if len(known) == len(points):  # no need to draw first
            return replace(self._with(known), integrated=False)
        return self._with_draws.at_point()

    def _with(self, draws: list[Draws]) -> Predictive:
        return Predictive(self.members_, draws, companion=lambda: self._companion)

    @cached_property
    def _companion(self) -> Companion:
        """Proposes hidden cells where the family has no way; fitted when first needed."""
        from probgen.companions import fit_companion

        return fit_companion(self._predictive(), self.schema_, self.result_.seed)

    @cached_property
    def _with_draws(self) -> Predictive:
        """Members with their draws: equal at every call, so threads may race for it."""
        draws = [
            queries.draw_globals(member, max(1, self.draws), seed=result.seed)
            for member, result in zip(self.members_, self.results_, strict=True)
        ]
        return self._with(draws)

    @property
    def _has_posterior(self) -> bool:
        """Whether the spread of draws and restarts is one of the parameters' uncertainty."""
        return True

    @property
    def _rival(self) -> Callable[[pd.DataFrame], Callable[[pd.DataFrame], np.ndarray]] | None:
        """Fits a cheaper density to rows, which `check` compares with; None where none is."""
        return None

    def _forget(self, state: dict[str, Any]) -> dict[str, Any]:
        """Drop what follows from what was learned."""
        for name in ("_with_draws", "_companion"):
            state.pop(name, None)
        return state

    def __getstate__(self) -> dict[str, Any]:
        return self._forget(super().__getstate__().copy())

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """Log density (n,) of rows with exactly the fitted columns; NaN cells integrated out."""
        check_is_fitted(self)
        frame = score_frame(self, X)
        return self.log_prob(frame).to_numpy()

    def score(self, X: Any, y: object = None, sample_weight: Any = None) -> float:  # noqa: N803
        """Mean log density a row, nats, weighted by `sample_weight`."""
        values = self.score_samples(X)
        weight = check_weight(sample_weight, len(values))
        if weight is not None and not weight.all():  # 0 times -inf is no number
            values, weight = values[weight > 0], weight[weight > 0]
        return float(np.average(values, weights=weight))

    # --- files --------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a folder (or one file, if the name ends in .zip), atomically."""
        from probgen.saving import save

        check_is_fitted(self)
        save(self, path)

    # --- scikit-learn -------------------------------------------------------------------

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._traits.holes != "refuse"
        return tags
