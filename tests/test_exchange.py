"""Networks in files: what is written is read again, and what is wrong is named with its line."""

import gzip
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from probgen.errors import NotSupported, SchemaError
from probgen.exchange.bif import format_bif, parse_bif, read_bif, write_bif
from probgen.exchange.describe import Regression, describe
from probgen.exchange.graphs import from_networkx, graph_from_networkx, to_networkx, to_pgmpy
from probgen.exchange.tables import NetworkTables, graph_of
from probgen.exchange.xmlbif import format_xmlbif, parse_xmlbif, read_xmlbif, write_xmlbif
from probgen.graphs.dag import Dag

SPRINKLER = """\
network "wet grass" { property author me; }
// the lawn in the morning
variable rain { type discrete [ 2 ] { yes, no }; property "position = (1, 2)"; }
variable sprinkler {
  type discrete[2] { on off };
}
variable "wet ground" {  /* with a
  comment over lines */
  type discrete [ 3 ] { "soaked; (really)", damp, dry };
}
probability ( rain ) { table 2e-1, 8.0E-1; }
probability ( sprinkler | rain ) {
  (no) 0.4, 0.6;
  default 0.01 0.99;
}
probability ( "wet ground" | sprinkler, rain ) {
  property measured;
  (on, yes) 0.9, 0.09, 0.01;
  (off, yes) 0.8, 0.15, 0.05;
  (on, no) 0.7, 0.2, 0.1;
  (off, no) 0.0, 1e-3, 0.999;
}
"""


def random_network(seed: int = 0, levels=None) -> NetworkTables:
    rng = np.random.default_rng(seed)
    names = ("a", "b", "c", "d", "e")
    # parents out of order: their order is that of the axes
    dag = Dag(((), (0,), (1, 0), (), (3, 2, 1)))
    levels = levels or tuple(
        tuple(f"{n}{i}" for i in range(2 + k % 3)) for k, n in enumerate(names)
    )
    tables = []
    for node, own in enumerate(levels):
        shape = [len(levels[p]) for p in dag.parents[node]]
        tables.append(np.moveaxis(rng.dirichlet(np.full(len(own), 0.3), size=shape), -1, 0))
    return NetworkTables(names, levels, dag, tuple(tables))


def assert_same(one: NetworkTables, other: NetworkTables) -> None:
    assert (one.names, one.levels, one.dag) == (other.names, other.levels, other.dag)
    for left, right in zip(one.tables, other.tables, strict=True):
        np.testing.assert_array_equal(left, right)


# --- tables -----------------------------------------------------------------------------------


def test_sums_that_miss_one_a_little_are_mended():
    net = NetworkTables(("a",), (("x", "y"),), Dag.of(1), (np.array([0.333333, 0.666666]),))
    assert net.tables[0].sum() == pytest.approx(1, abs=1e-15)
    again = NetworkTables(net.names, net.levels, net.dag, net.tables)
    assert_same(net, again)


@pytest.mark.parametrize(("change", "words"), [
    ({"tables": (np.array([0.5, 0.4]),)}, r"sum of 0\.9 for 'a'"),
    ({"tables": (np.array([1.5, -0.5]),)}, r"-0\.5 in the table of 'a'"),
    ({"tables": (np.array([np.nan, 1.0]),)}, "nan in the table of 'a'"),
    ({"tables": (np.array([0.2, 0.3, 0.5]),)}, r"shape \(3,\) for 'a'.*shape \(2,\)"),
    ({"levels": (("x", "x"),)}, "levels of 'a' .*'x'"),
    ({"names": ("a", "b")}, "2 names"),
])  # fmt: skip
def test_tables_that_are_none_are_refused(change, words):
    parts = {"names": ("a",), "levels": (("x", "y"),), "dag": Dag.of(1),
             "tables": (np.array([0.5, 0.5]),)}  # fmt: skip
    with pytest.raises(SchemaError, match=words):
        NetworkTables(**{**parts, **change})


