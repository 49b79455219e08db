"""Many marginals of the same rows: each cell is looked at once, whatever the sets of columns.

To say which cell of a row is odd, its density is asked for without each column in turn, or for
hundreds of sets of columns. Under a mixture all of them are sums, component by component, of the
same terms: one a leaf, and for the block of normals one a distinct set of real slots.

Sizes: g masks, n rows, k components, m slots, d real slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from probgen.full_normals import FullNormals
from probgen.holes import Marginals
from probgen.likelihoods import Components, MixedRows
from probgen.normals import Kernel, cholesky, log_det_of, log_kernel

__all__ = ["log_rows_masked"]

#: numbers in the widest intermediate: 16 MB of float64
ELEMENTS = 2_000_000


def log_rows_masked(
    rows: MixedRows, x: Tensor, seen: Tensor, masks: Tensor, components: Components
) -> Tensor:
    """Log density of the cells that are seen and inside a mask.

    Parameters
    ----------
    rows : MixedRows
    x : Tensor (n, m)
    seen : Tensor (n, m) of bool
    masks : Tensor (g, m) of bool
    components : Components

    Returns
    -------
    Tensor (g, n)
        Float64, nats, encoded units; equal to g calls of `MixedRows.log_rows` up to rounding.
    """
    g, n, k = len(masks), len(x), rows.k
    out = torch.empty(g, n, dtype=torch.float64, device=x.device)
    real, which = masks[:1, rows.real], masks.new_zeros(g, dtype=torch.int64)
    if rows.real:
        real, which = masks[:, rows.real].unique(dim=0, return_inverse=True)
    sizes = [leaf.size for _, leaf in rows.leaf_items()]
    width = max([k * (g + len(sizes) + len(real)), k * len(rows.real) ** 2, *sizes])
    step = max(1, ELEMENTS // width)
    for start in range(0, n, step):
        part = slice(start, start + step)
        values, on = x[part].double(), seen[part]
        logits = components.log_weights + _leaves(rows, values, on, masks, components)
        if components.kernel is not None:
            block, block_seen = rows.block(values), rows.block(on)
            logits += _normals(rows, block, block_seen, real, components.kernel)[which]
        out[:, part] = logits.logsumexp(-1)
    return out


def _leaves(
    rows: MixedRows, x: Tensor, seen: Tensor, masks: Tensor, components: Components
) -> Tensor:
    """Sum of the leaves inside each mask (g, n, k)."""
    slots = list(components.leaves)
    terms = x.new_zeros(len(slots), len(x), rows.k)
    for place, slot in enumerate(slots):
        hit = seen[:, slot].nonzero()[:, 0]
        leaf = rows.leaf(slot)
        terms[place, hit] = leaf.log_prob(leaf.look(x[hit, slot]), components.leaves[slot])
    # sums of what is inside, never differences of what is outside: no digits are lost
    inside = masks[:, slots].to(x.dtype)
    return (inside @ terms.flatten(1)).view(len(masks), len(x), rows.k)


def _normals(rows: MixedRows, x: Tensor, seen: Tensor, masks: Tensor, kernel: Kernel) -> Tensor:
    """Log density (u, n, k) of the real slots inside each of u masks."""
    out = x.new_zeros(len(masks), len(x), rows.k)
    hidden = (~masks).sum(1)
    alone = hidden == 1 if isinstance(rows.normals, FullNormals) else hidden < 0
    if bool(alone.any()):
        out[alone] = _without_each(rows, x, seen, kernel)[(~masks[alone]).int().argmax(1)]
    for place in (~alone).nonzero()[:, 0].tolist():
        on = seen & masks[place]
        for at, patterns in rows.normals.groups(on):
            prepared = rows.normals.prepare(kernel, patterns)
            out[place, at] = prepared.log_rows(x[at], on[at])
    return out


def _without_each(rows: MixedRows, x: Tensor, seen: Tensor, kernel: Kernel) -> Tensor:
    """Log density (d, n, k) of the seen slots but one, for each slot that is left out.

    With P the precision of the seen slots and v = P (x - mean), leaving slot j out lowers the
    squared distance by v_j^2 / P_jj and the log determinant by log P_jj: one factorisation
    serves all slots.
    """
    n, d = x.shape
    out = x.new_zeros(d, n, rows.k)
    for at, patterns in rows.normals.groups(seen):
        on = seen[at].to(x.dtype)[:, None]
        if patterns is None:
            gap = x[at][:, None] - kernel.mean
            root = cholesky(kernel.precision)
            white = torch.einsum("kij,nki->nkj", root, gap)
            scaled = torch.einsum("kij,nkj->nki", root, white)
            quad, log_det = white.square().sum(-1), log_det_of(root)
            own = kernel.precision.diagonal(dim1=-2, dim2=-1)
        else:
            part = Marginals(kernel, patterns)
            quad, scaled, own = part.pulls(x[at], seen[at])
            log_det = part.log_det if patterns.back is None else part.log_det[patterns.back]
        here = on > 0
        own = torch.where(here, own, 1.0)
        less = (quad[..., None] - scaled.square() / own).clamp_min(0.0)
        count = on.sum(-1, keepdim=True) - on
        value = log_kernel(
            less.movedim(-1, 0), (log_det[..., None] - own.log()).movedim(-1, 0),
            count.movedim(-1, 0), kernel,
        )  # fmt: skip
        out[:, at] = value
    return out
