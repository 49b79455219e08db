"""Reading and writing BIF, the text format of Bayesian networks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from os import PathLike
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from probgen.errors import SchemaError, closest, message
from probgen.exchange.files import read_text, write_text
from probgen.exchange.tables import NetworkTables, graph_of

__all__ = ["format_bif", "parse_bif", "read_bif", "write_bif"]

Table = NDArray[np.float64]

#: comments go; what is quoted is put aside, so that no mark inside it is read as one
HIDDEN = re.compile(r'"([^"\n]*)"|//[^\n]*|/\*.*?\*/', re.DOTALL)
HELD = re.compile("\ue000(\\d+)\ue001")
BLOCK = re.compile(r"\b(variable\s[^{};]*|probability\s*\([^{};]*|network\b[^{};]*)\{")
TYPE = re.compile(r"\btype\s+(\S+?)\s*\[\s*(\d+)\s*\]\s*\{([^{}]*)\}\s*;")
#: the last bracket before the numbers closes: levels may hold brackets themselves
ROW = re.compile(r"\s*(?:\((.*)\)|(table|default)\b)\s*([^()]*)\Z", re.DOTALL)
#: words that need no quotes
PLAIN = re.compile(r"[\w.<>=+\-]+")


def read_bif(path: str | PathLike[str]) -> NetworkTables:
    """Read a network of discrete variables from a BIF file.

    Parameters
    ----------
    path : path
        Decompressed if it ends in ``.gz``.

    Returns
    -------
    NetworkTables
        Variables, levels and parents in the order of the file.

    Raises
    ------
    SchemaError
        If the file is not understood; the line is named.

    References
    ----------
    Cozman (1996), The interchange format for Bayesian networks, version 0.15.
    """
    return parse_bif(read_text(path), str(path))


def parse_bif(text: str, source: str = "text") -> NetworkTables:
    """The network that a BIF text describes; `source` names it in errors.

    Examples
    --------
    >>> net = parse_bif('''
    ... network weather {}
    ... variable rain { type discrete [ 2 ] { yes, no }; }
    ... variable wet { type discrete [ 2 ] { yes, no }; }
    ... probability ( rain ) { table 0.2, 0.8; }
    ... probability ( wet | rain ) { (yes) 0.9, 0.1; default 0.1, 0.9; }
    ... ''')
    >>> net.tables[1]
    array([[0.9, 0.1],
           [0.1, 0.9]])
    """
    found = _Text.of(text, source)
    levels: dict[str, tuple[str, ...]] = {}
    distributions: dict[str, _Distribution] = {}
    for block in found.blocks():
        if block.kind == "variable":
            found.add(levels, found.name(block.head), found.levels(block), block)
        elif block.kind == "probability":
            own = found.distribution(block, levels)
            found.add(distributions, own.name, own, block)
    if not levels:
        found.fail(1, "no variable", "blocks such as variable rain { ... }", "pass a BIF file")
    missing = [name for name in levels if name not in distributions]
    if missing:
        found.fail(found.lines, f"no probability block of {missing}", "one for each variable",
                   "add the blocks")  # fmt: skip
    ordered = [distributions[name] for name in levels]
    dag = graph_of(list(levels), [own.parents for own in ordered])
    tables = tuple(found.table(own, levels) for own in ordered)
    return NetworkTables(tuple(levels), tuple(levels.values()), dag, tables)


@dataclass(frozen=True)
class _Block:
    kind: str
    head: str
    body: str
    line: int
    body_line: int


@dataclass(frozen=True)
class _Distribution:
    name: str
    parents: tuple[str, ...]
    block: _Block


@dataclass(frozen=True)
class _Text:
    """A BIF text without comments; marks stand for what it quotes."""

    text: str
    source: str
    quoted: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, text: str, source: str) -> _Text:
        quoted: list[str] = []

        def hide(found: re.Match[str]) -> str:
            if found[1] is None:
                return " " + "\n" * found[0].count("\n")
            quoted.append(found[1])
            return f" \ue000{len(quoted) - 1}\ue001 "

        if held := re.search("[\ue000\ue001]", text):
            line = text.count("\n", 0, held.start()) + 1
            cls(text, source).fail(line, f"the character {held[0]!r}", "text without characters "
                                   "of private use", "remove it")  # fmt: skip
        return cls(HIDDEN.sub(hide, text), source, quoted)

    @property
    def lines(self) -> int:
        return self.text.count("\n") + 1

    def fail(self, line: int, found: str, needed: str, do: str) -> NoReturn:
        raise SchemaError(message(f"{found} in {self.source}, line {line}", needed, do))

    def add(self, into: dict[str, Any], name: str, value: object, block: _Block) -> None:
        if name in into:
            self.fail(block.line, f"a second {block.kind} block of {name!r}", "one", "drop one")
        into[name] = value

    # --- words ----------------------------------------------------------------------------

    def name(self, word: str) -> str:
        """A word as it was written, without its quotes."""
        return HELD.sub(lambda held: self.quoted[int(held[1])], word.strip())

    def words(self, text: str, known: dict[str, Any] | None = None) -> list[str]:
        """Words parted by commas, or by blanks where a part is not known as a whole."""
        found = []
        for part in text.split(","):
            whole = self.name(part)
            if known is not None and whole in known:
                found.append(whole)
            else:
                found += [self.name(word) for word in part.split()]
        return found

    # --- blocks ---------------------------------------------------------------------------

    def blocks(self) -> Iterator[_Block]:
        place, line, counted = 0, 1, 0
        while head := BLOCK.search(self.text, place):
            line += self.text.count("\n", counted, head.start())
            counted = head.start()
            words = head[1]
            kind = re.match(r"\w+", words)[0]  # type: ignore[index]
            inside = self.text.count("\n", head.start(), head.end())
            end = self._end(head.end(), line, kind)
            yield _Block(kind, words[len(kind) :].strip(), self.text[head.end() : end], line,
                         line + inside)  # fmt: skip
            place = end + 1

    def _end(self, start: int, line: int, kind: str) -> int:
        """Where the bracket closes that was opened before `start`."""
        depth = 1
        for mark in re.compile(r"[{}]").finditer(self.text, start):
            depth += 1 if mark[0] == "{" else -1
            if not depth:
                return mark.start()
        self.fail(line, f"a {kind} block without end", "a closing }", "check whether the file is "
                  "cut off")  # fmt: skip

    def levels(self, block: _Block) -> tuple[str, ...]:
        """The levels that a variable block states."""
        found = TYPE.search(block.body)
        if found is None or found[1] != "discrete":
            self.fail(block.line, f"variable {self.name(block.head)!r} without discrete levels",
                      "type discrete [ 2 ] { yes, no };", "state its levels")  # fmt: skip
        parts = [self.name(part) for part in found[3].split(",") if part.strip()]
        own = parts if len(parts) == int(found[2]) else self.words(found[3])
        if len(own) != int(found[2]):
            self.fail(block.line, f"levels {own} of {self.name(block.head)!r}",
                      f"the {found[2]} levels it announces", "quote levels that hold commas or "
                      "blanks")  # fmt: skip
        return tuple(own)

    def distribution(self, block: _Block, levels: dict[str, Any]) -> _Distribution:
        """Whose distribution a block holds, and given what."""
        inner = re.fullmatch(r"\((.*)\)\s*", block.head, re.DOTALL)
        words = inner[1] if inner else ""
        left, bar, right = words.partition("|")
        own = self.words(left, levels) + (self.words(right, levels) if bar else [])
        if not own:
            self.fail(block.line, "a probability block of no variable",
                      "probability ( wet | rain )", "name the variable")  # fmt: skip
        for name in own:
            if name not in levels:
                self.fail(block.line, f"the unknown variable {name!r} in a probability block",
                          f"a variable declared before: {closest(name, levels)}",
                          "declare it, or correct its name")  # fmt: skip
        return _Distribution(own[0], tuple(own[1:]), block)

    # --- numbers --------------------------------------------------------------------------

    def table(self, own: _Distribution, levels: dict[str, tuple[str, ...]]) -> Table:
        """The table of one variable: its levels, then an axis for each of its parents."""
        size = len(levels[own.name])
        shape = tuple(len(levels[p]) for p in own.parents)
        codes = [{level: i for i, level in enumerate(levels[p])} for p in own.parents]
        whole: list[float] | None = None
        default: list[float] | None = None
        rows: dict[tuple[int, ...], str] = {}
        where: dict[tuple[int, ...], int] = {}
        for statement, line in self._statements(own.block):
            parts = ROW.match(statement)
            if parts is None:
                self.fail(line, repr(statement.strip()[:40]), "table, default or (levels) and "
                          "numbers", "correct the line")  # fmt: skip
                continue
            if parts[2] == "table":
                whole = self.numbers(parts[3], size * int(np.prod(shape)), line, own.name)
            elif parts[2] == "default":
                default = self.numbers(parts[3], size, line, own.name)
            else:
                place = self._place(parts[1], own, codes, line)
                if place in rows:
                    self.fail(line, f"a second row ({parts[1].strip()}) of {own.name!r}", "one",
                              "drop one")  # fmt: skip
                rows[place], where[place] = parts[3], line
        if whole is not None:
            return np.array(whole).reshape(size, *shape)
        return self._filled(own, rows, where, default, (size, *shape))

    def _filled(
        self, own: _Distribution, rows: dict[tuple[int, ...], str],
        where: dict[tuple[int, ...], int], default: list[float] | None, shape: tuple[int, ...],
    ) -> Table:  # fmt: skip
        size = shape[0]
        flat = np.full((int(np.prod(shape[1:])), size), np.nan)
        if default is not None:
            flat[:] = default
        elif len(rows) < len(flat):
            self.fail(own.block.line, f"{len(rows)} rows of {own.name!r}",
                      f"{len(flat)}, one for each configuration of its parents",
                      "add the missing rows, or a default row")  # fmt: skip
        if rows:
            strides = np.cumprod((1, *shape[:0:-1]))[-2::-1] if shape[1:] else np.zeros(0, int)
            at = np.array(list(rows), dtype=np.int64).reshape(len(rows), len(strides)) @ strides
            flat[at] = self._all_numbers(own, rows, where, size)
        return np.ascontiguousarray(flat.T).reshape(shape)

    def _all_numbers(
        self, own: _Distribution, rows: dict[tuple[int, ...], str],
        where: dict[tuple[int, ...], int], size: int,
    ) -> Table:  # fmt: skip
        """All rows at once, which is quick; one by one where one is wrong, to say which."""
        with suppress(ValueError):  # a word that is no number: found again below, and named
            words = [row.replace(",", " ").split() for row in rows.values()]
            if all(len(row) == size for row in words):
                return np.array([[*map(float, row)] for row in words])
        return np.array([
            self.numbers(row, size, where[place], own.name) for place, row in rows.items()
        ])  # fmt: skip

    def _statements(self, block: _Block) -> Iterator[tuple[str, int]]:
        """What stands between semicolons, with its line; properties are left out."""
        line = block.body_line
        *whole, rest = block.body.split(";")
        for statement in whole:
            text = statement.lstrip()
            first = line + statement[: len(statement) - len(text)].count("\n")
            line += statement.count("\n")
            if text and not re.match(r"property\b", text):
                yield text, first
        if text := rest.lstrip():
            line += rest[: len(rest) - len(text)].count("\n")
            self.fail(line, f"{rest.strip()[:40]!r} without an end", "a semicolon after it",
                      "add it")  # fmt: skip

    def _place(
        self, text: str, own: _Distribution, codes: list[dict[str, int]], line: int
    ) -> tuple[int, ...]:
        """The configuration of the parents that a row is of, as codes."""
        words = [self.name(word) for word in text.split(",")]
        if len(words) != len(codes):
            words = self.words(text)
        if len(words) != len(codes):
            self.fail(line, f"({text.strip()}) in the table of {own.name!r}",
                      f"one level each of {list(own.parents)}", "quote levels that hold commas "
                      "or blanks")  # fmt: skip
        try:
            return tuple([code[word] for code, word in zip(codes, words, strict=True)])
        except KeyError:
            at = next(i for i, word in enumerate(words) if word not in codes[i])
            self.fail(line, f"the unknown level {words[at]!r} of {own.parents[at]!r}",
                      f"one of {closest(words[at], codes[at])}", "correct it")  # fmt: skip

    def numbers(self, text: str, count: int, line: int, name: str) -> list[float]:
        """So many numbers, parted by commas or blanks."""
        words = text.replace(",", " ").split()
        try:
            found = [float(word) for word in words]
        except ValueError:
            found = []
        if len(found) != count:
            shown = " ".join(words[:6]) + (" ..." if len(words) > 6 else "")
            self.fail(line, f"{len(words)} values ({shown}) for {name!r}", f"{count} numbers",
                      "correct the line")  # fmt: skip
        return found


# --- writing ------------------------------------------------------------------------------


def write_bif(net: NetworkTables, path: str | PathLike[str], name: str = "unknown") -> None:
    """Write a network to a BIF file, compressed if `path` ends in ``.gz``.

    Probabilities are written so that reading gives the same floats. Levels that are no strings
    are written as strings.

    Raises
    ------
    SchemaError
        If a name or level cannot be written: BIF has no way to say a quotation mark or a line
        break, and two levels may look alike as strings.
    """
    write_text(path, format_bif(net, name))


def format_bif(net: NetworkTables, name: str = "unknown") -> str:
    """A network as BIF text.

    Examples
    --------
    >>> from probgen.graphs.dag import Dag
    >>> rain = NetworkTables(("rain",), (("yes", "no"),), Dag.of(1), (np.array([0.2, 0.8]),))
    >>> print(format_bif(rain))
    network unknown {
    }
    variable rain {
      type discrete [ 2 ] { yes, no };
    }
    probability ( rain ) {
      table 0.2, 0.8;
    }
    """
    lines = [f"network {_quoted(name)} {{", "}"]
    words = _as_words(net)
    for own, levels in zip(net.names, words, strict=True):
        stated = f"  type discrete [ {len(levels)} ] {{ {', '.join(levels)} }};"
        lines += [f"variable {_quoted(own)} {{", stated, "}"]
    for node in range(len(net.names)):
        lines += _probability(net, node, words)
    return "\n".join(lines) + "\n"


def _probability(net: NetworkTables, node: int, words: list[list[str]]) -> Iterator[str]:
    parents = net.dag.parents[node]
    given = f" | {', '.join(_quoted(net.names[p]) for p in parents)}" if parents else ""
    yield f"probability ( {_quoted(net.names[node])}{given} ) {{"
    rows = net.tables[node].reshape(len(words[node]), -1).T.tolist()
    for levels, row in zip(product(*(words[p] for p in parents)), rows, strict=True):
        start = f"({', '.join(levels)})" if parents else "table"
        yield f"  {start} {', '.join(map(repr, row))};"
    yield "}"


def _as_words(net: NetworkTables) -> list[list[str]]:
    """The levels of each variable, quoted where needed."""
    found = []
    for name, levels in zip(net.names, net.levels, strict=True):
        words = [_quoted(level) for level in levels]
        if len(set(words)) < len(words):
            raise SchemaError(message(
                f"levels {list(levels)} of {name!r}", "levels that differ as strings",
                "rename them",
            ))  # fmt: skip
        found.append(words)
    return found


def _quoted(value: object) -> str:
    text = str(value)
    if re.search(r'["\n\r\ue000\ue001\ud800-\udfff]', text) or text != text.strip() or not text:
        raise SchemaError(message(
            f"the name or level {text!r}", "text that BIF can hold: not empty, without quotation "
            "marks, line breaks and blanks at its ends", "rename it, or write XMLBIF",
        ))  # fmt: skip
    return text if PLAIN.fullmatch(text) else f'"{text}"'
