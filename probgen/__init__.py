"""Probabilistic programming for tables: a data frame in, its joint density out."""

from probgen.density import Density
from probgen.errors import (
    ApproximationWarning,
    DataWarning,
    FitError,
    ModelFileError,
    NotSupported,
    ProbgenError,
    SchemaError,
)
from probgen.estimators import GaussianMixture, Independent, StudentT
from probgen.saving import load
from probgen.schema import Column, Schema

__version__ = "0.1.0"

__all__ = [
    "ApproximationWarning",
    "Column",
    "DataWarning",
    "Density",
    "FitError",
    "GaussianMixture",
    "Independent",
    "ModelFileError",
    "NotSupported",
    "ProbgenError",
    "Schema",
    "SchemaError",
    "StudentT",
    "load",
]
