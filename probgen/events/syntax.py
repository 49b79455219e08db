"""The text of an event as a checked syntax tree: nothing of it is ever run.

The language is that of `DataFrame.query`, as far as it can be answered: ``&`` and ``|`` mean
``and`` and ``or`` and bind as loosely as these, and a name in backticks is any column.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Hashable

from probgen.errors import SchemaError, message

__all__ = ["ALLOWED", "Names", "parse", "refuse"]

#: what the message of every refusal says
ALLOWED = (
    "columns, numbers, texts, True and False, lists; == != < <= > >= in, not in; "
    "and or not & | ~; + - * / ** % between columns and numbers; parentheses"
)
#: characters of the longest event, and how deep it may nest
LONGEST, DEEPEST = 20_000, 100

_NODES = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Invert, ast.USub,
    ast.UAdd, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.Mod, ast.Compare,
    ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Name, ast.Load,
    ast.Constant, ast.List, ast.Tuple, ast.Set,
)  # fmt: skip
_HINTS = {
    ast.Call: "functions cannot be called",
    ast.Attribute: "attributes cannot be read",
    ast.Subscript: "nothing can be indexed",
    ast.NamedExpr: "use == to compare",
    ast.Is: "use == to compare",
    ast.IsNot: "use != to compare",
    ast.FloorDiv: "use / to divide",
}

#: stand-in of a backticked name -> the name
Names = dict[str, str]


def refuse(text: str, found: str, do: str) -> SchemaError:
    """The error for a part of an event that is not part of the language."""
    return SchemaError(message(f"{found} in the event {_short(text)}", ALLOWED, do))


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def parse(text: str) -> tuple[ast.expr, Names]:
    """The syntax tree of an event, and the names that stood in backticks.

    Raises
    ------
    SchemaError
        For anything that is not a comparison of columns in the language of `ALLOWED`.

    Examples
    --------
    >>> tree, names = parse("`a b` > 1 & c < 2")
    >>> ast.unparse(tree), names
    ('__backtick_0__ > 1 and c < 2', {'__backtick_0__': 'a b'})
    """
    if len(text) > LONGEST:
        raise refuse(text, f"{len(text)} characters", f"use {LONGEST} at most")
    plain, names = _plain(text)
    if not plain.strip():
        raise refuse(text, "nothing", "write a comparison, such as 'age < 30'")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(plain.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        what = getattr(error, "msg", None) or type(error).__name__
        raise refuse(text, f"{what}", _advice(plain)) from error
    _check(tree, text)
    return tree.body, names


def _advice(plain: str) -> str:
    if "@" in plain:
        return "put the value itself in place of @name, say with an f-string"
    if "=" in plain.replace("==", "").replace("<=", "").replace(">=", "").replace("!=", ""):
        return "compare with ==, not ="
    return "correct it; put names of columns that are no plain words into backticks"


def _plain(text: str) -> tuple[str, Names]:
    """The text with ``&`` and ``|`` as words and backticked names replaced; quotes are kept."""
    out: list[str] = []
    names: Names = {}
    place = 0
    while place < len(text):
        char = text[place]
        if char in "'\"":
            stop = _end_of_quote(text, place)
            out.append(text[place:stop])
            place = stop
            continue
        if char == "`":
            stop = text.find("`", place + 1)
            if stop < 0:
                raise refuse(text, "a backtick without a partner", "close the name with `")
            stand_in = f"__backtick_{len(names)}__"
            names[stand_in] = text[place + 1 : stop]
            out.append(f" {stand_in} ")
            place = stop + 1
            continue
        if char == "#":
            raise refuse(text, "#", "drop it: an event holds no comments")
        out.append({"&": " and ", "|": " or ", "\n": " ", "\r": " "}.get(char, char))
        place += 1
    return "".join(out), names


def _end_of_quote(text: str, start: int) -> int:
    """Just behind the quoted text that begins at `start`."""
    place = start + 1
    while place < len(text):
        if text[place] == "\\":
            place += 2
        elif text[place] == text[start]:
            return place + 1
        else:
            place += 1
    raise refuse(text, "a quote without a partner", "close the text with the same quote")


def _check(tree: ast.Expression, text: str) -> None:
    """Only known kinds of nodes, and not too deep; walks without recursion."""
    todo: list[tuple[ast.AST, int]] = [(tree, 0)]
    while todo:
        node, depth = todo.pop()
        if depth > DEEPEST:
            raise refuse(text, f"more than {DEEPEST} levels of nesting", "write it flatter")
        if not isinstance(node, _NODES):
            hint = _HINTS.get(type(node), "leave it out")
            raise refuse(text, f"{type(node).__name__}", hint)
        if isinstance(node, ast.Constant):
            _check_constant(node, text)
        todo += [(child, depth + 1) for child in ast.iter_child_nodes(node)]


def _check_constant(node: ast.Constant, text: str) -> None:
    if node.value is None:
        raise refuse(text, "None", "leave it out: an event is about values, never about holes")
    if not isinstance(node.value, bool | int | float | str):
        raise refuse(text, f"a {type(node.value).__name__}", "use a number or a text")


def name_of(node: ast.Name, names: Names) -> Hashable:
    """What a name in the tree stands for."""
    return names.get(node.id, node.id)
