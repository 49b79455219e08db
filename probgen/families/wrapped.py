"""A density that someone else fits: an object with `fit` and `score_samples` over real numbers.

Its rows are the encoded real slots: standardised, positive columns by their logarithm. The
fit is kept as the rows that it saw and a seed, so that it can be made anew; the object itself
is opaque. Linear maps before the density (a scaler, a rotation) count by their determinant.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from torch import Tensor

from probgen.batch import Batch
from probgen.errors import NotSupported, SchemaError, message
from probgen.family import Draws, Family
from probgen.schema import Schema

__all__ = ["Wrapped"]

Floats = NDArray[np.float64]
#: by how much a map may miss its linear form at points ten deviations out, relative
LINEAR = 1e-8


class Wrapped(Family):
    """The pair around a foreign density; `probgen.SklearnDensity` describes the setting.

    Parameters
    ----------
    schema : Schema
        Of real-like columns without atoms.
    estimator : object
        With ``fit(X)``, ``score_samples(X)`` (log density of each row) and, for rows to be
        drawn, ``sample(n)``. With an attribute ``steps``, a chain of (name, step) of which the
        last is the density and the others have linear ``transform`` and ``inverse_transform``.
    """

    updates = True
    closed_form = True
    trained = False
    holes = "refuse"
    coherent = False  # exact in whole rows only: marginals are importance estimates
    x: Tensor
    weight: Tensor
    seed: Tensor

    def __init__(self, schema: Schema, estimator: Any) -> None:
        super().__init__(schema)
        _require_real(schema)
        self.blank = estimator
        self.fitted: Any = None
        self.log_slope = 0.0
        m = len(schema.slots)
        self.register_buffer("x", torch.zeros(0, m, dtype=torch.float64))
        self.register_buffer("weight", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))
        self.loss = 0.0

    # --- the pair -------------------------------------------------------------------

    def model(self, batch: Batch) -> Tensor:
        """One observed site: the row."""
        with batch.rows():
            return batch.observe("row", _Row(self, len(batch)), range(len(self.schema.slots)))

    # --- training -------------------------------------------------------------------

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Fit the object to all rows; there are no steps."""
        hidden = (~batch.seen).any(1)
        if bool(hidden.any()):
            raise SchemaError(message(
                f"{int(hidden.sum())} of {len(hidden)} rows with missing cells",
                f"whole rows: {_named(self.blank)} cannot leave cells out",
                "fit to table.dropna(), or fill the holes first",
            ))  # fmt: skip
        assert batch.x is not None  # noqa: S101 - training rows have values
        self.x, self.weight = batch.x.double().clone(), batch.weight.double().clone()
        self.seed = torch.randint(2**31, (), generator=generator)
        self._fit()
        value = self.exact_log_prob(batch, None)
        self.loss = -float((value * self.weight).sum() / self.weight.sum())

    def update(self, batch: Batch, rate: float) -> float:
        """Nothing is left to move: the loss of the rows that it was fitted to."""
        return self.loss

    def _fit(self) -> None:
        if not self.x.shape[1]:
            return
        x, weight = self.x.cpu().numpy(), self.weight.cpu().numpy()
        own = _seeded(copy.deepcopy(self.blank), int(self.seed))
        x, how = _weighted(own, x, weight)
        self.fitted = own.fit(x, **how)
        self.log_slope = _log_slope(self._maps(), x)

    def _maps(self) -> list[Any]:
        """The steps before the density."""
        steps = getattr(self.fitted, "steps", None)
        return (
            [] if steps is None else [s for _, s in steps[:-1] if s not in (None, "passthrough")]
        )

    def tensors(self) -> dict[str, Tensor]:
        """The rows of the fit, their weights and its seed."""
        return {"x": self.x, "weight": self.weight, "seed": self.seed}

    def load_tensors(self, values: dict[str, Tensor]) -> None:
        """The inverse of `tensors`: fits anew to the same rows."""
        super().load_tensors(values)
        self._fit()

    # --- exact answers --------------------------------------------------------------

    def exact_log_prob(self, batch: Batch, draws: Draws | None) -> Tensor:
        """Log density (n,) of whole rows."""
        assert batch.x is not None  # noqa: S101 - rows to score have values
        return self.log_rows(batch.x)

    def log_rows(self, x: Tensor) -> Tensor:
        """Log density (n,) of encoded rows x (n, m)."""
        if not x.shape[1] or not len(x):
            return torch.zeros(len(x), dtype=torch.float64, device=x.device)
        values = self.fitted.score_samples(x.detach().double().cpu().numpy())
        return torch.from_numpy(np.asarray(values, np.float64)).to(x.device) + self.log_slope

    def draw_rows(self, n: int, seed: int) -> Tensor:
        """n new rows (n, m), by the object's own `sample`."""
        if not self.x.shape[1] or not n:
            return self.x.new_zeros(n, self.x.shape[1])
        steps = getattr(self.fitted, "steps", None)
        last = self.fitted if steps is None else steps[-1][1]
        x = _sampled(last, n, seed)
        for step in reversed(self._maps()):
            x = step.inverse_transform(x)
        return torch.from_numpy(np.ascontiguousarray(x, np.float64)).to(self.x.device)


