"""Adaptive integration along one column, of many functions at once.

A *panel* is an interval of one *cell* (a function to be integrated). Real columns are integrated
in ``t = asinh(u)`` of the encoded value u, which reaches far tails in few panels, by the Gauss
and Kronrod rule of 7 and 15 nodes. Counts are summed: panels of up to 15 whole numbers exactly,
wider ones by rules of 15 and 7 whole-number nodes that sum polynomials of degree 14 and 6
exactly. Panels whose two rules differ are halved until the asked error is met.

References
----------
Piessens, de Doncker-Kapenga, Überhuber and Kahaner (1983), QUADPACK.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray
from scipy.special import bernoulli

__all__ = ["Axis", "Goal", "Lattice", "Line", "Panels", "integrate"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

_HALF_NODES = [
    0.991455371120812639206854697526329, 0.949107912342758524526189684047851,
    0.864864423359769072789712788640926, 0.741531185599394439863864773280788,
    0.586087235467691130294144691693061, 0.405845151377397166906606412076961,
    0.207784955007898467600689403773245,
]  # fmt: skip
_HALF_KRONROD = [
    0.022935322010529224963732008058970, 0.063092092629978553290700663189204,
    0.104790010322250183839876322541518, 0.140653259715525918745189590510238,
    0.169004726639267902826583426598550, 0.190350578064785409913256402421014,
    0.204432940075298892414161999234649,
]  # fmt: skip
_HALF_GAUSS = [
    0.129484966168869693270611432679082, 0.279705391489276667901467771423780,
    0.381830050505118944950369775488975,
]  # fmt: skip
NODES = np.array([-x for x in _HALF_NODES] + [0.0] + _HALF_NODES[::-1])
KRONROD = np.array([*_HALF_KRONROD, 0.209482141084727828012999174891714, *_HALF_KRONROD[::-1]])
GAUSS = np.zeros(15)
GAUSS[1::2] = [*_HALF_GAUSS, 0.417959183673469387755102040816327, *_HALF_GAUSS[::-1]]
POINTS = len(NODES)

#: rounds of halving, and nodes in all, before an error is reported as it stands
ROUNDS, BUDGET = 60, 6_000_000
#: nodes that are worked out at once
CHUNK = 1 << 17


@dataclass
class Panels:
    """k panels.

    Attributes
    ----------
    cell : ndarray (k,)
        Which function.
    low, high : ndarray (k,)
        Ends, in the coordinate of the axis.
    factor : ndarray (k,)
        What the integral counts with; 0 where only the total of the cell needs it.
    value, error : ndarray (k,)
        Integral and error estimate.
    height : ndarray (k, 15)
        The function at the nodes.
    """

    cell: Ints
    low: Floats
    high: Floats
    factor: Floats
    value: Floats
    error: Floats
    height: Floats

    @classmethod
    def of(cls, cell: Ints, low: Floats, high: Floats, factor: Floats) -> Panels:
        """Panels that are not worked out yet."""
        k = len(cell)
        nothing = np.zeros(k)
        return cls(cell, low, high, factor, nothing, nothing, np.zeros((k, POINTS)))

    def __len__(self) -> int:
        return len(self.cell)

    def take(self, which: Ints | Bools) -> Panels:
        """Some of them."""
        return Panels(*(getattr(self, f.name)[which] for f in fields(self)))

    @classmethod
    def joined(cls, parts: list[Panels]) -> Panels:
        """All of several."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


class Axis(Protocol):
    """One column to integrate along."""

    #: ends of the panels to begin with
    base: Floats
    #: whether only whole numbers count
    whole: bool

    def rules(self, low: Floats, high: Floats) -> tuple[Floats, Floats, Floats]:
        """Nodes, weights and weights of the lower rule, each (k, 15)."""

    def coarse(self, low: Floats, high: Floats) -> Bools:
        """Panels that must be halved before any rule applies."""

    def middle(self, low: Floats, high: Floats) -> Floats:
        """Where to halve; an end where the panel cannot be halved."""

    def encoded(self, nodes: Floats) -> Floats:
        """Encoded values."""

    def slope(self, nodes: Floats) -> Floats:
        """d encoded / d node."""

    def place(self, encoded: Floats) -> Floats:
        """The coordinate of encoded values, which may be infinite."""


