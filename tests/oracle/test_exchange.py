"""Networks in files: pgmpy and pyAgrum read what we write, and we read what they write."""

import itertools

import numpy as np
import pytest

from probgen.errors import NotSupported, SchemaError
from probgen.exchange.bif import read_bif, write_bif
from probgen.exchange.graphs import from_pgmpy, to_pgmpy
from probgen.exchange.tables import NetworkTables
from probgen.exchange.xmlbif import read_xmlbif, write_xmlbif
from probgen.graphs.dag import Dag

NAMES = ("rain", "wind", "wet", "mood")
LEVELS = (("yes", "no"), ("weak", "strong", "storm"), ("soaked", "damp", "dry"), ("good", "bad"))


def network(seed: int) -> NetworkTables:
    """Of four variables; the parents of the third are not in the order of the file."""
    rng = np.random.default_rng(seed)
    dag = Dag(((), (0,), (1, 0), (0, 2, 1)))
    tables = []
    for node, own in enumerate(LEVELS):
        shape = [len(LEVELS[p]) for p in dag.parents[node]]
        tables.append(np.moveaxis(rng.dirichlet(np.ones(len(own)), size=shape), -1, 0))
    return NetworkTables(NAMES, LEVELS, dag, tuple(tables))


def assert_close(one: NetworkTables, other: NetworkTables, atol: float) -> None:
    """The same, whatever the order of variables and of parents."""
    assert sorted(one.names) == sorted(other.names)
    for node, name in enumerate(one.names):
        there = other.names.index(name)
        assert one.levels[node] == other.levels[there]
        family = [one.names[p] for p in one.dag.parents[node]]
        found = [other.names[p] for p in other.dag.parents[there]]
        assert sorted(family) == sorted(found)
        order = [0, *(1 + found.index(parent) for parent in family)]
        np.testing.assert_allclose(
            one.tables[node], other.tables[there].transpose(order), atol=atol, rtol=0
        )


@pytest.mark.parametrize("seed", range(3))
def test_pgmpy_reads_our_files_and_we_read_its(seed, tmp_path):
    pytest.importorskip("pgmpy")
    from pgmpy.readwrite import BIFReader, BIFWriter, XMLBIFReader, XMLBIFWriter

    net = network(seed)
    write_bif(net, tmp_path / "own.bif")
    write_xmlbif(net, tmp_path / "own.xml")
    assert_close(net, from_pgmpy(BIFReader(str(tmp_path / "own.bif")).get_model()), 1e-15)
    assert_close(net, from_pgmpy(XMLBIFReader(str(tmp_path / "own.xml")).get_model()), 1e-15)
    model = to_pgmpy(net)
    BIFWriter(model).write(str(tmp_path / "theirs.bif"))
    XMLBIFWriter(model).write(str(tmp_path / "theirs.xml"))
    assert_close(net, read_bif(tmp_path / "theirs.bif"), 1e-12)
    assert_close(net, read_xmlbif(tmp_path / "theirs.xml"), 1e-12)


def test_pgmpy_models_keep_states_and_probabilities():
    pytest.importorskip("pgmpy")
    from pgmpy.inference import VariableElimination

    net = network(0)
    model = to_pgmpy(net)
    assert model.check_model() and list(model.nodes) == list(NAMES)
    assert_close(net, from_pgmpy(model), 0.0)
    found = VariableElimination(model).query(
        ["mood"], evidence={"wet": "damp"}, show_progress=False
    )
    joint = np.einsum("r,wr,dwr,mrdw->dm", *net.tables)
    assert found.get_value(mood="good") == pytest.approx(joint[1, 0] / joint[1].sum())


def test_pgmpy_tables_may_order_states_differently():
    pytest.importorskip("pgmpy")
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.models import DiscreteBayesianNetwork

    model = DiscreteBayesianNetwork([("a", "b")])
    rain = TabularCPD("a", 2, [[0.2], [0.8]], state_names={"a": [1, 0]})
    wet = TabularCPD("b", 2, [[0.9, 0.3], [0.1, 0.7]], ["a"], [2],
                     state_names={"b": [True, False], "a": [0, 1]})  # fmt: skip
    model.add_cpds(rain)
    with pytest.raises(SchemaError, match="no table of 'b'"):
        from_pgmpy(model)
    model.add_cpds(wet)
    net = from_pgmpy(model)
    assert net.levels == ((1, 0), (True, False))
    np.testing.assert_array_equal(net.tables[1], [[0.3, 0.9], [0.7, 0.1]])
    with pytest.raises(NotSupported, match="DiscreteBayesianNetwork"):
        from_pgmpy(object())


@pytest.mark.parametrize("suffix", ["bif", "bifxml"])
def test_pyagrum_agrees_on_files(suffix, tmp_path):
    gum = pytest.importorskip("pyagrum")
    net = network(1)
    ours, theirs = tmp_path / f"own.{suffix}", tmp_path / f"theirs.{suffix}"
    (write_bif if suffix == "bif" else write_xmlbif)(net, ours)
    model = gum.loadBN(str(ours))
    for node, name in enumerate(NAMES):
        family = (node, *net.dag.parents[node])
        assert {model.variable(p).name() for p in model.parents(name)} == {
            NAMES[p] for p in family[1:]
        }
        for place in itertools.product(*(range(len(LEVELS[n])) for n in family)):
            at = {NAMES[n]: LEVELS[n][i] for n, i in zip(family, place, strict=True)}
            assert model.cpt(name)[at] == pytest.approx(net.tables[node][place], abs=1e-6)
    gum.saveBN(model, str(theirs))
    again = (read_bif if suffix == "bif" else read_xmlbif)(theirs)
    assert_close(net, again, 2e-6)  # it writes seven digits
