"""Structure learning: scores, search, trees, tests of independence, edge probabilities."""

from __future__ import annotations

from itertools import product

import networkx as nx
import numpy as np
import pytest

from probgen.errors import NotSupported, SchemaError
from probgen.graphs.constraints import Constraints
from probgen.graphs.cpdags import extension, meek
from probgen.graphs.dag import Dag, structural_hamming
from probgen.graphs.edges import RESAMPLING, bootstrap_graphs, edge_probabilities
from probgen.graphs.independence import independence_test
from probgen.graphs.learn import learn
from probgen.graphs.nodes import NodeRows
from probgen.graphs.order_mcmc import linear_extensions, order_mcmc
from probgen.graphs.orders import exact, order_search
from probgen.graphs.pc import pc, pc_cpdag
from probgen.graphs.scores import Scorer
from probgen.graphs.search import hill_climb
from probgen.graphs.trees import chow_liu, mutual_information, tan

SIZES = (2, 3, 2, 3, 2)
#: 0 -> 1 -> 3 <- 2, 4 alone
TRUE = Dag.of(5, [(0, 1), (1, 3), (2, 3)])


def discrete(n: int = 2000, seed: int = 0) -> NodeRows:
    """Rows from `TRUE`, with strong edges."""
    random = np.random.default_rng(seed)
    codes = np.stack([random.integers(0, s, n) for s in SIZES], axis=1)
    strong = random.random((n, 2)) < 0.8
    codes[:, 1] = np.where(strong[:, 0], 2 * codes[:, 0], codes[:, 1])
    codes[:, 3] = np.where(strong[:, 1], (codes[:, 1] + codes[:, 2]) % 3, codes[:, 3])
    return NodeRows(codes, np.full(codes.shape, np.nan), SIZES, np.ones(n))


