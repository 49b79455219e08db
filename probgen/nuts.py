"""Markov chains over the global latents of a fitted pair: the No-U-Turn sampler of Pyro.

A reference for small models: exact up to Monte Carlo error where the chain mixes, at the cost of
thousands of passes over the table (Hoffman and Gelman 2014, The No-U-Turn sampler, JMLR 15). The
density that it walks on is the pair's own, with its row latents summed out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import torch
from pyro.infer import NUTS as PyroNUTS  # noqa: N811 - an acronym
from torch import Tensor
from torch.distributions import biject_to
from tqdm.auto import tqdm

from probgen.batch import Batch
from probgen.errors import FitError, NotSupported, SchemaError, message
from probgen.family import Draws, Family
from probgen.queries.contraction import Plan, global_sites, log_joint, survey, traced
from probgen.queries.draws import draw_globals, one_draw
from probgen.session import guarded, spawn_seeds, threads
from probgen.training import FitResult

__all__ = ["NUTS", "sample_globals", "sampler_of"]

#: draws of the guide by which a chain is centred and scaled, at least, and for each global
GUIDE_DRAWS, EACH = 200, 4
#: globals up to which the mass matrix is full
WIDEST = 100


@dataclass(frozen=True)
class NUTS:
    """Settings of ``fit(table, inference=NUTS(...))``; ``inference="nuts"`` takes these.

    Parameters
    ----------
    warmup : int
        Steps in which step size and mass matrix adapt; they are thrown away.
    steps : int
        Steps that are kept, at least as many as the estimator's `draws`, to which the verbs
        thin them.
    acceptance : float
        Mean acceptance that the step size aims at, in (0, 1); higher means smaller steps and
        fewer divergences.
    depth : int
        A step costs at most 2^depth - 1 gradients.

    Examples
    --------
    >>> NUTS(warmup=300).steps
    1000
    """

    warmup: int = 500
    steps: int = 1000
    acceptance: float = 0.8
    depth: int = 10

    def __post_init__(self) -> None:
        for name, low in (("warmup", 20), ("steps", 8), ("depth", 1)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < low:
                needed = f"a whole number, at least {low}"
                raise SchemaError(message(f"{name}={value!r}", needed, f"change {name}"))
        if not 0 < self.acceptance < 1:
            raise SchemaError(message(
                f"acceptance={self.acceptance!r}", "0 < acceptance < 1", "change acceptance"
            ))  # fmt: skip


def sampler_of(inference: Any) -> NUTS | None:
    """What a setting of `inference` asks for; None for variational inference alone."""
    if isinstance(inference, NUTS):
        return inference
    if inference not in ("vi", "nuts"):
        raise SchemaError(message(
            f"inference={inference!r}", "'vi', 'nuts' or pg.NUTS(...)", "change inference"
        ))  # fmt: skip
    return NUTS() if inference == "nuts" else None


def sample_globals(
    family: Family, batch: Batch, result: FitResult, settings: NUTS, progress: bool = False
) -> FitResult:
    """Run one chain from the variational optimum of a family, which keeps its draws.

    Parameters
    ----------
    family : Family
        Fitted; `family.sampled` is set.
    batch : Batch
        The rows that it was fitted to.
    result : FitResult
        Of the variational fit.
    settings : NUTS
    progress : bool

    Returns
    -------
    FitResult
        The same with engine "nuts", the seconds of both, and `chain`, what is known of it.

    Raises
    ------
    NotSupported
        If the family has no continuous globals, samples row latents, learns other numbers
        beside its globals, or has a sampler of its own.
    FitError
        If the density is not finite where the chain would start.
    """
    begin = time.perf_counter()
    seed = spawn_seeds([result.seed, 3], 1)[0]
    with guarded(seed), threads(1):
        target = _Target(family, batch, seed)
        draws, chain = _run(target, settings, progress)
    family.sampled = draws
    seconds = result.seconds + time.perf_counter() - begin
    return replace(result, engine="nuts", seconds=seconds, chain=chain)


class _Target:
    """Minus the log joint density of rows and globals, nats, as a function of one vector.

    The vector is that of the unconstrained globals, centred and scaled by draws of the guide.
    """

    def __init__(self, family: Family, batch: Batch, seed: int) -> None:
        self.family, self.batch = family, batch
        _refuse_own_sampler(family)
        draws = draw_globals(family, 1, seed, batch)
        if not draws:
            raise _no(family, "no global latents", "sites outside of batch.rows()")
        count = max(GUIDE_DRAWS, EACH * sum(value[0].numel() for value in draws.values()))
        draws = draw_globals(family, count, seed, batch)
        first = one_draw(draws, 0)
        self.plan = self._planned(first)
        sites = global_sites(traced(family.model, family.typical(batch), first))
        discrete = [name for name in draws if sites[name]["fn"].support.is_discrete]
        if discrete:
            raise _no(family, f"discrete global latents {discrete}", "continuous ones")
        self.transforms = {name: biject_to(sites[name]["fn"].support) for name in draws}
        self._refuse_parameters(first)
        self.dtypes = {name: value.dtype for name, value in draws.items()}
        free = {name: self.transforms[name].inv(value) for name, value in draws.items()}
        self.shapes = {name: value.shape[1:] for name, value in free.items()}
        flat = torch.cat([v.reshape(count, -1).double() for v in free.values()], 1)
        self.centre, self.root = flat.mean(0), _root(flat)

    def _planned(self, values: dict[str, Tensor]) -> Plan:
        plan = survey(self.family, self.batch, values)
        if plan.sampled:
            names = sorted(plan.proposed | plan.prior)
            raise _no(
                self.family, f"row latents {names} that are not summed out",
                "a density of a row in closed form given the globals (unseen cells on which other "
                "columns depend are latents too)",
            )  # fmt: skip
        return plan

    def _refuse_parameters(self, values: dict[str, Tensor]) -> None:
        with torch.enable_grad():
            rows, prior = log_joint(self.family, self.batch, self.plan, values)
            total = rows.sum() + prior
        if not total.requires_grad:
            return
        named = {n: p for n, p in self.family.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
        learned = [n for n, g in zip(named, found, strict=True) if g is not None]
        raise _no(
            self.family, f"learned parameters {learned} in the model",
            "a model all of whose unknown numbers are global sites with a prior",
        )  # fmt: skip

    def values(self, free: Tensor) -> tuple[Draws, Tensor]:
        """The globals at an unconstrained vector, and the log volume of the map."""
        found, stretch, start = {}, free.new_zeros(()), 0
        for name, shape in self.shapes.items():
            part = free[start : start + shape.numel()].reshape(shape)
            start += shape.numel()
            found[name] = self.transforms[name](part).to(self.dtypes[name])
            stretch = stretch + self.transforms[name].log_abs_det_jacobian(part, found[name]).sum()
        return found, stretch

    def at(self, vector: Tensor) -> Tensor:
        """The unconstrained globals at the vector that the chain walks on."""
        return self.centre + self.root @ vector

    def __call__(self, state: dict[str, Tensor]) -> Tensor:
        values, stretch = self.values(self.at(state["globals"]))
        rows, prior = log_joint(self.family, self.batch, self.plan, values)
        return -((rows * self.batch.weight).sum() + prior + stretch)


def _root(flat: Tensor) -> Tensor:
    """Cholesky factor (d, d) of the covariance of draws (S, d), shrunk towards its diagonal."""
    cov = torch.cov(flat.T).reshape(flat.shape[1], flat.shape[1])
    spread = cov.diagonal().clamp_min(1e-24).sqrt()
    correlation = cov / spread[:, None] / spread
    eye = torch.eye(len(cov), dtype=cov.dtype, device=cov.device)
    root, wrong = torch.linalg.cholesky_ex(0.9 * correlation + 0.1 * eye)
    return spread[:, None] * (eye if bool(wrong) else root)


def _run(target: _Target, settings: NUTS, progress: bool) -> tuple[Draws, dict[str, float]]:
    """The kept draws of one chain, and what is known of it."""
    start = {"globals": torch.zeros_like(target.centre)}
    if not bool(target(start).isfinite()):
        raise FitError(message(
            "a log density that is not finite at the variational optimum", "a number",
            "look at the model there: fit with inference='vi' and score the table",
        ))  # fmt: skip
    kernel = PyroNUTS(
        potential_fn=target, full_mass=len(target.centre) <= WIDEST,
        target_accept_prob=settings.acceptance, max_tree_depth=settings.depth,
    )  # fmt: skip
    kernel.initial_params = start
    kernel.setup(settings.warmup)
    state, kept = start, []
    total = settings.warmup + settings.steps
    for step in tqdm(range(total), desc="nuts", disable=not progress, leave=False):
        state = kernel.sample(state)
        if step >= settings.warmup:
            kept.append(state["globals"].detach().clone())
    known = {
        "warmup": settings.warmup, "steps": settings.steps,
        "divergences": len(kernel.diagnostics()["divergences"]),
        "acceptance": float(kernel.logging()["acc. prob"]), "step_size": float(kernel.step_size),
    }  # fmt: skip
    with torch.no_grad():
        draws = [target.values(target.at(vector))[0] for vector in kept]
    return {name: torch.stack([d[name] for d in draws]) for name in draws[0]}, known


def _refuse_own_sampler(family: Family) -> None:
    if family.draw_globals(1, torch.Generator().manual_seed(0)) is not None:
        raise _no(
            family, "a sampler of its own", "a family whose posterior draws come from a guide"
        )


def _no(family: Family, found: str, needed: str) -> NotSupported:
    return NotSupported(message(
        f"inference='nuts' for {type(family).__name__} with {found}", needed,
        "leave inference out; check(table, train=...) says how good the variational fit is",
    ))  # fmt: skip
