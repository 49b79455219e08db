"""Events: their syntax, their probabilities against closed forms and draws, rows given them."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.stats as st

import probgen as pg
from probgen import SchemaError
from probgen.events import Event
from probgen.schema import Schema

N = 400


def quiet(model: pg.Density, table: pd.DataFrame) -> pg.Density:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(table)


def people() -> pd.DataFrame:
    g = np.random.default_rng(5)
    a = g.normal(0, 1, N)
    return pd.DataFrame({
        "a": a,
        "b": 0.8 * a + 0.6 * g.normal(0, 1, N),
        "pay": np.exp(g.normal(0.5 * a, 0.7)),
        "age": g.poisson(np.where(a > 0, 40, 25)),
        "wage": np.rint(np.exp(g.normal(9, 0.8, N))).astype(int),
        "job": g.choice(["cook", "nurse", "smith"], N, p=[0.5, 0.3, 0.2]),
        "size": pd.Categorical(g.choice(["low", "mid", "high"], N), ["low", "mid", "high"],
                               ordered=True),
        "flag": g.random(N) < 0.3,
        "rain": np.where(g.random(N) < 0.4, 0.0, g.normal(2, 1, N)),
        "length": (10 + 2 * a + g.normal(0, 1, N)).round(1),
        "two words": g.beta(2, 3, N),
        "when": pd.Timestamp("2020-01-01", tz="Europe/Zurich")
        + pd.to_timedelta(g.integers(0, 10**14, N), unit="us"),
    })  # fmt: skip


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return people()


@pytest.fixture(scope="module")
def model(table) -> pg.Density:
    kinds = {"two words": "unit"}
    return quiet(pg.GaussianMixture(3, starts=1, draws=5, columns=kinds, random_state=0), table)


@pytest.fixture(scope="module")
def flexible(table) -> pg.Density:
    return quiet(pg.Independent(draws=5, random_state=0), table[["a", "age", "job", "rain"]])


@pytest.fixture(scope="module")
def drawn(model) -> pd.DataFrame:
    return model.sample(40_000, random_state=11)


# --- syntax -----------------------------------------------------------------------------------

QUERIES = [
    "a > 0", "0 < a <= 1 & age > 30", "b > a", "age + 10 * a < 30", "job == 'cook' | flag",
    "~flag and job in ['cook', 'nurse']", "size > 'low'", "size <= 'mid'", "'mid' < size",
    "not (a > 1 or age % 2 == 0)", "job != ['cook']", "1 > a", "flag == True", "~(a > 1)",
    "-a > .5", "a ** 2 > 1", "job not in ('cook', 'smith') & -1 < a < 1", "(a > 0) == False",
    "age in [20, 30, 40]", "1_0 < age", "a / pay > 1", "`two words` > 0.5", "rain == 0",
    "rain > 0 & a > 0 | flag", "a > 1 & b > 1 | a < -1 & b < -1", "not a > 0 & b > 0",
    "job == \"cook\" and a < 0 or flag != False", "length == 10.0",
]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_events_are_those_of_dataframe_query(query, table):
    event = Event(query, Schema.infer(table))
    wanted = table.drop(columns="when").eval(query)
    assert (event.evaluate(table) == wanted.to_numpy()).all()
    together = np.logical_and.reduce([part.evaluate(table) for part in event.conjuncts])
    assert (together == wanted.to_numpy()).all()


def test_dates_are_read_in_the_zone_of_their_column(table):
    schema = Schema.infer(table)
    wanted = table["when"] > pd.Timestamp("2021-06-01 12:00", tz="Europe/Zurich")
    for text in ("2021-06-01 12:00", "2021-06-01T10:00Z", "2021-06-01 06:00-04:00"):
        assert (Event(f"when > '{text}'", schema).evaluate(table) == wanted).all()
    plain = table.assign(when=table["when"].dt.tz_localize(None))
    wanted = plain["when"].between("2020-03-01", "2021-01-01")
    found = Event("'2020-03-01' <= when <= '2021-01-01'", Schema.infer(plain))
    assert (found.evaluate(plain) == wanted).all()
    assert (Event("when == when", schema).evaluate(table)).all()


def test_a_hole_is_unknown(table):
    holed = table.assign(a=table["a"].where(table["a"] < 0), job=table["job"].mask(table["flag"]))
    schema = Schema.infer(table)
    seen = holed["a"].notna().to_numpy()

    def evaluate(text):
        return Event(text, schema).evaluate(holed)

    assert not evaluate("a > 0 or not a > 0")[~seen].any()
    assert not (evaluate("a != 1") & ~seen).any() and evaluate("a != 1")[seen].all()
    assert evaluate("a > 9 or age >= 0").all()  # decided by what is seen
    assert not evaluate("job != 'cook'")[holed["job"].isna()].any()
    assert not Event("a > 9", schema).evaluate(holed[["b"]]).any()


def test_foreign_levels(table):
    schema, rows = Schema.infer(table), table.head(3).assign(job="diver")
    with pytest.raises(SchemaError, match="diver"):
        Event("job != 'cook'", schema).evaluate(rows)
    assert Event("job != 'cook'", schema).evaluate(rows, unseen="rare").all()
    assert not Event("job == 'cook'", schema).evaluate(rows, unseen="rare").any()
    assert not Event("job != 'cook'", schema).evaluate(rows, unseen="missing").any()


def test_whole_number_names_stand_in_backticks():
    frame = pd.DataFrame({0: [1.5, 2.5, 4.25], 1: [3.0, 0.5, 7.5]})
    assert Event("`0` > `1`", Schema.infer(frame)).evaluate(frame).tolist() == [False, True, False]


def test_ordered_numbers_and_equal_levels():
    g = np.random.default_rng(0)
    frame = pd.DataFrame({
        "half": g.choice([0.5, 1.25, np.pi], 90), "u": g.choice(list("xyz"), 90),
        "v": g.choice(list("wxy"), 90),
    })  # fmt: skip
    schema = Schema.infer(frame)
    assert schema["half"].kind == "ordered"
    for text in ("half > 1", "half * 2 < 3", "u == v", "u != v", "half == 1.25"):
        assert (Event(text, schema).evaluate(frame) == frame.eval(text)).all(), text
    with pytest.raises(SchemaError, match="1.5.*one of"):
        Event("half == 1.5", schema)


# --- probabilities ------------------------------------------------------------------------------


def test_a_normal_in_closed_form():
    """One component, one column: a Student's t, found by its quantiles, to 1e-9 relative."""
    values = np.random.default_rng(3).normal(10, 3, 300)
    frame = pd.DataFrame({"x": values})
    model = quiet(pg.GaussianMixture(1, draws=0, random_state=0), frame)
    t = _student(model)
    for c in (-200.0, -10.0, 4.0, 10.0, 13.3, 31.0, 1e4):
        below, above = model.prob(f"x < {c}"), model.prob(f"x >= {c}")
        assert float(below) == pytest.approx(t.cdf(c), rel=1e-7), c
        assert float(above) == pytest.approx(t.sf(c), rel=1e-7), c
        assert abs(float(below) + float(above) - 1) < 1e-7
        assert below.method == "quadrature" and np.isinf(below.ess)
    both = model.prob("4 < x < 13.3 or x > 31")
    assert float(both) == pytest.approx(t.cdf(13.3) - t.cdf(4) + t.sf(31), rel=1e-7)
    assert float(model.prob("x ** 2 < 100")) == pytest.approx(t.cdf(10) - t.cdf(-10), rel=1e-7)
    assert float(model.prob("x > 13", given="x > 10")) == pytest.approx(
        t.sf(13) / t.sf(10), rel=1e-7
    )  # fmt: skip
    assert float(model.prob("x == 5")) == 0


