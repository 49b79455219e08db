"""Speed of flows beside zuko: the same data, architecture, dtype and threads, in one run.

Rows a second of a training step (loss, gradient, Adam; batches of 1,024; nets of 64 x 64, 8 bins,
3 steps, normal base), of log densities, and of samples. zuko is called as its documentation
does; ours is the pair `RowFlow` through the lean ELBO, and where the engine compiles also the
whole step. Medians of interleaved runs; ratios are what counts.

Asked: training at least 1.15 times eager zuko, 2.5 times when compiled; autoregressive spline
sampling at least 5 times at d = 21 and 15 times at d = 63; and 100,000 rows x 20 columns scored in
bounded memory.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
import zuko

import probgen as pg
from probgen.batch import Batch
from probgen.engines import Gradients
from probgen.families.flow import RowFlow
from probgen.session import guarded
from probgen.training import Training

#: rows a step, and steps that are timed together
ROWS, STEPS = 1024, 4


def seconds(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each way, one after the other in turn."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            clock = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - clock)
    return {name: float(np.median(values[1:])) for name, values in taken.items()}


def pair(d: int, kind: str) -> tuple[RowFlow, zuko.flows.Flow]:
    """Our family over d real columns, and the flow of zuko whose weights it holds."""
    names = [f"x{i}" for i in range(d)]
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(50, d)), columns=names)
    plain = {"kind": "real", "atoms": (), "grid": None}
    family = RowFlow(pg.Schema.infer(table, dict.fromkeys(names, plain)), kind, base="normal")
    for parameter in family.warp.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return family.float(), family.warp.flow


def training(d: int, kind: str, repeats: int, compiled: bool) -> str:
    """Rows a second of training steps: eager zuko, our lean step, our compiled step."""
    family, flow = pair(d, kind)
    x = torch.randn(STEPS * ROWS, d).exp()  # not the base itself: gradients are not 0
    x = (x - x.mean(0)) / x.std(0)
    batch = Batch.of(x)
    theirs = torch.optim.Adam(flow.parameters(), fused=True)

    def eager() -> None:
        for rows in torch.randperm(len(x)).split(ROWS):
            theirs.zero_grad()
            (-flow().log_prob(x[rows]).mean()).backward()
            theirs.step()

    def step(compile: bool) -> Callable[[], object]:
        own = pair(d, kind)[0].train()
        training = Training(compile=compile, batch_size=ROWS, learning_rate=1e-3)
        made = Gradients(own, batch, training, ROWS)
        order = torch.Generator().manual_seed(0)
        list(made.epoch(order))
        names[compile] = made.engine
        return lambda: list(made.epoch(order))

    names: dict[bool, str] = {}
    with guarded(0):
        ways = {"zuko": eager, "lean": step(False)}
        if compiled:
            ways["compiled"] = step(True)
        found = seconds(ways, repeats)
    rate = {name: STEPS * ROWS / value for name, value in found.items()}
    text = "".join(
        f"  {name} {rate[name]:8,.0f} ({rate[name] / rate['zuko']:.2f} times)"
        for name in ways if name != "zuko"
    )  # fmt: skip
    if compiled and names[True] == names[False]:
        text += "  (did not compile)"
    return f"train  d={d:2d} {kind:8s} zuko {rate['zuko']:8,.0f} rows/s {text}"


def scoring(d: int, kind: str, repeats: int) -> str:
    """Rows a second of log densities, no gradients."""
    family, flow = pair(d, kind)
    x = torch.randn(ROWS, d)
    batch = Batch.of(x)
    with torch.no_grad():
        found = seconds({
            "zuko": lambda: flow().log_prob(x),
            "ours": lambda: family.eval().exact_log_prob(batch, None),
        }, repeats)  # fmt: skip
    rate = {name: ROWS / value for name, value in found.items()}
    return (
        f"score  d={d:2d} {kind:8s} zuko {rate['zuko']:8,.0f}  ours {rate['ours']:8,.0f} rows/s: "
        f"{rate['ours'] / rate['zuko']:.2f} times"
    )


def sampling(d: int, kind: str, repeats: int, rows: int) -> str:
    """Rows a second of samples."""
    family, flow = pair(d, kind)
    device = torch.device("cpu")
    with torch.no_grad():
        found = seconds({
            "zuko": lambda: flow().sample((rows,)),
            "ours": lambda: family.eval().generate(rows, None, device),
        }, repeats)  # fmt: skip
    rate = {name: rows / value for name, value in found.items()}
    return (
        f"sample d={d:2d} {kind:8s} zuko {rate['zuko']:8,.0f}  ours {rate['ours']:8,.0f} rows/s: "
        f"{rate['ours'] / rate['zuko']:.1f} times"
    )


def memory(rows: int, columns: int) -> str:
    """Growth of the peak memory while many rows are scored in float64."""
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(rows, columns)))
    flow = pg.Flow(max_epochs=1, noise=0.0, random_state=0, compile=False).fit(table.head(500))
    flow.score_samples(table.head(2000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock = time.perf_counter()
    flow.score_samples(table)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    taken = time.perf_counter() - clock
    return f"{rows:,} x {columns} scored in {taken:.1f} s; peak memory grew by {grown:.0f} MB"


def main() -> None:
    """Print a line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="*", default=[6, 21, 63])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rows", type=int, default=1000, help="rows of a sample")
    parser.add_argument("--scored", type=int, default=100_000)
    parser.add_argument("--compiled", action="store_true", help="time the compiled step as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for d in arguments.widths:
        print(training(d, "spline", arguments.repeats, arguments.compiled), flush=True)
        print(training(d, "coupling", arguments.repeats, False), flush=True)
        print(scoring(d, "spline", arguments.repeats), flush=True)
        print(sampling(d, "spline", 3 if d < 40 else 1, arguments.rows), flush=True)
    print(memory(arguments.scored, 20))


if __name__ == "__main__":
    main()
