"""A variational autoencoder on eight mixed-type tables: holes filled, holes in training.

Imputation (``--what impute``): half of the cells are hidden by the masks that come with the
tables; error of the filled cells that no tuning mask holds (standard deviations for numbers,
share of wrong cells for discrete columns) and mean log density of these cells given the seen
ones of their row, beside `GaussianMixture` and scikit-learn's IterativeImputer (chained ridge).
Holes in training (``--what holes``): a tenth of the training cells is hidden at random; held-out
log density beside that of the same model trained on complete rows, and the paired difference with
its standard error. Settings (``--what settings``): held-out log density of the valid rows, never
of the test rows, by setting: what the defaults were chosen by. Wide draws (``--what wide``): the
error of the default number of particles, by share and stretch of the draws that are wider than
the guide, against 20,000 particles.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

import probgen as pg
from benchmarks.imputation import FEW, MIXED, errors, read_mixed
from benchmarks.settings import read_settings
from probgen.queries import density

NAMES = ("abalone", "adult", "anneal-U", "autism", "breast", "chess", "diabetes", "german")
#: what ``--what settings`` compares, one change at a time from the defaults
SETTINGS = (
    "masked=0.0", "masked=0.2", "masked=1.0", "bound=elbo", "particles=4", "particles=16",
    "scale=column", "parts=3", "hidden=64,64", "hidden=256,256", "latents=16", "guide=full",
    "prior=mixture", "prior=flow", "learning_rate=0.003", "dropout=0.1", "weight_decay=0.1",
)  # fmt: skip


#: shares and stretches that ``--what wide`` compares
WIDE = ((1e-9, 2.0), (0.1, 2.0), (0.1, 3.0), (0.2, 3.0))


def read_parts(folder: Path, name: str) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Rows by part (train, valid, test), and the kinds of the columns that are not real."""
    about = json.loads((folder / f"{name}PP.json").read_text())
    types = next(v for key, v in about.items() if key.startswith("meta_types"))
    columns = [f"x{i}" for i in range(len(types))]
    with np.load(folder / f"{name}PP.npz") as file:
        parts = {key: pd.DataFrame(file[key], columns=columns) for key in
                 ("train", "valid", "test")}  # fmt: skip
    few = pd.concat(parts.values()).nunique() <= FEW
    kinds = {n: "category" if few[n] else "count" for n, t in zip(columns, types, strict=True)
             if t > 1}  # fmt: skip
    return parts, kinds


def impute(folder: Path, names: Sequence[str], share: str, **setting: Any) -> None:
    """Print errors and log densities of hidden cells, by table and way."""
    better = 0
    for name in names:
        table, kinds, masks = read_mixed(folder, f"{name}PP")
        hidden, scored = masks[share]
        holed = table.mask(hidden)
        print(f"{name}, {len(table)} x {table.shape[1]}, {share} hidden", flush=True)
        ways: dict[str, Any] = {
            "mixture": pg.GaussianMixture(columns=kinds, draws=0, random_state=0, **MIXED),
            "VAE": pg.VAE(columns=kinds, random_state=0, **setting),
        }
        found = {}
        for way, model in ways.items():
            clock = time.process_time()
            model.fit(holed)
            filled = model.impute(holed)
            seconds = time.process_time() - clock
            rows = (scored & table.notna().to_numpy()).any(axis=1)
            joint, known = (
                model.log_prob(part[rows], unseen="rare", details=True)
                for part in (table.where(~hidden | scored), holed)
            )
            found[way] = errors(filled.astype(float), table, scored, kinds)
            gap = joint["log_prob"] - known["log_prob"]
            each = float(gap.sum() / (scored & table.notna().to_numpy()).sum())
            worst = float((joint["khat"] > 0.7).mean())
            numbers, discrete = found[way]
            print(f"  {way:14s} numbers {numbers:.3f} sd, discrete {discrete:.3f} wrong, "
                  f"log density {each:.3f} nats a cell, k-hat above 0.7 in {worst:.2f} of rows, "
                  f"{seconds:.0f} s", flush=True)  # fmt: skip
        ridge = IterativeImputer(random_state=0).fit_transform(holed)
        frame = pd.DataFrame(ridge, columns=table.columns)
        found["ridge"] = errors(frame, table, scored, kinds)
        print(f"  chained ridge  numbers {found['ridge'][0]:.3f} sd, "
              f"discrete {found['ridge'][1]:.3f} wrong", flush=True)  # fmt: skip
        gaps = [a - b for a, b in zip(found["VAE"], found["ridge"], strict=True) if a == a]
        better += all(gap < 0 for gap in gaps)
    print(f"better than chained ridge in every kind of column: {better} of {len(names)} tables")


