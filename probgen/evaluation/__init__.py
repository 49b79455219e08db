"""Comparing densities, and stacking them."""
