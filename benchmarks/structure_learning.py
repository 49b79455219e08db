"""Structural Hamming distance of learned networks, and test log-likelihood of Chow-Liu trees.

Discrete networks: the distance of the completed partially directed graph to the true one, of
the default setting. Seed 1 is the sample in the data folder. For the other seeds rows are drawn
forward from the tables of the BIF file: `numpy.random.default_rng(seed)`, nodes in a topological
order, for each node one uniform number a row, compared with the cumulated probabilities. States
are those that occur in the sample. ``--settings`` compares scores, prior and methods, and is what
chose the defaults; ``--edges`` compares the edge probabilities of resampled rows and of the order
chain by their Brier score.

Trees: edges and tables from the training file only, one row added to each pairwise cell, and
(n1 + 1) / (n + 2) for single probabilities.
"""

from __future__ import annotations

import argparse
import gzip
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probgen.graphs.dag import Dag, structural_hamming
from probgen.graphs.edges import RESAMPLING, bootstrap_graphs, edge_probabilities
from probgen.graphs.learn import learn
from probgen.graphs.nodes import NodeRows
from probgen.graphs.order_mcmc import order_mcmc
from probgen.graphs.scores import Scorer
from probgen.graphs.search import hill_climb
from probgen.graphs.trees import chow_liu

Ints = NDArray[np.int64]
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "uniform prior over graphs": {"edges": None},
    "one edge a node": {"edges": 1.0},
    "two edges a node": {"edges": 2.0},
    "ess 1": {"ess": 1.0},
    "ess 10": {"ess": 10.0},
    "bic": {"score": "bic", "edges": None},
    "bic, sparse prior": {"score": "bic"},
    "hill": {"method": "hill"},
    "plain hill": {"method": "hill", "tabu": 0, "restarts": 0},
    "orders": {"method": "orders"},
    "pc": {"method": "pc"},
}


