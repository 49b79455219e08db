"""What each node of a network is, which rows are worked out together, and over what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from probgen.graphs.dag import Dag

__all__ = ["Group", "Layout", "groups", "kinds_of", "mixed_radix"]

#: rows that a pattern of seen cells must have on average, that patterns are told apart
FEW = 32
#: rows that are worked out at once
ROWS = 8192


@dataclass(frozen=True)
class Layout:
    """A graph over nodes of which each is discrete (`sizes` > 0) or normal (0)."""

    dag: Dag
    sizes: tuple[int, ...]
    names: tuple[str, ...] = ()

    def named(self, nodes: Iterable[int]) -> str:
        """Names of nodes for a message; numbers where there are none."""
        return ", ".join(repr(self.names[i]) if self.names else str(i) for i in nodes)

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def states(self) -> tuple[int, ...]:
        """States of each node in a sum over discrete ones: 1 of a normal node."""
        return tuple(max(1, size) for size in self.sizes)

    @cached_property
    def discrete(self) -> tuple[int, ...]:
        """Numbers of the discrete nodes."""
        return tuple(i for i, size in enumerate(self.sizes) if size)

    @cached_property
    def normal(self) -> tuple[int, ...]:
        """Numbers of the normal nodes."""
        return tuple(i for i, size in enumerate(self.sizes) if not size)

    @cached_property
    def tabled(self) -> tuple[int, ...]:
        """Numbers of the discrete nodes whose parents are discrete: they have tables."""
        return tuple(i for i in self.discrete if not self.inputs[i])

    @cached_property
    def curved(self) -> tuple[int, ...]:
        """Numbers of the discrete nodes with normal parents: softmax regressions."""
        return tuple(i for i in self.discrete if self.inputs[i])

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

    def open_curves(self, seen: Tensor) -> Tensor:
        """Rows (n,) with an unseen normal parent of a softmax node that counts: no exact sum."""
        found = torch.zeros(len(seen), dtype=torch.bool, device=seen.device)
        informed = self.informed(seen) if self.curved else seen
        for i in self.curved:
            found |= informed[:, i] & ~seen[:, list(self.inputs[i])].all(1)
        return found

    def entangled(self, seen: Tensor) -> Tensor:
        """Rows (n,) with an unseen normal node above a seen one, or below an unseen normal one."""
        found = self.hidden_inputs(seen)
        for i in self.normal:
            if self.inputs[i]:
                found |= ~seen[:, i] & ~seen[:, list(self.inputs[i])].all(1)
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


def mixed_radix(codes: Sequence[Tensor], sizes: Sequence[int]) -> Tensor | int:
    """The number of a configuration, the last code counting fastest; 0 for none."""
    found: Tensor | int = 0
    for code, size in zip(codes, sizes, strict=True):
        found = found * size + code
    return found


def kinds_of(codes: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The first row of each kind of rows of codes (n, k), and the kind (n,) of each row."""
    kind = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
    largest = 1
    for column, size in zip(codes.T, sizes, strict=True):
        if largest * size >= 2**62:  # the numbers of what was met are smaller
            kind = kind.unique(return_inverse=True)[1]
            largest = len(codes)
        kind = kind * size + column
        largest *= size
    found, back = kind.unique(return_inverse=True)
    places = torch.arange(len(codes), device=codes.device)
    first = torch.full_like(found, len(codes)).scatter_reduce(0, back, places, "amin")
    return first, back


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
    _, back = kinds_of(seen.long(), [2] * seen.shape[1])
    counts = back.bincount()
    if len(counts) > 1 and len(counts) * FEW > len(seen):
        normal = list(layout.normal)
        _, back = kinds_of(seen[:, normal].long(), [2] * len(normal))
        counts = back.bincount()
    order = back.argsort(stable=True)
    for rows in order.split(counts.tolist()):
        for part in rows.split(size):
            own = seen[part]
            every, some = own.all(0).tolist(), own.any(0).tolist()
            fixed = frozenset(i for i in layout.discrete if every[i])
            soft = frozenset(i for i in layout.discrete if some[i] and not every[i])
            yield Group(part, fixed, soft, frozenset(i for i in layout.normal if every[i]))
