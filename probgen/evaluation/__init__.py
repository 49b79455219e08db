"""Comparing densities by rows that they did not see, and stacking them."""

from probgen.evaluation.compare import compare
from probgen.evaluation.comparison import Comparison
from probgen.evaluation.sklearn_density import SklearnDensity
from probgen.evaluation.stack import Stack
from probgen.evaluation.stacking import Weights, stacking_weights

__all__ = ["Comparison", "SklearnDensity", "Stack", "Weights", "compare", "stacking_weights"]