def normal(n: int = 1000, seed: int = 0, noise: str = "normal") -> NodeRows:
    """Linear rows from `TRUE`."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 5)) if noise == "normal" else random.laplace(size=(n, 5))
    x[:, 1] += x[:, 0]
    x[:, 3] += x[:, 1] - x[:, 2]
    x = (x - x.mean(0)) / x.std(0)
    return NodeRows(np.full((n, 5), -1), x, (0,) * 5, np.ones(n))


def mixed(n: int = 1000, seed: int = 0) -> NodeRows:
    """A discrete node 0 -> discrete 1, 0 -> normal 2 -> normal 3."""
    random = np.random.default_rng(seed)
    codes = np.full((n, 4), -1)
    codes[:, 0] = random.integers(0, 2, n)
    codes[:, 1] = np.where(random.random(n) < 0.8, codes[:, 0], random.integers(0, 3, n))
    values = np.full((n, 4), np.nan)
    values[:, 2] = 2 * codes[:, 0] + random.normal(size=n)
    values[:, 3] = 0.9 * values[:, 2] + random.normal(size=n)
    values = (values - values.mean(0)) / values.std(0)
    return NodeRows(codes, values, (2, 3, 0, 0), np.ones(n))


def holed(rows: NodeRows, share: float, seed: int = 1) -> NodeRows:
    hidden = np.random.default_rng(seed).random(rows.codes.shape) < share
    return NodeRows(
        np.where(hidden, -1, rows.codes), np.where(hidden, np.nan, rows.values), rows.sizes,
        rows.weight,
    )  # fmt: skip


def permuted(rows: NodeRows, order: list[int]) -> NodeRows:
    sizes = tuple(rows.sizes[i] for i in order)
    return NodeRows(rows.codes[:, order], rows.values[:, order], sizes, rows.weight)


def all_graphs(nodes: int) -> list[Dag]:
    pairs = [(a, b) for a in range(nodes) for b in range(nodes) if a < b]
    found = []
    for ways in product((None, 0, 1), repeat=len(pairs)):
        edges = [p if w else p[::-1] for p, w in zip(pairs, ways, strict=True) if w is not None]
        try:
            found.append(Dag.of(nodes, edges))
        except SchemaError:
            continue
    return found


# --- scores -----------------------------------------------------------------------------------


def by_hand(rows: NodeRows, node: int, parents: tuple[int, ...], score: str, ess: float) -> float:
    """BIC or BDeu of a discrete node, row by row: the latter as a product of predictions."""
    size, states = rows.sizes[node], np.prod([rows.sizes[p] for p in parents], dtype=float)
    counts: dict[tuple[int, ...], np.ndarray] = {}
    bdeu = 0.0
    for row in rows.codes:
        own = counts.setdefault(tuple(row[list(parents)]), np.zeros(size))
        prior = ess / states
        bdeu += np.log((own[row[node]] + prior / size) / (own.sum() + prior))
        own[row[node]] += 1
    if score == "bdeu":
        return float(bdeu)
    fit = sum(float(c[c > 0] @ np.log(c[c > 0] / c.sum())) for c in counts.values())
    return fit - 0.5 * np.log(len(rows)) * states * (size - 1)


@pytest.mark.parametrize("score", ["bic", "bdeu"])
def test_discrete_scores_are_those_by_hand(score):
    rows = discrete(300)
    scorer = Scorer(rows, score, ess=3.0)
    for node, parents in [(0, ()), (1, (0,)), (3, (1, 2)), (4, (0, 1, 2, 3))]:
        found = scorer.local(node, parents)
        assert found == pytest.approx(by_hand(rows, node, parents, score, 3.0), abs=1e-8)
        added = Scorer(rows, score, ess=3.0).added(node, parents)
        for other in set(range(5)) - {node, *parents}:
            whole = by_hand(rows, node, (*parents, other), score, 3.0)
            assert added[other] == pytest.approx(whole, abs=1e-8)
        assert np.isnan(added[[node, *parents]]).all()


@pytest.mark.parametrize(
    ("rows", "score"),
    [(discrete(), "bic"), (discrete(), "bdeu"), (normal(), "bge"), (normal(), "bic")],
)
def test_equivalent_graphs_score_the_same(rows, score):
    scorer = Scorer(rows, score, edges=1.0)
    one, other = Dag.of(5, [(0, 1), (1, 2), (1, 4)]), Dag.of(5, [(2, 1), (1, 0), (1, 4)])
    third = Dag.of(5, [(0, 1), (2, 1), (1, 4)])
    assert scorer.graph(one) == pytest.approx(scorer.graph(other), abs=1e-6)
    assert abs(scorer.graph(one) - scorer.graph(third)) > 1e-3


def test_bge_is_the_marginal_likelihood_by_prediction():
    """One node alone: the product of its Student's t predictions, row after row."""
    from scipy import stats

    x = normal(40).values[:, 0]
    rows = NodeRows(np.full((40, 1), -1), x[:, None], (0,), np.ones(40))
    total, mean, kappa, freedom, scale = 0.0, 0.0, 1.0, 2.0, 0.5
    for value in x:
        spread = np.sqrt(scale * (kappa + 1) / (kappa * freedom))
        total += stats.t.logpdf(value, freedom, mean, spread)
        scale += kappa / (kappa + 1) * (value - mean) ** 2
        mean, kappa, freedom = (kappa * mean + value) / (kappa + 1), kappa + 1, freedom + 1
    assert Scorer(rows, "bge").local(0, ()) == pytest.approx(total, abs=1e-8)


def test_weights_count_as_copies():
    for rows, score in [(discrete(200), "bdeu"), (mixed(200), "bic"), (mixed(200), "cg"),
                        (mixed(200), "additive")]:  # fmt: skip
        times = np.random.default_rng(0).integers(1, 4, len(rows))
        if score == "additive":  # its knots are quantiles of the rows
            times[:] = 2
        twice = NodeRows(rows.codes, rows.values, rows.sizes, times.astype(float))
        copies = np.repeat(np.arange(len(rows)), times)
        long = NodeRows(rows.codes[copies], rows.values[copies], rows.sizes, np.ones(len(copies)))
        for node, parents in [(1, (0,)), (3, (2, 1)), (3, (0, 1, 2))]:
            if rows.sizes[node] == 0 or all(rows.sizes[p] for p in parents):
                found = Scorer(twice, score).local(node, parents)
                tolerance = 0.5 if score == "additive" else 1e-6
                assert found == pytest.approx(
                    Scorer(long, score).local(node, parents), abs=tolerance
                )


