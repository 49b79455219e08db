"""Comparing densities, and stacking them."""

from probgen.evaluation.loo import Loo

__all__ = ["Loo"]
