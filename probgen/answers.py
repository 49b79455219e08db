"""A number that a verb returns, and how far to trust it."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Answer"]


@dataclass(frozen=True, repr=False)
class Answer:
    """A number and its error.

    Attributes
    ----------
    value : float
        A probability, or nats.
    se : float
        Standard error where the number was estimated from draws; else a bound of the
        numerical error.
    method : str
        "exact", "quadrature", "monte carlo", ...: how it was worked out.
    ess : float
        Number of independent draws that the estimate is worth; infinite without draws.

    Examples
    --------
    >>> half = Answer(0.5, 0.01, "monte carlo", 2500)
    >>> half
    <0.5 ± 0.01 (monte carlo, 2,500 draws)>
    >>> float(half)
    0.5
    """

    value: float
    se: float
    method: str
    ess: float

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        drawn = "" if math.isinf(self.ess) else f", {self.ess:,.0f} draws"
        return f"<{self.value:.6g} ± {self.se:.1g} ({self.method}{drawn})>"