UNSEEN = [(discrete, "bic"), (discrete, "bdeu"), (normal, "bge"), (normal, "bic"), (mixed, "cg")]


@pytest.mark.parametrize(("make", "score"), UNSEEN)
def test_scores_with_unseen_cells_add_gains_on_the_rows_that_show_all(make, score):
    rows, node, (first, second) = holed(make(3000), 0.3), 3, (2, 1) if make is normal else (1, 2)
    if make is mixed:
        first, second = 2, 0
    seen = (rows.codes >= 0) | ~np.isnan(rows.values)

    def gain(parents: tuple[int, ...], before: tuple[int, ...]) -> float:
        chosen = seen[:, [node, *parents]].all(1)
        part = NodeRows(
            rows.codes[chosen], rows.values[chosen], rows.sizes, np.ones(int(chosen.sum()))
        )
        # the columns of no interest are unseen here and there: only two sets are scored
        keep = [*parents, node]
        small = Scorer(permuted(part, keep), score)
        last = len(parents)
        more = small.local(last, tuple(range(last)))
        return (more - small.local(last, tuple(range(len(before))))) * 3000 / chosen.sum()

    scorer = Scorer(rows, score)
    alone = {p: gain((p,), ()) for p in (first, second)}
    for p, own in alone.items():
        assert scorer.local(node, (p,)) - scorer.local(node, ()) == pytest.approx(own, rel=1e-6)
    order = sorted(alone, key=lambda p: -alone[p])
    both = alone[order[0]] + gain((order[0], order[1]), (order[0],))
    found = scorer.local(node, (first, second)) - scorer.local(node, ())
    assert found == pytest.approx(both, rel=1e-6)
    added = scorer.added(node, (first,))[second]
    assert added == pytest.approx(scorer.local(node, (first, second)), rel=1e-9)
    # to compare with no hole at all
    whole = Scorer(make(3000), score)
    truth = whole.local(node, (first, second)) - whole.local(node, ())
    assert found == pytest.approx(truth, rel=0.15)


def test_a_graph_is_found_with_unseen_cells():
    assert structural_hamming(learn(holed(discrete(3000), 0.2)).cpdag, TRUE.cpdag) == 0
    found = learn(holed(normal(3000), 0.2)).adjacency
    assert (found | found.T)[TRUE.adjacency].all() and found.sum() <= 5


def test_softmax_regression_beats_none_only_for_true_parents():
    random = np.random.default_rng(0)
    x = random.normal(size=(800, 2))
    y = (x[:, 0] + random.logistic(size=800) > 0).astype(np.int64)
    codes = np.column_stack([y, np.full((800, 2), -1)])
    rows = NodeRows(codes, np.column_stack([np.full(800, np.nan), x]), (2, 0, 0), np.ones(800))
    scorer = Scorer(rows, "additive", logistic=True)
    assert scorer.local(0, (1,)) > scorer.local(0, ()) + 20
    assert scorer.local(0, (2,)) < scorer.local(0, ())
    assert np.isnan(Scorer(rows).added(0, ())[1])
    with pytest.raises(SchemaError, match="required edge"):
        hill_climb(Scorer(rows), Constraints(required=frozenset({(1, 0)})))


@pytest.mark.parametrize(
    ("rows", "setting"),
    [(normal(50), {"score": "bdeu"}), (mixed(50), {"score": "bge"}), (discrete(50), {"ess": 0.0}),
     (discrete(50), {"score": "aic"}), (discrete(50), {"edges": -1.0})],
)  # fmt: skip
def test_scores_that_do_not_fit_are_refused(rows, setting):
    with pytest.raises(SchemaError, match="needed"):
        Scorer(rows, **setting)


