"""What every verb needs: the fitted density as tensors, and a few helpers."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from probgen import queries
from probgen.batch import Batch
from probgen.errors import ApproximationError, ApproximationWarning, message, warn
from probgen.family import Family
from probgen.queries import Predictive
from probgen.queries.estimates import WORST_SHAPE, Estimate
from probgen.schema import Schema
from probgen.table import Encoded, decode

__all__ = ["WORST_SHAPE", "Asked", "Extra", "Unseen", "doubt", "outside", "short_of"]

Unseen = Literal["error", "missing", "rare"]
Extra = Literal["error", "ignore"]


class Asked:
    """What the verbs need of a fitted density; `probgen.Density` provides it."""

    schema_: Schema
    members_: list[Family]

    def _batch(
        self, encoded: Encoded, device: torch.device, weight: np.ndarray | None = None
    ) -> Batch:
        raise TypeError(f"{type(self).__name__} must define _batch")

    @property
    def _device(self) -> torch.device:
        raise TypeError(f"{type(self).__name__} must define _device")

    def _predictive(self, posterior: bool = True) -> Predictive:
        raise TypeError(f"{type(self).__name__} must define _predictive")

    @property
    def _density(self) -> Any:
        """This object, as the `Density` that it is once fitting is added."""
        return self

    @property
    def _with_draws(self) -> Predictive:
        raise TypeError(f"{type(self).__name__} must define _with_draws")

    def _draw(self, batch: Batch, generator: torch.Generator, strict: bool = False) -> np.ndarray:
        """Rows with their holes drawn; says so where the way to do it cannot be trusted."""
        return self._drawn(batch, generator, strict).x.cpu().numpy()

    def _drawn(
        self, batch: Batch, generator: torch.Generator, strict: bool = False
    ) -> queries.Drawn:
        """The same, with what is known of each row."""
        drawn = queries.draw(self._predictive(), batch, generator)
        doubt(drawn.khat, strict, "conditional draws")
        return drawn

    def _sample_event(
        self, n: int, given: str, generator: torch.Generator, strict: bool
    ) -> pd.DataFrame:
        raise TypeError(f"{type(self).__name__} must define _sample_event")

    def _log_prob_event(
        self, table: Any, given: str, base: pd.DataFrame, posterior: bool, unseen: Unseen
    ) -> pd.DataFrame:
        raise TypeError(f"{type(self).__name__} must define _log_prob_event")

    def _decode(self, x: np.ndarray, index: pd.Index | None) -> pd.DataFrame:
        return decode(x, self.schema_, index)


def doubt(khat: torch.Tensor, strict: bool, what: str) -> None:
    """Warn of rows whose importance weights are too uneven to trust; raise if `strict`.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.
    """
    bad = khat > WORST_SHAPE  # NaN where the answer is exact
    if not bool(bad.any()):
        return
    text = message(
        f"Pareto k-hat above {WORST_SHAPE} in {int(bad.sum())} of {len(khat)} row(s): {what} "
        "may be off by more than their stated error",
        "weights of importance sampling that are even enough",
        "ask for fewer hidden cells at once, or fit a family with exact conditionals",
    )
    if strict:
        raise ApproximationError(text)
    warn(text, ApproximationWarning)


def short_of(found: Estimate, error: float | None, strict: bool) -> None:
    """Warn of rows whose wanted standard error was not reached; raise if `strict`."""
    short = 0 if error is None else int((found.se > error).sum())
    if not short:
        return
    text = message(
        f"a standard error above {error:g} nats in {short} of {len(found)} row(s), up to "
        f"{float(found.se.max()):.2g}",
        "the error asked for",
        "ask for a larger error, or for annealing=100 where the family has it",
    )
    if strict:
        raise ApproximationError(text)
    warn(text, ApproximationWarning)


def outside(value: torch.Tensor, encoded: Encoded) -> np.ndarray:
    """As an array, -inf where the row lies outside the support."""
    out = value.double().cpu().numpy()
    return np.where(encoded.illegal, -math.inf, out) if encoded.illegal.any() else out
