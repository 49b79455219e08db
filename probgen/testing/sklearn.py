"""scikit-learn's own checks, with the failures that are expected and why."""

from __future__ import annotations

from typing import Any

from probgen.density import Density
from probgen.outliers.detector import OutlierDetector

__all__ = ["EXPECTED_FAILURES", "FDR_FAILURES", "check_estimator"]

#: scikit-learn's checks that an estimator of probgen fails on purpose, each with the reason
EXPECTED_FAILURES: dict[str, str] = {}

_OWN = "p-values are for rows that were not fitted: those that were cannot be flagged by ranks"
_WEIGHTS = "rows held apart must be exchangeable, which rows of other weights are not"
#: the same for an `OutlierDetector` with `fdr`: what it is asked there has no honest answer
FDR_FAILURES: dict[str, str] = {
    "check_fit_score_takes_y": _OWN,
    "check_outliers_fit_predict": _OWN,
    "check_outliers_train": _OWN,
    "check_sample_weights_list": _WEIGHTS,
    "check_sample_weights_not_overwritten": _WEIGHTS,
    "check_sample_weight_equivalence_on_dense_data": _WEIGHTS,
}


def check_estimator(estimator: Density | OutlierDetector, **options: Any) -> list[dict[str, Any]]:
    """Run scikit-learn's estimator checks on an instance.

    Parameters
    ----------
    estimator : Density or OutlierDetector
        Unfitted, with fast settings.
    **options
        Passed on to `sklearn.utils.estimator_checks.check_estimator`.

    Returns
    -------
    list of dict
        One for each check: its name, status and exception.

    Raises
    ------
    Exception
        That of the first check that fails and is not among `EXPECTED_FAILURES` (nor, for a
        detector with `fdr`, `FDR_FAILURES`).
    """
    from sklearn.utils.estimator_checks import check_estimator as theirs

    by_fdr = isinstance(estimator, OutlierDetector) and estimator.fdr is not None
    options.setdefault("expected_failed_checks", FDR_FAILURES if by_fdr else EXPECTED_FAILURES)
    options.setdefault("on_skip", None)
    return theirs(estimator, **options)
