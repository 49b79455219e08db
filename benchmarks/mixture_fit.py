"""Mixture fits beside scikit-learn's `GaussianMixture`, in one run: time and held-out density.

Two questions for each size: (1) from the same start, to the same held-out log density, how
much time; (2) with default settings, how good and how fast against one and ten k-means
starts of scikit-learn. Times are of one run each, interleaved; ratios are what counts.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from sklearn.mixture import GaussianMixture as Peer

import probgen as pg
from probgen.batch import Batch
from probgen.families.mixture import Mixture
from probgen.fitting import fit
from probgen.schema import Schema
from probgen.training import Training

SIZES = ((100_000, 10, 20), (1_000_000, 2, 5))


def table(n: int, d: int, k: int, seed: int) -> np.ndarray:
    """Rows of a random mixture of k overlapping full-covariance normals."""
    rng = np.random.default_rng(seed)
    means = rng.normal(0, 3, (k, d))
    roots = rng.normal(0, 1, (k, d, d)) / np.sqrt(d) + 0.3 * np.eye(d)
    label = rng.choice(k, n, p=rng.dirichlet(np.full(k, 3.0)))
    noise = rng.normal(size=(n, d))
    out = means[label]
    for j in range(k):
        rows = label == j
        out[rows] += noise[rows] @ roots[j].T
    return out


def start(x: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Responsibilities from the nearest of k random rows: the same start for both."""
    rng = np.random.default_rng(seed)
    centres = x[rng.choice(len(x), k, replace=False)]
    distance = -2 * x @ centres.T + (centres**2).sum(1)
    return np.eye(k)[distance.argmin(1)]


def peer_from(resp: np.ndarray, x: np.ndarray, tol: float) -> Peer:
    """scikit-learn's estimator started at the moments of these responsibilities."""
    weights = resp.mean(0)
    means = resp.T @ x / resp.sum(0)[:, None]
    precisions = []
    for j in range(resp.shape[1]):
        gap = x[resp[:, j] > 0] - means[j]
        precisions.append(np.linalg.inv(gap.T @ gap / len(gap) + 1e-6 * np.eye(x.shape[1])))
    return Peer(
        resp.shape[1], weights_init=weights, means_init=means,
        precisions_init=np.array(precisions), tol=tol, max_iter=500,
        init_params="random_from_data",
    )  # fmt: skip


def same_start(n: int, d: int, k: int, seed: int) -> dict[str, float]:
    """Time of both to convergence from one start, and the held-out density of each."""
    data = table(n + n // 10, d, k, seed)
    train, test = data[:n], data[n:]
    schema = Schema.infer(train)
    scale = np.array([c.scale for c in schema.columns])
    loc = np.array([c.loc for c in schema.columns])
    x, y = (train - loc) / scale, (test - loc) / scale
    resp = start(x, k, seed)
    clock = time.perf_counter()
    peer = peer_from(resp, x, tol=1e-3).fit(x)
    peer_time = time.perf_counter() - clock
    family = Mixture(schema, k, spread=1e-3, posterior="mean_field")
    batch = Batch.of(torch.from_numpy(x))
    family.start_from(batch, torch.from_numpy(resp))
    clock = time.perf_counter()
    result = fit(
        family, batch, Training(validation=0, tolerance=1e-3, random_state=0), start=False
    )
    own_time = time.perf_counter() - clock
    own = float(family.exact_log_prob(Batch.of(torch.from_numpy(y)), None).mean())
    return {
        "peer_seconds": peer_time, "own_seconds": own_time, "ratio": own_time / peer_time,
        "peer_heldout": peer.score(y), "own_heldout": own, "peer_iterations": peer.n_iter_,
        "own_iterations": result.epochs,
    }  # fmt: skip


def defaults(n: int, d: int, k: int, seed: int) -> dict[str, float]:
    """Default settings of both."""
    data = table(n + n // 10, d, k, seed)
    train, test = data[:n], data[n:]
    out = {}
    for starts in (1, 10):
        clock = time.perf_counter()
        peer = Peer(k, n_init=starts, random_state=seed).fit(train)
        out[f"peer{starts}_seconds"] = time.perf_counter() - clock
        out[f"peer{starts}_heldout"] = peer.score(test)
    clock = time.perf_counter()
    own = pg.GaussianMixture(k, random_state=seed).fit(train)
    out["own_seconds"] = time.perf_counter() - clock
    out["own_heldout"] = own.score(test)
    return out


def main(data: str | None = None) -> None:
    """Print both questions for both sizes."""
    for n, d, k in SIZES:
        for seed in (0, 1):
            found = same_start(n, d, k, seed)
            print(f"same start  n={n} d={d} k={k} seed={seed}",
                  *(f"{key}={value:.4g}" for key, value in found.items()))  # fmt: skip
        found = defaults(n, d, k, 0)
        print(f"defaults    n={n} d={d} k={k}",
              *(f"{key}={value:.4g}" for key, value in found.items()), flush=True)  # fmt: skip


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
