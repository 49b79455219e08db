"""Three rows that a saved model carries with their scores, to be checked again on loading."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from probgen import queries
from probgen.batch import Batch
from probgen.density import Density
from probgen.errors import ModelFileError, NotSupported, message
from probgen.pairs.view import dummy_batch
from probgen.plain import decode, encode
from probgen.queries import Predictive
from probgen.queries.hidden import scores_whole_rows

__all__ = ["difference", "self_test"]


def self_test(estimator: Density) -> dict[str, Any] | None:
    """Three encoded rows drawn from the model, one with holes, and their scores."""
    family, m = estimator._traits, len(estimator.schema_.slots)
    if family.density == "none":
        return None
    hidden = _rows(estimator, torch.zeros(3, m), torch.zeros(3, m, dtype=torch.bool))
    x = torch.from_numpy(estimator._draw(hidden, torch.Generator().manual_seed(0)))
    seen = torch.ones(3, m, dtype=torch.bool)
    # hidden cells that a companion proposes would take a fit of one on saving and on loading
    if not scores_whole_rows(family) and m > 1:
        seen[2, ::2] = False
    whole, x = x.double(), torch.where(seen, x.double(), 0.0)
    try:
        scores = _scores(estimator, x, seen)
    except NotSupported:  # no way to score rows with these holes
        x, seen = whole, torch.ones_like(seen)
        scores = _scores(estimator, x, seen)
    if any(math.isnan(value) for values in scores.values() for value in values):
        raise ModelFileError(message(
            "a model that scores its own rows as NaN", "finite scores", "fit again"
        ))  # fmt: skip
    return {"x": x.tolist(), "seen": seen.tolist(), "scores": encode(scores, "scores")}


def _rows(estimator: Density, x: Tensor, seen: Tensor) -> Batch:
    """Encoded rows as a batch where the model is."""
    device = estimator._device
    context = dummy_batch(estimator.schema_, len(x)).context
    context = None if context is None else context.to(device)
    return Batch.of(x.double().to(device), seen.to(device), context=context)


def _scores(estimator: Density, x: Tensor, seen: Tensor) -> dict[str, list[float]]:
    """Log densities of encoded rows, nats: of the predictive, and by draws that are kept."""
    batch = _rows(estimator, x, seen)
    ways = {"predictive": estimator._predictive()}
    # draws that the members keep are part of the file; others follow from the seed
    kept = [m.draw_globals(estimator.draws, torch.Generator()) for m in estimator.members_]
    if all(kept):
        ways["draws"] = Predictive(estimator.members_, [d or {} for d in kept], integrated=False)
    with torch.no_grad():
        shift = estimator.schema_.log_det(x.to(batch.seen.device), batch.seen)
        found = {name: queries.log_prob(way, batch).value for name, way in ways.items()}
    return {name: (value.double() + shift).cpu().tolist() for name, value in found.items()}


def difference(estimator: Density, test: dict[str, Any] | None) -> float:
    """The largest relative difference of the scores from the stored ones."""
    if test is None and estimator.family.density == "none":
        return 0.0
    if test is None:
        raise ValueError("no self-test")
    x = torch.tensor(test["x"], dtype=torch.float64).reshape(3, len(estimator.schema_.slots))
    seen = torch.tensor(test["seen"], dtype=torch.bool).reshape(x.shape)
    stored, now = decode(test["scores"]), _scores(estimator, x, seen)
    if stored.keys() != now.keys() or any(len(values) != 3 for values in stored.values()):
        raise ValueError(f"scores {sorted(stored)} for {sorted(now)}")
    pairs = [pair for name in now for pair in zip(now[name], stored[name], strict=True)]
    # not <: a NaN on either side is as far off as can be
    gaps = [0.0 if a == b else abs(a - b) / max(1.0, abs(b)) for a, b in pairs]
    return max(gap if gap < math.inf else math.inf for gap in gaps)