def test_a_bad_configuration_is_named():
    table = np.array([[0.5, 0.5], [0.5, 0.6]])
    with pytest.raises(SchemaError, match="1.1 for 'b' given a=no"):
        NetworkTables(("a", "b"), (("yes", "no"), ("u", "v")), Dag.of(2, [(0, 1)]),
                      (np.array([0.5, 0.5]), table))  # fmt: skip


def test_graphs_by_name():
    with pytest.raises(SchemaError, match=r"cycle among \['a', 'b'\]"):
        graph_of(["a", "b", "c"], [["b"], ["a"], ["b"]])
    with pytest.raises(SchemaError, match="parent 'z' of 'c'"):
        graph_of(["a", "b", "c"], [[], [], ["z"]])
    with pytest.raises(SchemaError, match="each once"):
        graph_of(["a", "b"], [[], ["a", "a"]])


# --- BIF --------------------------------------------------------------------------------------


def test_what_a_file_says_is_read():
    net = parse_bif(SPRINKLER)
    assert net.names == ("rain", "sprinkler", "wet ground")
    assert net.levels[1:] == (("on", "off"), ("soaked; (really)", "damp", "dry"))
    assert net.dag.parents == ((), (0,), (1, 0))
    np.testing.assert_array_equal(net.tables[0], [0.2, 0.8])
    np.testing.assert_array_equal(net.tables[1], [[0.01, 0.4], [0.99, 0.6]])
    # of [level, sprinkler, rain]
    np.testing.assert_allclose(net.tables[2][:, 0, 1], [0.7, 0.2, 0.1], atol=1e-15)
    np.testing.assert_allclose(net.tables[2][0], [[0.9, 0.7], [0.8, 0.0]], atol=1e-15)


def test_a_whole_table_has_the_child_slowest():
    text = """
    probability ( b a c ) { table .1 .2 .3 .4 .9 .8 .7 .6; }
    variable a { type discrete [ 2 ] { a0, a1 }; }"""
    head = "".join(f"variable {n} {{ type discrete [ 2 ] {{ x, y }}; }}" for n in "abc")
    flat = "probability ( a ) { table .5 .5; } probability ( c ) { table .5 .5; }"
    net = parse_bif(head + flat + text.split("variable")[0])
    np.testing.assert_allclose(net.tables[1][0], [[0.1, 0.2], [0.3, 0.4]], atol=1e-15)
    assert net.dag.parents[1] == (0, 2)


@pytest.mark.parametrize("seed", range(5))
def test_bif_written_and_read_is_the_same_to_the_bit(seed, tmp_path):
    net = random_network(seed)
    for name in ("net.bif", "net.bif.gz"):
        write_bif(net, tmp_path / name)
        assert_same(net, read_bif(tmp_path / name))
    assert gzip.decompress(Path(tmp_path / "net.bif.gz").read_bytes()).startswith(b"network")


def test_levels_with_odd_characters_keep_them():
    odd = (("a, b", "a b"), ("(1,2]", "{x}", ">=7.5"), ("é//", "/* | */", "5-10", "<3"),
           ("default", "table"), ("x;y", "ü 1", "%"))  # fmt: skip
    net = random_network(levels=odd)
    net = NetworkTables(("two words", "b|c", "P(x)", "d", "e"), odd, net.dag, net.tables)
    assert_same(net, parse_bif(format_bif(net)))


def test_levels_that_are_no_strings_are_written_as_strings():
    odd = ((0, 1), (True, False, None), (1.5, 2.5, 3.5, 4.5), ("a", "b"), ("x", "y", "z"))
    net = parse_bif(format_bif(random_network(levels=odd)))
    assert net.levels[:2] == (("0", "1"), ("True", "False", "None"))
    with pytest.raises(SchemaError, match="differ as strings"):
        format_bif(random_network(levels=((0, "0"), *odd[1:])))
    with pytest.raises(SchemaError, match="quotation"):
        format_bif(random_network(levels=(('"', "b"), *odd[1:])))


