"""Imputation of real tables: error of single imputation, coverage of multiple ones.

Letter (20,000 rows, 16 columns of whole numbers from 0 to 15, min-max scaled): a fifth of the
cells is hidden at random; root mean squared error over the hidden cells, and the share of them
inside the central 50, 90 and 95 % of the draws. In the same run, on the same rows: the column
mean, and scikit-learn's IterativeImputer with its default (chained ridge regressions).
Other tables (--mixed): of the mixed-type tables, 10 and 50 % of the cells are hidden by the masks
that come with them; standardised error of numbers and error rate of discrete columns, scored on
the cells outside the validation masks.

The columns of Letter are scores, so they are declared real: counts are independent inside a
component of a mixture, and the correlations are what fills the holes. `dequantise=False` keeps
the decimals of a conditional mean, where a grid would round it to a legal value.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, SimpleImputer

import probgen as pg
from benchmarks.settings import read_settings

#: the setting that the figures in the documentation are for
SETTING = {"components": 120, "restarts": 3, "starts": 1, "max_epochs": 60, "dequantise": False}
MIXED = {"components": 20, "starts": 2, "restarts": 2}
SHARE, SEED, LEVELS = 0.2, 0, (0.5, 0.9, 0.95)
#: distinct values up to which a discrete column is taken for a category
FEW = 30


def letter(data: Path, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """The scaled numbers (n, 16), and which cells are hidden."""
    table = pd.read_csv(data / "imputation" / "letter.csv.gz").select_dtypes("number")
    scaled = (table - table.min()) / (table.max() - table.min())
    return scaled, np.random.default_rng(seed).random(table.shape) < SHARE


def rmse(filled: np.ndarray, table: pd.DataFrame, hidden: np.ndarray) -> float:
    """Root mean squared error over the hidden cells."""
    return float(np.sqrt(np.square(filled - table.to_numpy())[hidden].mean()))


def score_letter(data: Path, draws: int, seed: int, **changes: object) -> None:
    """Print error, coverage and seconds."""
    table, hidden = letter(data, seed)
    holed, setting = table.mask(hidden), SETTING | changes
    print(f"Letter, {hidden.mean():.1%} of {table.size} cells hidden; setting {setting}")
    for name, other in (("column mean", SimpleImputer()),
                        ("chained ridge", IterativeImputer(random_state=0))):  # fmt: skip
        clock = time.perf_counter()
        filled = other.fit_transform(holed.to_numpy())
        print(f"  {name:14s} RMSE {rmse(filled, table, hidden):.4f}, "
              f"{time.perf_counter() - clock:.0f} s", flush=True)  # fmt: skip
    clock = time.perf_counter()
    kinds = dict.fromkeys(table.columns, "real")
    model = pg.GaussianMixture(columns=kinds, draws=draws, random_state=0, **setting).fit(holed)
    fitted = time.perf_counter()
    filled = model.impute(holed).to_numpy()
    print(f"  mixture        RMSE {rmse(filled, table, hidden):.4f}, fit {fitted - clock:.0f} s "
          f"({[r.epochs for r in model.results_]} epochs), impute "
          f"{time.perf_counter() - fitted:.0f} s", flush=True)  # fmt: skip
    clock = time.perf_counter()
    tables = model.impute(holed, draws=draws, random_state=0)
    cells = np.stack([own.to_numpy()[hidden] for own in tables])
    print(f"  {draws} draws in {time.perf_counter() - clock:.0f} s; coverage",
          ", ".join(f"{level:.0%}: {coverage(cells, table.to_numpy()[hidden], level):.3f}"
                    for level in LEVELS), flush=True)  # fmt: skip
    for level in LEVELS:
        ends = np.quantile(cells, [0.5 - level / 2, 0.5 + level / 2], axis=0)
        inside = (ends[0] <= table.to_numpy()[hidden]) & (table.to_numpy()[hidden] <= ends[1])
        print(f"  inside the {level:.0%} quantiles of {draws} draws: {inside.mean():.3f}")


def coverage(cells: np.ndarray, truth: np.ndarray, level: float) -> float:
    """Share of cells whose rank among the draws (s, cells) lies in the central part.

    The true value of a cell and its s draws are exchangeable, so the rank of the truth is
    uniform on 0..s, with ties (and rounded values have many) broken at random.
    """
    below, tied = (cells < truth).sum(0), (cells == truth).sum(0)
    rank = below + np.random.default_rng(0).integers(0, tied + 1)
    place = (rank + np.random.default_rng(1).random(len(rank))) / (len(cells) + 1)
    return float((np.abs(place - 0.5) < level / 2).mean())


def read_mixed(folder: Path, name: str) -> tuple[pd.DataFrame, dict[str, str], dict]:
    """All rows, kinds by column, and by share of holes (hidden cells, those that are scored)."""
    about = json.loads((folder / f"{name}.json").read_text())
    types = next(v for key, v in about.items() if key.startswith("meta_types"))
    with np.load(folder / f"{name}.npz") as file:
        table = pd.DataFrame(file["full"], columns=[f"x{i}" for i in range(len(types))])
        shape, masks = tuple(file["mask_shape"]), {}
        for share in ("0.1", "0.5"):
            full, tune = (
                np.unpackbits(file[f"mask_{share}_1111_{part}"])[: table.size].reshape(shape)
                for part in ("full", "val")
            )
            masks[share] = full == 1, (full == 1) & (tune == 0)
    few = table.nunique() <= FEW
    kinds = {n: "category" if few[n] else "count" for n, t in zip(table, types, strict=True)
             if t > 1}  # fmt: skip
    return table, kinds, masks


def score_mixed(data: Path, names: list[str], **changes: object) -> None:
    """Print standardised error of numbers and error rate of discrete columns, by table."""
    for name in names:
        table, kinds, masks = read_mixed(data / "mixed_density" / "real", name)
        for share, (hidden, scored) in masks.items():
            holed = table.mask(hidden)
            clock = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = pg.GaussianMixture(columns=kinds, draws=0, random_state=0,
                                           **MIXED | changes).fit(holed)  # fmt: skip
                filled = {"mixture": model.impute(holed, centre="mean")}
                seconds = time.perf_counter() - clock
                ridge = IterativeImputer(random_state=0).fit_transform(holed)
            filled["chained ridge"] = pd.DataFrame(ridge, columns=table.columns)
            centre = holed.mean()
            centre[list(kinds)] = holed[list(kinds)].mode().iloc[0]
            filled["column centre"] = holed.fillna(centre)
            print(f"{name}, {share} hidden, mixture {seconds:.0f} s", flush=True)
            for way, own in filled.items():
                real, wrong = errors(own.astype(float), table, scored, kinds)
                print(f"  {way:14s} numbers {real:.3f} sd, discrete {wrong:.3f} wrong")


def errors(
    filled: pd.DataFrame, table: pd.DataFrame, scored: np.ndarray, kinds: dict[str, str]
) -> tuple[float, float]:
    """Root mean squared error in standard deviations over real cells; share of wrong others."""
    scored = scored & table.notna().to_numpy()
    gap = (filled - table) / table.std()
    real = [i for i, name in enumerate(table) if name not in kinds]
    other = [i for i, name in enumerate(table) if name in kinds]
    error = np.sqrt(np.square(gap.to_numpy()[:, real])[scored[:, real]].mean()) if real else np.nan
    rounded = filled.round().to_numpy()[:, other] != table.to_numpy()[:, other]
    return float(error), float(rounded[scored[:, other]].mean()) if other else np.nan


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder of the reference data")
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--seed", type=int, default=SEED, help="of the hidden cells")
    parser.add_argument("--mixed", nargs="*", help="names of mixed-type tables instead of Letter")
    parser.add_argument("--set", nargs="*", default=[], help="settings, name=value")
    arguments = parser.parse_args()
    values = read_settings(arguments.set)
    if arguments.mixed is None:
        score_letter(arguments.data, arguments.draws, arguments.seed, **values)
    else:
        score_mixed(arguments.data, arguments.mixed, **values)
