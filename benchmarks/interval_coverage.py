"""Do posterior intervals of log density cover, at 50, 80 and 95 %?

**Truths from the prior.** `calibrate` draws truths from the model's own prior, fits the tables
that they generate, and looks whether intervals of log p held the truth, at rows of the table and
at points fixed beforehand. An exact posterior covers at its nominal rate. The band, stated
beforehand: the nominal rate plus or minus three binomial standard errors of the simulations,
and nothing else. (A figure is an average over two rows, or over two points, of a table, whose
standard error is smaller.) Families beyond the mixture and pairs join through the registry of
the contract tests.

**Fixed truths.** Two normals some standard deviations apart, in three versions drawn by seed, and
normals far apart with a small one among them, or with components to spare in the fit.
At a fixed truth no posterior promises its nominal rate; what counts is that the verdict for
intervals of `check(table, train=table)` is "no" wherever the coverage of 80 % intervals falls
below 0.70 (a tenth below nominal) for good: by more than two standard errors.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch

import probgen as pg
from probgen.batch import Batch
from probgen.evaluation import Simulations
from probgen.evaluation.simulations import NOMINAL
from probgen.gibbs import posterior_draws
from probgen.queries.intervals import quantiles

#: standard errors that a coverage may lie off its nominal rate
BAND = 3.0
#: coverage of 80 % intervals below which a verdict of "yes" is wrong
FLOOR = 0.70
#: the rule that is put to the test beside the verdict: the least purity of a component, which
#: is the mean responsibility p of its rows, weighed by p. An empty component, or one that
#: shares its rows with others, has less.
PURE = 0.95


# --- truths from the prior ----------------------------------------------------------------------


def plain(d: int) -> pg.Schema:
    """d real columns, neither centred nor scaled."""
    return pg.Schema(tuple(pg.Column(f"x{i}", "real", "float64") for i in range(d)))


def normals(d: int, n: int, seed: int = 0) -> pd.DataFrame:
    """Any table of these columns: the prior of a fixed schema does not look at it."""
    values = np.random.default_rng(seed).normal(size=(n, d))
    return pd.DataFrame(values, columns=[f"x{i}" for i in range(d)])


def mixture(k: int, d: int, n: int, **settings: Any) -> Callable[[int], Simulations]:
    """Calibration of a mixture over d real columns."""

    def run(simulations: int) -> Simulations:
        own = {"random_state": 0} | settings
        model = pg.GaussianMixture(k, schema=plain(d), **own).fit(normals(d, n))
        return model.calibrate(simulations)

    return run


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


def pair(n: int, **settings: Any) -> Callable[[int], Simulations]:
    """Calibration of a hierarchical pair."""

    def run(simulations: int) -> Simulations:
        rng = np.random.default_rng(0)
        table = pd.DataFrame({"group": [f"g{i % 6}" for i in range(n)], "y": rng.normal(size=n)})
        model = pg.Pair(hierarchical, random_state=0, **settings).fit(table, given=["group"])
        return model.calibrate(simulations, table)

    return run


def independent(n: int, kinds: str) -> Callable[[int], Simulations]:
    """Calibration of independent columns: levels only, or a real column as well."""

    def run(simulations: int) -> Simulations:
        rng = np.random.default_rng(0)
        table = pd.DataFrame({"a": rng.choice(list("xyz"), n), "b": rng.random(n) < 0.3})
        if kinds == "real":
            table["c"] = rng.normal(size=n)
        return pg.Independent(random_state=0).fit(table).calibrate(simulations)

    return run


def registered(name: str) -> Callable[[int], Simulations]:
    """Calibration of an entry of the registry, on its own table or the mixed one."""

    def run(simulations: int) -> Simulations:
        from tests.registry import subject

        own = subject(name)
        return own.fitted().calibrate(simulations, own.table() if own.given else None)

    return run


def settings() -> dict[str, Callable[[int], Simulations]]:
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
            found = run(simulations)
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


@dataclass(frozen=True)
class Fixed:
    """A mixture of normals in the plane: shares (c,), means and scales (c, 2)."""

    share: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def apart(cls, distance: float, seed: int) -> Fixed:
        """Two normals so many standard deviations apart."""
        rng = np.random.default_rng(seed)
        angle = rng.uniform(0, np.pi)
        step = distance / 2 * np.array([np.cos(angle), np.sin(angle)])
        share = rng.uniform(0.35, 0.65)
        scale = np.exp(rng.normal(0, 0.1, (2, 2)))
        return cls(np.array([share, 1 - share]), np.stack([-step, step]), scale)

    @classmethod
    def far(cls, *share: float) -> Fixed:
        """Up to three normals, six standard deviations apart."""
        mean = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])[: len(share)]
        return cls(np.array(share), mean, np.ones_like(mean))

    def table(self, n: int, seed: int) -> pd.DataFrame:
        """n rows."""
        rng = np.random.default_rng([seed, 7])
        label = rng.choice(len(self.share), n, p=self.share)
        rows = self.mean[label] + self.scale[label] * rng.normal(size=(n, 2))
        return pd.DataFrame(rows, columns=["x0", "x1"])

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """Of rows x (n, 2), nats."""
        z = (x[:, None] - self.mean) / self.scale
        each = -0.5 * (z**2).sum(-1) - np.log(self.scale).sum(-1) - np.log(2 * np.pi)
        return np.logaddexp.reduce(each + np.log(self.share), 1)


def one_fit(at: Fixed, k: int, n: int, seed: int, **settings: Any) -> dict[str, float]:
    """Coverage at the rows of one table, what `check` says, and what the rule would."""
    table = at.table(n, seed)
    model = pg.GaussianMixture(k, schema=plain(2), random_state=seed, **settings).fit(table)
    true = at.log_density(table.to_numpy())
    found: dict[str, float] = {}
    for level in NOMINAL:
        ends = model.log_prob(table, interval=level)
        found[f"{level}"] = float(((true >= ends["lower"]) & (true <= ends["upper"])).mean())
    p = model.latent(table).to_numpy()
    found["entropy"] = float(-(p * np.log(np.maximum(p, 1e-300))).sum(1).mean())
    found["purity"] = float(((p**2).sum(0) / np.maximum(p.sum(0), 1e-300)).min())
    found["rule no"] = float(found["purity"] < PURE)
    report = model.check(table, train=table)
    found["said no"] = float(report.intervals == "no")
    for finding in report.findings:
        if finding.name in ("k-hat of the guide", "mixing of the chain"):
            found[f"{finding.name.split()[0]} no"] = float(finding.status == "fail")
    return found


def designs(truths: int) -> Iterator[tuple[str, Fixed, int, int]]:
    """(name, truth, components of the fit, rows)."""
    for distance in (0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0):
        for seed in range(truths):
            yield f"{distance} sd apart, truth {seed}", Fixed.apart(distance, seed), 2, 200
    for distance in (1.5, 2.0, 3.0):
        yield f"{distance} sd apart, truth 1", Fixed.apart(distance, 1), 2, 1000
    yield "far apart, one small", Fixed.far(0.7, 0.25, 0.05), 3, 200
    yield "far apart, one component to spare", Fixed.far(0.6, 0.4), 3, 200
    yield "far apart, three to spare", Fixed.far(0.6, 0.4), 5, 200


def fixed(tables: int, truths: int = 3, **own: Any) -> None:
    """Print coverage beside the verdict of today and that of the rule."""
    for name, at, k, n in designs(truths):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = pd.DataFrame([one_fit(at, k, n, number, **own) for number in range(tables)])
        mean, se = rows.mean(), rows.std() / np.sqrt(tables)
        fails = mean["0.8"] + 2 * se["0.8"] < FLOOR
        wrong = [what for what in ("said no", "rule no") if fails and mean[what] < 0.9]
        numbers = ", ".join(f"{what} {value:.3f}" for what, value in mean.items())
        print(f"{own} k={k} n={n}, {name}: {numbers} (se of 0.8: {se['0.8']:.3f})"
              f"{' COVERAGE FAILS' if fails else ''}{' but not ' if wrong else ''}"
              f"{', '.join(wrong)}", flush=True)  # fmt: skip


def long_chain(tables: int = 6, draws: int = 1500) -> None:
    """Is it the chain, or the posterior? Long chains from the truth beside short ones.

    Coverage of 80 % intervals, and the mean share of the smaller component, of the chain that
    a fit runs and of one fifteen times as long that starts at the true parameters.
    """
    for distance, seed in ((1.5, 1), (1.5, 2), (2.0, 1), (2.0, 2)):
        at = Fixed.apart(distance, seed)
        start = {
            "weights": torch.tensor(at.share), "mean": torch.tensor(at.mean),
            "precision": torch.stack([torch.diag(torch.tensor(s) ** -2.0) for s in at.scale]),
        }  # fmt: skip
        found = []
        for number in range(tables):
            table = at.table(200, number)
            x = torch.from_numpy(table.to_numpy())
            model = pg.GaussianMixture(2, schema=plain(2), random_state=number, posterior="gibbs")
            family: Any = model.fit(table).members_[0]
            chain = posterior_draws(
                family.rows, family.plugin(start), family.plugin, family._draw_weights,
                Batch.of(x), draws, torch.Generator().manual_seed(number), forced=True,
            )  # fmt: skip
            true = at.log_density(table.to_numpy())
            for own in (family.refined, chain):
                ordered = family.exact_log_prob(Batch.of(x), own).sort(0).values
                low, high = (end.numpy() for end in quantiles(ordered, 0.8))
                smaller = float(own["weights"].min(1).values.mean())
                found.append((float(((true >= low) & (true <= high)).mean()), smaller))
        short, long = np.mean(found[::2], 0), np.mean(found[1::2], 0)
        print(f"{distance} sd apart, truth {seed}: short chain of the fit covers {short[0]:.2f}, "
              f"smaller component {short[1]:.3f}; {draws} draws from the truth {long[0]:.2f}, "
              f"{long[1]:.3f}", flush=True)  # fmt: skip


def main(data: str | None = None, simulations: int = 200, only: str = "") -> None:
    """Print all of them; `only` names a part of the settings, or "fixed"."""
    clock = time.perf_counter()
    torch.set_num_threads(1)
    if only != "fixed":
        from_the_prior(simulations, only)
    if only in ("", "fixed"):
        for posterior in ("mean_field", "gibbs"):
            fixed(simulations // 20, posterior=posterior)
        long_chain()
    print(f"{time.perf_counter() - clock:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    main(simulations=options.simulations, only=options.only)
