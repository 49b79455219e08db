"""What each node of a network is, which rows are worked out together, and over what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from probgen.graphs.dag import Dag

__all__ = ["Group", "Layout", "groups", "mixed_radix"]

#: rows that a pattern of seen cells must have on average, that patterns are told apart
FEW = 32
#: rows that are worked out at once
ROWS = 8192


@dataclass(frozen=True)
class Layout:
    """A graph over nodes of which each is discrete (`sizes` > 0) or normal (0)."""

    dag: Dag
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def discrete(self) -> tuple[int, ...]:
        """Numbers of the discrete nodes."""
        return tuple(i for i, size in enumerate(self.sizes) if size)

    @cached_property
    def normal(self) -> tuple[int, ...]:
        """Numbers of the normal nodes."""
        return tuple(i for i, size in enumerate(self.sizes) if not size)

    @cached_property
    def labels(self) -> tuple[tuple[int, ...], ...]:
        """Discrete parents of each node."""
        return tuple(tuple(p for p in own if self.sizes[p]) for own in self.dag.parents)

    @cached_property
    def inputs(self) -> tuple[tuple[int, ...], ...]:
        """Normal parents of each node."""
        return tuple(tuple(p for p in own if not self.sizes[p]) for own in self.dag.parents)

    def shape(self, node: int) -> tuple[int, ...]:
        """Sizes of the discrete parents of a node."""
        return tuple(self.sizes[p] for p in self.labels[node])

    def configurations(self, node: int) -> int:
        """How many configurations the discrete parents of a node have."""
        count = 1
        for size in self.shape(node):
            count *= size
        return count

    def hidden_inputs(self, seen: Tensor) -> Tensor:
        """Rows (n,) with an unseen normal node above a seen node: it must be integrated out."""
        found = torch.zeros(len(seen), dtype=torch.bool, device=seen.device)
        for i in self.normal:
            if self._below[i]:
                found |= ~seen[:, i] & seen[:, self._below[i]].any(1)
        return found


    @cached_property
    def _below(self) -> list[list[int]]:
        return [sorted(self.dag.descendants([i]) - {i}) for i in range(len(self))]

    def informed(self, seen: Tensor) -> Tensor:
        """Cells (n, d) that are seen or lie above a seen one: only these say something."""
        found = seen.clone()
        for i, below in enumerate(self._below):
            if below:
                found[:, i] |= seen[:, below].any(1)
        return found

    def unsettled(self, seen: Tensor) -> bool:
        """Whether some unseen cell lies above a seen one, so that parameters hang together."""
        return bool((self.informed(seen) & ~seen).any())


def mixed_radix(codes: Sequence[Tensor], sizes: Sequence[int]) -> Tensor | int:
    """The number of a configuration, the last code counting fastest; 0 for none."""
    found: Tensor | int = 0
    for code, size in zip(codes, sizes, strict=True):
        found = found * size + code
    return found


@dataclass(frozen=True)
class Group:
    """Rows that are summed together.

    `fixed` are the discrete nodes that all of these rows see, `soft` those that some see, and
    `known` the normal nodes that are seen: the same in all of them.
    """

    rows: Tensor
    fixed: frozenset[int]
    soft: frozenset[int]
    known: frozenset[int]

    @property
    def some(self) -> frozenset[int]:
        """The nodes that some of the rows see."""
        return self.fixed | self.soft | self.known


def groups(layout: Layout, seen: Tensor, size: int = ROWS) -> Iterator[Group]:
    """Every row once, in groups.

    Rows with one pattern of seen cells stand together. Where there are many patterns, each with
    few rows, only the pattern of the normal nodes counts, and what a row sees of a discrete node
    becomes an indicator over its states: one sum for all.
    """
    if not len(seen):
        return
    patterns, back = seen.unique(dim=0, return_inverse=True)
    if len(patterns) * FEW > len(seen) and len(patterns) > 1:
        normal = list(layout.normal)
        patterns, back = seen[:, normal].unique(dim=0, return_inverse=True)
    order = back.argsort(stable=True)
    for rows in order.split(back.bincount(minlength=len(patterns)).tolist()):
        for part in rows.split(size):
            own = seen[part]
            every, some = own.all(0).tolist(), own.any(0).tolist()
            fixed = frozenset(i for i in layout.discrete if every[i])
            soft = frozenset(i for i in layout.discrete if some[i] and not every[i])
            yield Group(part, fixed, soft, frozenset(i for i in layout.normal if every[i]))
