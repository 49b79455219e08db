"""Whether a fit converged, tested by going on, and whether its restarts agree."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from probgen import queries
from probgen.batch import Batch
from probgen.diagnostics.checks.evidence import BOTH, Evidence
from probgen.diagnostics.posterior import Fitted, posterior
from probgen.diagnostics.report import Finding
from probgen.errors import FitError
from probgen.family import Family
from probgen.fitting import fit
from probgen.queries import Predictive
from probgen.session import spawn_seeds
from probgen.table import encode
from probgen.training import FitResult, Training

__all__ = ["convergence", "restarts", "trained_on"]

#: epochs that a copy is trained on for, fewer where cells times epochs are more than `CELLS`
MORE, FEWEST, CELLS = 10, 3, 1_000_000
#: fall of the loss, nats a row, from which a fit is not converged, whatever its tolerance: with
#: ten epochs it says so of no fit by default settings, and of every fit that held-out rows
#: show to be far from its end (benchmarks/early_stopping.py)
FALL = 0.05
#: mean log density of restarts, nats a row
SPREAD = 0.1
#: difference of posterior means, in posterior standard deviations
APART = 1.0


def convergence(evidence: Evidence) -> Iterator[Finding]:
    """What the fit says of itself; and, given its rows, whether its loss still falls."""
    model = evidence.model
    bad = [i for i, result in enumerate(model.results_) if not result.converged]
    reasons = "; ".join(sorted({result.reason for result in model.results_}))
    several = len(model.results_) > 1
    if bad:
        which = f"restart(s) {bad} of {len(model.results_)}" if several else "the fit"
        yield Finding(
            "convergence", "fail", BOTH, f"{which} stopped before converging ({reasons})",
            "fit with a larger max_epochs",
        )  # fmt: skip
        return
    text = f"{f'{len(model.results_)} restarts' if several else 'the fit'} converged ({reasons})"
    falls = _falls(evidence)
    if not falls:
        yield Finding("convergence", "ok", BOTH, text)
        return
    worst, noise = max(falls)
    details = {"fall": [fall for fall, _ in falls], "noise": [own for _, own in falls]}
    if worst > FALL + noise:
        yield Finding(
            "convergence", "fail", BOTH,
            f"{text}, but a copy that is trained on gains {worst:.3f} ± {noise:.3f} nats a row",
            "fit with a smaller tolerance, a larger patience, or another learning_rate", details,
        )  # fmt: skip
    else:
        yield Finding(
            "convergence", "ok", BOTH, f"{text}; trained on, it gains {worst:.3f} nats a row",
            details=details,
        )  # fmt: skip


def _falls(evidence: Evidence) -> list[tuple[float, float]]:
    """(fall of the loss, its noise) of each member that can be trained on, nats a row."""
    if evidence.known is None or not evidence.whole:
        return []  # another table has another optimum
    batch = _as_trained(evidence)
    if batch is None:
        return []
    found = []
    epochs = int(np.clip(CELLS // max(batch.seen.numel(), 1), FEWEST, MORE))
    for member, result in zip(evidence.model.members_, evidence.model.results_, strict=True):
        # early stopping ends while the loss of the training rows still falls
        if result.validation or member.objectives() or not member.trained:
            continue
        fall = _fall(member, batch, result, epochs)
        if fall is not None:
            found.append(fall)
    return found


def _as_trained(evidence: Evidence) -> Batch | None:
    """The fitted rows as training saw them: rounded columns spread over their cells."""
    model, known = evidence.model, evidence.known
    assert known is not None
    if not getattr(model, "dequantise", False) or not any(c.grid for c in evidence.schema.columns):
        return known.batch
    seed = getattr(model, "seed_", None)
    if seed is None:  # a loaded model: another spread has another optimum
        return None
    jitter = np.random.default_rng(spawn_seeds(seed, 3)[0])
    return model._batch(encode(known.frame, evidence.schema, jitter=jitter), model._device)


def _fall(
    member: Family, batch: Batch, result: FitResult, epochs: int
) -> tuple[float, float] | None:
    """By how much the loss falls, all rows scored before and after with the same noise."""
    try:
        losses = trained_on(member, batch, result, epochs)
    except FitError:
        return None
    if member.updates:
        return losses[0] - losses[-1], 0.0
    last = np.array(losses[1 + len(losses) // 2 :])
    # the noise of a stochastic step beside that of the score, which cancels
    return losses[0] - float(last.mean()), float(3 * last.std(ddof=1)) if len(last) > 1 else 0.0


def trained_on(member: Family, batch: Batch, result: FitResult, epochs: int) -> list[float]:
    """Loss of all rows before the first and after each more epoch of a copy, nats a row."""
    training = Training(
        max_epochs=epochs, patience=epochs + 1, tolerance=0.0, schedule="constant",
        random_state=0, batch_size=result.batch_size or None, device=result.device,
        learning_rate=result.learning_rate or 1e-3, compile=False, precision=_precision(member),
    )  # fmt: skip
    after = _scores(member, batch, training)
    # the loss of an update is that before its step
    return after if member.updates else [*_scores(member, batch, training, still=True), *after]


def _precision(member: Family) -> Literal["float32", "float64"]:
    kinds = {p.dtype for p in member.parameters()}
    return "float64" if torch.float64 in kinds else "float32"


def _scores(member: Family, batch: Batch, training: Training, still: bool = False) -> list[float]:
    """Loss of all rows after each epoch, by the loop's own held-out score."""
    own = copy.deepcopy(member)
    if still:
        training = replace(training, max_epochs=1, learning_rate=1e-300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if own.updates:
            return fit(own, batch, training, start=False, finish=False, warn=False).losses
        how = {"start": False, "finish": False, "warn": False}
        return fit(own, batch, training, batch, **how).validation  # type: ignore[arg-type]


# --- restarts ---------------------------------------------------------------------------------


def restarts(evidence: Evidence) -> Iterator[Finding]:
    """Agreement of restarts by their density, and by their globals after relabelling."""
    model, seen = evidence.model, evidence.seen
    if len(model.members_) < 2:
        yield Finding(
            "restarts", "note", ("density",), "one restart: nothing says that another agrees",
            "fit with restarts=4",
        )  # fmt: skip
        return
    if seen is None or np.isnan(seen.log_p).all():
        return
    predictive = model._predictive()
    singles = [
        queries.log_prob(Predictive([m], [d], predictive.integrated), seen.batch).value
        for m, d in zip(predictive.members, predictive.draws, strict=True)
    ]
    means = torch.stack(singles).double().mean(1).cpu().numpy()
    spread = float(np.ptp(means))
    apart, where = _apart(model)
    text = f"mean log density on table differs by {spread:.3f} nats a row between restarts"
    details = {"mean_log_prob": means.tolist(), "apart": apart}
    if spread > SPREAD:
        yield Finding(
            "restarts", "note", BOTH, f"{text}: they found different modes",
            "the density averages them; a larger starts= may bring them together", details,
        )  # fmt: skip
    elif apart > APART:
        yield Finding(
            "restarts", "note", ("intervals",),
            f"{text}, but their posteriors lie {apart:.1f} standard deviations apart at {where}",
            "intervals of densities can be used; those of single parameters only where restarts "
            "agree: fit longer, or a larger starts=", details,
        )  # fmt: skip
    else:
        yield Finding("restarts", "ok", ("density",), text, details=details)


def _apart(model: Fitted) -> tuple[float, str]:
    """Largest distance between posterior means of restarts in posterior sds, and its site."""
    worst, where = 0.0, ""
    chains = posterior(model).draws
    for site in chains[0]:
        if len({draws[site].shape for draws in chains}) > 1 or len(chains[0][site]) < 2:
            continue
        values = torch.stack([draws[site] for draws in chains]).double().cpu().flatten(2)
        sd = values.var(1).mean(0).sqrt()
        span = values.mean(1).amax(0) - values.mean(1).amin(0)
        size = _sizes(span.numpy(), sd.numpy())
        if size.size and size.max() > worst:
            worst, where = float(size.max()), site
    return worst, where


def _sizes(span: NDArray[np.float64], sd: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(sd > 0, span / np.where(sd > 0, sd, 1.0), 0.0)
