"""Comparing densities, stacking them, and calibrating them by simulation."""

from probgen.evaluation.simulations import Simulations

__all__ = ["Simulations"]
