"""Whether posterior draws can be used: where they come from, k-hat of the guide, mixing."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from probgen import queries
from probgen.diagnostics.chains import effective_size, split_rhat
from probgen.diagnostics.checks.evidence import ROWS, Evidence, Scored
from probgen.diagnostics.checks.latents import labels
from probgen.diagnostics.posterior import Fitted, guide_khat, khat_limit, kind, posterior
from probgen.diagnostics.report import Finding

__all__ = ["intervals"]

#: rows whose log density is followed through the draws
FOLLOWED = 200
#: effective draws for the ends of a 90 % interval: 5 % of them beyond each end
ENOUGH = 50
#: least purity of a component, below which intervals are too narrow (benchmarks/
#: interval_coverage.py: of fits to fixed truths, those above it cover 0.72 to 0.79 at 0.80, and
#: those below down to 0.44, whether the draws are a guide's or a chain's)
PURE = 0.95
#: draws of the guide for its k-hat, and numbers (draws * rows) up to which they are taken
DRAWS, MOST = 1000, 500_000


def intervals(evidence: Evidence) -> Iterator[Finding]:
    """Findings about the posterior."""
    model, rows = evidence.model, evidence.known or evidence.seen
    source = kind(model)
    if source == "none":
        yield Finding(
            "posterior", "fail", ("intervals",), "a point estimate: there is no posterior",
            "use held-out scores, or restarts for an impression",
        )  # fmt: skip
    elif source == "guide":
        yield from _guide(evidence, rows)
    elif source == "parts":
        yield Finding(
            "posterior", "unknown", ("intervals",),
            f"{len(posterior(model))} draws of each part from its own posterior, with weights "
            "that are taken as known",
            "check each part on its own, parts_[name].check(...)" if hasattr(model, "parts_")
            else "check one restart on its own: fit with restarts=1",
        )  # fmt: skip
    else:
        nuts = " of NUTS" if model.results_[0].engine == "nuts" else ""
        yield Finding(
            "posterior", "ok", ("intervals",),
            f"{len(posterior(model))} draws of a Markov chain{nuts} started at the variational "
            "optimum; they describe the mode that the fit found",
        )  # fmt: skip
        if rows is not None and len(rows):
            yield _mixing(model, rows)
    if source != "none" and rows is not None and len(rows):
        yield from _overlap(model, rows)


def _guide(evidence: Evidence, rows: Scored | None) -> Iterator[Finding]:
    model = evidence.model
    text = f"{len(posterior(model))} independent draws of the variational guide"
    yield Finding("posterior", "note", ("intervals",), text)
    name = "k-hat of the guide"
    if evidence.known is None:
        yield Finding(
            name, "unknown", ("intervals",), "needs the rows of the fit",
            "pass check(table, train=the fitted rows)",
        )  # fmt: skip
        return
    if not evidence.whole:  # other rows have another posterior
        yield Finding(
            name, "unknown", ("intervals",),
            f"not computed beyond {ROWS:,} rows, for weighted rows, or for another table than "
            "the fitted one", "pass the fitted rows as train",
        )  # fmt: skip
        return
    draws = max(model.draws, min(DRAWS, MOST // max(len(evidence.known), 1)))
    each = guide_khat(model, evidence.known.batch, draws)
    worst, limit = float(each.max()), khat_limit(draws)
    good = worst <= limit
    yield Finding(
        name, "ok" if good else "fail", ("intervals",),
        f"{worst:.2f} of {draws} draws (up to {limit:.2f} they stand for the posterior)"
        + ("" if good else ": the guide is too narrow or of the wrong shape"),
        "" if good else _richer(model), {"khat": each.tolist(), "limit": limit},
    )  # fmt: skip


def _richer(model: Fitted) -> str:
    """What gives better draws than the guide did."""
    if hasattr(model, "posterior"):
        return "fit with posterior='gibbs', or trust the density only"
    if getattr(model, "functions", ()):
        return (
            'guide="multivariate"; if that fails too guide="flow", then '
            'fit(..., inference="nuts"); or trust the density only'
        )
    return "a richer guide, a longer fit, or trust the density only"


def _overlap(model: Fitted, rows: Scored) -> Iterator[Finding]:
    """Whether components whose labels mean nothing share their rows.

    The purity of a component is the mean of the probability that its rows are its own,
    sum_n p_nc^2 / sum_n p_nc. Where it is low, the posterior leans to fewer components than
    made the rows, and intervals are too narrow for that truth, whatever draws them.
    """
    if not model.members_[0].interchangeable():
        return
    for name, p in labels(model, rows).items():
        if p.shape[1] < 2:
            continue
        held = p.sum(0)
        purity = (p**2).sum(0) / np.maximum(held, 1e-300)
        worst = int(purity.argmin())
        text = (
            f"least purity {purity[worst]:.2f}: {name} {worst} holds {held[worst]:.1f} of "
            f"{len(rows)} rows"
        )
        details = {"purity": purity.tolist(), "rows": held.tolist()}
        if purity[worst] >= PURE:
            yield Finding(f"overlap of {name}s", "ok", ("intervals",), text, details=details)
        else:
            yield Finding(
                f"overlap of {name}s", "fail", ("intervals",),
                f"{text}, and shares them (below {PURE}): intervals are too narrow where "
                f"{name}s overlap or are emptied",
                f"fit fewer {name}s (select() chooses them), or trust the density only", details,
            )  # fmt: skip


def _mixing(model: Fitted, rows: Scored) -> Finding:
    """R-hat and effective size of the log density of single rows: it needs no labels."""
    predictive = posterior(model)
    chains = len(predictive.members)
    some = rows.batch.take(slice(0, FOLLOWED))
    values = queries.log_prob_draws(predictive, some).double().cpu().numpy()
    values = values.reshape(chains, -1, values.shape[1])
    name = "mixing of the chain"
    if values.shape[1] < 8:
        return Finding(
            name, "unknown", ("intervals",), f"{values.shape[1]} draws",
            "fit with draws=100 or more",
        )  # fmt: skip
    size = float(np.nanmedian(effective_size(values)))
    rhat = float(np.nanmedian(split_rhat(values)))
    text = f"log density of a row: median effective size {size:.0f}, median R-hat {rhat:.2f}"
    details = {"effective_size": size, "rhat": rhat}
    if size >= ENOUGH and rhat <= 1.05:
        return Finding(name, "ok", ("intervals",), text, details=details)
    short = 1.5 * ENOUGH / size if size > 0 else 10.0
    more = max(1000, math.ceil(values.shape[1] * max(short, 2.0) / 1000) * 1000)
    return Finding(name, "fail", ("intervals",), text, f"fit with draws={more} or more", details)
