"""Leave-one-out beside refits: does it agree, and does it catch a guide that is too narrow?

    python -m benchmarks.loo

1. A regression on five predictors of pairwise correlation 0.97, n = 100: `az.loo`, which takes
   the draws for those of the posterior, against `model.loo`, for both guides of a `Pair`.
2. A mixture of the penguins: leave-one-out on its Gibbs draws against 10-fold refits.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch

import probgen as pg
from probgen.datasets import penguins

PREDICTORS = [f"x{i}" for i in range(5)]


def correlated(n: int = 100) -> pd.DataFrame:
    """Five predictors that nearly say the same, and what follows from them."""
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal(np.zeros(5), np.full((5, 5), 0.97) + 0.03 * np.eye(5), n)
    return pd.DataFrame(x, columns=PREDICTORS).assign(y=0.5 * x.sum(1) + rng.normal(size=n))


def regression(batch) -> None:
    """Coefficients ~ N(0, 1), noise ~ HalfNormal(1)."""
    b = pyro.sample("b", dist.Normal(torch.zeros(5).double(), 1.0).to_event(1))
    s = pyro.sample("s", dist.HalfNormal(torch.tensor(1.0).double()))
    with batch.rows():
        loc = sum(b[i] * batch[name] for i, name in enumerate(PREDICTORS))
        pyro.sample("y", dist.Normal(loc, s), obs=batch["y"])


def guides() -> None:
    """Share of bad rows, plain and corrected."""
    import arviz as az

    table = correlated()
    for guide in ("mean_field", "multivariate"):
        model = pg.Pair(regression, guide=guide, random_state=0, draws=1000)
        model.fit(table, given=PREDICTORS)
        plain = az.loo(model.to_arviz(table), pointwise=True)
        bad = float((np.asarray(plain.pareto_k) > 0.7).mean())
        loo = model.loo(table)
        print(f"{guide:<13} bad rows: az.loo {bad:.2f}  corrected {loo.bad:.2f}"
              f"  elpd {loo.elpd:.1f}")  # fmt: skip


def folds(seeds: int) -> None:
    """Leave-one-out of a mixture beside refits."""
    table = penguins()
    for seed in range(seeds):
        model = pg.GaussianMixture(components=6, random_state=seed, draws=400).fit(table)
        for method in ("auto", "folds"):
            start = time.perf_counter()
            loo = model.loo(table, method=method)
            seconds = time.perf_counter() - start
            print(f"seed {seed} {method:<6} elpd {loo.elpd:.1f} (se {loo.se:.1f})"
                  f"  bad {loo.bad:.3f}  {seconds:.0f} s")  # fmt: skip
            rows = loo.pointwise["elpd"]
            if method == "auto":
                first = rows
        gap = first - rows
        error = len(gap) ** 0.5 * gap.std()
        print(f"seed {seed} difference {gap.sum():.1f} (se {error:.1f})")


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    guides()
    folds(chosen.seeds)


if __name__ == "__main__":
    main()
