"""Steps a second of the engines: eager, traced, compiled; and what compiling costs.

An autoencoder, a user's own pair and zuko's neural spline flow (two hidden layers of 64, eight
bins, three transforms) are trained on the same rows by each engine, steps interleaved in one
run on one thread; then `probgen.Flow` of the same architecture. Beside the flows stands zuko's in
plain PyTorch, with fused Adam. Then the seconds to
trace, compile and verify: with an empty cache, with that of the disk, and for a restart in one
process; and the break-even in steps. `work` is what `compiled.pays` goes by: operations of an
eager step, and millions of numbers that it writes. All is processor time, the compiler's
included, so that a busy machine changes little.

Run ``python benchmarks/compiled.py`` (ten minutes); ``--only nsf`` for some rows.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
import zuko
from step_time import Autoencoder
from torch import Tensor

import probgen as pg
from probgen import compiled
from probgen.batch import Batch
from probgen.engines import Gradients
from probgen.families.flow import RowFlow
from probgen.family import Family
from probgen.schema import Schema
from probgen.session import guarded
from probgen.table import encode
from probgen.training import Training

TRAINING = Training(learning_rate=1e-3, compile=False, random_state=0)


class _Row(dist.TorchDistribution):
    """A density of whole rows (n, d), by a function."""

    arg_constraints: dict[str, object] = {}
    support = dist.constraints.real_vector
    skips_unseen = True

    def __init__(self, log: Callable[[Tensor], Tensor], n: int, d: int) -> None:
        self.log_prob = log  # type: ignore[method-assign]
        super().__init__(torch.Size([n]), torch.Size([d]), validate_args=False)

    def expand(self, batch_shape: object, _instance: object = None) -> _Row:
        return self


class Spline(Family):
    """zuko's autoregressive neural spline flow as a family."""

    def __init__(self, d: int) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        torch.manual_seed(0)
        self.d = d
        self.flow = zuko.flows.NSF(d, bins=8, hidden_features=(64, 64), transforms=3)

    def model(self, batch: Batch) -> None:
        with batch.rows():
            row = _Row(lambda x: self.flow().log_prob(x), len(batch), self.d)
            batch.observe("x", row, range(self.d))

    def plain(self, x: Tensor) -> Tensor:
        """The same loss by hand."""
        return -self.flow().log_prob(x).mean()


def regression(batch: object) -> None:
    """A user's own pair: y given three columns, a robust error, globals with priors."""
    coef = pyro.sample("coef", dist.Normal(torch.zeros(3), 3.0).to_event(1))
    level = pyro.sample("level", dist.Normal(0.0, 3.0))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    with batch.rows():  # type: ignore[attr-defined]
        loc = level
        for i, name in enumerate("abc"):
            value = pyro.sample(name, dist.Normal(0.0, 1.0), obs=batch[name])  # type: ignore[index]
            loc = loc + coef[i] * value
        pyro.sample("y", dist.StudentT(4.0, loc, scale), obs=batch["y"])  # type: ignore[index]


