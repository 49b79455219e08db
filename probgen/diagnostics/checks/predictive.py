"""Posterior predictive checks: each column, and each pair of columns.

Every statistic is the mean of a function of a row, taken over the rows of the table and over
rows that the model drew. The error of the difference counts the rows of the table, the drawn
rows, and the rows that the model was fitted to. Effects are measured so that Cohen's (1988)
small effect is 0.2 for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import kstwobign, rankdata

from probgen.columns import Column
from probgen.diagnostics.checks.evidence import Evidence
from probgen.diagnostics.checks.statistics import WORST, holm, judge, named, p_value
from probgen.diagnostics.drawn import modelled
from probgen.diagnostics.pit import pit
from probgen.diagnostics.report import Finding

__all__ = ["columns", "pairs", "uniform"]

Floats = NDArray[np.float64]
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
#: rows whose PIT is taken where each row has draws of its own
IN_CONTEXT = 2_000
#: correlations that fail: Cohen's (1988) medium effect, as 0.1 is his small one
MEDIUM = 0.3
#: levels of a column that are looked at, the most frequent ones
LEVELS = 10
#: largest distance of a PIT from uniform: the effect 0.2 in the middle of a column
PIT_WORST = 0.1
FEWEST = 8


def columns(evidence: Evidence) -> Iterator[Finding]:
    """Means, spreads, quantiles, atoms and levels of each column."""
    names, effects, errors, rows = [], [], [], []
    for name, (column, _) in modelled(evidence.schema).items():
        table, drawn = evidence.cells[name], evidence.drawn[name]
        there = ~np.isnan(table)
        if there.sum() < FEWEST:
            continue
        for what, effect, error in _of_column(column, table, drawn, evidence.fitted):
            names.append(f"{name} ({what})")
            effects.append(effect)
            errors.append(error)
            rows.append({"column": str(name), "what": what, "effect": effect})
    if not names:
        return
    size, p = np.array(effects), holm(p_value(np.array(effects), np.array(errors)))
    status, chosen = judge(size, p)
    for row, value in zip(rows, p.tolist(), strict=True):
        row["p_value"] = value
    text = f"{len(names)} checks of {len({row['column'] for row in rows})} columns{evidence.fair}"
    if status == "ok":
        yield Finding(
            "columns", "ok", ("density",), f"{text}: rows of the model look like the table",
            details={"checks": rows},
        )  # fmt: skip
        return
    signed = [f"{name} {effect:+.2f}" for name, effect in zip(names, effects, strict=True)]
    yield Finding(
        "columns", status, ("density",),  # type: ignore[arg-type]
        f"{text}: the model is off by more than chance in {named(signed, size, chosen)} "
        "(standardised, model less table)",
        "look at plot.marginals(table); another kind for the column (columns=), or a more "
        "flexible family; if train looks right and table wrong, the rows differ in source",
        {"checks": rows},
    )  # fmt: skip


def _of_column(
    column: Column, table: Floats, drawn: Floats, fitted: int
) -> Iterator[tuple[str, float, float]]:
    """(what, effect, standard error) of each statistic of a column."""
    seen, paired = ~np.isnan(table), len(table) == len(drawn)
    mine, theirs = drawn[seen] if paired else drawn, table[seen]
    scale = _Scale(len(theirs), len(mine), fitted)
    if column.labelled:
        codes, counts = np.unique(np.concatenate([theirs, mine]), return_counts=True)
        for code in codes[np.argsort(-counts)][:LEVELS]:
            label = str((*(column.levels or ()), "(unseen)")[int(code)])
            yield (f"share of {label}", *scale.share(mine == code, theirs == code))
        return
    for atom in column.atoms:
        yield (f"share of {atom:g}", *scale.share(mine == atom, theirs == atom))
    low, high = np.quantile(mine, [0.005, 0.995])
    near, far = np.clip(mine, low, high), np.clip(theirs, low, high)  # heavy tails have no sd
    sd = float(np.sqrt((near.var() + far.var()) / 2))
    if not sd > 0:
        return
    yield "mean", float(near.mean() - far.mean()) / sd, scale.error(1.0)
    middle = float(np.median(mine))
    yield ("sd", *scale.ratio(np.abs(near - middle), np.abs(far - middle)))
    for q, cut in zip(QUANTILES, np.quantile(mine, QUANTILES), strict=True):
        yield (f"{q:.0%} quantile", *scale.share(theirs <= cut, mine <= cut))


class _Scale:
    """Errors of differences between n rows of a table and m drawn rows."""

    def __init__(self, n: int, m: int, fitted: int) -> None:
        # what the model learned from `fitted` rows is itself that uncertain
        self.inverse = 1 / n + 1 / m + (1 / fitted if fitted else 0.0)

    def error(self, variance: float) -> float:
        return float(np.sqrt(variance * self.inverse))

    def share(self, mine: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> tuple[float, float]:
        """Cohen's h of two shares; its standard error has no unknowns."""
        shares = np.array([mine.mean(), theirs.mean()])
        effect = 2 * np.arcsin(np.sqrt(shares))
        rare = shares.mean() * min(len(mine), len(theirs)) < 5  # the normal error is too small
        return float(effect[0] - effect[1]), self.error(4.0 if rare else 1.0)

    def ratio(self, mine: Floats, theirs: Floats) -> tuple[float, float]:
        """Logarithm of the ratio of two mean distances, relative to their usual spread."""
        means = np.array([mine.mean(), theirs.mean()])
        if not means.min() > 0:
            return 0.0, np.nan
        variance = max(mine.var() / means[0] ** 2, theirs.var() / means[1] ** 2)
        return float(np.log(means[0] / means[1])), self.error(float(variance))


