"""Can a fit be believed? Two verdicts, fit for density and fit for intervals, with reasons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probgen import queries
from probgen.batch import Batch
from probgen.diagnostics.chains import effective_size, split_rhat
from probgen.diagnostics.posterior import Fitted, guide_khat, kind, posterior
from probgen.diagnostics.report import Finding, Report
from probgen.queries import Predictive
from probgen.schema import Schema
from probgen.table import encode, to_frame

__all__ = ["check", "known_rows"]

Floats = NDArray[np.float64]

#: rows that are looked at, at most
ROWS = 10_000
#: rows whose log density is followed through the draws
FOLLOWED = 200
#: effective draws for the ends of a 90 % interval: 5 % of them beyond each end
ENOUGH = 50
#: Vehtari et al. (2024)
BAD_KHAT = 0.7
BOTH = ("density", "intervals")
#: of the model of independent columns, where the fitted rows are not known
FOLDS = 5

Floor = Callable[[pd.DataFrame], Fitted]


def check(
    model: Fitted, table: Any = None, train: Any = None, fit_floor: Floor | None = None
) -> Report:
    """Findings about a fitted model.

    Parameters
    ----------
    model : Density
        A fitted model.
    table : data frame, optional
        Rows to judge the density by; rows that the fit did not see say most.
    train : data frame, optional
        The rows that the model was fitted to.
    fit_floor : callable, optional
        Fits a model of independent columns that shares the schema to given rows.

    Returns
    -------
    Report
        Of tables of more than 10,000 rows, 10,000 random ones are looked at.
    """
    findings = [_convergence(model)]
    seen = None if table is None else _score(model, _some(to_frame(table, model.schema_.names)))
    known = None if train is None else _score(model, _some(to_frame(train, model.schema_.names)))
    rows = known or seen
    if seen is None:
        findings.append(Finding(
            "floor", "unknown", ("density",), "not compared with independent columns",
            "pass check(table) rows that the fit did not see",
        ))  # fmt: skip
    else:
        findings += _support(seen)
        findings.append(_floor(model, seen, fit_floor, train))
        findings += _gap(seen, known)
        findings += _restarts(model, seen)
    findings += _components(model, rows)
    findings += _posterior(model, rows, known)
    return Report(tuple(findings))


class _Scored:
    """Rows, and their log density under a model."""

    def __init__(self, frame: pd.DataFrame, batch: Batch, log_p: Floats, khat: Floats) -> None:
        self.frame, self.batch, self.log_p, self.khat = frame, batch, log_p, khat

    def __len__(self) -> int:
        return len(self.frame)


def _some(frame: pd.DataFrame) -> pd.DataFrame:
    return frame if len(frame) <= ROWS else frame.sample(ROWS, random_state=0)


def _score(model: Fitted, frame: pd.DataFrame) -> _Scored:
    encoded = encode(frame, model.schema_, unseen="rare")
    batch = model._batch(encoded, model._device)
    with torch.no_grad():
        estimate = queries.log_prob(model._predictive(), batch)
        shift = model.schema_.log_det(batch.x, batch.seen)  # type: ignore[arg-type]
    log_p = (estimate.value.double() + shift).cpu().numpy()
    log_p[encoded.illegal] = -np.inf
    return _Scored(frame, batch, log_p, estimate.khat.double().cpu().numpy())


def known_rows(schema: Schema, table: Any) -> pd.DataFrame:
    """The rows that a second model with this schema can be fitted to, 10,000 at most."""
    frame = _some(to_frame(table, schema.names))
    keep = ~encode(frame, schema, unseen="rare").illegal
    for column in schema.columns:
        if column.labelled and column.name in frame.columns:
            cells = frame[column.name]
            keep &= (cells.isna() | cells.isin(list(column.levels or ()))).to_numpy()
    return frame[keep]


# --- the density ------------------------------------------------------------------------------


def _convergence(model: Fitted) -> Finding:
    bad = [i for i, result in enumerate(model.results_) if not result.converged]
    reasons = sorted({result.reason for result in model.results_})
    many = f"{len(model.results_)} restarts" if len(model.results_) > 1 else "the fit"
    if not bad:
        text = f"{many} converged ({'; '.join(reasons)})"
        return Finding("convergence", "ok", BOTH, text)
    which = f"restart(s) {bad} of {len(model.results_)}" if len(model.results_) > 1 else "the fit"
    return Finding(
        "convergence", "fail", BOTH, f"{which} stopped before converging ({'; '.join(reasons)})",
        "fit with a larger max_epochs",
    )  # fmt: skip


def _support(seen: _Scored) -> Iterator[Finding]:
    impossible, bad = np.isinf(seen.log_p), seen.khat > BAD_KHAT
    if impossible.any():
        yield Finding(
            "support", "fail", ("density",),
            f"{int(impossible.sum())} of {len(seen)} rows have density 0",
            "see schema_.describe(); widen the kinds or bounds, or correct the rows",
        )  # fmt: skip
    if bad.any():
        yield Finding(
            "importance weights", "fail" if bad.mean() > 0.05 else "note", ("density",),
            f"k-hat above {BAD_KHAT} in {bad.mean():.1%} of the rows: their density is uncertain",
            "look at log_prob(table, details=True)",
        )  # fmt: skip


def _floor(model: Fitted, seen: _Scored, fit_floor: Floor | None, train: Any) -> Finding:
    """The gain over independent columns, on rows that these were not fitted to."""
    if fit_floor is None:
        return Finding("floor", "unknown", ("density",), "no independent columns to compare with")
    if train is not None:
        floor, how = _floor_of_train(model, seen, fit_floor, train), "fitted to train"
    else:
        floor, how = _crossfitted(model, seen, fit_floor), f"{FOLDS}-fold on table"
    both = np.isfinite(seen.log_p) & np.isfinite(floor)
    gain = seen.log_p[both] - floor[both]
    if len(gain) < 2:
        return Finding("floor", "unknown", ("density",), "too few rows to compare", "pass more")
    mean, se = float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))
    text = f"{mean:+.2f} ± {se:.2f} nats a row over independent columns ({how})"
    if mean > 2 * se and train is None:  # only the columns were scored on rows they had not seen
        return Finding(
            "floor", "note", ("density",), f"{text}; overstated if the fit saw these rows",
            "pass check(held_out, train=the fitted rows)",
        )  # fmt: skip
    if mean > 2 * se:
        return Finding("floor", "ok", ("density",), text)
    if mean >= -2 * se:
        return Finding("floor", "note", ("density",), f"{text}: no clear gain")
    return Finding("floor", "fail", ("density",), text, "fit fewer components, or Independent")


def _floor_of_train(model: Fitted, seen: _Scored, fit_floor: Floor, train: Any) -> Floats:
    known = known_rows(model.schema_, train)
    if len(known) < 2:
        return np.full(len(seen), np.nan)
    return _score(fit_floor(known), seen.frame).log_p


def _crossfitted(model: Fitted, seen: _Scored, fit_floor: Floor) -> Floats:
    """Log density (n,) of each row under independent columns fitted to the other folds."""
    found = np.full(len(seen), np.nan)
    fold = np.random.default_rng(0).permutation(len(seen)) % FOLDS
    for number in range(FOLDS):
        rest = known_rows(model.schema_, seen.frame[fold != number])
        if len(rest) > 1 and (fold == number).any():
            held = seen.frame[fold == number]
            found[fold == number] = _score(fit_floor(rest), held).log_p
    return found


def _gap(seen: _Scored, known: _Scored | None) -> Iterator[Finding]:
    if known is None:
        return
    parts = [rows.log_p[np.isfinite(rows.log_p)] for rows in (known, seen)]
    if min(len(part) for part in parts) < 2:
        return
    gap = float(parts[0].mean() - parts[1].mean())
    se = float(np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)))
    text = f"{parts[0].mean():.2f} nats a row on train, {parts[1].mean():.2f} on table"
    if gap > max(3 * se, 0.1):
        yield Finding(
            "train against table", "note", ("density",),
            f"{text}: {gap:.2f} ± {se:.2f} worse on rows it did not see",
            "fit fewer components or stronger priors, and see whether the table's value rises",
        )  # fmt: skip
    else:
        yield Finding(
            "train against table", "ok", ("density",), f"{text} (gap {gap:.2f} ± {se:.2f})"
        )


def _restarts(model: Fitted, seen: _Scored) -> Iterator[Finding]:
    predictive = model._predictive()
    if len(model.members_) < 2:
        yield Finding(
            "restarts", "note", ("density",), "one restart: nothing says that another agrees",
            "fit with restarts=4",
        )  # fmt: skip
        return
    singles = [
        queries.log_prob(Predictive([m], [d], predictive.integrated), seen.batch).value
        for m, d in zip(predictive.members, predictive.draws, strict=True)
    ]
    means = torch.stack(singles).double().mean(1).cpu().numpy()
    spread = float(np.ptp(means))
    text = f"mean log density on table differs by {spread:.3f} nats a row between restarts"
    if spread <= 0.1:
        yield Finding("restarts", "ok", ("density",), text)
    else:
        yield Finding(
            "restarts", "note", BOTH, f"{text}: they found different modes",
            "the density averages them; a larger starts= may bring them together",
        )  # fmt: skip


def _components(model: Fitted, rows: _Scored | None) -> Iterator[Finding]:
    """Labels that the model sums out, and how many rows each of them holds."""
    if rows is None or not len(rows):
        return
    for name, share in _labels(model, rows).items():
        held = share.sum(0)
        empty = int((held < 1).sum())
        if empty and len(held) > 1:
            yield Finding(
                f"empty {name}s", "note", ("density",),
                f"{empty} of {len(held)} hold less than one of {len(rows)} rows",
                "harmless to the density, whose prior emptied them; fewer are faster",
            )  # fmt: skip
        elif len(held) > 1:
            yield Finding(
                f"empty {name}s", "ok", ("density",),
                f"none of {len(held)}: the smallest holds {held.min():.1f} of {len(rows)} rows",
            )  # fmt: skip


def _labels(model: Fitted, rows: _Scored) -> dict[str, Floats]:
    with torch.no_grad():
        found = model.members_[0].row_latents(rows.batch) or {}
    return {name: p.double().cpu().numpy() for name, p in found.items()}


# --- the posterior ----------------------------------------------------------------------------


def _posterior(model: Fitted, rows: _Scored | None, known: _Scored | None) -> Iterator[Finding]:
    source = kind(model)
    if source == "none":
        yield Finding(
            "posterior", "fail", ("intervals",), "a point estimate: there is no posterior",
            "use held-out scores, or restarts for an impression",
        )  # fmt: skip
    elif source == "guide":
        yield from _guide(model, rows, known)
    else:
        nuts = " of NUTS" if model.results_[0].engine == "nuts" else ""
        yield Finding(
            "posterior", "ok", ("intervals",),
            f"{len(posterior(model))} draws of a Markov chain{nuts} started at the variational "
            "optimum; they describe the mode that the fit found",
        )  # fmt: skip
        if rows is not None and len(rows):
            yield _mixing(model, rows)


def _guide(model: Fitted, rows: _Scored | None, known: _Scored | None) -> Iterator[Finding]:
    overlap = 0.0 if rows is None else _overlap(model, rows)
    text = f"{len(posterior(model))} independent draws of the variational guide"
    if overlap > 0.05:
        yield Finding(
            "posterior", "fail", ("intervals",),
            f"{text}; components overlap (a row's label has {overlap:.2f} nats of entropy), "
            "where mean-field intervals are too narrow",
            "fit with posterior='gibbs'",
        )  # fmt: skip
    else:
        yield Finding("posterior", "note", ("intervals",), text)
    if known is None:
        yield Finding(
            "k-hat of the guide", "unknown", ("intervals",), "needs the rows of the fit",
            "pass check(table, train=the fitted rows)",
        )  # fmt: skip
        return
    if len(known) >= ROWS:  # a part of the rows has another posterior
        yield Finding(
            "k-hat of the guide", "unknown", ("intervals",), "not computed beyond 10,000 rows"
        )
        return
    worst = float(guide_khat(model, known.batch).max())
    good = worst <= BAD_KHAT
    yield Finding(
        "k-hat of the guide", "ok" if good else "fail", ("intervals",),
        f"{worst:.2f} (up to {BAD_KHAT} its draws stand for the posterior)",
        "" if good else _richer(model),
    )  # fmt: skip


def _richer(model: Fitted) -> str:
    """What gives better draws than the guide did."""
    if hasattr(model, "posterior"):
        return "fit with posterior='gibbs', or trust the density only"
    return (
        "a richer guide (of a Pair: guide='multivariate', then 'flow'), a longer fit, or trust "
        "the density only"
    )


def _overlap(model: Fitted, rows: _Scored) -> float:
    """Mean entropy of a row's label, nats; 0 where there is none."""
    entropies = [
        float(-(p * np.log(np.maximum(p, 1e-300))).sum(1).mean())
        for p in _labels(model, rows).values()
        if len(p)
    ]
    return max(entropies, default=0.0)


def _mixing(model: Fitted, rows: _Scored) -> Finding:
    """R-hat and effective size of the log density of single rows: it needs no labels."""
    predictive = posterior(model)
    chains = len(predictive.members)
    some = rows.batch.take(slice(0, FOLLOWED))
    values = queries.log_prob_draws(predictive, some).double().cpu().numpy()
    values = values.reshape(chains, -1, values.shape[1])
    if values.shape[1] < 8:
        return Finding(
            "mixing of the chain", "unknown", ("intervals",), f"{values.shape[1]} draws",
            "fit with draws=100 or more",
        )  # fmt: skip
    size = float(np.nanmedian(effective_size(values)))
    rhat = float(np.nanmedian(split_rhat(values)))
    text = f"log density of a row: median effective size {size:.0f}, median R-hat {rhat:.2f}"
    if size >= ENOUGH and rhat <= 1.05:
        return Finding("mixing of the chain", "ok", ("intervals",), text)
    short = 1.5 * ENOUGH / size if size > 0 else 10.0
    more = max(1000, math.ceil(values.shape[1] * max(short, 2.0) / 1000) * 1000)
    return Finding(
        "mixing of the chain", "fail", ("intervals",), text, f"fit with draws={more} or more"
    )
