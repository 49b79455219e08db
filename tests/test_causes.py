"""Causes: interventions, effects, counterfactuals, separation and adjustment."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError

import probgen as pg
from probgen.exchange.tables import NetworkTables
from probgen.graphs.dag import Dag
from probgen.table import encode

FIVE = 5.0  # standard errors
BN = pg.BayesianNetwork
D = 6
pytestmark = pytest.mark.filterwarnings("ignore::probgen.errors.DataWarning")


def known(seed: int = 0, chance: float = 0.5) -> tuple[pg.BayesianNetwork, list[np.ndarray]]:
    """A random network over v0 to v5, and its tables."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(D)
    edges = [
        (int(order[i]), int(order[j]))
        for j in range(D) for i in range(j) if rng.random() < chance
    ]  # fmt: skip
    dag = Dag.of(D, edges)
    sizes = [2 + i % 2 for i in range(D)]
    tables = []
    for node, own in enumerate(dag.parents):
        t = rng.gamma(1.0, size=(sizes[node], *(sizes[p] for p in own)))
        tables.append(t / t.sum(0))
    names = tuple(f"v{i}" for i in range(D))
    levels = tuple(tuple(f"s{k}" for k in range(s)) for s in sizes)
    return BN.from_tables(NetworkTables(names, levels, dag, tuple(tables))), tables


def joint(dag: Dag, tables: list[np.ndarray], settings: dict[int, int] | None = None):
    """The joint table, after an intervention: the truncated factorisation."""
    args: list = []
    for node, own in enumerate(dag.parents):
        table = tables[node]
        if node in (settings or {}):
            table = np.zeros(len(table))
            table[settings[node]] = 1.0
            own = ()
        args += [table, [node, *own]]
    return np.einsum(*args, list(range(D)))


def everything(model: pg.BayesianNetwork) -> pd.DataFrame:
    """All rows of a network, in the order of the joint table."""
    levels = [model.schema_[f"v{i}"].levels for i in range(D)]
    return pd.DataFrame(list(itertools.product(*levels)), columns=[f"v{i}" for i in range(D)])


def conditional(p: np.ndarray, keep: list[int], given: list[int]) -> np.ndarray:
    """p(keep | given), with axes of size 1 for all others."""
    rest = tuple(i for i in range(D) if i not in {*keep, *given})
    own = p.sum(rest, keepdims=True)
    return own / own.sum(tuple(keep), keepdims=True)


# --- interventions -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("settings", [{1: 2}, {4: 0}, {0: 1, 3: 2}, {2: 0, 3: 1, 5: 0}])
def test_an_intervention_is_the_truncated_factorisation(seed, settings):
    model, tables = known(seed)
    p = joint(model.graph_, tables, settings)
    world = model.do({f"v{i}": f"s{k}" for i, k in settings.items()})
    rows = everything(model)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(world.log_prob(rows), np.log(p.ravel()), rtol=1e-10)
    # with holes: also where what was set is hidden, or alone is seen
    for seen in itertools.combinations(range(D), 2):
        some = rows[[f"v{i}" for i in seen]].drop_duplicates()
        own = p.sum(tuple(i for i in range(D) if i not in seen)).ravel()
        found = np.exp(world.log_prob(some))
        np.testing.assert_allclose(found, own, rtol=1e-10, atol=1e-15)
    others = set(range(D)) - set(settings)
    assert world.node_names_ == [f"v{i}" for i in sorted(others)]
    step = model
    for i, k in settings.items():
        step = step.do({f"v{i}": f"s{k}"})
    np.testing.assert_allclose(step.log_prob(rows), world.log_prob(rows), rtol=1e-12)


