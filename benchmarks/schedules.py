"""Which learning-rate rule: held-out loss and epochs of three pairs under each.

Run ``python benchmarks/schedules.py`` from the root of the project (about two minutes). The
rows of the toy pairs are drawn anew for each seed, the same for all rules; the true
generator gives 20,000 held-out rows. Printed: mean gap (nats a row) to the best rule of that
pair and seed, its largest value, and mean epochs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from probgen import loop  # noqa: E402
from probgen.batch import Batch  # noqa: E402
from probgen.family import Family  # noqa: E402
from probgen.fitting import fit, split  # noqa: E402
from probgen.training import Training  # noqa: E402
from tests.toys import FactorAnalysis, NormalMixture, blobs, factors  # noqa: E402

RULES: dict[str, tuple[int, float, str]] = {
    "x 0.1, once": (1, 0.1, "plateau"),
    "x 0.3, once": (1, 0.3, "plateau"),
    "x 0.3, twice": (2, 0.3, "plateau"),
    "constant": (0, 1.0, "constant"),
    "cosine": (0, 1.0, "cosine"),
}


def factor_loss(family: Family, x: Tensor) -> float:
    """Exact negative log likelihood a row."""
    return float(family.double().exact_loss(x).detach())


def mixture_loss(family: Family, x: Tensor) -> float:
    """Exact negative log likelihood a row."""
    return float(-family.double().row_log_prob(x).mean().detach())


Case = tuple[Callable[[], Family], Callable[[int], Tensor], int, Callable[..., float]]
CASES: dict[str, Case] = {
    "factors, 2000": (lambda: FactorAnalysis(6, 2), lambda s: factors(22_000, 6, 2, s), 2000,
                      factor_loss),
    "factors, 300": (lambda: FactorAnalysis(6, 2), lambda s: factors(20_300, 6, 2, s), 300,
                     factor_loss),
    "mixture, 2000": (lambda: NormalMixture(4, 3), lambda s: blobs(22_000, 4, s), 2000,
                      mixture_loss),
}  # fmt: skip


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{'pair':<15}{'rule':<15}{'mean gap':>10}{'worst':>9}{'epochs':>8}")
    for name, (make, draw, n, loss) in CASES.items():
        losses, epochs = np.empty((len(RULES), 5)), np.empty((len(RULES), 5))
        for seed in range(5):
            x = draw(seed)
            train, held = split(Batch.of(x[:n]), 0.1, torch.Generator().manual_seed(seed))
            for i, (loop.DROPS, loop.DROP, schedule) in enumerate(RULES.values()):
                family = make()
                training = Training(random_state=seed, schedule=schedule, max_epochs=300)
                epochs[i, seed] = fit(family, train, training, held, warn=False).epochs
                losses[i, seed] = loss(family, x[n:])
        gap = losses - losses.min(0)
        for i, rule in enumerate(RULES):
            row = f"{gap[i].mean():>10.4f}{gap[i].max():>9.4f}{epochs[i].mean():>8.0f}"
            print(f"{name:<15}{rule:<15}{row}")


if __name__ == "__main__":
    main()