# --- the probability integral transform -----------------------------------------------------


def uniform(evidence: Evidence) -> Iterator[Finding]:
    """Whether the PIT of each column of numbers is uniform (Kolmogorov and Smirnov)."""
    assert evidence.seen is not None
    frame = evidence.seen.frame
    if evidence.schema.context_slots and len(frame) > IN_CONTEXT:
        frame = frame.sample(IN_CONTEXT, random_state=0)
    values = pit(evidence.model, frame)
    names, sizes, p = [], [], []
    draws = np.inf if evidence.schema.context_slots else values.attrs["draws"]
    for name, (column, _) in modelled(evidence.schema).items():
        u = np.sort(values[name].dropna().to_numpy())
        if column.labelled or len(u) < FEWEST:
            continue
        grid = np.arange(len(u) + 1) / len(u)
        size = float(max((grid[1:] - u).max(), (u - grid[:-1]).max()))
        fitted = 1 / evidence.fitted if evidence.fitted else 0.0
        names.append(str(name))
        sizes.append(size)
        p.append(float(kstwobign.sf(size / np.sqrt(1 / len(u) + 1 / draws + fitted))))
    if not names:
        return
    distances, adjusted = np.array(sizes), holm(np.array(p))
    # judged in the units of the other checks
    status, chosen = judge(distances * WORST / PIT_WORST, adjusted)
    details = {"distance": dict(zip(names, sizes, strict=True)),
               "p_value": dict(zip(names, adjusted.tolist(), strict=True))}  # fmt: skip
    text = f"{len(names)} columns of numbers{evidence.fair}, distance from uniform at most "
    text += f"{distances.max():.2f}"
    if status == "ok":
        yield Finding("PIT", "ok", ("density",), text, details=details)
        return
    shown = [f"{name} {value:.2f}" for name, value in zip(names, sizes, strict=True)]
    yield Finding(
        "PIT", status, ("density",), f"{text}: {named(shown, distances, chosen)}",  # type: ignore[arg-type]
        "look at plot.pit(table): a slope is a shift, a U or a hump a wrong spread",
        details,
    )  # fmt: skip


# --- pairs of columns -------------------------------------------------------------------------


def pairs(evidence: Evidence) -> Iterator[Finding]:
    """Associations: rank correlations, of distances from the middle too, and of levels."""
    table, drawn, owner, what = _features(evidence)
    if len(set(owner)) < 2:
        return
    i, j = np.triu_indices(len(owner), 1)
    fixed = [owner[k] < 0 for k in range(len(owner))]  # context: the same in both
    keep = [owner[a] != owner[b] and not (fixed[a] and fixed[b])
            for a, b in zip(i, j, strict=True)]  # fmt: skip
    i, j = i[keep], j[keep]
    mine, error = _correlated(drawn)
    theirs, other = _correlated(table)
    learned = other**2 * len(table) / evidence.fitted if evidence.fitted else 0.0
    spread = np.sqrt(error**2 + other**2 + learned)
    effect, errors = (mine - theirs)[i, j], spread[i, j]
    p = holm(p_value(effect, errors))
    status, chosen = judge(effect, p, MEDIUM)
    names = [f"{what[a]} and {what[b]}" for a, b in zip(i, j, strict=True)]
    rows = [
        {"pair": name, "table": float(theirs[a, b]), "model": float(mine[a, b]), "p_value": q}
        for name, a, b, q in zip(names, i, j, p.tolist(), strict=True)
    ]
    many = len({tuple(sorted((owner[a], owner[b]))) for a, b in zip(i, j, strict=True)})
    text = f"{len(names)} checks of {many} pairs of columns{evidence.fair}"
    if status == "ok":
        yield Finding(
            "pairs", "ok", ("density",), f"{text}: associations are those of the table",
            details={"checks": rows},
        )  # fmt: skip
        return
    signed = [
        f"{name} {row['model']:+.2f} for {row['table']:+.2f}"
        for name, row in zip(names, rows, strict=True)
    ]
    yield Finding(
        "pairs", status, ("density",),  # type: ignore[arg-type]
        f"{text}: correlation of the model for that of the table, {named(signed, effect, chosen)}",
        "look at plot.pairs(table); a family that links these columns, more components, or a "
        "term of your Pair",
        {"checks": rows},
    )  # fmt: skip


