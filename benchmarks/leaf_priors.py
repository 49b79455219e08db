"""Which prior of the flexible leaves fits single columns best: mean KL to known shapes.

Six continuous shapes and three count shapes, three replicates each, at three sizes; the gap
is true minus fitted mean log density on 20,000 fresh values, nats. The mixtures of
`known_density.py` are the other half of the choice.
"""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
from scipy import stats

import probgen as pg
from probgen import estimators
from probgen.families.mixture import Mixture
from probgen.leaves import RealLeaf

SPIKE = 0.05
SHAPES = {
    "normal": stats.norm(),
    "gamma": stats.gamma(2.0),
    "t3": stats.t(3),
    "beta": stats.beta(2, 5),
    "uniform": stats.uniform(),
    "poisson": stats.poisson(7),
    "geometric": stats.geom(0.02),
    "rounded": stats.binom(60, 0.9),
}


def draw(name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """n values of a shape."""
    if name == "spiked":
        return np.where(rng.random(n) < 0.3, rng.normal(1, SPIKE, n), rng.normal(0, 1, n))
    return SHAPES[name].rvs(size=n, random_state=rng)


def log_density(name: str, x: np.ndarray) -> np.ndarray:
    """True log density of a shape."""
    if name == "spiked":
        return np.logaddexp(
            np.log(0.3) + stats.norm.logpdf(x, 1, SPIKE), np.log(0.7) + stats.norm.logpdf(x)
        )
    shape = SHAPES[name]
    return shape.logpmf(x) if hasattr(shape.dist, "pmf") else shape.logpdf(x)


def gap(name: str, n: int, seed: int, **setting: float) -> float:
    """KL from the truth to a fit of n values."""
    rng = np.random.default_rng([seed, n])
    train, test = draw(name, n, rng), draw(name, 20_000, rng)
    kind = "count" if name in ("poisson", "geometric", "rounded") else "real"

    class Tried(estimators.Independent):
        def _make(self, schema: pg.Schema) -> Mixture:
            return Mixture(schema, 1, "flexible", posterior="mean_field", **setting)

    frame = pd.DataFrame({"x": train.astype(np.int64) if kind == "count" else train})
    model = Tried(columns={"x": kind}, dequantise=False, random_state=0, draws=0).fit(frame)
    new = pd.DataFrame({"x": test.astype(np.int64) if kind == "count" else test})
    return float(np.mean(log_density(name, test) - model.log_prob(new)))


def main() -> None:
    """Print the mean gap of each setting at each size, real shapes and counts apart."""
    warnings.simplefilter("ignore")
    names = [*SHAPES, "spiked"]
    for power, spread, strength in itertools.product(
        (0.0, 1.0, 2.0), (0.002, 0.005, 0.02), (0.3, 1.0)
    ):
        RealLeaf.EMPHASIS = power
        told = []
        for n in (100, 400, 2000):
            found = {
                name: np.mean([
                    gap(name, n, seed, leaf_spread=spread, leaf_strength=strength)
                    for seed in range(2)
                ])
                for name in names
            }  # fmt: skip
            counts = [found.pop(name) for name in ("poisson", "geometric", "rounded")]
            told.append(f"{np.mean(list(found.values())):.4f} ({np.mean(counts):.4f})")
        print(f"emphasis {power} spread {spread} strength {strength}: n=100, 400, 2000:",
              "  ".join(told), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
