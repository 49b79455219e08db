"""Do posterior intervals of log density cover, at 50, 80 and 95 %?

**Truths from the prior.** `calibrate` draws truths from the model's own prior, fits the tables
that they generate, and looks whether intervals of log p held the truth, at rows of the table and
at points fixed beforehand. An exact posterior covers at its nominal rate. The band, stated
beforehand: the nominal rate plus or minus three binomial standard errors of the simulations,
and nothing else. (A figure is an average over two rows, or over two points, of a table, whose
standard error is smaller.) Families beyond the mixture and pairs join through the registry of
the contract tests.

**Fixed truths.** Two normals some standard deviations apart, in three versions drawn by seed.
At a fixed truth no posterior promises its nominal rate; what counts is that the verdict for
intervals of `check(table, train=table)` is "no" wherever the coverage of 80 % intervals falls
below 0.70 (a tenth below nominal) for good: by more than two standard errors.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch

import probgen as pg
from probgen.evaluation import Simulations
from probgen.evaluation.simulations import NOMINAL

#: standard errors that a coverage may lie off its nominal rate
BAND = 3.0
#: coverage of 80 % intervals below which a verdict of "yes" is wrong
FLOOR = 0.70
#: the rule that is put to the test beside the verdict: entropy of a row's label (nats), and the
#: share of the rows that the smallest component holds
OVERLAP, EMPTY = 0.08, 0.1


# --- truths from the prior ----------------------------------------------------------------------


def plain(d: int) -> pg.Schema:
    """d real columns, neither centred nor scaled."""
    return pg.Schema(tuple(pg.Column(f"x{i}", "real", "float64") for i in range(d)))


def normals(d: int, n: int, seed: int = 0) -> pd.DataFrame:
    """Any table of these columns: the prior of a fixed schema does not look at it."""
    values = np.random.default_rng(seed).normal(size=(n, d))
    return pd.DataFrame(values, columns=[f"x{i}" for i in range(d)])


def mixture(k: int, d: int, n: int, **settings: Any) -> Callable[[], Simulations]:
    """Calibration of a mixture over d real columns."""

    def run(simulations: int) -> Simulations:
        own = {"random_state": 0} | settings
        model = pg.GaussianMixture(k, schema=plain(d), **own).fit(normals(d, n))
        return model.calibrate(simulations)

    return run  # type: ignore[return-value]


def hierarchical(batch: Any) -> None:
    """Groups with means around a common one, measured in y."""
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = pyro.sample("spread", dist.HalfNormal(2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    with pyro.plate("groups", 6):
        offset = pyro.sample("offset", dist.Normal(0.0, 1.0))
    with batch.rows():
        loc = mean + spread * offset[batch["group"].long()]
        pyro.sample("y", dist.Normal(loc, sigma), obs=batch["y"])


def pair(n: int, **settings: Any) -> Callable[[], Simulations]:
    """Calibration of a hierarchical pair."""

    def run(simulations: int) -> Simulations:
        rng = np.random.default_rng(0)
        table = pd.DataFrame({"group": [f"g{i % 6}" for i in range(n)], "y": rng.normal(size=n)})
        model = pg.Pair(hierarchical, random_state=0, **settings).fit(table, given=["group"])
        return model.calibrate(simulations, table)

    return run  # type: ignore[return-value]


def independent(n: int, kinds: str) -> Callable[[], Simulations]:
    """Calibration of independent columns: levels only, or a real column as well."""

    def run(simulations: int) -> Simulations:
        rng = np.random.default_rng(0)
        table = pd.DataFrame({"a": rng.choice(list("xyz"), n), "b": rng.random(n) < 0.3})
        if kinds == "real":
            table["c"] = rng.normal(size=n)
        return pg.Independent(random_state=0).fit(table).calibrate(simulations)

    return run  # type: ignore[return-value]


def registered(name: str) -> Callable[[], Simulations]:
    """Calibration of an entry of the registry, on its own table or the mixed one."""

    def run(simulations: int) -> Simulations:
        from tests.registry import subject

        own = subject(name)
        return own.fitted().calibrate(simulations, own.table() if own.given else None)

    return run  # type: ignore[return-value]


def settings() -> dict[str, Callable[[], Simulations]]:
    """What is calibrated, by name."""
    found = {
        f"mixture {posterior} k={k} d={d} n={n}": mixture(k, d, n, posterior=posterior)
        for posterior in ("gibbs", "mean_field")
        for k, d, n in ((2, 2, 60), (2, 2, 200), (3, 2, 200), (4, 1, 100), (1, 3, 50))
    }
    found |= {
        "independent, levels n=60": independent(60, "levels"),
        "independent, with a real column n=60": independent(60, "real"),
        "pair normal n=60": pair(60),
        "pair multivariate n=60": pair(60, globals_guide="multivariate"),
    }
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.registry import REGISTRY

    known = ("independent", "mixture", "pair", "student")
    return found | {name: registered(name) for name in REGISTRY if not name.startswith(known)}


def told(found: Simulations) -> tuple[str, bool]:
    """Coverage at rows and at points, and whether all of it lies in the band."""
    parts, good = [], True
    for what in ("row", "point"):
        names = [name for name in found.ranks if str(name).startswith(f"log p({what}")]
        for level in NOMINAL:
            rate = float(found.covered[level][names].to_numpy().mean())
            inside = abs(rate - level) <= BAND * found.coverage_error(level)
            good &= inside
            parts.append(f"{what} {level:.2f}: {rate:.3f}{'' if inside else ' OUT'}")
    return ", ".join(parts), good


def from_the_prior(simulations: int, only: str = "") -> None:
    """Print the coverage and the verdicts of each setting."""
    for name, run in settings().items():
        if only not in name:
            continue
        try:
            found = run(simulations)  # type: ignore[call-arg]
        except pg.NotSupported as error:
            print(f"{name}: {error}", flush=True)
            continue
        text, good = told(found)
        bad = found.summary[found.summary["verdict"] != "ok"]
        verdicts = ", ".join(
            f"{q} {row['verdict']} (bias {row['bias']:+.2f}, spread {row['spread']:.2f})"
            for q, row in bad.iterrows()
        )
        print(f"{name}: {text}; {'inside' if good else 'OUTSIDE'} the band; "
              f"ranks: {verdicts or 'all ok'}; {len(found)} of {simulations}, "
              f"{found.seconds:.0f} s", flush=True)  # fmt: skip


# --- fixed truths -------------------------------------------------------------------------------


def truth(seed: int, apart: float) -> tuple[float, np.ndarray, np.ndarray]:
    """Share of the first component, means (2, 2) and scales (2, 2) of two normals."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, np.pi)
    step = apart / 2 * np.array([np.cos(angle), np.sin(angle)])
    return rng.uniform(0.35, 0.65), np.stack([-step, step]), np.exp(rng.normal(0, 0.1, (2, 2)))


