"""The estimator of normalizing flows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import ClassVar, get_args

from probgen.door import check_settings
from probgen.errors import SchemaError, message
from probgen.estimators.network import NetworkDensity
from probgen.families.flow import RowFlow
from probgen.family import Family
from probgen.nn.bases import BaseKind
from probgen.nn.warps import Kind
from probgen.schema import Schema
from probgen.table import Encoded
from probgen.training import Training

__all__ = ["Flow"]

#: rows a step at least: fewer cost time and gain little (benchmarks/noise.py --what batch)
LEAST_BATCH = 128


@dataclass(eq=False, repr=False)
class Flow(NetworkDensity):
    """A normalizing flow: an exact density of a mixed table, or of columns given others.

    Real cells are bent by invertible steps into entries of a simple density; categories, counts
    and atoms have an exact probability of their own, which the flow is conditioned on. Columns
    named in ``fit(table, given=[...])`` are conditioned on and never modelled: the density
    of a target given features.

    Parameters
    ----------
    kind : {"spline", "coupling", "affine", "realnvp"}
        Neural spline flow, autoregressive or coupling; masked affine autoregressive flow;
        affine coupling.
    transforms : int
        Steps in a row.
    hidden : sequence of int
        Hidden units of the layers of each network.
    bins : int
        Bins of a spline.
    base : {"mixture", "normal", "student"}
        Density of the entries. "mixture" is one of Student's t with full scale matrices,
        started by closed-form steps while all transforms are the identity: training
        starts at a mixture's density. "normal" and "student" are independent entries; tails
        of "student" and "mixture" fall as a power, so that a row far outside the training
        range is improbable and not impossible.
    components : int
        Of the mixture base.
    learning_rate : float
        Step of Adam: real cells hardly care from 0.001 to 0.01, the probabilities of categories
        and counts want the upper half (benchmarks/noise.py --what rate).

    Other parameters are those of `NetworkDensity`.

    References
    ----------
    Durkan, Bekasov, Murray and Papamakarios (2019), Neural spline flows. Papamakarios,
    Pavlakou and Murray (2017), Masked autoregressive flow for density estimation. Dinh,
    Sohl-Dickstein and Bengio (2017), Density estimation using Real NVP. Winkler, Worrall,
    Hoogeboom and Welling (2019), Learning likelihoods with conditional normalizing flows.

    Examples
    --------
    >>> import numpy as np
    >>> angle = np.random.default_rng(0).uniform(0, 6.3, 300)
    >>> ring = np.column_stack([np.cos(angle), np.sin(angle)])
    >>> model = Flow(components=16, noise=0.0, max_epochs=5, random_state=0).fit(ring)
    >>> on, off = model.score_samples([[1.0, 0.0], [0.0, 0.0]])
    >>> bool(on > off)
    True
    """

    kind: Kind = "spline"
    transforms: int = 3
    hidden: Sequence[int] = (64, 64)
    bins: int = 8
    base: BaseKind = "mixture"
    components: int = 8
    learning_rate: float = field(default=5e-3, kw_only=True)

    family: ClassVar[type[Family]] = RowFlow

    def _training(self) -> Training:
        return replace(super()._training(), least_batch=LEAST_BATCH)

    def _make(self, schema: Schema) -> Family:
        return RowFlow(
            schema, self.kind, self.transforms, tuple(self.hidden), self.bins, self.base,
            self.components, self.dropout,
        )  # fmt: skip

    def _check(self, encoded: Encoded) -> None:
        super()._check(encoded)
        check_settings(
            self, kind=get_args(Kind), base=get_args(BaseKind), transforms=1, bins=2, components=1
        )
        sizes = self.hidden if isinstance(self.hidden, Sequence) else ()
        if not sizes or not all(isinstance(size, Integral) and int(size) >= 1 for size in sizes):
            raise SchemaError(message(
                f"hidden={self.hidden!r}", "one whole number of units, at least 1, a layer",
                "pass hidden=(64, 64), for example",
            ))  # fmt: skip
