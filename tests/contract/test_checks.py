"""The checks can fail: each of these families breaks one promise, and is caught."""

from __future__ import annotations

import math
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import probgen
from probgen.conditionals import Levels, Reals
from probgen.families.mixture import Mixture
from probgen.family import Family
from probgen.session import guarded
from probgen.testing import CHECKS, BrokenPromise, check_family
from probgen.testing.subject import Subject

GENERATOR = torch.Generator()


class Sound(Mixture):
    """One component, no fault."""

    def __init__(self, schema):
        super().__init__(schema, 1, "full", draws=4)


class Heavy(Sound):
    """Too much mass."""

    def exact_log_prob(self, batch, draws):
        return super().exact_log_prob(batch, draws) + 0.2


class Measured(Sound):
    """The density depends on the unit of the table."""

    def exact_log_prob(self, batch, draws):
        return super().exact_log_prob(batch, draws) + 0.01 * self.schema.columns[0].scale


class Doubtful(Sound):
    """The closed form is not the average over the draws."""

    def exact_log_prob(self, batch, draws):
        return super().exact_log_prob(batch, draws) + (0.3 if draws is None else 0.0)


class Tempered(Sound):
    """Not normalised: a power of a density."""

    def exact_log_prob(self, batch, draws):
        return 0.8 * super().exact_log_prob(batch, draws)


class Crowded(Sound):
    """Scores depend on the other rows."""

    def exact_log_prob(self, batch, draws):
        value = super().exact_log_prob(batch, draws)
        return value + 1e-6 * (value - value.mean(-1, keepdim=True))


class Narrow(Sound):
    """Samples are closer together than the density says."""

    def complete(self, batch, generator):
        return torch.where(batch.seen, batch.x, 0.5 * super().complete(batch, generator))


class Restless(Sound):
    """Draws from the global stream."""

    def finish(self, batch, generator):
        super().finish(batch, generator)
        normals = self.rows.normals
        normals.first = normals.first + torch.rand((), generator=GENERATOR)


class Forgetful(Sound):
    """Keeps something learned out of its tensors."""

    shift = 0.0

    def finish(self, batch, generator):
        super().finish(batch, generator)
        self.shift = 0.3

    def exact_log_prob(self, batch, draws):
        return super().exact_log_prob(batch, draws) + self.shift


class Overstated(Sound):
    """Claims a bound above the ELBO."""

    def update(self, batch, rate):
        return super().update(batch, rate) - 1.0


class Biased(Sound):
    """Weighs the prior anew in each minibatch."""

    def kl(self):
        return super().kl() * len(self.seen_rows)

    def update(self, batch, rate):
        self.seen_rows = batch.weight
        return super().update(batch, rate)


class Unweighted(Sound):
    """Ignores the weights of rows."""

    def update(self, batch, rate):
        batch = batch.take(slice(None))
        batch.weight = torch.ones_like(batch.weight)
        batch.total = float(len(batch))
        return super().update(batch, rate)


class Adrift(Sound):
    """A model that is not the density it states."""

    def plugin(self, draw):
        found = super().plugin(draw)
        if found.kernel is not None:
            found.kernel.mean = found.kernel.mean + 0.05 * self.training_shift
        return found

    training_shift = 1.0

    def exact_log_prob(self, batch, draws):
        self.training_shift = 0.0
        try:
            return super().exact_log_prob(batch, draws)
        finally:
            self.training_shift = 1.0


class Scaled(Sound):
    """Which rows are odd depends on the unit of the table."""

    def exact_log_prob(self, batch, draws):
        value = super().exact_log_prob(batch, draws)
        return value + 0.1 * self.schema.columns[0].scale * batch.x[:, 0].cos()


class Hasty(Sound):
    """Marginals at once that are not those one at a time."""

    def exact_log_prob_masked(self, batch, masks):
        return super().exact_log_prob_masked(batch, masks) + 0.1 * masks.sum(1, keepdim=True)


class Fickle(Sound):
    """Another density each time it is asked, so that no rank and no repair can be kept."""

    def exact_log_prob(self, batch, draws):
        value = super().exact_log_prob(batch, draws)
        return value + torch.rand(value.shape, generator=GENERATOR, dtype=value.dtype)


class Offset(Sound):
    """States cells half a standard deviation away from where they are."""

    def conditionals(self, batch):
        cells = super().conditionals(batch)
        for _, own in cells.values():
            if isinstance(own, Reals):
                own.mean = own.mean + 0.5 * own.scale
        return cells


class Backwards(Sound):
    """Names the least probable level."""

    def conditionals(self, batch):
        cells = super().conditionals(batch)
        for _, own in cells.values():
            if isinstance(own, Levels):
                own.probs = torch.where(own.probs > 0, 1 / own.probs, 0.0)
        return cells


class Deaf(Sound):
    """Fills holes without regard to the seen cells of the row."""

    def complete_at(self, batch, draw, generator):
        nothing = replace(batch, seen=torch.zeros_like(batch.seen))
        return super().complete_at(nothing, draw, generator)