@dataclass(frozen=True)
class Network:
    """A discrete network: names of its nodes and states, graph, and tables (parents, states)."""

    names: tuple[str, ...]
    states: tuple[tuple[str, ...], ...]
    graph: Dag
    tables: tuple[NDArray[np.float64], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many states each node has."""
        return tuple(len(own) for own in self.states)

    def sample(self, n: int, random: np.random.Generator) -> Ints:
        """Codes (n, d) of rows drawn forward."""
        codes = np.zeros((n, len(self.names)), dtype=np.int64)
        for node in self.graph.order:
            given = tuple(codes[:, p] for p in self.graph.parents[node])
            steps = np.cumsum(np.broadcast_to(self.tables[node][given], (n, self.sizes[node])), 1)
            codes[:, node] = (random.random(n)[:, None] > steps[:, :-1]).sum(1)
        return codes


def network(folder: Path, name: str) -> Network:
    """Read a BIF file of the data folder."""
    with gzip.open(folder / f"{name}.bif.gz", "rt", encoding="utf-8") as file:
        text = file.read()
    kinds = re.findall(r"variable\s+(\S+)\s*\{\s*type discrete \[ \d+ \] \{([^}]*)\}", text)
    names = tuple(kind[0] for kind in kinds)
    states = tuple(tuple(s.strip() for s in kind[1].split(",")) for kind in kinds)
    place = {n: i for i, n in enumerate(names)}
    code = [{s: i for i, s in enumerate(own)} for own in states]
    parents: list[tuple[int, ...]] = [()] * len(names)
    tables: list[NDArray[np.float64]] = [np.empty(0)] * len(names)
    for head, body in re.findall(r"probability\s*\(([^)]*)\)\s*\{(.*?)\n\}", text, re.DOTALL):
        child, _, rest = head.partition("|")
        node = place[child.strip()]
        own = [place[p.strip()] for p in rest.split(",") if p.strip()]
        table = np.zeros([len(states[p]) for p in own] + [len(states[node])])
        for key, values in re.findall(r"(?:\(([^)]*)\)|table)\s*([^;()]*);", body):
            given = [k.strip() for k in key.split(",")] if key else []
            index = tuple(code[p][k] for p, k in zip(own, given, strict=True))
            table[index] = [float(v) for v in values.split(",")]
        # Dag.of sorts the parents: the axes follow
        order = np.argsort(own).tolist()
        table = np.transpose(table, [*order, len(own)])
        tables[node] = table / table.sum(-1, keepdims=True)
        parents[node] = tuple(sorted(own))
    return Network(names, states, Dag(tuple(parents)), tuple(tables))


def node_rows(codes: Ints, sizes: tuple[int, ...]) -> NodeRows:
    """Complete rows of discrete nodes."""
    return NodeRows(codes, np.full(codes.shape, np.nan), sizes, np.ones(len(codes)))


def sample(folder: Path, name: str, n: int, seed: int) -> tuple[NodeRows, Dag]:
    """Rows with the states that occur, and the true graph."""
    net = network(folder, name)
    if seed == 1:
        path = folder / f"samples_{name}_n{n}_seed1.csv.gz"
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        columns = [frame[v].map({s: i for i, s in enumerate(own)}) for v, own in
                   zip(net.names, net.states, strict=True)]  # fmt: skip
        codes = np.stack([c.to_numpy(dtype=np.int64) for c in columns], axis=1)
    else:
        codes = net.sample(n, np.random.default_rng(seed))
    found = [np.unique(column, return_inverse=True) for column in codes.T]
    codes = np.stack([own[1].reshape(-1) for own in found], axis=1)
    return node_rows(codes, tuple(len(own[0]) for own in found)), net.graph


def distances(folder: Path, name: str, n: int, seeds: int, **setting: Any) -> dict[str, float]:
    """Mean distance of seeds 1 to 3 and of all, and seconds of one."""
    clock, found = time.process_time(), []
    for seed in range(1, seeds + 1):
        rows, truth = sample(folder, name, n, seed)
        graph = learn(rows, **setting)
        found.append(structural_hamming(graph.cpdag, truth.cpdag))
    return {
        "three seeds": float(np.mean(found[:3])),
        "all seeds": float(np.mean(found)),
        "seconds": (time.process_time() - clock) / seeds,
    }


def brier(folder: Path, name: str, n: int, seeds: int) -> dict[str, float]:
    """Mean squared error of the probabilities of the skeleton, of each way to get them."""
    found: dict[str, list[float]] = {name: [] for name in (*RESAMPLING, "order chain")}
    for seed in range(1, seeds + 1):
        rows, truth = sample(folder, name, n, seed)

        def climb(own: NodeRows) -> Dag:
            return hill_climb(Scorer(own, "bdeu", ess=5.0, edges=0.5))

        joined = truth.adjacency | truth.adjacency.T
        pairs = np.triu_indices(len(truth), 1)
        for way in found:
            random = np.random.default_rng(seed)
            if way == "order chain":
                graphs = order_mcmc(Scorer(rows, "bdeu", ess=5.0, edges=0.5), rng=random)
            else:
                graphs = bootstrap_graphs(rows, climb, 20, random, way)
            error = (edge_probabilities(graphs).skeleton - joined)[pairs]
            found[way].append(float((error**2).sum()))
    return {way: float(np.mean(own)) for way, own in found.items()}


def tree_likelihood(folder: Path, name: str) -> float:
    """Mean test log-likelihood of a binary table under its Chow-Liu tree."""
    train, test = (
        np.loadtxt(folder / f"{name}.{part}.data.gz", delimiter=",", dtype=np.int64)
        for part in ("train", "test")
    )
    tree = chow_liu(node_rows(train, (2,) * train.shape[1]), smoothing=1.0)
    single = (train.sum(0) + 1) / (len(train) + 2)
    found = np.zeros(len(test))
    for child, own in enumerate(tree.parents):
        if own:
            pair = np.bincount(2 * train[:, own[0]] + train[:, child], minlength=4) + 1.0
            table = pair.reshape(2, 2) / pair.reshape(2, 2).sum(1, keepdims=True)
            found += np.log(table[test[:, own[0]], test[:, child]])
        else:
            found += np.log(np.where(test[:, child], single[child], 1 - single[child]))
    return float(found.mean())


def main(data: str, seeds: int, settings: list[str], edges: bool) -> pd.DataFrame:
    """Print a row for each network and size, then for each binary table."""
    folder = Path(data) / "bayesian_networks"
    peers = pd.read_csv(folder / "structure_learning_baseline.csv")
    rows = []
    for peer in peers.itertuples():
        for setting in settings:
            own = distances(folder, peer.network, peer.n, seeds, **SETTINGS[setting])
            row = {"network": peer.network, "n": peer.n, "setting": setting, **own}
            rows.append(row | {"baseline": peer.cpdag_shd_mean_3seeds})
            print(*(f"{k}={v:.2f}" if isinstance(v, float) else v for k, v in rows[-1].items()),
                  flush=True)  # fmt: skip
        if edges:
            found = brier(folder, peer.network, peer.n, 3)
            print("  squared error of edge probabilities, summed over pairs:",
                  *(f"{k}={v:.2f}" for k, v in found.items()), flush=True)  # fmt: skip
    reference = pd.read_csv(Path(data) / "binary_density" / "reference.csv", index_col="dataset")
    for name, known in reference["chow_liu_tree_laplace1_test_ll"].items():
        found = tree_likelihood(Path(data) / "binary_density", str(name))
        print(name, f"tree={found:.6f} reference={known:.6f} off={found - known:+.1e}", flush=True)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of the reference data")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--settings", nargs="*", default=["default"], choices=list(SETTINGS))
    parser.add_argument("--edges", action="store_true", help="compare edge probabilities")
    arguments = parser.parse_args()
    main(arguments.data, arguments.seeds, arguments.settings, arguments.edges)
