"""Outliers of 27 real tables: the default of `OutlierDetector` against an isolation forest.

The protocol of ADBench (Han, Hu, Huang, Jiang and Zhao 2022): seeds 1, 2, 3; tables under
1,000 rows bootstrapped to 1,000, those over 10,000 subsampled; a stratified split 70 / 30;
scaled to [0, 1] by the training part; fitted on it without labels, with its anomalies. Area
under the ROC and the precision-recall curve on the rest, times 100, mean of the seeds. One
setting for all tables; no label chooses anything.

``--candidates`` compares other densities and other ways to blend, and chooses among them on
random halves of the tables to report on the other halves. It leaves out tables of more than
200 columns.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler

import probgen as pg
from probgen import queries
from probgen.density import Density
from probgen.outliers.robust import default_density
from probgen.table import encode

Floats = NDArray[np.float64]
#: a candidate gives scores of the test rows by name: one fit may serve several
Candidate = Callable[[pd.DataFrame, pd.DataFrame, int], dict[str, Floats]]
LEAST, MOST = 1000, 10_000
SEEDS = (1, 2, 3)
DEFAULT, PEER = "row + pairs", "IForest"
#: share of rows left out by the trimmed normal
TRIM = 0.25
#: columns up to which the candidates are compared: eight normals over more take hours
NARROW = 200


class Split(NamedTuple):
    """One table by one seed."""

    name: str
    rows: int
    seed: int
    train: pd.DataFrame
    test: pd.DataFrame
    odd: NDArray[np.int64]


def splits(
    data: str, seeds: tuple[int, ...], only: str, widest: float = np.inf
) -> Iterator[Split]:
    """The tables by the protocol, small ones first."""
    files = (p for p in (Path(data) / "adbench").glob("*.npz") if only in p.stem)
    for path in sorted(files, key=lambda p: p.stat().st_size):
        with np.load(path, allow_pickle=False) as file:
            x, y = file["X"].astype(float), file["y"].astype(int)
        if x.shape[1] > widest:
            continue
        for seed in seeds:
            random, n = np.random.RandomState(seed), len(x)
            rows = np.arange(n)
            if n < LEAST:
                rows = random.choice(n, LEAST, replace=True)
            elif n > MOST:
                rows = random.choice(n, MOST, replace=False)
            train, test, _, odd = train_test_split(
                x[rows], y[rows], test_size=0.3, stratify=y[rows], random_state=seed
            )
            scaler = MinMaxScaler().fit(train)
            frames = (pd.DataFrame(scaler.transform(a)).add_prefix("x") for a in (train, test))
            yield Split(path.stem.split("_", 1)[1], n, seed, *frames, odd)


# --- candidates -------------------------------------------------------------------------------


def forest(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> dict[str, Floats]:
    """scikit-learn's isolation forest with its defaults."""
    made = IsolationForest(random_state=seed).fit(train.to_numpy())
    return {PEER: -made.score_samples(test.to_numpy())}


