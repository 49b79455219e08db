"""Reading and writing XMLBIF, the XML format of Bayesian networks."""

from __future__ import annotations

from os import PathLike
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, SubElement, TreeBuilder, indent, tostring
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from probgen.errors import NotSupported, SchemaError, closest, message
from probgen.exchange.files import read_bytes, write_text
from probgen.exchange.tables import NetworkTables, graph_of

__all__ = ["format_xmlbif", "parse_xmlbif", "read_xmlbif", "write_xmlbif"]

Table = NDArray[np.float64]


def read_xmlbif(path: str | PathLike[str]) -> NetworkTables:
    """Read a network of discrete variables from an XMLBIF file.

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
        If the file is not understood, or declares entities, which are never expanded.
    NotSupported
        If it holds decisions or utilities.

    References
    ----------
    Cozman (1998), The interchange format for Bayesian networks, XMLBIF version 0.3.
    """
    return parse_xmlbif(read_bytes(path), str(path))


def parse_xmlbif(text: str | bytes, source: str = "text") -> NetworkTables:
    """The network that an XMLBIF text describes; `source` names it in errors.

    Examples
    --------
    >>> net = parse_xmlbif('''<BIF VERSION="0.3"><NETWORK><NAME>weather</NAME>
    ... <VARIABLE TYPE="nature"><NAME>rain</NAME>
    ...   <OUTCOME>yes</OUTCOME><OUTCOME>no</OUTCOME></VARIABLE>
    ... <VARIABLE TYPE="nature"><NAME>wet</NAME>
    ...   <OUTCOME>yes</OUTCOME><OUTCOME>no</OUTCOME></VARIABLE>
    ... <DEFINITION><FOR>rain</FOR><TABLE>0.2 0.8</TABLE></DEFINITION>
    ... <DEFINITION><FOR>wet</FOR><GIVEN>rain</GIVEN>
    ...   <TABLE>0.9 0.1 0.3 0.7</TABLE></DEFINITION>
    ... </NETWORK></BIF>''')
    >>> net.tables[1]
    array([[0.9, 0.3],
           [0.1, 0.7]])
    """
    document = _Document(source)
    network = document.network(text)
    levels: dict[str, tuple[str, ...]] = {}
    for variable in network.findall("VARIABLE"):
        name = document.text(variable, "NAME")
        if (kind := variable.get("TYPE", "nature")) != "nature":
            raise NotSupported(message(
                f"{name!r} of type {kind!r} in {document.at(variable)}",
                "variables of type nature", "remove decisions and utilities",
            ))  # fmt: skip
        own = tuple(_words(outcome) for outcome in variable.findall("OUTCOME"))
        document.add(levels, name, own, variable)
    found: dict[str, Element] = {}
    for definition in network.findall("DEFINITION"):
        document.add(found, document.text(definition, "FOR"), definition, definition)
    for name in levels:
        if name not in found:
            document.fail(network, f"no DEFINITION of {name!r}", "one for each variable", "add it")
    parents = {name: document.parents(name, found[name], levels) for name in found}
    dag = graph_of(list(levels), [parents[name] for name in levels])
    tables = tuple(document.table(name, found[name], parents[name], levels) for name in levels)
    return NetworkTables(tuple(levels), tuple(levels.values()), dag, tables)


def _words(element: Element) -> str:
    return "".join(element.itertext()).strip()


