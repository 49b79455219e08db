"""The estimator of any-order autoregressive rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from probgen.batch import Batch
from probgen.door import check_settings
from probgen.estimators.network import NetworkDensity
from probgen.families.autoregressive import AnyOrder
from probgen.family import Family
from probgen.schema import Schema
from probgen.table import Encoded

__all__ = ["Autoregressive"]


@dataclass(eq=False, repr=False)
class Autoregressive(NetworkDensity):
    """Any-order autoregressive density of a mixed table, from one masked network.

    Parameters
    ----------
    hidden : int, optional
        Units of a layer.
    layers : int
        Residual blocks of two layers each.
    parts : int
        Parts of the mixture of a real or count column.
    orders : int
        Fixed orders whose densities are averaged.
    masked : float
        Share of the training rows of which random cells are hidden from the others.
    """

    hidden: int | None = None
    layers: int = 2
    parts: int = 8
    orders: int = 8
    masked: float = 0.25

    family: ClassVar[type[Family]] = AnyOrder

    def _make(self, schema: Schema) -> Family:
        return AnyOrder(
            schema, self.hidden or 256, self.layers, self.dropout, self.parts, self.orders,
            self.masked,
        )  # fmt: skip

    def _noises(self, batch: Batch, held: Batch | None) -> tuple[float, ...]:
        """Noise is for real cells: there is nothing to choose where all are whole numbers."""
        x = batch.x
        if self.noise == "auto" and x is not None and bool((x == x.round()).all()):
            return (0.0,)
        return super()._noises(batch, held)

    def _check(self, encoded: Encoded) -> None:
        super()._check(encoded)
        check_settings(self, layers=0, parts=1, orders=1)
        if self.hidden is not None:
            check_settings(self, hidden=1)
