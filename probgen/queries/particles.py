"""More particles for the rows whose densities are not exact enough yet."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from probgen.errors import SchemaError, message
from probgen.queries.estimates import WORST_SHAPE, Estimate, methods

__all__ = ["MOST", "PARTICLES", "Ask", "hard", "improved"]

#: importance draws that a row takes by default, and at the most
PARTICLES, MOST = 512, 2**16
#: how many times more are tried next
TIMES = 4

#: estimates of some rows (None: of all) by a number of particles
Ask = Callable[[Tensor | None, int], Estimate]


def improved(ask: Ask, particles: int, error: float | None) -> Estimate:
    """Estimates whose rows stay as they are once their standard error is small enough.

    Rows above the wanted error are asked for again with four times as many particles, the
    first ones included, up to `MOST`. Noise belongs to the content of a row, so that which
    other rows need more changes nothing. Rows that took no particles are left alone.

    Parameters
    ----------
    ask : callable
    particles : int
        Of the first attempt.
    error : float, optional
        Wanted standard error of a row, nats; None for one attempt.

    Returns
    -------
    Estimate
        Cost: at most 4/3 of that of the last attempt of each row.
    """
    if error is not None and not error > 0:
        raise SchemaError(
            message(f"error = {error}", "a standard error above 0, in nats", "pass 0.05, say")
        )
    found = ask(None, particles)
    while error is not None and particles < MOST:
        rows = ((found.se > error) & (found.particles > 0)).nonzero()[:, 0]
        if not len(rows):
            break
        particles = min(TIMES * particles, MOST)
        better = ask(rows, particles)
        found.put(rows, better)
        found.method = methods(found, better)
    return found


def hard(found: Estimate, error: float | None) -> Tensor:
    """Numbers of the rows that importance sampling gave no good answer for."""
    bad = found.khat > WORST_SHAPE
    if error is not None:
        bad = bad | (found.se > error)
    return (bad & (found.particles > 0)).nonzero()[:, 0]