BROKEN = {
    Scaled: ["p_values_do_not_depend_on_units"],
    Hasty: ["shares_add_up_to_the_surprisal"],
    Fickle: ["p_values_are_ranks_among_rows_held_apart", "a_repair_raises_the_density"],
    Heavy: ["real_like_columns_integrate_to_one", "discrete_columns_sum_to_one",
            "atoms_and_rounding_are_counted_once", "two_columns_integrate_to_one",
            "mixed_rows_have_total_mass_one", "events_and_their_opposites_add_up"],
    Measured: ["units_change_the_density_by_their_ratio"],
    Doubtful: ["closed_form_averages_the_guide"],
    Tempered: ["marginals_integrate_the_joint", "marginals_sum_over_levels_and_counts",
               "conditionals_are_joint_over_marginal", "scores_given_an_event_have_mass_one"],
    Crowded: ["rows_do_not_depend_on_one_another"],
    Offset: ["centres_are_what_they_claim"],
    Backwards: ["centres_are_what_they_claim"],
    Deaf: ["imputations_follow_the_conditional"],
    Narrow: ["mixed_rows_have_total_mass_one", "completion_follows_the_model",
             "probabilities_are_shares_of_samples"],
    Restless: ["same_seed_same_bits"],
    Forgetful: ["state_round_trip_is_exact"],
    Overstated: ["the_own_bound_is_below_the_elbo"],
    Biased: ["losses_of_minibatches_are_unbiased"],
    Unweighted: ["weights_equal_repeated_rows"],
    Adrift: ["closed_form_equals_the_pair"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "name"), [(f, n) for f, names in BROKEN.items() for n in names]
)
def test_a_broken_family_is_caught(family, name):
    with pytest.raises(BrokenPromise):
        CHECKS[name](Subject(family))


class Lines(Family):
    """Independent normals trained by gradients: a user's own small family."""

    holes = "exact"

    def __init__(self, schema):
        super().__init__(schema)
        m = len(schema.slots)
        self.loc, self.log_scale = nn.Parameter(torch.zeros(m)), nn.Parameter(torch.zeros(m))

    def model(self, batch):
        with batch.rows():
            for j in range(len(self.loc)):
                fn = dist.Normal(self.loc[j], self.log_scale[j].exp()).expand([len(batch)])
                batch.observe(f"x{j}", fn, [j])


class Stuck(Lines):
    """A parameter that nothing depends on."""

    def __init__(self, schema):
        super().__init__(schema)
        self.idle = nn.Parameter(torch.zeros(2))


@pytest.fixture(scope="module")
def real_table():
    return Subject(Sound).table("real2")


def test_a_gradient_family_of_a_user_is_checked(real_table):
    names = ["one_finite_number_a_row", "rows_do_not_depend_on_one_another",
             "gradients_reach_every_parameter", "same_seed_same_bits",
             "two_columns_integrate_to_one", "losses_of_minibatches_are_unbiased"]  # fmt: skip
    make = _density_of(Lines)
    results = check_family(make, real_table, only=[n for n in names if n != "same_seed_same_bits"])
    assert {r.status for r in results} == {"passed"}


def test_an_idle_parameter_is_found(real_table):
    [result] = check_family(
        _density_of(Stuck), real_table, only=["gradients_reach_every_parameter"], on_fail="return"
    )
    assert result.status == "failed" and "idle" in result.why


def _density_of(kind):
    class Own(probgen.Density):
        family = kind

        def _make(self, schema):
            return kind(schema)

    return lambda: Own(max_epochs=5, random_state=0)


def test_check_family_names_what_broke():
    with pytest.raises(BrokenPromise, match="discrete_columns_sum_to_one: .*total mass.*promised"):
        check_family(Heavy, only=["discrete_columns_sum_to_one"])


def test_results_are_returned_with_reasons():
    only = ["no_rows_and_one_row", "discrete_columns_sum_to_one", "same_seed_same_bits"]
    results = check_family(
        Heavy, only=only, skip={"same_seed_same_bits": "slow"}, on_fail="return"
    )
    assert [r.status for r in results] == ["passed", "failed", "skipped"]
    assert results[2].why == "slow" and all(r.promise.endswith(".") for r in results)


def test_unknown_checks_are_refused():
    with pytest.raises(probgen.SchemaError, match="unknown check"):
        check_family(Sound, only=["no_such_check"])


def test_a_class_an_instance_and_a_function_are_accepted():
    names = ["no_rows_and_one_row"]
    estimator = probgen.Independent(random_state=0, draws=5)
    for make in (estimator, lambda: estimator, probgen.Independent, Sound, lambda s: Sound(s)):
        [result] = check_family(make, only=names)
        assert result.status == "passed"
    assert not hasattr(estimator, "members_")


def test_sound_is_sound():
    """What the broken families are made from keeps all promises that apply to it."""
    results = check_family(Sound)
    assert {r.status for r in results} <= {"passed", "skipped"}


def test_guard_is_free_after_checks():
    with guarded(0):
        assert math.isfinite(float(torch.rand(())))
