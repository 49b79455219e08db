"""Guides of the globals of a pair: what each can represent, its cost, its intervals.

    python -m benchmarks.guides [--only shapes regression coverage cost settings]

shapes      k-hat and seconds of each guide on posteriors of two globals that are bent
regression  five predictors of pairwise correlation 0.97, n = 100, noise 0.5, coefficients with
            prior N(0, 1): sd of the first coefficient by each guide and by NUTS beside the exact
            one, and what `check` says
coverage    the same with coefficients drawn from the prior and new predictors in each of 200
            simulations (NUTS: 20): how often intervals of the coefficients hold the truth. Stated
            beforehand: an interval holds its nominal mass within 3 standard errors of one
            coefficient, sqrt(p (1 - p) / simulations); multivariate must, mean field must not
cost        mean field against multivariate by the number of globals: the default "auto"
settings    of the flow: layers, hidden units, steps of its own schedule
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch

import probgen as pg
from probgen.diagnostics.posterior import guide_khat
from probgen.pairs import bending, flow
from probgen.queries.contraction import survey
from probgen.queries.pareto import pareto_k
from probgen.session import guarded
from probgen.table import encode

GUIDES = ("mean_field", "multivariate", "flow")
NAMES = [f"x{i}" for i in range(5)]
NOISE, RHO, ROWS = 0.5, 0.97, 100
LEVELS = (0.5, 0.8, 0.95)
SIMULATIONS, BY_NUTS = 200, 20


def banana(batch: Any) -> None:
    """Two globals along a parabola."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    with batch.rows():
        pyro.sample("y", dist.Normal(a**2 + b, 1.0), obs=batch["y"])


def funnel(batch: Any) -> None:
    """A global whose spread is the other."""
    t = pyro.sample("t", dist.Normal(0.0, 1.5))
    m = pyro.sample("m", dist.Normal(0.0, t.exp()))
    with batch.rows():
        pyro.sample("y", dist.Normal(m, 2.0), obs=batch["y"])


def regression(batch: Any) -> None:
    """Five coefficients of prior N(0, 1), noise known: the posterior is normal."""
    b = pyro.sample("b", dist.Normal(torch.zeros(5), 1.0).to_event(1))
    with batch.rows():
        loc = sum(b[i] * batch[name] for i, name in enumerate(NAMES))
        pyro.sample("y", dist.Normal(loc, NOISE), obs=batch["y"])


def shapes() -> dict[str, tuple[Callable[[Any], None], pd.DataFrame]]:
    """Models with their tables."""
    rng = np.random.default_rng(0)
    return {
        "banana": (banana, pd.DataFrame({"y": rng.normal(1, 1, 10)})),
        "funnel": (funnel, pd.DataFrame({"y": rng.normal(0.5, 2.0, 8)})),
    }


