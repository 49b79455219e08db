"""Unseen cells of rows given weighed latents: mixtures over what the heads say at each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from probgen.columns import Slot
from probgen.conditionals import Conditionals, Drawn, Levels, Reals, atom_slots, unseen_rows
from probgen.nn.heads import CodeHead, CountHead, Heads, RealHead

__all__ = ["stacked", "unseen_cells"]

#: values of each particle that a count is summed up by
VALUES = 4


def unseen_cells(
    slots: Sequence[Slot], heads: Heads, seen: Tensor, out: Tensor, share: Tensor
) -> Conditionals:
    """By unseen slot, from outputs (K, n, width) at K latents of each row with shares (K, n)."""
    atoms = atom_slots(slots)
    found: Conditionals = {}
    for i, off in unseen_rows(slots, seen).items():
        number, member, span = heads.at[i]
        own, mine = out[..., span][:, off], share[:, off]
        if i in atoms:  # the number is that of a row without atom
            atom, _, place = heads.at[atoms[i]]
            head: Any = heads.each()[atom]
            mine = mine * _probs(head, out[..., place][:, off])[..., 0]
        found[i] = off, _mixed(heads.each()[number], member, own, mine, slots[i].size)
    return found


def _probs(head: CodeHead, out: Tensor) -> Tensor:
    """Probabilities (K, c, codes) from outputs (K, c, width)."""
    return head.probs(out.flatten(0, 1)).unflatten(0, out.shape[:2]).double()


def _mixed(head: Any, member: int, out: Tensor, share: Tensor, size: int) -> Any:
    """The mixture over particles of one slot: outputs (K, c, width), shares (K, c)."""
    k, c = share.shape
    if isinstance(head, CodeHead):
        probs = (_probs(head, out) * share[..., None]).sum(0)
        return Levels(nn.functional.pad(probs, (0, size - head.size)))

    def wide(value: Tensor) -> Tensor:
        """(K * c, k) -> (c, K * k)."""
        return value.double().unflatten(0, (k, c)).transpose(0, 1).flatten(1)

    each = share.flatten()[:, None]
    if isinstance(head, CountHead):
        value, weights = head.points(out.flatten(0, 1), member, VALUES)
        return Drawn(wide(value), wide(weights * each))
    assert isinstance(head, RealHead)  # noqa: S101 - the only kind left
    weights, mean, scale = head.normals(out.flatten(0, 1), member)
    return Reals(wide(weights * each), wide(mean), wide(scale),
                 torch.full_like(wide(mean), math.inf))  # fmt: skip


def stacked(parts: list[tuple[Tensor, Any]]) -> tuple[Tensor, Any]:
    """The cells of all chunks of rows, one after another."""
    rows = torch.cat([at for at, _ in parts])
    kind, first = type(parts[0][1]), parts[0][1]
    names = [f for f in vars(first) if isinstance(getattr(first, f), Tensor)]
    return rows, kind(*(torch.cat([getattr(own, f) for _, own in parts]) for f in names))
