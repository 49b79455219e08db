"""The estimator of any-order autoregressive rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from probgen.door import check_settings
from probgen.errors import SchemaError, message
from probgen.estimators.network import NetworkDensity
from probgen.families.autoregressive import AnyOrder
from probgen.family import Family
from probgen.schema import Schema
from probgen.table import Encoded

__all__ = ["Autoregressive"]


@dataclass(eq=False, repr=False)
class Autoregressive(NetworkDensity):
    """Any-order autoregressive density of a mixed table, from one masked network.

    A row is scored cell by cell, each given the cells before it in some order of the columns;
    one network serves all orders, and the density is the mean over a few fixed ones. A column
    has a head of its kind: probabilities of the levels (ordered ones move together), a mixture
    of normals for a real column, a mixture of logistics cut into whole numbers for a count, the
    atoms of a column as levels beside its mixture. So the density of any set of columns, and
    of any set given any other, is read off without sampling.

    Holes are hidden from the network, in training as in every verb, and never filled. A table
    with holes is therefore scored by the same network, but the density of some columns is not
    the integral of that of more (``coherent`` is False): they agree as far as the orders do,
    and ``log_prob(..., details=True)`` tells that: ``se`` is the standard error that the mean
    over the fixed orders has as an estimate of the mean over all orders. A conditional is the
    mean over the same orders with the given cells moved to the front, and sums to one.

    Parameters
    ----------
    hidden : int, optional
        Units of a layer. None: a power of two near ``64 * sqrt(slots)``, from 64 to 512
        (benchmarks/binary_density.py and known_density.py compare sizes).
    layers : int
        Residual blocks of two layers each; more cost time and gain little
        (benchmarks/binary_density.py).
    parts : int
        Parts of the mixture of a real or count column.
    orders : int
        Fixed orders over which the density is averaged. The cost of a score is proportional.
    masked : float
        Share of the training rows of which random cells are hidden from the others, beside
        what the order hides. Whatever is asked comes before the holes of its row, so this
        practice is seldom needed, and costs density (benchmarks/binary_density.py compares).

    Other parameters are those of `NetworkDensity` and `Density`.

    Notes
    -----
    Columns named in ``fit(table, given=[...])`` are conditioned on and never modelled.

    Scoring costs `orders` passes of the network a row. Drawing costs one pass in all for rows
    with holes in the same columns, and one pass a hole otherwise.

    References
    ----------
    Germain, Gregor, Murray and Larochelle (2015), MADE: masked autoencoder for distribution
    estimation. Uria, Murray and Larochelle (2014), A deep and tractable density estimator.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> side = rng.random(400) < 0.5
    >>> table = pd.DataFrame({"side": side, "hits": rng.poisson(np.where(side, 9, 2))})
    >>> model = Autoregressive(hidden=32, random_state=0).fit(table)
    >>> float(model.prob("side", given={"hits": 12})) > 0.9
    True
    """

    hidden: int | None = None
    layers: int = 1
    parts: int = 8
    orders: int = 8
    masked: float = 0.0
    learning_rate: float = field(default=3e-3, kw_only=True)
    dropout: float = field(default=0.1, kw_only=True)
    patience: int = field(default=10, kw_only=True)

    family: ClassVar[type[Family]] = AnyOrder

    def _make(self, schema: Schema) -> Family:
        hidden = self.hidden or _units(len(schema.slots))
        return AnyOrder(
            schema, hidden, self.layers, self.dropout, self.parts, self.orders, self.masked
        )

    def _check(self, encoded: Encoded) -> None:
        super()._check(encoded)
        check_settings(self, layers=0, parts=1, orders=1)
        if self.hidden is not None:
            check_settings(self, hidden=1)
        share = self.masked
        number = isinstance(share, int | float | np.number) and not isinstance(share, bool)
        if not number or not 0 <= share <= 1:
            raise SchemaError(message(
                f"masked={share!r}", "a share from 0 to 1", "change masked"
            ))  # fmt: skip


def _units(slots: int) -> int:
    """Units of a layer: a power of two near 64 times the root of the slots."""
    return int(min(512, max(64, 2 ** round(math.log2(64 * math.sqrt(max(1, slots)))))))
