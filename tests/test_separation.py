"""Separation and adjustment: definitions over all sets of small graphs, and known graphs."""

from itertools import chain, combinations, permutations

import networkx as nx
import numpy as np
import pytest

from probgen.errors import SchemaError
from probgen.graphs.adjustment import (
    adjustment_sets,
    backdoor_parents,
    efficient_set,
    is_adjustment_set,
)
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
    counts = set()
    for seed in range(20):
        dag = random_dag(10, 0.22, seed)
        ends = np.random.default_rng(seed).permutation(10).tolist()
        x, y = set(ends[:2]), set(ends[2:4])
        valid = [z for z in subsets(ends[4:]) if d_separated(dag, x, y, z)]
        wanted = {z for z in valid if not any(other < z for other in valid)}
        assert set(minimal_separators(dag, x, y)) == wanted
        one = minimal_separator(dag, x, y)
        assert (one in wanted) if wanted else one is None
        counts.add(len(wanted))
    assert counts >= {0, 1}
    ladder = Dag.of(8, [(0, 2), (2, 4), (4, 6), (1, 3), (3, 5), (5, 7)])
    assert minimal_separators(ladder, {0, 1}, {6, 7}) == [{2, 3}, {2, 5}, {3, 4}, {4, 5}]


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


# --- adjustment -------------------------------------------------------------------------------


def joint_of(tables, dag: Dag, skip=()) -> np.ndarray:
    """All probabilities of a binary network as one array; `skip`ped nodes have no factor."""
    d, out = len(dag), np.ones((2,) * len(dag))
    for node, table in enumerate(tables):
        if node in skip:
            continue
        family = (node, *dag.parents[node])
        order = sorted(range(len(family)), key=lambda i: family[i])
        shape = [2 if n in family else 1 for n in range(d)]
        out = out * table.transpose(order).reshape(shape)
    return out


def over(joint: np.ndarray, kept) -> np.ndarray:
    """Summed over all other axes, which stay as axes of size one."""
    return joint.sum(tuple(n for n in range(joint.ndim) if n not in kept), keepdims=True)


def adjusts(joint, acted, x, y, z) -> bool:
    """Whether sum over z of p(y | x, z) p(z) is p(y | do(x)), in numbers."""
    found = over(joint, x | y | z) / over(joint, x | z) * over(joint, z)
    return np.allclose(over(found, x | y), over(acted, x | y), atol=1e-9)


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("treatments", [1, 2])
def test_valid_sets_are_those_that_give_the_effect(seed, treatments):
    """Sound and complete: the formula holds for drawn tables iff the criterion says so."""
    dag = random_dag(5, 0.3 + 0.03 * seed, 200 + seed)
    rng = np.random.default_rng(seed)
    tables = [np.moveaxis(rng.dirichlet([1, 1], size=(2,) * len(own)), -1, 0)
              for own in dag.parents]  # fmt: skip
    joint = joint_of(tables, dag)
    for x in map(frozenset, combinations(range(5), treatments)):
        acted = joint_of(tables, dag, skip=x)
        for y in map(frozenset, combinations(sorted(set(range(5)) - x), 1)):
            rest = set(range(5)) - x - y
            valid = {z for z in subsets(rest) if adjusts(joint, acted, x, y, z)}
            assert valid == {z for z in subsets(rest) if is_adjustment_set(dag, x, y, z)}
            minimal = {z for z in valid if not any(other < z for other in valid)}
            assert set(adjustment_sets(dag, x, y)) == minimal
            parents = backdoor_parents(dag, x, y)
            assert parents in valid if parents is not None else True
            if treatments == 1:
                assert (parents is None) == (y <= set(dag.parents[min(x)])) == (not valid)
            best = efficient_set(dag, x, y)
            reached = y <= dag.descendants(x)
            assert best in valid if valid and reached else best is None


def test_allowed_columns_bound_the_sets():
    dag = Dag.of(5, [(0, 3), (3, 1), (0, 2), (1, 4), (4, 2)])
    assert adjustment_sets(dag, 1, 2, allowed={3, 4}) == [{3}]
    assert adjustment_sets(dag, 1, 2, allowed={4}) == []
    assert adjustment_sets(dag, 1, 4) == [frozenset()]
    assert (
        adjustment_sets(dag, 4, 1) == []
    )  # the effect on its own cause is nil, and no set has it


def test_the_efficient_set_has_the_smallest_variance():
    """Of least-squares estimates of a linear effect, from the covariances of the graph."""
    for seed in range(12):
        dag = random_dag(6, 0.45, 300 + seed)
        rng = np.random.default_rng(seed)
        weight = dag.adjacency * rng.uniform(0.3, 1.2, (6, 6))
        spread = np.linalg.inv(np.eye(6) - weight)
        cov = spread.T @ np.diag(rng.uniform(0.5, 2, 6)) @ spread
        for x, y in permutations(range(6), 2):
            best = efficient_set(dag, x, y)
            if best is None:
                continue
            valid = [z for z in subsets(set(range(6)) - {x, y}) if is_adjustment_set(dag, x, y, z)]
            least = min(variance(cov, x, y, z) for z in valid)
            assert variance(cov, x, y, best) == pytest.approx(least)


def variance(cov: np.ndarray, x: int, y: int, z: frozenset) -> float:
    """Of the coefficient of x, times the number of rows: residual of y over residual of x."""

    def left(node, given):
        given = sorted(given)
        own = cov[node, given]
        return cov[node, node] - own @ np.linalg.solve(cov[np.ix_(given, given)], own)

    return left(y, {x, *z}) / left(x, z)


def test_adjustment_refuses_nodes_on_two_sides():
    dag = Dag.of(3, [(0, 1), (1, 2)])
    with pytest.raises(SchemaError, match=r"\[1\] on two sides"):
        is_adjustment_set(dag, 1, 2, {1})
    with pytest.raises(SchemaError, match=r"nodes \[5\]"):
        adjustment_sets(dag, 5, 2)
