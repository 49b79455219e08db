"""Entropy and mutual information against closed forms, sums and identities."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

import probgen as pg
from probgen.answers import Answer
from probgen.datasets import penguins
from probgen.queries import Companion
from tests.whole import WholeMixture

RHO = 0.8


def normal(n: int = 4000) -> pd.DataFrame:
    """x and y correlate at RHO; z is alone; the level depends on x."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    y = RHO * x + math.sqrt(1 - RHO**2) * rng.normal(size=n)
    level = np.where(x + rng.normal(size=n) > 0, "high", "low")
    return pd.DataFrame({"x": x, "y": 40 * y, "z": rng.normal(size=n), "level": level})


@pytest.fixture(scope="module")
def one():
    return pg.GaussianMixture(1, random_state=0, draws=0).fit(normal().drop(columns="level"))


@pytest.fixture(scope="module")
def birds():
    return pg.GaussianMixture(5, random_state=0, draws=0).fit(penguins())


def test_normal_columns_have_their_closed_forms(one):
    r = np.corrcoef(normal()["x"], normal()["y"])[0, 1]
    found = one.mutual_information("x", "y", samples=20_000)
    assert isinstance(found, Answer) and found.method == "monte carlo" and found.ess == 20_000
    assert abs(found.value + 0.5 * math.log(1 - r**2)) < 4 * found.se + 0.01
    alone = one.mutual_information("z", ["x", "y"], samples=20_000)
    assert abs(alone.value) < 4 * alone.se + 0.002
    spread = normal()["y"].std()
    entropy = one.entropy("y", samples=20_000)
    assert abs(entropy.value - math.log(spread * math.sqrt(2 * math.pi * math.e))) < (
        4 * entropy.se + 0.01
    )


def test_levels_are_summed_over(birds):
    names = ["species", "sex"]
    table = penguins()
    levels = [sorted(table[name].dropna().unique()) for name in names]
    cells = pd.MultiIndex.from_product(levels, names=names).to_frame(index=False)
    p = np.exp(birds.log_prob(cells)).to_numpy().reshape(3, 2)
    rest = 1 - p.sum()
    assert 0 < rest < 0.01  # the reserved levels
    found = birds.mutual_information("species", "sex")
    assert found.method == "exact" and found.se == 0
    p = p / p.sum()
    wanted = (p * np.log(p / p.sum(0) / p.sum(1)[:, None])).sum()
    assert abs(found.value - wanted) < 3 * rest
    own = birds.entropy("species")
    assert own.method == "exact" and 0.9 < own.value < math.log(4)
    held = birds.mutual_information("species", "island", given={"sex": "male"})
    assert held.method == "exact" and held.value > 0.3


def test_the_chain_rule_holds(birds):
    """H(a, b) = H(a) + H(b | a), and I(a; b) = H(b) - H(b | a): on the same rows, exactly."""
    a, b = ["species", "bill_length_mm"], ["body_mass_g"]
    how = {"samples": 1000, "random_state": 3}
    joint, first, rest = (
        birds.entropy(a + b, **how), birds.entropy(a, **how), birds.entropy(b, given=a, **how)
    )  # fmt: skip
    assert joint.value == pytest.approx(first.value + rest.value, abs=1e-9)
    both = birds.mutual_information(a, b, **how)
    assert both.value == pytest.approx(birds.entropy(b, **how).value - rest.value, abs=1e-9)
    swapped = birds.mutual_information(b, a, **how)
    assert swapped.value == pytest.approx(both.value, abs=1e-9)


def test_conditioning_explains_dependence_away():
    rng = np.random.default_rng(1)
    cause = rng.choice(["p", "q"], 3000)
    shift = np.where(cause == "p", 4.0, -4.0)
    table = pd.DataFrame(
        {"cause": cause, "a": shift + rng.normal(size=3000), "b": shift + rng.normal(size=3000)}
    )
    model = pg.GaussianMixture(2, covariance="diag", random_state=0, draws=0).fit(table)
    assert model.mutual_information("a", "b").value > 0.6
    apart = model.mutual_information("a", "b", given=["cause"])
    assert abs(apart.value) < 4 * apart.se + 0.01
    fixed = model.mutual_information("a", "b", given={"cause": "p"})
    assert abs(fixed.value) < 4 * fixed.se + 0.01


def test_the_matrix_is_symmetric_and_the_same_in_any_units(one):
    found = one.dependence()
    assert list(found.index) == list(found.columns) == ["x", "y", "z"]
    pd.testing.assert_frame_equal(found, found.T)
    assert found.loc["x", "y"] == pytest.approx(RHO, abs=0.04) and found.loc["x", "z"] < 0.1
    nats = one.dependence(["x", "y"], measure="nats", samples=1000)
    pair = one.mutual_information("x", "y", samples=1000).value
    assert nats.loc["x", "y"] == pytest.approx(pair, abs=1e-9)
    assert nats.loc["x", "x"] == pytest.approx(one.entropy("x", samples=1000).value, abs=1e-9)
    scaled = normal().drop(columns="level").assign(x=lambda t: t["x"] * 1e3)
    other = pg.GaussianMixture(1, random_state=0, draws=0).fit(scaled).dependence()
    np.testing.assert_allclose(other, found, atol=1e-6)


def test_independent_columns_say_nothing():
    floor = pg.Independent(random_state=0, draws=0).fit(normal(300))
    assert abs(floor.mutual_information("x", "level", samples=500).value) < 1e-12
    off = floor.dependence(samples=500).to_numpy() - np.eye(4)
    assert np.abs(off).max() < 1e-5


@pytest.mark.filterwarnings("ignore::probgen.ApproximationWarning")
def test_families_without_closed_forms_answer_too(birds):
    few = pg.GaussianMixture(3, random_state=1, draws=0, schema=birds.schema_).fit(penguins())
    whole = WholeMixture(5, random_state=0, draws=0).fit(penguins())
    model = whole.with_companion(Companion([few.members_[0]]))
    found = model.mutual_information("species", "body_mass_g", samples=150)
    wanted = birds.mutual_information("species", "body_mass_g")
    assert abs(found.value - wanted.value) < 4 * found.se


def test_bad_questions_are_named(birds):
    for ask, words in [
        (lambda: birds.mutual_information("sex", "sex"), "in both groups"),
        (lambda: birds.mutual_information("sex", "weight"), "'weight'"),
        (lambda: birds.entropy("sex", given=["sex"]), "on one side"),
        (lambda: birds.entropy([]), r"columns=\[\]"),
        (lambda: birds.entropy("sex", given=penguins()), "data frame"),
        (lambda: birds.dependence(measure="r"), "measure='r'"),
        (lambda: birds.entropy("body_mass_g", samples=1), "samples=1"),
    ]:
        with pytest.raises(pg.SchemaError, match=words):
            ask()


def test_an_impossible_value_in_given_is_refused_by_sums_too():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"p": np.exp(rng.normal(size=100)), "c": rng.choice(["u", "v"], 100)})
    model = pg.GaussianMixture(1, random_state=0, draws=0).fit(table)
    with pytest.raises(pg.SchemaError, match="impossible"), pytest.warns(pg.DataWarning):
        model.entropy("c", given={"p": -3.0})
