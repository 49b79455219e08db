"""A table with every kind of column, a small model of it, and how to forge its manifest."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import probgen as pg
from probgen import saving


def frame(n: int = 40) -> pd.DataFrame:
    """Every kind of column, with holes."""
    r = np.random.default_rng(0)
    table = pd.DataFrame({
        "real": r.normal(size=n),
        "income": r.lognormal(size=n),
        "count": pd.array(r.poisson(3, n), dtype="Int64"),
        "job": pd.Categorical(r.choice(["nurse", "cook", "é"], n)),
        "flag": r.random(n) < 0.4,
        "day": pd.date_range("2024-01-01", periods=n, tz="Europe/Paris", unit="s"),
    })  # fmt: skip
    table.loc[3, ["real", "job"]] = None
    table.loc[5, "day"] = pd.NaT
    return table


def fitted(table: pd.DataFrame, **settings: object) -> pg.GaussianMixture:
    given = {"components": 2, "random_state": 0, "starts": 1, "draws": 4, "max_epochs": 10}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pg.GaussianMixture(**given | settings).fit(table)


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    """Change a manifest and put its hash right again, as an attacker would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    manifest["sha256"] = saving._digest(manifest)
    path.write_text(json.dumps(manifest))


def score(value: float) -> Callable[[Path], None]:
    def change(manifest: dict) -> None:
        manifest["self_test"]["scores"]["predictive"][0] += value

    return lambda f: edit(f, change)