@pytest.mark.parametrize(("old", "new", "words"), [
    ("(no) 0.4, 0.6;", "(no) 0.4;", r"1 values \(0\.4\) for 'sprinkler' in text, line 13"),
    ("(no) 0.4, 0.6;", "(no) 0.4, x;", r"2 values .* line 13; needed 2 numbers"),
    ("(no) 0.4, 0.6;", "(maybe) 0.4, 0.6;", "unknown level 'maybe' of 'rain' in text, line 13"),
    ("(no) 0.4, 0.6;", "(no, no) 0.4, 0.6;", "line 13; needed one level each"),
    ("(no) 0.4, 0.6;", "(no) 0.4, 0.6; (no) 0.4, 0.6;", "second row"),
    ("(no) 0.4, 0.6;", "(no) 0.4, 0.7;", "sum of 1.1 for 'sprinkler' given rain=no"),
    ("(no) 0.4, 0.6;", "nonsense 1;", "'nonsense 1' in text, line 13"),
    ("default 0.01 0.99;", "", "1 rows of 'sprinkler' in text, line 12; needed 2"),
    ("default 0.01 0.99;", "default 0.01 0.99", "without an end in text, line 14"),
    ("| rain )", "| rein )", "unknown variable 'rein' .* line 12.*'rain'"),
    ("{ on off }", "{ on }", r"levels \['on'\] of 'sprinkler' in text, line 4"),
    ("type discrete[2]", "type continuous[2]", "line 4; needed type discrete"),
    ("variable sprinkler", "variable rain", "a second variable block of 'rain' in text, line 4"),
    ("table 2e-1, 8.0E-1; }", "table 2e-1, 8.0E-1;", "without end in text, line 11"),
    ("/* with a", "\ue0009\ue001 /* with a", "private use"),
    ("probability ( rain ) { table 2e-1, 8.0E-1; }", "", r"no probability block of \['rain'\]"),
    ("probability ( rain )", "probability ( rain | sprinkler )", "cycle among"),
])  # fmt: skip
def test_a_malformed_file_is_named_with_its_line(old, new, words):
    assert SPRINKLER.count(old) == 1
    with pytest.raises(SchemaError, match=words):
        parse_bif(SPRINKLER.replace(old, new))


def test_files_that_are_none(tmp_path):
    with pytest.raises(SchemaError, match="no variable"):
        parse_bif("")
    path = tmp_path / "x.bif.gz"
    path.write_bytes(b"network unknown {}")
    with pytest.raises(SchemaError, match="gzip"):
        read_bif(path)
    path = tmp_path / "x.bif"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SchemaError, match="UTF-8"):
        read_bif(path)


# --- XMLBIF -----------------------------------------------------------------------------------

LAWN = """<?xml version="1.0" encoding="US-ASCII"?>
<!DOCTYPE BIF [ <!ELEMENT BIF ( NETWORK )*> <!ATTLIST BIF VERSION CDATA #REQUIRED> ]>
<BIF VERSION="0.3">
<NETWORK><NAME>lawn</NAME><PROPERTY>author me</PROPERTY>
<VARIABLE TYPE="nature"><NAME>rain</NAME>
  <OUTCOME>yes</OUTCOME><OUTCOME>no</OUTCOME></VARIABLE>
<VARIABLE TYPE="nature"><NAME>wind</NAME>
  <OUTCOME>&lt; 3 &amp; weak</OUTCOME><OUTCOME>strong</OUTCOME><OUTCOME>storm</OUTCOME></VARIABLE>
<VARIABLE TYPE="nature"><NAME>wet</NAME>
  <OUTCOME>yes</OUTCOME><OUTCOME>no</OUTCOME></VARIABLE>
<DEFINITION><FOR>wet</FOR><GIVEN>rain</GIVEN><GIVEN>wind</GIVEN>
  <TABLE>0.9 0.1 <!-- rain, weak --> 0.8 0.2  0.7 0.3
         0.3 0.7  0.2 0.8  1e-1 0.9</TABLE></DEFINITION>
<DEFINITION><FOR>rain</FOR><TABLE>0.2 0.8</TABLE></DEFINITION>
<DEFINITION><FOR>wind</FOR><TABLE>0.5 0.25 0.25</TABLE></DEFINITION>
</NETWORK></BIF>
"""


