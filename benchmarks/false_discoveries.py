"""Realised false discovery rate of flags, by rows held apart and by the model's own tail.

Rows come from a skewed, heavy-tailed source that the models do not describe; six of 60 new rows
are planted outliers. A hundred tables; 200 rows fitted and 200 held apart. Last, how long it takes
to judge a wide table.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd

import probgen as pg

TABLES, ODD, NEW = 100, 6, 60
MODELS: dict[str, Callable[[int], pg.Density]] = {
    "GaussianMixture(1)": lambda seed: pg.GaussianMixture(1, random_state=seed, draws=0),
    "Independent": lambda seed: pg.Independent(random_state=seed, draws=0, max_epochs=15),
}


def source(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Skewed x, and y with the tails of Student's t with two degrees of freedom."""
    x = rng.exponential(size=n)
    return pd.DataFrame({"x": x, "y": x + rng.standard_t(2, n)})


def rates(make: Callable[[int], pg.Density], fdr: float) -> dict[str, tuple[float, float, float]]:
    """By method: false discovery rate, its standard error, share of planted rows found."""
    found: dict[str, list[tuple[float, float]]] = {"auto": [], "model": []}
    for seed in range(TABLES):
        rng = np.random.default_rng(seed)
        model = make(seed).fit(source(400, rng), calibration=0.5)
        new = source(NEW, rng)
        new.loc[: ODD - 1, "x"] += 12.0
        new.loc[: ODD - 1, "y"] -= 12.0
        for method, results in found.items():
            frame = model.outliers(new, fdr=fdr, samples=1000, method=method)  # type: ignore[arg-type]
            flag = frame["flag"].to_numpy()
            results.append((flag[ODD:].sum() / max(1, flag.sum()), flag[:ODD].mean()))
    out = {}
    for method, results in found.items():
        false, right = np.array(results).T
        out[method] = (false.mean(), false.std(ddof=1) / np.sqrt(TABLES), right.mean())
    return out


def main() -> None:
    """Print a line for each model, rate and method."""
    warnings.simplefilter("ignore")
    print("model               fdr   method  realised      se   found")
    for name, make in MODELS.items():
        for fdr in (0.1, 0.2):
            for method, (rate, se, right) in rates(make, fdr).items():
                print(f"{name:18} {fdr:4}  {method:>6}   {rate:7.3f} {se:7.3f} {right:7.2f}")
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 60)))
    for name, make in MODELS.items():
        model = make(0).fit(wide)
        clock = time.process_time()
        model.outliers(wide)
        judged = time.process_time() - clock
        model.explain(wide)
        print(f"{name}: 200 x 60, outliers {judged:.2f} s, "
              f"explain {time.process_time() - clock - judged:.2f} s")  # fmt: skip


if __name__ == "__main__":
    main()
