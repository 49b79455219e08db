"""Leave-one-out: the log density of each row under the model of all others, without refitting.

At draws t of the posterior of all rows, the posterior without row i is reached by importance
weights 1 / p(x_i | t); where the draws are a guide's, not the posterior's, the weights are
p(rows, t) / (q(t) p(x_i | t)). The largest are smoothed, and their Pareto shape says where
this cannot be trusted. The model is an equal mixture of its restarts, and each restart leaves
the row out for itself: densities are averaged, never their logarithms.

References
----------
Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using leave-one-out
cross-validation and WAIC, Statistics and Computing 27. Magnusson, Andersen, Jonasson and
Vehtari (2019), Bayesian leave-one-out cross-validation for large data, ICML: guides.
Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling, JMLR 25.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from probgen import queries
from probgen.batch import Batch
from probgen.diagnostics.chains import effective_size
from probgen.diagnostics.loo import Loo
from probgen.diagnostics.posterior import (
    Fitted,
    Kind,
    guide_log_p_q,
    held_fixed,
    kind,
    posterior,
)
from probgen.errors import SchemaError, message
from probgen.family import Draws
from probgen.queries import Predictive
from probgen.queries.draws import log_mean_exp
from probgen.queries.pareto import smoothed
from probgen.table import Encoded

__all__ = ["leave_one_out", "summed"]

Floats = NDArray[np.float64]
#: draws of a guide, which cost little: the tail of the weights then holds 95 of them
DRAWS = 1000
#: numbers held at once: rows times draws, 800 MB
MOST = 100_000_000
HOW = {
    "guide": "PSIS-LOO corrected for the guide",
    "sampler": "PSIS-LOO on the draws of the model's own Markov chain",
    "nuts": "PSIS-LOO on NUTS draws",
}


def summed(
    rows: pd.DataFrame, fitted: Floats, weight: Floats, method: str, notes: tuple[str, ...] = ()
) -> Loo:
    """The sum of rows, whose log density under the model that saw them is `fitted` (n,)."""
    value = rows["elpd"].to_numpy()
    total = float(weight.sum())
    centre = float((weight * value).sum() / total) if total else 0.0
    with np.errstate(invalid="ignore"):
        spread = float((weight * (value - centre) ** 2).sum()) / max(total - 1, 1)
        p = float((weight * (fitted - value)).sum())
    return Loo(total * centre, math.sqrt(total * spread), p, rows, method, notes)


def leave_one_out(
    model: Fitted, encoded: Encoded, weight: Floats | None, draws: int | None
) -> tuple[pd.DataFrame, Floats, str, tuple[str, ...]]:
    """Rows (elpd, khat, se), log densities of the fitted rows, method and notes; see `loo`.

    Cost is that of scoring the rows at each draw.
    """
    source = kind(model)
    batch = model._batch(encoded, model._device)
    if weight is not None:
        batch = Batch.of(
            batch.x, batch.seen, torch.from_numpy(weight).to(batch.seen.device),  # type: ignore[arg-type]
            context=batch.context,
        )  # fmt: skip
    predictive = _drawn(model, source, batch, draws)
    if len(predictive) * len(batch) > MOST:
        raise SchemaError(message(
            f"{len(batch)} rows at {len(predictive)} draws", f"at most {MOST:,} numbers",
            f"pass draws={max(MOST // max(len(batch), 1) // len(predictive.members), 2)}, "
            "or use method='folds'",
        ))  # fmt: skip
    with torch.no_grad():
        shift = model.schema_.log_det(queries.encoded(batch), batch.seen)
        value = queries.log_prob_draws(predictive, batch).double() + shift
    value[:, torch.from_numpy(encoded.illegal).to(value.device)] = -math.inf
    parts = [_part(*block, batch, source) for block in _blocks(predictive, value, source)]
    elpd, se, khat = _joined(parts)
    rows = pd.DataFrame(
        {"elpd": elpd, "khat": khat, "se": se}, index=encoded.index
    ).assign(method="psis")  # fmt: skip
    rows.loc[encoded.illegal, ["khat", "se"]] = math.nan, 0.0
    fitted = log_mean_exp(value, 0).cpu().numpy()
    each = len(predictive) // len(predictive.members)
    method = f"{HOW[source]} ({each} draws{_times(len(predictive.members))})"
    return rows, fitted, method, _notes(predictive, batch)


def _times(members: int) -> str:
    return f" of each of {members} restarts" if members > 1 else ""


def _drawn(model: Fitted, source: Kind, batch: Batch, draws: int | None) -> Predictive:
    """The draws that are weighted: the stored ones of a chain, or many of a guide."""
    stored = posterior(model)
    if source != "guide":
        return stored
    if draws is None:  # a density that is estimated at each draw costs hundreds of runs at each
        few = queries.estimate_draws(stored, batch.take(slice(0, 8)))[1]
        draws = model.draws if bool((few > 0).any()) else max(DRAWS, model.draws)
    found: list[Draws] = [
        queries.draw_globals(member, draws, seed=result.seed)
        for member, result in zip(model.members_, model.results_, strict=True)
    ]
    return Predictive(model.members_, found, companion=stored.companion)


def _blocks(
    predictive: Predictive, value: Tensor, source: Kind
) -> list[tuple[Predictive, Tensor, int]]:
    """What is weighted together, with its number of chains: restarts, or chains of one target."""
    count = len(predictive.members)
    if source == "nuts":
        return [(predictive, value, count)]
    parts = value.chunk(count)
    return [(predictive.of(r), part, 1) for r, part in enumerate(parts)]


def _part(
    predictive: Predictive, value: Tensor, chains: int, batch: Batch, source: Kind
) -> tuple[Tensor, Tensor, Tensor]:
    """Log density of each row without it, its error and Pareto shape, (n,) each."""
    impossible = value.isneginf()
    known = value.masked_fill(impossible, 0.0)
    log_weights = -known
    size = torch.ones(value.shape[1], dtype=torch.float64, device=value.device)
    if source == "guide":
        log_p, log_q = guide_log_p_q(predictive.members[0], predictive.draws[0], batch, known)
        log_weights = log_weights + (log_p - log_q)[:, None]
        # the posterior of the other rows has no mass where one of them is impossible; rows that
        # are so at every draw are outside of the support, and tell nothing of the draws
        some = (impossible & ~impossible.all(0) & (batch.weight > 0)).double()
        others = some.sum(1, keepdim=True) - some
        log_weights = log_weights.masked_fill(others > 0.5, -math.inf)
        nowhere = log_weights.isneginf().all(0)
        log_weights = log_weights.masked_fill(nowhere, 0.0)
    else:
        size = _efficiency(value, chains)
    weights, khat = smoothed(log_weights, float(size.mean()))
    if source == "guide":
        khat = khat.masked_fill(nowhere, math.inf)  # no draw stands for the posterior
    elpd = torch.logsumexp(weights + value, 0)
    gap = torch.where(elpd.isinf(), torch.zeros_like(value), torch.expm1(value - elpd))
    error = ((weights.exp() * gap).square().sum(0) / size).sqrt()
    return elpd, error, khat


def _efficiency(value: Tensor, chains: int) -> Tensor:
    """Independent draws that one draw is worth for the density of each row (n,), at most 1."""
    each = len(value) // chains
    if each < 8:
        return value.new_ones(value.shape[1])
    density = (value - value.amax(0)).exp().nan_to_num(0.0)
    size = effective_size(density.cpu().numpy().reshape(chains, each, -1)) / len(value)
    return torch.from_numpy(np.nan_to_num(size, nan=1.0).clip(1e-3, 1.0)).to(value.device)


def _joined(parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Floats, Floats, Floats]:
    """The equal mixture of the restarts: value, error, and the worst shape."""
    elpd, error, khat = (torch.stack(values) for values in zip(*parts, strict=True))
    value = log_mean_exp(elpd, 0)
    peak = torch.where(value.isinf(), torch.zeros_like(value), value)
    share = (elpd - peak).exp() / len(parts)
    se = (share * error).square().sum(0).sqrt()
    return value.cpu().numpy(), se.cpu().numpy(), khat.amax(0).double().cpu().numpy()


def _notes(predictive: Predictive, batch: Batch) -> tuple[str, ...]:
    fixed = held_fixed(predictive.members[0], predictive.draws[0], batch)
    if not fixed:
        return ()
    return (
        f"{fixed} learned number(s) have no posterior: they stay as the fit of all rows left "
        "them, so elpd is too high; method='folds' refits them",
    )