# --- search -----------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["bic", "bdeu"])
def test_exact_search_finds_the_best_of_all_graphs(score):
    rows = discrete(60)
    small = NodeRows(rows.codes[:, :4], rows.values[:, :4], SIZES[:4], rows.weight)
    scorer = Scorer(small, score)
    best = max(scorer.graph(graph) for graph in all_graphs(4))
    assert scorer.graph(exact(scorer)) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("method", ["hill", "exact", "orders", "auto", "pc"])
def test_methods_find_a_strong_graph(method):
    found = learn(discrete(), method)
    assert structural_hamming(found.cpdag, TRUE.cpdag) == 0
    found = learn(normal(), method)
    assert structural_hamming(found.cpdag, TRUE.cpdag) == 0


@pytest.mark.parametrize("method", ["hill", "exact", "orders", "pc", "chow-liu"])
def test_the_order_of_columns_does_not_matter(method):
    rows, order = discrete(300, seed=3), [3, 0, 4, 2, 1]
    one, other = learn(rows, method), learn(permuted(rows, order), method)
    assert set(one.edges) == {(order[p], order[c]) for p, c in other.edges}


def test_mixed_tables_keep_normal_nodes_below_discrete_ones():
    found = learn(mixed())
    assert set(found.edges) >= {(0, 2)}
    assert (2, 3) in found.edges or (3, 2) in found.edges
    assert all(not (p > 1 and c < 2) for p, c in found.edges)
    assert set(learn(holed(mixed(3000), 0.2)).edges) >= {(0, 2)}


def test_noise_that_is_not_normal_tells_directions():
    found = learn(normal(noise="laplace"))
    assert structural_hamming(found.adjacency, TRUE.adjacency) == 0


def test_a_bent_line_tells_its_direction():
    random = np.random.default_rng(0)
    x = random.normal(size=500)
    y = np.tanh(2 * x) + 0.3 * random.normal(size=500)
    for columns, edge in (((x, y), (0, 1)), ((y, x), (1, 0))):
        values = np.stack([(v - v.mean()) / v.std() for v in columns], axis=1)
        rows = NodeRows(np.full((500, 2), -1), values, (0, 0), np.ones(500))
        assert learn(rows).edges == (edge,)


def test_constraints_are_kept():
    known = Constraints(
        required=frozenset({(4, 0)}), forbidden=frozenset({(2, 3), (3, 2)}),
        tiers=((4,), (3,), (0, 1)), max_parents=1,
    )  # fmt: skip
    for method in ("hill", "exact", "orders"):
        found = learn(discrete(), method, constraints=known)
        assert (4, 0) in found.edges
        assert not {(2, 3), (3, 2)} & set(found.edges)
        assert not {(0, 3), (1, 3), (0, 4), (1, 4), (3, 4)} & set(found.edges)
        assert max(len(own) for own in found.parents) == 1


@pytest.mark.parametrize(
    "wrong",
    [Constraints(required=frozenset({(0, 1), (1, 0)})),
     Constraints(required=frozenset({(0, 1)}), forbidden=frozenset({(0, 1)})),
     Constraints(required=frozenset({(0, 1)}), tiers=((1,), (0,))),
     Constraints(required=frozenset({(0, 2), (1, 2)}), max_parents=1),
     Constraints(tiers=((0,), (0, 1))), Constraints(forbidden=frozenset({(0, 9)})),
     Constraints(max_parents=-1)],
)  # fmt: skip
def test_contradictions_are_refused(wrong):
    with pytest.raises(SchemaError, match="needed"):
        learn(discrete(50), constraints=wrong)


def test_search_starts_where_told_and_refuses_what_is_not_allowed():
    scorer = Scorer(discrete(), "bdeu")
    assert hill_climb(scorer, start=TRUE, tabu=0).cpdag.tolist() == TRUE.cpdag.tolist()
    with pytest.raises(SchemaError, match="not allowed"):
        hill_climb(scorer, Constraints(forbidden=frozenset({(0, 1)})), start=TRUE)
    with pytest.raises(SchemaError, match="nodes"):
        hill_climb(scorer, start=Dag.of(3))
    wide = NodeRows(
        np.zeros((4, 20), dtype=np.int64), np.full((4, 20), np.nan), (2,) * 20, np.ones(4)
    )
    with pytest.raises(NotSupported, match="20 nodes"):
        exact(Scorer(wide, "bic"))
    with pytest.raises(SchemaError, match="method"):
        learn(discrete(50), "best")


