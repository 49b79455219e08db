"""What the guide says of the latents of each row, and the rows decoded from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from probgen.batch import Batch
from probgen.errors import NotSupported, message
from probgen.family import Draws, Family
from probgen.queries.contraction import Plan, label_log_probs, row_sites, survey, traced
from probgen.queries.draws import Predictive, count_draws, encoded, keyed, one_draw, one_row, tile
from probgen.session import guarded

__all__ = ["latent", "reconstruct"]

#: rows, times particles, that a pair sees at once
_TILED = 2**15


def latent(
    predictive: Predictive, batch: Batch, *, member: int = 0, particles: int = 64
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of the latents of each row.

    Latents that the guide draws are described under q(z | x); labels that the model sums
    out, by their exact probabilities p(label | x) (given the guide's draws, if any); the
    family's own `row_latents` replaces both.

    Parameters
    ----------
    predictive : Predictive
    batch : Batch of n rows
    member : int
        Whose latents: those of independent restarts cannot be averaged.
    particles : int
        Keyed draws a row, used where one latent may depend on another or a distribution
        has no stated moments.

    Returns
    -------
    dict
        Site -> (mean, sd), each (n, ...), averaged over the draws of the globals. A
        categorical site gives the probabilities of its codes, (n, codes).

    Raises
    ------
    NotSupported
        If the rows have no latents, or only such as the guide lacks.
    """
    family, draws = predictive.members[member], predictive.draws[member]
    stated = _stated(family, batch)
    if stated is not None:
        return stated
    # no rows: a blank one tells the shapes, and is cut off again
    rows = keyed(batch) if len(batch) else one_row(family, batch)
    parts = []
    with torch.no_grad(), guarded(0):
        plan = survey(family, rows, one_draw(draws, 0))
        _require_latents(family, bool(plan.proposed or plan.enumerated))
        times = _particles(family, draws, rows, plan, particles)
        size = max(1, _TILED // times)
        for at in range(0, len(rows), size):
            parts.append(_moments(family, draws, rows.take(slice(at, at + size)), plan, times))

    def joined(name: str, which: int) -> Tensor:
        return torch.cat([part[name][which] for part in parts])[: len(batch)]

    return {name: (joined(name, 0), joined(name, 1)) for name in parts[0]}


def _stated(family: Family, batch: Batch) -> dict[str, tuple[Tensor, Tensor]] | None:
    """What the family itself says of its labels, without entering Pyro."""
    with torch.no_grad():
        own = family.row_latents(batch)
        if own is None:
            return None
        return {name: (p, (p * (1 - p)).sqrt()) for name, p in own.items()}


def _require_latents(family: Family, has: bool) -> None:
    if not has:
        raise NotSupported(
            message(
                f"a guide of {type(family).__name__} without latents of rows",
                "a family with latents in the rows plate of its guide",
                "ask a family with a latent space, such as an autoencoder",
            )
        )


def _guide_sites(
    family: Family, batch: Batch, values: dict[str, Tensor], keys: Tensor, plan: Plan
) -> dict[str, dict[str, Any]]:
    if not plan.proposed:
        return {}
    sites = row_sites(traced(family.guide, batch, values, keys), observed=False)
    return {n: s for n, s in sites.items() if not s["infer"].get("is_auxiliary", False)}


def _particles(family: Family, draws: Draws, batch: Batch, plan: Plan, particles: int) -> int:
    """One where a single draw is exact: no guide site, or one with moments of its own."""
    tiled, keys = tile(batch.take(slice(0, 1)), 1)
    sites = _guide_sites(family, tiled, one_draw(draws, 0), keys, plan)
    exact = [_own_moments(site["fn"]) is not None for site in sites.values()]
    alone = not plan.proposed or (exact == [True] and not plan.enumerated)
    return 1 if alone and not plan.prior else max(2, particles)


def _own_moments(fn: td.Distribution) -> tuple[Tensor, Tensor] | None:
    if isinstance(fn, td.Categorical):
        return fn.probs, fn.probs * (1 - fn.probs)
    try:
        return fn.mean, fn.variance
    except NotImplementedError:
        return None


def _rows_first(value: Tensor, site: dict[str, Any], times: int) -> Tensor:
    """(..., K * n, event) -> (K, n, ..., event)."""
    fn = site["fn"]
    extra = 1 if isinstance(fn, td.Categorical) and value.dim() > len(fn.batch_shape) else 0
    axis = value.dim() - len(fn.event_shape) - extra - 1
    value = value.movedim(axis, 0)
    return value.reshape(times, -1, *value.shape[1:])


def _moments(
    family: Family, draws: Draws, batch: Batch, plan: Plan, times: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """By the laws of total expectation and variance over particles and draws."""
    sums: dict[str, list[Tensor]] = {}
    count = count_draws(draws)
    for s in range(count):
        tiled, keys = tile(batch, times, s * times)
        values = one_draw(draws, s)
        for name, (mean, variance) in _described(family, tiled, values, keys, plan, times).items():
            terms = [mean.mean(0), mean.square().mean(0), variance.mean(0)]
            old = sums.get(name, [torch.zeros_like(term) for term in terms])
            sums[name] = [a + b for a, b in zip(old, terms, strict=True)]
    found = {}
    for name, terms in sums.items():
        mean, square, variance = (term / count for term in terms)
        found[name] = mean, (variance + (square - mean.square()).clamp_min(0)).sqrt()
    return found


def _described(
    family: Family,
    batch: Batch,
    values: dict[str, Tensor],
    keys: Tensor,
    plan: Plan,
    times: int,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Means and variances (K, n, ...) of the latents at each particle."""
    found = {}
    for name, site in _guide_sites(family, batch, values, keys, plan).items():
        own = _own_moments(site["fn"])
        mean, variance = own or (site["value"], torch.zeros_like(site["value"]))
        found[name] = _rows_first(mean, site, times), _rows_first(variance, site, times)
    if plan.enumerated:
        for name, log_p in label_log_probs(family, batch, values, keys, plan).items():
            p = log_p.exp().reshape(times, -1, log_p.shape[1])
            found[name] = p, p * (1 - p)
    return found


def reconstruct(
    predictive: Predictive, batch: Batch, *, member: int = 0, particles: int = 64
) -> Tensor:
    """The rows decoded from their latents: E[x' | z] averaged over q(z | x).

    Parameters
    ----------
    predictive : Predictive
    batch : Batch of n rows
    member : int
        Whose latents are decoded.
    particles : int
        Keyed draws of the latents a row and draw of the globals.

    Returns
    -------
    Tensor (n, m)
        Means of real and count slots; the most probable code of a category slot. A
        distribution may state a representative value itself as its attribute ``centre``.

    Raises
    ------
    NotSupported
        If the guide has no row latents.
    """
    family, draws = predictive.members[member], predictive.draws[member]
    batch = keyed(batch)
    if not len(batch):
        return encoded(batch).clone()
    parts = []
    with torch.no_grad(), guarded(0):
        plan = survey(family, batch, one_draw(draws, 0))
        _require_latents(family, bool(plan.proposed))
        size = max(1, _TILED // particles)
        for at in range(0, len(batch), size):
            part = batch.take(slice(at, at + size))
            parts.append(_decoded(family, draws, part, particles))
    return torch.cat(parts)


def _decoded(family: Family, draws: Draws, batch: Batch, times: int) -> Tensor:
    sizes = _sizes(family, batch.seen.shape[1])
    totals = [encoded(batch).new_zeros(len(batch), size or 1) for size in sizes]
    for s in range(count_draws(draws)):
        tiled, keys = tile(batch, times, s * times)
        values = one_draw(draws, s)
        sites = row_sites(traced(family.guide, tiled, values, keys), observed=False)
        values = {**values, **{name: site["value"] for name, site in sites.items()}}
        blank = replace(tiled, x=None, sites={})
        trace = traced(family.model, blank, values, keys, lenient=True)
        for name, columns in blank.sites.items():
            value = _shown(trace.nodes[name], [sizes[c] for c in columns])
            value = value.reshape(times, len(batch), len(columns))
            for i, column in enumerate(columns):
                totals[column] += _vote(value[..., i], sizes[column])
    count = times * count_draws(draws)
    shown = [
        total.argmax(1).to(total.dtype) if size else total[:, 0] / count
        for total, size in zip(totals, sizes, strict=True)
    ]
    return torch.stack(shown, 1)


def _sizes(family: Family, m: int) -> list[int]:
    """Number of codes of each slot; 0 where it is real or a count."""
    slots = getattr(family.schema, "slots", None)
    return [0] * m if slots is None else [s.size if s.kind == "category" else 0 for s in slots]


def _shown(site: dict[str, Any], sizes: list[int]) -> Tensor:
    """A representative value of an observed site, else its draw."""
    fn = site["fn"]
    centre = getattr(fn, "centre", None)
    if centre is not None:
        return centre
    own = None if any(sizes) else _own_moments(fn)
    return site["value"] if own is None or own[0].isnan().any() else own[0]


def _vote(value: Tensor, size: int) -> Tensor:
    """Sum over particles (K, n) -> (n, 1), or how often each code came up (n, size)."""
    if not size:
        return value.sum(0)[:, None]
    return torch.nn.functional.one_hot(value.long(), size).sum(0).to(value.dtype)
