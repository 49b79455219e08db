"""An event over the columns of a schema: parsed once, asked of any rows."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from probgen.errors import SchemaError, message
from probgen.events import nodes, syntax
from probgen.events.binding import bind
from probgen.events.nodes import Holds, Node, Values
from probgen.events.values import from_frame
from probgen.frames import to_frame
from probgen.schema import Schema
from probgen.table import Unseen

__all__ = ["Event", "both"]


@dataclass(frozen=True, repr=False)
class Event:
    """A set of rows, written in the syntax of `DataFrame.query`.

    Comparisons (``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, chained ones too), ``in`` and
    ``not in`` with a list, ``and``, ``or``, ``not`` and their signs ``&``, ``|``, ``~``, which
    bind as in pandas: ``a > 1 & b < 2`` needs no parentheses. Arithmetic (``+ - * / ** %``)
    between columns and numbers. Names that are no plain words stand in backticks; dates are
    texts that begin with the year. Levels of an ordered column compare by their order.

    The text is parsed and checked against the schema, never evaluated as code: no function, no
    attribute, no variable of the caller can be named.

    Parameters
    ----------
    text : str
        What was written.
    schema : Schema
        The columns that it is about.
    node : Node
        The parsed event; made from the text where it is left out.

    Raises
    ------
    SchemaError
        For text outside this language, unknown columns and unknown levels (the message names
        candidates), and comparisons of values of different kinds.

    Notes
    -----
    A hole is a value that was not observed, so a comparison with it is unknown, and ``and``,
    ``or`` and ``not`` follow Kleene's three-valued logic. `evaluate` is true only where the
    event is known to hold. This differs from `DataFrame.query`, where ``a != 1`` and ``not
    a > 1`` are true in a hole of ``a``.

    References
    ----------
    Kleene (1952), Introduction to Metamathematics.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"age": [31.5, 45.0, 28.0], "job": ["nurse", "cook", "cook"]})
    >>> event = Event("30 < age & job != 'nurse'", Schema.infer(table))
    >>> event.evaluate(table).tolist()
    [False, True, False]
    >>> event.columns
    ('age', 'job')
    """

    text: str
    schema: Schema
    node: Node = field(default=None, compare=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.node is None:
            if not isinstance(self.text, str):
                raise SchemaError(message(
                    f"an event of type {type(self.text).__name__}", "a text",
                    "write it as in DataFrame.query: 'age < 30'",
                ))  # fmt: skip
            tree, names = syntax.parse(self.text)
            object.__setattr__(self, "node", bind(tree, names, self.schema, self.text))

    def __repr__(self) -> str:
        return f"<Event {self.text!r}>"

    def __str__(self) -> str:
        return self.text

    @property
    def columns(self) -> tuple[Hashable, ...]:
        """The columns that it is about, in the order of the schema."""
        return tuple(name for name in self.schema.names if name in self.node.columns)

    def evaluate(self, table: object, unseen: Unseen = "error") -> NDArray[np.bool_]:
        """Which rows (n,) of a table are known to satisfy it; a hole is unknown.

        Parameters
        ----------
        table : data frame of n rows
            Columns that it lacks are holes; others do not matter.
        unseen : {"error", "missing", "rare"}
            What a level absent at fit means: an error, a hole, or a level unlike all others.
        """
        frame = to_frame(table)
        yes, _ = self.holds(from_frame(frame, self.schema, self.columns, unseen))
        return np.broadcast_to(yes, (len(frame),)).copy()

    def holds(self, values: Values) -> Holds:
        """Where it is known to hold, and not to hold, by arrays of plain values that broadcast."""
        return self.node.holds(values)

    @property
    def conjuncts(self) -> tuple[Event, ...]:
        """Events that hold together exactly where this one does."""
        return tuple(Event(str(part), self.schema, part) for part in _conjuncts(self.node))

    @property
    def comparisons(self) -> tuple[Node, ...]:
        """The comparisons that it is made of."""
        return tuple(nodes.comparisons(self.node))


def _conjuncts(node: Node) -> list[Node]:
    if isinstance(node, nodes.And):
        return [deep for part in node.parts for deep in _conjuncts(part)]
    if isinstance(node, nodes.Not) and isinstance(node.part, nodes.Or):  # De Morgan
        return [deep for part in node.part.parts for deep in _conjuncts(nodes.Not(part))]
    if isinstance(node, nodes.Not) and isinstance(node.part, nodes.Not):
        return _conjuncts(node.part.part)
    return [node]


def both(*events: Event) -> Event:
    """The event that all of some events over one schema hold."""
    if len(events) == 1:
        return events[0]
    text = " and ".join(f"({event.text})" for event in events)
    parts = tuple(event.node for event in events)
    return Event(text, events[0].schema, nodes.And(parts) if parts else nodes.Always(True))
