"""Annealed importance sampling against plain weights: how many steps, leaps and chains.

Rows of a linear decoder, x = W z + s e, whose density is known, under guides that are wrong on
purpose: shrunk, and off by some of their own deviations. For each: root mean square and mean
error in nats, stated standard error, the error in units of that, the share of rows with k-hat
above 0.7, evaluations of the decoder a row, and seconds for 100 rows.

What it chose: three leapfrog steps a move and 32 chains; 100 temperatures bring errors of 5 to 130
nats below about one, 300 below a half. At equal evaluations one leap is as good where the guide is
near, and far worse where it is far off; ten leaps are worse than three at any cost, for they leave
no step size that fits.

Run ``python benchmarks/vae_annealing.py`` (two minutes).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from probgen.batch import mix
from probgen.queries import annealing
from probgen.queries.estimates import Estimate, estimate_of
from probgen.queries.noise import Stream, particle_keys

#: latents, cells, noise s, how far the guide is shrunk, and how far it is off
GUIDES = [
    (2, 5, 0.3, 0.3, 1.0),
    (8, 20, 0.5, 0.4, 1.0),
    (8, 20, 0.5, 0.4, 3.0),
    (16, 40, 0.5, 0.7, 1.0),
    (16, 40, 0.3, 1.0, 4.0),
    (32, 60, 0.5, 0.5, 2.0),
]
ROWS, PLAIN = 100, 4096


def problem(
    size: int, d: int, s: float, shrunk: float, off: float
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Log weights as a function of noise, and the log densities of the rows."""
    g = torch.Generator().manual_seed(size + d)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    w = normal(d, size)
    x = normal(ROWS, size) @ w.T + s * normal(ROWS, d)
    cover = w @ w.T + s**2 * torch.eye(d, dtype=torch.float64)
    exact = MultivariateNormal(torch.zeros(d, dtype=torch.float64), cover).log_prob(x)
    inverse = torch.linalg.inv(torch.eye(size, dtype=torch.float64) + w.T @ w / s**2)
    scale = shrunk * inverse.diagonal().sqrt()
    mean = x @ w / s**2 @ inverse + off * scale / shrunk * normal(ROWS, size)

    def weights(noise: Tensor) -> Tensor:
        z = mean + scale * noise
        cells = ((x - z @ w.T) / s).square().sum(-1)
        ratio = 0.5 * (noise.square() - z.square()).sum(-1) + scale.log().sum()
        return ratio - 0.5 * cells - d * math.log(s * math.sqrt(2 * math.pi))

    return weights, exact


def line(name: str, found: Estimate, exact: Tensor, evaluations: int, seconds: float) -> None:
    """Print one."""
    gap = found.value - exact
    z = (gap / found.se).square().mean().sqrt()
    bad = (found.khat > 0.7).double().mean()
    print(
        f"{name:24}{gap.square().mean().sqrt():9.3f}{gap.mean():+9.3f}{found.se.mean():8.3f}"
        f"{z:7.2f}{bad:7.2f}{evaluations:9}{seconds:7.1f}",
        flush=True,
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="*", default=[30, 100, 300])
    parser.add_argument("--leaps", type=int, nargs="*", default=[1, 3, 10])
    parser.add_argument("--chains", type=int, default=annealing.CHAINS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keys = mix(torch.arange(1, ROWS + 1))
    for guide in GUIDES:
        weights, exact = problem(*guide)
        size, d, s, shrunk, off = guide
        print(f"\n{size} latents, {d} cells, s = {s}: guide times {shrunk}, off by {off} sd")
        print(
            f"{'':24}{'rms':>9}{'mean':>9}{'se':>8}{'rms/se':>7}{'k-hat':>7}{'calls':>9}{'s':>7}"
        )
        start = time.process_time()
        noise = Stream(particle_keys(keys, PLAIN), axis=0).normal((PLAIN * ROWS, size))
        plain = estimate_of(True, weights(noise.view(PLAIN, ROWS, size))[None])
        line("importance", plain, exact, PLAIN, time.process_time() - start)
        for steps in options.steps:
            for leaps in options.leaps:
                with patch.object(annealing, "LEAPS", leaps):
                    start = time.process_time()
                    logs = annealing.anneal(size, weights, keys, steps, options.chains)
                    seconds = time.process_time() - start
                calls = steps * leaps * (options.chains + annealing.PILOTS)
                found = estimate_of(True, logs[None])
                line(f"{steps} steps of {leaps} leaps", found, exact, calls, seconds)


if __name__ == "__main__":
    main()
