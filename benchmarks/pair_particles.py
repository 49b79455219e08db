"""How many draws a row train the row latents of a user's pair.

    python -m benchmarks.pair_particles

Counts whose log rate varies between rows (Poisson-log-normal, whose likelihood a quadrature
gives) and a linear chain with half of its causes missing, both without a guide. Printed: how
far the log density of the fitted parameters lies below the best one, nats a row, and seconds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from scipy.optimize import minimize
from scipy.special import gammaln, logsumexp
from scipy.stats import multivariate_normal

import probgen as pg

POSITIVE = dist.constraints.positive


def counts(batch: Any) -> None:
    """A Poisson count with a normal log rate."""
    loc = pyro.param("loc", torch.tensor(0.0))
    scale = pyro.param("scale", torch.tensor(0.3), constraint=POSITIVE)
    with batch.rows():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("count", dist.Poisson((loc + scale * z).exp()), obs=batch["count"])


def chain(batch: Any) -> None:
    """y given x, both modelled."""
    mu, a, b = (pyro.param(name, torch.tensor(0.0)) for name in ("mu", "a", "b"))
    sx, s = (pyro.param(n, torch.tensor(1.0), constraint=POSITIVE) for n in ("sx", "s"))
    with batch.rows():
        x = pyro.sample("x", dist.Normal(mu, sx), obs=batch["x"])
        pyro.sample("y", dist.Normal(a + b * x, s), obs=batch["y"])


def counts_loss(table: pd.DataFrame, v: Any) -> float:
    """Minus the mean log mass by quadrature, at (loc, log scale)."""
    value = table["count"].to_numpy()
    z, w = np.polynomial.hermite_e.hermegauss(80)
    rate = v[0] + np.exp(v[1]) * z
    log_p = value[:, None] * rate - np.exp(rate) - gammaln(value + 1)[:, None]
    return -float(logsumexp(log_p, b=w / w.sum(), axis=1).mean())


def chain_loss(table: pd.DataFrame, v: Any) -> float:
    """Minus the mean log density of the seen cells, at (mu, log sx, a, b, log s)."""
    mu, sx, a, b, s = v[0], np.exp(v[1]), v[2], v[3], np.exp(v[4])
    cov = np.array([[sx**2, b * sx**2], [b * sx**2, b**2 * sx**2 + s**2]])
    mean, rows, total = np.array([mu, a + b * mu]), table.to_numpy(), 0.0
    for pick in (np.array([True, True]), np.array([False, True])):
        part = rows[(~np.isnan(rows) == pick).all(1)][:, pick]
        total -= multivariate_normal(mean[pick], cov[pick][:, pick]).logpdf(part).sum()
    return total / len(rows)


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=400)
    args = parser.parse_args(argv)
    print("problem   particles   below the best (nats a row)   seconds")
    for name in ("counts", "chain"):
        for particles in (1, 2, 4, 8, 16, 32):
            short, seconds = [], []
            for seed in range(args.seeds):
                rng = np.random.default_rng(seed)
                if name == "counts":
                    z = rng.normal(size=args.rows)
                    table = pd.DataFrame({"count": rng.poisson(np.exp(1.0 + 0.8 * z))})
                    model, loss, first = counts, counts_loss, [1.0, -0.5]
                    order: list[tuple[str, Any]] = [("loc", float), ("scale", np.log)]
                else:
                    x = rng.normal(2, 1.5, args.rows)
                    table = pd.DataFrame({"x": x, "y": 1 + 0.8 * x + rng.normal(size=args.rows)})
                    table.loc[::2, "x"] = np.nan
                    model, loss, first = chain, chain_loss, [0.0] * 5
                    order = [("mu", float), ("sx", np.log), ("a", float), ("b", float),
                             ("s", np.log)]  # fmt: skip
                best = minimize(lambda v, loss=loss, t=table: loss(t, v), first).fun
                clock = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    fit = pg.Pair(model, particles=particles, random_state=seed).fit(table)
                seconds.append(time.perf_counter() - clock)
                short.append(loss(table, [f(fit.params_[n]) for n, f in order]) - best)
            spread = np.std(short) / len(short) ** 0.5
            print(f"{name:9} {particles:9d}   {np.mean(short):10.4f} ± {spread:.4f}"
                  f"             {np.mean(seconds):7.1f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
