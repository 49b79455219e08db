"""Events: time and error of typical questions, beside the share of a million samples."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

import probgen as pg
from probgen.events import Event

N = 2000
EVENTS = (
    "a > 1", "job == 'cook'", "a > 1 and job != 'nurse'", "age < 30", "income > 50_000",
    "income > 50_000 and job != 'nurse'", "income > 50_000 and age < 30", "a > 1 and b > 1",
    "a > b", "a > 4 and b < -4", "income > 1_000 * age", "a > 1 and b > 1 and c > 1",
)  # fmt: skip


def people() -> pd.DataFrame:
    """Correlated, skewed, counted and labelled columns."""
    g = np.random.default_rng(0)
    a = g.normal(0, 1, N)
    return pd.DataFrame({
        "a": a, "b": 0.8 * a + 0.6 * g.normal(0, 1, N), "c": np.exp(g.normal(0, 1, N)),
        "age": g.poisson(np.where(a > 0, 45, 30)),
        "income": np.rint(np.exp(g.normal(10 + 0.3 * a, 1))).astype(int),
        "job": g.choice(["cook", "nurse", "smith"], N),
    })  # fmt: skip


def timed(call: Callable[[], Any], rounds: int = 3) -> tuple[Any, float]:
    """The answer, and the least of a few times in milliseconds."""
    times, answer = [], None
    for _ in range(rounds):
        clock = time.perf_counter()
        answer = call()
        times.append(1e3 * (time.perf_counter() - clock))
    return answer, min(times)


def main() -> None:
    """Print a table for a mixture of 8 components and for flexible independent columns."""
    table = people()
    for make in (pg.GaussianMixture(8, random_state=0), pg.Independent(random_state=0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = make.fit(table)
        name, drawn = type(model).__name__, model.sample(1_000_000, random_state=1)
        print(f"{name}\n{'event':38} {'value':>11} {'se':>8} {'samples':>9}  {'ms':>7}  method")
        for text in EVENTS:
            p, ms = timed(partial(model.prob, text, random_state=0))
            share = Event(text, model.schema_).evaluate(drawn).mean()
            print(f"{text:38} {p.value:11.4g} {p.se:8.0e} {share:9.5f}  {ms:7.1f}  {p.method}")
        rows = table[["b", "job"]].head(1000)
        _, ms = timed(partial(model.prob, "a > 1", given=rows))
        print(f"{'a > 1, given b and job, 1,000 rows':70} {ms:7.1f}")
        _, ms = timed(partial(model.sample, 1000, given="a > 4 and job == 'cook'"))
        print(f"{'1,000 rows given a > 4 and a job':70} {ms:7.1f}")


if __name__ == "__main__":
    main()
