"""What the estimators of networks share: rates, regularisation, and how it is chosen."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from probgen.batch import Batch
from probgen.density import Density, Fits
from probgen.errors import DataWarning, NotSupported, SchemaError, message
from probgen.estimators.mixtures import GaussianMixture
from probgen.family import Family
from probgen.fitting import fit_starts, reweighted
from probgen.schema import Schema
from probgen.session import spawn_seeds
from probgen.table import Encoded
from probgen.training import Training

__all__ = ["NetworkDensity"]

#: rows up to which noise is chosen by trial, and what is tried (benchmarks/noise.py)
FEW_ROWS = 2_000
NOISES = (0.0, 0.05, 0.1, 0.2)
#: restarts from which on their spread is taken for an interval: with fewer, the ends of one of
#: 90 % would be the least and the largest value
ENOUGH = 20


@dataclass(eq=False, repr=False, kw_only=True)
class NetworkDensity(Density):
    """Base of densities that are learned by gradients of a network.

    Parameters
    ----------
    learning_rate : float
        Step of Adam.
    batch_size : int, optional
        Rows a step. None: a power of two near n / 32, up to 1,024.
    weight_decay : float
        Share of the weights that is taken off in a step, in units of the learning rate.
    dropout : float
        Share of hidden units that are left out at random in a training step.
    noise : float or "auto"
        Standard deviation of the normal noise that is added to real cells while training, in
        encoded units (columns are standardised): it smooths the density where rows are few
        (Rothfuss et al. 2019). "auto" takes none, except where at most 2,000 rows are fitted
        and some are held out: then several are tried, and the one of highest held-out density
        is kept.
    validation : float
        Share of rows held out: training stops when their density stops improving, and the best
        state is kept, that before the first epoch included.
    bootstrap : bool
        Each restart sees the rows under random weights of mean 1 (Bayesian bootstrap, Rubin
        1981). With 20 restarts or more their spread gives intervals.
    compile : {"auto", True, False}
        Whether the training step is compiled as one graph: True tries in any case, "auto" where
        so many steps are ahead that it pays.

    Attributes
    ----------
    noise_ : float
        The noise that was trained with.

    References
    ----------
    Rothfuss, Ferreira, Boehm, Walther, Ulrich, Asfour and Krause (2019), Noise regularization
    for conditional density estimation. Rubin (1981), The Bayesian bootstrap, Annals of
    Statistics 9. Loshchilov and Hutter (2019), Decoupled weight decay regularization.
    """

    learning_rate: float = 1e-3
    batch_size: int | None = None
    weight_decay: float = 0.0
    dropout: float = 0.0
    noise: float | Literal["auto"] = "auto"
    validation: float = 0.1
    bootstrap: bool = False
    compile: Literal["auto"] | bool = "auto"
    draws: int = field(default=0, kw_only=True)

    def _fits(
        self, make: Callable[[], Family], batch: Batch, training: Training, held: Batch | None
    ) -> Fits:
        """The restarts, at the noise of highest held-out density where it is chosen."""

        def noisy(level: float) -> Callable[[], Family]:
            def build() -> Family:
                family = make().double()
                family.noise = level
                return family

            return build

        levels = self._noises(batch, held)
        tried = {}
        if len(levels) > 1:
            one = replace(training, restarts=1, checkpoint=None)
            tried = {s: self._restarts(noisy(s), batch, one, held) for s in levels}
        scores = {s: min(fits[0][1].validation, default=np.inf) for s, fits in tried.items()}
        best = min(scores, key=scores.__getitem__) if scores else levels[0]
        known = tried and training.restarts == 1
        fits = tried[best] if known else self._restarts(noisy(best), batch, training, held)
        for _, result in fits:
            result.noise = best
        return fits

    @property
    def noise_(self) -> float:
        """The noise that was trained with."""
        check_is_fitted(self)
        return self.result_.noise

    def _restarts(
        self, make: Callable[[], Family], batch: Batch, training: Training, held: Batch | None
    ) -> Fits:
        """Fits from different seeds; under weights of their own if these are asked for."""
        if not self.bootstrap:
            return fit_starts(make, batch, training, held)
        found: Fits = []
        for seed in spawn_seeds([training.random_state or 0, 4], training.restarts):
            own = replace(training, random_state=seed, restarts=1)
            found += fit_starts(make, reweighted(batch, seed), own, held)
        return found

    def _noises(self, batch: Batch, held: Batch | None) -> tuple[float, ...]:
        if self.noise != "auto":
            return (float(self.noise),)
        x = batch.x
        real = x is not None and bool((x != x.round()).any())
        return NOISES if real and held is not None and len(batch) <= FEW_ROWS else (0.0,)

    @property
    def _rival(self) -> Callable[[pd.DataFrame], Callable[[pd.DataFrame], np.ndarray]]:
        """A mixture of the same rows, of which context is the condition."""
        context = [c.name for c in self.schema_.columns if c.role == "context"]
        schema = Schema(tuple(
            replace(c, role="modelled") if c.role == "context" else c
            for c in self.schema_.standard().columns
        ))  # fmt: skip
        names = list(schema.names)

        def fit(rows: pd.DataFrame) -> Callable[[pd.DataFrame], np.ndarray]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataWarning)  # said when the model was fitted
                few = min(GaussianMixture.components, len(rows[names].drop_duplicates()))
                mixture = GaussianMixture(few, schema=schema, random_state=0, draws=0)
                mixture.fit(rows[names])
            rest = [name for name in names if name not in context]

            def score(table: pd.DataFrame) -> np.ndarray:
                given = table[context] if context else None
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DataWarning)
                    found = mixture.log_prob(table[rest], given=given, unseen="rare")
                return found.to_numpy()

            return score

        return fit

    def _check(self, encoded: Encoded) -> None:
        for name in ("weight_decay", "dropout", "noise"):
            value: Any = getattr(self, name)
            if name == "noise" and value == "auto":
                continue
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            most = 1.0 if name == "dropout" else np.inf
            if not number or not 0 <= value < most:
                raise SchemaError(message(
                    f"{name}={value!r}", f"0 <= {name} < {most:g}", f"change {name}"
                ))  # fmt: skip
        if not isinstance(self.bootstrap, bool):
            raise SchemaError(message(f"bootstrap={self.bootstrap!r}", "True or False", "choose"))

    @property
    def _has_posterior(self) -> bool:
        """With restarts enough, of which each weighs the rows anew."""
        return self.bootstrap and len(self.members_) >= ENOUGH

    def _interval(
        self, batch: Batch, given: Batch | None, level: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The spread of restarts, where it is one of the parameters' uncertainty."""
        if not self._has_posterior:
            raise NotSupported(message(
                f"an interval from {len(self.members_)} restart(s) of a "
                f"{type(self).__name__}, bootstrap={self.bootstrap}",
                f"at least {ENOUGH} restarts of which each weighs the rows anew",
                f"fit with restarts={ENOUGH}, bootstrap=True",
            ))  # fmt: skip
        return super()._interval(batch, given, level)
