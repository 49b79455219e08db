"""Gap to the true log density on synthetic mixed tables, in nats a row.

Each table comes with the true log density of every row, so that true minus model mean test
log density estimates the KL divergence. The types are passed as kinds, levels absent from
train score the reserved level. One setting for all tables.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

import probgen as pg
from benchmarks.settings import read_settings
from probgen.families.mixture import Mixture

KINDS = {"real": "real", "pos": "positive", "count": "count", "cat": "category"}
#: the settings that the figures in the documentation are for, by estimator
SETTINGS: dict[str, dict[str, object]] = {
    "GaussianMixture": {
        "components": 32, "covariance": "flexible", "restarts": 5, "starts": 5,
    },
    "Autoregressive": {"noise": 0.0},
}  # fmt: skip


def read(path: Path) -> tuple[dict[str, pd.DataFrame], dict[str, str], dict[str, np.ndarray]]:
    """Frames by split, kinds by column, and true log densities by split."""
    with np.load(path) as file:
        kinds = {f"x{i}": KINDS[str(t)] for i, t in enumerate(file["types"])}
        frames, truth = {}, {}
        for part in ("train", "valid", "test"):
            values = pd.DataFrame(file[part], columns=list(kinds))
            for name, kind in kinds.items():
                if kind == "category":
                    values[name] = values[name].astype(int).astype(str)
                elif kind == "count":
                    values[name] = values[name].astype(np.int64)
            frames[part], truth[part] = values, file[f"{part}_true_loglik"]
    return frames, kinds, truth


def gap(path: Path, family: str, **setting: object) -> dict[str, float]:
    """True minus model mean test log density of one table."""
    frames, kinds, truth = read(path)
    clock = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pg.DataWarning)
        estimator = getattr(pg, family)(columns=kinds, random_state=0, **setting)
        model = estimator.fit(frames["train"])
        seconds = time.perf_counter() - clock
        floor = pg.Independent(columns=kinds, random_state=0).fit(frames["train"])
    out = {}
    for part in ("valid", "test"):
        own = model.log_prob(frames[part], unseen="rare").mean()
        base = floor.log_prob(frames[part], unseen="rare").mean()
        out[part], out[f"{part}_independent"] = truth[part].mean() - own, truth[part].mean() - base
    out |= {"seconds": seconds, "epochs": float(np.mean([r.epochs for r in model.results_]))}
    used = [int((m.weight_counts > 1).sum()) for m in model.members_ if isinstance(m, Mixture)]
    return out | ({"used": float(np.mean(used))} if used else {})


def main(
    data: str, only: str = "", family: str = "GaussianMixture", **setting: object
) -> pd.DataFrame:
    """Print the gap of every table, and their median and worst."""
    folder = Path(data) / "mixed_density" / "known_density"
    setting = SETTINGS[family] | setting
    print(family, setting)
    rows = {}
    chosen = (p for p in folder.glob("*.npz") if only in p.stem)
    for path in sorted(chosen, key=lambda p: p.stat().st_size):  # small ones first
        rows[path.stem] = gap(path, family, **setting)
        print(path.stem, *(f"{k}={v:.3f}" for k, v in rows[path.stem].items()), flush=True)
    table = pd.DataFrame(rows).T
    large = table[table.index.str.startswith("n10000")]
    if len(large):
        print(f"tables of 10,000 rows: median {large.test.median():.3f}, of {len(large)}")
    print(f"test gap: median {table.test.median():.3f}, worst {table.test.max():.3f}; "
          f"independent columns: median {table.test_independent.median():.3f}")  # fmt: skip
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of the reference data")
    parser.add_argument("--only", default="", help="part of the file names")
    parser.add_argument("--family", default="GaussianMixture", choices=list(SETTINGS))
    parser.add_argument("--set", nargs="*", default=[], help="settings, name=value")
    arguments = parser.parse_args()
    main(arguments.data, arguments.only, arguments.family, **read_settings(arguments.set))
