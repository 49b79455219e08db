"""Posterior draws of a mixture by Gibbs sampling, started at its variational posterior.

Mean-field draws are too narrow where components overlap. All full conditionals of a
conjugate mixture are exact and cheap (labels, hidden cells, then parameters; Diebolt and
Robert 1994, Estimation of finite mixture distributions through Bayesian sampling, JRSS B),
so a short chain from the guide's optimum repairs the intervals of small tables. It explores
the mode that the guide found, which is what an interval around that fit means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.family import Draws
from probgen.leaves import gamma_draws, pick
from probgen.likelihoods import Chunk, Components, Statistics

if TYPE_CHECKING:
    from probgen.families.mixture import Mixture

__all__ = ["posterior_draws"]

WARM_UP = 20
#: multiply-adds that a chain may cost before `posterior="auto"` keeps the guide's draws:
#: about a second on one core
BUDGET = 3e8


def posterior_draws(
    family: Mixture, batch: Batch, count: int, generator: torch.Generator, forced: bool
) -> Draws:
    """`count` draws of the globals by site name, each (S, ...); empty when over budget."""
    x, seen, weight = _repeat(batch)
    rows = family.rows
    d = len(rows.real)
    width = rows.k * (1 + d * d) + sum(leaf.size for _, leaf in rows.leaf_items())
    if not forced and len(x) * width * (count + WARM_UP) > BUDGET:
        return {}
    components = family.expected()
    kept: list[Draws] = []
    for sweep in range(WARM_UP + count):
        stats = rows.no_rows()
        for chunk in rows.chunks(x, seen, components):
            label = pick(chunk.logits.softmax(-1), generator)
            _gather_hard(family, stats, chunk, label, weight[chunk.at], components, generator)
        draw = _draw(family, stats, generator)
        components = family.plugin(draw)
        if sweep >= WARM_UP:
            kept.append(draw)
    return {name: torch.stack([draw[name] for draw in kept]) for name in kept[0]}


def _repeat(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Rows with whole frequency weights are repeated: each copy has a label of its own."""
    assert batch.x is not None  # noqa: S101 - a training batch
    x, weight = batch.x.double(), batch.weight.double()
    whole = bool((weight == weight.round()).all()) and float(weight.sum()) <= 10 * len(x)
    if not whole or bool((weight == 1).all()):
        return x, batch.seen, weight
    times = weight.long()
    again = x.repeat_interleave(times, 0)
    return again, batch.seen.repeat_interleave(times, 0), again.new_ones(len(again))


def _gather_hard(
    family: Mixture,
    stats: Statistics,
    chunk: Chunk,
    label: Tensor,
    weight: Tensor,
    components: Components,
    generator: torch.Generator,
) -> None:
    """Add the statistics of rows with drawn labels, hidden cells and basis indices."""
    rows = family.rows
    r = torch.nn.functional.one_hot(label, rows.k).double() * weight[:, None]
    stats.weights += r.sum(0)
    if stats.moments is not None:
        block, on = chunk.piece.block, chunk.piece.block_seen
        if rows.normals.needs_filling and not bool(on.all()):
            block = chunk.prepared.fill(block, on, label, generator)
            on = torch.ones_like(on)
        stats.moments += rows.normals.gather_hard(block, on, r)
    for slot, total in stats.leaves.items():
        seen, look = chunk.piece.looks[slot]
        own, w = (label, weight) if seen is None else (label[seen], weight[seen])
        basis = rows.leaf(slot).assign(look, components.leaves[slot].exp()[own], generator)
        total.index_put_((own, basis), w, accumulate=True)


def _draw(family: Mixture, stats: Statistics, generator: torch.Generator) -> Draws:
    """All globals given complete data: conjugate draws."""
    draw: Draws = {}
    k, c = family.components, family.concentration
    if k > 1 and family.weights == "dp":
        after = stats.weights.flip(0).cumsum(0).flip(0) - stats.weights
        ab = torch.stack([1 + stats.weights, c + after.clamp_min(0.0)], -1)[:-1]
        draw["sticks"] = _dirichlet(ab, generator)[:, 0].clamp(1e-15, 1 - 1e-15)
    elif k > 1:
        draw["weights"] = _dirichlet(stats.weights + c / k, generator)
    if stats.moments is not None:
        draw["mean"], draw["precision"] = family.rows.normals.draw(stats.moments, generator)
    for slot, counts in stats.leaves.items():
        draw[f"probs_{slot}"] = _dirichlet(family.rows.leaf(slot).prior + counts, generator)
    return draw


def _dirichlet(alpha: Tensor, generator: torch.Generator) -> Tensor:
    g = gamma_draws(alpha, generator)
    return g / g.sum(-1, keepdim=True)