def log_density(x: np.ndarray, at: tuple[float, np.ndarray, np.ndarray]) -> np.ndarray:
    """Of rows x (n, 2), nats."""
    share, mean, scale = at
    z = (x[:, None] - mean) / scale
    each = -0.5 * (z**2).sum(-1) - np.log(scale).sum(-1) - np.log(2 * np.pi)
    return np.logaddexp(each[:, 0] + np.log(share), each[:, 1] + np.log1p(-share))


def table_of(at: tuple[float, np.ndarray, np.ndarray], n: int, seed: int) -> pd.DataFrame:
    """n rows of a truth."""
    share, mean, scale = at
    rng = np.random.default_rng([seed, 7])
    label = (rng.random(n) >= share).astype(int)
    return pd.DataFrame(mean[label] + scale[label] * rng.normal(size=(n, 2)), columns=["x0", "x1"])


def one_fit(at: Any, n: int, seed: int, **settings: Any) -> dict[str, float]:
    """Coverage at the rows of one table, and what `check` says."""
    table = table_of(at, n, seed)
    model = pg.GaussianMixture(2, schema=plain(2), random_state=seed, **settings).fit(table)
    true = log_density(table.to_numpy(), at)
    found: dict[str, float] = {}
    for level in NOMINAL:
        ends = model.log_prob(table, interval=level)
        inside = (true >= ends["lower"]) & (true <= ends["upper"])
        found[f"{level}"] = float(inside.mean())
    report = model.check(table, train=table)
    p = model.latent(table).to_numpy()
    found["entropy"] = float(-(p * np.log(np.maximum(p, 1e-300))).sum(1).mean())
    found["smallest"] = float(p.mean(0).min())
    found["said no"] = float(report.intervals == "no")
    found["rule no"] = float(found["entropy"] > OVERLAP or found["smallest"] < EMPTY)
    named = {finding.name: finding for finding in report.findings}
    if "k-hat of the guide" in named:
        found["khat no"] = float(named["k-hat of the guide"].status == "fail")
    if "mixing of the chain" in named:
        found["mixing no"] = float(named["mixing of the chain"].status == "fail")
    return found


def fixed(tables: int, n: int, distances: tuple[float, ...], truths: int = 3, **own: Any) -> None:
    """Print coverage beside the verdict, by distance of the components and by truth."""
    for apart in distances:
        for seed in range(truths):
            at = truth(seed, apart)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows = pd.DataFrame([one_fit(at, n, number, **own) for number in range(tables)])
            mean, se = rows.mean(), rows.std() / np.sqrt(tables)
            fails = mean["0.8"] + 2 * se["0.8"] < FLOOR
            wrong = [what for what in ("said no", "rule no") if fails and mean[what] < 0.9]
            numbers = ", ".join(f"{name} {value:.3f}" for name, value in mean.items())
            print(f"{own} n={n} {apart} sd apart, truth {seed}: {numbers} (se of 0.8: "
                  f"{se['0.8']:.3f}){' COVERAGE FAILS' if fails else ''}"
                  f"{' but not ' if wrong else ''}{', '.join(wrong)}", flush=True)  # fmt: skip


def main(data: str | None = None, simulations: int = 200, only: str = "") -> None:
    """Print all of them; `only` names a part of the settings, or "fixed"."""
    clock = time.perf_counter()
    torch.set_num_threads(1)
    if only != "fixed":
        from_the_prior(simulations, only)
    if only in ("", "fixed"):
        for posterior in ("mean_field", "gibbs"):
            fixed(simulations // 10, 200, (0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0), posterior=posterior)
            fixed(simulations // 20, 1000, (1.0, 1.5, 2.0, 3.0, 4.0), posterior=posterior)
    print(f"{time.perf_counter() - clock:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    main(simulations=options.simulations, only=options.only)
