"""Probabilistic programming for tables: a data frame in, its joint density out."""

from probgen.answers import Answer
from probgen.columns import Column
from probgen.density import Density
from probgen.errors import (
    ApproximationError,
    ApproximationWarning,
    DataWarning,
    FitError,
    ModelFileError,
    NotSupported,
    ProbgenError,
    SchemaError,
)
from probgen.estimators import (
    VAE,
    Autoregressive,
    BayesianNetwork,
    Flow,
    GaussianMixture,
    Independent,
    NetworkDensity,
    Pair,
    StudentT,
)
from probgen.evaluation import Comparison, SklearnDensity, Stack, compare
from probgen.nuts import NUTS
from probgen.outliers import OutlierDetector
from probgen.pooling import Pooled, pool
from probgen.saving import load
from probgen.schema import Schema

__version__ = "0.1.0"

__all__ = [
    "NUTS",
    "VAE",
    "NetworkDensity",
    "Answer",
    "ApproximationError",
    "ApproximationWarning",
    "Autoregressive",
    "BayesianNetwork",
    "Column",
    "Comparison",
    "DataWarning",
    "Density",
    "FitError",
    "Flow",
    "GaussianMixture",
    "Independent",
    "ModelFileError",
    "NotSupported",
    "OutlierDetector",
    "Pair",
    "Pooled",
    "ProbgenError",
    "Schema",
    "SchemaError",
    "SklearnDensity",
    "Stack",
    "StudentT",
    "compare",
    "load",
    "pool",
]