def table(n: int = 500, seed: int = 0) -> pd.DataFrame:
    """c -> t, c -> x, (t, x) -> y, x -> z, k -> z; columns of many kinds."""
    rng = np.random.default_rng(seed)
    c = rng.integers(0, 3, n)
    t = rng.random(n) < 0.2 + 0.25 * c
    x = c + rng.normal(0, 1 + 0.5 * (c == 2), n)
    y = 1.5 * t - 0.8 * x + rng.normal(0, 0.6, n)
    k = rng.poisson(3, n)
    return pd.DataFrame({
        "c": [f"c{v}" for v in c], "t": t, "x": x, "y": y,
        "z": np.exp(0.3 * x + 0.1 * np.minimum(k, 5) + rng.normal(0, 0.3, n)), "k": k,
        "w": rng.poisson(2 + 4 * t),
        "s": np.where(rng.random(n) < 0.2 + 0.4 * t, 0.0, rng.normal(3 * t, 1, n)),
        "o": pd.Categorical(np.array(["lo", "mid", "hi"])[np.minimum(2, t + (x > 1))],
                            ["lo", "mid", "hi"], ordered=True),
    })  # fmt: skip


EDGES = [
    ("c", "t"), ("c", "x"), ("t", "y"), ("x", "y"), ("x", "z"), ("k", "z"), ("t", "w"),
    ("t", "s[atom]"), ("t", "s"), ("s[atom]", "s"), ("c", "o"), ("t", "o"),
]  # fmt: skip
SCHEMA = {"s": {"kind": "real", "atoms": [0.0]}}


@pytest.fixture(scope="module")
def model() -> pg.BayesianNetwork:
    return BN(structure=EDGES, columns=SCHEMA, draws=40, random_state=0).fit(table())


def table_of(model: pg.BayesianNetwork, column: str) -> pd.DataFrame:
    """The table of a node with one discrete parent, by the levels of that."""
    found = model.table(column)
    return found.set_axis(found.index.get_level_values(0))


FEW = ["c", "t", "x", "y"]
VERBS = {
    "log_prob": lambda m, r, do: m.log_prob(r[["y", "z", "w"]], given=r[["c"]], **do),
    "log_prob with interval": lambda m, r, do: m.log_prob(r[["y", "s"]], interval=0.8, **do),
    "surprisal": lambda m, r, do: m.surprisal(r, **do),
    "sample": lambda m, r, do: m.sample(5, given={"c": "c1"}, random_state=0, **do),
    "prob": lambda m, r, do: float(
        m.prob("y > 0", given={"c": "c2"}, samples=2000, random_state=0, **do)
    ),
    "impute": lambda m, r, do: m.impute(r.assign(y=np.nan, o=None, c=None, t=None), **do),
    "explain": lambda m, r, do: m.explain(r[FEW].head(3), **do),
    "outliers": lambda m, r, do: m.outliers(r[FEW].head(3), samples=100, **do),
    "repair": lambda m, r, do: m.repair(r[FEW].head(3), candidates=8, **do),
    "entropy": lambda m, r, do: m.entropy(["y", "w"], samples=200, **do).value,
    "mutual_information": lambda m, r, do: m.mutual_information("x", "y", samples=200, **do).value,
    "dependence": lambda m, r, do: m.dependence(["c", "x", "y"], samples=100, **do),
}


@pytest.mark.parametrize("verb", VERBS)
def test_do_in_a_verb_is_the_verb_of_the_model_after_it(model, verb):
    rows = table(12, seed=5).assign(t=True)
    ask = VERBS[verb]
    found, wanted = ask(model, rows, {"do": {"t": True}}), ask(model.do({"t": True}), rows, {})
    if isinstance(found, float):
        assert found == wanted and found != ask(model, rows, {})
        return
    pd.testing.assert_frame_equal(pd.DataFrame(found), pd.DataFrame(wanted))
    assert not pd.DataFrame(found).equals(pd.DataFrame(ask(model, rows, {})))


def test_setting_is_not_seeing_where_there_is_a_common_cause(model):
    c = np.array([math.exp(model.log_prob(pd.DataFrame({"c": [f"c{v}"]}))[0]) for v in range(3)])
    share = [model.prob(f"c == 'c{v}'", do={"t": True}).value for v in range(3)]
    np.testing.assert_allclose(share, c, rtol=1e-9)
    seen = [model.prob(f"c == 'c{v}'", given={"t": True}).value for v in range(3)]
    assert seen[2] > c[2] + 0.1