def holes(folder: Path, names: Sequence[str], **setting: Any) -> None:
    """Print held-out densities of fits to complete rows and to rows with holes."""
    for name in names:
        parts, kinds = read_parts(folder, name)
        train = pd.concat([parts["train"], parts["valid"]], ignore_index=True)
        test = parts["test"]
        random = np.random.default_rng(0)
        holed = train.mask(random.random(train.shape) < 0.1)
        setting = {"validation": len(parts["valid"]) / len(train)} | setting
        schema = pg.Schema.infer(train, kinds)  # one measure for both
        value = []
        for table in (train, holed):
            model = pg.VAE(schema=schema, random_state=0, **setting).fit(table)
            value.append(model.log_prob(test, unseen="rare").to_numpy())
        gap = value[1] - value[0]
        error = gap.std() / np.sqrt(len(gap))
        print(f"{name}: complete {value[0].mean():.3f}, a tenth hidden {value[1].mean():.3f}, "
              f"difference {gap.mean():.3f} +- {error:.3f}", flush=True)  # fmt: skip


def settings(folder: Path, names: Sequence[str], **setting: Any) -> None:
    """Print the gain of each change of a setting over the defaults, on the valid rows."""
    base: dict[str, np.ndarray] = {}
    for text in ("", *SETTINGS):
        change = read_settings(text.split())
        gains = []
        clock = time.process_time()
        for name in names:
            parts, kinds = read_parts(folder, name)
            model = pg.VAE(columns=kinds, random_state=0, **{"noise": 0.0} | setting | change)
            value = model.fit(parts["train"]).log_prob(parts["valid"], unseen="rare").to_numpy()
            gap = value - base.setdefault(name, value)
            gains.append(f"{name} {value.mean():.3f} ({gap.mean():+.3f} +- "
                         f"{gap.std() / np.sqrt(len(gap)):.3f})")  # fmt: skip
        print(f"{text or 'defaults':20s}", "; ".join(gains),
              f"{time.process_time() - clock:.0f} s", flush=True)  # fmt: skip


def wide(folder: Path, names: Sequence[str], **setting: Any) -> None:
    """Print the error of log densities by how the draws of latents are widened."""
    chosen = density.WIDER, density.STRETCH
    for name in names:
        parts, kinds = read_parts(folder, name)
        model = pg.VAE(columns=kinds, random_state=0, **{"noise": 0.0} | setting)
        model.fit(parts["train"])
        test = parts["test"].iloc[:400]
        for share in (0.0, 0.5):
            rows = test.mask(np.random.default_rng(0).random(test.shape) < share)
            truth = model.log_prob(rows, unseen="rare", particles=20_000)
            for density.WIDER, density.STRETCH in (
                (1e-9, 2.0),
                (0.1, 2.0),
                (0.1, 3.0),
                (0.2, 3.0),
            ):
                found = model.log_prob(rows, unseen="rare", details=True)
                gap = found["log_prob"] - truth
                print(f"{name}, {share:.0%} hidden, share {density.WIDER:.1f}, stretch "
                      f"{density.STRETCH:.0f}: mean gap {gap.mean():.4f}, root mean square "
                      f"{np.sqrt(np.square(gap).mean()):.3f}, stated {found['se'].mean():.3f}",
                      flush=True)  # fmt: skip
            density.WIDER, density.STRETCH = chosen


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder of the reference data")
    parser.add_argument("--what", choices=("impute", "holes", "settings", "wide"),
                        default="impute")  # fmt: skip
    parser.add_argument("--only", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--share", choices=("0.1", "0.5"), default="0.5", help="of hidden cells")
    parser.add_argument("--set", nargs="*", default=[], help="settings, name=value")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    where, values = arguments.data / "mixed_density" / "real", read_settings(arguments.set)
    if arguments.what == "impute":
        impute(where, arguments.only, arguments.share, **values)
    else:
        {"holes": holes, "settings": settings, "wide": wide}[arguments.what](
            where, arguments.only, **values
        )
