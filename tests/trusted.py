"""Small models and tables of the tests of trust: reports, ArviZ, leave-one-out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning

import probgen as pg
from tests.toys import FactorAnalysis, GlobalMean

KINDS = {"flipper_length_mm": "real", "year": "ordered"}


@dataclass(eq=False, repr=False)
class Means(pg.Density):
    """A family with a guide and no closed forms."""

    family: ClassVar = GlobalMean

    def _make(self, schema):
        return GlobalMean(len(schema.slots), schema)


@dataclass(eq=False, repr=False)
class Factors(pg.Density):
    """A family without global latents."""

    family: ClassVar = FactorAnalysis

    def _make(self, schema):
        return FactorAnalysis(len(schema.slots), 1, schema=schema).double()


def line(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return pd.DataFrame({"x": x, "y": x + 0.3 * rng.normal(size=n)})


def mixture(**settings):
    return pg.GaussianMixture(**{"components": 3, "draws": 20, "random_state": 0, **settings})


def quietly(fit, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit(*args)
