"""Faults in events: bad syntax, unknown names, what cannot happen, code that must not run."""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import pytest

from probgen import SchemaError
from tests.faults.cases import CASES, Case, Raises, case, quiet, table


@cache
def fitted(make):
    """One fit a family: the cases only ask."""
    return quiet(make(), table())


def refused(title: str, event: str, *words: str) -> None:
    """A case of an event that is refused, in both places where one is written."""

    def act(make, event=event):
        model = fitted(make)
        with pytest.raises(SchemaError):
            model.sample(1, given=event)
        model.prob(event)

    CASES.append(Case(0, f"event_{title}", act, Raises(SchemaError, words)))


refused("empty", "  ", "nothing")
refused("half", "a > 1 and", "and or not", "a > 1 and")
refused("assignment", "a = 1", "==")
refused("no_comparison", "a + 1", "neither true nor false")
refused("bare_number_column", "a", "neither true nor false")
refused("unknown_column", "wage > 1", "no column 'wage'", "'job'")
refused("unknown_level", "job == 'nurs'", "level 'nurs'", "'job'", "'nurse'")
refused("unknown_level_in_list", "job in ['cook', 'diver']", "'diver'", "'smith'")
refused("order_of_a_category", "job < 'nurse'", "no order")
refused("text_beside_numbers", "a > 'x'", "'a'")
refused("number_beside_text", "job == 3", "level 3", "'cook'")
refused("arithmetic_on_text", "job + 1 > 2", "'job'")
refused("variable", "a > @limit", "@")
refused("hole", "a == None", "None")
refused("deep", "(" * 150 + "a > 1" + ")" * 150 + " or " + "not " * 150 + "a > 1", "do:")
refused("long", "a > 1 or " * 5000 + "a > 1", "characters")
refused("open_quote", "job == 'cook", "quote")
refused("open_backtick", "`a > 1", "backtick")
refused("comment", "a > 1 # and more", "#")

CODE = {
    "call": "__import__('this').s == 1",
    "method": "a.map(print).any() > 0",
    "attribute": "a.__class__ == 1",
    "index": "a[0] > 1",
    "lambda": "(lambda: 1)() > a",
    "comprehension": "[x for x in (1, 2)] == a",
    "walrus": "(a := 1) > 0",
    "fstring": "job == f'{{__import__(\"this\")}}'",
    "await": "await a > 1",
    "statement": "a > 1; import this",
    "backtick": "`a`.__class__.__mro__ == 1",
    "import_as_name": "__import__ > 1",
}
for title, event in CODE.items():
    refused(f"code_{title}", event, "do:")


@case(0, Raises(SchemaError, ("no column '__builtins__'",)))
def event_reaches_no_builtins(make):
    fitted(make).prob("__builtins__ > 1")


@case(0)
def event_runs_no_code(make):
    """Importing a module is the first thing that foreign code would do."""
    model = fitted(make)
    assert "this" not in sys.modules
    for code in CODE.values():
        with pytest.raises(SchemaError):
            model.prob(code)
    assert "this" not in sys.modules


IMPOSSIBLE = {
    "contradiction": "a > 1 and a < 0",
    "negative_count": "n < 0",
    "negative_positive": "b <= 0",
    "point_of_a_real_column": "a == 1.5",
    "two_levels_at_once": "job == 'cook' and job == 'nurse'",
}
for title, event in IMPOSSIBLE.items():
    for verb, act in {
        "prob": lambda make, e=event: fitted(make).prob("flag", given=e),
        "sample": lambda make, e=event: fitted(make).sample(3, given=e),
        "log_prob": lambda make, e=event: fitted(make).log_prob(table()[["flag"]], given=e),
    }.items():
        CASES.append(
            Case(40, f"{verb}_given_{title}", act, Raises(SchemaError, ("probability 0",)))
        )


@case(40)
def impossible_events_have_probability_zero(make):
    model = fitted(make)
    assert [float(model.prob(event)) for event in IMPOSSIBLE.values()] == [0.0] * len(IMPOSSIBLE)


@case(40, Raises(SchemaError, ("impossible row(s)",)))
def event_given_an_impossible_value(make):
    fitted(make).prob("flag", given={"n": -1})


@case(0, Raises(SchemaError, ("samples=0",)))
def event_with_no_samples(make):
    fitted(make).prob("flag", samples=0)


@case(0, Raises(SchemaError, ("tolerance=-1",)))
def event_with_negative_tolerance(make):
    fitted(make).prob("flag", tolerance=-1)


@case(0, Raises(SchemaError, ("an event of type", "text")))
def event_that_is_no_text(make):
    fitted(make).prob(np.array([True]))


@case(0, Raises(NotImplementedError, ("interval", "event")))
def interval_given_an_event(make):
    fitted(make).log_prob(table()[["a"]], given="flag", interval=0.9)
