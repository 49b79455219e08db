"""Comparing densities, and stacking them."""

from probgen.diagnostics.loo import Loo

__all__ = ["Loo"]
