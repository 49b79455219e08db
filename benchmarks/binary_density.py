"""Held-out nats of one any-order network on eight binary tables.

The density is the mean of p over 8 fixed orders. The held-out rows of each table (its valid
file) join the training rows, of which the fit holds some out to stop by.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import probgen as pg
from benchmarks.settings import read_settings

#: mean test log density of a Bernoulli mixture by EM with up to 300 components
MIXTURE = {
    "nltcs": -5.999, "plants": -13.023, "baudio": -39.832, "accidents": -35.546,
    "dna": -98.202, "bbc": -253.218, "mushrooms": -14.463, "nips": -288.308,
}  # fmt: skip


def read(folder: Path, name: str, part: str) -> pd.DataFrame:
    """One file as a table of booleans."""
    values = np.loadtxt(folder / f"{name}.{part}.data.gz", delimiter=",", dtype=np.int8)
    return pd.DataFrame(values.astype(bool), columns=[f"x{i}" for i in range(values.shape[1])])


def score(folder: Path, name: str, **setting: Any) -> dict[str, float]:
    """Mean test log density of the network, its spread over orders, and of independent columns."""
    train, valid, test = (read(folder, name, part) for part in ("train", "valid", "test"))
    table = pd.concat([train, valid], ignore_index=True)
    kinds = dict.fromkeys(table.columns, "boolean")
    clock = time.process_time()
    share = len(valid) / len(table)
    setting = {"validation": share, "random_state": 0} | setting
    model = pg.Autoregressive(columns=kinds, **setting).fit(table)
    fitted = time.process_time() - clock
    found = model.log_prob(test, details=True)
    floor = pg.Independent(columns=kinds, random_state=0).fit(table)
    return {
        "test": found["log_prob"].mean(),
        "error": found["log_prob"].std() / np.sqrt(len(test)),
        "orders": found["se"].mean(),
        "independent": floor.log_prob(test).mean(),
        "mixture": MIXTURE[name],
        "epochs": model.result_.epochs,
        "fit_seconds": fitted,
        "seconds": time.process_time() - clock,
    }


def main(data: str, only: list[str], **setting: Any) -> pd.DataFrame:
    """Print the row of each table."""
    folder = Path(data) / "binary_density"
    print("setting", setting)
    rows = {}
    for name in only or list(MIXTURE):
        rows[name] = score(folder, name, **setting)
        print(name, *(f"{k}={v:.3f}" for k, v in rows[name].items()), flush=True)
    return pd.DataFrame(rows).T


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of the reference data")
    parser.add_argument("--only", nargs="*", default=[], choices=list(MIXTURE))
    parser.add_argument("--set", nargs="*", default=[], help="settings, name=value")
    arguments = parser.parse_args()
    main(arguments.data, arguments.only, **read_settings(arguments.set))