class Line:
    """A real slot, by ``t = asinh(u)``."""

    #: asinh of 1e17 scales: beyond it lies nothing of a density that has a mean
    REACH = 39.8
    whole = False
    _HALF = (0.0, 0.8, 1.6, 2.5, 4.0, 12.0, 1e17)

    def __init__(self) -> None:
        half = np.arcsinh(np.array(self._HALF))
        half[-1] = self.REACH
        self.base = np.concatenate([-half[:0:-1], half])

    def rules(self, low: Floats, high: Floats) -> tuple[Floats, Floats, Floats]:
        """Gauss and Kronrod."""
        half = (high - low)[:, None] / 2
        return (low + high)[:, None] / 2 + half * NODES, half * KRONROD, half * GAUSS

    def coarse(self, low: Floats, high: Floats) -> Bools:
        """None."""
        return np.zeros(len(low), bool)

    def middle(self, low: Floats, high: Floats) -> Floats:
        """The middle."""
        return (low + high) / 2

    def encoded(self, nodes: Floats) -> Floats:
        """The hyperbolic sine."""
        return np.sinh(nodes)

    def slope(self, nodes: Floats) -> Floats:
        """Its derivative."""
        return np.cosh(nodes)

    def place(self, encoded: Floats) -> Floats:
        """Its inverse, within reach."""
        return np.clip(np.arcsinh(encoded), -self.REACH, self.REACH)


def _lattice_sums() -> tuple[Floats, Floats]:
    """Sums of Legendre polynomials over the middles of w equal parts of [-1, 1].

    By Euler and Maclaurin, exact for polynomials: the sum of P_l is w for l = 0, 0 for odd l,
    and ``sums[l] @ (2 / w) ** powers`` for even l.
    """
    numbers = bernoulli(14)
    powers = np.arange(1, 14, 2)
    sums = np.zeros((POINTS, len(powers)))
    for l in range(2, POINTS, 2):  # noqa: E741 - the degree's usual name
        for place, m in enumerate(powers.tolist()):
            if m <= l:
                at_one = math.factorial(l + m) / (2**m * math.factorial(m) * math.factorial(l - m))
                half = -(1 - 2.0**-m) * numbers[m + 1]  # the Bernoulli polynomial at 1/2
                sums[l, place] = 2 * at_one * half / math.factorial(m + 1)
    return sums, powers.astype(np.float64)


_SUMS, _POWERS = _lattice_sums()


class Lattice:
    """A count: panels end half-way between whole numbers.

    Parameters
    ----------
    top : float
        The largest count, encoded; infinity where there is no bound.
    """

    #: whole numbers from which 15 rounded nodes are apart
    WIDE = 64
    whole = True
    REACH = 2.0**45

    def __init__(self, top: float) -> None:
        last = min(top, self.REACH)
        edges = [-0.5, *(e for e in (14.5, 29.5, 44.5, 59.5) if e < last)]
        while edges[-1] > 50 and 5 * edges[-1] < last:
            edges.append(np.floor(4 * edges[-1]) + 0.5)
        self.base = np.array([*edges, last + 0.5])

    def rules(self, low: Floats, high: Floats) -> tuple[Floats, Floats, Floats]:
        """All whole numbers of a narrow panel; rules that sum polynomials for a wide one."""
        width = high - low
        wide = width > POINTS
        steps = np.arange(POINTS)
        inside = steps < width[:, None]
        nodes = np.where(inside, low[:, None] + 0.5 + steps, low[:, None] + 0.5)
        weights, lower = inside.astype(np.float64), inside.astype(np.float64)
        if wide.any():  # many cells have the same panels
            ends, back = np.unique(np.stack([low, high])[:, wide], axis=1, return_inverse=True)
            for into, rule in zip((nodes, weights, lower), _wide_rules(*ends), strict=True):
                into[wide] = rule[back.reshape(-1)]
        return nodes, weights, lower

    def coarse(self, low: Floats, high: Floats) -> Bools:
        """Panels in which rounded nodes would coincide."""
        return (high - low > POINTS) & (high - low < self.WIDE)

    def middle(self, low: Floats, high: Floats) -> Floats:
        """Half-way between whole numbers."""
        return np.where(high - low > POINTS, np.floor((low + high) / 2) + 0.5, low)

    def encoded(self, nodes: Floats) -> Floats:
        """The nodes themselves."""
        return nodes

    def slope(self, nodes: Floats) -> Floats:
        """1: a sum."""
        return np.ones_like(nodes)

    def place(self, encoded: Floats) -> Floats:
        """The nearest end of a panel."""
        inside = np.clip(encoded, self.base[0], self.base[-1])
        return np.clip(np.floor(inside) + 0.5, self.base[0], self.base[-1])


def _wide_rules(low: Floats, high: Floats) -> tuple[Floats, Floats, Floats]:
    """Nodes and weights of panels of `Lattice.WIDE` whole numbers or more."""
    width = (high - low)[:, None]
    half, middle = width / 2, (low + high)[:, None] / 2
    nodes = np.clip(np.rint(middle + half * NODES), low[:, None] + 0.5, high[:, None] - 0.5)
    s = (nodes - middle) / half
    sums = (2 / width) ** _POWERS @ _SUMS.T
    sums[:, 0] = width[:, 0]
    lower = np.zeros_like(nodes)
    lower[:, 1::2] = _weights(s[:, 1::2], sums[:, :7])
    return nodes, _weights(s, sums), lower


