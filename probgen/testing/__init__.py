"""The promises of probgen as checks that anyone can run on a family or an estimator.

`check_family` runs every check of `CHECKS` on fits to small tables of its own;
`check_estimator` runs scikit-learn's checks with the failures that are expected, each with
its reason.

    from probgen.testing import check_family
    check_family(lambda: MyDensity(random_state=0))

Which promise a check holds is the first line of its docstring.
"""

from probgen.testing import density, events, fitting, imputing, oddity, pair
from probgen.testing.sklearn import EXPECTED_FAILURES, FDR_FAILURES, check_estimator
from probgen.testing.subject import (
    CHECKS,
    BrokenPromise,
    NotApplicable,
    Result,
    Subject,
    check_family,
)

__all__ = [
    "CHECKS",
    "EXPECTED_FAILURES",
    "FDR_FAILURES",
    "BrokenPromise",
    "NotApplicable",
    "Result",
    "Subject",
    "check_estimator",
    "check_family",
    "density",
    "events",
    "fitting",
    "oddity",
    "imputing",
    "pair",
]
