"""The companion of a fitted model: mixtures that propose hidden cells for it.

They are fitted to rows that the model itself draws, not to the table: what they must resemble
is the model's density; the model draws as many whole rows as are wanted; and a model that was
loaded from a file has a companion too.
"""

from __future__ import annotations

import torch

from probgen import queries
from probgen.batch import Batch
from probgen.errors import NotSupported, message
from probgen.families.mixture import Mixture
from probgen.fitting import fit_starts
from probgen.queries import Companion, Predictive
from probgen.queries.hidden import without_holes
from probgen.schema import Schema
from probgen.session import spawn_seeds
from probgen.training import Training

__all__ = ["fit_companion"]

#: rows that the model draws for its companion
ROWS = 5_000
#: components of each part, and its share of the proposals: a close one, and a wide one that
#: leaves no region out (benchmarks/conditionals.py compares others)
PARTS = ((20, 0.75), (1, 0.25))


def fit_companion(predictive: Predictive, schema: Schema, seed: int) -> Companion:
    """Densities with exact conditionals that together resemble a model.

    Parameters
    ----------
    predictive : Predictive
        Of the model; must generate rows.
    schema : Schema
        Whose slots the rows have.
    seed : int
        Of the rows and of the fits.

    Raises
    ------
    NotSupported
        For a model with context columns: it cannot draw rows without their values.
    """
    if schema.context_slots:
        raise NotSupported(message(
            f"hidden cells of a {type(predictive.members[0]).__name__} with context columns",
            "rows that are seen in whole", "leave no cell missing",
        ))  # fmt: skip
    first, *seeds = spawn_seeds([seed, 3], 1 + len(PARTS))
    generator = torch.Generator().manual_seed(first)
    empty = Batch.empty(ROWS, len(schema.slots), torch.float64, predictive.device)
    x = queries.sample(predictive, empty, generator)
    rows = without_holes(empty, x, schema.slots)
    parts = []
    for own, (components, _) in zip(seeds, PARTS, strict=True):
        training = Training(max_epochs=200, tolerance=1e-3, starts=2, random_state=own)

        def make(k: int = components) -> Mixture:
            return Mixture(schema, k, "full", draws=0).to(predictive.device)

        parts.append(fit_starts(make, rows, training)[0][0])
    return Companion(parts, [share for _, share in PARTS])
