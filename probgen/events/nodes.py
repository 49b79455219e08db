"""The parts of an event over the columns of a schema, and whether they hold.

Every part is worked out on arrays of *plain values*, one array a column that broadcast
together: numbers in table units, codes of levels, days since the column's origin; NaN where a
cell is a hole. A hole makes a comparison unknown, and logic is Kleene's (1952): ``a > 1 or b >
2`` holds where a is 5 and b a hole, and is unknown where a is 0. A part therefore answers twice:
where it is known to hold, and where it is known not to hold.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Always", "Among", "And", "Arithmetic", "Compare", "Holds", "Node", "Not", "Number", "OneOf",
    "Or", "Same", "Term", "Value", "Values", "comparisons",
]  # fmt: skip

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Values = Mapping[Hashable, Floats]
#: (known to hold, known not to hold)
Holds = tuple[Bools, Bools]

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
    ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "**": np.power,
    "%": np.mod,
}  # fmt: skip
#: degree up to which the roots of a comparison are found
DEGREE = 2


def _named(name: Hashable) -> str:
    text = str(name)
    return text if text.isidentifier() else f"`{text}`"


# --- numbers -----------------------------------------------------------------------------------


class Term:
    """A number a row, made of columns and constants."""

    columns: frozenset[Hashable]

    def of(self, values: Values) -> Floats:
        """The number of each row."""
        raise TypeError(f"{type(self).__name__} must define of")

    def polynomial(self, name: Hashable, values: Values) -> list[Floats] | None:
        """Coefficients, lowest first, as a polynomial of one column; None if it is none."""
        raise TypeError(f"{type(self).__name__} must define polynomial")


@dataclass(frozen=True)
class Value(Term):
    """The plain value of a column, or the number that its level is."""

    name: Hashable
    levels: tuple[float, ...] | None = None

    @property
    def columns(self) -> frozenset[Hashable]:  # type: ignore[override]
        """This one."""
        return frozenset([self.name])

    def of(self, values: Values) -> Floats:
        """The number of each row."""
        value = np.asarray(values[self.name], np.float64)
        if self.levels is None:
            return value
        # the reserved level is no number
        known = np.append(self.levels, [np.nan, np.nan])
        return known[np.where(np.isnan(value), len(self.levels), value).astype(np.intp)]

    def polynomial(self, name: Hashable, values: Values) -> list[Floats] | None:
        """A column is a polynomial of itself, unless it stands for its levels."""
        if self.name != name:
            return [self.of(values)]
        return None if self.levels is not None else [np.zeros(()), np.ones(())]

    def __str__(self) -> str:
        return _named(self.name)


@dataclass(frozen=True)
class Number(Term):
    """A constant; `text` is how it was written."""

    value: float
    text: str = ""
    columns = frozenset()

    def of(self, values: Values) -> Floats:
        """The constant."""
        return np.asarray(self.value)

    def polynomial(self, name: Hashable, values: Values) -> list[Floats] | None:
        """Of degree 0."""
        return [np.asarray(self.value)]

    def __str__(self) -> str:
        return self.text or f"{self.value:g}"


@dataclass(frozen=True)
class Arithmetic(Term):
    """Two numbers combined."""

    sign: str
    left: Term
    right: Term

    @property
    def columns(self) -> frozenset[Hashable]:  # type: ignore[override]
        """Those of both sides."""
        return self.left.columns | self.right.columns

    def of(self, values: Values) -> Floats:
        """The number of each row; division by 0 gives an infinity, as in pandas."""
        with np.errstate(all="ignore"):
            return ARITHMETIC[self.sign](self.left.of(values), self.right.of(values))

    def polynomial(self, name: Hashable, values: Values) -> list[Floats] | None:
        """Sums, products, whole powers, and quotients by what is free of the column."""
        if name not in self.columns:
            return [self.of(values)]
        left, right = self.left.polynomial(name, values), self.right.polynomial(name, values)
        if left is None or right is None:
            return None
        with np.errstate(all="ignore"):
            if self.sign in "+-":
                other = right if self.sign == "+" else [-c for c in right]
                return _sum(left, other)
            if self.sign == "*":
                return _product(left, right)
            if self.sign == "/" and len(right) == 1:
                return [c / right[0] for c in left]
            whole = isinstance(self.right, Number) and self.right.value in range(DEGREE + 1)
            if self.sign == "**" and whole:
                times = int(self.right.of(values))
                return reduce(_product, [left] * times, [np.ones(())])
        return None

    def __str__(self) -> str:
        return f"({self.left} {self.sign} {self.right})"


def _sum(left: list[Floats], right: list[Floats]) -> list[Floats]:
    short, long = sorted((left, right), key=len)
    return [a + b for a, b in zip(short, long, strict=False)] + long[len(short) :]


def _product(left: list[Floats], right: list[Floats]) -> list[Floats]:
    out: list[Floats] = [np.zeros(())] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            out[i + j] = out[i + j] + a * b
    return out


def roots(polynomial: list[Floats]) -> Floats | None:
    """Real roots (..., 2) of polynomials of degree 2 at most; NaN where there is none."""
    if len(polynomial) > DEGREE + 1:
        if any(np.any(c != 0) for c in polynomial[DEGREE + 1 :]):
            return None
        polynomial = polynomial[: DEGREE + 1]
    padded = [*polynomial, *[np.zeros(())] * DEGREE][: DEGREE + 1]
    c0, c1, c2 = np.broadcast_arrays(*padded)
    with np.errstate(all="ignore"):
        line = -c0 / c1
        # the stable form: no difference of nearly equal numbers
        q = -(c1 + np.copysign(np.sqrt(c1 * c1 - 4 * c2 * c0), c1)) / 2
        first = np.where(c2 == 0, line, q / c2)
        second = np.where(c2 == 0, np.nan, c0 / q)
    found = np.stack([first, second], -1)
    return np.where(np.isfinite(found), found, np.nan)


# --- truths ------------------------------------------------------------------------------------


class Node:
    """A part of an event that holds or not, row by row."""

    columns: frozenset[Hashable]

    def holds(self, values: Values) -> Holds:
        """Where it is known to hold, and where it is known not to hold."""
        raise TypeError(f"{type(self).__name__} must define holds")

    def turns(self, name: Hashable, values: Values) -> Floats | None:
        """Where it may change as one column moves (..., t), NaN for none; None: not known."""
        raise TypeError(f"{type(self).__name__} must define turns")


def _split(true: Bools, hole: Bools) -> Holds:
    return true & ~hole, ~true & ~hole


@dataclass(frozen=True)
class Always(Node):
    """Holds everywhere, or nowhere."""

    value: bool
    columns = frozenset()

    def holds(self, values: Values) -> Holds:
        """The same everywhere."""
        return np.asarray(self.value), np.asarray(not self.value)

    def turns(self, name: Hashable, values: Values) -> Floats | None:
        """Nowhere."""
        return np.full(1, np.nan)

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class Compare(Node):
    """Two numbers compared."""

    sign: str
    left: Term
    right: Term

    @property
    def columns(self) -> frozenset[Hashable]:  # type: ignore[override]
        """Those of both sides."""
        return self.left.columns | self.right.columns

    def holds(self, values: Values) -> Holds:
        """By the comparison; unknown where a column is a hole."""
        with np.errstate(invalid="ignore"):
            true = COMPARE[self.sign](self.left.of(values), self.right.of(values))
        return _split(np.asarray(true, bool), _holes(self.columns, values))

    def turns(self, name: Hashable, values: Values) -> Floats | None:
        """The roots of the difference of the two sides."""
        polynomial = Arithmetic("-", self.left, self.right).polynomial(name, values)
        return None if polynomial is None else roots(polynomial)

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right}"


@dataclass(frozen=True)
class Among(Node):
    """A number that is one of several."""

    term: Term
    numbers: tuple[float, ...]

    @property
    def columns(self) -> frozenset[Hashable]:  # type: ignore[override]
        """Those of the number."""
        return self.term.columns

    def holds(self, values: Values) -> Holds:
        """By equality; unknown where a column is a hole."""
        true = np.isin(self.term.of(values), self.numbers)
        return _split(true, _holes(self.columns, values))

    def turns(self, name: Hashable, values: Values) -> Floats | None:
        """The roots of the difference to each number."""
        polynomial = self.term.polynomial(name, values)
        if polynomial is None:
            return None
        if not self.numbers:
            return np.full(1, np.nan)
        each = [roots(_sum(polynomial, [np.asarray(-number)])) for number in self.numbers]
        return None if each[0] is None else np.concatenate(each, -1)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.term} in [{', '.join(f'{number:g}' for number in self.numbers)}]"


@dataclass(frozen=True)
class OneOf(Node):
    """A column of levels that holds one of some codes; `text` is how it was written."""

    name: Hashable
    codes: tuple[int, ...]
    text: str

    @property
    def columns(self) -> frozenset[Hashable]:  # type: ignore[override]
        """This one."""
        return frozenset([self.name])

    def holds(self, values: Values) -> Holds:
        """By the code; unknown in a hole."""
        code = np.asarray(values[self.name])
        return _split(np.isin(code, self.codes), np.isnan(code))

    def turns(self, name: Hashable, values: Values) -> Floats | None:
        """Levels are counted one by one."""
        return None if name == self.name else np.full(1, np.nan)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Same(Node):
    """Two columns of levels that hold the same level, by a number common to both."""

    left: Value
    right: Value

    @property
    def columns(self) -> frozenset[Hashable]:  # type: ignore[override]
        """Both."""
        return self.left.columns | self.right.columns

    def holds(self, values: Values) -> Holds:
        """By the number of the level; unknown where one is a hole."""
        with np.errstate(invalid="ignore"):
            true = self.left.of(values) == self.right.of(values)
        return _split(np.asarray(true, bool), _holes(self.columns, values))

    def turns(self, name: Hashable, values: Values) -> Floats | None:
        """Levels are counted one by one."""
        return None if name in self.columns else np.full(1, np.nan)

    def __str__(self) -> str:
        return f"{self.left} == {self.right}"


@dataclass(frozen=True)
class Not(Node):
    """The opposite."""

    part: Node

    @property
    def columns(self) -> frozenset[Hashable]:  # type: ignore[override]
        """Those of the part."""
        return self.part.columns

    def holds(self, values: Values) -> Holds:
        """What is unknown stays unknown."""
        yes, no = self.part.holds(values)
        return no, yes

    def __str__(self) -> str:
        return f"not ({self.part})"


@dataclass(frozen=True)
class _Several(Node):
    """Parts that are joined."""

    parts: tuple[Node, ...]

    @property
    def columns(self) -> frozenset[Hashable]:  # type: ignore[override]
        """Those of all parts."""
        return frozenset().union(*(part.columns for part in self.parts))

    def _each(self, values: Values) -> tuple[tuple[Bools, ...], tuple[Bools, ...]]:
        """Where each part is known to hold, and where it is known not to hold."""
        yes, no = zip(*(part.holds(values) for part in self.parts), strict=True)
        return yes, no


class And(_Several):
    """All of the parts."""

    def holds(self, values: Values) -> Holds:
        """Where all hold; known not to hold where one does not."""
        yes, no = self._each(values)
        return reduce(np.logical_and, yes), reduce(np.logical_or, no)

    def __str__(self) -> str:
        return " and ".join(f"({part})" for part in self.parts)


class Or(_Several):
    """One of the parts at least."""

    def holds(self, values: Values) -> Holds:
        """Where one holds; known not to hold where none does."""
        yes, no = self._each(values)
        return reduce(np.logical_or, yes), reduce(np.logical_and, no)

    def __str__(self) -> str:
        return " or ".join(f"({part})" for part in self.parts)


def _holes(columns: frozenset[Hashable], values: Values) -> Bools:
    holes = [np.isnan(values[name]) for name in columns]
    return reduce(np.logical_or, holes, np.asarray(False))


def comparisons(node: Node) -> list[Node]:
    """The parts of a truth that are not made of other truths."""
    if isinstance(node, Not):
        return comparisons(node.part)
    if isinstance(node, And | Or):
        return [leaf for part in node.parts for leaf in comparisons(part)]
    return [node]
