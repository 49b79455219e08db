"""``python -m probgen.demo``: fit, question and plot a real table with holes.

Prints what was found, and writes plots (PNG) and the ArviZ file under ``build/demo/``.
"""

from __future__ import annotations

import argparse
import textwrap
import time
import warnings
from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np
import pandas as pd

from probgen.datasets import penguins
from probgen.density import Density
from probgen.estimators import GaussianMixture, Independent

__all__ = ["main"]

SEED = 0
WIDTH = 98
#: flippers are measured in whole millimetres, which alone would look like a count
KINDS: dict[Hashable, str] = {"flipper_length_mm": "real", "year": "ordered"}


def main(arguments: list[str] | None = None) -> None:
    """Run the demo; ``--out`` names the folder for its files."""
    parser = argparse.ArgumentParser(prog="python -m probgen.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="folder for files")
    out: Path = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    table = penguins()
    train, held = split(table)
    model = fit(table, train, held)
    compare(model, train, held)
    odd_rows(model, table)
    new_rows(model)
    question(model)
    believe(model, train, held)
    files(model, table, train, out)
    print(f"\nDone in {time.perf_counter() - started:.0f} s.")


def split(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three quarters of the rows to fit, a quarter held out."""
    order = np.random.default_rng(SEED).permutation(len(table))
    cut = 3 * len(table) // 4
    return table.iloc[np.sort(order[:cut])], table.iloc[np.sort(order[cut:])]


def fit(table: pd.DataFrame, train: pd.DataFrame, held: pd.DataFrame) -> Density:
    """Fit the mixture, and say how it went."""
    holes = int(table.isna().to_numpy().sum())
    _head("The table")
    print(f"  {len(table)} penguins, {table.shape[1]} columns, {holes} holes; "
          f"{len(train)} rows to fit, {len(held)} held out.")  # fmt: skip
    model = GaussianMixture(components=6, restarts=2, columns=KINDS, random_state=SEED)
    started = time.perf_counter()
    model.fit(train)
    shown = model.schema_.describe()[["kind", "levels", "grid", "why"]]
    for name in ("levels", "grid"):
        shown[name] = ["" if pd.isna(value) else f"{value:g}" for value in shown[name]]
    _show(shown.reset_index())
    _head("The fit")
    print(f"  {' '.join(repr(model).split())}")
    state = "converged" if model.converged_ else "NOT converged"
    reasons = "; ".join(sorted({result.reason for result in model.results_}))
    print(f"  {len(model.results_)} restarts in {time.perf_counter() - started:.1f} s: "
          f"{state} ({reasons}).")  # fmt: skip
    return model


def compare(model: Density, train: pd.DataFrame, held: pd.DataFrame) -> None:
    """Log density on held-out rows, beside independent columns."""
    floor = Independent(schema=model.schema_, random_state=SEED).fit(train)
    scores = {"mixture": model.log_prob(held), "independent columns": floor.log_prob(held)}
    scores["gain"] = scores["mixture"] - scores["independent columns"]
    _head("Mean log density of a held-out row (nats, in the table's own units)")
    for name, value in scores.items():
        sign = "+" if name == "gain" else ""
        print(f"  {name:<20} {value.mean():{sign}8.2f} ± {value.sem():.2f}")


def odd_rows(model: Density, table: pd.DataFrame) -> None:
    """The ten oddest rows, the cell to blame, and what the model expects there."""
    found = model.outliers(table, random_state=SEED)
    worst = found[found["culprit"].notna()].sort_values("rank").head(10)
    hidden = table.loc[worst.index].copy()
    for row, column in worst["culprit"].items():
        hidden.loc[row, column] = None
    filled = model.impute(hidden)
    assert isinstance(filled, pd.DataFrame)  # noqa: S101 - one table without draws
    _head("The ten oddest rows, and the cells to blame")
    _show(pd.DataFrame({
        "row": worst.index,
        "species": table.loc[worst.index, "species"].to_numpy(),
        "sex": table.loc[worst.index, "sex"].astype(object).fillna("?").to_numpy(),
        "surprisal": [f"{v:.1f}" for v in worst["surprisal"]],
        "tail_prob": [f"{v:.4f}" for v in worst["tail_prob"]],
        "culprit": worst["culprit"].to_numpy(),
        "excess": [f"{v:+.1f}" for v in worst["excess"]],
        "value": [_cell(table.loc[r, c]) for r, c in worst["culprit"].items()],
        "expected": [_cell(filled.loc[r, c]) for r, c in worst["culprit"].items()],
    }))  # fmt: skip
    print(_note(
        "surprisal: -log p, nats. tail_prob: share of 2,000 rows drawn from the model that are "
        "as surprising. excess: by how much (nats) the cell is more surprising, given the "
        "others, than that column usually is."
    ))  # fmt: skip


def new_rows(model: Density) -> None:
    """A few rows that never were."""
    _head("Rows like these, but new")
    _show(model.sample(5, random_state=SEED))


def question(model: Density) -> None:
    """Body mass, given species and sex: draws, an event, and an exact density."""
    draws = 4000
    asked = pd.DataFrame(
        [(s, x) for s in ("Adelie", "Chinstrap", "Gentoo") for x in ("female", "male")],
        columns=["species", "sex"],
    )
    mass = model.sample(draws, given=asked, random_state=SEED)["body_mass_g"]
    rows = []
    for number, (species, sex) in enumerate(asked.itertuples(index=False)):
        own = mass.loc[number]
        share = float((own > 4500).mean())
        error = np.sqrt(share * (1 - share) / draws)
        low, middle, high = own.quantile([0.05, 0.5, 0.95])
        rows.append((species, sex, f"{middle:,.0f}", f"{low:,.0f} to {high:,.0f}",
                     f"{share:.3f} ± {error:.3f}"))  # fmt: skip
    point = pd.DataFrame({"body_mass_g": np.full(len(asked), 4500.0)})
    exact = model.log_prob(point, given=asked)
    _head("How heavy is a penguin of known species and sex?")
    answer = pd.DataFrame(
        rows, columns=["species", "sex", "median g", "90 % interval g", "p(mass > 4500 g)"]
    )
    answer["log p(4500 g)"] = [f"{value:.2f}" for value in exact]
    _show(answer)
    print(_note(
        f"Quantiles and probabilities from {draws:,} conditional draws each, ± Monte Carlo "
        "standard error; the log density (nats, per gram) is exact. Nothing else is given: "
        "island, bill, flipper and year are integrated out."
    ))  # fmt: skip


def believe(model: Density, train: pd.DataFrame, held: pd.DataFrame) -> None:
    """The report on the fit."""
    _head("Can this be believed?")
    print(textwrap.indent(str(model.check(held, train=train)), "  "))


def files(model: Density, table: pd.DataFrame, train: pd.DataFrame, out: Path) -> None:
    """Plots as PNG, and the ArviZ file."""
    import matplotlib

    before = matplotlib.get_backend()
    matplotlib.use("Agg")
    oddest = model.outliers(table, random_state=SEED)["rank"].idxmin()
    plot = model.plot
    pictures: dict[str, tuple[str, Callable[[], object]]] = {
        "loss.png": ("how the loss fell", plot.loss),
        "marginals.png": ("each column, real and sampled", lambda: plot.marginals(train)),
        "pairs.png": ("pairs of columns, real and sampled", lambda: plot.pairs(train)),
        "surprisal.png": ("how odd all rows are", lambda: plot.surprisal(table)),
        "waterfall.png": (f"why row {oddest} is odd", lambda: plot.waterfall(table.loc[[oddest]])),
    }
    _head(f"Written to {out}/")
    for name, (about, draw) in pictures.items():
        _save(draw(), out / name)
        print(f"  {name:<15} {about}")
    matplotlib.use(before)
    _save_arviz(model, train, out / "model.nc")
    print(f"  {'model.nc':<15} posterior draws and pointwise log likelihood, for ArviZ")


def _save(axes: object, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure = np.ravel(np.asarray(axes))[0].figure
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _save_arviz(model: Density, train: pd.DataFrame, path: Path) -> None:
    from probgen.diagnostics.arviz import write

    with warnings.catch_warnings():
        # ArviZ 0.x announces its successor at import
        warnings.simplefilter("ignore", FutureWarning)
        write(model.to_arviz(train), path)


def _head(text: str) -> None:
    print(f"\n{text}\n{'─' * len(text)}")


def _show(frame: pd.DataFrame) -> None:
    text = frame.to_string(index=False, max_colwidth=64)
    print(textwrap.indent(text, "  "))


def _note(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


def _cell(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, float | np.floating) else str(value)


if __name__ == "__main__":
    main()
