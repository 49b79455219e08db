"""A network and its tables as readable text."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray

from probgen.errors import SchemaError, message
from probgen.graphs.dag import Dag

__all__ = ["Regression", "describe"]

Array = NDArray[np.float64]

#: letters of a level or name in a table, and levels with a column of their own
LETTERS, SHOWN = 16, 8


@dataclass(frozen=True, eq=False)
class Regression:
    """The distribution of a normal node given its parents: a line for each configuration.

    Parameters
    ----------
    intercept : array (...)
        One for each configuration of the discrete parents; the axes are in their order.
    coefficients : array (..., k)
        Of the normal parents, in their order.
    sd : array (...)
        Standard deviation around the line.
    """

    intercept: Array
    coefficients: Array
    sd: Array


def describe(
    names: Sequence[Hashable],
    levels: Sequence[Sequence[Hashable]],
    dag: Dag,
    tables: Sequence[Array | Regression],
    limit: int = 12,
) -> str:
    """A network as text: each node with its parents, then its table, parents first.

    Parameters
    ----------
    names : sequence
        A name for each node.
    levels : sequence of sequences
        The levels of each node; none for a normal node.
    dag : Dag
    tables : sequence of array or Regression
        A table of a discrete node has its own levels along axis 0, then an axis for each parent.
    limit : int
        Rows of a table to show at most; the others are counted.

    Returns
    -------
    str
        Probabilities are rounded to three decimals, those next to 0 and 1 to one digit, such as
        ``1-2e-04``. Of more than eight levels the first seven have a column, the others one
        together.

    Raises
    ------
    SchemaError
        If the parts do not fit together.

    Examples
    --------
    >>> yes = ("yes", "no")
    >>> rain, wet = np.array([0.2, 0.8]), np.array([[0.9, 0.1], [0.1, 0.9]])
    >>> line = Regression(np.array([1.2, 0.0]), np.zeros((2, 0)), np.array([0.31, 1.0]))
    >>> dag = Dag.of(3, [(0, 1), (1, 2)])
    >>> print(describe(["rain", "wet", "mud"], [yes, yes, ()], dag, [rain, wet, line]))
    rain
        yes     no
      0.200  0.800
    <BLANKLINE>
    wet | rain
      rain |   yes     no
      yes  | 0.900  0.100
      no   | 0.100  0.900
    <BLANKLINE>
    mud | wet
      wet |
      yes | mud = 1.2  (sd 0.31)
      no  | mud = 0  (sd 1)
    """
    if not len(names) == len(levels) == len(dag) == len(tables) or limit < 1:
        raise SchemaError(message(
            f"{len(names)} names, {len(levels)} sets of levels and {len(tables)} tables for "
            f"{len(dag)} nodes, limit={limit}", "one each for every node, and a limit of at "
            "least 1", "pass as many of each",
        ))  # fmt: skip
    blocks = [
        "\n".join(_node(node, [str(name) for name in names], levels, dag, tables[node], limit))
        for node in dag.order
    ]
    return "\n\n".join(blocks)


def _node(
    node: int, names: list[str], levels: Sequence[Sequence[Hashable]], dag: Dag,
    table: Array | Regression, limit: int,
) -> Iterator[str]:  # fmt: skip
    """The lines of one node."""
    parents = dag.parents[node]
    yield names[node] + (f" | {', '.join(names[p] for p in parents)}" if parents else "")
    discrete = [p for p in parents if len(levels[p])]
    shape = tuple(len(levels[p]) for p in discrete)
    rows = int(np.prod(shape))
    keys = list(islice(product(*([_cut(v) for v in levels[p]] for p in discrete)), limit))
    if isinstance(table, Regression):
        others = [names[p] for p in parents if not len(levels[p])]
        _fits(names[node], table.coefficients.shape, (*shape, len(others)))
        head = [""]
        body = [[text] for text in islice(_lines(names[node], others, table), limit)]
    else:
        _fits(names[node], table.shape, (len(levels[node]), *shape))
        head, body = _columns(levels[node], table.reshape(len(levels[node]), rows)[:, :limit])
    left = [[_cut(names[p]) for p in discrete], *keys]
    yield from _aligned(left, [head, *body])
    if rows > limit:
        yield f"  ... {rows - limit} more of {rows} rows"


def _fits(name: str, found: tuple[int, ...], needed: tuple[int, ...]) -> None:
    if found != needed:
        raise SchemaError(message(
            f"a table of shape {found} for {name!r}", f"shape {needed}", "correct the table"
        ))  # fmt: skip


def _columns(levels: Sequence[Hashable], table: Array) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the rows of numbers."""
    head = [_cut(level) for level in levels]
    if len(levels) > SHOWN:
        head = [*head[: SHOWN - 1], f"{len(levels) - SHOWN + 1} others"]
        table = np.vstack([table[: SHOWN - 1], table[SHOWN - 1 :].sum(0)])
    return head, [[_probability(value) for value in row] for row in table.T]


def _lines(name: str, others: list[str], table: Regression) -> Iterator[str]:
    """Each regression as an equation."""
    coefficients = table.coefficients.reshape(table.intercept.size, len(others))
    flat = zip(table.intercept.ravel(), coefficients, table.sd.ravel(), strict=True)
    for intercept, own, sd in flat:
        terms = [
            f" {'-' if value < 0 else '+'} {abs(value):.4g} {other}"
            for value, other in zip(own, others, strict=True)
        ]
        yield f"{name} = {intercept:.4g}{''.join(terms)}  (sd {sd:.4g})"


def _aligned(left: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> Iterator[str]:
    """Keys to the left of a bar, numbers in columns to its right; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*left, strict=True)]
    wide = [max(map(len, column)) for column in zip(*right, strict=True)]
    for keys, values in zip(left, right, strict=True):
        start = "  ".join(key.ljust(width) for key, width in zip(keys, widths, strict=True))
        text = "  ".join(value.rjust(width) for value, width in zip(values, wide, strict=True))
        if len(values) == 1:
            text = values[0]
        line = f"  {start} | {text}" if keys else f"  {text}"
        if line.strip():
            yield line.rstrip()


def _probability(value: float) -> str:
    """Three decimals; one digit where those would say 0 or 1 and it is not."""
    if value in (0.0, 1.0):
        return f"{value:.0f}"
    if value < 0.0005:
        return f"{value:.0e}"
    return f"{value:.3f}" if value < 0.9995 else f"1-{1 - value:.0e}"


def _cut(value: Hashable) -> str:
    text = str(value)
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"
