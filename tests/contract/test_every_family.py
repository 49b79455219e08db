"""Each promise of the contract, on each estimator of the registry."""

import pytest

from probgen.testing import CHECKS, NotApplicable
from tests.registry import REGISTRY, subject

#: checks that ask for thousands of hidden cells: slow where a companion proposes them
ASK_MUCH = {
    "probabilities_are_shares_of_samples", "scores_given_an_event_have_mass_one",
    "samples_given_an_event_satisfy_it", "events_and_their_opposites_add_up",
    "imputations_follow_the_conditional", "centres_are_what_they_claim",
    "shares_add_up_to_the_surprisal", "a_repair_raises_the_density",
    "p_values_do_not_depend_on_units", "p_values_are_ranks_among_rows_held_apart",
    "rows_do_not_depend_on_one_another", "imputed_values_are_legal",
    "seen_cells_survive_imputation",
}  # fmt: skip


def _cases():
    for promise in CHECKS:
        for name in REGISTRY:
            slow = name.startswith("flow") and promise in ASK_MUCH
            yield pytest.param(promise, name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("promise", "name"), _cases())
def test_promise(promise, name):
    # NotApplicable alone skips: a family that refuses a question with NotSupported fails
    try:
        CHECKS[promise](subject(name))
    except NotApplicable as why:
        pytest.skip(str(why))