class _Row(dist.TorchDistribution):
    """Rows (n,) of a foreign density over all slots."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - as torch names it
    support = dist.constraints.real_vector
    skips_unseen = True  # rows are whole

    def __init__(self, family: Wrapped, n: int) -> None:
        self.family = family
        super().__init__(torch.Size([n]), torch.Size([len(family.schema.slots)]), False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """New rows, seeded by torch's stream."""
        seed = int(torch.randint(2**31, ()))
        return self.family.draw_rows(self.batch_shape[0], seed)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density (n,)."""
        return self.family.log_rows(value)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Row:
        """Rows are n already."""
        return self


def _require_real(schema: Schema) -> None:
    wrong = [
        f"{c.name!r} ({c.kind}{', with atoms' if c.atoms else ''})"
        for c in schema.columns
        if c.role in ("modelled", "context")
        and (not c.real_like or c.atoms or c.role == "context")
    ]
    if wrong:
        raise SchemaError(message(
            f"column(s) {', '.join(wrong[:8])}",
            "real, positive, unit, bounded or date columns without atoms: a density of numbers "
            "that someone else fits knows no others",
            "leave these columns out, say columns={name: 'real'} for whole numbers, or fit a "
            "family of probgen",
        ))  # fmt: skip


def _named(estimator: Any) -> str:
    return type(estimator).__name__


def _seeded(estimator: Any, seed: int) -> Any:
    """The same with each `random_state` that was left open set."""
    for name, value in estimator.get_params(deep=True).items():
        if name.rpartition("__")[2] == "random_state" and value is None:
            estimator.set_params(**{name: seed})
    return estimator


def _weighted(estimator: Any, x: Floats, weight: Floats) -> tuple[Floats, dict[str, Any]]:
    """Rows to fit, and the weights that `fit` takes; whole weights repeat rows instead."""
    if (weight == weight[0]).all():
        return x, {}
    if "sample_weight" in inspect.signature(estimator.fit).parameters:
        return x[weight > 0], {"sample_weight": weight[weight > 0]}
    if (weight == np.rint(weight)).all():
        return np.repeat(x, weight.astype(np.int64), axis=0), {}
    raise NotSupported(message(
        f"weights that are no whole numbers, and {_named(estimator)}.fit without sample_weight",
        "whole weights, which repeat rows", "round the weights, or leave them out",
    ))  # fmt: skip


def _log_slope(maps: list[Any], x: Floats) -> float:
    """Log |det| of a chain of maps, which must be linear and keep the number of columns."""
    if not maps:
        return 0.0
    d = x.shape[1]
    centre, spread = x.mean(0), x.std(0) + 1e-12

    def mapped(points: Floats) -> Floats:
        for step in maps:
            points = np.asarray(step.transform(points), np.float64)
        return points

    base = mapped(centre[None])
    square = base.shape[1] == d
    if square:
        matrix = mapped(centre + np.diag(spread)) - base
        probe = np.random.default_rng(0).normal(scale=10.0, size=(16, d))
        gap = mapped(centre + probe * spread) - (base + probe @ matrix)
        square = bool(np.abs(gap).max() <= LINEAR * (1 + np.abs(probe @ matrix).max()))
    if not square:
        raise NotSupported(message(
            f"steps {[_named(s) for s in maps]} before a density that are not linear, or drop "
            "columns", "linear maps of all columns, whose determinant is known",
            "take StandardScaler, or leave the steps out: columns are standardised already",
        ))  # fmt: skip
    return float(np.linalg.slogdet(matrix)[1] - np.log(spread).sum())


def _sampled(estimator: Any, n: int, seed: int) -> Floats:
    """n rows by the object's own sampler, seeded."""
    own = getattr(estimator, "sample", None)
    try:
        if own is None:
            raise NotImplementedError("no method sample")
        if "random_state" in inspect.signature(own).parameters:
            found = own(n, random_state=seed)
        else:
            twin = copy.copy(estimator)
            if hasattr(twin, "random_state"):
                twin.random_state = seed
            found = twin.sample(n)
    except NotImplementedError as error:
        raise NotSupported(message(
            f"{_named(estimator)} draws no rows ({error})", "a density with sample(n)",
            "take a Gaussian kernel, or a family of probgen",
        )) from error  # fmt: skip
    rows = found[0] if isinstance(found, tuple) else found
    # a mixture draws component after component
    return np.random.default_rng(seed).permutation(np.asarray(rows, np.float64))
