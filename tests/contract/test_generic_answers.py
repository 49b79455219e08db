"""Promises that do not need exact numbers, on a family whose holes are proposed for."""

import pytest

from probgen import companions
from probgen.testing import CHECKS
from probgen.testing.subject import Subject
from tests.whole import WholeMixture

PROMISES = (
    "one_finite_number_a_row",
    "samples_are_legal_rows",
    "samples_score_as_their_entropy",
    "same_seed_same_bits",
    "nothing_is_left_in_pyro",
)
SUBJECT = Subject(lambda: WholeMixture(2, starts=1, draws=5, max_epochs=30, random_state=0))


@pytest.fixture(autouse=True)
def _small_companion(monkeypatch):
    monkeypatch.setattr(companions, "ROWS", 600)
    monkeypatch.setattr(companions, "PARTS", ((4, 0.75), (1, 0.25)))


@pytest.mark.filterwarnings("ignore::probgen.ApproximationWarning")
@pytest.mark.parametrize("promise", PROMISES)
def test_promise(promise):
    CHECKS[promise](SUBJECT)