class _Document:
    """A parsed document that knows the line of each element, for errors."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[Element, int] = {}

    def at(self, element: Element) -> str:
        return f"{self.source}, line {self.lines[element]}"

    def fail(self, element: Element, found: str, needed: str, do: str) -> NoReturn:
        raise SchemaError(message(f"{found} in {self.at(element)}", needed, do))

    def network(self, text: str | bytes) -> Element:
        """The NETWORK element. No entity is expanded and nothing outside is fetched."""
        parser, builder = expat.ParserCreate(), TreeBuilder()

        def start(tag: str, attributes: dict[str, str]) -> None:
            element: Any = builder.start(tag, attributes)
            self.lines[element] = parser.CurrentLineNumber

        def refuse(name: str, *_: object) -> None:
            raise SchemaError(message(
                f"the entity {name!r} in {self.source}, line {parser.CurrentLineNumber}",
                "a file without entities of its own", "write out what it stands for",
            ))  # fmt: skip

        parser.StartElementHandler = start
        parser.EndElementHandler = builder.end  # type: ignore[assignment]
        parser.CharacterDataHandler = builder.data  # type: ignore[assignment]
        parser.EntityDeclHandler = refuse
        parser.SkippedEntityHandler = refuse  # type: ignore[attr-defined]
        try:
            parser.Parse(text, True)
        except SchemaError:
            raise
        except (expat.ExpatError, LookupError, ValueError) as error:  # encodings, too
            raise SchemaError(message(
                f"{self.source}, which is no XML ({error})", "an XMLBIF file", "correct that place"
            )) from error  # fmt: skip
        root = builder.close()
        found = root.find("NETWORK") if root.tag == "BIF" else None
        if found is None or not found.findall("VARIABLE"):
            self.fail(root, f"<{root.tag}> without a network", "<BIF> with a <NETWORK> of "
                      "variables", "pass an XMLBIF file")  # fmt: skip
        return found

    def text(self, element: Element, tag: str) -> str:
        """The text of the only child of that tag."""
        own = element.findall(tag)
        if len(own) != 1 or not _words(own[0]):
            self.fail(element, f"{len(own)} <{tag}> in a <{element.tag}>", "one, not empty",
                      "correct it")  # fmt: skip
        return _words(own[0])

    def add(self, into: dict[str, Any], name: str, value: object, element: Element) -> None:
        if name in into:
            self.fail(element, f"a second <{element.tag}> of {name!r}", "one", "drop one")
        into[name] = value

    def parents(
        self, name: str, definition: Element, levels: dict[str, tuple[str, ...]]
    ) -> list[str]:
        own = [_words(given) for given in definition.findall("GIVEN")]
        for word in (name, *own):
            if word not in levels:
                self.fail(definition, f"the unknown variable {word!r}",
                          f"one of {closest(word, levels)}", "correct its name")  # fmt: skip
        return own

    def table(
        self, name: str, definition: Element, parents: list[str],
        levels: dict[str, tuple[str, ...]],
    ) -> Table:  # fmt: skip
        """In the file the levels of the child vary fastest, then those of the last parent."""
        shape = [len(levels[own]) for own in (*parents, name)]
        words = self.text(definition, "TABLE").split()
        try:
            flat = np.array([float(word) for word in words])
        except ValueError:
            flat = np.zeros(0)
        if len(flat) != np.prod(shape):
            shown = " ".join(words[:6]) + (" ..." if len(words) > 6 else "")
            self.fail(definition, f"{len(words)} values ({shown}) for {name!r}",
                      f"{int(np.prod(shape))} numbers", "correct the table")  # fmt: skip
        return np.moveaxis(flat.reshape(shape), -1, 0)


# --- writing ------------------------------------------------------------------------------


def write_xmlbif(net: NetworkTables, path: str | PathLike[str], name: str = "unknown") -> None:
    """Write a network to an XMLBIF file, compressed if `path` ends in ``.gz``.

    Probabilities are written so that reading gives the same floats. Levels that are no strings
    are written as strings.

    Raises
    ------
    SchemaError
        If a name or level cannot be written: it is empty, has blanks at its ends or characters
        that XML lacks, or two levels look alike as strings.
    """
    write_text(path, format_xmlbif(net, name))


def format_xmlbif(net: NetworkTables, name: str = "unknown") -> str:
    """A network as XMLBIF text.

    Examples
    --------
    >>> from probgen.graphs.dag import Dag
    >>> rain = NetworkTables(("rain",), (("yes", "no"),), Dag.of(1), (np.array([0.2, 0.8]),))
    >>> print(format_xmlbif(rain, "weather"))
    <?xml version="1.0" encoding="UTF-8"?>
    <BIF VERSION="0.3">
      <NETWORK>
        <NAME>weather</NAME>
        <VARIABLE TYPE="nature">
          <NAME>rain</NAME>
          <OUTCOME>yes</OUTCOME>
          <OUTCOME>no</OUTCOME>
        </VARIABLE>
        <DEFINITION>
          <FOR>rain</FOR>
          <TABLE>0.2 0.8</TABLE>
        </DEFINITION>
      </NETWORK>
    </BIF>
    """
    root = Element("BIF", VERSION="0.3")
    network = SubElement(root, "NETWORK")
    SubElement(network, "NAME").text = _sayable(name)
    for own, levels in zip(net.names, net.levels, strict=True):
        variable = SubElement(network, "VARIABLE", TYPE="nature")
        SubElement(variable, "NAME").text = _sayable(own)
        if len({str(level) for level in levels}) < len(levels):
            raise SchemaError(message(
                f"levels {list(levels)} of {own!r}", "levels that differ as strings",
                "rename them",
            ))  # fmt: skip
        for level in levels:
            SubElement(variable, "OUTCOME").text = _sayable(level)
    for node, own in enumerate(net.names):
        definition = SubElement(network, "DEFINITION")
        SubElement(definition, "FOR").text = own
        for parent in net.dag.parents[node]:
            SubElement(definition, "GIVEN").text = net.names[parent]
        values = np.moveaxis(net.tables[node], 0, -1).ravel().tolist()
        SubElement(definition, "TABLE").text = " ".join(map(repr, values))
    indent(root)
    text = tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _sayable(value: object) -> str:
    """Text that XML can hold and that blanks around a word do not change."""
    text = str(value)
    if not text or text != text.strip() or not all(c.isprintable() for c in text):
        raise SchemaError(message(
            f"the name or level {text!r}", "printable text, not empty, without blanks at its ends",
            "rename it",
        ))  # fmt: skip
    return text
