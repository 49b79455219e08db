"""Each promise of the contract, on each estimator of the registry."""

import pytest

from probgen.testing import CHECKS, NotApplicable
from tests.registry import REGISTRY, subject


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("promise", CHECKS)
def test_promise(name, promise):
    # NotApplicable alone skips: a family that refuses a question with NotSupported fails
    try:
        CHECKS[promise](subject(name))
    except NotApplicable as why:
        pytest.skip(str(why))
