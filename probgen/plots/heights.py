"""The model's density of one or two columns at chosen values, with its posterior band."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probgen import queries
from probgen.density import Density
from probgen.errors import NotSupported, SchemaError, message
from probgen.plots.shared import whole_contexts
from probgen.table import encode

__all__ = ["Heights", "contexts", "heights"]

Array = NDArray[np.float64]

#: rows whose contexts are averaged over, at most
CONTEXTS = 50
#: importance draws a row and draw of the globals, where contexts are averaged over as well
PARTICLES = 64
#: rows scored at once there
PIECE = 4000


@dataclass(frozen=True)
class Heights:
    """Densities (or probabilities, of levels) at g values, table units.

    Parameters
    ----------
    value : ndarray (g,)
        Of the predictive.
    lower, upper : ndarray (g,), optional
        Ends of the pointwise posterior interval; None without posterior draws, or unasked.
    """

    value: Array
    lower: Array | None = None
    upper: Array | None = None

    def times(self, factor: Array) -> Heights:
        """All heights times a factor (g,)."""
        if self.lower is None or self.upper is None:
            return Heights(self.value * factor)
        return Heights(self.value * factor, self.lower * factor, self.upper * factor)

    def at(self, rows: slice) -> Heights:
        """Some of the heights."""
        if self.lower is None or self.upper is None:
            return Heights(self.value[rows])
        return Heights(self.value[rows], self.lower[rows], self.upper[rows])


def contexts(model: Density, frame: pd.DataFrame, seed: int) -> pd.DataFrame | None:
    """Contexts of random rows of a table; None for a model that conditions on nothing."""
    held = whole_contexts(model, frame)
    if held is None or len(held) <= CONTEXTS:
        return held
    return held.sample(CONTEXTS, random_state=seed)


def heights(
    model: Density, points: pd.DataFrame, context: pd.DataFrame | None, level: float | None
) -> Heights:
    """Marginal density of the columns of `points` at its rows.

    Parameters
    ----------
    model : Density
    points : data frame of g rows
        Values of some modelled columns; all others are integrated out.
    context : data frame, optional
        Contexts that the density is averaged over.
    level : float, optional
        Posterior probability of the pointwise band, made of the densities by draw.

    Returns
    -------
    Heights
        Without band where the model has no posterior draws.
    """
    if level is not None and not 0 < level < 1:
        raise SchemaError(message(f"interval={level}", "0 < interval < 1", "pass 0.9, say"))
    if not len(points):
        return Heights(np.zeros(0))
    if context is not None:
        return _over_contexts(model, points, context, level)
    if level is not None:
        try:
            found = model.log_prob(points, interval=level)
        except NotSupported:
            return heights(model, points, None, None)
        value, lower, upper = (np.exp(found[c].to_numpy()) for c in ("log_prob", "lower", "upper"))
        return Heights(value, lower, upper)
    return Heights(np.exp(model.log_prob(points).to_numpy()))


def _over_contexts(
    model: Density, points: pd.DataFrame, context: pd.DataFrame, level: float | None
) -> Heights:
    """The average over contexts of each draw, and its quantiles over the draws."""
    predictive, parts = model._with_draws, []
    size = max(1, PIECE // len(context))
    for start in range(0, len(points), size):
        piece = points.iloc[start : start + size]
        rows = piece.iloc[np.repeat(np.arange(len(piece)), len(context))].reset_index(drop=True)
        held = context.iloc[np.tile(np.arange(len(context)), len(piece))].reset_index(drop=True)
        asked = encode(pd.concat([rows, held], axis=1), model.schema_)
        batch = model._batch(asked, model._device)
        with torch.no_grad():
            value = queries.log_prob_draws(predictive, batch, particles=PARTICLES).double()
            value = value + model.schema_.log_det(queries.encoded(batch), batch.seen)
        density = np.where(asked.illegal, 0.0, value.exp().cpu().numpy())
        parts.append(density.reshape(len(density), len(piece), len(context)).mean(2))
    by_draw = np.concatenate(parts, axis=1)
    if level is None or len(by_draw) < 2 or not model._has_posterior:
        return Heights(by_draw.mean(0))
    ends = [(1 - level) / 2, (1 + level) / 2]
    lower, upper = np.quantile(by_draw, ends, axis=0, method="weibull")  # as `log_prob` does
    return Heights(by_draw.mean(0), lower, upper)
