"""The result of simulation-based calibration: ranks of truths, and what they say."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probgen.diagnostics.checks.statistics import holm
from probgen.evaluation.ranks import LEVEL, Judged, ecdf_band, judge, needed, seen_with

__all__ = ["NOMINAL", "Simulations"]

#: levels of the intervals whose coverage is measured
NOMINAL = (0.5, 0.8, 0.95)
WIDTH = 98


@dataclass(frozen=True, repr=False)
class Simulations:
    """Ranks of truths drawn from the prior among the posterior draws of refits.

    If the posterior is right, each column of `ranks` is uniform on 0..draws, and intervals
    cover at their nominal rate.

    Attributes
    ----------
    ranks : data frame (simulations, quantities)
        How many of `draws` posterior draws lie below the truth, whole numbers. The index is
        the number of the simulation; those that failed are left out.
    draws : int
        Posterior draws of each fit. Draws of a Markov chain are thinned to near independence
        first, and the rank among what is left is spread out to this scale at random.
    covered : dict of float to data frame
        For the levels 0.5, 0.8 and 0.95: whether the interval of all draws held the truth.
    rows : int
        Rows of each simulated table.
    model : str
        What was fitted.
    failed : dict of int to str
        Why a simulation gave no fit, by its number.
    unconverged : int
        Fits that stopped before they had converged; they count.
    notes : tuple of str
        What else there is to know.
    seconds : float
        Wall time of all simulations.

    References
    ----------
    Talts, Betancourt, Simpson, Vehtari and Gelman (2018), Validating Bayesian inference
    algorithms with simulation-based calibration. Yao, Vehtari, Simpson and Gelman (2018), Yes,
    but did it work? Evaluating variational inference. Modrák et al. (2023), Simulation-based
    calibration checking for Bayesian computation: the choice of test quantities shapes
    sensitivity.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> ranks = pd.DataFrame(
    ...     {"right": rng.integers(0, 100, 200), "high": rng.integers(0, 60, 200)}
    ... )
    >>> found = Simulations(ranks, 99)
    >>> found.summary["verdict"].tolist(), found.ok
    (['ok', 'biased'], False)
    """

    ranks: pd.DataFrame
    draws: int
    covered: dict[float, pd.DataFrame] = field(default_factory=dict)
    rows: int = 0
    model: str = ""
    failed: dict[int, str] = field(default_factory=dict)
    unconverged: int = 0
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def __len__(self) -> int:
        """The simulations that gave a fit."""
        return len(self.ranks)

    @cached_property
    def _judged(self) -> dict[Any, Judged]:
        return {name: judge(self.ranks[name].to_numpy(), self.draws) for name in self.ranks}

    @cached_property
    def summary(self) -> pd.DataFrame:
        """What the ranks say, a row for each quantity.

        Columns: `verdict` ("ok", "biased", "over-dispersed": the posterior is too wide, or
        "under-dispersed": too narrow); `p_value`, the chance of ranks as uneven as these under
        a right posterior, controlled for the number of quantities (Holm 1979), below 0.05 where
        the verdict is not "ok"; `bias`, how far the posterior lies above the truth in its
        standard deviations; `spread`, its width as a multiple of the right one; and
        `coverage_50`, `coverage_80`, `coverage_95`, whose standard error is `coverage_error`.
        """
        judged = list(self._judged.values())
        p = holm(np.array([one.p for one in judged]))
        verdicts = [
            one.kind if value < LEVEL else "ok" for one, value in zip(judged, p, strict=True)
        ]
        columns: dict[str, Any] = {
            "verdict": verdicts, "p_value": p,
            "bias": [one.bias for one in judged], "spread": [one.spread for one in judged],
        }  # fmt: skip
        for level in NOMINAL:
            share = self.covered[level].mean() if level in self.covered else np.nan
            columns[f"coverage_{round(100 * level)}"] = share
        return pd.DataFrame(columns, index=self.ranks.columns)

    @property
    def ok(self) -> bool:
        """Whether no quantity was found miscalibrated."""
        return bool((self.summary["verdict"] == "ok").all())

    def coverage_error(self, level: float) -> float:
        """Standard error of a coverage if its intervals cover at their nominal rate."""
        return float(np.sqrt(level * (1 - level) / max(1, len(self))))

    def band(self, level: float = 0.95) -> tuple[NDArray[np.float64], ...]:
        """Where the distribution function of sound ranks stays; see `ranks.ecdf_band`."""
        return ecdf_band(len(self), self.draws, level)

    def needed(self, bias: float = 0.0, spread: float = 1.0, power: float = 0.8) -> int:
        """Simulations that would show a miscalibration of some quantity with chance `power`.

        Parameters
        ----------
        bias : float
            Shift of the posterior, in its standard deviations.
        spread : float
            Its width over the right width; counts where `bias` is 0.
        """
        return needed(self.ranks.shape[1], bias, spread, power)

    # --- shown ----------------------------------------------------------------------------

    def _head(self) -> str:
        bad = self.summary[self.summary["verdict"] != "ok"].sort_values("p_value", kind="stable")
        if not len(bad):
            return "calibrated: nothing speaks against it"
        named = [f"{name} {_directed(row)}" for name, row in bad.head(5).iterrows()]
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        return f"not calibrated: {', '.join(named)}{more}"

    def _remarks(self) -> list[str]:
        """Sentences about the simulations as a whole."""
        n, count = len(self), self.ranks.shape[1]
        said = [
            f"{n} simulations of {self.rows} rows, {self.draws} posterior draws each, "
            f"{self.seconds:.0f} s."
        ]
        if self.failed:
            reasons = pd.Series(list(self.failed.values())).value_counts()
            said.append(f"{len(self.failed)} more failed, most often: {reasons.index[0]}.")
        if self.unconverged:
            said.append(f"{self.unconverged} fits did not converge; they count.")
        errors = ", ".join(f"{self.coverage_error(level):.3f}" for level in NOMINAL)
        said.append(f"Standard errors of the coverages: {errors}.")
        bias, narrow, wide = seen_with(n, count)
        # narrow posteriors have ranks of larger variance
        sight = f"a posterior {bias:.2f} of its standard deviations off the truth"
        if np.isfinite(narrow) and narrow > 0:
            sight += f", or {narrow:.2f} times as wide as it should be"
        if np.isfinite(wide):
            sight += f", or {wide:.2f} times"
        said.append(f"So many show, 4 times in 5, {sight}.")
        said.append(
            f"Half that bias takes {self.needed(bias=bias / 2)} simulations, "
            f"a width of 0.9 {self.needed(spread=0.9)}."
        )
        return said + list(self.notes)

    def __str__(self) -> str:
        table = self.summary.copy()
        table["p_value"] = [f"{value:.2g}" for value in table["p_value"]]
        lines = [self._head(), "", table.to_string(float_format=lambda v: f"{v:.2f}"), ""]
        for remark in self._remarks():
            lines += textwrap.wrap(remark, WIDTH)
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        table = self.summary.to_html(float_format=lambda v: f"{v:.3g}")
        remarks = "".join(f"<br>{escape(remark)}" for remark in self._remarks())
        return f"<p><b>{escape(self._head())}</b></p>{table}<p>{remarks.removeprefix('<br>')}</p>"

    def to_dict(self) -> dict[str, Any]:
        """Verdicts, coverage, ranks and what went wrong as plain values."""
        summary = {str(name): _plain(row) for name, row in self.summary.iterrows()}
        return {
            "calibrated": self.ok, "simulations": len(self), "rows": self.rows,
            "draws": self.draws, "summary": summary,
            "ranks": {str(name): self.ranks[name].tolist() for name in self.ranks},
            "failed": dict(self.failed), "unconverged": self.unconverged,
            "notes": list(self.notes), "seconds": self.seconds,
        }  # fmt: skip


def _directed(row: pd.Series) -> str:
    if row["verdict"] != "biased":
        return str(row["verdict"])
    return "biased up" if row["bias"] > 0 else "biased down"


def _plain(row: pd.Series) -> dict[str, Any]:
    return {key: value if isinstance(value, str) else float(value) for key, value in row.items()}