@pytest.mark.parametrize("k", [0, 4, 9, 40])
def test_setting_a_count_is_seeing_it_where_nothing_acts_on_it(model, k):
    """Also a count far above the number of groups, by a verb and by an effect."""
    rows = table(20)[["x", "z", "c"]]
    found, wanted = model.log_prob(rows, do={"k": k}), model.log_prob(rows, given={"k": k})
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    answer = model.effect("k", "z", values=(0, k)).loc["z"]
    mean = model.impute(pd.DataFrame({"k": [0, k], "z": [np.nan] * 2}), centre="mean")["z"]
    spread = (answer["upper"] - answer["lower"]) / 3.29
    assert abs(answer["effect"] - (mean[1] - mean[0])) < spread + 0.05


def test_setting_a_binned_number_is_seeing_it():
    rng = np.random.default_rng(0)
    x = rng.normal(20, 5, 400)
    rows = pd.DataFrame({"x": x, "y": np.sin(x / 3) + rng.normal(0, 0.3, 400)})
    rows["a"] = np.where(np.abs(x - 20) < 4, "in", "out")
    edges = [("x", "y"), ("x", "a")]
    model = BN(structure=edges, bins=6, draws=20, random_state=0).fit(rows)
    some = rows[["y", "a"]].head(20)
    for value in (9.0, 14.0, 20.0, 31.0):
        found = model.log_prob(some, do={"x": value})
        np.testing.assert_allclose(found, model.log_prob(some, given={"x": value}), rtol=1e-9)
    share = model.effect("x", "a", values=(9.0, 20.0)).loc["in"]
    assert share["control"] < 0.1 and share["treated"] > 0.9


def test_setting_a_column_with_atoms(model):
    """Nothing depends on it: all other columns stay as they are, and it is what it was set to."""
    rows = table(20, seed=2)
    rest = rows.drop(columns="s")
    for value in (0.0, 1.7):
        world = model.do({"s": value})
        np.testing.assert_allclose(world.log_prob(rest), model.log_prob(rest), rtol=1e-9)
        assert (world.sample(10, random_state=0)["s"] == value).all()
        assert (world.log_prob(rows.assign(s=value)) > -np.inf).all()
        assert (world.log_prob(rows.assign(s=value + 1)) == -np.inf).all()


def test_setting_a_normal_parent_moves_a_normal_child_by_the_slope():
    rows = table()
    model = BN(structure=EDGES, columns=SCHEMA, draws=0, random_state=0).fit(rows)
    line = table_of(model, "y")
    slope = line["x"]
    hole = pd.DataFrame({"t": [False, True], "y": [np.nan] * 2})
    at = {v: model.impute(hole, centre="mean", do={"x": v})["y"] for v in (0.0, 1.0)}
    np.testing.assert_allclose(at[1.0] - at[0.0], slope, rtol=1e-9)
    np.testing.assert_allclose(at[0.0], line["level"], rtol=1e-9)
    # and not by that of the association, which nothing else in the row tells of
    assert abs(np.polyfit(rows["x"], rows["y"], 1)[0] - slope[True]) > 0.05


def test_setting_a_number_keeps_all_that_is_uncertain_of_its_child(model):
    """Nothing else joins t and x once x is set: the density of y is that given x and t."""
    rows = table(20, seed=3)
    for value in (-1.0, 2.5):
        found = model.log_prob(rows[["t", "y"]], do={"x": value})
        given = model.log_prob(rows[["y"]], given=rows[["t"]].assign(x=value))
        np.testing.assert_allclose(found, given + model.log_prob(rows[["t"]]), rtol=1e-9)


