"""Mode coverage of families without a density: are rows drawn wherever rows are?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from probgen import queries
from probgen.diagnostics.checks.evidence import Evidence
from probgen.diagnostics.report import Finding
from probgen.schema import Schema

__all__ = ["coverage", "covered"]

Floats = NDArray[np.float64]
#: rows of each side, neighbours that span a ball
ROWS, NEIGHBOURS, FEWEST = 1000, 5, 50
#: share of balls with a row of the other side; equal sources give 1 - 2^-5 = 0.97
COVERED = 0.8


def coverage(evidence: Evidence) -> Iterator[Finding]:
    """Share of rows with a drawn row near, and of drawn rows with a row near.

    "Near" is inside the ball that reaches to a row's fifth neighbour on its own side
    (density and coverage, Naeem et al. 2020), on encoded columns of unit spread.
    """
    if evidence.model.members_[0].density != "none" or evidence.seen is None:
        return
    batch = evidence.seen.batch
    whole = batch.seen.all(1).cpu().numpy()
    table = queries.encoded(batch).double().cpu().numpy()[whole]
    rng = np.random.default_rng(0)
    drawn = evidence.x_drawn
    if len(table) < FEWEST:
        yield Finding(
            "mode coverage", "unknown", ("density",), f"{len(table)} rows without holes",
            f"pass {FEWEST} or more",
        )  # fmt: skip
        return
    n = min(len(table), len(drawn), ROWS)
    left, right = (
        _spread(rows[rng.permutation(len(rows))[:n]], table, evidence.schema)
        for rows in (table, drawn)
    )
    forward, backward = covered(left, right), covered(right, left)
    text = (
        f"{forward:.0%} of the rows have a drawn row near, {backward:.0%} of the drawn ones a row"
    )
    details = {"coverage": forward, "of_drawn": backward, "neighbours": NEIGHBOURS}
    if forward < COVERED:
        yield Finding(
            "mode coverage", "fail", ("density",), f"{text}: parts of the table are never drawn",
            "train longer or with more noise, or take a family with a density", details,
        )  # fmt: skip
    elif backward < COVERED:
        yield Finding(
            "mode coverage", "fail", ("density",), f"{text}: rows are drawn where none are",
            "train longer, or a larger generator", details,
        )  # fmt: skip
    else:
        yield Finding("mode coverage", "ok", ("density",), text, details=details)


def covered(rows: Floats, others: Floats, neighbours: int = NEIGHBOURS) -> float:
    """Share of the rows (n, k) with one of the others (m, k) within their own neighbourhood.

    Cost n * (n + m). Naeem, Oh, Uh, Choi and Yoo (2020), Reliable fidelity and diversity
    metrics for generative models.

    Examples
    --------
    >>> line = np.arange(10.0)[:, None]
    >>> covered(line, line + 0.1), covered(line, line[:2])
    (1.0, 0.5)
    """
    own = np.partition(cdist(rows, rows), neighbours, axis=1)[:, neighbours]
    return float((cdist(rows, others).min(1) <= own).mean())


def _spread(rows: Floats, table: Floats, schema: Schema) -> Floats:
    """Encoded rows with columns of unit spread, levels as indicators."""
    parts = []
    for place, slot in enumerate(schema.slots):
        if slot.kind == "category":
            codes = np.arange(slot.size)
            parts.append((rows[:, place, None] == codes) / np.sqrt(2.0))
        else:
            sd = table[:, place].std() or 1.0
            parts.append((rows[:, place, None] - table[:, place].mean()) / sd)
    return np.column_stack(parts)
