"""Step time of `VAE` beside the same loss in plain PyTorch, eager and compiled.

By hand: the same layers, one line from inputs to guide and from latents to cells, heads of a mean
and a log scale, logits for levels and binaries, cells hidden at random, the divergence in closed
form, clipping and fused Adam. Steps are interleaved in one process on one thread, each timed by
the processor; medians. The ratio is what counts.

Asked: at most 1.15 times the time by hand when eager, and at most 0.8 times when compiled, at
batches of 256 and 1,024.

Run ``python benchmarks/vae_speed.py`` (three minutes); ``--only pixels`` for some tables.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from compiled import engine, stepper
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

import probgen as pg
from probgen.batch import Batch
from probgen.family import Family
from probgen.schema import Schema
from probgen.session import guarded
from probgen.table import encode

#: real columns, binary columns, columns of five levels; latents and units of the two layers
TABLES = {
    "real": (20, 0, 0, 8, 128),
    "mixed": (8, 8, 4, 8, 128),
    "pixels": (0, 784, 0, 32, 200),
}
LEVELS, CLIP = 5, 10.0


def table(name: str, rows: int) -> pd.DataFrame:
    """Rows of columns that hang together."""
    real, binary, levels, _, _ = TABLES[name]
    rng = np.random.default_rng(0)
    d = real + binary + levels
    x = rng.normal(size=(rows, 4)) @ rng.normal(size=(4, d)) + rng.normal(size=(rows, d))
    found: dict[str, object] = {f"r{i}": x[:, i] for i in range(real)}
    found |= {f"b{i}": x[:, real + i] > 0 for i in range(binary)}
    for i in range(levels):
        code = np.clip(np.floor(x[:, real + binary + i] + LEVELS / 2), 0, LEVELS - 1)
        found[f"c{i}"] = [f"v{int(v)}" for v in code]
    return pd.DataFrame(found)


class Plain(nn.Module):
    """The autoencoder by hand."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.real, self.binary, self.levels, self.latents, hidden = TABLES[name]
        inputs = 2 * (self.real + self.binary) + LEVELS * self.levels
        outputs = 2 * self.real + self.binary + LEVELS * self.levels
        self.encoder = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.posterior = nn.Linear(hidden + inputs, 2 * self.latents)
        self.decoder = nn.Sequential(
            nn.Linear(self.latents, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, outputs),
        )  # fmt: skip
        self.line = nn.Linear(self.latents, outputs, bias=False)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """The loss of numbers (n, real + binary) and codes (n, levels)."""
        n, d = x.shape
        some = torch.rand(n, 2)
        share = torch.where(some[:, 0] < 0.5, some[:, 1], 0.0)
        seen = (torch.rand(n, d + self.levels) >= share[:, None]).to(x.dtype)
        on, picked = seen[:, :d], seen[:, d:]
        parts = [x * on, on]
        if self.levels:
            one_hot = nn.functional.one_hot(code, LEVELS).to(x.dtype)
            parts.append((one_hot * picked[..., None]).flatten(1))
        features = torch.cat(parts, 1)
        line = self.posterior(torch.cat([self.encoder(features), features], 1))
        mean, log_scale = line.chunk(2, 1)
        z = mean + log_scale.exp() * torch.randn_like(mean)
        out = self.decoder(z) + self.line(z)
        place, spread, logit, own = out.split(
            [self.real, self.real, self.binary, LEVELS * self.levels], 1
        )
        cells = []
        if self.real:
            unit = (x[:, : self.real] - place) * (-spread).exp()
            cells.append(0.5 * unit.square() + spread + 0.9189385332046727)
        if self.binary:
            bits = (x[:, self.real :] + 1) / 2
            cells.append(binary_cross_entropy_with_logits(logit, bits, reduction="none"))
        if self.levels:
            each = cross_entropy(own.reshape(-1, LEVELS), code.flatten(), reduction="none")
            cells.append(each.view(n, -1))
        fit = (torch.cat(cells, 1) * seen).sum(1)
        divergence = 0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale
        return (fit + divergence.sum(1)).mean()


def by_hand(name: str, rows: pd.DataFrame, size: int) -> Callable[[], object]:
    """A step by hand; all rows lie in one tensor, each step takes some."""
    model = Plain(name)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    numbers = rows[[c for c in rows if c[0] == "r"]].to_numpy(np.float32)
    bits = 2 * rows[[c for c in rows if c[0] == "b"]].to_numpy(np.float32) - 1
    x = torch.from_numpy(np.concatenate([numbers, bits], 1))
    codes = [rows[c].str[1:].astype(int).to_numpy() for c in rows if c[0] == "c"]
    code = torch.from_numpy(np.stack(codes, 1)) if codes else torch.zeros(len(x), 0).long()

    def endless() -> object:
        while True:
            order = torch.randperm(len(x))
            xs, cs = x[order], code[order]  # one shuffle an epoch, as ours
            for at in range(0, len(x), size):
                optimiser.zero_grad(set_to_none=True)
                model(xs[at : at + size], cs[at : at + size]).backward()
                nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                optimiser.step()
                yield None

    stream = endless()
    return lambda: next(stream)  # type: ignore[call-overload]


def ours(name: str, rows: pd.DataFrame, size: int, kind: str) -> Callable[[], object]:
    """A step of the family by an engine."""
    _, _, _, latents, hidden = TABLES[name]
    schema = Schema.infer(rows, dict.fromkeys((c for c in rows if c[0] == "b"), "boolean"))
    model = pg.VAE(latents=latents, hidden=(hidden, hidden), bound="elbo", masked=0.5)
    x = torch.from_numpy(encode(rows, schema).x)
    with guarded(0):
        family: Family = model._make(schema).double()
        family.start(Batch.of(x), torch.Generator().manual_seed(0))
    batch = Batch.of(x.float())
    return stepper(engine(family.float().train(), batch, size, kind)[0])


def measure(name: str, size: int, seconds: float, kinds: list[str]) -> None:
    """Print one line."""
    rows = table(name, 8 * size)
    sides = {"by hand": by_hand(name, rows, size)}
    sides |= {kind: ours(name, rows, size, kind) for kind in kinds}
    for run in sides.values():
        for _ in range(10):
            run()
    times: dict[str, list[float]] = {kind: [] for kind in sides}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for kind, run in sides.items():
            start = time.process_time()
            run()
            times[kind].append(time.process_time() - start)
    taken = {kind: 1e3 * float(np.median(own)) for kind, own in times.items()}
    print(
        f"{name:8}{size:6}" + "".join(f"{taken[kind]:10.2f}" for kind in sides)
        + "".join(f"{taken[kind] / taken['by hand']:12.2f}" for kind in kinds),
        flush=True,
    )  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="tables whose name holds this")
    parser.add_argument("--seconds", type=float, default=10.0, help="of steps for each line")
    parser.add_argument("--eager", action="store_true", help="leave the compiler out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kinds = ["eager"] if options.eager else ["eager", "compiled"]
    names = "".join(f"{kind:>10}" for kind in ["by hand", *kinds])
    print(
        f"{'':8}{'batch':>6}{names}" + "".join(f"{kind + ' x':>12}" for kind in kinds) + "  (ms)"
    )
    for name in TABLES:
        for size in (256, 1024):
            if options.only in name:
                measure(name, size, options.seconds, kinds)


if __name__ == "__main__":
    main()
