"""The stacked predictive: a weighted mixture of densities, itself a density."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from probgen.batch import Batch
from probgen.calibration import Calibration, hold_apart
from probgen.density import Density
from probgen.diagnostics.fitted import fingerprint
from probgen.diagnostics.report import Finding, Report
from probgen.door import (
    check_settings,
    check_weight,
    fit_frame,
    require_rows,
    require_two_weights,
    warn_of_structure,
    weighted_rows,
)
from probgen.errors import NotSupported, SchemaError, message
from probgen.evaluation.compare import shared_schema
from probgen.evaluation.folds import assign_folds, folded, refitted
from probgen.evaluation.measures import require_density, require_one_measure
from probgen.evaluation.sklearn_density import wrapped
from probgen.evaluation.stacking import Weights, stacking_weights
from probgen.families.stack import Stacked
from probgen.family import Family
from probgen.nuts import NUTS, sampler_of
from probgen.schema import Schema
from probgen.session import spawn_seeds
from probgen.table import encode
from probgen.training import FitResult
from probgen.verbs.base import Extra, Unseen

__all__ = ["Stack"]


@dataclass(eq=False, repr=False)
class Stack(Density):
    """Several densities as one: their mixture with the weights that predict held-out rows best.

    Every part scores each row of the table under a fit that did not see its fold; the weights
    maximise the mean log density of the mixture of these held-out densities; then every part
    is fitted to all rows. Unlike choosing the best part, stacking does not lose where different
    parts are right about different rows. The result answers every verb: a marginal or a
    conditional is a ratio of mixtures, samples pick their part, and `latent` tells how much
    each part has to do with a row.

    Parameters
    ----------
    parts : dict
        Unfitted densities by name, of probgen or of scikit-learn (wrapped as `SklearnDensity`).
        They are cloned, and all see the same schema.
    folds : int
        Folds by which the weights are found; cost is as many fits of each part, and one more.

    Other parameters are those of `Density`, as far as they mean something here: `draws` counts
    posterior draws of all parts together, for intervals; training parameters are the parts' own.

    Attributes
    ----------
    weights_ : dict of float
        The weight of each part by name.
    parts_ : dict of Density
        The parts, fitted to all rows (not kept in a saved model).
    held_out_ : data frame
        Log density of each row of the table under each part, held out (not kept either).

    Notes
    -----
    The weights are points: an interval tells of the parameters of the parts, not of the weights.
    Weights chosen on few rows overfit a little; with n rows and k parts the expected loss is of
    the order k / n nats a row (benchmarks/compare.py measures the gain over the best part).

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), Using stacking to average Bayesian predictive
    distributions, Bayesian Analysis 13. Smyth and Wolpert (1999), Linearly combining density
    estimators via stacking, Machine Learning 36.

    Examples
    --------
    >>> import probgen as pg
    >>> from probgen.datasets import penguins
    >>> parts = {"apart": pg.Independent(), "joint": pg.GaussianMixture(2, starts=1)}
    >>> model = Stack(parts, folds=2, random_state=0).fit(penguins())
    >>> model.weights_["joint"] > 0.5
    True
    >>> len(model.sample(3))
    3
    """

    parts: Mapping[str, Any]
    folds: int = 5
    max_epochs: int = field(default=1, init=False)
    patience: int = field(default=1, init=False)
    validation: float = field(default=0.0, init=False)
    tolerance: float = field(default=0.0, init=False)
    starts: int = field(default=1, init=False)
    restarts: int = field(default=1, init=False)
    device: str = field(default="auto", init=False)
    progress: bool = field(default=False, init=False)

    family: ClassVar[type[Family]] = Stacked

    def fit(
        self,
        X: Any,  # noqa: N803 - scikit-learn's name
        y: object = None,
        sample_weight: Any = None,
        given: Sequence[Hashable] = (),
        calibration: float | None = None,
        inference: Literal["vi", "nuts"] | NUTS = "vi",
    ) -> Self:
        """Find the weights by folds, and fit every part to all rows; see `Density.fit`.

        With `given` every part must be of a family that conditions on context columns. Parts
        are fitted by variational inference: a fold a chain would cost too much.
        """
        if sampler_of(inference) is not None:
            raise NotSupported(message(
                "inference by NUTS of a stack", "a fit of each part in each fold",
                "leave inference out, or sample one part on its own",
            ))  # fmt: skip
        clock = time.perf_counter()
        frame = fit_frame(self, X)
        parts = self._checked(given)
        weight = check_weight(sample_weight, len(frame))
        require_two_weights(weight)
        seed = self._training().random_state or 0
        seeds = spawn_seeds(seed, 3)
        frame, weight, apart = hold_apart(frame, weight, calibration, seeds[2])
        whole, schema = frame, self._describe(weighted_rows(frame, weight), given)
        if weight is not None:  # a row of weight 0 is no row
            frame, weight = frame[weight > 0], weight[weight > 0]
        encoded = encode(frame, schema)
        require_rows(encoded)
        if not schema.context_slots:
            warn_of_structure(encoded, schema)
        fold = assign_folds(frame, schema, self.folds, seeds[0])
        base = seeds[1] % 2**30
        held = folded(parts, frame, schema, fold, base, weight, given)
        log_p = np.stack([one.scores.log_p for one in held.values()], 1)
        found = stacking_weights(log_p, weight)
        fitted = {
            name: refitted(part, schema, frame, weight, given, base + self.folds)
            for name, part in parts.items()
        }
        for name, part in fitted.items():
            require_density(name, part._traits)
        require_one_measure({name: part.schema_ for name, part in fitted.items()}, given)
        self.held_out_ = pd.DataFrame(log_p, index=frame.index, columns=list(parts))
        self._take(fitted, schema, found, seed, time.perf_counter() - clock)
        self.fitted_rows_ = fingerprint(encoded, schema, weight is not None)
        self.calibration_ = None if apart is None else Calibration.of(apart, whole, self.schema_)
        self.seed_ = seed
        return self

    def _checked(self, given: Sequence[Hashable]) -> dict[str, Density]:
        """The parts as densities, each checked; settings checked."""
        check_settings(self, folds=2, draws=0)
        if not hasattr(self.parts, "items") or not self.parts:
            raise SchemaError(message(
                f"parts={self.parts!r:.80}", "a dict of unfitted densities by name",
                'pass {"mixture": pg.GaussianMixture(), "t": pg.StudentT()}',
            ))  # fmt: skip
        found = {str(name): wrapped(str(name), part) for name, part in self.parts.items()}
        for name, part in found.items():
            require_density(name, part._traits)
        joint = [name for name, part in found.items() if not part.family.takes_context]
        if given and joint:
            raise NotSupported(message(
                f"given={list(given)} in fit, and parts {joint} that model the joint density",
                "parts that all condition on context columns",
                "fit the stack to the whole table and pass given= to its verbs",
            ))  # fmt: skip
        return found

    def _describe(self, frame: pd.DataFrame, given: Sequence[Hashable]) -> Schema:
        """One schema for all parts: the usual encoding, which a part may change for itself."""
        parts = {name: wrapped(name, part) for name, part in self.parts.items()}
        if self.schema is not None:
            return self.schema.with_context(given)
        return shared_schema(parts, frame, self.columns, self.dequantise).with_context(given)

    def _take(
        self,
        fitted: dict[str, Density],
        schema: Schema,
        found: Weights,
        seed: int,
        seconds: float,
    ) -> None:
        """Learned attributes from fitted parts and their weights."""
        schemas = [part.schema_ for part in fitted.values()]
        alike = all(own == schemas[0] for own in schemas)
        schema = schemas[0] if alike else schema
        if schema.context_slots and not alike:
            raise NotSupported(message(
                "parts that encode context columns in different ways", "one encoding for all",
                "stack parts of one family, or leave given= out",
            ))  # fmt: skip
        members = [part.members_ for part in fitted.values()]
        family = Stacked(schema, members, schemas, [part.draws for part in fitted.values()])
        with np.errstate(divide="ignore"):
            logs = np.log(np.where(found.weights < 1e-9, 0.0, found.weights))
        device = next(iter(fitted.values()))._device
        log_weights = torch.from_numpy(logs - np.logaddexp.reduce(logs)).to(device)
        results = [result for part in fitted.values() for result in part.results_]
        family.weigh(log_weights, torch.tensor([r.seed % 2**62 for r in results], device=device))
        family = family.to(device).eval()
        result = FitResult(
            losses=[-found.elpd], epochs=max(r.epochs for r in results), seconds=seconds,
            converged=all(part.converged_ for part in fitted.values()), device=str(device),
            reason=f"{self.folds}-fold stacking, optimal within {found.gap:.1e} nats a row",
            engine="stacking", seed=seed,
        )  # fmt: skip
        self._install(schema, [(family, result)])
        self.parts_ = fitted

    def _make(self, schema: Schema) -> Family:
        context = [c.name for c in schema.columns if c.role == "context"]
        parts, schemas, draws = [], [], []
        for name, part in self.parts.items():
            own = wrapped(str(name), part)
            own = own if own is not part else type(own)(**own.get_params(deep=False))
            own.set_params(schema=schema, columns=None)
            schemas.append(own._describe(pd.DataFrame(), context))
            parts.append([own._make(schemas[-1]) for _ in range(own.restarts)])
            draws.append(own.draws)
        return Stacked(schema, parts, schemas, draws)

    @property
    def weights_(self) -> dict[str, float]:
        """The weight of each part by name."""
        check_is_fitted(self)
        [member] = self.members_
        assert isinstance(member, Stacked)  # noqa: S101 - made by `_take` or `_make`
        values = member.log_weights.exp().tolist()
        return dict(zip(map(str, self.parts), values, strict=True))

    def _without_posterior(self) -> list[str]:
        """Parts with a weight that have no posterior draws."""
        [member] = self.members_
        assert isinstance(member, Stacked)  # noqa: S101 - made by `_take` or `_make`
        names = list(map(str, self.parts))
        return [names[k] for k in member.without_posterior()]

    def check(self, table: Any = None, train: Any = None) -> Report:
        """Whether the fit can be believed, as `Density.check`; intervals need every part."""
        report = super().check(table, train)
        lacking = self._without_posterior()
        if not lacking:
            return report
        found = Finding(
            "posterior", "fail", ("intervals",), f"part(s) {', '.join(lacking)} have no posterior",
            "use held-out scores, or stack families with priors",
        )  # fmt: skip
        others = [own for own in report.findings if own.name != "posterior"]
        return replace(report, findings=(*others, found))

    def latent(self, table: Any, unseen: Unseen = "error", extra: Extra = "error") -> pd.DataFrame:
        """Probability of each part given the seen cells of a row, columns ``part[name]``."""
        found = super().latent(table, unseen, extra)
        return found.set_axis([f"part[{name}]" for name in self.parts], axis=1)

    def _interval(
        self, batch: Batch, given: Batch | None, level: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        lacking = self._without_posterior()
        if 0 < level < 1 and lacking:
            raise NotSupported(message(
                f"a Stack whose part(s) {lacking} have no posterior", "draws of every part",
                "stack families with priors, such as GaussianMixture and Independent",
            ))  # fmt: skip
        return super()._interval(batch, given, level)
