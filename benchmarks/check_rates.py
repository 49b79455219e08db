"""How often `check` is wrong: false alarms on good fits, and faults that it catches.

False alarms are counted over well-specified simulations: mixtures, Student's t, independent
columns and linear regressions drawn afresh, fitted by the family that they come from, and
judged by as many held-out rows. Detection is counted over seeds of each fault.

    python benchmarks/check_rates.py --simulations 60 --seeds 5
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist

import probgen as pg
from probgen.datasets import penguins
from probgen.diagnostics.report import Report

Frame = pd.DataFrame
warnings.simplefilter("ignore")


def clusters(n: int, rng: np.random.Generator, seed: int) -> Frame:
    """Three normal clusters in four columns, and a label that depends on them."""
    own = np.random.default_rng(seed)
    centre, root = 3 * own.normal(size=(3, 4)), 0.5 * own.normal(size=(3, 4, 4))
    share = own.dirichlet(np.ones(3), size=3)
    k = rng.integers(3, size=n)
    x = centre[k] + np.einsum("nij,nj->ni", root[k] + np.eye(4), rng.normal(size=(n, 4)))
    label = [rng.choice(list("abc"), p=share[i]) for i in k]
    return pd.DataFrame(x, columns=list("wxyz")).assign(label=label)


def heavy(n: int, rng: np.random.Generator, seed: int) -> Frame:
    """A multivariate Student's t with 4 degrees of freedom in five columns."""
    root = np.random.default_rng(seed).normal(size=(5, 5))
    x = rng.normal(size=(n, 5)) @ root / np.sqrt(rng.chisquare(4, size=(n, 1)) / 4)
    return pd.DataFrame(x, columns=list("abcde"))


def apart(n: int, rng: np.random.Generator, seed: int) -> Frame:
    """Independent columns of several kinds."""
    return pd.DataFrame({
        "gamma": rng.gamma(2.0, size=n), "count": rng.poisson(3.0, n),
        "level": rng.choice(list("abcd"), n, p=[0.1, 0.2, 0.3, 0.4]), "real": rng.normal(size=n),
    })  # fmt: skip


def line(n: int, rng: np.random.Generator, seed: int) -> Frame:
    """y given x, linear."""
    x = rng.normal(size=n)
    slope = np.random.default_rng(seed).normal()
    return pd.DataFrame({"x": x, "y": 1 + slope * x + rng.normal(size=n)})


def regression(batch: object) -> None:
    """The model of `line`."""
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    s = pyro.sample("s", dist.HalfNormal(5.0))
    with batch.rows():  # type: ignore[attr-defined]
        pyro.sample("y", dist.Normal(a + b * batch["x"], s), obs=batch["y"])  # type: ignore[index]


GOOD: dict[str, tuple[Callable[..., Frame], Callable[[int], pg.Density], list[str]]] = {
    "mixture": (clusters, lambda s: pg.GaussianMixture(3, random_state=s), []),
    "student": (heavy, lambda s: pg.StudentT(random_state=s), []),
    "independent": (apart, lambda s: pg.Independent(random_state=s), []),
    "pair": (line, lambda s: pg.Pair(regression, max_epochs=100, random_state=s), ["x"]),
}


def checked(
    name: str, seed: int, n: int, change: Callable[[Frame], Frame] | None = None
) -> Report:
    """The report of one well-specified fit, of rows that may have been changed."""
    draw, make, given = GOOD[name]
    rng = np.random.default_rng([seed, 7])
    train, held = draw(n, rng, seed), draw(n, rng, seed)
    model = make(seed).fit(train, given=given)
    return model.check(change(held) if change else held, train=train)


def early(seed: int, n: int) -> Report:
    """A mixture of a real table stopped by a loose tolerance: three epochs end clear clusters."""
    rows = penguins().sample(frac=1, random_state=seed)
    train, held = rows[:240], rows[240:]
    model = pg.GaussianMixture(5, random_state=seed, starts=1, tolerance=0.5).fit(train)
    return model.check(held, train=train)


def greedy(seed: int, n: int) -> Report:
    """A mixture that spends a component on every few rows."""
    rng = np.random.default_rng([seed, 7])
    train, held = clusters(60, rng, seed), clusters(n, rng, seed)
    settings = {"spread": 1e-3, "posterior": "mean_field", "random_state": seed}
    return pg.GaussianMixture(25, **settings).fit(train).check(held, train=train)


FAULTS: dict[str, Callable[[int, int], Report]] = {
    "stopped early": early,
    "overfitted": greedy,
    "times 1000": lambda s, n: checked("mixture", s, n, lambda t: t.assign(x=1000 * t["x"])),
    "shares shuffled": lambda s, n: checked(
        "mixture", s, n, lambda t: t.assign(w=t["w"].sample(frac=1, random_state=s).to_numpy())
    ),
}


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=300)
    options = parser.parse_args()
    clock, wrong, reasons = time.perf_counter(), 0, Counter[str]()
    names = list(GOOD)
    for i in range(options.simulations):
        report = checked(names[i % len(names)], i, options.rows)
        wrong += report.density == "no"
        own = f"{names[i % len(names)]}: "
        reasons.update(own + r for r in report.reasons("density") if report.density == "no")
    print(f"fit for density: no in {wrong} of {options.simulations} good fits {dict(reasons)}",
          flush=True)  # fmt: skip
    for name, fault in FAULTS.items():
        reports = [fault(seed, options.rows) for seed in range(options.seeds)]
        caught = sum(report.density == "no" for report in reports)
        why = Counter(r for report in reports for r in report.reasons("density"))
        print(f"{name}: caught {caught} of {len(reports)} {dict(why)}", flush=True)
    print(f"{time.perf_counter() - clock:.0f} s")


if __name__ == "__main__":
    main()