def test_xmlbif_tables_have_the_child_fastest_then_the_last_parent():
    net = parse_xmlbif(LAWN)
    assert net.names == ("rain", "wind", "wet") and net.levels[1][0] == "< 3 & weak"
    assert net.dag.parents == ((), (), (0, 1))
    np.testing.assert_allclose(net.tables[2][0], [[0.9, 0.8, 0.7], [0.3, 0.2, 0.1]], atol=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_xmlbif_written_and_read_is_the_same_to_the_bit(seed, tmp_path):
    net = random_network(seed)
    for name in ("net.xml", "net.xml.gz"):
        write_xmlbif(net, tmp_path / name)
        assert_same(net, read_xmlbif(tmp_path / name))


def test_xmlbif_levels_with_odd_characters_keep_them():
    odd = (("<a>", "&amp;"), ('"', "'", "]]>"), ("é", "ü", "<!-- x -->", "a  b"), ("x", "y"),
           ("{", ";", "|"))  # fmt: skip
    net = random_network(levels=odd)
    assert_same(net, parse_xmlbif(format_xmlbif(net)))
    with pytest.raises(SchemaError, match="printable"):
        format_xmlbif(random_network(levels=(("a\n", "b"), *odd[1:])))


@pytest.mark.parametrize(("old", "new", "words"), [
    ("0.2 0.8</TABLE>", "0.2</TABLE>", r"1 values \(0\.2\) for 'rain' in text, line 14"),
    ("0.2 0.8</TABLE>", "0.2 x</TABLE>", "line 14; needed 2 numbers"),
    ("<GIVEN>wind", "<GIVEN>wnd", "unknown variable 'wnd' in text, line 11"),
    ("<FOR>wind</FOR>", "", "0 <FOR> in a <DEFINITION> in text, line 15"),
    ("<FOR>wind</FOR>", "<FOR>rain</FOR>", "a second <DEFINITION> of 'rain' in text, line 15"),
    ("</NETWORK>", "", "no XML .*line 16"),
    ("<OUTCOME>strong</OUTCOME><OUTCOME>storm</OUTCOME>", "<OUTCOME>strong</OUTCOME>",
     "3 values .* for 'wind' in text, line 15; needed 2"),
    ("<NETWORK>", "<NETWORK><DEFINITION><FOR>fog</FOR></DEFINITION>", "unknown variable 'fog'"),
])  # fmt: skip
def test_malformed_xml_is_named_with_its_line(old, new, words):
    with pytest.raises(SchemaError, match=words):
        parse_xmlbif(LAWN.replace(old, new, 1))


def test_xml_entities_are_refused_and_nothing_is_fetched(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("0.2 0.8")
    for entity in ('"0.2 0.8"', f'SYSTEM "file://{secret}"'):
        text = LAWN.replace("<!ELEMENT BIF", f"<!ENTITY e {entity}> <!ELEMENT BIF")
        with pytest.raises(SchemaError, match="entity 'e' in text, line 2"):
            parse_xmlbif(text.replace("0.2 0.8</TABLE>", "&e;</TABLE>"))
    inside = LAWN[LAWN.index("[ <!EL") : LAWN.index("]>") + 1]
    outside = LAWN.replace(inside, f'SYSTEM "file://{secret}"')
    assert_same(parse_xmlbif(outside), parse_xmlbif(LAWN))
    with pytest.raises(SchemaError, match="entity 'e'"):
        parse_xmlbif(outside.replace("0.2 0.8</TABLE>", "&e;</TABLE>"))
    with pytest.raises(NotSupported, match="'rain' of type 'decision'"):
        parse_xmlbif(LAWN.replace("nature", "decision"))
    with pytest.raises(SchemaError, match="without a network"):
        parse_xmlbif("<html></html>")


# --- networkx and pgmpy -----------------------------------------------------------------------


def test_networkx_graphs_keep_order_levels_and_tables():
    net = random_network()
    graph = to_networkx(net.names, net.dag, net)
    assert list(graph.nodes) == list(net.names) and graph.nodes["e"]["parents"] == ("d", "c", "b")
    assert_same(net, from_networkx(graph))
    names, dag = graph_from_networkx(to_networkx([3, "x", (1, 2)], Dag.of(3, [(2, 0), (1, 0)])))
    assert names == (3, "x", (1, 2)) and dag == Dag.of(3, [(2, 0), (1, 0)])


def test_networkx_graphs_that_are_no_networks():
    with pytest.raises(SchemaError, match="'rain' without .'levels', 'table'."):
        from_networkx(nx.DiGraph([("rain", "wet")]))
    with pytest.raises(SchemaError, match="DiGraph"):
        graph_from_networkx(nx.Graph([("rain", "wet")]))
    with pytest.raises(SchemaError, match="cycle"):
        graph_from_networkx(nx.DiGraph([("a", "b"), ("b", "a")]))
    graph = nx.DiGraph([("a", "b")])
    graph.nodes["b"]["parents"] = ["c"]
    with pytest.raises(SchemaError, match="stated for 'b'"):
        graph_from_networkx(graph)


def test_without_pgmpy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pgmpy.models", None)
    monkeypatch.setitem(sys.modules, "pgmpy.factors.discrete", None)
    with pytest.raises(NotSupported, match=r"probgen\[bn\]"):
        to_pgmpy(random_network())


# --- as text ----------------------------------------------------------------------------------


def test_a_printout_says_parents_and_tables():
    net = parse_bif(SPRINKLER)
    text = describe(net.names, net.levels, net.dag, net.tables, limit=3)
    assert text.splitlines() == [
        "rain",
        "    yes     no",
        "  0.200  0.800",
        "",
        "sprinkler | rain",
        "  rain |    on    off",
        "  yes  | 0.010  0.990",
        "  no   | 0.400  0.600",
        "",
        "wet ground | sprinkler, rain",
        "  sprinkler  rain | soaked; (really)   damp    dry",
        "  on         yes  |            0.900  0.090  0.010",
        "  on         no   |            0.700  0.200  0.100",
        "  off        yes  |            0.800  0.150  0.050",
        "  ... 1 more of 4 rows",
    ]


def test_a_printout_says_what_is_next_to_nothing_and_counts_other_levels():
    many = tuple(f"level {i}" for i in range(10))
    tables = [np.array([0.0, 3e-7, 0.1, 0, 0, 0, 0, 0.2, 0.3, 0.4 - 3e-7]),
              np.array([1 - 2e-5, 2e-5])]  # fmt: skip
    lines = describe(["a", "b"], [many, ("x", "y" * 30)], Dag.of(2), tables).splitlines()
    assert lines[1].split()[-2:] == ["3", "others"] and len(lines) == 7
    assert lines[2].split() == ["0", "3e-07", "0.100", "0", "0", "0", "0", "0.900"]
    assert lines[5].split() == ["x", "y" * 15 + "…"]
    assert lines[6].split() == ["1-2e-05", "2e-05"]


def test_a_printout_of_normal_nodes_has_a_line_for_each_configuration():
    dag = Dag(((), (), (1, 0), (2, 1)))
    tables = [
        np.array([0.25, 0.75]),
        Regression(np.array(40.0), np.zeros(0), np.array(12.0)),
        Regression(np.array([1.2, -2e6]), np.array([[0.5], [-0.25]]), np.array([0.31, 1 / 3])),
        Regression(np.array(0.0), np.array([3.0, -1e-5]), np.array(1.0)),
    ]
    names, levels = ["group", "age", "income", "wealth"], [("a", "bb"), (), (), ()]
    lines = describe(names, levels, dag, tables).splitlines()
    assert lines[4:] == [
        "age",
        "  age = 40  (sd 12)",
        "",
        "income | age, group",
        "  group |",
        "  a     | income = 1.2 + 0.5 age  (sd 0.31)",
        "  bb    | income = -2e+06 - 0.25 age  (sd 0.3333)",
        "",
        "wealth | income, age",
        "  wealth = 0 + 3 income - 1e-05 age  (sd 1)",
    ]
    with pytest.raises(SchemaError, match=r"shape \(2, 1\) for 'wealth'"):
        describe(names, levels, dag, [*tables[:3], tables[2]])
    with pytest.raises(SchemaError, match="4 names"):
        describe(names, levels, Dag.of(3), tables)