def test_tabu_and_restarts_never_lose():
    for seed in range(3):
        rows = discrete(100, seed)
        scorer = Scorer(rows, "bdeu")
        plain = scorer.graph(hill_climb(scorer, tabu=0))
        more = scorer.graph(hill_climb(scorer, tabu=10, restarts=5))
        orders = scorer.graph(order_search(scorer))
        best = scorer.graph(exact(scorer)) + 1e-9
        assert plain <= more + 1e-9 and more <= best and plain - 1e-9 <= orders <= best


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_almost_no_rows_give_no_edges(rows):
    assert learn(discrete(rows)).edges == ()
    one = mixed(10)
    few = NodeRows(one.codes[:rows], one.values[:rows], one.sizes, one.weight[:rows])
    assert learn(few).edges == ()


def test_constant_duplicate_and_unseen_columns():
    rows = discrete(300)
    codes = np.column_stack([rows.codes[:, :2], rows.codes[:, 1], np.zeros(300, int)])
    codes = np.column_stack([codes, np.full(300, -1)])
    found = learn(NodeRows(codes, np.full(codes.shape, np.nan), (2, 3, 3, 1, 2), np.ones(300)))
    assert any(set(edge) == {1, 2} for edge in found.edges)
    assert not any({3, 4} & set(edge) for edge in found.edges)
    values = normal(300).values[:, [0, 0, 1, 1, 1]].copy()
    values[:, 3], values[:, 4] = 0.0, np.nan
    found = learn(NodeRows(np.full((300, 5), -1), values, (0,) * 5, np.ones(300)))
    assert any(set(edge) == {0, 1} for edge in found.edges)
    assert not any({3, 4} & set(edge) for edge in found.edges)


# --- trees, tests, classes --------------------------------------------------------------------


def test_chow_liu_is_the_maximum_spanning_tree():
    rows = discrete(500)
    weights = mutual_information(rows)
    x, y = rows.codes[:, 1], rows.codes[:, 3]
    joint = np.histogram2d(x, y, bins=(3, 3))[0] / 500
    by_cells = joint * np.log(joint / np.outer(joint.sum(1), joint.sum(0)))
    assert weights[1, 3] == pytest.approx(np.nansum(by_cells), abs=1e-12)
    graph = nx.Graph()
    graph.add_weighted_edges_from((a, b, weights[a, b]) for a in range(5) for b in range(a))
    best = nx.maximum_spanning_tree(graph)
    found = chow_liu(rows, smoothing=0.0, root=2)
    assert {frozenset(e) for e in found.edges} == {frozenset(e) for e in best.edges}
    assert found.parents[2] == () and all(len(own) <= 1 for own in found.parents)
    assert all(not (p > 1 and c < 2) for p, c in chow_liu(mixed()).edges)


def test_tan_finds_the_tree_below_the_class():
    random = np.random.default_rng(0)
    codes = random.integers(0, 2, (3000, 4))
    codes[:, 2] = np.where(random.random(3000) < 0.8, codes[:, 1] ^ codes[:, 0], codes[:, 2])
    rows = NodeRows(codes, np.full(codes.shape, np.nan), (2,) * 4, np.ones(3000))
    found = learn(rows, "tan", root=0)
    assert {(0, 1), (0, 2), (0, 3)} <= set(found.edges)
    assert {1, 2} in [set(edge) for edge in found.edges]
    assert len(found.edges) == 5
    with pytest.raises(SchemaError, match="class"):
        learn(rows, "tan")
    with pytest.raises(SchemaError, match="class"):
        tan(normal(20), 0)