def _weights(s: Floats, sums: Floats) -> Floats:
    """Weights (k, p) at nodes s that give Legendre polynomials their sums."""
    table = legendre.legvander(s, s.shape[1] - 1)
    solved = np.linalg.solve(np.swapaxes(table, 1, 2), sums[..., None])
    return np.asarray(solved[..., 0], np.float64)


@dataclass
class Goal:
    """How exact the sums must be.

    Attributes
    ----------
    row : ndarray (c,)
        Which sum a cell belongs to.
    total : ndarray (c,)
        The known integral of the cell over all panels, for the scale of its errors.
    relative : float
        Of each sum.
    background : float
        Of the panels that do not count, relative to the largest total of a cell of their row.
    shared : bool
        Whether an error that is small beside the largest sum will do for all.
    """

    row: Ints
    total: Floats
    relative: float = 1e-9
    background: float = 1e-8
    shared: bool = False


def integrate(
    axis: Axis, panels: Panels, height: Callable[[Ints, Floats], Floats], goal: Goal
) -> Panels:
    """Work panels out, halving them where the error is too large.

    Parameters
    ----------
    axis : Axis
    panels : Panels
    height : callable
        (cells (k,), nodes (k, 15)) -> function values (k, 15) per unit of the node.
    goal : Goal

    Returns
    -------
    Panels
        They cover what was given; `error` holds what is left where rounds or nodes ran out.
    """
    rows = int(goal.row.max(initial=-1)) + 1
    largest = np.zeros(rows)
    np.maximum.at(largest, goal.row, goal.total)
    done: list[Panels] = []
    sums = np.zeros((2, rows))
    spent = 0
    for _ in range(ROUNDS):
        while (coarse := axis.coarse(panels.low, panels.high)).any():
            panels = Panels.joined([panels.take(~coarse), _halved(axis, panels.take(coarse))])
        panels = _worked_out(axis, panels, height)
        spent += POINTS * len(panels)
        row = goal.row[panels.cell]
        now = sums + np.stack([
            np.bincount(row, panels.factor * panels.value, rows),
            np.bincount(row, np.abs(panels.factor) * panels.value, rows),
        ])  # fmt: skip
        # a sum of large parts of both signs has no digits below those of its parts
        size = np.maximum(np.abs(now[0]), 1e-6 * now[1])
        scale = np.maximum(size, size.max(initial=0) if goal.shared else 0.0)[row] * goal.relative
        counts = panels.factor != 0
        allowed = np.where(counts, scale / np.maximum(np.abs(panels.factor), 1e-300) / 8,
                           goal.background * largest[row])  # fmt: skip
        middle = axis.middle(panels.low, panels.high)
        bad = (panels.error > allowed) & (middle > panels.low) & (middle < panels.high)
        bad &= panels.error > 1e-14 * panels.value
        if not bad.any() or spent > BUDGET:
            return Panels.joined([*done, panels])
        good = panels.take(~bad)
        done.append(good)
        sums += np.stack([
            np.bincount(row[~bad], good.factor * good.value, rows),
            np.bincount(row[~bad], np.abs(good.factor) * good.value, rows),
        ])  # fmt: skip
        panels = _halved(axis, panels.take(bad))
    return Panels.joined([*done, _worked_out(axis, panels, height)])


def _halved(axis: Axis, panels: Panels) -> Panels:
    middle = axis.middle(panels.low, panels.high)
    return Panels.joined([replace(panels, high=middle), replace(panels, low=middle)])


def _worked_out(
    axis: Axis, panels: Panels, height: Callable[[Ints, Floats], Floats]
) -> Panels:  # fmt: skip
    nodes, weights, lower = axis.rules(panels.low, panels.high)
    found = np.empty_like(nodes)
    for start in range(0, len(panels), CHUNK // POINTS):
        part = slice(start, start + CHUNK // POINTS)
        found[part] = height(panels.cell[part], nodes[part])
    value = (found * weights).sum(1)
    gap = np.abs(value - (found * lower).sum(1))
    size = weights.sum(1, keepdims=True)
    spread = (np.abs(found - value[:, None] / size) * np.abs(weights)).sum(1)
    with np.errstate(all="ignore"):
        error = spread * np.minimum(1.0, (200 * gap / spread) ** 1.5)
    return replace(panels, value=value, error=np.where(gap > 0, error, 0.0), height=found)