def correlated(seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """A table and the coefficients that made it."""
    rng = np.random.default_rng(seed)
    cov = np.full((5, 5), RHO) + (1 - RHO) * np.eye(5)
    x, truth = rng.multivariate_normal(np.zeros(5), cov, ROWS), rng.normal(size=5)
    y = x @ truth + NOISE * rng.normal(size=ROWS)
    return pd.DataFrame(x, columns=NAMES).assign(y=y), truth


def exact(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and covariance."""
    x = table[NAMES].to_numpy()
    cov = np.linalg.inv(x.T @ x / NOISE**2 + np.eye(5))
    return cov @ x.T @ table["y"].to_numpy() / NOISE**2, cov


def khat(model: pg.Pair, table: pd.DataFrame) -> float:
    """k-hat of the guide on the fitted rows."""
    batch = model._batch(encode(table, model.schema_), model._device)
    return float(guide_khat(model, batch).max())


def quick_khat(model: pg.Pair, table: pd.DataFrame, draws: int = 4000) -> float:
    """The same of many new draws, for a guide of ours and a function that can be vectorised."""
    member = model.members_[0]
    guide = member.global_guide
    batch = model._batch(encode(table, model.schema_), model._device)
    with torch.no_grad(), guarded(1):
        plan = survey(member, batch, member._one_global(member.typical(batch)))
        loc = guide.centre + guide.spread * guide.loc
        if guide.kind == "flow":
            loc, root = guide.affine()
            free, log_q = flow.push(guide.bend, loc, root, flow.noise_like(loc, (draws,)))
        else:
            root = guide.affine()[1] if guide.kind == "multivariate" else None
            root = torch.diag(guide.spread * guide.log_scale.exp()) if root is None else root
            noise = torch.randn(draws, len(loc), dtype=loc.dtype)
            free, log_q = loc + noise @ root.T, -noise.square() / 2 - root.diagonal().log()
        log_p = torch.func.vmap(bending._joint(member, guide, plan, batch))(free)
        return float(pareto_k((log_p - log_q.sum(-1))[:, None])[0])


def fitted(
    model: Any, table: pd.DataFrame, given: Any = (), inference: Any = "vi", **settings: Any
) -> tuple[pg.Pair, float]:
    """A fit without warnings, and its seconds."""
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pair = pg.Pair(model, **{"random_state": 0, **settings})
        return pair.fit(table, given=given, inference=inference), time.perf_counter() - begin


def run_shapes() -> None:
    """k-hat of each guide on bent posteriors."""
    print("posterior   guide           k-hat of 4,000 draws (five seeds)   s a fit")
    for name, (model, table) in shapes().items():
        for guide in GUIDES:
            runs = [fitted(model, table, guide=guide, draws=10, random_state=s) for s in range(5)]
            values = "  ".join(f"{quick_khat(one, table):5.2f}" for one, _ in runs)
            print(f"{name:11} {guide:14} {values}   {runs[0][1]:10.1f}", flush=True)


def run_regression() -> None:
    """The correlated regression: sd, k-hat, verdict."""
    table, _ = correlated(0)
    mean, cov = exact(table)
    print(f"exact: mean {mean[0]:.3f}, sd {cov[0, 0] ** 0.5:.3f} of the first coefficient")
    for guide in (*GUIDES, "nuts"):
        how = {"guide": "multivariate"} if guide == "nuts" else {"guide": guide}
        inference = "nuts" if guide == "nuts" else "vi"
        model, seconds = fitted(regression, table, NAMES, inference, draws=1000, **how)
        row = model.parameters().loc["b[0]"]
        told = "" if guide == "nuts" else f"k-hat {khat(model, table):5.2f}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = model.check(table, train=table)
        told += f" {model.result_.chain or ''}"
        print(
            f"{guide:13} mean {row['mean']:.3f} sd {row['sd']:.3f} {seconds:6.1f} s  "
            f"density {report.density}, intervals {report.intervals}  {told}", flush=True,
        )  # fmt: skip


def covered(
    simulations: int, draws: int = 200, inference: Any = "vi", **settings: Any
) -> np.ndarray:
    """Share (levels,) of the coefficients whose interval holds the truth."""
    found = []
    for seed in range(simulations):
        table, truth = correlated(1000 + seed)
        model, _ = fitted(regression, table, NAMES, inference, draws=draws, **settings)
        ends = [model.parameters(level)[["lower", "upper"]].to_numpy() for level in LEVELS]
        found.append([((e[:, 0] <= truth) & (truth <= e[:, 1])).mean() for e in ends])
    return np.mean(found, 0)


def run_coverage(simulations: int, by_nuts: int) -> None:
    """Coverage of intervals, and whether it lies in the band."""
    quick = pg.NUTS(warmup=150, steps=250)
    for name, count, settings in (
        ("mean_field", simulations, {"guide": "mean_field"}),
        ("multivariate", simulations, {"guide": "multivariate"}),
        ("nuts", by_nuts, {"guide": "multivariate", "inference": quick}),
    ):
        found = covered(count, **settings)
        text = []
        for level, share in zip(LEVELS, found, strict=True):
            band = 3 * (level * (1 - level) / count) ** 0.5
            inside = "inside" if abs(share - level) <= band else "outside"
            text.append(f"{level:.0%}: {share:.3f} ({inside} +- {band:.3f})")
        print(f"{name:13} {count} simulations  " + "  ".join(text), flush=True)


def wide(size: int) -> tuple[Callable[[Any], None], pd.DataFrame]:
    """A regression on `size` predictors that share a factor."""
    rng = np.random.default_rng(size)
    n = 10 * size
    x = rng.normal(size=(n, size)) + 2 * rng.normal(size=(n, 1))
    names = [f"x{i}" for i in range(size)]
    table = pd.DataFrame(x, columns=names).assign(y=x.mean(1) + rng.normal(size=n))

    def model(batch: Any) -> None:
        b = pyro.sample("b", dist.Normal(torch.zeros(size), 1.0).to_event(1))
        with batch.rows():
            x = torch.stack([batch[name] for name in names], -1)
            pyro.sample("y", dist.Normal(x.double() @ b.double(), 1.0), obs=batch["y"])

    return model, table


def run_cost() -> None:
    """Seconds and k-hat of mean field and multivariate by the number of globals."""
    print("globals   mean field: s, k-hat   multivariate: s, k-hat")
    for size in (2, 5, 10, 20, 50, 100):
        model, table = wide(size)
        given = [name for name in table if name != "y"]
        text = []
        for guide in ("mean_field", "multivariate"):
            one, seconds = fitted(model, table, given, guide=guide, draws=500)
            text.append(f"{seconds:10.1f} {khat(one, table):8.2f}")
        print(f"{size:7}   {text[0]}      {text[1]}", flush=True)


def run_settings() -> None:
    """The flow by layers, hidden units and steps."""
    default = flow.Bend.__init__.__defaults__
    steps = bending.STEPS
    for layers, hidden, count in (
        (1, 32, 100), (1, 32, 300), (1, 64, 300), (2, 32, 300)
    ):  # fmt: skip
        flow.Bend.__init__.__defaults__ = (layers, flow.BINS, hidden)
        bending.STEPS = count
        for name, (model, table) in shapes().items():
            runs = [fitted(model, table, guide="flow", draws=10, random_state=s) for s in range(3)]
            values = "  ".join(f"{quick_khat(one, table):5.2f}" for one, _ in runs)
            print(
                f"{layers} layers of {hidden}, {count} steps: {name:7} k-hat {values}   "
                f"{runs[0][1]:.1f} s", flush=True,
            )  # fmt: skip
    flow.Bend.__init__.__defaults__, bending.STEPS = default, steps


def main() -> None:
    """Print the parts that are asked for."""
    parts = ("shapes", "regression", "coverage", "cost", "settings")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=parts[:3], choices=parts)
    parser.add_argument("--simulations", type=int, default=SIMULATIONS)
    parser.add_argument("--by-nuts", type=int, default=BY_NUTS)
    arguments = parser.parse_args()
    for part in arguments.only:
        print(f"-- {part}", flush=True)
        if part == "coverage":
            run_coverage(arguments.simulations, arguments.by_nuts)
        else:
            globals()[f"run_{part}"]()


if __name__ == "__main__":
    main()
