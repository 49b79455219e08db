"""Exact inference in networks: against stored answers, and beside pgmpy and pyAgrum.

Every query of eight networks must agree with the stored posteriors and log evidence to 1e-6, or
the benchmark fails. Then speed on the alarm network, in interleaved rounds with one thread:
evidence on eight leaves, drawn from the network. pyAgrum answers a row at a time; each of its
engines is timed on part of the rows and the best one counts.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from probgen.elimination.network import DiscreteNetwork
from probgen.elimination.plans import plan
from probgen.exchange.bif import read_bif
from probgen.exchange.tables import NetworkTables

TOLERANCE = 1e-6
ROWS, MARGINAL_ROWS, EVIDENCE = 10_000, 1_280, 8
#: how often our quick calls are repeated in each round
REPEATS = 10
#: rows on which pyAgrum is timed
PEER_ROWS, PEER_MARGINAL_ROWS = 500, 100
QUERIES = ("HYPOVOLEMIA", "LVFAILURE", "KINKEDTUBE", "CATECHOL", "VENTLUNG")
Evidence = dict[str, int]


def network_of(net: NetworkTables) -> DiscreteNetwork:
    """The network with its tables as tensors."""
    return DiscreteNetwork(net.dag, [torch.from_numpy(table) for table in net.tables])


def widest(network: DiscreteNetwork, seen: set[int]) -> tuple[int, float]:
    """Treewidth and predicted MiB of all marginals of a row."""
    hidden = [tuple(v for v in (node, *own) if v not in seen)
              for node, own in enumerate(network.dag.parents)]  # fmt: skip
    scopes = tuple(scope for scope in hidden if scope)
    found = plan(scopes, (True,) * len(scopes), network.sizes)
    return found.width, found.memory(1, kept=True) / 2**20


def check(folder: Path) -> bool:
    """Whether all stored answers agree; prints errors, treewidth, memory and time."""
    stored = json.loads((folder / "exact_inference_answers.json").read_text())
    right = True
    for name, answers in stored.items():
        net = read_bif(folder / f"{name}.bif.gz")
        network, place = network_of(net), {v: i for i, v in enumerate(net.names)}
        errors, costs, clock = [], [], time.perf_counter()
        for query in answers["queries"]:
            codes = torch.full((1, len(net.names)), -1)
            for v, level in query["evidence"].items():
                codes[0, place[v]] = net.levels[place[v]].index(level)
            seen = codes >= 0
            errors.append(abs(float(network.log_evidence(codes, seen)) - query["log_evidence"]))
            every = network.marginals(codes, seen)
            for v, wanted in query["posterior"].items():
                own = network.posterior(codes, seen, place[v])
                for level, value in wanted.items():
                    at = net.levels[place[v]].index(level)
                    errors += [abs(float(x[0, at]) - value) for x in (own, every[place[v]])]
            costs.append(widest(network, set(seen[0].nonzero()[:, 0].tolist())))
        right &= max(errors) <= TOLERANCE
        width, mib = max(costs)
        print(
            f"  {name}: {len(answers['queries'])} queries, largest error {max(errors):.1e}, "
            f"treewidth up to {width}, predicted memory of a row {mib:.1f} MiB, "
            f"{time.perf_counter() - clock:.2f} s",
            flush=True,
        )
    print("  all answers", "agree" if right else f"DO NOT AGREE to {TOLERANCE}")
    return right


class Table(NamedTuple):
    """Rows of evidence, for us and for the others."""

    codes: torch.Tensor
    seen: torch.Tensor
    named: list[Evidence]


def evidence_rows(net: NetworkTables, network: DiscreteNetwork) -> Table:
    """Rows drawn from the network whose first leaves are seen."""
    d = len(net.names)
    leaves = [v for v in range(d) if not net.dag.children[v]][:EVIDENCE]
    nothing = torch.full((ROWS, d), -1)
    rows = network.draw(nothing, nothing >= 0, torch.Generator().manual_seed(0))
    seen = torch.zeros(d, dtype=torch.bool)
    seen[leaves] = True
    codes = torch.where(seen, rows, -1)
    named = [dict(zip([net.names[v] for v in leaves], row, strict=True))
             for row in codes[:, leaves].tolist()]  # fmt: skip
    print(f"alarm, evidence on {', '.join(named[0])}: "
          f"{len(codes.unique(dim=0))} different rows among {ROWS}")  # fmt: skip
    return Table(codes, seen.expand(ROWS, d), named)


def different(table: Table) -> Table:
    """One row of each kind."""
    kinds = {tuple(row.values()): i for i, row in enumerate(table.named)}
    rows = list(kinds.values())
    return Table(table.codes[rows], table.seen[rows], [table.named[i] for i in rows])


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds + 1):
        for name, call in calls.items():
            clock = time.perf_counter()
            call()
            if i:
                times[name].append(time.perf_counter() - clock)
    return times


def repeated(call: Callable[[], Any]) -> Callable[[], None]:
    """The call several times, so that one interruption does not decide."""

    def many() -> None:
        for _ in range(REPEATS):
            call()

    return many


def engines(path: Path, first: Evidence, targets: list[str]) -> dict[str, Any]:
    """pyAgrum's exact engines, one thread each."""
    import pyagrum as gum

    gum.setNumberOfThreads(1)
    peer = gum.loadBN(str(path))
    found = {}
    for kind in (gum.LazyPropagation, gum.ShaferShenoyInference, gum.VariableElimination):
        found[kind.__name__] = engine = kind(peer)
        engine.setTargets(set(targets))
        engine.setEvidence(first)
    return found