def pair(rows: int) -> tuple[Family, Batch]:
    """That pair, and its table."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(rows, 3)), columns=list("abc"))
    table["y"] = table["a"] - 0.5 * table["b"] + rng.standard_t(4, rows)
    schema = Schema.infer(table)
    model = pg.Pair(regression, random_state=0)
    encoded = encode(table, schema)
    with guarded(0):
        family = model._make(schema).float()
    return family, Batch.of(torch.from_numpy(encoded.x).float())


def flow(d: int) -> Callable[[int], tuple[Family, Batch]]:
    """The flow of d columns, and normal rows."""
    return lambda rows: (Spline(d), Batch.of(torch.randn(rows, d)))


def own_flow(d: int) -> Callable[[int], tuple[Family, Batch]]:
    """`probgen.Flow` of the same architecture, and normal rows."""

    def make(rows: int) -> tuple[Family, Batch]:
        x = np.random.default_rng(0).normal(size=(rows, d))
        table = pd.DataFrame(x, columns=[f"x{i}" for i in range(d)])
        schema = Schema.infer(table)
        batch = Batch.of(torch.from_numpy(encode(table, schema).x).float())
        with guarded(0):
            family = pg.Flow(base="normal", random_state=0)._make(schema).float()
            family.start(batch, torch.Generator().manual_seed(0))
        return family.float(), batch

    return make


def autoencoder(rows: int) -> tuple[Family, Batch]:
    """The autoencoder of `step_time`, and normal rows."""
    return Autoencoder(), Batch.of(torch.randn(rows, 20))


CASES: dict[str, tuple[Callable[[int], tuple[Family, Batch]], tuple[int, ...]]] = {
    "autoencoder": (autoencoder, (256, 1024)),
    "pair": (pair, (256, 1024)),
    "nsf d=6": (flow(6), (256, 1024)),
    "nsf d=21": (flow(21), (256, 1024)),
    "Flow d=6": (own_flow(6), (256, 1024)),
    "Flow d=21": (own_flow(21), (256, 1024)),
}


def clock() -> float:
    """Seconds of the processor, of this process and its children."""
    spent = os.times()
    return time.process_time() + spent.children_user + spent.children_system


@dataclass
class Costs:
    """Seconds of making a graph, by the state of the caches."""

    cold: float = 0.0
    disk: float = 0.0
    again: float = 0.0


def engine(family: Family, batch: Batch, size: int, kind: str) -> tuple[Gradients, float]:
    """The steps by one engine, ready to run, and the seconds that took."""
    training = replace(TRAINING, compile=kind != "eager")
    steps = Gradients(family, batch, training, size)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", RuntimeWarning)  # that there is no compiler
        if kind == "traced":
            stack.enter_context(patch.object(compiled, "has_compiler", lambda: False))
        start = clock()
        one = next(steps.slices(torch.Generator().manual_seed(0)))
        steps._decide(one)
        seconds = clock() - start
    if kind != "eager" and steps.engine != kind:
        raise SystemExit(f"{steps.engine} instead of {kind}: {steps.reason}")
    return steps, seconds


def hand(family: Family, batch: Batch, size: int) -> Callable[[], object]:
    """A step in plain PyTorch."""
    optimiser = torch.optim.Adam(family.parameters(), lr=1e-3, fused=True)
    order = torch.randperm(len(batch))

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        family.plain(batch.x[order[:size]]).backward()  # type: ignore[operator, index]
        torch.nn.utils.clip_grad_norm_(family.parameters(), 10.0)
        optimiser.step()

    return run


def stepper(steps: Gradients) -> Callable[[], object]:
    """One step of an endless row of epochs."""
    generator = torch.Generator().manual_seed(0)

    def endless() -> object:
        while True:
            yield from steps.epoch(generator)

    stream = endless()
    return lambda: next(stream)  # type: ignore[call-overload]


def measure(make: Callable[[int], tuple[Family, Batch]], size: int, seconds: float) -> None:
    """Print one line."""
    costs = Costs()
    sides: dict[str, Callable[[], object]] = {}
    from torch._inductor.utils import clear_caches

    for kind in ("eager", "traced", "compiled"):
        family, batch = make(8 * size)
        steps, costs.cold = engine(family, batch, size, kind)
        sides[kind] = stepper(steps)
    compiled._COMPILED.clear()
    clear_caches()
    for name in ("disk", "again"):
        family, batch = make(8 * size)
        setattr(costs, name, engine(family, batch, size, "compiled")[1])
    family, batch = make(8 * size)
    zuko_own = Spline(batch.seen.shape[1])
    if hasattr(family, "plain") or isinstance(family, RowFlow):
        sides["by hand"] = hand(family if hasattr(family, "plain") else zuko_own, batch, size)
    work = compiled.eager(
        family, Gradients(family, batch, TRAINING, size).chosen.loss,
        list(family.parameters()), batch.take(slice(0, size)),
    ).work  # fmt: skip
    times: dict[str, list[float]] = {kind: [] for kind in sides}
    for run in sides.values():
        for _ in range(5):
            run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for kind, run in sides.items():
            start = time.process_time()
            run()
            times[kind].append(time.process_time() - start)
    rate = {kind: 1 / float(np.median(taken)) for kind, taken in times.items()}
    saved = 1 / rate["eager"] - 1 / rate["compiled"]
    by_hand = f"{rate['by hand']:8.0f}" if "by hand" in rate else " " * 8
    print(
        f"{size:6}{by_hand}{rate['eager']:8.0f}{rate['traced']:8.0f}{rate['compiled']:9.0f}"
        f"{rate['compiled'] / rate['eager']:7.2f}{costs.cold:7.1f}{costs.disk:6.1f}"
        f"{costs.again:6.1f}{costs.cold / saved:8.0f}{costs.disk / saved:7.0f}"
        f"{work.operations:6}{work.numbers / 1e6:7.2f}",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--seconds", type=float, default=10.0, help="of steps for each line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from torch._inductor.utils import fresh_cache

    print(
        f"{'':12}{'batch':>6}{'by hand':>8}{'eager':>8}{'traced':>8}{'compiled':>9}{'ratio':>7}"
        f"{'cold s':>7}{'disk':>6}{'again':>6}{'even at':>8}{'disk':>7}{'work':>6}{'':>7}"
    )
    for name, (make, sizes) in CASES.items():
        if options.only not in name:
            continue
        for size in sizes:
            with fresh_cache(), guarded(0):
                print(f"{name:12}", end="")
                measure(make, size, options.seconds)


if __name__ == "__main__":
    main()