def test_setting_all_columns_leaves_nothing_open():
    model, _ = known(0)
    world = model.do({f"v{i}": "s1" for i in range(D)})
    rows = everything(model)
    found = world.log_prob(rows)
    ones = (rows == "s1").all(axis=1)
    assert (found[ones] == 0).all() and (found[~ones] == -np.inf).all()
    assert (world.sample(3, random_state=0) == "s1").all(axis=None)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"nobody": 1}, "nobody"),
        ({"c": "c9"}, "c9"),
        ({"t": None}, "legal value"),
        ({"x": np.nan}, "legal value"),
        ({"x": "much"}, "x"),
        ({"k": -1}, "legal value"),
        ({"z": -2.0}, "legal value"),
        ("t", "dict"),
    ],
)
def test_interventions_that_cannot_be(model, settings, says):
    with pytest.raises(pg.SchemaError, match=says):
        model.do(settings)
    with pytest.raises(pg.SchemaError, match=says):
        model.counterfactual(table(2), settings)
    with pytest.raises(pg.SchemaError, match=says):
        model.sample(2, do=settings)


def test_questions_before_a_fit():
    model = BN()
    for ask in (
        lambda: model.do({"a": 1}), lambda: model.effect("a", "b"), lambda: model.graph_,
        lambda: model.counterfactual(table(2), {"t": True}), lambda: model.edges_,
        lambda: model.most_probable(table(2)), lambda: model.d_separated("a", "b"),
    ):  # fmt: skip
        with pytest.raises(NotFittedError):
            ask()


# --- effects -----------------------------------------------------------------------------------


