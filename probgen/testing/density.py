"""Checks of densities: one number a row, normalised, in the table's units, coherent."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logsumexp

from probgen import queries
from probgen.columns import Column
from probgen.density import Density
from probgen.errors import DataWarning
from probgen.estimators import Independent
from probgen.testing.subject import NotApplicable, Subject, check, close, gap, need

__all__: list[str] = []

#: a level that no table holds
FOREIGN = "(never seen)"
#: by how much a sum or an integral over a grid may miss 1
GRID_ERROR = 2e-3
COUNTS = np.arange(3000)


def scores(model: Density, table: pd.DataFrame, **how: Any) -> np.ndarray:
    """Log densities as an array, without warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return model.log_prob(table, **how).to_numpy()


def judged(model: Density, table: pd.DataFrame, **how: Any) -> tuple[np.ndarray, np.ndarray]:
    """Log densities, and their Monte Carlo errors: 0 where no particles were drawn."""
    how = {"particles": queries.PARTICLES} | how
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        found = model.log_prob(table, details=True, **how)
    sampled = (found["particles"] > 0).to_numpy()
    return found["log_prob"].to_numpy(), np.where(sampled, found["se"].to_numpy(), 0.0)


# --- one number a row -------------------------------------------------------------------------


@check
def one_finite_number_a_row(subject: Subject) -> None:
    """log_prob is a float64 Series on the caller's index, finite on the training rows."""
    model, table = subject.fitted(), subject.table()
    table.index = [f"row {i // 2}" for i in range(len(table))]  # repeated labels are kept
    value = model.log_prob(table)
    need(isinstance(value, pd.Series), f"a {type(value).__name__}")
    need(value.dtype == np.float64, f"dtype {value.dtype}")
    need(value.index.equals(table.index), "another index than the caller's")
    need(np.isfinite(value).all(), f"{int((~np.isfinite(value)).sum())} non-finite scores")
    array = model.score_samples(table)
    need(type(array) is np.ndarray and (array == value.to_numpy()).all(), "score_samples differ")
    need(abs(model.score(table) - array.mean()) <= 1e-12 * abs(array.mean()), "score is no mean")


@check
def rows_do_not_depend_on_one_another(subject: Subject) -> None:
    """A score does not depend on other rows, their order or their number (1e-12 relative)."""
    model, table = subject.fitted(), subject.table()
    whole = scores(model, table)
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = scores(model, table.iloc[order])
    need(close(shuffled, whole[order], 1e-13, 1e-12), f"order: {gap(shuffled, whole[order])}")
    for row in (0, 1, len(table) - 1):
        one = scores(model, table.iloc[[row]])
        need(close(one, whole[[row]], 1e-13, 1e-12), f"alone: {gap(one, whole[[row]])}")
    long = pd.concat([table] * 40)
    many = scores(model, long)
    wanted = np.tile(whole, 40)
    need(close(many, wanted, 1e-13, 1e-12), f"in a longer table: {gap(many, wanted)}")


@check
def no_rows_and_one_row(subject: Subject) -> None:
    """Scoring, sampling and imputing take one row, or none."""
    model, table = subject.fitted(), subject.table()
    none = model.log_prob(table.iloc[:0])
    need(len(none) == 0 and none.dtype == np.float64, f"no rows gave {none!r}")
    need(none.index.equals(table.index[:0]), "no rows: another index")
    need(len(model.score_samples(table.iloc[:0])) == 0, "score_samples of no rows")
    need(np.isfinite(model.log_prob(table.iloc[:1])).all(), "one row is not finite")
    none = subject.sample(model, 0, 0)
    need(list(none.columns) == list(table.columns), "sample(0) lost columns")
    need(len(none) == 0 and len(subject.sample(model, 1, 0)) == 1, "sample of 0 or 1 rows")
    for filled in (model.impute(table.iloc[:0]), *model.impute(table.iloc[:0], draws=1)):
        need(len(filled) == 0 and list(filled) == list(table), "impute of no rows")


@check
def columns_are_known_by_name(subject: Subject) -> None:
    """The order of columns does not matter; a column left out equals a column of holes."""
    model, table = subject.fitted(), subject.table()
    whole = scores(model, table)
    need((scores(model, table[table.columns[::-1]]) == whole).all(), "another column order")
    if subject.family.holes == "refuse":
        return
    modelled = [str(name) for name in subject.modelled(table)]
    last = modelled[-1]
    hidden = table.assign(**{last: table[last].astype(object)})
    hidden[last] = None
    left_out, holes = scores(model, table.drop(columns=last)), scores(model, hidden)
    need(close(left_out, holes, 1e-12, 1e-12), f"left out or missing: {gap(left_out, holes)}")
    nothing = scores(model, table.iloc[:3].assign(**dict.fromkeys(modelled)))
    need(close(nothing, 0, 1e-9), f"rows of holes score {nothing}")


