"""Comparing densities, stacking them, leaving rows out, and calibrating by simulation."""

from probgen.diagnostics.loo import Loo
from probgen.evaluation.compare import compare
from probgen.evaluation.comparison import Comparison
from probgen.evaluation.simulations import Simulations
from probgen.evaluation.sklearn_density import SklearnDensity
from probgen.evaluation.stack import Stack
from probgen.evaluation.stacking import Weights, stacking_weights

__all__ = [
    "Comparison",
    "Loo",
    "SklearnDensity",
    "Simulations",
    "Stack",
    "Weights",
    "compare",
    "stacking_weights",
]