def peer_answers(engine: Any, rows: list[Evidence], targets: list[str]) -> None:
    """Row by row, with evidence changed and not set anew, which is its quickest way."""
    for row in rows:
        for v, state in row.items():
            engine.chgEvidence(v, state)
        engine.makeInference()
        for v in targets:
            engine.posterior(v).toarray()


def report(times: dict[str, list[float]], own: str, rows: dict[str, int], peers: str) -> float:
    """Print the rows a second of each; how many times the best of the peers we reach."""
    rate = {name: rows[name] / statistics.median(times[name]) for name in times}
    print("   ", ", ".join(f"{name} {value:,.0f}/s" for name, value in rate.items()))
    best = max((name for name in rate if name.startswith(peers)), key=rate.__getitem__)
    ratio = statistics.median(
        theirs / rows[best] / (ours / rows[own])
        for ours, theirs in zip(times[own], times[best], strict=True)
    )
    print(f"    {ratio:,.1f} times {best}", flush=True)
    return ratio


def one_query(
    net: NetworkTables, network: DiscreteNetwork, table: Table, path: Path
) -> list[float]:
    """Ratios of a table of rows with one query variable, a ratio a variable."""
    ratios, n = [], len(table.codes)
    for query in QUERIES:
        at = net.names.index(query)
        calls: dict[str, Callable[[], Any]] = {
            "probgen": repeated(lambda at=at: network.posterior(table.codes, table.seen, at))
        }
        for name, engine in engines(path, table.named[0], [query]).items():
            calls[f"pyAgrum {name}"] = lambda engine=engine, query=query: peer_answers(
                engine, table.named[:PEER_ROWS], [query]
            )
        rows = {name: REPEATS * n if name == "probgen" else min(n, PEER_ROWS) for name in calls}
        print(f"  {query} for {n:,} rows (pyAgrum timed on {PEER_ROWS})")
        ratios.append(report(interleaved(calls, 5), "probgen", rows, "pyAgrum"))
    return ratios


def all_marginals(net: NetworkTables, network: DiscreteNetwork, table: Table, path: Path) -> float:
    """Ratio for the marginals of all hidden variables."""
    hidden = [v for v in net.names if v not in table.named[0]]
    n = MARGINAL_ROWS
    calls: dict[str, Callable[[], Any]] = {
        "probgen": repeated(lambda: network.marginals(table.codes[:n], table.seen[:n]))
    }
    for name, engine in engines(path, table.named[0], hidden).items():
        calls[f"pyAgrum {name}"] = lambda engine=engine: peer_answers(
            engine, table.named[:PEER_MARGINAL_ROWS], hidden
        )
    rows = {name: REPEATS * n if name == "probgen" else PEER_MARGINAL_ROWS for name in calls}
    print(f"  all {len(hidden)} hidden marginals for {n:,} rows "
          f"(pyAgrum timed on {PEER_MARGINAL_ROWS})")  # fmt: skip
    return report(interleaved(calls, 5), "probgen", rows, "pyAgrum")


def single(net: NetworkTables, network: DiscreteNetwork, table: Table, path: Path) -> list[float]:
    """Ratios of a single row to pgmpy, a ratio a variable; pyAgrum is shown."""
    from pgmpy.inference import VariableElimination
    from pgmpy.readwrite import BIFReader

    logging.getLogger("pgmpy").setLevel(logging.ERROR)
    peer = VariableElimination(BIFReader(str(path)).get_model())
    named = {v: net.levels[net.names.index(v)][s] for v, s in table.named[0].items()}
    ratios = []
    for query in QUERIES:
        at = net.names.index(query)
        engine = engines(path, table.named[0], [query])["ShaferShenoyInference"]
        calls: dict[str, Callable[[], Any]] = {
            "probgen": lambda at=at: network.posterior(table.codes[:1], table.seen[:1], at),
            "pgmpy": lambda q=query: peer.query([q], evidence=named, show_progress=False),
            "pyAgrum": lambda e=engine, q=query: peer_answers(e, table.named[:1], [q]),
        }
        print(f"  a single row, {query}")
        ratios.append(report(interleaved(calls, 50), "probgen", dict.fromkeys(calls, 1), "pgmpy"))
    return ratios


def main() -> int:
    """Exit status 1 if an answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of the reference data")
    folder = Path(parser.parse_args().data) / "bayesian_networks"
    torch.set_num_threads(1)
    print("stored answers")
    right = check(folder)
    net = read_bif(folder / "alarm.bif.gz")
    network = network_of(net)
    table = evidence_rows(net, network)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "alarm.bif"
        path.write_bytes(gzip.decompress((folder / "alarm.bif.gz").read_bytes()))
        many = one_query(net, network, table, path)
        print("the same where no two rows are equal")
        one_query(net, network, different(table), path)
        every = all_marginals(net, network, table, path)
        alone = single(net, network, table, path)
    print(
        f"one query variable: {min(many):,.0f} to {max(many):,.0f} times pyAgrum (needed 50); "
        f"all marginals: {every:,.0f} times (needed 50); "
        f"a single query: {min(alone):,.1f} to {max(alone):,.1f} times pgmpy (needed 1)"
    )
    return int(not right)


if __name__ == "__main__":
    raise SystemExit(main())
