"""Rows in other units than those of the fit: grams for kilograms, Fahrenheit for Celsius."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probgen.diagnostics.checks.evidence import Evidence
from probgen.diagnostics.drawn import modelled
from probgen.diagnostics.report import Finding

__all__ = ["units"]

Floats = NDArray[np.float64]
#: cells of a column below which nothing is said
FEWEST = 20
#: how far the middle must lie (robust standard deviations of the model), with how many cells
#: in the outer hundredth of the model, or what the spread must be multiplied by
SHIFT, AT_ENDS, LARGER, SMALLER = 3.0, 0.5, 5.0, 1 / 20
#: conversions that are met: what a value is multiplied by
FACTORS = (
    10.0, 12.0, 24.0, 60.0, 100.0, 1000.0, 3600.0, 1e4, 1e6, 1e9, 1.609344, 2.2046, 2.54,
    3.2808, 3.6, 7.0, 16.0, 25.4, 28.35, 30.48, 453.6, 365.25, 4.184,
)  # fmt: skip


@dataclass
class _Spread:
    """Middle and robust standard deviation of some values."""

    middle: float
    sd: float

    @classmethod
    def of(cls, values: Floats) -> _Spread:
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        return cls(float(middle), float(high - low) / 1.349)


def units(evidence: Evidence) -> Iterator[Finding]:
    """Columns whose place or spread is so far off that other units are the likely reason.

    A column is named if its middle lies more than three standard deviations of the model
    away with half its cells in the outer hundredth of the model, or if its spread is five
    times, or a twentieth, of that of the model. Heavy tails do not move quartiles, and a
    subgroup that lies one or two standard deviations away is not named.
    """
    assert evidence.seen is not None
    found, looked = {}, 0
    for name, (column, _) in modelled(evidence.schema).items():
        if column.labelled or column.kind == "date" or name not in evidence.seen.frame:
            continue
        raw = pd.to_numeric(evidence.seen.frame[name], errors="coerce")
        table = raw.to_numpy(dtype=float, na_value=np.nan)
        table = table[np.isfinite(table) & ~np.isin(table, column.atoms)]
        drawn = evidence.drawn[name][~np.isin(evidence.drawn[name], column.atoms)]
        if len(table) < FEWEST or len(drawn) < FEWEST:
            continue
        looked += 1
        guess = _guess(table, drawn)
        if guess:
            found[str(name)] = guess
    if not looked:
        return
    if not found:
        yield Finding("units", "ok", ("density",), f"{looked} columns lie where the fit put them")
        return
    shown = "; ".join(f"{name}: {guess}" for name, guess in list(found.items())[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    yield Finding(
        "units", "fail", ("density",), f"columns on another scale than in the fit: {shown}{more}",
        "bring the column to the units of the fit, then check again", {"columns": found},
    )  # fmt: skip


def _guess(table: Floats, drawn: Floats) -> str:
    """What was probably done to the values of a column; '' where nothing was."""
    now, fit = _Spread.of(table), _Spread.of(drawn)
    if not fit.sd > 0 or len(np.unique(table)) < FEWEST // 2:
        return ""
    low, high = np.quantile(drawn, [0.005, 0.995])
    ends = float(((table < low) | (table > high)).mean())
    far = abs(now.middle - fit.middle) > SHIFT * fit.sd and ends > AT_ENDS
    ratio = now.sd / fit.sd
    if not far and SMALLER < ratio < LARGER:
        return ""
    for text, slope, shift in (("Fahrenheit for Celsius", 1.8, 32.0),
                               ("Celsius for Fahrenheit", 1 / 1.8, -32 / 1.8)):  # fmt: skip
        there = slope * fit.middle + shift
        if abs(there - now.middle) < 0.5 * slope * fit.sd and 0.75 < ratio / slope < 1.33:
            if abs(shift) > fit.sd:
                return f"as if {text}"
    return _factor(now, fit, ratio)


def _factor(now: _Spread, fit: _Spread, ratio: float) -> str:
    moved = now.middle / fit.middle if fit.middle else math.nan
    if abs(fit.middle) < 0.3 * fit.sd and not SMALLER < ratio < LARGER:  # a middle of chance
        return f"as if multiplied by {_known(ratio)}"
    # the spread follows a factor too; the middle tells it better where it is far from 0
    if moved > 0 and 0.6 < ratio / moved < 1.7:
        factor = moved if abs(fit.middle) > fit.sd else ratio
        return f"as if multiplied by {_known(factor)}"
    if ratio >= LARGER or ratio <= SMALLER:
        return f"spread {ratio:.3g} times as large, middle {now.middle:.4g} for {fit.middle:.4g}"
    return f"middle {now.middle:.4g} for {fit.middle:.4g}, where the spread is {fit.sd:.3g}"


def _known(factor: float) -> str:
    """The conversion that is nearest, if one is near enough."""
    all_known = [*FACTORS, *(1 / known for known in FACTORS)]
    known = min(all_known, key=lambda one: abs(math.log(one / factor)))
    if abs(math.log(known / factor)) < 0.1:
        return f"{known:.4g}"
    return f"about {factor:.3g}"
