"""The estimator of Bayesian networks: structure, settings, holes, files."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

import probgen as pg
from probgen.batch import Batch
from probgen.exchange.tables import NetworkTables
from probgen.graphs.dag import Dag, structural_hamming
from probgen.queries.contraction import global_sites, traced
from probgen.session import guarded
from probgen.table import encode

FIVE = 5.0  # standard errors
BN = pg.BayesianNetwork


def mixed(n: int = 300, seed: int = 0) -> pd.DataFrame:
    """d -> e, d -> x, (e, x) -> y, d -> k; a column of each kind."""
    rng = np.random.default_rng(seed)
    d = rng.integers(0, 2, n)
    e = np.where(rng.random(n) < 0.7, d, rng.integers(0, 3, n))
    x = 2.0 * d + rng.normal(0, 1, n)
    y = np.exp(0.5 * x - 0.3 * e + rng.normal(0, 0.5, n))
    return pd.DataFrame({
        "d": d.astype(bool), "e": [f"e{v}" for v in e], "x": x, "y": y,
        "k": rng.poisson(2 + 5 * d),
    })  # fmt: skip


MIXED = [("d", "e"), ("d", "x"), ("e", "y"), ("x", "y"), ("d", "k")]


@pytest.fixture(scope="module")
def model() -> pg.BayesianNetwork:
    return BN(structure=MIXED, draws=20, random_state=0).fit(mixed())


@pytest.fixture(scope="module")
def holed() -> tuple[pg.BayesianNetwork, pd.DataFrame]:
    table = mixed(200, seed=1)
    table = table.mask(np.random.default_rng(2).random(table.shape) < 0.3)
    table["d"] = table["d"].astype("boolean")
    settings = {"structure": MIXED, "draws": 8, "tolerance": 1e-6, "random_state": 0}
    return BN(**settings).fit(table), table


# --- the pair ----------------------------------------------------------------------------------


def batch_of(model: pg.BayesianNetwork, table: pd.DataFrame):
    return model._batch(encode(table, model.schema_), torch.device("cpu"))


@pytest.mark.parametrize("which", ["model", "holed"])
def test_the_density_at_a_draw_is_that_of_the_pair(which, request):
    found = request.getfixturevalue(which)
    own, table = found if isinstance(found, tuple) else (found, mixed())
    member, batch = own.members_[0], batch_of(own, table)
    with torch.no_grad(), guarded(3):
        guide = traced(member.guide, batch, {})
        draw = {name: site["value"] for name, site in global_sites(guide).items()}
        row = traced(member.model, batch, draw).nodes["row"]
    assert {"probs_0", "coefficients_3", "precision_2", "shape_4"} <= set(draw)
    through = row["fn"].log_prob(row["value"])
    closed = member.exact_log_prob(batch, {name: v[None] for name, v in draw.items()})[0]
    torch.testing.assert_close(through, closed, rtol=1e-10, atol=1e-10)


def test_draws_and_guide_have_the_same_means(model):
    member = model.members_[0]
    draws = member.network.posterior_draws(4000, torch.Generator().manual_seed(0))
    point = member.point_globals()
    for name, value in point.items():
        own = draws[name]
        error = own.std(0) / math.sqrt(len(own))
        # tiny weights inside groups are too skewed for a standard error
        usual = (value[0] > 0.05) | ~torch.tensor("shape" in name)
        assert ((own.mean(0) - value[0]).abs() <= FIVE * error + 1e-9)[usual].all(), name


def test_the_loss_never_rises_with_holes(holed):
    model, _ = holed
    losses = np.array(model.result_.losses)
    assert len(losses) > 4 and losses[0] - losses[-1] > 1e-3
    assert np.diff(losses).max() < 1e-9


def test_restarts_are_an_equal_mixture():
    table = mixed(150)
    model = BN(restarts=3, draws=0, random_state=0).fit(table)
    batch = batch_of(model, table)
    each = torch.stack([m.exact_log_prob(batch, None) for m in model.members_])
    gap = model.log_prob(table).to_numpy() - (each.logsumexp(0) - math.log(3)).numpy()
    # of the units of the columns: a density a row of y in logarithms
    units = -np.log(table["y"]) - sum(math.log(model.schema_[v].scale) for v in "xy")
    np.testing.assert_allclose(gap, units, atol=1e-9)


# --- holes -------------------------------------------------------------------------------------

TRUE = Dag.of(5, [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)])


def truth(seed: int) -> pg.BayesianNetwork:
    rng = np.random.default_rng(seed)
    tables = [
        (t := rng.gamma(0.8, size=[2 + (i % 2), *(2 + (p % 2) for p in own)])) / t.sum(0)
        for i, own in enumerate(TRUE.parents)
    ]
    levels = tuple(tuple(f"s{k}" for k in range(2 + i % 2)) for i in range(5))
    names = tuple("abcde")
    return BN.from_tables(NetworkTables(names, levels, TRUE, tuple(tables)))


def distance(model: pg.BayesianNetwork, source: pg.BayesianNetwork) -> float:
    """KL(truth || model), nats, exactly: over all rows."""
    levels = [source.schema_[name].levels for name in "abcde"]
    rows = pd.DataFrame(list(itertools.product(*levels)), columns=list("abcde"))
    log_p, log_q = source.log_prob(rows), model.log_prob(rows, unseen="rare")
    return float((np.exp(log_p) * (log_p - log_q)).sum())


def test_holes_are_integrated_out_and_not_dropped_or_filled():
    """Against complete cases and against modes, over five networks; and near whole rows."""
    settings = {
        "structure": [("abcde"[p], "abcde"[c]) for p, c in TRUE.edges], "draws": 0,
        "random_state": 0,
    }  # fmt: skip
    gaps = []
    for seed in range(5):
        source = truth(seed)
        whole = source.sample(1500, random_state=seed)
        rng = np.random.default_rng(seed)
        rows = whole.mask(rng.random(whole.shape) < 0.3)
        filled = rows.fillna({v: rows[v].mode()[0] for v in rows})
        tables = {"em": rows, "cases": rows.dropna(), "modes": filled, "whole": whole}
        schema = source.schema_
        gaps.append({
            name: distance(BN(schema=schema, **settings).fit(table), source)
            for name, table in tables.items()
        })  # fmt: skip
    found = pd.DataFrame(gaps)
    assert (found["em"] < found["modes"]).all() and (found["em"] < found["cases"]).all()
    assert found["em"].mean() < 0.5 * found["cases"].mean()
    assert found["em"].mean() < 3 * found["whole"].mean()


def latent_class(n: int = 1500) -> tuple[pd.DataFrame, np.ndarray, pg.Schema]:
    rng = np.random.default_rng(0)
    c = rng.integers(0, 2, n)
    p = np.where(c == 0, 0.15, 0.8)
    table = pd.DataFrame({f"x{j}": np.where(rng.random(n) < p, "yes", "no") for j in range(4)})
    schema = pg.Schema.infer(table.assign(group=np.where(c == 0, "u", "v")))
    return table, c, schema


STAR = [("group", f"x{j}") for j in range(4)]


@pytest.mark.parametrize("size", [None, 1.0])
def test_a_column_that_no_row_shows_is_a_latent_class(size):
    table, c, schema = latent_class()
    settings = {"schema": schema, "random_state": 0, "draws": 0}
    known = BN(structure=STAR, **settings).fit(table.assign(group=np.where(c == 0, "u", "v")))
    alone = BN(structure=(), random_state=0, draws=0).fit(table)
    best, least = known.log_prob(table).mean(), alone.log_prob(table).mean()
    assert best - least > 0.5
    model = BN(structure=STAR, sample_size=size, **settings).fit(table.assign(group=None))
    assert model.log_prob(table).mean() > best - 0.02
    filled = model.impute(table.assign(group=None))["group"]
    right = (filled.to_numpy() == np.where(c == 0, "u", "v")).mean()
    assert max(right, 1 - right) > 0.85
    # a class that has no name holds no rows
    assert float(model.members_[0].network.table(4).counts[2].sum()) < 15


def test_a_hidden_normal_column_is_a_factor():
    """Three measurements of one unseen number are correlated as a factor makes them."""
    rng = np.random.default_rng(0)
    f = rng.normal(size=1500)
    table = pd.DataFrame({f"x{j}": f + rng.normal(0, 0.7, 1500) for j in range(3)})
    schema = pg.Schema.infer(table.assign(f=f))
    model = BN(
        structure=[("f", f"x{j}") for j in range(3)], schema=schema, draws=0, tolerance=1e-5,
        random_state=0,
    ).fit(table.assign(f=np.nan))  # fmt: skip
    alone = BN(structure=(), draws=0, random_state=0).fit(table)
    full = pg.GaussianMixture(1, draws=0, random_state=0).fit(table)
    found, least, most = (m.log_prob(table).mean() for m in (model, alone, full))
    assert most - least > 0.3 and found > least + 0.9 * (most - least)
    filled = model.impute(table.assign(f=np.nan))["f"]
    assert abs(np.corrcoef(filled, f)[0, 1]) > 0.9


def test_intervals_are_wider_where_cells_are_hidden():
    table = truth(2).sample(400, random_state=0)
    rows = table.copy()
    rows.loc[np.random.default_rng(0).random(400) < 0.7, "d"] = None
    settings = {
        "structure": [("abcde"[p], "abcde"[c]) for p, c in TRUE.edges], "draws": 200,
        "sample_size": 2.0, "random_state": 0,
    }  # fmt: skip
    width = {}
    for name, own in {"whole": table, "holed": rows}.items():
        found = BN(**settings).fit(own).log_prob(table.head(60), interval=0.9)
        width[name] = (found["upper"] - found["lower"]).mean()
    assert width["holed"] > 1.2 * width["whole"]


def test_weights_are_frequencies(model):
    table = mixed(120)
    weight = np.random.default_rng(0).integers(1, 4, 120)
    again = table.loc[table.index.repeat(weight)].reset_index(drop=True)
    settings = {"schema": model.schema_, "structure": MIXED, "draws": 0, "random_state": 0}
    one = BN(**settings).fit(table, sample_weight=weight)
    with pytest.warns(pg.DataWarning, match="distinct"):
        two = BN(**settings).fit(again)
    np.testing.assert_allclose(one.log_prob(table), two.log_prob(table), rtol=1e-6, atol=1e-8)


# --- structure ---------------------------------------------------------------------------------


def chain(n: int = 2000, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    b = 0.8 * a + rng.normal(0, 0.6, n)
    c = -0.7 * b + rng.normal(0, 0.6, n)
    return pd.DataFrame({"a": a, "b": b, "c": c, "d": 0.6 * c + rng.normal(0, 0.8, n)})


CHAIN = Dag.of(4, [(0, 1), (1, 2), (2, 3)])


@pytest.mark.parametrize("method", ["auto", "hill", "exact", "orders", "chow-liu", "pc"])
def test_a_chain_of_numbers_is_found(method):
    model = BN(structure=method, draws=0, random_state=0).fit(chain())
    assert structural_hamming(model.graph_.cpdag, CHAIN.cpdag) == 0
    assert {frozenset(e) for e in model.edges_.to_numpy()} == {
        frozenset("ab"), frozenset("bc"), frozenset("cd")
    }  # fmt: skip


def test_a_chain_of_levels_is_found():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.integers(0, 3, 2000)})
    for new, old in ("ba", "cb", "dc"):
        table[new] = np.where(rng.random(2000) < 0.7, table[old], rng.integers(0, 3, 2000))
    model = BN(draws=0, random_state=0).fit(table.map("abc".__getitem__))
    assert structural_hamming(model.graph_.cpdag, CHAIN.cpdag) == 0


def test_constraints_are_obeyed():
    table = chain(400)
    model = BN(required=[("d", "a")], draws=0, random_state=0).fit(table)
    assert ("d", "a") in {tuple(e) for e in model.edges_.to_numpy()}
    free = {tuple(e) for e in BN(draws=0, random_state=0).fit(table).edges_.to_numpy()}
    banned = [("a", "b"), ("b", "a")]
    assert free & set(banned)
    model = BN(forbidden=banned, draws=0, random_state=0).fit(table)
    assert not {tuple(e) for e in model.edges_.to_numpy()} & set(banned)
    tiers = [["d"], ["c", "b"], ["a"]]
    rank = {name: i for i, tier in enumerate(tiers) for name in tier}
    model = BN(tiers=tiers, draws=0, random_state=0).fit(table)
    assert len(model.edges_) >= 3
    assert all(rank[p] <= rank[c] for p, c in model.edges_.to_numpy())
    one = BN(max_parents=1, tiers=[["a", "c"], ["b"], ["d"]], draws=0, random_state=0).fit(table)
    assert max(len(own) for own in one.graph_.parents) == 1
    more = BN(tiers=[["a", "c"], ["b"], ["d"]], draws=0, random_state=0).fit(table)
    assert max(len(own) for own in more.graph_.parents) > 1


@pytest.mark.parametrize("graphs", ["half", "orders", "plain", "bayesian"])
def test_constraints_hold_in_the_graphs_of_restarts(graphs):
    table = chain(150, seed=1)
    tiers = [["b"], ["a", "c", "d"]]
    model = BN(
        graphs=graphs, restarts=8, tiers=tiers, forbidden=[("a", "d")], required=[("c", "d")],
        draws=0, random_state=0,
    ).fit(table)  # fmt: skip
    share = model.edge_probabilities_
    assert (share["b"] == 0).all() and share.loc["a", "d"] == 0 and share.loc["c", "d"] == 1
    # between a and b and between b and c, where the tiers tell the direction
    assert share.loc["b", "a"] > 0.9 and share.loc["b", "c"] > 0.9
    graphs_ = [m.network.layout.dag for m in model.members_]
    wanted = np.mean([g.adjacency for g in graphs_], axis=0)
    np.testing.assert_array_equal(share.to_numpy(), wanted)
    first = model.edges_.iloc[0]
    assert first["probability"] == share.loc[first["parent"], first["child"]]


@pytest.mark.parametrize("graphs", ["half", "orders"])
def test_the_graphs_of_restarts_differ_where_the_data_cannot_tell(graphs):
    """Directions of a chain are open, a strong edge between two of its columns is not."""
    model = BN(graphs=graphs, restarts=24, draws=0, random_state=0).fit(chain(300))
    share = model.edge_probabilities_
    assert share.loc["a", "b"] + share.loc["b", "a"] == 1
    assert 0.1 < share.loc["a", "b"] < 0.9
    assert BN(draws=0, random_state=0).fit(chain(100)).edge_probabilities_ is None


def test_directions_that_no_data_can_tell_are_left_to_chance():
    """A tree always hangs from its first column; its class holds it from any."""
    model = BN(structure="chow-liu", restarts=24, draws=0, random_state=0).fit(chain(300))
    share = model.edge_probabilities_
    for one, two in ("ab", "bc", "cd"):
        assert share.loc[one, two] + share.loc[two, one] == 1
        assert 0 < share.loc[one, two] < 1


def test_a_tree_augmented_network_hangs_all_columns_on_its_class():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 500)
    x = np.where(rng.random(500) < 0.8, y, 1 - y)
    z = np.where(rng.random(500) < 0.8, x, 1 - x)
    table = pd.DataFrame({"x": x, "y": y, "z": z, "w": rng.integers(0, 2, 500)})
    model = BN(structure="tan", root="y", draws=0, random_state=0).fit(table.map("ab".__getitem__))
    parents = {c: set() for c in table}
    for p, c in model.edges_.to_numpy():
        parents[c].add(p)
    assert not parents["y"] and all("y" in parents[c] and len(parents[c]) <= 2 for c in "xzw")
    assert "x" in parents["z"] or "z" in parents["x"]


def test_a_given_structure_is_kept(model):
    assert [tuple(e) for e in model.edges_.to_numpy()] != [] and model.edge_probabilities_ is None
    assert {tuple(e) for e in model.edges_.to_numpy()} == set(MIXED)
    assert model.node_names_ == ["d", "e", "x", "y", "k"]
    kinds = ["discrete", "discrete", "normal", "normal", "discrete"]
    assert model.node_kinds_ == kinds
    none = BN(structure=(), draws=0, random_state=0).fit(mixed(100))
    assert len(none.edges_) == 0
    two = BN(structure=MIXED, restarts=2, draws=0, random_state=0).fit(mixed(100))
    assert set(np.unique(two.edge_probabilities_)) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"structure": [("d", "nobody")]}, "nobody"),
        ({"structure": ["de"]}, "pair"),
        ({"structure": [("d", "e", "x")]}, "pair"),
        ({"structure": "guess"}, "hill"),
        ({"criterion": "guess"}, "bdeu"),
        ({"criterion": "bdeu"}, "normal"),
        ({"structure": "tan"}, "root"),
        ({"structure": "tan", "root": "nobody"}, "nobody"),
        ({"structure": "chow-liu", "forbidden": [("d", "e")]}, "chow-liu"),
        ({"tiers": [["d"], ["nobody"]]}, "nobody"),
        ({"required": [("d", "e"), ("e", "d")]}, "cycle"),
        ({"required": [("d", "e")], "forbidden": [("d", "e")]}, "required"),
        ({"required": [("d", "e")], "tiers": [["e"], ["d"]]}, "required"),
        ({"sample_size": 0.0}, "sample_size"),
        ({"strength": -1.0}, "strength"),
        ({"groups": 0}, "groups"),
        ({"bins": 0}, "bins"),
        ({"max_parents": 1.5}, "max_parents"),
        ({"graphs": "all"}, "half"),
    ],
)
def test_settings_that_cannot_be(settings, says):
    with pytest.raises(pg.SchemaError, match=says):
        BN(random_state=0, draws=0, **settings).fit(mixed(60))


@pytest.mark.parametrize(
    "settings",
    [
        {"structure": [("d", "e"), ("e", "d")]},
        {"structure": [("d", "d")]},
        {"required": [("d", "e"), ("e", "d")]},
        {"required": [("d", "e")], "forbidden": [("d", "e")]},
    ],
)
def test_what_is_wrong_with_edges_is_said_in_names_of_columns(settings):
    with pytest.raises(pg.SchemaError, match="'d'"):
        BN(random_state=0, draws=0, **settings).fit(mixed(60))


# --- files and copies --------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["whole", "holed", "restarts", "given"])
def test_saved_and_copied_networks_give_the_same_scores(which, tmp_path, model, holed):
    table = mixed(40, seed=9)
    own = {
        "whole": lambda: model,
        "holed": lambda: holed[0],
        "restarts": lambda: BN(restarts=3, draws=5, random_state=0).fit(mixed(100)),
        "given": lambda: truth(0),
    }[which]()
    if which == "given":
        table = own.sample(30, random_state=0)
    path = tmp_path / "network.zip"
    own.save(path)
    interval = None if which == "given" else 0.8
    wanted = own.log_prob(table, interval=interval)
    for again in (pg.load(path), pickle.loads(pickle.dumps(own))):
        found = again.log_prob(table, interval=interval)
        pd.testing.assert_frame_equal(pd.DataFrame(found), pd.DataFrame(wanted), rtol=1e-12)
        assert again.describe() == own.describe()
        assert [m.network.layout.dag for m in again.members_] == [
            m.network.layout.dag for m in own.members_
        ]


def test_a_clone_has_the_settings_and_no_fit():
    settings = {
        "structure": "hill", "criterion": "cg", "required": [("d", "e")], "tiers": [["d"], ["e"]],
        "max_parents": 2, "sample_size": 3.0, "strength": 2.0, "groups": 4, "graphs": "orders",
    }  # fmt: skip
    model = BN(random_state=0, draws=5, **settings).fit(mixed(80))
    again = clone(model)
    assert not hasattr(again, "members_")
    assert {name: again.get_params()[name] for name in settings} == settings
    table = mixed(30, seed=3)
    np.testing.assert_array_equal(again.fit(mixed(80)).log_prob(table), model.log_prob(table))
    assert again.set_params(strength=5.0).strength == 5.0


def test_settings_change_what_they_should():
    table = mixed(60)
    prior = {"structure": MIXED, "draws": 0, "random_state": 0}
    tight = BN(strength=1e4, **prior).fit(table)
    loose = BN(strength=1.0, **prior).fit(table)
    # a strong prior takes all configurations for one line
    spread = {m: m_.table("y")["x"].std() for m, m_ in (("tight", tight), ("loose", loose))}
    assert spread["tight"] < 0.1 * spread["loose"]
    flat = BN(sample_size=1e6, **prior).fit(table).table("e")
    assert np.allclose(flat, 1 / 3, atol=1e-3)
    cut = {g: BN(groups=g, **prior).fit(table).table("k").shape[1] for g in (2, 5)}
    assert cut == {2: 2, 5: 5}


# --- known tables ------------------------------------------------------------------------------


def test_a_network_of_a_file_answers_without_a_fit(tmp_path):
    source = truth(3)
    path = tmp_path / "net.bif"
    source.to_bif(path)
    model = BN.from_bif(path)
    for one, two in zip(model.to_tables().tables, source.to_tables().tables, strict=True):
        np.testing.assert_array_equal(one, two)
    assert model.graph_ == source.graph_ and model.node_names_ == source.node_names_
    other = tmp_path / "net.xml"
    model.to_xmlbif(other)
    again = BN.from_xmlbif(other)
    rows = model.sample(50, random_state=0)
    np.testing.assert_allclose(again.log_prob(rows), source.log_prob(rows), rtol=1e-12)
    assert model.prob("a == 's0'").value == pytest.approx(model.to_tables().tables[0][0])
    assert model.impute(rows.assign(c=None)).notna().all(axis=None)
    assert len(model.explain(rows)) == len(model.outliers(rows)) == len(model.repair(rows)) == 50
    assert model.mutual_information("a", "e").value >= 0
    assert model.dependence().shape == (5, 5)
    assert "a" in model.describe() and model.check() is not None


def test_known_tables_have_no_intervals_and_no_rare_level():
    model = truth(3)
    rows = model.sample(3, random_state=0)
    with pytest.raises(pg.NotSupported):
        model.log_prob(rows, interval=0.9)
    found = model.log_prob(rows.assign(c="new"), unseen="rare")
    assert (found == -np.inf).all()
    hole = model.log_prob(rows.assign(c="new"), unseen="missing")
    np.testing.assert_allclose(hole, model.log_prob(rows.drop(columns="c")), rtol=1e-12)
    with pytest.raises(pg.SchemaError, match="new"):
        model.log_prob(rows.assign(c="new"))


def test_fitted_tables_go_through_a_file(tmp_path):
    table = truth(1).sample(200, random_state=0)
    model = BN(draws=0, sample_size=1.0, random_state=0).fit(table)
    model.to_bif(tmp_path / "net.bif")
    again = BN.from_bif(tmp_path / "net.bif")
    for one, two in zip(again.to_tables().tables, model.to_tables().tables, strict=True):
        np.testing.assert_array_max_ulp(one, two, 2)  # sums are mended when read
    # the file has no level for what was never seen
    gap = again.log_prob(table) - model.log_prob(table)
    assert (gap > 0).all() and gap.max() < 0.2


def test_numbers_have_no_tables_for_a_file(model, tmp_path):
    with pytest.raises(pg.NotSupported, match="x"):
        model.to_bif(tmp_path / "net.bif")


def test_the_printed_line_is_the_regression_in_table_units():
    table = chain(3000)
    table["a"] = 100 + 20 * table["a"]
    model = BN(structure=[("a", "b"), ("b", "c")], draws=0, random_state=0).fit(table)
    own = model.table("b").iloc[0]
    slope, level = np.polyfit(table["a"], table["b"], 1)
    residual = table["b"] - level - slope * table["a"]
    assert own["a"] == pytest.approx(slope, rel=2e-3)
    assert own["level"] == pytest.approx(level, rel=2e-3)
    assert own["sd"] == pytest.approx(residual.std(), rel=5e-3)
    line = model.describe().split("b | a\n")[1].splitlines()[0]
    assert f"{own['level']:.4g}" in line and f"{own['a']:.4g}" in line


def test_skewed_numbers_above_zero_enter_the_search_by_their_logarithm():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": np.exp(rng.normal(size=400)), "b": rng.normal(size=400) + 20})
    made = {"columns": {"a": "real", "b": "real"}, "draws": 0, "random_state": 0}
    for criterion, changed in (("auto", True), ("bge", False)):
        model = pg.BayesianNetwork(criterion=criterion, **made).fit(table)
        member = model.members_[0]
        encoded = encode(table, model.schema_)
        x, batch = encoded.x, Batch.of(torch.from_numpy(encoded.x))
        values = member.node_rows(batch).values
        logs = np.log(table["a"]) - np.log(table["a"]).mean()
        wanted = logs / logs.std(ddof=0) if changed else x[:, 0]
        np.testing.assert_allclose(values[:, 0], wanted, rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(values[:, 1], x[:, 1])  # as even as it is


def test_directions_that_the_score_finds_are_kept_in_the_restarts():
    """A curve with noise beside it has a direction; a class around which a tree grows, too."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, 500)
    table = pd.DataFrame({"y": x**3 + rng.laplace(size=500), "x": x})
    curved = pg.BayesianNetwork(restarts=8, draws=0, random_state=0).fit(table)
    assert curved.edge_probabilities_.loc["x", "y"] == 1
    lines = pg.BayesianNetwork(criterion="bge", restarts=12, draws=0, random_state=0).fit(table)
    assert 0 < lines.edge_probabilities_.loc["x", "y"] < 1
    kinds = pd.DataFrame({f"f{i}": rng.choice(["a", "b"], 300) for i in range(3)})
    made = {"structure": "tan", "root": "f0", "restarts": 4, "draws": 0, "random_state": 0}
    tree = pg.BayesianNetwork(**made).fit(kinds).edge_probabilities_
    assert (tree.loc["f0", ["f1", "f2"]] == 1).all()
