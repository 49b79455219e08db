"""scikit-learn's own checks, with the failures that are expected and why."""

from __future__ import annotations

from typing import Any

from probgen.density import Density

__all__ = ["EXPECTED_FAILURES", "check_estimator"]

#: scikit-learn's checks that an estimator of probgen fails on purpose, each with the reason
EXPECTED_FAILURES: dict[str, str] = {}


def check_estimator(estimator: Density, **options: Any) -> list[dict[str, Any]]:
    """Run scikit-learn's estimator checks on an instance.

    Parameters
    ----------
    estimator : Density
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
        That of the first check that fails and is not among `EXPECTED_FAILURES`.
    """
    from sklearn.utils.estimator_checks import check_estimator as theirs

    options.setdefault("expected_failed_checks", EXPECTED_FAILURES)
    options.setdefault("on_skip", None)
    return theirs(estimator, **options)
