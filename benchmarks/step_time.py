"""A training step of a Pyro pair on the lean path, relative to hand-written PyTorch.

Both sides have the same loss, the same Adam and the same data; steps are interleaved in one
run, so that a busy machine slows both. Printed for each batch size: the median ratio and a
bootstrap 95 % upper bound. Run ``python benchmarks/step_time.py`` (about a minute).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from probgen.batch import Batch
from probgen.elbo import lean_loss
from probgen.engines import Gradients
from probgen.family import Family
from probgen.session import guarded
from probgen.training import Training

COLUMNS, HIDDEN, LATENT, COMPONENTS = 20, 64, 8, 10
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Autoencoder(Family):
    """A Gaussian variational autoencoder."""

    def __init__(self) -> None:
        super().__init__(None)
        torch.manual_seed(0)
        self.encoder = nn.Sequential(
            nn.Linear(COLUMNS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT)
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, COLUMNS)
        )
        self.log_noise = nn.Parameter(torch.zeros(COLUMNS))

    def model(self, batch: Batch) -> None:
        with batch.rows():
            zeros = torch.zeros(len(batch), LATENT)
            z = pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))
            fn = dist.Normal(self.decoder(z), self.log_noise.exp()).to_event(1)
            batch.observe("x", fn, range(COLUMNS))

    def guide(self, batch: Batch) -> None:
        loc, log_scale = self.encoder(batch.x).chunk(2, -1)
        with batch.rows():
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def plain(self, x: Tensor) -> Tensor:
        """The same negative ELBO a row, one noise sample, by hand."""
        loc, log_scale = self.encoder(x).chunk(2, -1)
        noise = torch.randn_like(loc)
        scale = log_scale.exp()
        z = loc + scale * noise
        prior = -0.5 * z.square() - HALF_LOG_TAU
        guide = -((z - loc) ** 2) / (2 * scale**2) - scale.log() - HALF_LOG_TAU
        spread = self.log_noise.exp()
        error = (x - self.decoder(z)) ** 2
        likelihood = -error / (2 * spread**2) - spread.log() - HALF_LOG_TAU
        rows = likelihood.sum(-1) + prior.sum(-1) - guide.sum(-1)
        return -rows.mean()


class _Rows(dist.TorchDistribution):
    """A mixture's row density: the label summed out by matrix products."""

    arg_constraints: dict[str, object] = {}

    def __init__(self, family: Mixture, n: int) -> None:
        self.family = family
        super().__init__((n,), (COLUMNS,), validate_args=False)

    @property
    def support(self):
        return dist.constraints.real_vector

    def log_prob(self, value: Tensor) -> Tensor:
        return self.family.row_log_prob(value)


class Mixture(Family):
    """A diagonal normal mixture trained by gradients."""

    def __init__(self) -> None:
        super().__init__(None)
        g = torch.Generator().manual_seed(0)
        self.logits = nn.Parameter(torch.zeros(COMPONENTS))
        self.loc = nn.Parameter(torch.randn(COMPONENTS, COLUMNS, generator=g))
        self.log_scale = nn.Parameter(torch.zeros(COMPONENTS, COLUMNS))

    def row_log_prob(self, x: Tensor) -> Tensor:
        precision = (-2 * self.log_scale).exp()
        scaled = self.loc * precision
        quadratic = (x * x) @ (-0.5 * precision).T + x @ scaled.T
        constant = -0.5 * (self.loc * scaled).sum(-1) - self.log_scale.sum(-1)
        constant = constant + self.logits.log_softmax(-1) - COLUMNS * HALF_LOG_TAU
        return (quadratic + constant).logsumexp(-1)

    def model(self, batch: Batch) -> None:
        with batch.rows():
            batch.observe("x", _Rows(self, len(batch)), range(COLUMNS))

    def plain(self, x: Tensor) -> Tensor:
        """The same loss by hand."""
        return -self.row_log_prob(x).mean()


def plain_step(family: Family, x: Tensor, rows: Tensor) -> Callable[[], None]:
    """One step of fused Adam on the hand-written loss of some rows."""
    optimiser = torch.optim.Adam(family.parameters(), lr=1e-3, fused=True)

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        family.plain(x[rows]).backward()
        optimiser.step()

    return run


def pair_step(family: Family, x: Tensor, rows: Tensor) -> Callable[[], None]:
    """The step that `fit` runs: rows taken, engine, gradients, Adam (no clipping, as above)."""
    training = Training(learning_rate=1e-3, gradient_clip=None, compile=False)
    steps = Gradients(family, Batch.of(x), training, len(rows))
    # the loop's own generator, held at one slice: as many rows as the plain side takes
    steps.slices = lambda generator: iter([steps.batch.take(rows)])  # type: ignore[method-assign]
    return lambda: list(steps.epoch(torch.default_generator))


def measure(make: Callable[[], Family], batch_size: int, rounds: int) -> tuple[float, ...]:
    """Median ratio lean / plain, its upper bound, and the two medians in ms."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8 * batch_size, COLUMNS, generator=generator)
    rows = torch.randperm(len(x), generator=generator)[:batch_size]
    pair, plain = make(), make()
    with guarded(0):
        lean = lean_loss(pair, Batch.of(x).take(rows))
        torch.testing.assert_close(lean, _same_noise(plain, x[rows]))
        sides = [pair_step(pair, x, rows), plain_step(plain, x, rows)]
        times = np.empty((rounds, 2))
        for run in sides * 20:
            run()
        for row in times:
            for side, run in enumerate(sides):
                start = time.process_time_ns()
                run()
                row[side] = time.process_time_ns() - start
    draws = np.random.default_rng(0).integers(rounds, size=(1000, rounds))
    medians = np.median(times[draws], axis=1)
    ratio = np.median(times, axis=0)
    upper = float(np.quantile(medians[:, 0] / medians[:, 1], 0.95))
    return float(ratio[0] / ratio[1]), upper, *(ratio / 1e6)


def _same_noise(family: Family, x: Tensor) -> Tensor:
    with guarded(0):
        return family.plain(x)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"{'pair':<14}{'batch':>7}{'ratio':>8}{'upper':>8}{'lean ms':>9}{'plain ms':>10}")
    for name, make in {"autoencoder": Autoencoder, "mixture": Mixture}.items():
        for size in (256, 1024, 4096):
            ratio, upper, lean, plain = measure(make, size, rounds)
            print(f"{name:<14}{size:>7}{ratio:>8.2f}{upper:>8.2f}{lean:>9.3f}{plain:>10.3f}")


if __name__ == "__main__":
    main()