@pytest.mark.parametrize(
    ("test", "make"),
    [("chi-square", discrete), ("g", discrete), ("mutual-information", discrete),
     ("fisher-z", normal), ("likelihood-ratio", discrete), ("likelihood-ratio", normal)],
)  # fmt: skip
def test_p_values_are_uniform_under_independence_and_small_without(test, make):
    found = np.array([independence_test(make(300, s), test)(0, 2, (1,)) for s in range(150)])
    for level in (0.1, 0.5, 0.9):
        error = np.sqrt(level * (1 - level) / 150)
        assert abs((found < level).mean() - level) < 4 * error
    asked = independence_test(make(300), test)
    assert asked(1, 3, ()) < 1e-3 and asked(0, 2, (3,)) < 1e-3


def test_mixed_likelihood_ratio_separates_what_the_graph_separates():
    asked = independence_test(mixed(), "likelihood-ratio")
    assert asked(0, 2, ()) < 1e-6 and asked(2, 3, ()) < 1e-6
    assert asked(1, 3, (0,)) > 1e-3
    found = np.array([independence_test(mixed(300, s))(1, 2, (0,)) for s in range(100)])
    assert abs((found < 0.5).mean() - 0.5) < 4 * 0.05


def test_pc_keeps_constraints_and_always_gives_a_graph():
    known = Constraints(required=frozenset({(4, 0)}), forbidden=frozenset({(1, 0)}))
    found = pc(discrete(), constraints=known)
    assert (4, 0) in found.edges and (1, 0) not in found.edges
    for seed in range(10):
        codes = np.random.default_rng(seed).integers(0, 2, (30, 6))
        rows = NodeRows(codes, np.full(codes.shape, np.nan), (2,) * 6, np.ones(30))
        part = pc_cpdag(rows, alpha=0.4)
        assert (pc(rows, alpha=0.4).adjacency <= (part | part.T)).all()
    with pytest.raises(SchemaError, match="alpha"):
        pc(discrete(50), alpha=1.0)
    with pytest.raises(SchemaError, match="another kind"):
        pc(mixed(50), test="g")


def test_a_class_is_extended_and_completed_to_itself():
    for graph in all_graphs(4):
        assert (meek(graph.cpdag) == graph.cpdag).all()
        again = extension(graph.cpdag)
        assert again is not None and (again.cpdag == graph.cpdag).all()
    cycle = np.array([[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]], dtype=bool)
    assert extension(cycle) is None


# --- edge probabilities -----------------------------------------------------------------------


def test_order_chain_has_the_posterior_of_all_graphs():
    rows = discrete(40, seed=2)
    small = NodeRows(rows.codes[:, :4], rows.values[:, :4], SIZES[:4], rows.weight)
    scorer = Scorer(small, "bdeu", edges=1.0)
    graphs = all_graphs(4)
    score = np.array([scorer.graph(graph) for graph in graphs])
    truth = edge_probabilities(graphs, np.exp(score - score.max())).directed
    drawn = order_mcmc(scorer, draws=2000, thin=10, rng=np.random.default_rng(0))
    found = edge_probabilities(drawn).directed
    # resampled draws of a chain: about a fifth of them count
    assert np.abs(found - truth).max() < 4 * np.sqrt(0.25 / 400)


def test_linear_extensions_by_enumeration():
    from itertools import permutations

    for graph in all_graphs(4)[::37]:
        orders = [
            o
            for o in permutations(range(4))
            if all(o.index(p) < o.index(c) for p, c in graph.edges)
        ]
        assert linear_extensions(graph) == len(orders)


@pytest.mark.parametrize("resample", RESAMPLING)
def test_bootstrap_is_sure_of_strong_edges_and_seeded(resample):
    def climb(rows: NodeRows) -> Dag:
        return hill_climb(Scorer(rows, "bdeu", edges=1.0))

    drawn = [
        bootstrap_graphs(discrete(), climb, 10, np.random.default_rng(0), resample)
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    found = edge_probabilities(drawn[0])
    assert found.directed[1, 3] == 1 and found.directed[2, 3] == 1
    assert found.skeleton[0, 1] == 1 and found.directed[0, 1] == 0.5
    with pytest.raises(SchemaError, match="resample"):
        bootstrap_graphs(discrete(20), climb, 1, np.random.default_rng(0), "jackknife")
