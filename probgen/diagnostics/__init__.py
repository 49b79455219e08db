"""Whether a fit can be believed, and the way to ArviZ."""

from probgen.diagnostics.report import Finding, Report

__all__ = ["Finding", "Report"]
