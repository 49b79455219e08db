"""Each promise of the contract, on each estimator of the registry."""

import pytest

from probgen.testing import CHECKS, NotApplicable
from tests.registry import KNOWN, REGISTRY, subject


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("promise", CHECKS)
def test_promise(name, promise, request):
    if (name, promise) in KNOWN:
        request.applymarker(pytest.mark.xfail(strict=True, reason=KNOWN[name, promise]))
    try:
        CHECKS[promise](subject(name))
    except NotApplicable as why:
        pytest.skip(str(why))
