"""Contingency counts of discrete columns: one node and its parents beside every other node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Block", "Columns", "compact"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Cells of a group of columns that are counted in one pass. A pass costs about the same as
#: long as its table stays in the cache, so four columns of three states are counted in the
#: time of one (`benchmarks/structure_speed.py`).
GROUP_CELLS = 64


@dataclass(frozen=True)
class Block:
    """Counts of configurations beside the columns of one group.

    Parameters
    ----------
    members : array (m,) of int
        The nodes of the group.
    starts : array (m,) of int
        Where the states of each begin along the last axis of `counts`.
    owner : array (s,) of int
        The position in `members` of the node to which each of the s states belongs.
    counts : array (configurations, states of the child, s) of float
    """

    members: Ints
    starts: Ints
    owner: Ints
    counts: Floats


@dataclass(frozen=True)
class _Group:
    members: Ints
    starts: Ints
    owner: Ints
    code: Ints
    cells: int
    states: Floats  # (cells, s): which cell holds which state


def compact(code: Ints, cells: int, bound: int) -> tuple[Ints, int]:
    """The same partition of the rows by codes below `bound` or the number of distinct codes."""
    if cells <= bound:
        return code, cells
    if cells <= 8 * len(code) + bound:
        present = np.bincount(code, minlength=cells) > 0
        return (np.cumsum(present) - 1)[code], int(present.sum())
    distinct, code = np.unique(code, return_inverse=True)
    return code.reshape(-1), len(distinct)


class Columns:
    """Discrete columns, ready to be counted.

    Unseen cells are one more state of their column, whose counts are dropped: so the counts
    beside a node are those of the rows in which it is seen.

    Parameters
    ----------
    codes : array (n, d) of int
        -1 where unseen.
    sizes : tuple of int
        States of each; a column of size 0 is left out.
    weight : array (n,) of float, optional
        None for ones, which are counted faster.
    """

    def __init__(self, codes: Ints, sizes: tuple[int, ...], weight: Floats | None) -> None:
        self.sizes, self.rows = sizes, len(codes)
        self.weight = weight
        self.nodes = [i for i, size in enumerate(sizes) if size]
        self.code = {i: np.ascontiguousarray(codes[:, i], dtype=np.int32) for i in self.nodes}
        self.holed = {i for i in self.nodes if len(codes) and self.code[i].min() < 0}
        self.groups = [self._group(members) for members in self._packed()]
        self.singles = {i: self._group([i]) for i in self.nodes}

    def width(self, node: int) -> int:
        """States of a node, with the unseen one."""
        return self.sizes[node] + (node in self.holed)

    def _packed(self) -> Iterator[list[int]]:
        members: list[int] = []
        cells = 1
        for node in sorted(self.nodes, key=self.width):
            if members and cells * self.width(node) > GROUP_CELLS:
                yield members
                members, cells = [], 1
            members.append(node)
            cells *= self.width(node)
        if members:
            yield members

    def _group(self, members: list[int]) -> _Group:
        code = np.zeros(self.rows, dtype=np.int64)
        cells = int(np.prod([self.width(i) for i in members]))
        blocks, rest = [], cells
        for node in members:
            width, rest = self.width(node), rest // self.width(node)
            own = np.where(self.code[node] < 0, self.sizes[node], self.code[node])
            code += own * rest
            state = np.arange(cells) // rest % width
            blocks.append(state[:, None] == np.arange(self.sizes[node]))
        sizes = np.array([self.sizes[i] for i in members])
        return _Group(
            np.array(members), np.cumsum(sizes) - sizes, np.repeat(np.arange(len(sizes)), sizes),
            code, cells, np.concatenate(blocks, axis=1).astype(float),
        )  # fmt: skip

    def seen(self, nodes: tuple[int, ...]) -> NDArray[np.bool_] | None:
        """The rows where all of some nodes are seen; None for all rows."""
        holed = [self.code[i] >= 0 for i in nodes if i in self.holed]
        return np.logical_and.reduce(holed) if holed else None

    def joint(self, nodes: tuple[int, ...], chosen: NDArray[np.bool_] | None) -> tuple[Ints, int]:
        """Codes of the joint states of some nodes in the chosen rows, and how many there are."""
        n = self.rows if chosen is None else int(chosen.sum())
        code, cells = np.zeros(n, dtype=np.int64), 1
        for node in nodes:
            code = code * self.sizes[node] + self._own(node, chosen)
            code, cells = compact(code, cells * self.sizes[node], max(n, 256))
        return code, cells

    def _own(self, node: int, chosen: NDArray[np.bool_] | None) -> NDArray[np.int32]:
        return self.code[node] if chosen is None else self.code[node][chosen]

    def _weight(self, chosen: NDArray[np.bool_] | None) -> Floats | None:
        return self.weight if chosen is None or self.weight is None else self.weight[chosen]

    def beside(
        self, node: int, parents: tuple[int, ...], only: tuple[int, ...] | None = None
    ) -> Iterator[Block]:
        """Counts of a node and its parents beside every other node, or beside `only` some.

        Parameters
        ----------
        node : int
        parents : tuple of int
        only : tuple of int, optional

        Yields
        ------
        Block
            Counts (configurations of the parents, states of the node, states of the group).
        """
        chosen = self.seen((*parents, node))
        code, cells = self.joint(parents, chosen)
        size = self.sizes[node]
        code = code * size + self._own(node, chosen)
        weight = self._weight(chosen)
        groups = [self.singles[i] for i in only] if only is not None else self.groups
        for group in self._affordable(groups, cells * size, len(code)):
            other = group.code if chosen is None else group.code[chosen]
            joint = code * group.cells + other
            table = np.bincount(joint, weight, minlength=cells * size * group.cells)
            counts = table.reshape(cells * size, group.cells) @ group.states
            yield Block(group.members, group.starts, group.owner, counts.reshape(cells, size, -1))

    def table(self, node: int, parents: tuple[int, ...]) -> Floats:
        """Counts (configurations of the parents, states of the node)."""
        chosen, size = self.seen((*parents, node)), self.sizes[node]
        code, cells = self.joint(parents, chosen)
        code = code * size + self._own(node, chosen)
        table = np.bincount(code, self._weight(chosen), minlength=cells * size)
        return table.reshape(cells, size).astype(float)

    def _affordable(self, groups: list[_Group], cells: int, rows: int) -> Iterator[_Group]:
        """The groups, split into single columns where the table would outgrow the rows."""
        for group in groups:
            if cells * group.cells <= max(4 * rows, 1 << 14):
                yield group
            else:
                yield from (self.singles[int(i)] for i in group.members)
