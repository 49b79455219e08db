"""How far from its optimum a mixture stopped, and whether `check` says so.

Each fit is made with a loose, a middling and the default tolerance, and trained to the end
from the same start. The distance is what the fully trained fit gains on held-out rows, nats
a row. A fit that is more than 0.05 away should fail the finding "convergence"; one that is
nearer may still have a loss that falls: on the training rows alone. Printed are the falls of
the loss of each fit when trained on, and how often a limit on them speaks.

    python benchmarks/early_stopping.py --seeds 10
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings

import numpy as np
import pandas as pd
from check_rates import clusters, heavy

import probgen as pg
from probgen.datasets import penguins
from probgen.diagnostics.checks.convergence import trained_on
from probgen.table import encode

warnings.simplefilter("ignore")
#: held-out nats a row from which a fit should be called too early
FAR = 0.05
TOLERANCES = (0.5, 0.05, 1e-3)
EPOCHS = (10, 25, 50, 100, 200)


def tables(name: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to fit, and held-out rows."""
    rng = np.random.default_rng([seed, 7])
    if name == "penguins":
        rows = penguins().sample(frac=1, random_state=seed)
        return rows[:240], rows[240:]
    draw = {"clusters": clusters, "heavy": heavy}[name]
    return draw(300, rng, seed), draw(1000, rng, seed)


def one(name: str, seed: int, tolerance: float) -> dict[str, object]:
    """Distance of one fit, and the losses of going on."""
    train, held = tables(name, seed)
    settings = {"components": 3 if name == "clusters" else 5, "random_state": seed}
    settings["starts"] = 4 if tolerance == TOLERANCES[-1] else 1
    early = pg.GaussianMixture(**settings, tolerance=tolerance, draws=0).fit(train)
    end = pg.GaussianMixture(**settings, tolerance=1e-7, max_epochs=3000, draws=0).fit(train)
    far = float(np.mean(end.log_prob(held)) - np.mean(early.log_prob(held)))
    batch = early._batch(encode(train, early.schema_), early._device)
    losses = trained_on(early.members_[0], batch, early.results_[0], max(EPOCHS))
    losses += [losses[-1]] * (max(EPOCHS) - len(losses))  # nothing more to gain
    return {"table": name, "seed": seed, "tolerance": tolerance, "far": far,
            "epochs": early.results_[0].epochs, "losses": losses}  # fmt: skip


def main() -> None:
    """Print distances, and errors of the rules."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    clock, found = time.perf_counter(), []
    for name, seed in itertools.product(("clusters", "heavy", "penguins"), range(options.seeds)):
        for tolerance in TOLERANCES:
            row = one(name, seed, tolerance)
            found.append(row)
            losses = np.array(row["losses"])
            gains = [f"{losses[0] - losses[n - 1]:.3f}" for n in EPOCHS]
            print(name, seed, tolerance, "epochs", row["epochs"], f"far {row['far']:+.3f}",
                  "gains", *gains, flush=True)  # fmt: skip
    far = np.array([row["far"] for row in found])
    default = np.array([row["tolerance"] == TOLERANCES[-1] for row in found])
    print(f"{len(found)} fits, {(far > FAR).sum()} far, {(far[default] > FAR).sum()} by default")
    for epochs in EPOCHS:
        gains = np.array([row["losses"][0] - row["losses"][epochs - 1] for row in found])
        for limit in (0.01, 0.02, 0.03, 0.05, 0.1):
            alarm = gains > limit
            print(f"{epochs} epochs, above {limit}: of the far {(alarm & (far > FAR)).sum()}, "
                  f"of the default {(alarm & default).sum()}, of all {alarm.sum()}")  # fmt: skip
    print(f"{time.perf_counter() - clock:.0f} s")


if __name__ == "__main__":
    main()
