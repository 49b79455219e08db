"""A detector of outliers by scikit-learn's conventions, around any density."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils.validation import check_is_fitted

from probgen.density import Density
from probgen.door import check_settings, check_weight, fit_frame, score_frame
from probgen.errors import NotSupported, SchemaError, message, warn
from probgen.estimators import StudentT
from probgen.outliers.conformal import TIE, adjusted, p_values
from probgen.outliers.robust import blend, default_density
from probgen.outliers.scorer import Scorer, patterns

__all__ = ["OutlierDetector"]

Floats = NDArray[np.float64]
#: rows of the model with which holes are levelled out, and "auto" is set; and their seed
DRAWN, SEED = 2000, 0
#: fewer where columns are many, as far as this: pairs of cells that they may hold together
FEWEST, PAIRS = 200, 200_000_000
#: share of the fitted rows, or of rows of the model itself, that "auto" calls outliers
AUTO = 0.01


@dataclass(eq=False, repr=False)
class OutlierDetector(OutlierMixin, BaseEstimator):
    """Finds rows of low density; any `Density` can serve.

    Parameters
    ----------
    density : Density, optional
        Unfitted; `fit` fits a clone. None takes one heavy-tailed joint density over all columns
        of numbers, `probgen.outliers.default_density`, and ranks rows by their own surprisal and
        that of their pairs of cells (chosen by benchmarks/adbench.py).
    contamination : "auto" or float
        Which rows of low density are outliers. A share in (0, 0.5]: as many of the fitted rows.
        "auto": rows less probable than all but 1 in 100 of the fitted rows, or than all but 1 in
        100 of the rows that the model itself draws, whichever are more.
    fdr : float, optional
        Flag new rows under this false discovery rate instead, by p-values: ranks among rows that
        `fit` holds apart (see `probgen.outliers.outliers`).
    calibration : float
        The share of rows that `fit` holds apart where `fdr` is given.
    random_state : int, optional
        Seed of the default density; a density that is passed in has its own.

    Attributes
    ----------
    density_ : Density
        Fitted.
    blended_ : bool
        Whether rows are ranked by themselves and by their pairs of cells: where `fit` was given
        no density.
    offset_ : float
        ``decision_function = score_samples - offset_``. With `fdr` it is the score below which
        the p-value of a row alone is `fdr` at most.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    Takes data frames with all that a density takes, categories and holes included, and arrays.
    A level that was not there in `fit` counts as the rarest. The score of a row with holes is the
    log density of its seen cells, less what rows of the model have on average in the same cells,
    plus what they have in whole rows: it can be compared with that of other rows, in any units.

    References
    ----------
    Bates, Candès, Lei, Romano and Sesia (2023), Testing for outliers with conformal p-values,
    Annals of Statistics 51.

    Examples
    --------
    >>> import numpy as np
    >>> table = np.random.default_rng(0).normal(size=(200, 3))
    >>> detector = OutlierDetector(random_state=0).fit(table)
    >>> detector.predict([[0.1, 0.2, -0.3], [6.0, 0.0, -5.0]]).tolist()
    [1, -1]
    """

    density: Density | None = None
    contamination: float | Literal["auto"] = "auto"
    fdr: float | None = None
    calibration: float = 0.2
    random_state: int | None = None

    # --- fitting --------------------------------------------------------------------

    def fit(self, X: Any, y: object = None, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit the density and set the threshold.

        Parameters
        ----------
        X : data frame or array of n rows
        y : ignored
        sample_weight : array (n,), optional
            Frequency weights; not with `fdr`.

        Returns
        -------
        self

        Raises
        ------
        SchemaError, FitError
            As `Density.fit`, and for settings out of range.
        NotSupported
            If `fdr` is given with weights other than 0 and 1, or the density ranks nothing.
        """
        self._check()
        frame = fit_frame(self, X)
        weight = check_weight(sample_weight, len(frame))
        density = default_density(self.random_state) if self.density is None else self.density
        model = self._fitted(clone(density), X, weight)
        if model.family.density == "none":
            raise NotSupported(message(
                f"{type(model).__name__}, which has no density", "a family with a density",
                "pass GaussianMixture(), say",
            ))  # fmt: skip
        self.density_, self.blended_ = model, self.density is None
        self.offset_ = self._threshold(frame, weight)
        return self

    def _fitted(self, density: Density, X: Any, weight: Floats | None) -> Density:  # noqa: N803
        """The fitted density; a robust fit (trimmed, say) belongs here."""
        apart = None if self.fdr is None else self.calibration
        return density.fit(X, sample_weight=weight, calibration=apart)

    def _threshold(self, frame: pd.DataFrame, weight: Floats | None) -> float:
        """The score below which a row is an outlier."""
        if self.fdr is not None:
            scores = np.sort(self._reference())
            allowed = int(np.floor(self.fdr * (1 + len(scores)) + 1e-9)) - 1
            if allowed < 0:
                warn(message(
                    f"{len(scores)} rows held apart at fdr={self.fdr}: the smallest possible "
                    f"p-value is {1 / (1 + len(scores)):.3g}, so no row can be flagged",
                    f"{math.ceil(1 / self.fdr) - 1} rows held apart, at least",
                    "fit more rows, or raise calibration or fdr",
                ))  # fmt: skip
                return -np.inf
            return float(scores[allowed]) if allowed < len(scores) else np.inf
        scores = self._scores(frame)
        weight = np.ones(len(scores)) if weight is None else weight
        if self.contamination != "auto":
            return _below(scores, weight, float(self.contamination))
        own = float(np.quantile(-self._surprisal(self._drawn()), AUTO))
        return max(own, _below(scores, weight, AUTO))

    def _check(self) -> None:
        share = self.contamination
        number = isinstance(share, int | float | np.number) and not isinstance(share, bool)
        if share != "auto" and not (number and 0 < share <= 0.5):
            raise SchemaError(message(
                f"contamination={share!r}", "'auto', or a share in (0, 0.5]", "pass 0.05, say"
            ))  # fmt: skip
        if self.density is not None and not isinstance(self.density, Density):
            raise SchemaError(message(
                f"density={self.density!r:.60}", "an unfitted Density, or None",
                "pass GaussianMixture(), say",
            ))  # fmt: skip
        if self.fdr is None:
            return
        check_settings(self, fdr=0.0)
        if not self.fdr < 1:
            raise SchemaError(message(f"fdr={self.fdr!r}", "0 < fdr < 1", "pass 0.05, say"))
        if share != "auto":
            raise SchemaError(message(
                f"contamination={share} and fdr={self.fdr}", "one of the two", "leave one out"
            ))  # fmt: skip

    # --- scores ---------------------------------------------------------------------

    def score_samples(self, X: Any) -> Floats:  # noqa: N803
        """How ordinary each row is (n,): its log density, nats; lower is stranger.

        With the default density, minus the blended surprisal of rows and of pairs of cells
        (see `probgen.outliers.blended_surprisal`). Rows with holes are levelled (see the notes of
        the class).
        """
        check_is_fitted(self)
        return self._scores(score_frame(self.density_, X))

    def decision_function(self, X: Any) -> Floats:  # noqa: N803
        """``score_samples - offset_`` (n,): negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:  # noqa: N803
        """-1 for outliers and 1 for all others (n,).

        With `fdr` the rows are judged together: which are flagged depends on how many others
        have small p-values. Rows that were fitted do not belong here.
        """
        if self.fdr is None:
            return np.where(self.decision_function(X) < 0, -1, 1)
        odd = adjusted(self.p_value(X)) <= self.fdr
        return np.where(odd, -1, 1)

    def p_value(self, X: Any) -> Floats:  # noqa: N803
        """Conformal p-values (n,) of new rows, by the rows that `fit` held apart for `fdr`.

        Ranks of `score_samples`. Rows with holes are ranked among whole rows here, by levelled
        scores; ``density_.outliers(X)`` compares them with rows that have the same cells.
        """
        check_is_fitted(self)
        if self.density_.calibration_ is None:
            raise NotSupported(message(
                "a detector that held no rows apart", "one fitted with fdr=",
                "set fdr and fit again",
            ))  # fmt: skip
        return p_values(-self.score_samples(X), -self._reference())

    def fit_predict(self, X: Any, y: object = None, **options: Any) -> NDArray[np.int64]:  # noqa: N803
        """Fit, and judge the fitted rows themselves; not with `fdr`."""
        if self.fdr is not None:
            raise NotSupported(message(
                f"fit_predict with fdr={self.fdr}",
                "rows that were not fitted: among themselves the oddest of n rows has p = 1 / n "
                "at best, so no row could be flagged",
                "fit rows you trust and predict new ones, or set contamination instead of fdr",
            ))  # fmt: skip
        return self.fit(X, **options).predict(X)

    def _drawn(self) -> Scorer:
        """Rows of the model itself."""
        width = max(1, len(self.density_.schema_.slots))
        count = int(np.clip(PAIRS // width**2, FEWEST, DRAWN))
        return self._scorer(self.density_.sample(count, random_state=SEED))

    def _scorer(self, frame: pd.DataFrame) -> Scorer:
        return Scorer.of(self.density_, frame, unseen="rare")

    def _surprisal(self, scorer: Scorer) -> Floats:
        """How strange each row is (n,), nats: by rows and pairs where no density was given."""
        if self.blended_:
            return blend(self.density_, scorer.batch)
        return scorer.surprisal()

    def _scores(self, frame: pd.DataFrame) -> Floats:
        return self._levelled(self._scorer(frame))

    def _reference(self) -> Floats:
        """Scores of the rows held apart."""
        calibration = self.density_.calibration_
        assert calibration is not None  # noqa: S101 - fdr holds rows apart
        return self._levelled(Scorer.of_calibration(self.density_, calibration, "rare"))

    def _levelled(self, scorer: Scorer) -> Floats:
        """Log densities (n,); of rows with holes, moved by what their cells lack on average."""
        score = -self._surprisal(scorer)
        held = scorer.seen()
        score[scorer.impossible_rows()] = -np.inf
        if held.all():
            return score
        drawn = self._drawn()
        whole = self._surprisal(drawn).mean()
        for seen, rows in patterns(held):
            if not seen.all():
                score[rows] += self._surprisal(drawn.showing(seen)).mean() - whole
        return score

    # --- scikit-learn, files --------------------------------------------------------

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        family = StudentT.family if self.density is None else self.density.family
        tags.input_tags.allow_nan = family.holes != "refuse"
        return tags

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the detector to a folder or a .zip; `probgen.load` reads it."""
        from probgen.saving import save

        check_is_fitted(self)
        save(self, path)

    def saved(self) -> dict[str, Any]:
        """What a file holds of the detector beside its density."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "density"}
        return {"parameters": own, "default": self.blended_, "offset": self.offset_}

    @classmethod
    def restored(cls, saved: dict[str, Any], density: Density) -> Self:
        """The inverse of `saved`, around the density of the file."""
        made = cls(density=None if saved["default"] else clone(density), **saved["parameters"])
        made._check()
        if made.fdr is not None and density.calibration_ is None:
            raise ValueError("fdr without rows held apart")
        made.density_, made.offset_ = density, float(saved["offset"])
        made.blended_ = bool(saved["default"])
        made.n_features_in_ = density.n_features_in_
        if hasattr(density, "feature_names_in_"):
            made.feature_names_in_ = density.feature_names_in_
        return made


def _below(scores: Floats, weight: Floats, share: float) -> float:
    """A number below which lie at most a share of the weighted scores, never some of equal ones.

    Half-way to the next score above, so that rounding does not move a row across.
    """
    scores, weight = scores[weight > 0], weight[weight > 0]  # weight 0 equals no row
    order = np.argsort(scores, kind="stable")
    ordered, mass = scores[order], np.cumsum(weight[order])
    with np.errstate(invalid="ignore"):
        apart = ordered[1:] - ordered[:-1] > TIE * np.maximum(1.0, np.abs(ordered[1:]))
    ends = np.append(np.flatnonzero(apart), len(ordered) - 1)
    inside = ends[mass[ends] <= share * mass[-1] * (1 + TIE)]
    if not len(inside):
        return float(ordered[0])
    last, after = ordered[inside[-1]], ordered[min(inside[-1] + 1, len(ordered) - 1)]
    return float(after if np.isinf(last) else 0.5 * (last + after))
