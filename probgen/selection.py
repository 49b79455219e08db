"""Choosing the number of components of a mixture in one call."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from sklearn.model_selection import KFold

from probgen.density import Density
from probgen.errors import NotSupported, SchemaError, message
from probgen.families.mixture import Mixture
from probgen.family import Family
from probgen.frames import to_frame
from probgen.schema import Schema
from probgen.table import encode

__all__ = ["Criterion", "Selection", "select_components"]

Criterion = Literal["heldout", "bic", "icl"]


@dataclass
class Selection:
    """What `GaussianMixture.select` found.

    Attributes
    ----------
    best : Density
        Fitted to the whole table with the chosen number of components.
    scores : data frame
        A row for each number of components: `score` (smaller is better, nats a row for
        "heldout", else the information criterion) and its standard error `se` (NaN for
        information criteria).
    """

    best: Density
    scores: pd.DataFrame


def select_components(
    estimator: Density,
    table: Any,
    components: Iterable[int],
    criterion: Criterion,
    folds: int,
) -> Selection:
    """Score each number of components, and fit the best; see `GaussianMixture.select`."""
    if not isinstance(components, Iterable):
        raise SchemaError(message(
            f"components={components!r}", "several numbers to try", "pass range(1, 11), say"
        ))  # fmt: skip
    candidates = sorted(set(components))
    if not candidates or criterion not in ("heldout", "bic", "icl"):
        raise SchemaError(message(
            f"components={candidates}, criterion={criterion!r}",
            "some numbers of components, and 'heldout', 'bic' or 'icl'", "correct the call",
        ))  # fmt: skip
    frame = to_frame(table)
    if criterion == "heldout" and not 2 <= folds <= len(frame):
        raise SchemaError(message(
            f"folds={folds} for {len(frame)} rows", "2 folds or more, and a row in each",
            "change folds",
        ))  # fmt: skip
    schema = estimator.schema or Schema.infer(
        frame, estimator.columns, dequantise=estimator.dequantise
    )
    base = clone(estimator).set_params(schema=schema, columns=None)
    rows, fits = {}, {}
    for k in candidates:
        own = clone(base).set_params(components=k)
        if criterion == "heldout":
            rows[k] = _held_out(own, frame, folds)
        else:
            fits[k] = own.fit(frame)
            rows[k] = {"score": _information(fits[k], frame, criterion), "se": math.nan}
    scores = pd.DataFrame(rows).T.rename_axis("components")
    best = int(scores["score"].idxmin())
    return Selection(fits.get(best) or clone(base).set_params(components=best).fit(frame), scores)


def _held_out(estimator: Density, frame: pd.DataFrame, folds: int) -> dict[str, float]:
    """Mean negative log density of rows that the fit did not see, and its standard error."""
    splits = KFold(folds, shuffle=True, random_state=0).split(frame)
    logs = np.concatenate([
        clone(estimator).fit(frame.iloc[train]).log_prob(frame.iloc[test], unseen="rare")
        for train, test in splits
    ])  # fmt: skip
    return {"score": float(-logs.mean()), "se": float(logs.std(ddof=1) / math.sqrt(len(logs)))}


def _information(estimator: Density, frame: pd.DataFrame, criterion: str) -> float:
    """BIC (Schwarz 1978), or ICL, which adds the entropy of the labels (Biernacki et al. 2000)."""
    family = estimator.members_[0]
    logs = estimator.log_prob(frame, posterior=False)
    value = -2 * float(logs.sum()) + free_parameters(family) * math.log(len(frame))
    if criterion == "icl":
        found = encode(frame, estimator.schema_)
        batch = estimator._batch(found, estimator._device)
        share = (family.row_latents(batch) or {})["component"]
        value -= 2 * float(torch.xlogy(share, share).sum())
    return value


def free_parameters(family: Family) -> int:
    """Free numbers of the components in use; of a leaf, the weights that hold a row or more.

    Counting all weights of a grid would charge a smooth count column a hundred parameters.
    """
    if not isinstance(family, Mixture):
        raise NotSupported(message(
            f"an information criterion of {type(family).__name__}", "a mixture",
            "use criterion='heldout'",
        ))  # fmt: skip
    k, d = family.components, len(family.rows.real)
    each = {"full": d * (d + 1) // 2, "diag": d, "spherical": min(d, 1)}
    shared = d * (d + 1) // 2 if family.covariance == "tied" else 0
    total = k - 1 + k * d + k * each.get(family.covariance, 0) + shared
    for _, leaf in family.rows.leaf_items():
        total += int(((leaf.counts >= 1).sum(1) - 1).clamp_min(0).sum())
    return total
