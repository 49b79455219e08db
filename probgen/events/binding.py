"""A syntax tree over the columns of a schema: names, levels, dates and kinds are checked here."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from probgen.columns import Column
from probgen.errors import SchemaError, closest, message
from probgen.events import nodes
from probgen.events.nodes import Arithmetic, Compare, Node, Number, Term, Value
from probgen.events.syntax import Names, name_of, refuse
from probgen.schema import Schema
from probgen.table import days

__all__ = ["bind"]

_SIGNS: dict[type[ast.AST], str] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**", ast.Mod: "%",
}  # fmt: skip
_TURNED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
#: a date begins with its year: 12/05 and 05/12 look the same, "now" changes
_DATE = re.compile(r"\d{4}([-/ T].*)?")


def bind(tree: ast.expr, names: Names, schema: Schema, text: str) -> Node:
    """The event as nodes over the schema's columns; raises `SchemaError` as `Event` says."""
    return _Binder(names, schema, text).truth(tree)


@dataclass
class _Binder:
    names: Names
    schema: Schema
    text: str

    def error(self, found: str, do: str) -> SchemaError:
        return refuse(self.text, found, do)

    # --- truths ---------------------------------------------------------------------------

    def truth(self, tree: ast.expr) -> Node:
        """A part that holds or not."""
        if isinstance(tree, ast.BoolOp):
            parts = tuple(self.truth(value) for value in tree.values)
            return nodes.And(parts) if isinstance(tree.op, ast.And) else nodes.Or(parts)
        if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not | ast.Invert):
            return nodes.Not(self.truth(tree.operand))
        if isinstance(tree, ast.Compare):
            return self._chain(tree)
        if isinstance(tree, ast.Constant) and isinstance(tree.value, bool):
            return nodes.Always(tree.value)
        if isinstance(tree, ast.Name):
            column = self.column(tree)
            if column.labelled and column.levels == (False, True):
                return nodes.OneOf(column.name, (1,), str(Value(column.name)))
        raise self.error(
            f"{ast.unparse(tree)}, which is neither true nor false",
            "compare it with a value; put parentheses round comparisons: ~(a > 1)",
        )

    def _chain(self, tree: ast.Compare) -> Node:
        sides = [tree.left, *tree.comparators]
        parts = tuple(
            self._comparison(left, op, right)
            for left, op, right in zip(sides, tree.ops, sides[1:], strict=False)
        )
        return parts[0] if len(parts) == 1 else nodes.And(parts)

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Node:
        listed = isinstance(right, ast.List | ast.Tuple | ast.Set)
        if isinstance(op, ast.In | ast.NotIn):
            if not listed:
                raise self.error("in without a list", "write the list: job in ['a', 'b']")
            part = self._among(left, right)
            return part if isinstance(op, ast.In) else nodes.Not(part)
        sign = _SIGNS[type(op)]
        if listed and sign in ("==", "!="):  # as in DataFrame.query
            part = self._among(left, right)
            return part if sign == "==" else nodes.Not(part)
        truths = [side for side in (left, right) if _is_truth(side)]
        if truths:
            return self._compare_truth(left, sign, right)
        if isinstance(left, ast.Constant) and not isinstance(right, ast.Constant):
            left, sign, right = right, _TURNED[sign], left
        column = self._lone(left)
        other = self._lone(right)
        if column is not None and _constant(right) is not None:
            return self._to_constant(column, sign, _constant(right))
        if other is not None and _constant(left) is not None:
            return self._to_constant(other, _TURNED[sign], _constant(left))
        if column is not None and other is not None:
            return self._two_columns(column, sign, other)
        return Compare(sign, self.term(left), self.term(right))

    def _compare_truth(self, left: ast.expr, sign: str, right: ast.expr) -> Node:
        """``(a > 1) == True``: a truth beside a truth value."""
        if isinstance(left, ast.Constant):
            left, right = right, left
        if sign in ("==", "!=") and isinstance(right, ast.Constant):
            if isinstance(right.value, bool):
                part = self.truth(left)
                return part if right.value == (sign == "==") else nodes.Not(part)
        raise self.error(f"{ast.unparse(left)} compared with {ast.unparse(right)}",
                         "join comparisons by and, or, not")  # fmt: skip

    def _among(self, left: ast.expr, right: ast.expr) -> Node:
        items = right.elts  # type: ignore[attr-defined]
        found = [_constant(item) for item in items]
        if any(value is None for value in found):
            raise self.error("a list that holds more than values", "list numbers or texts only")
        column = self._lone(left)
        if column is None and _constant(left) is not None:
            raise self.error("in behind a value", "put the column first: job in ['a', 'b']")
        if column is None or _is_number(column):
            if any(isinstance(value, str) for value in found):
                raise self.error("texts among numbers", "list numbers")
            return nodes.Among(self.term(left), tuple(sorted({_float(v) for v in found})))
        parts = [self._to_constant(column, "==", value) for value in found]
        if not parts:
            return nodes.And((nodes.Always(False), nodes.Not(_nothing(column))))
        if all(isinstance(part, nodes.OneOf) for part in parts):
            codes = sorted({c for p in parts if isinstance(p, nodes.OneOf) for c in p.codes})
            listed = ", ".join(repr(value) for value in found)
            return nodes.OneOf(column.name, tuple(codes), f"{Value(column.name)} in [{listed}]")
        return nodes.Or(tuple(parts))

    # --- one column and a value -----------------------------------------------------------

    def _to_constant(self, column: Column, sign: str, value: Any) -> Node:
        own = Value(column.name)
        if column.labelled:
            return self._levels(column, sign, value)
        if column.kind == "date" or column.unit:
            if not isinstance(value, str):
                raise self.error(f"{value!r} beside the column {column.name!r}",
                                 "compare dates with a text such as '2020-01-31'"
                                 if column.kind == "date" else
                                 "compare durations with a text such as '3 days'")  # fmt: skip
            at = self._date(column, value) if column.kind == "date" else self._span(value)
            return Compare(sign, own, Number(at, repr(value)))
        if isinstance(value, str):
            raise self.error(f"the text {value!r} beside the numbers of {column.name!r}",
                             "compare numbers with numbers")  # fmt: skip
        return Compare(sign, own, Number(_float(value), repr(value)))

    def _levels(self, column: Column, sign: str, value: Any) -> Node:
        """The codes for which a comparison with a level holds."""
        levels = list(column.levels or ())
        text = f"{Value(column.name)} {sign} {value!r}"
        numeric = _is_number(column) and not isinstance(value, str)
        code = _code_of(value, levels)
        if code is None and not (numeric and sign not in ("==", "!=")):
            raise SchemaError(message(
                f"level {value!r} of column {column.name!r} in the event {self.text!r}",
                f"one of {closest(value, levels)}", "correct it",
            ))  # fmt: skip
        size = len(levels) + (column.kind != "boolean")
        if sign == "!=":  # also of the level that stands for all that was never seen
            return nodes.OneOf(column.name, tuple(c for c in range(size) if c != code), text)
        if sign == "==":
            return nodes.OneOf(column.name, (int(code or 0),), text)
        if numeric:
            chosen = nodes.COMPARE[sign](np.asarray(levels, float), _float(value))
        elif column.kind == "ordered":
            chosen = nodes.COMPARE[sign](np.arange(len(levels)), code)
        else:
            raise self.error(f"{sign} beside the column {column.name!r} of kind {column.kind}",
                             "use == or in: its levels have no order")  # fmt: skip
        return nodes.OneOf(column.name, tuple(np.flatnonzero(chosen).tolist()), text)

    def _date(self, column: Column, value: str) -> float:
        """Days since the column's origin."""
        try:
            if not _DATE.fullmatch(value.strip()):
                raise ValueError("not of the form year-month-day")
            stamp = pd.Timestamp(value.strip())
            if stamp.tzinfo is None and column.tz is not None:
                stamp = stamp.tz_localize(column.tz)
        except Exception as error:  # time zones report clock changes by errors of their own
            raise self.error(
                f"the date {value!r} ({error})",
                "write it as '2020-01-31', or with its offset: '2020-10-25 02:30+01:00'",
            ) from error
        if stamp.tzinfo is not None and column.tz is None:
            raise self.error(f"the date {value!r} with a zone", f"leave the zone out: column "
                             f"{column.name!r} has none")  # fmt: skip
        if stamp.tzinfo is not None:
            stamp = stamp.tz_convert("UTC").tz_localize(None)
        tick = stamp.asm8.astype(np.int64).reshape(1)
        none = np.zeros(1, bool)
        return float(days(tick, none, stamp.unit, int(column.origin or 0), str(column.unit))[0])

    def _span(self, value: str) -> float:
        """Days."""
        try:
            return float(pd.Timedelta(value) / pd.Timedelta(days=1))
        except (ValueError, OverflowError) as error:
            raise self.error(f"the duration {value!r}", "write it as '3 days'") from error

    def _two_columns(self, left: Column, sign: str, right: Column) -> Node:
        sides = left, right
        if all(_is_number(c) for c in sides):
            return Compare(sign, _value(left), _value(right))
        if all(c.kind == "date" for c in sides) and (left.tz is None) == (right.tz is None):
            return Compare(sign, _dated(left, left), _dated(right, left))
        if all(c.unit and c.kind != "date" for c in sides):
            return Compare(sign, Value(left.name), Value(right.name))
        ordered = left.levels == right.levels and all(c.kind == "ordered" for c in sides)
        if all(c.labelled for c in sides) and (ordered or sign in ("==", "!=")):
            number = {level: float(i) for i, level in enumerate(left.levels or ())}
            for level in right.levels or ():
                number.setdefault(level, float(len(number)))
            both = [Value(c.name, tuple(number[v] for v in c.levels or ())) for c in sides]
            if ordered and sign not in ("==", "!="):
                return Compare(sign, *both)
            same = nodes.Same(*both)
            return same if sign == "==" else nodes.Not(same)
        raise self.error(
            f"{left.name!r} ({left.kind}) {sign} {right.name!r} ({right.kind})",
            "compare columns that hold the same kind of values",
        )

    # --- numbers --------------------------------------------------------------------------

    def term(self, tree: ast.expr) -> Term:
        """A number a row."""
        value = _constant(tree)
        if value is not None and not isinstance(value, str | bool):
            return Number(_float(value), ast.unparse(tree))
        if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub | ast.UAdd):
            inner = self.term(tree.operand)
            return inner if isinstance(tree.op, ast.UAdd) else Arithmetic("-", Number(0.0), inner)
        if isinstance(tree, ast.BinOp) and type(tree.op) in _SIGNS:
            both = self.term(tree.left), self.term(tree.right)
            made = Arithmetic(_SIGNS[type(tree.op)], *both)
            if made.columns:
                return made
            return Number(float(made.of({})), ast.unparse(tree))  # constants are worked out once
        if isinstance(tree, ast.Name):
            column = self.column(tree)
            if _is_number(column):
                return _value(column)
            raise self.error(f"arithmetic on the column {column.name!r} of kind {column.kind}",
                             "compare it as it is")  # fmt: skip
        raise self.error(f"{ast.unparse(tree)} where a number is needed",
                         "compare columns and numbers")  # fmt: skip

    # --- columns --------------------------------------------------------------------------

    def column(self, tree: ast.Name) -> Column:
        """The column called so."""
        name: Hashable = name_of(tree, self.names)
        if name not in self.schema.number:
            whole = str(name).lstrip("-").isdigit() and int(str(name)) in self.schema.number
            if not whole:
                raise SchemaError(message(
                    f"no column {name!r} in the event {self.text!r}",
                    f"one of {closest(name, self.schema.names)}",
                    "correct it; put names that are no plain words into backticks",
                ))  # fmt: skip
            name = int(str(name))
        column = self.schema[name]
        if column.role == "empty":
            raise self.error(f"the column {name!r}, which was all missing at fit",
                             "leave it out: nothing is known of it")  # fmt: skip
        return column

    def _lone(self, tree: ast.expr) -> Column | None:
        return self.column(tree) if isinstance(tree, ast.Name) else None


