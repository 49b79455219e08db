"""Numbers of rows with their Monte Carlo errors, and how they are put together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from probgen.queries.draws import log_mean_exp
from probgen.queries.pareto import pareto_k

__all__ = ["WORST_SHAPE", "Estimate", "estimate_of", "exact", "joined", "methods", "mixed"]

#: Pareto shape above which an importance estimate is not to be trusted
WORST_SHAPE = 0.7


@dataclass
class Estimate:
    """A number a row, and how exact it is.

    Attributes
    ----------
    value : Tensor (n,)
        Log density, nats, encoded units.
    se : Tensor (n,)
        Monte Carlo standard error of `value`; 0 where it is exact.
    ess : Tensor (n,)
        Effective sample size of the importance weights; inf where it is exact.
    khat : Tensor (n,)
        Pareto shape of the weights (above 0.7: do not trust); NaN where it is exact.
    method : str
        "exact" (closed form; "bound" or "estimate" where the family says its own form is
        one), "enumerated" (summed out through the pair), "importance", "annealing", or these
        joined by "+" where members or rows differ.
    particles : Tensor (n,) of int64
        Importance draws that a row took, or chains where it was annealed; 0 where it took none.
    """

    value: Tensor
    se: Tensor
    ess: Tensor
    khat: Tensor
    method: str
    particles: Tensor = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.particles is None:
            self.particles = torch.zeros_like(self.value, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.value)

    def over(self, other: Estimate) -> Estimate:
        """The ratio of two densities of the same rows: the errors of both count."""
        khat = torch.fmax(self.khat, other.khat)  # NaN only where both are exact
        return Estimate(
            self.value - other.value,
            (self.se.square() + other.se.square()).sqrt(),
            torch.minimum(self.ess, other.ess),
            khat,
            methods(self, other),
            self.particles + other.particles,
        )

    def take(self, rows: Tensor) -> Estimate:
        """The numbers of some rows."""
        return Estimate(
            self.value[rows], self.se[rows], self.ess[rows], self.khat[rows], self.method,
            self.particles[rows],
        )  # fmt: skip

    def put(self, rows: Tensor, other: Estimate) -> None:
        """Set the numbers of some rows."""
        for name in ("value", "se", "ess", "khat", "particles"):
            own = getattr(self, name)
            own[rows] = getattr(other, name).to(own.dtype)

    def replace(self, rows: Tensor, other: Estimate) -> None:
        """Set the numbers of some rows that are better in another way.

        Those of uneven weights, whose own error cannot be trusted, and those of larger error.
        """
        own = self.take(rows)
        better = (own.khat > WORST_SHAPE) | (other.se < own.se)
        self.put(rows[better], other.take(better))
        if bool(better.any()):
            self.method = methods(self, other)


def methods(*parts: Estimate) -> str:
    """The methods of all parts: "exact+importance", say."""
    return "+".join(sorted({name for part in parts for name in part.method.split("+")}))


def joined(parts: list[Estimate]) -> Estimate:
    """The numbers of rows, part after part."""
    return Estimate(
        value=torch.cat([part.value for part in parts]),
        se=torch.cat([part.se for part in parts]),
        ess=torch.cat([part.ess for part in parts]),
        khat=torch.cat([part.khat for part in parts]),
        method=methods(*parts),
        particles=torch.cat([part.particles for part in parts]),
    )


def mixed(parts: list[Estimate], log_weights: Tensor | None = None) -> Estimate:
    """The mixture of densities of the same rows: equal, or by log weights (parts,), (parts, n)."""
    if len(parts) == 1:
        return parts[0]
    values = torch.stack([part.value for part in parts])
    if log_weights is None:
        values = values - math.log(len(parts))
    else:
        values = values + log_weights.reshape(len(parts), -1)
    value = torch.logsumexp(values, 0)
    peak = torch.where(value.isinf(), torch.zeros_like(value), value)
    shares = (values - peak).exp()
    se = (shares * torch.stack([part.se for part in parts])).square().sum(0).sqrt()
    khat = torch.stack([part.khat for part in parts])
    worst = khat.nan_to_num(-math.inf).amax(0)
    return Estimate(
        value=value,
        se=se,
        ess=torch.stack([part.ess for part in parts]).amin(0),
        khat=torch.where(khat.isnan().all(0), khat[0], worst),
        method=methods(*parts),
        particles=torch.stack([part.particles for part in parts]).sum(0),
    )


def exact(value: Tensor, method: str) -> Estimate:
    """Numbers without error."""
    zero = torch.zeros_like(value)
    return Estimate(value, zero, zero + math.inf, zero + math.nan, method)


def estimate_of(sampled: bool, weights: Tensor) -> Estimate:
    """The average of the weights (S, K, n) of each row, and how exact it is."""
    flat = weights.flatten(0, 1)
    value = log_mean_exp(flat, 0)
    if not sampled:
        return exact(value, "enumerated")
    se, ess = _errors(weights, value)
    used = torch.full_like(value, len(flat), dtype=torch.int64)
    return Estimate(value, se, ess, pareto_k(flat), "importance", used)


def _errors(weights: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Standard error of the log of the average, by the delta method, and sample size.

    The draws of the globals are strata: only the spread within each of them is error.
    """
    count, particles, _ = weights.shape
    peak = torch.where(value.isinf(), torch.zeros_like(value), value)
    relative = (weights - peak).exp()
    spread = relative.var(1) if particles > 1 else torch.full_like(relative[:, 0], math.nan)
    se = (spread.sum(0) / particles).sqrt() / count
    ess = relative.sum((0, 1)).square() / relative.square().sum((0, 1)).clamp_min(1e-300)
    return se, ess
