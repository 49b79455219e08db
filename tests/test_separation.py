"""Separation and adjustment: definitions over all sets of small graphs, and known graphs."""

from itertools import chain, combinations

import networkx as nx
import numpy as np
import pytest

from probgen.errors import SchemaError
from probgen.graphs.dag import Dag
from probgen.graphs.separation import (
    d_separated,
    markov_blanket,
    minimal_separator,
    minimal_separators,
)


def subsets(nodes):
    nodes = sorted(nodes)
    return [
        frozenset(own)
        for own in chain.from_iterable(combinations(nodes, size) for size in range(len(nodes) + 1))
    ]


def random_dag(nodes: int, chance: float, seed: int) -> Dag:
    rng = np.random.default_rng(seed)
    order = rng.permutation(nodes)
    edges = [
        (int(order[i]), int(order[j]))
        for i in range(nodes) for j in range(i + 1, nodes) if rng.random() < chance
    ]  # fmt: skip
    return Dag.of(nodes, edges)


def as_networkx(dag: Dag) -> nx.DiGraph:
    graph = nx.DiGraph(dag.edges)
    graph.add_nodes_from(range(len(dag)))
    return graph


@pytest.mark.parametrize("seed", range(12))
def test_separation_is_that_of_networkx(seed):
    dag = random_dag(6, 0.2 + 0.04 * seed, seed)
    graph = as_networkx(dag)
    found = set()
    for x, y in combinations(range(6), 2):
        for z in subsets(set(range(6)) - {x, y}):
            wanted = nx.is_d_separator(graph, {x}, {y}, z)
            assert d_separated(dag, {x}, {y}, z) == wanted == d_separated(dag, {y}, {x}, z)
            found.add(wanted)
    assert found == {True, False}


def test_sets_are_separated_if_all_their_pairs_are():
    dag = random_dag(7, 0.25, 3)
    graph = as_networkx(dag)
    for x in combinations(range(7), 2):
        for y in combinations(sorted(set(range(7)) - set(x)), 2):
            for z in subsets(set(range(7)) - set(x) - set(y)):
                assert d_separated(dag, x, y, z) == nx.is_d_separator(graph, set(x), set(y), z)


@pytest.mark.parametrize("seed", range(6))
def test_a_blanket_is_the_smallest_set_that_shields_a_node(seed):
    dag = random_dag(6, 0.4, seed)
    for node in range(6):
        others = set(range(6)) - {node}
        blanket = markov_blanket(dag, node)
        shields = [z for z in subsets(others) if d_separated(dag, {node}, others - z, z)]
        assert min(shields, key=len) == blanket
        assert all(blanket <= z for z in shields)


@pytest.mark.parametrize("seed", range(10))
def test_minimal_separators_are_all_there_are(seed):
    dag = random_dag(7, 0.2 + 0.03 * seed, 100 + seed)
    rng = np.random.default_rng(seed)
    for x, y in combinations(range(7), 2):
        allowed = {n for n in range(7) if rng.random() < 0.8} - {x, y}
        valid = [z for z in subsets(allowed) if d_separated(dag, {x}, {y}, z)]
        wanted = {z for z in valid if not any(other < z for other in valid)}
        found = minimal_separators(dag, {x}, {y}, allowed)
        assert set(found) == wanted and len(found) == len(wanted)
        one = minimal_separator(dag, {x}, {y}, allowed)
        assert (one in wanted) if wanted else one is None


def test_minimal_separators_of_sets():
    sizes = set()
    for seed in range(10):
        dag, x, y = random_dag(8, 0.3, seed), {0, 1}, {6, 7}
        valid = [z for z in subsets({2, 3, 4, 5}) if d_separated(dag, x, y, z)]
        wanted = {z for z in valid if not any(other < z for other in valid)}
        assert set(minimal_separators(dag, x, y)) == wanted
        sizes.add(len(wanted))
    assert sizes >= {0, 1, 2}


def test_the_number_of_separators_is_bounded():
    # ten ways of two nodes each: 2 to the power of ten minimal separators
    ways = [(0, 2 + 2 * i) for i in range(10)] + [(2 + 2 * i, 3 + 2 * i) for i in range(10)]
    dag = Dag.of(22, ways + [(3 + 2 * i, 1) for i in range(10)])
    assert len(minimal_separators(dag, {0}, {1}, most=50)) == 50
    assert len(set(minimal_separators(dag, {0}, {1}, most=2000))) == 1024


def test_nodes_that_make_no_sense_are_refused():
    dag = Dag.of(3, [(0, 1)])
    with pytest.raises(SchemaError, match=r"nodes \[1\] on two sides"):
        d_separated(dag, {0}, {1}, {1})
    with pytest.raises(SchemaError, match=r"nodes \[7\]"):
        markov_blanket(dag, 7)
    with pytest.raises(SchemaError, match="empty"):
        minimal_separator(dag, set(), {1})
