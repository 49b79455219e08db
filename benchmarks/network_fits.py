"""Fits of Bayesian networks: settings, holes in training, speed, and coverage of intervals.

Settings (``--what settings``): held-out log density of the valid rows of eight mixed-type tables,
never of the test rows, by setting, beside a mixture and independent columns: what the defaults
were chosen by. Holes (``--what holes``): 30 % of the cells of samples of known networks hidden at
random; distance of the fitted tables from the true ones (mean over tables of the absolute error
of a probability), beside rows without holes only and one fit to holes filled by modes, and
held-out log density beside the fit to complete rows. Speed (``--what speed``): learning the
parameters of the alarm network from 100,000 rows of text, beside pgmpy. Coverage (``--what
coverage``): how often 90 % intervals of log p(row) and of an average causal effect hold the truth,
over tables from known networks.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import probgen as pg
from benchmarks.settings import read_settings
from benchmarks.vae_tables import NAMES, read_parts

#: what ``--what settings`` compares, one change at a time from the defaults
SETTINGS = (
    "groups=4", "groups=16", "strength=0.1", "strength=10", "dof=1", "dof=10", "sample_size=1",
    "sample_size=10",
)  # fmt: skip


def settings(folder: Path, tried: list[str], names: list[str]) -> None:
    """Print the held-out log density of valid rows, by setting and table."""
    rows = {}
    for name in names:
        parts, kinds = read_parts(folder / "mixed_density" / "real", name)
        schema = pg.Schema.infer(parts["train"], kinds)
        ways: dict[str, Any] = {
            "independent": pg.Independent(schema=schema, random_state=0, draws=0),
            "mixture": pg.GaussianMixture(schema=schema, random_state=0, draws=0),
        } | {
            text or "defaults": pg.BayesianNetwork(
                schema=schema, random_state=0, draws=0, **read_settings(text.split())
            )
            for text in ["", *tried]
        }  # fmt: skip
        for way, model in ways.items():
            clock = time.process_time()
            model.fit(parts["train"])
            value = model.log_prob(parts["valid"], unseen="rare").mean()
            rows[name, way] = value
            print(f"{name:10s} {way:24s} {value:9.3f} nats a row, "
                  f"{time.process_time() - clock:.1f} s", flush=True)  # fmt: skip
    frame = pd.Series(rows).unstack(0)
    gain = frame.sub(frame.loc["defaults"])
    print(gain.assign(mean=gain.mean(axis=1)).round(3).to_string())


def distance(true: pg.BayesianNetwork, found: pg.BayesianNetwork) -> float:
    """Mean over tables of the absolute error of a probability."""
    total = []
    for name in true.node_names_:
        a, b = true.table(name), found.table(name)
        b = b.reindex(columns=a.columns, fill_value=0.0)
        if true.graph_.parents[true.node_names_.index(name)]:
            b = b.reindex(a.index)
        uniform = 1 / a.shape[1]  # a configuration that no row showed
        total.append(float(np.abs(a.to_numpy() - b.fillna(uniform).to_numpy()).mean()))
    return float(np.mean(total))


def holes(folder: Path, names: list[str], rows: int, seeds: int) -> int:
    """Print distances and densities; the number of tables where a figure is missed."""
    missed = 0
    for name in names:
        true = pg.BayesianNetwork.from_bif(folder / "bayesian_networks" / f"{name}.bif.gz")
        edges = list(true.edges_[["parent", "child"]].itertuples(index=False, name=None))

        def fit(table: pd.DataFrame, edges: list[Any] = edges) -> pg.BayesianNetwork:
            return pg.BayesianNetwork(structure=edges, random_state=0, draws=0).fit(table)

        for seed in range(1, seeds + 1):
            table = true.sample(rows, random_state=seed)
            test = true.sample(20_000, random_state=1000 + seed)
            holed = table.mask(np.random.default_rng(seed).random(table.shape) < 0.3)
            clock = time.process_time()
            found = {"holes": fit(holed)}
            seconds = time.process_time() - clock
            found |= {"complete": fit(table), "modes": fit(holed.fillna(holed.mode().iloc[0]))}
            whole = holed.dropna()
            if len(whole) > 1:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found["complete cases"] = fit(whole)
            far = {way: distance(true, model) for way, model in found.items()}
            value = {w: found[w].log_prob(test, unseen="rare") for w in ("holes", "complete")}
            gap = value["holes"] - value["complete"]
            se = float(value["complete"].std() / np.sqrt(len(test)))
            paired = float(gap.std() / np.sqrt(len(test)))
            others = [v for w, v in far.items() if w in ("modes", "complete cases")]
            good = far["holes"] < min(others) and abs(gap.mean()) <= 2 * se
            missed += not good
            shown = ", ".join(f"{way} {v:.4f}" for way, v in far.items())
            print(f"{name} seed {seed}: error of the tables: {shown}; held-out log density "
                  f"{gap.mean():+.4f} nats beside complete rows (error of the mean {se:.4f}, "
                  f"paired {paired:.4f}), {seconds:.1f} s", flush=True)  # fmt: skip
    return missed


def speed(folder: Path, rows: int) -> None:
    """Print processor seconds of parameter learning, interleaved with pgmpy."""
    from pgmpy.models import DiscreteBayesianNetwork

    true = pg.BayesianNetwork.from_bif(folder / "bayesian_networks" / "alarm.bif.gz")
    edges = list(true.edges_[["parent", "child"]].itertuples(index=False, name=None))
    text = true.sample(rows, random_state=0)
    for kind, table in {"text": text, "category": text.astype("category")}.items():
        schema = pg.Schema.infer(table)
        ways = {
            "pgmpy": lambda t=table: DiscreteBayesianNetwork(edges).fit(t),
            "fit": lambda t=table: pg.BayesianNetwork(
                structure=edges, random_state=0, draws=0).fit(t),
            "fit, schema known": lambda t=table, s=schema: pg.BayesianNetwork(
                structure=edges, random_state=0, draws=0, schema=s).fit(t),
        }  # fmt: skip
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(5):
            for way, run in ways.items():
                clock = time.process_time()
                run()
                times[way].append(time.process_time() - clock)
        middle = {way: statistics.median(each) for way, each in times.items()}
        print(f"{rows} rows of {kind}: " + ", ".join(
            f"{way} {v:.3f} s ({middle['pgmpy'] / v:.2f} times pgmpy)" for way, v in middle.items()
        ), flush=True)  # fmt: skip


def simulated(rng: np.random.Generator, rows: int) -> pd.DataFrame:
    """A table with a confounder: treatment, mediator, outcome; the effect on `y` is 1.5."""
    z = rng.random(rows) < 0.4
    t = rng.random(rows) < np.where(z, 0.7, 0.3)
    m = rng.normal(np.where(t, 1.0, 0.0), 1.0)
    y = 1.5 * m + 1.0 * z + rng.normal(size=rows)
    return pd.DataFrame({"z": z, "t": t, "m": m, "y": y})


EDGES = [("z", "t"), ("t", "m"), ("m", "y"), ("z", "y")]


def coverage(folder: Path, tables: int, rows: int, restarts: int) -> None:
    """Print shares of truths inside 90 % intervals, and their errors."""
    true = pg.BayesianNetwork.from_bif(folder / "bayesian_networks" / "asia.bif.gz")
    test = true.sample(200, random_state=999)
    truth = true.log_prob(test)
    edges = list(true.edges_[["parent", "child"]].itertuples(index=False, name=None))
    hits: dict[str, list[float]] = {}
    for seed in range(tables):
        table = true.sample(rows, random_state=seed)
        model = pg.BayesianNetwork(structure=edges, random_state=seed, draws=200).fit(table)
        ends = model.log_prob(test, interval=0.9, unseen="rare")
        inside = (ends["lower"] <= truth) & (truth <= ends["upper"])
        hits.setdefault("log p(row), asia, graph known", []).append(float(inside.mean()))
        rng = np.random.default_rng(seed)
        sample = simulated(rng, rows)
        for way, how in {
            "graph known": {"structure": EDGES},
            f"graph learned in tiers, {restarts} restarts": {
                "tiers": [["z"], ["t"], ["m"], ["y"]], "restarts": restarts,
            },
        }.items():  # fmt: skip
            model = pg.BayesianNetwork(random_state=seed, draws=50, **how).fit(sample)
            found = model.effect("t", "y").iloc[0]
            hits.setdefault(f"effect of t on y, {way}", []).append(
                float(found["lower"] <= 1.5 <= found["upper"])
            )
    for what, each in hits.items():
        error = np.std(each) / np.sqrt(len(each))
        print(f"{what}: {np.mean(each):.3f} +- {error:.3f} of truths inside, {tables} tables of "
              f"{rows} rows", flush=True)  # fmt: skip


def main() -> int:
    """Exit status 1 if a figure of holes is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--what", choices=("settings", "holes", "speed", "coverage"))
    parser.add_argument("--set", nargs="*", default=list(SETTINGS), dest="tried")
    parser.add_argument("--names", nargs="*", default=None)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--tables", type=int, default=100)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1)
    own = parser.parse_args()
    if own.what == "settings":
        settings(own.data, own.tried, own.names or list(NAMES))
    missed = 0
    if own.what in (None, "holes"):
        missed = holes(own.data, own.names or ["asia", "child"], own.rows or 20_000, own.seeds)
    if own.what in (None, "speed"):
        speed(own.data, own.rows or 100_000)
    if own.what in (None, "coverage"):
        coverage(own.data, own.tables, own.rows or 500, own.restarts)
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
