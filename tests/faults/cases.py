"""Cases of bad input and bad luck: an action, and its expected outcome as data.

Numbers are those of the project's catalogue of faults.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

import probgen as pg

N = 60
FAST: dict[str, Any] = {"draws": 5, "max_epochs": 15, "random_state": 0}
FAMILIES: dict[str, Callable[..., pg.Density]] = {
    "independent": lambda **s: pg.Independent(**FAST | s),
    "full": lambda **s: pg.GaussianMixture(2, starts=1, **FAST | s),
    "diag": lambda **s: pg.GaussianMixture(2, covariance="diag", starts=1, **FAST | s),
    "flexible": lambda **s: pg.GaussianMixture(2, covariance="flexible", starts=1, **FAST | s),
}
Make = Callable[..., pg.Density]


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def table() -> pd.DataFrame:
    g = rng()
    return pd.DataFrame({
        "a": g.normal(5, 2, N), "b": np.exp(g.normal(0, 1, N)), "n": g.poisson(4, N),
        "job": g.choice(["cook", "nurse", "smith"], N), "flag": g.random(N) < 0.4,
    })  # fmt: skip


def real() -> pd.DataFrame:
    return table()[["a", "b"]]


def quiet(model: pg.Density, data: Any, **how: Any) -> pg.Density:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(data, **how)


@dataclass(frozen=True)
class Raises:
    """An error of a type whose message holds all these words."""

    kind: type[Exception]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Warns:
    """A warning of a type whose message holds all these words; the action's checks hold."""

    kind: type[Warning]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Works:
    """No error, and no warning of the data."""


@dataclass(frozen=True)
class Case:
    number: int
    title: str
    #: does it, and asserts what the answer must be
    act: Callable[[Make], Any]
    expect: Raises | Warns | Works = field(default_factory=Works)


CASES: list[Case] = []


def case(number: int, expect: Raises | Warns | Works | None = None) -> Callable[[Any], Any]:
    def put(act: Callable[[Make], Any]) -> Callable[[Make], Any]:
        CASES.append(Case(number, act.__name__, act, expect or Works()))
        return act

    return put


def fit_of(number: int, title: str, data: Callable[[], Any], expect: Raises | Warns) -> None:
    """A case that only fits a table."""
    CASES.append(Case(number, title, lambda make: make().fit(data()), expect))


def finite(model: pg.Density, data: pd.DataFrame) -> None:
    assert np.isfinite(model.log_prob(data)).all()
    drawn = model.sample(50, random_state=0)
    numbers = drawn.select_dtypes("number")
    assert np.isfinite(numbers.to_numpy(float, na_value=0.0)).all()
