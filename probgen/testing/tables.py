"""Small tables on which the contract is checked, each made anew from a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["TABLES", "Contract", "holed"]

ROWS = 90


@dataclass(frozen=True)
class Contract:
    """How to make a table, and the kinds that inference cannot know."""

    make: Callable[[], Any]
    columns: dict[str, Any] | None = None
    #: other settings of the estimator that the table asks for
    settings: dict[str, Any] = field(default_factory=dict)


def holed(table: pd.DataFrame, step: int = 7) -> pd.DataFrame:
    """The table with every `step`-th cell of each column missing, at shifting rows."""
    table = table.copy()
    for place, name in enumerate(table.columns):
        table[name] = table[name].mask(np.arange(len(table)) % step == place % step)
    return table


def _two_bumps(rng: np.random.Generator, n: int = ROWS) -> np.ndarray:
    return np.where(rng.random(n) < 0.4, rng.normal(-2, 0.5, n), rng.normal(3, 1.5, n))


def _mixed() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    a = _two_bumps(rng)
    left = a < 0.5
    table = pd.DataFrame({
        "real": a,
        "other": 0.5 * a + rng.normal(0, 1, ROWS),
        "positive": np.exp(rng.normal(1, 1, ROWS)),
        "count": rng.poisson(np.where(left, 2, 9)),
        "label": rng.choice(["x", "y", "z"], ROWS, p=[0.2, 0.3, 0.5]),
        "spike": np.where(rng.random(ROWS) < 0.4, 0.0, rng.normal(2, 1, ROWS)),
        "share": rng.beta(2, 3, ROWS),
        "when": pd.Timestamp("2020-01-01", tz="Europe/Zurich")
        + pd.to_timedelta(rng.integers(0, 10**14, ROWS), unit="us"),
    })  # fmt: skip
    # tables without holes: booleans and counts would change their data type
    holes = holed(table[["real", "positive", "label", "spike"]])
    return table.assign(**holes, flag=rng.random(ROWS) < np.where(left, 0.8, 0.3))


def _real2() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    a = _two_bumps(rng)
    return pd.DataFrame({"a": a, "b": rng.normal(0.8 * a, 1)})


def _scaled() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    a = _two_bumps(rng)
    table = pd.DataFrame({
        "real": a,
        "positive": np.exp(rng.normal(0.3 * a, 0.7)),
        "count": rng.poisson(4, ROWS),
        "label": rng.choice(list("xyz"), ROWS),
    })  # fmt: skip
    return table.assign(real=table.real.mask(np.arange(ROWS) % 9 == 0))


def _column(make: Callable[[np.random.Generator], Any], seed: int = 4) -> Callable[[], Any]:
    return lambda: pd.DataFrame({"x": make(np.random.default_rng(seed))})


def _awkward() -> pd.DataFrame:
    table = _real2()
    return table.assign(
        twin=table["a"], double=2 * table["b"], fixed=7.5, word="same",
        empty=np.full(len(table), np.nan),
    )  # fmt: skip


def _discrete() -> pd.DataFrame:
    rng = np.random.default_rng(6)
    a = _two_bumps(rng)
    return pd.DataFrame({
        "real": a,
        "label": np.where(a > 0, rng.choice(list("xy"), ROWS), "z"),
        "count": rng.poisson(np.where(a > 0, 1, 5)),
    })  # fmt: skip


def _ordered(rng: np.random.Generator) -> pd.Categorical:
    return pd.Categorical(
        rng.choice(["low", "mid", "high"], ROWS),
        categories=["low", "mid", "never", "high"],
        ordered=True,
    )


TABLES: dict[str, Contract] = {
    "mixed": Contract(_mixed, {"share": "unit"}),
    "scaled": Contract(_scaled),
    "discrete": Contract(_discrete),
    "awkward": Contract(_awkward),
    "real2": Contract(_real2),
    "real": Contract(_column(_two_bumps)),
    "positive": Contract(_column(lambda g: np.exp(g.normal(0, 0.8, ROWS)))),
    "unit": Contract(_column(lambda g: g.beta(2, 4, ROWS)), {"x": "unit"}),
    "bounded": Contract(
        _column(lambda g: 3 + 4 * g.beta(2, 2, ROWS)),
        {"x": {"kind": "bounded", "lower": 3, "upper": 7}},
    ),
    "atom": Contract(_column(lambda g: np.where(g.random(ROWS) < 0.4, 0.0, g.normal(2, 1, ROWS)))),
    "rounded": Contract(_column(lambda g: g.normal(20, 3, ROWS).round(1))),
    "date": Contract(
        _column(
            lambda g: (
                pd.Timestamp("2021-03-01")
                + pd.to_timedelta(g.integers(0, 10**13, ROWS), unit="us")
            )
        )
    ),
    "count": Contract(_column(lambda g: g.poisson(np.where(g.random(ROWS) < 0.5, 1, 8)))),
    "category": Contract(_column(lambda g: g.choice(list("abcd"), ROWS))),
    "ordered": Contract(_column(_ordered)),
    # two distinct rows bear two components
    "boolean": Contract(_column(lambda g: g.random(ROWS) < 0.3), settings={"components": 2}),
}
