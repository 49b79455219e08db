"""What a model remembers of the rows that it was fitted to: their number and a checksum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probgen.diagnostics.drawn import modelled, numbers
from probgen.schema import Schema
from probgen.table import Encoded

__all__ = ["FittedRows", "fingerprint"]

Words = NDArray[np.uint64]
#: of the finaliser of SplitMix64 (Steele, Lea and Flood 2014)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


@dataclass(frozen=True)
class FittedRows:
    """The rows of a fit, as far as a model remembers them.

    Attributes
    ----------
    rows : int
        Their number.
    checksum : int
        Of their content, whatever their order.
    weighted : bool
        Whether they were given weights.
    """

    rows: int
    checksum: int
    weighted: bool = field(default=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FittedRows:
        """The inverse of `to_dict`."""
        return cls(int(values["rows"]), int(values["checksum"]), bool(values["weighted"]))


def fingerprint(encoded: Encoded, schema: Schema, weighted: bool = False) -> FittedRows:
    """Number and checksum of encoded rows.

    The same for the same rows in any order, of whatever data type they were stored in;
    rounded columns are read at their grid, so that spreading them over their cells in
    training changes nothing. Two tables agree by chance with probability 2^-64.

    Examples
    --------
    >>> import pandas as pd
    >>> from probgen.table import encode
    >>> rows = pd.DataFrame({"x": [1.5, 2.25, 3.75], "y": list("aba")})
    >>> schema = Schema.infer(rows)
    >>> one, two = (encode(some, schema) for some in (rows, rows.iloc[::-1]))
    >>> fingerprint(one, schema) == fingerprint(two, schema)
    True
    """
    key = np.full(len(encoded.index), _STEP, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in _columns(encoded, schema):
            words = (column + 0.0).view(np.uint64)  # one zero
            key = _mixed(key ^ np.where(np.isnan(column), np.uint64(1), words))
        return FittedRows(len(key), int(key.sum(dtype=np.uint64)), weighted)


def _columns(encoded: Encoded, schema: Schema) -> Iterator[NDArray[np.float64]]:
    """Each column as float64: as encoded, or at its grid; NaN in holes."""
    gridded = {name for name, (column, _) in modelled(schema).items() if column.grid}
    if gridded:
        at_grid = numbers(encoded.x, encoded.seen, schema, gridded)
    for name, (_, part) in modelled(schema).items():
        if name in gridded:
            yield at_grid[name]
            continue
        for place in range(part.start, part.stop):
            yield np.where(encoded.seen[:, place], encoded.x[:, place], np.nan)
    for place in range(encoded.context.shape[1]):
        there = encoded.context_seen[:, place]
        yield np.where(there, encoded.context[:, place], np.nan)


def _mixed(key: Words) -> Words:
    key = key + _STEP
    for shift, factor in _MIX:
        key = (key ^ (key >> shift)) * factor
    return key ^ (key >> np.uint64(31))
