"""Exact sums, marginals, maxima and draws of discrete networks, for whole tables of rows."""