def _nothing(column: Column) -> Node:
    """Holds in no cell, and is unknown in a hole."""
    if column.labelled:
        return nodes.OneOf(column.name, (), f"{Value(column.name)} in []")
    return nodes.Among(Value(column.name), ())


def _is_truth(tree: ast.expr) -> bool:
    """Whether the syntax says that it is true or false."""
    inverted = isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not | ast.Invert)
    return inverted or isinstance(tree, ast.BoolOp | ast.Compare)


def _constant(tree: ast.expr) -> Any:
    """A number (also a negative one), a text or a truth value; None for all else."""
    if isinstance(tree, ast.Constant):
        return tree.value
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub | ast.UAdd):
        inner = _constant(tree.operand)
        if isinstance(inner, int | float) and not isinstance(inner, bool):
            return -inner if isinstance(tree.op, ast.USub) else inner
    return None


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number beyond float64 is above all of its numbers
        return math.inf if value > 0 else -math.inf


def _is_number(column: Column) -> bool:
    """Whether its values can be calculated with."""
    if column.labelled:
        plain = not column.dtype.startswith(("category[", "ordered["))
        kinds = {type(level) for level in column.levels or ()}
        rising = kinds <= {int, float} and sorted(column.levels or ()) == list(column.levels or ())
        return bool(plain and kinds and rising) and column.kind != "boolean"
    return column.kind != "date" and not column.unit


def _value(column: Column) -> Value:
    levels = tuple(float(v) for v in column.levels or ()) if column.labelled else None
    return Value(column.name, levels)


def _dated(column: Column, like: Column) -> Term:
    """A date in days since the origin of another column."""
    none = np.zeros(1, bool)
    origin = np.array([column.origin or 0], dtype=np.int64)
    shift = days(origin, none, str(column.unit), int(like.origin or 0), str(like.unit))
    return Arithmetic("+", Value(column.name), Number(float(shift[0])))


def _code_of(value: Any, levels: list[Any]) -> int | None:
    """The code of the level that a value is; a text may be a date."""
    for code, level in enumerate(levels):
        if level == value and isinstance(level, str) == isinstance(value, str):
            return code
    if isinstance(value, str) and _DATE.fullmatch(value):
        texts = [str(level) if isinstance(level, pd.Timestamp) else None for level in levels]
        stamp = str(pd.Timestamp(value)) if any(texts) else None
        return texts.index(stamp) if stamp in texts else None
    return None
