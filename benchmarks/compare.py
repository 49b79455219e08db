"""Does `compare` rank densities as their true Kullback-Leibler divergences do? What stacking adds.

Three experiments.

1. Known-density tables: true minus model log density of fresh rows estimates the divergence of
   each model. Every pair of models is ranked on one half of the fresh rows by `compare`; the
   other half, whose true log densities are known, says which of the two is nearer to the truth.
   An inversion is a pair that both halves tell apart (4 standard errors) in opposite orders; 0
   are expected. On the half that is compared, the order of elpd is that of the estimated
   divergence by arithmetic, so that it would prove nothing.
2. Stack against its best part, in held-out log density, on the same tables.
3. Coverage of the 95 % interval of the difference, difference +- 1.96 standard errors, over
   simulations from a known mixture, where the expected difference is known from many rows. For
   held-out rows the truth is the difference of the two fits at hand; for K-fold it is the
   difference of the fits to all rows, and the interval is known not to allow for that.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from known_density import read

import probgen as pg

APART = 4.0


def models(kinds: dict[str, str], seed: int = 0) -> dict[str, pg.Density]:
    """Densities of very different quality, and some of nearly the same."""

    def mixture(k: int, covariance: str, **more: object) -> pg.Density:
        return pg.GaussianMixture(
            k, covariance, columns=kinds, random_state=seed, draws=0, starts=2, max_epochs=100,
            **more,
        )  # fmt: skip

    return {
        "independent": pg.Independent(columns=kinds, random_state=seed, draws=0),
        "student": pg.StudentT(columns=kinds, random_state=seed),
        "full 4": mixture(4, "full"),
        "full 12": mixture(12, "full"),
        "flexible 8": mixture(8, "flexible"),
        "flexible 16": mixture(16, "flexible"),
    }


def ranked(path: Path, stack_folds: int, most: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """Every pair of models on one table: what compare says, and the truth of the other half."""
    frames, kinds, truth = read(path)
    train = frames["train"].head(most)
    schema = pg.Schema.infer(train, kinds)
    parts = models(kinds)
    fitted = {
        name: m.set_params(schema=schema, columns=None).fit(train) for name, m in parts.items()
    }
    chosen = {name: parts[name] for name in ("student", "full 12", "flexible 8", "flexible 16")}
    fitted["stack"] = pg.Stack(chosen, folds=stack_folds, schema=schema, random_state=0).fit(train)
    fresh = pd.concat([frames["valid"], frames["test"]], ignore_index=True)
    known = np.concatenate([truth["valid"], truth["test"]])
    half = np.random.default_rng(0).permutation(len(fresh)) < len(fresh) // 2
    found = pg.compare(fitted, fresh[half].reset_index(drop=True), cells=0)
    other = pg.compare(fitted, fresh[~half].reset_index(drop=True), cells=0)
    gap = {name: known[~half] - other.pointwise[name].to_numpy() for name in fitted}
    rows = []
    for a, b in itertools.combinations(found.table.index, 2):  # a is ranked above b
        d = (found.pointwise[a] - found.pointwise[b]).to_numpy()
        t = gap[b] - gap[a]  # positive: a is nearer to the truth
        rows.append({
            "a": a, "b": b, "difference": d.mean(), "se": d.std(ddof=1) / np.sqrt(len(d)),
            "divergence": t.mean(), "divergence_se": t.std(ddof=1) / np.sqrt(len(t)),
        })  # fmt: skip
    every = pd.concat([found.pointwise, other.pointwise])
    best = every[list(chosen)].mean().idxmax()
    gain = (every["stack"] - every[best]).to_numpy()
    picked = fitted["stack"].held_out_.mean().idxmax()
    over = (every["stack"] - every[picked]).to_numpy()
    told = {
        "over_picked": over.mean(), "over_picked_se": over.std(ddof=1) / np.sqrt(len(over)),
        "gain": gain.mean(), "gain_se": gain.std(ddof=1) / np.sqrt(len(gain)),
        "kl_best": (np.concatenate([known[half], known[~half]]) - every[best]).mean(),
        "kl_stack": (np.concatenate([known[half], known[~half]]) - every["stack"]).mean(),
    }  # fmt: skip
    return pd.DataFrame(rows), told


def known(data: str, only: str, stack_folds: int, most: int) -> None:
    """Experiments 1 and 2 over all tables."""
    folder = Path(data) / "mixed_density" / "known_density"
    pairs, gains = [], {}
    chosen = (p for p in folder.glob("*.npz") if only in p.stem)
    for path in sorted(chosen, key=lambda p: p.stat().st_size):
        clock = time.perf_counter()
        found, told = ranked(path, stack_folds, most)
        pairs.append(found.assign(table=path.stem))
        gains[path.stem] = told
        print(path.stem, _counts(found), *(f"{k}={v:.4f}" for k, v in told.items()),
              f"{time.perf_counter() - clock:.0f} s", flush=True)  # fmt: skip
    print("all tables:", _counts(pd.concat(pairs)))
    gain = pd.DataFrame(gains).T
    for name, what in (
        ("gain", "the part that is best on the fresh rows"),
        ("over_picked", "the part that its folds put first"),
    ):
        own, z = gain[name], gain[name] / gain[f"{name}_se"]
        least, most = own.min(), own.max()
        print(f"stack minus {what}: mean {own.mean():+.4f} nats a row, median "
              f"{own.median():+.4f}, {least:+.4f} to {most:+.4f}; better by 2 standard errors in "
              f"{(z > 2).sum()} of {len(z)} tables, worse in {(z < -2).sum()}")  # fmt: skip


def _counts(pairs: pd.DataFrame) -> str:
    by_rank = pairs["difference"] > APART * pairs["se"]
    by_truth = pairs["divergence"].abs() > APART * pairs["divergence_se"]
    wrong = by_rank & by_truth & (pairs["divergence"] < 0)
    other = by_truth & ~by_rank
    turned = other & (pairs["divergence"] < 0)
    return (
        f"{len(pairs)} pairs, {by_rank.sum()} told apart, {(by_rank & by_truth).sum()} of them by "
        f"both halves, {wrong.sum()} inversions; {other.sum()} told apart by the truth only, of "
        f"which {turned.sum()} ranked the other way round"
    )


def _draw(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """A mixture of two tilted normals."""
    left = rng.random(n) < 0.4
    a = np.where(left, rng.normal(-1.5, 0.7, n), rng.normal(1, 1, n))
    return pd.DataFrame({"a": a, "b": np.where(left, -0.5 * a, 0.8 * a) + rng.normal(0, 0.8, n)})


def coverage(simulations: int, n: int = 300, many: int = 50_000) -> None:
    """Experiment 3."""
    fresh = _draw(np.random.default_rng(10**6), many)
    hits = {"held-out rows": [], "5-fold": []}
    near = {"held-out rows": [], "5-fold": []}
    for seed in range(simulations):
        rng = np.random.default_rng(seed)
        train, test = _draw(rng, n), _draw(rng, n)
        schema = pg.Schema.infer(pd.concat([train, test]), {"a": "real", "b": "real"})

        def entries(schema: pg.Schema = schema, seed: int = seed) -> dict[str, pg.Density]:
            how = {"schema": schema, "random_state": seed}
            return {
                "two": pg.GaussianMixture(2, starts=1, draws=0, **how),
                "one": pg.GaussianMixture(1, starts=1, draws=0, **how),
                "four": pg.GaussianMixture(4, starts=1, draws=0, **how),
            }

        fitted = {name: m.fit(train) for name, m in entries().items()}
        truth = {name: m.log_prob(fresh).mean() for name, m in fitted.items()}
        boards = {
            "held-out rows": pg.compare(fitted, test, cells=0),
            "5-fold": pg.compare(entries(), train, folds=5, cells=0),
        }
        for how, found in boards.items():
            for name, row in found.table.iloc[1:].iterrows():
                off = row["difference"] - (truth[name] - truth[found.best])
                close = {name, found.best} == {"two", "four"}
                (near if close else hits)[how].append(abs(off) < 1.96 * row["difference_se"])
    for how in hits:
        for what, found in (("unlike", hits[how]), ("nearly alike", near[how])):
            p = np.mean(found)
            print(f"95 % interval of the difference, {how}, models {what}: coverage {p:.3f} +- "
                  f"{np.sqrt(p * (1 - p) / len(found)):.3f} over {len(found)} differences",
                  flush=True)  # fmt: skip


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder of the reference data")
    parser.add_argument("--only", default="", help="part of the file names")
    parser.add_argument("--folds", type=int, default=3, help="folds of the stack")
    parser.add_argument("--rows", type=int, default=10**9, help="training rows at most")
    parser.add_argument("--simulations", type=int, default=200)
    arguments = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if arguments.simulations:
            coverage(arguments.simulations)
        if arguments.data:
            known(arguments.data, arguments.only, arguments.folds, arguments.rows)


if __name__ == "__main__":
    main()
