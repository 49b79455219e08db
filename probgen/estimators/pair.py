"""The estimator of a user's own Pyro functions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from probgen.batch import Batch
from probgen.columns import Column
from probgen.density import Density
from probgen.door import check_settings, hide_reserved
from probgen.errors import SchemaError, message
from probgen.families.pair import Program, UserPair
from probgen.family import Family
from probgen.pairs.guides import GUIDES, GuideKind
from probgen.schema import Schema
from probgen.table import Encoded
from probgen.training import Training

__all__ = ["Pair"]

#: rows a step
ROWS_A_STEP = 1024


@dataclass(eq=False, repr=False)
class Pair(Density):
    """Your own Pyro functions, `model(batch)` and optionally `guide(batch)`, as a density.

    ``batch["column"]`` is a column in the table's own units, a tensor of n numbers: codes of
    categories, ordered levels and booleans, days since the schema's origin of dates, None
    while rows are generated. Write one site a modelled column, named after it, inside ``with
    batch.rows():``, with ``obs=batch["column"]``; use the value that `pyro.sample` returns
    where one column depends on another, so that holes can be filled and rows generated.
    Columns named in ``fit(table, given=[...])`` are conditioned on, never modelled, and
    needed by every verb. `pyro.param`, `pyro.module`, modules and methods of modules may be
    used; their parameters live in the fitted object, never in Pyro's store.

    Globals (sites outside the rows) that the guide lacks get a guide by name. Row latents
    that it lacks are proposed from the model and trained by an importance-weighted bound;
    those marked ``infer={"enumerate": "parallel"}`` are summed out. An unseen cell is a
    latent proposed from the model: marginals are exact where nothing depends on the column,
    importance estimates elsewhere.

    Parameters
    ----------
    model : callable
        ``model(batch)``, a Pyro function, `nn.Module` or `PyroModule`. Modules are copied.
    guide : callable or name, optional
        ``guide(batch)`` over some or all latents of the model. A name stands for
        ``globals_guide``: the guide of all globals.
    globals_guide : {"auto", "mean_field", "multivariate", "flow"}
        Guide of the globals that `guide` lacks, in the unconstrained space of their supports:
        independent normals; one normal with a full covariance; or that normal bent by a
        normalizing flow. "auto" is "multivariate" up to 50 globals, where it costs as much as
        the mean field, and "mean_field" beyond (benchmarks/guides.py).
        ``check(table, train=...)`` tells by k-hat whether it is rich enough.
    particles : int
        Draws a row of the bound by which row latents are trained; cost is proportional
        (chosen by benchmarks/pair_particles.py).
    learning_rate : float
        Step of Adam, in units of the error of one row; for modules, of their weights.
    batch_size : int, optional
        Rows a step; None: 1,024, or all where they are fewer. A step of a Pyro program costs
        about the same up to there, and the gradient has the less noise.
    precision : {"float64", "float32"}
        Of training: table units differ by many orders of magnitude.

    Other parameters are those of `Density`; a value is taken as it is (``dequantise=False``)
    and no atoms are inferred.

    Attributes
    ----------
    params_ : dict
        Values of the `pyro.param` statements by name, of the first restart.

    References
    ----------
    Bingham et al. (2019), Pyro: deep universal probabilistic programming, JMLR 20.
    Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders.

    Examples
    --------
    >>> import pyro, torch, pyro.distributions as dist
    >>> from probgen.datasets import penguins
    >>> def model(batch):
    ...     a = pyro.sample("a", dist.Normal(4000.0, 2000.0))
    ...     b = pyro.sample("b", dist.Normal(0.0, 100.0))
    ...     s = pyro.sample("s", dist.HalfNormal(1000.0))
    ...     with batch.rows():
    ...         loc = a + b * (batch["flipper_length_mm"] - 200.0)
    ...         pyro.sample("body_mass_g", dist.Normal(loc, s), obs=batch["body_mass_g"])
    >>> table = penguins()[["flipper_length_mm", "body_mass_g"]].dropna()
    >>> fitted = Pair(model, random_state=0).fit(table, given=["flipper_length_mm"])
    >>> round(float(fitted.log_prob(table).mean()), 1)
    -7.4
    """

    model: Program
    guide: Program | GuideKind | None = None
    globals_guide: GuideKind = "auto"
    particles: int = 16
    learning_rate: float = 1e-2
    batch_size: int | None = None
    precision: Literal["float64", "float32"] = "float64"
    dequantise: bool = field(default=False, kw_only=True)

    family: ClassVar[type[Family]] = UserPair
    functions: ClassVar[tuple[str, ...]] = ("model", "guide")

    def _training(self) -> Training:
        own = super()._training()
        return own if own.batch_size is not None else replace(own, batch_size=ROWS_A_STEP)

    def _make(self, schema: Schema) -> Family:
        check_settings(self, globals_guide=GUIDES)
        guide: Any = self.guide
        kind: Any = self.globals_guide
        if isinstance(guide, str) and guide in GUIDES:
            if kind not in ("auto", guide):
                raise SchemaError(message(
                    f"guide={guide!r} and globals_guide={kind!r}", "one guide of the globals",
                    f"pass guide={guide!r} alone",
                ))  # fmt: skip
            guide, kind = None, guide
        again = self.starts * self.restarts > 1
        return UserPair(schema, self.model, guide, kind, self.particles, reset=again)

    def _describe(self, frame: pd.DataFrame, given: Sequence[Hashable]) -> Schema:
        """Columns in table units, without atoms unless the caller's schema has them."""
        if self.schema is not None:
            return self.schema.with_context(given).native()
        own = dict(self.columns or {})
        schema = Schema.infer(frame, own, given, self.dequantise)
        spikes = {c.name: _without_atoms(c, own.get(c.name)) for c in schema.columns if c.atoms}
        if spikes:
            schema = Schema.infer(frame, own | spikes, given, self.dequantise)
        return schema.native()

    def _batch(
        self,
        encoded: Encoded,
        device: torch.device,
        weight: np.ndarray | None = None,
        schema: Schema | None = None,
    ) -> Batch:
        hide_reserved(encoded, schema or self.schema_)
        return super()._batch(encoded, device, weight, schema)

    @property
    def params_(self) -> dict[str, np.ndarray]:
        """Values of the `pyro.param` statements by name, of the first restart."""
        check_is_fitted(self)
        member = self.members_[0]
        assert isinstance(member, UserPair)
        return {name: value.cpu().numpy() for name, value in member.params().items()}


def _without_atoms(column: Column, own: Any) -> dict[str, Any]:
    """An override under which a column has only the atoms that the caller declares."""
    spec = {"kind": own} if isinstance(own, str) else dict(own or {})
    legal = bool(column.legal(np.array(column.atoms)).all())
    free = {"kind": column.kind if legal else "real", "atoms": ()}
    return free | {key: value for key, value in spec.items() if value is not None}
