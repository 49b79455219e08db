"""What a newcomer tries in the first hour, right and wrong: answers or words that help."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest

import probgen as pg
from probgen.errors import SchemaError


def line(batch):
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    c = pyro.sample("c", dist.Normal(0.0, 3.0))
    with batch.rows():
        pyro.sample("y", dist.Normal(a * batch["x"], 1.0), obs=batch["y"])
        pyro.sample("b", dist.Bernoulli(logits=c * batch["x"]), obs=batch["b"])


@pytest.fixture(scope="module")
def conditioned():
    """A pair that conditions on x, and its table."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    chance = 1 / (1 + np.exp(-3 * x))
    table = pd.DataFrame({"x": x, "y": 2 * x + rng.normal(size=200), "b": rng.random(200) < chance})
    return pg.Pair(line, random_state=0).fit(table, given=["x"]), table


class TestModelsWithContext:
    @pytest.mark.parametrize("given", [None, "b", {"b": True}, {"x": np.nan}])
    def test_no_probability_without_a_value_of_the_context(self, conditioned, given):
        with pytest.raises(SchemaError, match=r"context column.*'x'.*; do: "):
            conditioned[0].prob("y > 1", given=given)

    @pytest.mark.parametrize("given", [None, "y > 1"])
    def test_no_rows_without_a_value_of_the_context(self, conditioned, given):
        with pytest.raises(SchemaError, match=r"^found no values of .*'x'.*'x': \.\.\.}$"):
            conditioned[0].sample(2, given=given)

    def test_rows_given_an_event_are_scored_in_their_own_context(self, conditioned):
        model, table = conditioned
        few = table.head(4)
        both = model.prob("y > 1 and b", given=few[["x"]])["value"]
        share = both / model.prob("y > 1", given=few[["x"]])["value"]
        expected = np.log(np.where(few["b"], share, 1 - share))
        found = model.log_prob(few[["x", "b"]], given="y > 1")
        np.testing.assert_allclose(found, expected, atol=1e-6)
