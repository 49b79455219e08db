"""Mean test log-likelihood of a target given features, on five regression tables.

`Flow(...).fit(table, given=features)` on each of 20 fixed splits, in the target's units, beside
the published value of Monte Carlo dropout. The density is the mean over `--members` restarts,
whose p are averaged.

Asked: at least the published value on all five.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import probgen as pg
from benchmarks.settings import read_settings

#: of the networks; the same for all tables
SETTINGS: dict[str, object] = {
    "hidden": (50, 50), "transforms": 1, "bins": 8, "components": 1, "noise": 0.0,
    "weight_decay": 0.1, "learning_rate": 5e-3, "max_epochs": 40, "patience": 15,
    "compile": False,
}  # fmt: skip


def read(folder: Path, split: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and test rows of one split; the target is the column of that name."""
    rows = np.loadtxt(folder / "data.txt")
    features = np.loadtxt(folder / "index_features.txt", dtype=int)
    target = int(np.loadtxt(folder / "index_target.txt", dtype=int))
    table = pd.DataFrame({f"x{i}": rows[:, i] for i in features} | {"target": rows[:, target]})
    parts = (np.loadtxt(folder / f"index_{part}_{split}.txt", dtype=int)
             for part in ("train", "test"))  # fmt: skip
    train, test = (table.iloc[part].reset_index(drop=True) for part in parts)
    return train, test


def main() -> None:
    """Print a line a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the reference data")
    parser.add_argument("--tables", nargs="*", default=None)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--members", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], help="other settings: name=value")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    own = SETTINGS | read_settings(arguments.set)
    published = pd.read_csv(arguments.data / "conditional_density/published.csv", index_col=0)
    published = published["MC_dropout_test_ll_mean"]
    for name in arguments.tables or published.index:
        found, clock = [], time.perf_counter()
        for number in range(arguments.splits):
            train, test = read(arguments.data / "conditional_density" / name, number)
            features = [c for c in train if c != "target"]
            plain = {c: {"kind": "real", "atoms": (), "grid": None} for c in train}
            flow = pg.Flow(columns=plain, dequantise=False, restarts=arguments.members,
                           random_state=number, **own)  # type: ignore[arg-type]  # fmt: skip
            flow.fit(train, given=features)
            value = flow.log_prob(test[["target"]], given=test[features]).to_numpy()
            found.append(value.mean())
        se = np.std(found, ddof=1) / np.sqrt(len(found)) if len(found) > 1 else np.nan
        print(
            f"{name}: {np.mean(found):.3f} +- {se:.3f} over {len(found)} splits, published "
            f"{published[name]:.3f}, {time.perf_counter() - clock:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
