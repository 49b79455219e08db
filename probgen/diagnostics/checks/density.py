"""Whether log densities can be used: support, simpler models, training and held-out rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from probgen.diagnostics.checks.evidence import BAD_KHAT, Evidence
from probgen.diagnostics.report import Finding

__all__ = ["floor", "gap", "rival", "support"]

Floats = NDArray[np.float64]
#: share of rows with bad weights that fails
MANY = 0.05
#: nats a row: a gap that is worth a note, and one that may fail
SEEN, LARGE = 0.1, 0.5


def support(evidence: Evidence) -> Iterator[Finding]:
    """Rows of density 0, and rows whose density is an estimate that cannot be trusted."""
    seen = evidence.seen
    assert seen is not None
    impossible, bad = np.isinf(seen.log_p) | seen.illegal, seen.khat > BAD_KHAT
    if impossible.any():
        yield Finding(
            "support", "fail", ("density",),
            f"{int(impossible.sum())} of {len(seen)} rows have density 0",
            "see schema_.describe(); widen the kinds or bounds, or correct the rows",
        )  # fmt: skip
    if np.isfinite(seen.khat).any() or bad.any():
        share = float(bad.mean())
        status = "ok" if not share else "fail" if share > MANY else "note"
        yield Finding(
            "importance weights", status, ("density",),  # type: ignore[arg-type]
            f"k-hat above {BAD_KHAT} in {share:.1%} of the rows"
            + (": their density is uncertain" if share else ""),
            "look at log_prob(table, details=True); train longer, or give the guide of the row "
            "latents more freedom" if share else "", {"share": share},
        )  # fmt: skip


def floor(evidence: Evidence) -> Iterator[Finding]:
    """The gain over independent columns, on rows that these were not fitted to."""
    seen = evidence.seen
    assert seen is not None
    if evidence.fit_floor is None or np.isnan(seen.log_p).all():
        yield Finding(
            "floor", "note", ("density",),
            "the family has no density: its rows are judged, not its numbers",
        )  # fmt: skip
        return
    values, how = evidence.floor
    gain = _gain(seen.log_p, values)
    if len(gain) < 2:
        yield Finding("floor", "unknown", ("density",), "too few rows to compare", "pass more")
        return
    mean, se = float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))
    details = {"gain": mean, "se": se, "in_sample": evidence.in_sample}
    text = f"{mean:+.2f} ± {se:.2f} nats a row over independent columns ({how})"
    if mean < -2 * se:
        yield Finding(
            "floor", "fail", ("density",), f"{text}: worse than no model of the joint",
            "fit fewer parameters or stronger priors, stop early (validation=0.2), or use "
            "Independent", details,
        )  # fmt: skip
    elif evidence.in_sample:
        yield Finding(
            "floor", "note", ("density",), f"{text}; in sample, which overstates it",
            "pass check(held_out, train=the fitted rows)", details,
        )  # fmt: skip
    elif mean > 2 * se and evidence.known is None:  # the floor had fewer rows than the model
        yield Finding(
            "floor", "note", ("density",), f"{text}; overstated if the fit saw these rows",
            "pass check(held_out, train=the fitted rows)", details,
        )  # fmt: skip
    elif mean > 2 * se:
        yield Finding("floor", "ok", ("density",), text, details=details)
    else:
        yield Finding("floor", "note", ("density",), f"{text}: no clear gain", details=details)


def rival(evidence: Evidence) -> Iterator[Finding]:
    """The gain of a network over a mixture of the same rows: where there is none, it is cheaper.

    A network of few rows may end behind the mixture that it could have been.
    """
    if evidence.fit_rival is None or evidence.known is None or evidence.in_sample:
        return
    assert evidence.seen is not None
    gain = _gain(evidence.seen.log_p, evidence.rival)
    if len(gain) < 2:
        return
    mean, se = float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))
    text = f"{mean:+.2f} ± {se:.2f} nats a row over a Gaussian mixture (fitted to train)"
    details = {"gain": mean, "se": se}
    if mean >= -se:
        yield Finding("mixture", "ok", ("density",), text, details=details)
        return
    yield Finding(
        "mixture", "note", ("density",), f"{text}: the mixture is the better density",
        "use GaussianMixture, fit more rows, or regularise more (noise, weight_decay, dropout, "
        "validation=0.2)", details,
    )  # fmt: skip


def gap(evidence: Evidence) -> Iterator[Finding]:
    """Log density on the fitted rows against that on others.

    Fails where more than half of what the model gains over independent columns on the
    fitted rows is lost on others: it has learned the rows and not their source.
    """
    seen, known = evidence.seen, evidence.known
    assert seen is not None
    name = "train against table"
    if np.isnan(seen.log_p).all():
        return
    if evidence.in_sample:
        yield Finding(
            name, "unknown", ("density",), "in sample: the table is the one that was fitted, so "
            "that overfitting cannot show",
            "keep rows apart, fit the others, and pass check(held_out, train=the others)",
        )  # fmt: skip
        return
    if known is None:
        yield Finding(
            name, "note", ("density",), "the fitted rows were not passed, so overfitting shows "
            "only against the floor", "pass check(held_out, train=the fitted rows)",
        )  # fmt: skip
        return
    parts = [_finite(rows.log_p) for rows in (known, seen)]
    if min(len(part) for part in parts) < 2:
        return
    lost = float(parts[0].mean() - parts[1].mean())
    se = float(np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)))
    text = f"{parts[0].mean():.2f} nats a row on train, {parts[1].mean():.2f} on table"
    details = {"gap": lost, "se": se}
    if lost <= max(3 * se, SEEN):
        yield Finding(
            name, "ok", ("density",), f"{text} (gap {lost:.2f} ± {se:.2f})", details=details
        )
        return
    text = f"{text}: {lost:.2f} ± {se:.2f} worse on rows it did not see"
    do = (
        "fit fewer parameters or stronger priors, or stop early (validation=0.2), and see whether "
    )
    do += "the table's value rises"
    if lost > LARGE and evidence.fit_floor is not None:
        before = float(_gain(known.log_p, evidence.floor_of_known).mean())
        after = float(_gain(seen.log_p, evidence.floor[0]).mean())
        details |= {"gain_on_train": before, "gain_on_table": after}
        if before > 0 and after < before / 2:
            yield Finding(
                name, "fail", ("density",),
                f"{text}; of {before:.2f} nats over independent columns {max(after, 0):.2f} are "
                "left: overfitted, or the table comes from elsewhere", do, details,
            )  # fmt: skip
            return
    yield Finding(name, "note", ("density",), text, do, details)


def _gain(log_p: Floats, floor: Floats) -> Floats:
    both = np.isfinite(log_p) & np.isfinite(floor)
    return log_p[both] - floor[both]


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]