def ols(y: pd.Series, *columns: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and their standard errors, the level last."""
    design = np.column_stack([*columns, np.ones(len(y))])
    gram = np.linalg.inv(design.T @ design)
    b = gram @ design.T @ y.to_numpy()
    left = y.to_numpy() - design @ b
    variance = left @ left / (len(y) - design.shape[1])
    return b, np.sqrt(variance * np.diag(gram))


def confounded(n: int = 800, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    c = rng.normal(5, 2, n)
    t = 0.8 * c + rng.normal(0, 1, n)
    return pd.DataFrame({"c": c, "t": t, "y": 0.5 * t - 1.2 * c + rng.normal(0, 2, n)})


LINE = [("c", "t"), ("c", "y"), ("t", "y")]


def test_the_effect_in_a_linear_model_is_the_adjusted_coefficient():
    rows = confounded()
    model = BN(structure=LINE, draws=500, random_state=0).fit(rows)
    b, se = ols(rows["y"], rows["t"], rows["c"])
    alone, _ = ols(rows["y"], rows["t"])
    assert abs(alone[0] - b[0]) > 10 * se[0]
    answer = model.effect("t", "y")
    found = answer.loc["y"]
    assert answer.attrs["adjustment"] == ["c"]
    # errors of the mean and of the quantiles of 500 draws, in standard errors of the effect
    assert abs(found["effect"] - b[0]) < (FIVE / math.sqrt(500) + 0.05) * se[0]
    quantile = (FIVE * math.sqrt(0.05 * 0.95 / 500) / 0.103 + 0.05) * se[0]
    assert abs(found["lower"] - (b[0] - 1.645 * se[0])) < quantile
    assert abs(found["upper"] - (b[0] + 1.645 * se[0])) < quantile


def test_an_effect_is_in_the_units_of_the_values_that_are_set():
    rows = confounded()
    model = BN(structure=LINE, draws=60, random_state=0).fit(rows)
    one = model.effect("t", "y", interval=0.5).loc["y"]
    answer = model.effect("t", "y", values=(2.0, 6.0), interval=0.5)
    found = answer.loc["y"]
    names = ["effect", "lower", "upper"]
    np.testing.assert_allclose(found[names], 4 * one[names], rtol=1e-9)
    assert found["treated"] - found["control"] == pytest.approx(found["effect"])
    assert answer.attrs["values"] == (2.0, 6.0)
    wide = model.effect("t", "y", values=(2.0, 6.0), interval=0.95).loc["y"]
    assert wide["lower"] < found["lower"] < found["upper"] < wide["upper"]
    # given the common cause, the level changes and the effect does not
    own = model.effect("t", "y", values=(2.0, 6.0), given={"c": 7.0}).loc["y"]
    assert own["effect"] == pytest.approx(found["effect"], rel=1e-9)
    b, _ = ols(rows["y"], rows["t"], rows["c"])
    assert own["control"] == pytest.approx(b @ [2.0, 7.0, 1.0], abs=FIVE * 2 / math.sqrt(800))


def test_there_is_no_effect_on_what_lies_upstream(model):
    rows = confounded(200)
    line = BN(structure=LINE, draws=20, random_state=0).fit(rows)
    for cause, outcome in (("y", "t"), ("y", "c"), ("t", "c")):
        found = line.effect(cause, outcome).iloc[0]
        assert np.abs(found[["effect", "lower", "upper"]]).max() < 1e-9
        assert found["control"] == pytest.approx(rows[outcome].mean(), abs=0.3)
    assert np.abs(model.effect("t", "c")[["effect", "lower", "upper"]]).to_numpy().max() < 1e-12
    assert model.effect("t", "c").attrs["graphs"] == 1


def test_the_effect_on_itself_is_what_was_set(model):
    found = model.effect("x", "x", values=(1.0, 3.0)).loc["x"]
    assert found[["control", "treated", "effect"]].tolist() == [1.0, 3.0, 2.0]
    own = model.effect("c", "c", values=("c0", "c2"))
    assert own["effect"].tolist() == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize("outcome", ["y", "z", "w", "s", "o", "x"])
def test_effects_are_those_of_simulated_interventions(model, outcome):
    """Of every kind of outcome, by draws from the two worlds."""
    cause, values = ("x", (0.0, 2.0)) if outcome == "z" else ("t", (False, True))
    found = model.effect(cause, outcome, values=values)
    n = 8000
    for name, value in zip(("control", "treated"), values, strict=True):
        drawn = model.sample(n, do={cause: value}, random_state=7)[outcome]
        for row in found.index:
            own = (drawn == row).astype(float) if outcome == "o" else drawn.astype(float)
            # beside the error of the draws that of the average over 40 draws of the parameters
            spread = (found.loc[row, "upper"] - found.loc[row, "lower"]) / 3.29 / math.sqrt(40)
            error = math.hypot(own.std() / math.sqrt(n), 1.5 * spread)
            assert abs(own.mean() - found.loc[row, name]) < FIVE * error + 1e-9
    if outcome == "o":
        assert list(found.index) == ["lo", "mid", "hi"]
        assert found[["control", "treated"]].sum().tolist() == pytest.approx([1, 1])


def test_an_effect_in_tables_is_the_adjustment_formula():
    rng = np.random.default_rng(0)
    c = rng.integers(0, 3, 600)
    t = (rng.random(600) < 0.2 + 0.3 * c).astype(int)
    y = (rng.random(600) < 0.1 + 0.3 * t + 0.2 * c).astype(bool)
    rows = pd.DataFrame({"c": [f"c{v}" for v in c], "t": t.astype(bool), "y": y})
    model = BN(structure=LINE, sample_size=1.0, draws=400, random_state=0).fit(rows)
    found = model.effect("t", "y")
    # posterior means of independent tables; the level of c without a name has a share of 1e-3
    weight = np.array([(c == v).sum() + 1 / 3 for v in range(3)]) / (600 + 4 / 3)
    rest = 1 - weight.sum()
    for name, value in (("control", 0), ("treated", 1)):
        p = [((y & (t == value) & (c == v)).sum() + 1 / 12)
             / (((t == value) & (c == v)).sum() + 1 / 6) for v in range(3)]  # fmt: skip
        wanted = weight @ p + rest / 2
        assert abs(found.loc[True, name] - wanted) < FIVE * 0.03 / math.sqrt(400)
    given = model.effect("t", "y", given={"c": "c1"}).loc[True]
    assert given["control"] == pytest.approx(y[(t == 0) & (c == 1)].mean(), abs=0.01)
    assert given["treated"] == pytest.approx(y[(t == 1) & (c == 1)].mean(), abs=0.01)


def test_effects_carry_what_is_open_about_the_graph():
    """Two columns whose direction is open: in some restarts there is an effect, in others none."""
    rows = confounded(100)[["c", "t"]]
    model = BN(restarts=12, draws=20, random_state=0).fit(rows)
    share = model.edge_probabilities_.loc["c", "t"]
    assert 0 < share < 1
    found = model.effect("c", "t")
    b, _ = ols(rows["t"], rows["c"])
    assert found.attrs["graphs"] == 2
    assert found.loc["t", "effect"] == pytest.approx(share * b[0], rel=0.15)
    assert found.loc["t", "lower"] <= 1e-9 and found.loc["t", "upper"] > 0.9 * b[0]


def test_effects_that_cannot_be(model):
    with pytest.raises(pg.SchemaError, match="y"):
        model.effect("t", "y", given={"y": 1.0})
    with pytest.raises(pg.SchemaError, match="w"):
        model.effect("t", "y", given={"w": 2})
    with pytest.raises(pg.SchemaError, match="'t'"):
        model.effect("t", "y", given={"t": True})
    with pytest.raises(pg.SchemaError, match="values"):
        model.effect("c", "y")
    for values in ((False,), (False, True, False), 3):
        with pytest.raises(pg.SchemaError, match="values"):
            model.effect("t", "y", values=values)
    with pytest.raises(pg.SchemaError, match="interval"):
        model.effect("t", "y", interval=1.0)
    with pytest.raises(pg.SchemaError, match="c9"):
        model.effect("c", "y", values=("c0", "c9"))
    for wrong in (("nobody", "y"), ("t", "nobody")):
        with pytest.raises(pg.SchemaError, match="nobody"):
            model.effect(*wrong)
    with pytest.raises(pg.SchemaError, match="'s'"):  # both nodes of a column with atoms
        model.effect("t", "y", given={"s": 1.0})


# --- counterfactuals ---------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["gumbel", "quantile"])
def test_what_was_set_to_what_it_was_changes_nothing(model, noise):
    rows = table(40, seed=3)
    for value in (False, True):
        own = rows[rows["t"] == value]
        found = model.counterfactual(own, {"t": value}, draws=4, noise=noise, random_state=0)
        again = own.loc[own.index.repeat(4)]
        pd.testing.assert_frame_equal(
            found.reset_index(drop=True), again.reset_index(drop=True), rtol=1e-9,
            check_dtype=False,
        )  # fmt: skip
        assert found.index.get_level_values("draw").tolist() == [0, 1, 2, 3] * len(own)
    one = rows.iloc[[4]]
    same = {name: one[name].iloc[0] for name in ("x", "k", "s", "c")}
    found = model.counterfactual(one, same, draws=2, noise=noise, random_state=0)
    for name in one:
        assert (found[name] == one[name].iloc[0]).all() or np.allclose(found[name], one[name])


def test_numbers_keep_their_residual():
    """The closed form at each posterior draw: y' = y + slope (x' - x), and so on below."""
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, 150)
    y = 1 + 0.7 * x + rng.normal(0, 1, 150)
    rows = pd.DataFrame({"x": x, "y": y, "z": 0.5 * y - x + rng.normal(0, 1, 150)})
    structure = [("x", "y"), ("y", "z"), ("x", "z")]
    model = BN(structure=structure, draws=10, random_state=0).fit(rows)
    found = model.counterfactual(rows.head(20), {"x": 0.0}, draws=10, random_state=0)
    draws = model._with_draws.draws[0]
    scale = {v: model.schema_[v].scale for v in rows}
    dag = model.graph_
    step_x = -rows["x"].head(20).to_numpy()
    for s in range(10):
        own = found.xs(s, level="draw")
        b = {v: draws[f"coefficients_{i}"][s, 0].numpy() for i, v in enumerate("xyz")}
        slope = {
            (names[p], v): b[v][1 + k] * scale[v] / scale[names[p]]
            for names in ["xyz"] for i, v in enumerate("xyz")
            for k, p in enumerate(dag.parents[i])
        }  # fmt: skip
        step_y = slope["x", "y"] * step_x
        step_z = slope["y", "z"] * step_y + slope["x", "z"] * step_x
        assert (own["x"] == 0).all()
        np.testing.assert_allclose(own["y"], rows["y"].head(20) + step_y, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(own["z"], rows["z"].head(20) + step_z, rtol=1e-9, atol=1e-9)
    assert found.groupby(level="draw")["z"].first().nunique() == 10  # the slopes are in doubt


def test_a_residual_counts_in_standard_deviations():
    """x | c has another mean and another spread in each level."""
    rows = table(1500)
    model = BN(structure=EDGES, columns=SCHEMA, draws=0, random_state=0).fit(rows)
    line = table_of(model, "x")
    some = rows[rows["c"] == "c0"].head(10)
    found = model.counterfactual(some, {"c": "c2"}, draws=40, random_state=0)
    z = (some["x"] - line.loc["c0", "level"]) / line.loc["c0", "sd"]
    wanted = line.loc["c2", "level"] + z * line.loc["c2", "sd"]
    # one posterior draw of each: of levels and spreads of 500 rows
    middle = found["x"].groupby(level=0).mean()
    error = 0.1 * (1 + np.abs(z))
    assert (np.abs(middle - wanted) < 3 * error).all()
    assert line.loc["c2", "sd"] > 1.3 * line.loc["c0", "sd"]


@pytest.mark.parametrize("noise", ["gumbel", "quantile"])
@pytest.mark.parametrize("seed", range(2))
def test_on_average_counterfactuals_are_interventions(seed, noise):
    """Over rows of the model, and over rows that show nothing."""
    model, tables = known(seed, 0.7)
    dag = model.graph_
    root = max(range(D), key=lambda i: len(dag.descendants([i])) * bool(dag.parents[i]))
    below = dag.descendants([root]) - {root}
    assert len(below) >= 2
    p = joint(dag, tables, {root: 1})
    before = joint(dag, tables)
    n = 4000
    moved = 0.0
    for rows in (
        model.sample(n, random_state=1),
        everything(model).iloc[np.zeros(n, int)].reset_index(drop=True).where(lambda r: r != r),
    ):
        found = model.counterfactual(rows, {f"v{root}": "s1"}, 1, noise, random_state=2)
        for i in range(D):
            rest = tuple(j for j in range(D) if j != i)
            wanted = p.sum(rest)
            share = np.array([(found[f"v{i}"] == f"s{k}").mean() for k in range(len(wanted))])
            error = np.sqrt(wanted * (1 - wanted).clip(0) / n)
            assert (np.abs(share - wanted) <= FIVE * error + 1e-12).all()
            moved = max(moved, np.abs(wanted - before.sum(rest)).max() if i in below else 0.0)
    assert moved > 0.05


def test_what_is_set_does_not_act_on_what_lies_above_or_beside():
    for seed in range(3):
        model, _ = known(seed)
        rows = model.sample(60, random_state=0)
        for node in range(D):
            found = model.counterfactual(rows, {f"v{node}": "s0"}, 1, random_state=0)
            fixed = [f"v{i}" for i in set(range(D)) - model.graph_.descendants([node])]
            left = found[fixed].reset_index(drop=True)
            pd.testing.assert_frame_equal(left, rows[fixed], check_dtype=False)
            assert (found[f"v{node}"] == "s0").all()


def test_a_row_with_holes_keeps_what_it_shows(model):
    rows = table(6, seed=8).assign(x=np.nan, o=None)
    found = model.counterfactual(rows, {"t": True}, draws=30, random_state=0)
    assert found.notna().all(axis=None) and found["x"].groupby(level=0).nunique().min() == 30
    for name in ("c", "k", "z"):  # not below the treatment
        own = rows[name].loc[found.index.get_level_values(0)].to_numpy()
        assert (found[name].to_numpy() == own).all() or np.allclose(found[name], own)
    # y keeps its residual, whatever x was: the treatment adds its effect
    off = rows[~rows["t"]].index
    step = (found["y"].groupby(level=0).mean() - rows["y"]).loc[off]
    gap = model.effect("t", "y").loc["y"]
    assert (np.abs(step - gap["effect"]) < 3 * (gap["upper"] - gap["lower"])).all()


def test_counterfactuals_that_cannot_be(model):
    rows = table(2)
    for draws in (0, 1.5, True):
        with pytest.raises(pg.SchemaError, match="draws"):
            model.counterfactual(rows, {"t": True}, draws=draws)
    with pytest.raises(pg.SchemaError, match="gumbel"):
        model.counterfactual(rows, {"t": True}, noise="none")
    with pytest.raises(pg.SchemaError, match="c9"):
        model.counterfactual(rows.assign(c="c9"), {"t": True})


# --- graphs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_adjusting_for_a_set_gives_the_intervention(seed):
    model, tables = known(seed, 0.45)
    dag = model.graph_
    p = joint(dag, tables)
    checked = 0
    for x, y in itertools.permutations(range(D), 2):
        after = joint(dag, tables, {x: 1})
        wanted = after.sum(tuple(i for i in range(D) if i != y))
        for names in model.adjustment_sets(f"v{x}", f"v{y}"):
            z = [int(v[1:]) for v in names]
            own = conditional(p, [y], [x, *z]).take([1], axis=x)
            weight = p.sum(tuple(i for i in range(D) if i not in z), keepdims=True)
            found = (own * weight).sum(tuple(i for i in range(D) if i != y))
            np.testing.assert_allclose(found, wanted, rtol=1e-9)
            checked += 1
    assert checked > 20


def test_adjustment_sets_keep_to_what_is_allowed(model):
    assert model.adjustment_sets("t", "y") == [["c"], ["x"]]
    assert model.adjustment_sets("t", "y", allowed=["x", "z"]) == [["x"]]
    assert model.adjustment_sets("t", "y", allowed=["z"]) == []
    assert model.adjustment_sets("k", "z") == [[]]


def test_graphs_are_asked_in_names_of_columns(model):
    assert model.d_separated("k", "x") and not model.d_separated("k", "x", "z")
    assert not model.d_separated("t", "x") and model.d_separated(["t"], ["x", "z"], ["c"])
    # a column with atoms is two nodes, and both are meant
    assert not model.d_separated("s", "y", ["x"]) and model.d_separated("s", "x", ["c"])
    assert model.markov_blanket("y") == ["t", "x"]
    assert model.markov_blanket("s") == ["t"]
    assert set(model.markov_blanket("z")) == {"x", "k"}
    for ask in (
        lambda: model.d_separated("nobody", "x"), lambda: model.markov_blanket("nobody"),
        lambda: model.adjustment_sets("t", "nobody"),
    ):  # fmt: skip
        with pytest.raises(pg.SchemaError, match="nobody"):
            ask()


def test_the_most_probable_row_is_the_joint_mode(model):
    """Levels and numbers together: by search over the levels, with numbers at their means."""
    rows = table(8, seed=4).assign(c=None, y=np.nan)
    found = model.most_probable(rows)
    seen = rows.columns.drop(["c", "y"])
    pd.testing.assert_frame_equal(found[seen], rows[seen], check_dtype=False)
    network = model.members_[0].network
    at = network.at(network.point())
    options = []
    for c in ("c0", "c1", "c2"):
        own = rows.assign(c=c, y=found["y"])
        encoded = encode(own, model.schema_)
        x, known_ = torch.from_numpy(encoded.x), torch.from_numpy(encoded.seen)
        options.append(network.log_rows(x, known_, at).numpy())
    best = np.array(options).argmax(0)
    assert found["c"].tolist() == [f"c{k}" for k in best]
    line = table_of(model, "y")
    wanted = [line.loc[t, "level"] + line.loc[t, "x"] * x
              for t, x in zip(rows["t"], rows["x"], strict=True)]  # fmt: skip
    np.testing.assert_allclose(found["y"], wanted, rtol=1e-8)