def _student(model: pg.Density) -> st.rv_continuous:
    """The predictive of one real column, by its density at three places."""
    from scipy.optimize import least_squares

    at = np.array([-30.0, 0.0, 7.0, 10.0, 13.0, 40.0, 90.0])
    wanted = model.log_prob(pd.DataFrame({"x": at})).to_numpy()

    def gap(theta):
        return st.t.logpdf(at, np.exp(theta[0]), theta[1], np.exp(theta[2])) - wanted

    found = least_squares(gap, [np.log(300), 10, np.log(3)], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert np.abs(found.fun).max() < 1e-9
    return st.t(np.exp(found.x[0]), found.x[1], np.exp(found.x[2]))


def test_levels_are_sums_of_scores(model):
    scores = np.exp(model.log_prob(pd.DataFrame({"job": ["cook", "nurse", "smith"]})))
    assert float(model.prob("job == 'cook'")) == pytest.approx(scores[0], rel=1e-12)
    assert float(model.prob("job in ['cook', 'smith']")) == pytest.approx(scores[0] + scores[2])
    # the rare level satisfies != and nothing else
    assert float(model.prob("job != 'cook'")) == pytest.approx(1 - scores[0], rel=1e-12)
    assert model.prob("job == 'cook'").method == "exact"
    counts = np.exp(model.log_prob(pd.DataFrame({"age": np.arange(31)})))
    assert float(model.prob("age <= 30")) == pytest.approx(counts.sum(), rel=1e-12)
    assert float(model.prob("age > 30")) == pytest.approx(1 - counts.sum(), rel=1e-9)
    assert float(model.prob("age % 2 == 0 and age < 31")) == pytest.approx(counts[::2].sum())


EVENTS = [
    "a > 0.5", "a > 0.5 and job != 'nurse'", "a > 0.5 or job == 'nurse'", "pay > 2", "age >= 33",
    "wage > 10_000", "wage > 10_000 and job == 'cook'", "rain == 0", "rain > 0", "rain >= 0",
    "rain <= 0 and flag", "length < 10", "length <= 10", "length == 10", "size > 'low'",
    "`two words` > 0.5 and size == 'mid'", "when < '2021-01-01'", "a + 0.1 * age > 3",
    "not (a > 0.5 and flag)", "a ** 2 > 1", "age in [20, 30, 40]", "a > 0 and b > 0", "a > b",
    "length > 9.9 and age < 30", "a > 0 and flag or a < 0 and not flag", "1 < 2",
]  # fmt: skip


@pytest.mark.parametrize("event", EVENTS)
def test_probabilities_are_shares_of_samples(event, model, drawn):
    found = model.prob(event)
    assert found.method in ("exact", "quadrature") and found.se < 1e-5
    share = Event(event, model.schema_).evaluate(drawn).mean()
    # samples hold no rare level: its mass is 1e-3 a column here
    se = np.sqrt(max(share * (1 - share), 1e-4) / len(drawn))
    assert abs(float(found) - share) < 4 * se + 2e-3, (found, share)
    opposite = model.prob(f"not ({event})")
    assert abs(float(found) + float(opposite) - 1) < 1e-6 + found.se + opposite.se


CONDITIONS = [
    ("a > 0.5", "b > 1"), ("a > 0.5", "age < 25"), ("flag", "rain == 0"),
    ("wage > 10_000 and job != 'nurse'", "age < 30"), ("job == 'cook'", "a > 1 or flag"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "given"), CONDITIONS)
def test_given_an_event(event, given, model, drawn):
    found = model.prob(event, given=given)
    rows = drawn[Event(given, model.schema_).evaluate(drawn)]
    share = Event(event, model.schema_).evaluate(rows).mean()
    assert found.method == "quadrature"
    assert abs(float(found) - share) < 4 * np.sqrt(share * (1 - share) / len(rows)) + 2e-3


def test_given_values_row_by_row(model, table):
    rows = table[["b", "job", "age"]].head(60).copy()
    rows.index = [f"r{i // 2}" for i in range(60)]
    rows.loc[rows.index[:6], "b"] = np.nan
    found = model.prob("a > 0.5 and flag", given=rows)
    assert list(found) == ["value", "se", "method", "ess"] and found.index.equals(rows.index)
    for i in (0, 7, 31):
        cells = {k: v for k, v in rows.iloc[i].items() if pd.notna(v)}
        one = model.prob("a > 0.5 and flag", given=cells)
        assert float(one) == pytest.approx(found["value"].iloc[i], rel=1e-9)
    # by Bayes, from scores alone
    flags = pd.DataFrame({"flag": [True] * 60}, index=rows.index)
    with_flag = np.exp(model.log_prob(flags, given=rows))
    assert (found["value"] < with_flag + 1e-9).all()


def test_columns_of_the_event_may_be_given(model, table):
    rows = table[["b"]].head(40)
    found = model.prob("a > b", given=rows)["value"]
    for i in (0, 5, 39):
        one = model.prob(f"a > {float(rows['b'].iloc[i])!r}", given={"b": rows["b"].iloc[i]})
        assert float(one) == pytest.approx(found.iloc[i], rel=1e-6)
    sure = model.prob("b > 0", given=rows)
    assert (sure["value"] == (rows["b"] > 0)).all() and (sure["se"] == 0).all()


def test_narrow_conditionals_are_found():
    """Given its twin a column is a peak of width 1e-4: no node of a plain grid meets it."""
    g = np.random.default_rng(2)
    a = g.normal(0, 1, 300)
    frame = pd.DataFrame({"a": a, "twin": a + 1e-5 * g.normal(0, 1, 300)})
    model = quiet(pg.GaussianMixture(1, dof=3.0, spread=1e-9, draws=0, random_state=0), frame)
    at = frame["twin"].head(50)
    found = model.prob("a > twin", given=frame[["twin"]].head(50))
    assert (found["se"] < 1e-5).all()
    drawn = model.sample(400, given=frame[["twin"]].head(50), random_state=0)["a"].to_numpy()
    share = (drawn.reshape(50, 400) > at.to_numpy()[:, None]).mean(1)
    gap = (found["value"] - share) / np.sqrt(0.25 / 400)
    assert np.abs(gap).max() < 4.5


def test_rare_events_keep_their_digits(flexible):
    tail = flexible.prob("age > 90")
    exact = np.exp(flexible.log_prob(pd.DataFrame({"age": np.arange(91, 4000)}))).sum()
    assert float(tail) == pytest.approx(exact, rel=1e-5) and 0 < float(tail) < 1e-4
    assert float(flexible.prob("a > 6 and age > 90")) == pytest.approx(
        float(flexible.prob("a > 6")) * float(tail), rel=1e-4
    )  # fmt: skip


def test_three_real_columns_are_drawn(model, drawn):
    event = "a > 0 and b > 0 and pay > 1 and job == 'cook'"
    found = model.prob(event, random_state=0)
    share = Event(event, model.schema_).evaluate(drawn).mean()
    assert found.method == "monte carlo" and 2000 <= found.ess <= 100_000
    assert found.se <= 0.002 and found.se <= 0.05 * float(found)
    both = np.hypot(found.se, np.sqrt(share * (1 - share) / len(drawn)))
    assert abs(float(found) - share) < 4 * both + 2e-3
    assert model.prob(event, random_state=0) == found
    short = model.prob(event, samples=500, random_state=0)
    assert short.ess == 500 and short.se > 0.002
    given = model.prob(event, given="a > 0 and b > 0 and pay > 1", random_state=0)
    below = model.prob("a > 0 and b > 0 and pay > 1", random_state=1)
    ratio = float(found) / float(below)
    assert abs(float(given) - ratio) < 4 * (given.se + found.se / float(below)) + 5e-3


def test_monte_carlo_errors_are_calibrated(model):
    event = "a > 0.3 and b > 0 and pay > 1 and flag"
    found = [model.prob(event, samples=1000, random_state=s) for s in range(60)]
    values = np.array([float(p) for p in found])
    ratio = values.std(ddof=1) / np.mean([p.se for p in found])
    assert 0.7 < ratio < 1.35  # a chi of 59 degrees of freedom, four standard deviations


def test_an_answer_is_a_number_and_says_how():
    p = pg.Independent(draws=0, random_state=0).fit(people()[["a"]]).prob("a > 0")
    assert repr(p).startswith("<0.") and "(quadrature)" in repr(p)
    with pytest.raises(AttributeError):
        p.value = 1.0


def test_speed(model, table):
    model.prob("a > 0.5")
    clock = time.perf_counter()
    for _ in range(5):
        model.prob("a > 0.5 and job == 'cook'")
    assert (time.perf_counter() - clock) / 5 < 0.2  # milliseconds on an idle machine


# --- rows given events ------------------------------------------------------------------------


def test_a_rare_event_is_drawn_exactly():
    values = np.random.default_rng(3).normal(10, 3, 300)
    model = quiet(pg.GaussianMixture(1, draws=0, random_state=0), pd.DataFrame({"x": values}))
    t = _student(model)
    low = t.isf(1e-12)
    rows = model.sample(2000, given=f"x > {float(low)!r}", random_state=0)["x"]
    assert len(rows) == 2000 and (rows > low).all()
    share = t.sf(rows.to_numpy()) / t.sf(low)
    assert st.kstest(share, "uniform").pvalue > 1e-3
    two = model.sample(3000, given="x < 2 or 11 < x < 12", random_state=1)["x"].to_numpy()
    inside = t.cdf(12) - t.cdf(11)
    place = np.where(two < 2, t.cdf(two), t.cdf(2) + t.cdf(two) - t.cdf(11))
    assert st.kstest(place / (t.cdf(2) + inside), "uniform").pvalue > 1e-3


SAMPLED = [
    "a > 1", "a > 1 and job == 'nurse'", "age < 15", "age > 60 and size > 'low'", "rain == 0",
    "rain >= 0 and not flag", "length == 10", "wage > 40_000", "a > b", "pay > 3 and b < 0",
    "when > '2022-06-01' and job in ['cook', 'smith']", "a > 1 or b > 1",
    "`two words` < 0.1 & age in [20, 30, 40]", "a > 0 and b > 0 and pay > 1", "1 < 2",
]  # fmt: skip


@pytest.mark.parametrize("event", SAMPLED)
def test_sampled_rows_satisfy_the_event(event, model, table, drawn):
    rows = model.sample(700, given=event, random_state=2)
    assert len(rows) == 700 and rows.index.equals(pd.RangeIndex(700))
    parsed = Event(event, model.schema_)
    assert parsed.evaluate(rows).all()
    assert (rows.dtypes == table.dtypes).all()
    # the same distribution as draws that happen to satisfy the event
    plain = drawn[parsed.evaluate(drawn)]
    if len(plain) > 200:
        for name in ("a", "b", "pay", "age", "wage", "rain", "length"):
            assert st.ks_2samp(rows[name], plain[name]).pvalue > 1e-4, name
        for name in ("job", "size", "flag"):
            counts = pd.concat([rows[name].value_counts(), plain[name].value_counts()], axis=1)
            if len(counts := counts.fillna(0)) > 1 and (counts.sum(axis=1) > 10).all():
                assert st.chi2_contingency(counts.to_numpy()).pvalue > 1e-4, name


def test_sampling_is_seeded_and_takes_none(model):
    one, two = (model.sample(50, given="a > 1 and wage > 20_000", random_state=4) for _ in "ab")
    pd.testing.assert_frame_equal(one, two)
    assert len(model.sample(0, given="a > 1")) == 0


def test_what_cannot_be_drawn_is_an_error_in_bounded_time(model):
    clock = time.perf_counter()
    with pytest.raises(SchemaError, match="probability 0"):
        model.sample(3, given="pay < 0")
    with pytest.raises(SchemaError, match=r"of 30 rows after .* has a probability of (about|at)"):
        model.sample(30, given="a > 9 and b < -9 and 0.99 < pay < 0.99001", random_state=0)
    assert time.perf_counter() - clock < 60


def test_scores_given_an_event(model, table):
    rows = table[["a", "job"]].head(80)
    found = model.log_prob(rows, given="a > 0 and job != 'nurse'", details=True)
    inside = ((rows["a"] > 0) & (rows["job"] != "nurse")).to_numpy()
    p = float(model.prob("a > 0 and job != 'nurse'"))
    wanted = np.where(inside, model.log_prob(rows) - np.log(p), -np.inf)
    assert np.allclose(found["log_prob"], wanted, atol=1e-9)
    assert (found["se"] < 1e-6).all() and (found["method"] == "quadrature").all()
    # by Bayes where the event is about other columns
    other = model.log_prob(rows, given="b > 1 and age < 30")
    each = model.prob("b > 1 and age < 30", given=rows)["value"]
    whole = float(model.prob("b > 1 and age < 30"))
    assert np.allclose(other, model.log_prob(rows) + np.log(each) - np.log(whole), atol=1e-9)
    # half of the event in the table, half of it not, and holes
    holed = rows.assign(a=rows["a"].where(rows["a"] > -0.5))
    mixed = model.log_prob(holed, given="a > 0 and age < 30")
    assert (np.isneginf(mixed) == (holed["a"] <= 0)).all()


def test_scores_given_an_event_have_mass_one(model):
    grid = np.linspace(-8, 8, 8001)
    density = np.exp(model.log_prob(pd.DataFrame({"a": grid}), given="b > 0.5 and flag"))
    assert abs(np.trapezoid(density, grid) - 1) < 1e-3
    jobs = pd.DataFrame({"job": ["cook", "nurse", "smith", "diver"]})
    masses = np.exp(model.log_prob(jobs, given="a > 1 or age < 20", unseen="rare"))
    assert masses.sum() == pytest.approx(1, abs=1e-6)


def test_a_constant_column_is_known():
    frame = people()[["a", "job"]].assign(fixed=7.5, word="same")
    model = quiet(pg.Independent(draws=0, random_state=0), frame)
    assert float(model.prob("fixed > 7 and word == 'same'")) == 1
    assert float(model.prob("a > 0 and fixed < 7")) == 0
    assert float(model.prob("a > fixed - 7.5")) == pytest.approx(float(model.prob("a > 0")))
    assert (model.sample(5, given="fixed == 7.5 and a > 2")["a"] > 2).all()
