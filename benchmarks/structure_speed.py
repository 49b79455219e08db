"""Hill climbing with BIC on alarm: seconds of one thread beside pyAgrum's, interleaved.

Both get the integer codes of the same rows, drawn from the network in the data folder; the clock
is the process's own, from the rows in memory to the graph. pyAgrum's `BNLearner` is timed with
reading its table and without. ``--against pgmpy`` adds pgmpy's `HillClimbSearch`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.structure_learning import Network, network, node_rows
from probgen.graphs.dag import Dag
from probgen.graphs.nodes import NodeRows
from probgen.graphs.scores import Scorer
from probgen.graphs.search import hill_climb


def timed(function: Any, *arguments: Any) -> tuple[float, Any]:
    """CPU seconds of a call, and its result."""
    clock = time.process_time()
    found = function(*arguments)
    return time.process_time() - clock, found


def ours(rows: NodeRows) -> Dag:
    """The graph by hill climbing without tabu, as the others do."""
    return hill_climb(Scorer(rows, "bic"), tabu=0)


def agrum_learner(frame: pd.DataFrame) -> Any:
    """pyAgrum's learner over a table, with one thread."""
    import pyagrum

    learner = pyagrum.BNLearner(frame)
    learner.setNumberOfThreads(1)
    learner.useGreedyHillClimbing()
    learner.useScoreBIC()
    return learner


def pgmpy_graph(frame: pd.DataFrame) -> Any:
    """pgmpy's hill climbing with its default settings and BIC."""
    from pgmpy.estimators import HillClimbSearch

    return HillClimbSearch(frame).estimate(scoring_method="bic-d", show_progress=False)


def measure(alarm: Network, n: int, repeats: int, against_pgmpy: bool) -> dict[str, float]:
    """Median seconds, and the scores of both graphs."""
    codes = alarm.sample(n, np.random.default_rng(1))
    rows = node_rows(codes, alarm.sizes)
    frame = pd.DataFrame(codes.astype(str), columns=list(alarm.names))
    seconds: dict[str, list[float]] = {"probgen": [], "pyagrum": [], "pyagrum with reading": []}
    for _ in range(repeats):
        own, graph = timed(ours, rows)
        read, learner = timed(agrum_learner, frame)
        search, theirs = timed(learner.learnDAG)
        seconds["probgen"].append(own)
        seconds["pyagrum"].append(search)
        seconds["pyagrum with reading"].append(read + search)
    found = {name: float(np.median(own)) for name, own in seconds.items()}
    if against_pgmpy:
        found["pgmpy"] = timed(pgmpy_graph, frame)[0]
    scorer = Scorer(rows, "bic")
    found["ratio"] = found["pyagrum"] / found["probgen"]
    found["score above pyagrum's"] = scorer.graph(graph) - scorer.graph(
        Dag.of(len(graph), theirs.arcs())
    )
    return found


def main(data: str, sizes: list[int], repeats: int, against_pgmpy: bool) -> pd.DataFrame:
    """Print the seconds of each size."""
    alarm = network(Path(data) / "bayesian_networks", "alarm")
    rows = {}
    for n in sizes:
        rows[n] = measure(alarm, n, repeats, against_pgmpy)
        print(n, *(f"{k}={v:.3f}" for k, v in rows[n].items()), flush=True)
    return pd.DataFrame(rows).T


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of the reference data")
    parser.add_argument("--sizes", nargs="*", type=int, default=[10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", choices=["pgmpy"])
    arguments = parser.parse_args()
    main(arguments.data, arguments.sizes, arguments.repeats, arguments.against == "pgmpy")
