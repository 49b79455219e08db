"""What a newcomer tries in the first hour, right and wrong: answers or words that help."""

import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest

import probgen as pg
from probgen.errors import DataWarning, SchemaError


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
    y, b = 2 * x + rng.normal(size=200), rng.random(200) < chance
    table = pd.DataFrame({"x": x, "y": y, "b": b})
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


@pytest.fixture(scope="module")
def people():
    """A fitted mixture and its table: a category, a date, a boolean, numbers."""
    rng = np.random.default_rng(1)
    n = 120
    table = pd.DataFrame({
        "job": rng.choice(["nurse", "cook", "smith"], n),
        "age": rng.normal(40, 9, n).round(1),
        "joined": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), unit="D"),
        "owner": rng.random(n) < 0.5,
    })  # fmt: skip
    return pg.GaussianMixture(2, random_state=0, draws=0).fit(table), table


class TestWrongInputIsNamed:
    @pytest.mark.parametrize("given", [["job"], 3, pd.Series([1.0], name="age")])
    def test_given_that_is_neither_values_nor_event(self, people, given):
        model, table = people
        with pytest.raises(SchemaError, match="as given; needed a dict, a data frame"):
            model.log_prob(table[["age"]], given=given)

    def test_a_level_misspelt_names_the_one_that_was_meant_first(self, people):
        with pytest.raises(SchemaError, match=r"'nurze'.*3 fitted levels, \['nurse', "):
            people[0].log_prob(pd.DataFrame({"job": ["nurze"]}))

    def test_a_column_misspelt_names_the_one_that_was_meant_first(self, people):
        with pytest.raises(SchemaError, match=r"'agee'.*needed columns among \['age', "):
            people[0].log_prob(pd.DataFrame({"agee": [3.0]}))

    def test_a_column_as_given_of_an_expectation(self, people):
        with pytest.raises(SchemaError, match=r"pass given=\['job'\]"):
            people[0].entropy("age", given="job")
        assert people[0].entropy("age", given="owner", samples=50).value > 0  # an event

    def test_one_column_is_a_list_of_one(self, people):
        assert people[0].dependence("age", samples=10).shape == (1, 1)

    @pytest.mark.parametrize("role", ["model", "guide"])
    def test_a_pair_that_is_no_function(self, people, role):
        programs = {"model": line} | {role: "normal"}
        with pytest.raises(SchemaError, match=f"{role}='normal'; needed a Pyro function"):
            pg.Pair(**programs).fit(people[1][["age"]])


class TestDatesInADict:
    def test_a_text_is_the_date(self, people):
        model, table = people
        text, stamp = ({"joined": v} for v in ("2021-05-01", pd.Timestamp("2021-05-01")))
        ages = table[["age"]].head(3)
        pd.testing.assert_series_equal(model.log_prob(ages, text), model.log_prob(ages, stamp))
        assert model.sample(2, text)["joined"].eq(stamp["joined"]).all()
        assert float(model.prob("age > 40", text)) == float(model.prob("age > 40", stamp))

    @pytest.mark.parametrize("text", ["01/05/2021", "2021-13-01", "yesterday"])
    def test_a_text_that_is_none_is_refused(self, people, text):
        with pytest.raises(SchemaError, match="year first"):
            people[0].sample(1, {"joined": text})


class TestWarnings:
    def test_they_show_the_line_of_the_caller(self, people):
        table = people[1]
        with pytest.warns(DataWarning) as early:
            model = pg.Independent(draws=0).fit(table.assign(unit="kg", count=1 + table.index))
        odd = table.head(2).assign(unit="kg", count=-1)
        with pytest.warns(DataWarning) as late:
            for ask in (model.log_prob, model.surprisal, model.explain, model.outliers):
                ask(odd)
        assert len(early) == 2
        assert {w.filename for w in [*early, *late]} == {__file__}

    def test_a_detector_that_can_flag_nothing_says_so(self):
        table = np.random.default_rng(0).normal(size=(50, 2))
        with pytest.warns(DataWarning, match=r"10 rows held apart.*needed 99 rows"):
            pg.OutlierDetector(fdr=0.01, calibration=0.2).fit(table)

    def test_rounding_is_no_copy_of_rows(self):
        table = pd.DataFrame({"y": np.random.default_rng(0).normal(10, 3, 300).round()})
        table -= 100.5

        def bell(batch):
            mu = pyro.sample("mu", dist.Normal(-90.0, 10.0))
            with batch.rows():
                pyro.sample("y", dist.Normal(mu, 3.0), obs=batch["y"])

        with warnings.catch_warnings():
            warnings.simplefilter("error", DataWarning)
            pg.Pair(bell, random_state=0).fit(table)

    @pytest.mark.parametrize("copies", [0, 5])
    def test_row_numbers_are_noticed_in_a_table_with_copies(self, copies):
        table = pd.DataFrame({"id": np.arange(100, 160), "x": np.linspace(0, 1, 60) ** 2})
        with pytest.warns(DataWarning, match="'id'.*row number"):
            pg.Schema.infer(pd.concat([table, table.head(copies)]))

    def test_texts_that_hardly_repeat_and_dates_as_text(self):
        order = [f"order {i}" for i in range(60)]
        day = pd.date_range("2020-01-01", periods=60).strftime("%Y-%m-%d")
        table = pd.DataFrame({"order": order, "day": day})
        with pytest.warns(DataWarning) as caught:
            pg.Schema.infer(pd.concat([table, table.head(4)]))
        said = [str(w.message) for w in caught]
        assert len(said) == 2
        assert "60 different texts in 64 rows of column 'order'" in said[0]
        assert "to_datetime(table['day'])" in said[1]


def test_the_plots_of_a_model_are_listed(people):
    assert repr(people[0].plot) == (
        "<plots of GaussianMixture: loss, marginals, pairs, density, components, latent, latents, "
        "warp, network, pit, khat, surprisal, p_values, waterfall>"
    )


def test_plots_of_a_model_with_context_draw_rows_in_context(conditioned):
    import matplotlib.pyplot as plt

    model, table = conditioned
    ax = model.plot.waterfall(table.head(1))
    assert [label.get_text() for label in ax.get_yticklabels()]
    assert model.plot.surprisal(table, samples=50).patches
    plt.close("all")