# --- normalised -------------------------------------------------------------------------------


def spread(column: Column, points: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Values over the whole support, and the log of the length that each stands for.

    Steps are even in u = asinh of the free, centred value: fine in the middle, and reaching
    exp(reach) scales far. The map and its slope are worked out here, not by the schema.
    """
    t = np.linspace(-reach, reach, points)
    free = column.loc + column.scale * np.sinh(t)
    log_slope = math.log(column.scale) + np.log(np.cosh(t)) + math.log(t[1] - t[0])
    lower, upper = column.support()
    if column.kind == "positive":
        keep = np.abs(free) < 690
        return lower + np.exp(free[keep]), (log_slope + free)[keep]
    if column.kind in ("unit", "bounded"):
        keep = np.abs(free) < 33
        free, width = free[keep], upper - lower
        value = lower + width * expit(free)
        inside = (value > lower) & (value < upper)
        slope = log_slope[keep] + math.log(width) - np.logaddexp(0, free) - np.logaddexp(0, -free)
        return value[inside], slope[inside]
    return free, log_slope


def _dates(column: Column, days: np.ndarray) -> pd.Series:
    ticks = column.origin + np.rint(days * 86_400e6).astype(np.int64)  # type: ignore[operator]
    return pd.Series(pd.to_datetime(ticks, unit="us", origin="unix").astype("M8[us]"))


def total_mass(model: Density, name: str) -> tuple[float, float]:
    """Sum and integral of the density of a model of one column, and its Monte Carlo error."""
    column = model.schema_["x"]
    parts: list[tuple[pd.DataFrame, Any, str]] = []
    if column.labelled:
        levels = list(column.levels or ())
        parts.append((pd.DataFrame({"x": pd.Series(levels, dtype=object)}), 0.0, "error"))
        if column.kind != "boolean":
            parts.append((pd.DataFrame({"x": [FOREIGN]}), 0.0, "rare"))
    elif column.kind == "count":
        parts.append((pd.DataFrame({"x": COUNTS}), 0.0, "error"))
    else:
        values, log_length = spread(column, 4001, 7.0)
        keep = ~np.isin(values, column.atoms)
        if column.kind == "date":
            keep &= np.abs(values) < 600_000
        body = _dates(column, values[keep]) if column.kind == "date" else values[keep]
        parts.append((pd.DataFrame({"x": body}), log_length[keep], "error"))
        if column.atoms:
            parts.append((pd.DataFrame({"x": list(column.atoms)}), 0.0, "error"))
    found = [_mass(model, *part) for part in parts]
    return sum(mass for mass, _ in found), math.hypot(*(se for _, se in found))


#: rows that each need a good estimate, and particles for that
FEW, PARTICLES = 50, 4096


def _mass(
    model: Density,
    table: pd.DataFrame,
    log_length: Any,
    unseen: Any = "error",
    particles: int = 64,
) -> tuple[float, float]:
    """The mass of rows that stand for some length each, and its Monte Carlo error."""
    # the errors of many rows average out: a few particles each; those of some rows do not
    particles = particles if len(table) > FEW else max(particles, PARTICLES)
    value, se = judged(model, table, unseen=unseen, particles=particles)
    mass = np.exp(value + log_length)
    return float(mass.sum()), float(np.sqrt((mass * se) @ (mass * se)))


ONE_COLUMN = (
    "real", "positive", "unit", "bounded", "atom", "rounded", "date", "count", "category",
    "ordered", "boolean",
)  # fmt: skip


def _total_is_one(subject: Subject, name: str) -> None:
    if not subject.family.normalised:
        raise NotApplicable("the family is not normalised")
    total, se = total_mass(subject.fitted(name), name)
    need(abs(total - 1) < GRID_ERROR + 4 * se, f"a {name} column has total mass {total:.5f}")


@check
def real_like_columns_integrate_to_one(subject: Subject) -> None:
    """The density of a real, positive, unit, bounded or date column integrates to one."""
    for name in ("real", "positive", "unit", "bounded", "date"):
        _total_is_one(subject, name)


@check
def atoms_and_rounding_are_counted_once(subject: Subject) -> None:
    """The mass of the atoms and the integral of the rest are one; so for rounded values."""
    need(subject.fitted("atom").schema_["x"].atoms == (0.0,), "no atom was noticed at 0")
    for name in ("atom", "rounded"):
        _total_is_one(subject, name)


@check
def discrete_columns_sum_to_one(subject: Subject) -> None:
    """The mass of all counts, or of all levels and the reserved one, is one."""
    for name in ("count", "category", "ordered", "boolean"):
        _total_is_one(subject, name)


@check
def two_columns_integrate_to_one(subject: Subject) -> None:
    """The joint density of two real columns integrates to one over the plane."""
    if not subject.family.normalised:
        raise NotApplicable("the family is not normalised")
    model = subject.fitted("real2")
    (a, log_a), (b, log_b) = (spread(model.schema_[name], 401, 5.0) for name in "ab")
    table = pd.DataFrame({"a": np.repeat(a, len(b)), "b": np.tile(b, len(a))})
    lengths = np.repeat(log_a, len(b)) + np.tile(log_b, len(a))
    total, se = _mass(model, table, lengths, particles=16)
    need(abs(total - 1) < 3 * GRID_ERROR + 4 * se, f"total mass {total:.5f}")


@check
def mixed_rows_have_total_mass_one(subject: Subject) -> None:
    """Over mixed columns the density has mass one, by an identity of samples (4 se)."""
    model, table = subject.fitted(), subject.table()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schema = model.schema_.standard()
        if subject.given:
            raise NotApplicable("its columns are conditioned on others, which have no density")
        other = Independent(random_state=1, schema=schema).fit(table)
    n = 2000 if subject.family.density == "estimate" else 6000
    ratios = []
    for source in (model, other):
        rows = source.sample(n, random_state=2)
        p = scores(model, rows) - _log_nameable(model, rows)
        q = scores(other, rows) - _log_nameable(other, rows)
        # p over the average of both: bounded by 2, and its mean over both samples is 1
        ratios.append(np.exp(p - np.logaddexp(p, q) + math.log(2)))
    mean = (ratios[0].mean() + ratios[1].mean()) / 2
    se = math.sqrt(sum(r.var() for r in ratios) / n) / 2
    need(abs(mean - 1) < 4 * se + 1e-9, f"total mass {mean:.4f} with standard error {se:.4f}")


def _log_nameable(model: Density, rows: pd.DataFrame) -> float:
    """Log mass of the rows without a reserved level: samples hold none."""
    names = [c.name for c in model.schema_.columns if c.labelled and c.kind != "boolean"]
    rare = [
        float(scores(model, pd.DataFrame({name: [FOREIGN]}), unseen="rare")[0])
        for name in names
        if model.schema_[name].role == "modelled"
    ]
    # exact for one such column; for several, an upper bound of a small number
    return math.log1p(-min(0.5, float(np.exp(rare).sum())))


# --- units ------------------------------------------------------------------------------------


@check
def units_change_the_density_by_their_ratio(subject: Subject) -> None:
    """Multiplying a real or positive column by c lowers the log density by log c (1e-9)."""
    table = subject.table("scaled")
    before, se = judged(subject.fitted("scaled"), table)
    for name, c in (("real", 1024.0), ("positive", 0.0254), ("real", 1e6)):
        scaled = table.assign(**{name: table[name] * c})
        after, other = judged(subject.fit(scaled, "scaled"), scaled)
        wanted = before - math.log(c) * table[name].notna()
        # the noise of estimates goes by the bits of a row, which a change of unit may change
        room = 1e-9 + 6 * np.hypot(se, other)
        off = np.abs(after - wanted)
        need(bool((off <= room).all()), f"{name} times {c:g}: off by {off.max():.2g} nats")


# --- samples ----------------------------------------------------------------------------------


@check
def samples_score_as_their_entropy(subject: Subject) -> None:
    """Mean log density of rows drawn in one go and of rows completed from parts agree (4 se)."""
    if subject.family.density == "none":
        raise NotApplicable("the family has no density")
    model = subject.fitted()
    n = 1000
    first = subject.sample(model, n, 3)
    values = [scores(model, first), scores(model, subject.sample(model, n, 4))]
    if not subject.given and len(first.columns) > 1 and subject.family.coherent:
        for half in (first.columns[::2], first.columns[1::2]):
            known = first[list(half)]
            values.append(scores(model, model.sample(1, given=known, random_state=5)))
    for other in values[1:]:
        se = math.sqrt((values[0].var() + other.var()) / n)
        off = values[0].mean() - other.mean()
        need(abs(off) < 4 * se, f"{off:.3f} nats apart, standard error {se:.3f}")


@check
def samples_are_legal_rows(subject: Subject) -> None:
    """Samples have the fitted columns, data types and levels, and exactly n rows."""
    model, table = subject.fitted(), subject.table()
    drawn = subject.sample(model, 137, 0)
    need(list(drawn.columns) == list(table.columns), "other columns")
    need(drawn.index.equals(pd.RangeIndex(137)), f"index {drawn.index!r}")
    wrong = {n: str(drawn[n].dtype) for n in table if drawn[n].dtype != table[n].dtype}
    need(not wrong, f"other data types: {wrong}")
    # unseen="error" by default: a foreign level would raise
    need(np.isfinite(model.log_prob(drawn)).all(), "a sampled row has density 0")


# --- coherence --------------------------------------------------------------------------------


def _coherent(subject: Subject) -> None:
    if not subject.family.coherent:
        raise NotApplicable("the family does not promise coherent marginals")


@check
def marginals_integrate_the_joint(subject: Subject) -> None:
    """A marginal density is the integral of the joint one over the columns left out."""
    _coherent(subject)
    model, rows = subject.fitted("real2"), subject.table("real2").iloc[:5]
    for kept, out in (("a", "b"), ("b", "a")):
        value, length = spread(model.schema_[out], 1201, 6.0)
        grid = pd.DataFrame({kept: np.repeat(rows[kept], len(value)), out: np.tile(value, 5)})
        joint = scores(model, grid).reshape(5, -1) + length
        marginal = scores(model, rows[[kept]])
        found = logsumexp(joint, axis=1)
        need(close(found, marginal, GRID_ERROR), f"column {kept}: off by {gap(found, marginal)}")


@check
def marginals_sum_over_levels_and_counts(subject: Subject) -> None:
    """Over mixed columns a marginal is the sum over levels and counts of the joint."""
    _coherent(subject)
    model, rows = subject.fitted("discrete"), subject.table("discrete").iloc[:4]
    levels = [*(model.schema_["label"].levels or ()), FOREIGN]
    by_level = rows.loc[rows.index.repeat(len(levels))].assign(label=levels * len(rows))
    joint = scores(model, by_level, unseen="rare").reshape(len(rows), -1)
    wanted = scores(model, rows[["real", "count"]])
    found = logsumexp(joint, axis=1)
    need(close(found, wanted, 1e-9), f"over levels: off by {gap(found, wanted)}")
    by_count = rows.loc[rows.index.repeat(len(COUNTS))].assign(count=np.tile(COUNTS, len(rows)))
    found = logsumexp(scores(model, by_count).reshape(len(rows), -1), axis=1)
    wanted = scores(model, rows[["real", "label"]])
    need(close(found, wanted, GRID_ERROR), f"over counts: off by {gap(found, wanted)}")
    value, length = spread(model.schema_["real"], 2001, 6.0)
    grid = rows.loc[rows.index.repeat(len(value))].assign(real=np.tile(value, len(rows)))
    found = logsumexp(scores(model, grid).reshape(len(rows), -1) + length, axis=1)
    wanted = scores(model, rows[["label", "count"]])
    need(close(found, wanted, GRID_ERROR), f"over the real column: off by {gap(found, wanted)}")


@check
def conditionals_are_joint_over_marginal(subject: Subject) -> None:
    """log p(x given y) = log p(x, y) - log p(y), by frame and by dict, and has mass one."""
    _coherent(subject)
    model, rows = subject.fitted(), subject.table().iloc[:40]
    names = subject.modelled(rows)
    left, right = names[: len(names) // 2], [*names[len(names) // 2 :], *subject.given]
    if not left:
        raise NotApplicable("one modelled column")
    found = scores(model, rows[left], given=rows[right])
    wanted = scores(model, rows) - scores(model, rows[right])
    need(close(found, wanted, 1e-9, 1e-12), f"off by {gap(found, wanted)}")
    if subject.own_columns:
        return
    model = subject.fitted("discrete")
    point = {"real": 0.3, "count": 2}
    known = pd.DataFrame({"label": [*(model.schema_["label"].levels or ()), FOREIGN]})
    mass = np.exp(scores(model, known, given=point, unseen="rare")).sum()
    need(abs(mass - 1) < 1e-9, f"given {point} the levels have mass {mass}")
