"""Scoring beside scikit-learn: rows a second, and peak memory for a million rows."""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.mixture import GaussianMixture as Peer

import probgen as pg
from probgen.batch import Batch

D, K = 20, 10


def rows(n: int, seed: int = 0) -> np.ndarray:
    """Correlated rows around ten centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 2, (K, D))
    root = rng.normal(0, 1, (D, D)) / np.sqrt(D) + 0.5 * np.eye(D)
    return centres[rng.integers(K, size=n)] + rng.normal(size=(n, D)) @ root


def fitted() -> pg.GaussianMixture:
    """Our model of a sample of the rows."""
    return pg.GaussianMixture(K, random_state=0, posterior="mean_field").fit(rows(10_000))


def speed(n: int = 1_000_000, rounds: int = 3) -> None:
    """Interleaved rounds; medians of the ratio."""
    own, peer = fitted(), Peer(K, random_state=0).fit(rows(10_000))
    x = rows(n, 1)
    member = own.members_[0]
    encoded = (x - [c.loc for c in own.schema_.columns]) / [c.scale for c in own.schema_.columns]
    batch = Batch.of(torch.from_numpy(encoded))
    times: dict[str, list[float]] = {"peer": [], "array": [], "tensor": [], "plugin": []}
    point = {k: v[0] for k, v in member.point_globals().items()}
    for _ in range(rounds):
        for name, call in (
            ("peer", lambda: peer.score_samples(x)),
            ("array", lambda: own.score_samples(x)),
            ("tensor", lambda: member.exact_log_prob(batch, None)),
            ("plugin", lambda: member.rows.log_rows(batch.x, batch.seen, member.plugin(point))),
        ):
            clock = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - clock)
    base = statistics.median(times["peer"])
    print(f"scoring n={n} d={D} k={K}, full covariance; scikit-learn {n / base:,.0f} rows/s")
    for name, label in (
        ("array", "score_samples, array in and out, posterior predictive"),
        ("tensor", "the same on encoded rows"),
        ("plugin", "plug-in normals on encoded rows"),
    ):
        ratio = statistics.median(
            p / o for p, o in zip(times["peer"], times[name], strict=True)
        )  # fmt: skip
        print(f"  {label}: {n / statistics.median(times[name]):,.0f} rows/s, {ratio:.1f} times")


def resident() -> int:
    """Resident memory now, bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def memory(n: int = 1_000_000) -> None:
    """Most resident memory while a million rows are scored, over that before (Linux)."""
    model = fitted()
    x = np.concatenate([rows(10_000, seed) for seed in range(n // 10_000)])
    model.score_samples(x[:10_000])
    before, most, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    model.score_samples(x)
    done.set()
    watcher.join()
    grown, table = most[0] - before, n * D * 9
    print(f"memory, {n:,} rows x {D}: grew by {grown / 1e6:.0f} MB; encoded table "
          f"{table / 1e6:.0f} MB, over it {(grown - table) / 1e6:.0f} MB")  # fmt: skip


def main(data: str | None = None) -> None:
    """Print both."""
    speed()
    subprocess.run([sys.executable, "-W", "ignore", __file__, "--memory"], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true", help="only the memory, in this process")
    memory() if parser.parse_args().memory else main()