def chosen(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> dict[str, Floats]:
    """The detector as it comes: rows and pairs of cells under a Student's t."""
    detector = pg.OutlierDetector(random_state=0).fit(train)
    return {DEFAULT: -detector.score_samples(test)}


def parts(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> dict[str, Floats]:
    """The default, its two parts, and both beside flexible margins of a second density."""
    model = default_density(random_state=0).fit(train)
    row, pairs = _row_and_pairs(model, test)
    margins = pg.Independent(schema=model.schema_, random_state=0, draws=0, max_epochs=3)
    cells = -margins.fit(train).log_prob(test).to_numpy()
    return {
        "t: row": row, "t: pairs": pairs, DEFAULT: row + pairs, "flexible margins": cells,
        "row + pairs + margins": row + pairs + cells, "row + margins": row + cells,
    }  # fmt: skip


def settings(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> dict[str, Floats]:
    """The default with other settings: they should matter little."""
    out = {}
    tried = {"dof 1": {"dof": 1.0}, "dof 30": {"dof": 30.0},
             "strength 0.1": {"strength": 0.1}, "strength 10": {"strength": 10.0}}  # fmt: skip
    for name, setting in tried.items():
        model = default_density(random_state=0).set_params(**setting).fit(train)
        row, pairs = _row_and_pairs(model, test)
        out[f"row + pairs, {name}"] = row + pairs
    return out


def trimmed(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> dict[str, Floats]:
    """One normal, refitted to the less surprising rows until these stay the same.

    Concentration steps (Rousseeuw and Van Driessen 1999, A fast algorithm for the minimum
    covariance determinant estimator, Technometrics 41).
    """
    plain = default_density(random_state=0).set_params(dof=1e9)
    whole = plain.fit(train)
    kept = np.arange(len(train))
    model: Density = whole
    for _ in range(20):
        order = np.argsort(-model.log_prob(train).to_numpy(), kind="stable")
        now = np.sort(order[: int(np.ceil((1 - TRIM) * len(train)))])
        if np.array_equal(now, kept):
            break
        kept = now
        fresh = default_density(random_state=0).set_params(dof=1e9, schema=whole.schema_)
        model = fresh.fit(train.iloc[kept])
    row, pairs = _row_and_pairs(model, test)
    first, _ = _row_and_pairs(whole, test)
    return {
        "normal": first,
        "normal, trimmed: row": row,
        "normal, trimmed: row + pairs": row + pairs,
    }


def mixture(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> dict[str, Floats]:
    """A mixture of eight normals with its defaults, all columns as real."""
    schema = default_density()._describe(train, ())
    model = pg.GaussianMixture(schema=schema, random_state=0, posterior="mean_field")
    return {"8 normals": -model.fit(train).log_prob(test).to_numpy()}


def _row_and_pairs(model: Density, test: pd.DataFrame) -> tuple[Floats, Floats]:
    batch = model._batch(encode(test, model.schema_), model._device)
    with torch.no_grad():
        row = queries.log_prob(model._predictive(), batch).value
        pairs = queries.log_pairs(model._predictive(), batch)
    return -row.numpy(), -pairs.numpy()


# --- figures ----------------------------------------------------------------------------------


def measure(found: Iterator[Split], candidates: list[Candidate]) -> pd.DataFrame:
    """AUCROC and AUCPR of every score of every table, mean of seeds, and seconds of a fit."""
    rows = []
    for split in found:
        print(f"{split.name} {split.seed}", end=" ", flush=True)
        for candidate in candidates:
            clock = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scores = candidate(split.train, split.test, split.seed)
            seconds = time.perf_counter() - clock
            for name, score in scores.items():
                score = np.nan_to_num(score, posinf=1e300)
                rows.append({
                    "table": split.name, "n": split.rows, "d": split.train.shape[1],
                    "score": name, "seconds": seconds, "seed": split.seed,
                    "roc": 100 * roc_auc_score(split.odd, score),
                    "pr": 100 * average_precision_score(split.odd, score),
                })  # fmt: skip
    print()
    return pd.DataFrame(rows).groupby(["table", "n", "d", "score"]).mean().drop(columns="seed")


def gaps(found: pd.DataFrame, name: str) -> pd.DataFrame:
    """A score minus the forest, table by table."""
    values = found[["roc", "pr"]]
    return values.xs(name, level="score") - values.xs(PEER, level="score")


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Means over tables, and the paired difference from the forest with its standard error."""
    out = {}
    names = found.index.get_level_values("score").unique()
    for name in names:
        own, gap = found.xs(name, level="score"), gaps(found, name)
        large = gap.index.get_level_values("n") >= LEAST
        line = {}
        for kind in ("roc", "pr"):
            line |= {kind: own[kind].mean(), f"{kind} gap": gap[kind].mean(),
                     f"{kind} se": gap[kind].std() / len(gap) ** 0.5,
                     f"{kind} n>=1000": own[kind][large].mean(),
                     f"{kind} gap n>=1000": gap[kind][large].mean()}  # fmt: skip
        out[name] = line | {"seconds": own["seconds"].mean()}
    return pd.DataFrame(out).T


def left_out(found: pd.DataFrame, times: int = 2000) -> tuple[pd.Series, pd.Series]:
    """Choose the score of the best gaps on half of the tables; its gaps on the other half."""
    names = [n for n in found.index.get_level_values("score").unique() if n != PEER]
    each = np.stack([gaps(found, name).to_numpy() for name in names])
    random, tables = np.random.default_rng(0), each.shape[1]
    picked, kept = [], []
    for _ in range(times):
        order = random.permutation(tables)
        best = int(each[:, order[: tables // 2]].mean(1).sum(-1).argmax())
        picked.append(names[best])
        kept.append(each[best, order[tables // 2 :]].mean(0))
    share = pd.Series(picked).value_counts(normalize=True)
    return share, pd.DataFrame(kept, columns=["roc gap", "pr gap"]).mean()


def main(data: str, candidates: bool, seeds: tuple[int, ...], only: str) -> pd.DataFrame:
    """Print the figures."""
    made = [forest, parts, settings, trimmed, mixture] if candidates else [forest, chosen]
    found = measure(splits(data, seeds, only, NARROW if candidates else np.inf), made)
    with pd.option_context("display.width", 200, "display.max_columns", 30):
        if not candidates:
            both = found.unstack("score").swaplevel(axis=1)
            print(both[[DEFAULT, PEER]].round(2).to_string())
        print(summary(found).round(2).to_string())
        if candidates:
            share, gap = left_out(found)
            print(
                "\nchosen on half of the tables, share of 2000 halves:", share.round(2).to_dict()
            )
            print("its gaps on the other half:", gap.round(2).to_dict())
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of the reference data")
    parser.add_argument("--candidates", action="store_true", help="compare and choose")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--only", default="", help="part of the file names")
    arguments = parser.parse_args()
    main(arguments.data, arguments.candidates, tuple(arguments.seeds), arguments.only)
