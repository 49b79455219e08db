"""Posterior draws of a mixture by Gibbs sampling, started at its variational posterior.

Mean-field draws are too narrow where components overlap. All full conditionals of a
conjugate mixture are exact and cheap (labels, hidden cells, then parameters; Diebolt and
Robert 1994, Estimation of finite mixture distributions through Bayesian sampling, JRSS B),
so a short chain from the guide's optimum repairs the intervals of small tables. It explores
the mode that the guide found, which is what an interval around that fit means.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.family import Draws
from probgen.leaves import gamma_draws, pick
from probgen.likelihoods import Chunk, Components, MixedRows, Statistics

__all__ = ["dirichlet_draw", "posterior_draws"]

WARM_UP = 20
#: sweeps for each draw that is kept: one draw a sweep had a median effective size near half
#: of what 90 % intervals need
THIN = 3
#: multiply-adds that a chain may cost before `posterior="auto"` keeps the guide's draws:
#: about a second on one core
BUDGET = 6e8


def posterior_draws(
    rows: MixedRows,
    components: Components,
    plugin: Callable[[Draws], Components],
    draw_weights: Callable[[Tensor, torch.Generator], Draws],
    batch: Batch,
    count: int,
    generator: torch.Generator,
    forced: bool,
) -> Draws:
    """`count` draws of the globals by site name, each (S, ...); empty when over budget.

    The chain starts at `components`. `plugin` turns a draw of the globals into components,
    `draw_weights` draws the globals of the weights given the counts (k,) of the labels.
    """
    x, seen, weight = _repeat(batch)
    d = len(rows.real)
    width = rows.k * (1 + d * d) + sum(leaf.size for _, leaf in rows.leaf_items())
    if not forced and len(x) * width * (THIN * count + WARM_UP) > BUDGET:
        return {}
    kept: list[Draws] = []
    for sweep in range(WARM_UP + THIN * count):
        stats = rows.no_rows()
        for chunk in rows.chunks(x, seen, components, keep=True):
            label = pick(chunk.logits.softmax(-1), generator)
            _gather_hard(rows, stats, chunk, label, weight[chunk.at], components, generator)
        draw = draw_weights(stats.weights, generator)
        if stats.moments is not None:
            draw["mean"], draw["precision"] = rows.normals.draw(stats.moments, generator)
        for slot, counts in stats.leaves.items():
            draw[f"probs_{slot}"] = dirichlet_draw(rows.leaf(slot).prior + counts, generator)
        components = plugin(draw)
        if sweep >= WARM_UP and (sweep - WARM_UP) % THIN == 0:
            kept.append(draw)
    rows.forget()
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
    rows: MixedRows,
    stats: Statistics,
    chunk: Chunk,
    label: Tensor,
    weight: Tensor,
    components: Components,
    generator: torch.Generator,
) -> None:
    """Add the statistics of rows with drawn labels, hidden cells and basis indices."""
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


def dirichlet_draw(alpha: Tensor, generator: torch.Generator) -> Tensor:
    """A Dirichlet draw for each row of parameters (..., b)."""
    g = gamma_draws(alpha, generator)
    return g / g.sum(-1, keepdim=True)
