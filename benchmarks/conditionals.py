"""Marginals and conditional draws of a family that scores whole rows only.

A mixture stands for such a family: its closed forms are hidden, so that the generic answers
can be held to the exact ones. For each companion, on rows with half of their cells hidden:
the share of rows whose k-hat warns, the share of the others beyond three stated standard
errors, the largest error among them, and the median error that was stated; for each setting
of the resampling, by how many nats the drawn rows differ from exact ones on average.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer, load_wine

import probgen as pg
from probgen import queries
from probgen.batch import Batch
from probgen.datasets import penguins
from probgen.families.mixture import Mixture
from probgen.queries import Companion, Predictive, resampling

ROWS = 400
#: name -> (whether fitted to the model's own rows, (components, covariance) of each part, shares)
COMPANIONS = {
    "the table, 20 + 1 wide": (False, ((20, "full"), (1, "full")), (0.75, 0.25)),
    "own rows, 20": (True, ((20, "full"),), (1.0,)),
    "own rows, 20 + 4": (True, ((20, "full"), (4, "full")), (0.75, 0.25)),
    "own rows, 20 + 1 wide, a tenth": (True, ((20, "full"), (1, "full")), (0.9, 0.1)),
    "own rows, 20 + 1 wide": (True, ((20, "full"), (1, "full")), (0.75, 0.25)),
    "own rows, 4 diagonal + 1": (True, ((4, "diag"), (1, "full")), (0.75, 0.25)),
}
#: candidates, fresh ones a step, steps
RESAMPLING = ((32, 8, 0), (64, 16, 0), (64, 16, 4), (128, 16, 4), (256, 32, 0))


class Whole(Mixture):
    """A mixture without its answers about rows with holes."""

    holes = "refuse"

    def complete(self, batch: Batch, generator: torch.Generator) -> None:
        """Nothing."""


def tables() -> dict[str, pd.DataFrame]:
    """Three small real tables: two of numbers, one mixed."""
    return {
        "wine": load_wine(as_frame=True).data.iloc[:, :8],
        "breast cancer": load_breast_cancer(as_frame=True).data.iloc[:, :12],
        "penguins": penguins(),
    }


def rows_with_holes(model: pg.Density, n: int) -> Batch:
    """Rows of the model, half of their cells hidden."""
    g = torch.Generator().manual_seed(1)
    empty = Batch.empty(n, len(model.schema_.slots), torch.float64, "cpu")
    x = torch.from_numpy(model._draw(empty, g))
    seen = torch.rand(x.shape, generator=g) < 0.5
    some = seen.any(1) & ~seen.all(1)
    return Batch.of(torch.where(seen, x, 0.0)[some], seen[some])


def companion(
    model: pg.Density, table: pd.DataFrame, own: bool, parts: tuple, shares: tuple
) -> Companion:
    """Mixtures fitted to the model's own rows, or to the table."""
    rows = model.sample(5000, random_state=3) if own else table
    fits = [
        pg.GaussianMixture(k, cov, random_state=5, draws=0, schema=model.schema_).fit(rows)
        for k, cov in parts
    ]
    return Companion([fit.members_[0] for fit in fits], shares)


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a function returns, and its seconds."""
    clock = time.perf_counter()
    return function(*arguments), time.perf_counter() - clock


def main() -> None:
    """Print both comparisons for each table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name, table in tables().items():
        model = pg.GaussianMixture(8, random_state=0, draws=0).fit(table)
        exact, batch = model._predictive(), rows_with_holes(model, ROWS)
        truth = queries.log_prob(exact, batch).value
        family = copy.deepcopy(model.members_[0])
        family.__class__ = Whole
        print(f"== {name}: {len(batch)} rows with holes, 512 proposals each")
        made = {}
        for label, setting in COMPANIONS.items():
            made[label], fit = timed(companion, model, table, *setting)
            way = Predictive([family], [{}], companion=lambda c=made[label]: c)
            found, score = timed(queries.log_prob, way, batch)
            error, trusted = (found.value - truth).abs(), ~(found.khat > 0.7)
            beyond = (error > 3 * found.se.clamp_min(1e-9))[trusted].double().mean()
            print(
                f"{label:32s} warned {1 - trusted.double().mean():.3f}, beyond 3 se "
                f"{beyond:.4f}, worst {error[trusted].max():.2f}, median se "
                f"{found.se.median():.3f}; fit {fit:.1f} s, score {score:.1f} s", flush=True,
            )  # fmt: skip
        compare_draws(exact, family, batch, made)


def compare_draws(exact: Predictive, family: Mixture, batch: Batch, made: dict) -> None:
    """Mean difference of the log density of drawn rows from that of exactly drawn ones."""
    batch = batch.take(torch.arange(len(batch)).repeat(4))

    def score(x: torch.Tensor) -> torch.Tensor:
        return queries.log_prob(exact, Batch.of(x)).value

    draws = [queries.sample(exact, batch, torch.Generator().manual_seed(i)) for i in range(4)]
    wanted = torch.stack([score(x) for x in draws]).mean(0)
    for label in ("own rows, 20 + 1 wide", "own rows, 4 diagonal + 1"):
        way = Predictive([family], [{}], companion=lambda c=made[label]: c)
        for setting in RESAMPLING:
            resampling.CANDIDATES, resampling.FRESH, resampling.STEPS = setting
            generator = torch.Generator().manual_seed(9)
            drawn, seconds = timed(queries.draw, way, batch, generator)
            gap = score(drawn.x) - wanted
            print(
                f"{label:32s} candidates, fresh, steps {setting}: {gap.mean():+.3f} ± "
                f"{gap.std() / len(gap) ** 0.5:.3f} nats, {seconds:.1f} s", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
