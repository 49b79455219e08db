"""Events on every kind of column, at its ends, grid points and atoms, against draws."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import probgen as pg
from probgen.events import Event

N = 500


def kinds() -> pd.DataFrame:
    g = np.random.default_rng(1)
    z = g.normal(size=N)
    return pd.DataFrame({
        "adult": np.clip(np.rint(40 + 8 * z), 18, 65).astype(int),
        "scale": (3 + 4 * g.beta(2, 2, N)).round(1),
        "price": np.exp(1 + z).round(1).clip(0.1),
        "span": pd.to_timedelta(np.rint(1e5 * np.exp(0.3 * g.normal(size=N))), unit="s"),
        "temp": np.rint(10 * z).astype(int),
        "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(g.integers(0, 900, N), unit="D"),
        "code": pd.Categorical(g.choice([5, 1, 3], N), [5, 1, 3]),
    })  # fmt: skip


@pytest.fixture(scope="module")
def model() -> pg.Density:
    columns = {
        "adult": {"kind": "count", "lower": 18, "upper": 65},
        "scale": {"kind": "bounded", "lower": 3, "upper": 7},
        "price": "positive",
    }
    made = pg.GaussianMixture(3, starts=1, columns=columns, draws=0, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return made.fit(kinds())


@pytest.fixture(scope="module")
def drawn(model) -> pd.DataFrame:
    return model.sample(60_000, random_state=2)


#: pairs of events that differ by one cell of a grid, and others at the ends of a support
EVENTS = [
    "adult < 30", "adult >= 65", "adult == 18", "scale <= 3.05", "scale < 5", "scale <= 5",
    "scale == 7", "scale < 5 and adult > 40", "price <= 0.1", "price < 2.0", "price <= 2.0",
    "price == 2.0", "price * 2 > 5", "span > '1 days'", "span <= '30h'", "temp < 0", "temp <= 0",
    "temp == 0", "-5 <= temp <= 5 and code == 5", "code != 1", "code in [1, 3] and temp > 3",
    "day < '2021-01-01'", "day <= '2021-01-01'", "day == '2020-05-05'", "temp > adult - 40",
    "'2020-05-05' <= day <= '2020-05-06'",
]  # fmt: skip


@pytest.mark.parametrize("text", EVENTS)
def test_events_agree_with_draws_of_every_kind(text, model, drawn):
    found, event = model.prob(text, random_state=0), Event(text, model.schema_)
    share = event.evaluate(drawn).mean()
    rare = 1e-3 if "code" in text else 0.0  # samples hold no rare level
    se = np.sqrt(max(share * (1 - share), 1e-5) / len(drawn))
    assert abs(float(found) - share) < 4 * np.hypot(se, found.se) + rare
    assert event.evaluate(model.sample(200, given=text, random_state=0)).all()


@pytest.mark.parametrize(
    ("less", "more", "cell"),
    [("scale < 5", "scale <= 5", "scale == 5"), ("temp < 0", "temp <= 0", "temp == 0"),
     ("price < 2", "price <= 2", "price == 2"), ("adult < 30", "adult <= 30", "adult == 30"),
     ("day < '2021-01-01'", "day <= '2021-01-01'", "day == '2021-01-01'")],
)  # fmt: skip
def test_strict_and_weak_bounds_differ_by_one_cell(less, more, cell, model):
    gap = float(model.prob(more)) - float(model.prob(less))
    assert float(model.prob(cell)) == pytest.approx(gap, abs=1e-8) and gap > 1e-5


def test_what_lies_outside_the_support_is_certain(model):
    for text in ("adult >= 18", "adult < 66", "scale >= 3", "scale < 7.5", "price > 0"):
        assert float(model.prob(text)) == pytest.approx(1, abs=1e-8), text
        assert float(model.prob(f"not ({text})")) == 0, text
    assert float(model.prob("adult > 65")) == float(model.prob("price < 0.1")) == 0


def test_an_event_that_no_draw_meets_has_an_error():
    """Draws are averaged over levels: a mean of zeros alone is no proof of 0."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({name: rng.normal(size=200) for name in "abc"})
    table["level"] = rng.choice(["u", "v"], 200)
    model = pg.StudentT(random_state=0).fit(table)
    event = "a + b + c > 60 and level == 'u'"
    found = model.prob(event, random_state=0, samples=4000)
    assert found.method == "monte carlo" and found.ess == 4000
    assert found.value == 0.0 and 1e-5 < found.se < 1e-3
