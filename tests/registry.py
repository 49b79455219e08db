"""Every estimator of probgen, by name, with settings that fit small tables fast.

The contract tests run on each entry; a test proves the list complete. A new family adds
its line here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
from sklearn.neighbors import KernelDensity

from probgen import (
    VAE,
    Autoregressive,
    BayesianNetwork,
    Density,
    Flow,
    GaussianMixture,
    Independent,
    Pair,
    SklearnDensity,
    Stack,
    StudentT,
)
from probgen.testing import Subject
from tests import pairs


def _mixture(**settings: object) -> Callable[[], Density]:
    fast = {"components": 3, "starts": 2, "draws": 20, "max_epochs": 60, "random_state": 0}
    return lambda: GaussianMixture(**{**fast, **settings})


def _pair(model: Callable[..., None]) -> Callable[[], Density]:
    return lambda: Pair(model, draws=10, max_epochs=20, batch_size=1000, random_state=0)


def _stack(**parts: Callable[[], Density]) -> Callable[[], Density]:
    return lambda: Stack(
        {name: make() for name, make in parts.items()}, folds=2, draws=20, random_state=0
    )


def _flow(**settings: object) -> Callable[[], Density]:
    fast = {
        "transforms": 2, "hidden": (16, 16), "bins": 4, "components": 3, "max_epochs": 10,
        "validation": 0.0, "noise": 0.0, "compile": False, "random_state": 0,
        # so slow that minibatches of weighted and of repeated rows lead to the same place
        "learning_rate": 1e-3,
    }  # fmt: skip
    return lambda: Flow(**{**fast, **settings})


def _vae(**settings: object) -> Callable[[], Density]:
    fast = {
        "latents": 2, "hidden": (16,), "max_epochs": 60, "validation": 0.0, "noise": 0.0,
        "compile": False, "random_state": 0, "batch_size": 1000, "learning_rate": 5e-3,
    }  # fmt: skip
    return lambda: VAE(**{**fast, **settings})


def _numbers() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    a = rng.normal(size=90)
    return pd.DataFrame({"a": a, "b": np.exp(0.5 * a + rng.normal(size=90))})


REGISTRY: dict[str, Callable[[], Density]] = {
    "independent": lambda: Independent(draws=20, max_epochs=60, random_state=0),
    "mixture-full": _mixture(),
    "mixture-tied": _mixture(covariance="tied"),
    "mixture-diag": _mixture(covariance="diag"),
    "mixture-spherical": _mixture(covariance="spherical"),
    "mixture-flexible": _mixture(covariance="flexible"),
    "mixture-dp": _mixture(weights="dp"),
    "mixture-minibatch": _mixture(batch_size=32, max_epochs=20),
    "student": lambda: StudentT(max_epochs=200, random_state=0),
    "mixture-restarts": _mixture(restarts=2, starts=1),
    "autoregressive": lambda: Autoregressive(
        hidden=32,
        parts=4,
        orders=3,
        noise=0.0,
        validation=0.0,
        learning_rate=1e-3,
        max_epochs=25,
        batch_size=1000,
        random_state=0,
    ),
    "stack": _stack(
        wide=_mixture(components=2, starts=1),
        apart=lambda: Independent(draws=20, max_epochs=60, random_state=0),
    ),
    "stack-student": _stack(
        t=lambda: StudentT(max_epochs=100, random_state=0),
        wide=_mixture(components=2, starts=1, restarts=2),
    ),
    "network": lambda: BayesianNetwork(draws=20, random_state=0),
    "flow": _flow(),
    "vae": _vae(),
    "vae-mixture": _vae(guide="full", prior="mixture", components=4),
    "sklearn": lambda: SklearnDensity(KernelDensity(bandwidth=0.5), random_state=0),
    "pair-hierarchical": _pair(pairs.hierarchical),
    "pair-zero-inflated": _pair(pairs.zero_inflated),
}

#: the tables of the estimators that are written for one, and what they condition on
TABLES: dict[str, tuple[pd.DataFrame, list[str]]] = {
    "pair-hierarchical": (pairs.hierarchical_table(), pairs.HIERARCHICAL_GIVEN),
    "pair-zero-inflated": (pairs.zero_inflated_table(), []),
    "sklearn": (_numbers(), []),
}


@cache
def subject(name: str) -> Subject:
    """The entry under check; its fits are shared by all tests of a session."""
    return Subject(REGISTRY[name], *TABLES.get(name, ()))
