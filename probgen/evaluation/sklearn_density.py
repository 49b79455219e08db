"""Densities of scikit-learn with the verbs of probgen, in the table's units."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import clone, is_outlier_detector

from probgen.density import Density
from probgen.errors import DataWarning, NotSupported, SchemaError, message, warn
from probgen.families.wrapped import Wrapped
from probgen.family import Family
from probgen.nuts import NUTS
from probgen.schema import Schema

__all__ = ["SklearnDensity", "total_mass", "wrapped"]

Floats = NDArray[np.float64]
#: classes whose `score_samples` is known to be a normalised log density
KNOWN = ("KernelDensity", "GaussianMixture", "PCA", "FactorAnalysis")
#: names of the metric under which kernels of scikit-learn are normalised
EUCLIDEAN = ("euclidean", "l2", "p", "minkowski")
#: rows drawn to measure a total mass, and by how much that may miss 1
POINTS, MISS = 4000, 0.02


@dataclass(eq=False, repr=False)
class SklearnDensity(Density):
    """A density of scikit-learn as one of probgen: same verbs, table units, comparable.

    The estimator is fitted to the encoded columns: standardised, positive columns by their
    logarithm, unit and bounded ones by their logit. A bandwidth is therefore in standard
    deviations. Scores get the Jacobian of that encoding, and of linear steps of a pipeline.
    Columns must be real-like and without atoms, fitted rows whole; holes and conditionals of
    other rows are importance estimates by a companion mixture.

    Parameters
    ----------
    estimator : scikit-learn estimator
        With `score_samples`: `KernelDensity` (Euclidean metric), `GaussianMixture`, or a
        `Pipeline` of linear steps that ends in one. Of a class that is not known here the
        total mass is measured after the fit, by bridge sampling with its own `sample`.

    Other parameters are those of `Density`, as far as they mean something here.

    Raises
    ------
    NotSupported
        In `fit`, for what is no normalised density: outlier detectors, whose scores are no
        densities; `BayesianGaussianMixture`, whose `score_samples` takes expected logarithms
        (total mass 0.46 with 10 columns, 100 rows and 1 component); kernels of another metric;
        and any class whose measured mass is not 1. In `save`: a file holds no foreign objects.

    References
    ----------
    Meng and Wong (1996), Simulating ratios of normalizing constants via a simple identity,
    Statistica Sinica 6: the bridge that measures the mass.

    Examples
    --------
    >>> from sklearn.neighbors import KernelDensity
    >>> from probgen.datasets import penguins
    >>> table = penguins()[["bill_length_mm", "body_mass_g"]].dropna()
    >>> model = SklearnDensity(KernelDensity(bandwidth=0.3), random_state=0).fit(table)
    >>> heavier = table.assign(body_mass_g=table["body_mass_g"] / 1000)
    >>> again = SklearnDensity(KernelDensity(bandwidth=0.3), random_state=0).fit(heavier)
    >>> round(again.score(heavier) - model.score(table), 6) == round(float(np.log(1000)), 6)
    True
    """

    estimator: Any
    max_epochs: int = field(default=10, init=False)
    patience: int = field(default=1, init=False)
    validation: float = field(default=0.0, init=False)
    tolerance: float = field(default=0.0, init=False)
    starts: int = field(default=1, init=False)
    draws: int = field(default=0, init=False)
    device: str = field(default="cpu", init=False)
    progress: bool = field(default=False, init=False)

    family: ClassVar[type[Family]] = Wrapped
    functions: ClassVar[tuple[str, ...]] = ("estimator",)

    def _make(self, schema: Schema) -> Family:
        return Wrapped(schema, self.estimator)

    def fit(
        self,
        X: Any,  # noqa: N803 - scikit-learn's name
        y: object = None,
        sample_weight: Any = None,
        given: Sequence[Hashable] = (),
        calibration: float | None = None,
        inference: Literal["vi", "nuts"] | NUTS = "vi",
    ) -> Self:
        """Fit the estimator to the encoded rows of a table; see `Density.fit`."""
        require_normalised(self.estimator)
        super().fit(X, y, sample_weight, given, calibration, inference)
        if type(_last(self.estimator)).__name__ not in KNOWN:
            _require_mass_one(self.estimator, self.members_)
        return self


def wrapped(name: str, model: Any) -> Density:
    """A density as it is, one of scikit-learn unfitted as a `SklearnDensity`."""
    if isinstance(model, Density):
        return model
    if isinstance(model, type) or not hasattr(model, "fit"):
        raise SchemaError(message(
            f"{name!r} is {model!r:.60}", "a density of probgen or of scikit-learn",
            "pass estimators, such as pg.GaussianMixture(components=3)",
        ))  # fmt: skip
    require_normalised(model)
    return SklearnDensity(clone(model))


def _last(estimator: Any) -> Any:
    steps = getattr(estimator, "steps", None)
    return estimator if steps is None else steps[-1][1]


def require_normalised(estimator: Any) -> None:
    """Refuse what is known to be no normalised density."""
    last = _last(estimator)
    name = type(last).__name__
    reason = ""
    if isinstance(estimator, type) or not hasattr(last, "score_samples"):
        reason = f"{name} has no score_samples"
    elif is_outlier_detector(last):
        reason = f"the scores of {name} rank rows by oddity and are no log densities"
    elif name == "BayesianGaussianMixture":
        reason = (
            "score_samples of BayesianGaussianMixture takes expected logarithms, whose "
            "exponential has a total mass below 1 (0.46 with 10 columns, 100 rows, 1 component)"
        )
    elif name == "KernelDensity" and not _euclidean(last):
        reason = f"KernelDensity with metric={last.metric!r} is not normalised"
    if reason:
        raise NotSupported(message(
            reason, "a log density of total mass 1",
            "take KernelDensity with the Euclidean metric, GaussianMixture, or pg.GaussianMixture",
        ))  # fmt: skip


def _euclidean(kernel: Any) -> bool:
    extra = dict(kernel.metric_params or {})
    return kernel.metric in EUCLIDEAN and extra.pop("p", 2) == 2 and not extra


def _require_mass_one(estimator: Any, members: Sequence[Family]) -> None:
    for member in members:
        assert isinstance(member, Wrapped)  # noqa: S101 - made by `_make`
        if member.x.shape[1] < 1:
            continue
        try:
            own = member.draw_rows(POINTS, 1).numpy()
        except NotSupported:
            warn(message(
                f"{type(_last(estimator)).__name__}, which draws no rows, so that its total mass "
                "cannot be measured", "a density of total mass 1", "compare it with caution",
            ), DataWarning)  # fmt: skip
            return
        mass, se = total_mass(member, own)
        if not abs(mass - 1) <= max(4 * se, MISS):
            raise NotSupported(message(
                f"{type(_last(estimator)).__name__} with a total mass of {mass:.3f} ± {se:.3f} "
                "(bridge sampling with its own rows)", "a density of total mass 1",
                "take another estimator",
            ))  # fmt: skip


def total_mass(member: Wrapped, own: Floats) -> tuple[float, float]:
    """Integral of a density by bridge sampling, with its Monte Carlo error.

    With w a wide Student's t around rows `own` (n, m) that the density drew itself,
    ``Z = E_w[p / (p + w)] / E_own[w / (p + w)]``, whose terms are bounded.
    """
    d = own.shape[1]
    spread = 2.0 * np.atleast_2d(np.cov(own.T)) + 1e-9 * np.eye(d)
    wide = stats.multivariate_t(own.mean(0), spread, df=3, seed=1)

    def share(points: Floats) -> Floats:
        log_p = member.log_rows(torch.from_numpy(points)).numpy()
        return np.exp(log_p - np.logaddexp(log_p, wide.logpdf(points)))

    above = share(np.reshape(wide.rvs(len(own)), (-1, d)))
    below = 1 - share(own)
    z = above.mean() / below.mean()
    error = np.hypot(above.std() / above.mean(), below.std() / below.mean()) / np.sqrt(len(own))
    return float(z), float(z * error)
