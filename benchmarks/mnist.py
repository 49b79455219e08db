"""Binarised MNIST: log density in nats, and what few labels can do with the latents.

Grey levels are probabilities of ink, drawn anew in every training step (dynamic binarisation);
the test images are drawn once. The density is the importance-weighted average over latents from
the guide, and the mean over images lies below the true one by what the average of a logarithm
loses: so it is stated with its number of particles, beside the plain bound of one particle.
Then logistic regression on the mean latents and on the raw grey levels of a hundred labelled
training images, over twenty draws of these; and the squared error of reconstructed images whose
pixels were flipped, and of filled lower halves, beside the input and the mean image.

``--set`` changes settings of `VAE`, e.g. ``bound=iwae particles=50 hidden=200,200``; the published
setting with -81.3 nats (a deeper model, thousands of epochs, 50,000 rows) is for an accelerator.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

import probgen as pg
from benchmarks.settings import read_settings

COMMON: dict[str, Any] = {
    "pixels": "bernoulli", "compile": True, "validation": 0.05, "random_state": 0, "masked": 0.0,
}  # fmt: skip
#: what each part is shown with; the mixture prior and few latents are for features, which
#: classes of digits should be apart in, practice on noise and holes for repairs
SETTINGS: dict[str, dict[str, Any]] = {
    "density": {"latents": 50, "hidden": (200, 200), "max_epochs": 400, "patience": 15,
                "batch_size": 128},
    "features": {"latents": 10, "prior": "mixture", "components": 50, "network": "conv",
                 "shape": (28, 28), "hidden": (200,), "max_epochs": 20, "batch_size": 256},
    "repaired": {"latents": 32, "hidden": (200, 200), "max_epochs": 40, "batch_size": 128,
                 "masked": 0.5, "corruption": 0.1},
}  # fmt: skip
LABELLED, DRAWS = 100, 20


def read(folder: Path) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame, np.ndarray]:
    """Grey levels from 0 to 1 and labels, of training and of test images."""
    with np.load(folder / "images" / "mnist.npz") as file:
        parts = {name: file[name] for name in file}
    names = [f"{i}-{j}" for i in range(28) for j in range(28)]

    def frame(images: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(images.reshape(len(images), -1) / 255.0, columns=names)

    return frame(parts["x_train"]), parts["y_train"], frame(parts["x_test"]), parts["y_test"]


def drawn(images: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Binary images, each pixel drawn once."""
    return (np.random.default_rng(seed).random(images.shape) < images).astype(int)


def density(model: pg.VAE, test: pd.DataFrame, particles: int) -> None:
    """Print the weighted log density of the test images, and the bound."""
    clock = time.process_time()
    binary = drawn(test)
    found = model.log_prob(binary, details=True, particles=particles)
    one = model.log_prob(binary, particles=4)
    value = found["log_prob"]
    print(f"log density at {particles} particles {value.mean():.2f} +- "
          f"{value.std() / np.sqrt(len(value)):.2f} nats over {len(value)} images (Monte Carlo "
          f"error of an image {found['se'].mean():.2f}, effective particles "
          f"{found['ess'].median():.0f}, k-hat above 0.7 in {(found['khat'] > 0.7).mean():.2f}); "
          f"at 4 particles {one.mean():.2f}; {time.process_time() - clock:.0f} s",
          flush=True)  # fmt: skip


def features(
    model: pg.VAE, train: pd.DataFrame, labels: np.ndarray, test: pd.DataFrame, truth: np.ndarray
) -> None:
    """Print accuracies of logistic regression on a hundred labelled images."""
    code = model.transform(drawn(train)), model.transform(drawn(test))
    raw = train.to_numpy(), test.to_numpy()
    accuracy = {"latents": [], "pixels": []}
    for seed in range(DRAWS):
        random = np.random.default_rng(seed)
        chosen = np.concatenate([
            random.choice(np.flatnonzero(labels == digit), LABELLED // 10, replace=False)
            for digit in range(10)
        ])  # fmt: skip
        for name, (own, other) in {"latents": code, "pixels": raw}.items():
            line = LogisticRegression(max_iter=2000)
            line.fit(own[chosen], labels[chosen])
            accuracy[name].append(line.score(other, truth))
    for name, values in accuracy.items():
        print(f"{LABELLED} labels, {name}: accuracy {np.mean(values):.3f} +- "
              f"{np.std(values) / np.sqrt(DRAWS):.3f}", flush=True)  # fmt: skip


def repaired(model: pg.VAE, train: pd.DataFrame, test: pd.DataFrame) -> None:
    """Print squared errors a pixel of denoised images and of filled lower halves."""
    clean = drawn(test.iloc[:500])
    random = np.random.default_rng(1)
    noisy = clean.where(random.random(clean.shape) > 0.1, 1 - clean)
    mean = drawn(train).mean().to_numpy()

    def error(found: np.ndarray, cells: Any = ...) -> float:
        return float(np.square(found - clean.to_numpy())[:, cells].mean())

    ways = {"noisy": noisy.to_numpy(), "mean image": np.tile(mean, (len(clean), 1)),
            "reconstructed": model.reconstruct(noisy).to_numpy().astype(float)}  # fmt: skip
    print("a tenth of the pixels flipped:",
          ", ".join(f"{name} {error(found):.4f}" for name, found in ways.items()))  # fmt: skip
    lower = slice(14 * 28, None)
    holed = clean.astype(float)
    holed.iloc[:, lower] = np.nan
    filled = model.impute(holed).to_numpy().astype(float)
    several = np.mean([own.to_numpy().astype(float) for own in
                       model.impute(holed, draws=10, random_state=0)], axis=0)  # fmt: skip
    print(f"lower half hidden: mean image {error(ways['mean image'], lower):.4f}, likeliest "
          f"{error(filled, lower):.4f}, mean of ten draws {error(several, lower):.4f}",
          flush=True)  # fmt: skip


def fitted(train: pd.DataFrame, **setting: Any) -> pg.VAE:
    """A fit, and what it took."""
    clock = time.process_time()
    print("setting", setting, flush=True)
    model = pg.VAE(**setting).fit(train)
    result = model.result_
    print(f"{result.epochs} epochs ({result.reason}), engine {result.engine}, "
          f"{(time.process_time() - clock) / 60:.1f} processor minutes", flush=True)  # fmt: skip
    return model


def main(folder: Path, what: list[str], particles: int, **setting: Any) -> None:
    """Fit a model for each part that is asked for, and print its figures."""
    warnings.simplefilter("ignore")
    train, labels, test, truth = read(folder)
    for part in what:
        model = fitted(train, **COMMON | SETTINGS[part] | setting)
        if part == "density":
            density(model, test, particles)
        elif part == "features":
            features(model, train, labels, test, truth)
        else:
            repaired(model, train, test)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder of the reference data")
    parser.add_argument("--what", nargs="*", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--set", nargs="*", default=[], help="settings, name=value")
    arguments = parser.parse_args()
    main(arguments.data, arguments.what, arguments.particles, **read_settings(arguments.set))
