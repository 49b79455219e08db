"""Noise on real cells of small tables: which levels to try, up to how many rows, at what cost.

    python -m benchmarks.noise [--rows 200 1000] [--only flow autoregressive vae] [--seeds 1]

Each table is cut to a number of rows and fitted at each level of noise; held-out rows that no fit
saw judge it. Printed are nats a row against a Gaussian mixture of the same rows with the standard
error of the difference, epochs and seconds, and at the end, over tables, the mean of what fixed
levels and the choice by held-out rows (`noise="auto"`) reach.

--what batch or rate tries numbers of rows a step, or learning rates, instead of noise.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_wine, make_moons

import probgen as pg
from probgen.datasets import penguins
from probgen.estimators.network import NetworkDensity

LEVELS = (0.0, 0.05, 0.1, 0.2, 0.4)
TRIED: dict[str, list[dict[str, Any]]] = {
    "noise": [{"noise": level} for level in LEVELS],
    "batch": [{"noise": 0.1, "batch_size": size} for size in (32, 64, 128, 256)],
    "rate": [{"noise": 0.1, "learning_rate": rate} for rate in (1e-3, 3e-3, 5e-3, 1e-2)],
}
TEST = 3000
FAMILIES: dict[str, type[NetworkDensity]] = {
    "flow": pg.Flow, "autoregressive": pg.Autoregressive, "vae": pg.VAE
}  # fmt: skip


def simulated(seed: int) -> dict[str, pd.DataFrame]:
    """Tables whose source can be drawn from without end."""
    rng = np.random.default_rng(seed)
    n = TEST + 5000
    a, b, c = rng.normal(size=(3, n))
    bent = pd.DataFrame({"a": a, "b": a**2 + 0.5 * b, "c": np.exp(0.5 * b + 0.3 * c)})
    moons = pd.DataFrame(make_moons(n, noise=0.1, random_state=seed)[0], columns=["x", "y"])
    wide = pd.DataFrame(rng.standard_t(5, (n, 8)) @ rng.normal(size=(8, 8)))
    wide.columns = [f"v{i}" for i in range(8)]
    group = rng.integers(3, size=n)
    mixed = pd.DataFrame({
        "group": np.array(["p", "q", "r"])[group], "count": rng.poisson(2 + 3 * group),
        "x": group + np.sin(2 * a) + 0.3 * b, "y": a * (group + 1) + 0.2 * c,
    })  # fmt: skip
    return {"bent": bent, "moons": moons, "wide": wide, "mixed": mixed}


def real() -> dict[str, pd.DataFrame]:
    """Small tables of measurements."""
    cancer = load_breast_cancer(as_frame=True).data.iloc[:, :6]
    return {"cancer": cancer, "wine": load_wine(as_frame=True).data, "penguins": penguins()}


def split(table: pd.DataFrame, rows: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to fit, and others."""
    mixed = table.sample(frac=1, random_state=seed).reset_index(drop=True)
    rows = min(rows, int(0.7 * len(mixed)))
    return mixed[:rows], mixed[rows : rows + TEST]


def fitted(family: str, train: pd.DataFrame, schema: Any, **settings: Any) -> Any:
    """A quiet fit and its seconds."""
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FAMILIES[family](schema=schema, random_state=0, **settings).fit(train)
    return model, time.perf_counter() - begin


def scores(model: Any, test: pd.DataFrame) -> np.ndarray:
    """Log density of each row; levels that the fit did not see are the reserved one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.log_prob(test, unseen="rare").to_numpy()


def run(family: str, rows: int, seed: int, what: str) -> pd.DataFrame:
    """Gains over the mixture by table (rows) and setting (columns)."""
    found = {}
    for name, table in {**simulated(seed), **real()}.items():
        train, test = split(table, rows, seed)
        schema = pg.Schema.infer(train)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mixture = pg.GaussianMixture(8, schema=schema, random_state=0).fit(train)
        base, gains, held = scores(mixture, test), {}, {}
        for setting in TRIED[what]:
            model, seconds = fitted(family, train, schema, **setting)
            gain = scores(model, test) - base
            key = list(setting.values())[-1]
            gains[key], held[key] = gain.mean(), min(model.result_.validation)
            print(f"  {family} {name:9} n={len(train):5} {setting} {gain.mean():+.3f} ± "
                  f"{gain.std() / len(gain) ** 0.5:.3f}  {model.result_.epochs} epochs "
                  f"{seconds:.1f} s", flush=True)  # fmt: skip
        found[name] = gains | {"chosen": gains[min(held, key=held.__getitem__)]}
    return pd.DataFrame(found).T


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", default="noise", choices=list(TRIED))
    parser.add_argument("--rows", nargs="*", type=int, default=[200, 1000])
    parser.add_argument("--only", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    for family in arguments.only:
        for rows in arguments.rows:
            parts = [run(family, rows, s, arguments.what) for s in range(arguments.seeds)]
            print(f"-- {family}, {rows} rows: nats a row over the mixture")
            print(pd.concat(parts).groupby(level=0).mean().round(3).to_string())
            print(pd.concat(parts).mean().round(3).to_string(), flush=True)


if __name__ == "__main__":
    main()