def _features(evidence: Evidence) -> tuple[Floats, Floats, list[int], list[str]]:
    """Centred features of table rows (n, k) and drawn rows (m, k), whose they are, and names.

    Numbers give their normal scores and the distance from the middle; levels their
    indicators. NaN in holes. Context columns, owners below 0, only where draws are by row.
    """
    assert evidence.seen is not None
    table: list[Floats] = []
    drawn: list[Floats] = []
    owner: list[int] = []
    what: list[str] = []

    def add(
        mine: Floats, theirs: Floats, labels: list[str] | None, name: str, number: int
    ) -> None:
        for feature, left, right in _encoded(mine, theirs, labels):
            table.append(left)
            drawn.append(right)
            owner.append(number)
            what.append(f"{feature}{name}" if labels is None else f"{name}={feature}")

    for number, (name, (column, _)) in enumerate(modelled(evidence.schema).items()):
        labels = [*map(str, column.levels or ()), "(unseen)"] if column.labelled else None
        add(evidence.cells[name], evidence.drawn[name], labels, str(name), number)
    context = evidence.seen.batch.context
    if context is not None:
        values = context.double().cpu().numpy()
        for number, slot in enumerate(evidence.schema.context_slots):
            own = values[:, number]
            codes = [str(code) for code in range(slot.size)] if slot.size else None
            add(own, own, codes, slot.name, -1 - number)
    return np.column_stack(table), np.column_stack(drawn), owner, what


def _encoded(
    table: Floats, drawn: Floats, labels: list[str] | None
) -> Iterator[tuple[str, Floats, Floats]]:
    if labels is not None:
        codes, counts = np.unique(table[~np.isnan(table)], return_counts=True)
        codes = codes[np.argsort(-counts)][: min(LEVELS, int((counts >= FEWEST).sum()))]
        for code in codes[: 1 if len(codes) == 2 else LEVELS]:
            yield labels[int(code)], _indicator(table, code), _indicator(drawn, code)
        return
    left, right = _normal_scores(table), _normal_scores(drawn)
    yield "", left, right
    yield "spread of ", np.abs(left), np.abs(right)


def _indicator(values: Floats, code: float) -> Floats:
    return np.where(np.isnan(values), np.nan, values == code)


def _normal_scores(values: Floats) -> Floats:
    """Normal quantiles of the ranks, each column by its own: its shape is judged elsewhere."""
    seen = ~np.isnan(values)
    found = np.full(len(values), np.nan)
    ranks = rankdata(values[seen])  # equal values share their middle rank
    found[seen] = ndtri((ranks - 0.5) / max(seen.sum(), 1))
    return found


def _correlated(features: Floats) -> tuple[Floats, Floats]:
    """Correlations (k, k) over rows where both are seen, and their standard errors."""
    seen = ~np.isnan(features)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nanmean(features, 0)
        sd = np.nanstd(features, 0)
        z = np.where(seen & (sd > 0), (features - mean) / sd, 0.0)
        both = seen.T.astype(float) @ seen
        r = z.T @ z / both
        square = z * z
        # of the mean of products, less what is known of both margins (as for normal rows,
        # where it is 1 - r^2); whatever the shape of the rows
        fourth = square.T @ square / both
        cubes = (square * z).T @ z / both
        fifth = np.nanmean(np.where(seen, square * square, np.nan), 0)
        variance = (
            fourth
            - r * (cubes + cubes.T)
            + r**2 / 4 * (fifth[:, None] + fifth[None, :] + 2 * fourth)
        )
        error = np.sqrt(np.maximum(variance, 0.05 * (1 - np.minimum(r**2, 1))) / both)
    enough = (both >= FEWEST) & (sd[:, None] > 0) & (sd[None, :] > 0)
    return np.where(enough, r, 0.0), np.where(enough, error, np.inf)
