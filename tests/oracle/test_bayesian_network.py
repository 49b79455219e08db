"""Bayesian networks against closed forms, sums over all configurations and simulation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.special import gammaln

import probgen as pg
from probgen.batch import Batch
from probgen.nodes.answers import distribution_of
from probgen.nodes.tables import SIZES
from probgen.table import encode

FIVE = 5.0  # standard errors
NAMES = ("a", "b", "c", "d")
EDGES = [("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")]
PARENTS = {"a": (), "b": ("a",), "c": ("a", "b"), "d": ("c",)}


def labels(n: int = 400, seed: int = 0) -> pd.DataFrame:
    """Levels over a diamond with a tail."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 2, n)
    b = np.where(rng.random(n) < 0.7, a, rng.integers(0, 3, n))
    c = ((a + b + (rng.random(n) < 0.3)) % 2).astype(int)
    d = np.where(rng.random(n) < 0.6, c, rng.integers(0, 3, n))
    codes = {"a": a, "b": b, "c": c, "d": d}
    return pd.DataFrame({name: [f"{name}{v}" for v in own] for name, own in codes.items()})


def codes_of(model: pg.BayesianNetwork, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Codes by the levels of the schema; -1 for a hole, the reserved code for other levels."""
    found = {}
    for name in table.columns:
        levels = list(model.schema_[name].levels)
        place = {level: i for i, level in enumerate(levels)}
        found[name] = np.array([
            -1 if not isinstance(v, str) else place.get(v, len(levels)) for v in table[name]
        ])  # fmt: skip
    return found


def dirichlet_tables(
    model: pg.BayesianNetwork, table: pd.DataFrame, size: float
) -> dict[str, np.ndarray]:
    """Posterior mean tables, parents first, with a reserved state everywhere."""
    codes = codes_of(model, table)
    named = {name: len(model.schema_[name].levels) for name in NAMES}
    found = {}
    for name, parents in PARENTS.items():
        family = (*parents, name)
        counts = np.zeros([named[v] + 1 for v in family])
        np.add.at(counts, tuple(codes[v] for v in family), 1.0)
        counts += size / math.prod(named[v] for v in family)
        found[name] = counts / counts.sum(-1, keepdims=True)
    return found


def joint(tables: dict[str, np.ndarray]) -> np.ndarray:
    a, b, c, d = (tables[name] for name in NAMES)
    return np.einsum("a,ab,abc,cd->abcd", a, b, c, d)


@pytest.fixture(scope="module")
def discrete() -> tuple[pg.BayesianNetwork, pd.DataFrame, np.ndarray]:
    table = labels()
    model = pg.BayesianNetwork(structure=EDGES, sample_size=2.0, random_state=0).fit(table)
    return model, table, joint(dirichlet_tables(model, table, 2.0))


# --- discrete tables ---------------------------------------------------------------------------


def test_whole_rows_have_the_mass_of_the_posterior_mean_tables(discrete):
    model, table, p = discrete
    codes = codes_of(model, table)
    wanted = np.log(p[tuple(codes[name] for name in NAMES)])
    np.testing.assert_allclose(model.log_prob(table), wanted, rtol=1e-12)


def test_holes_are_summed_out(discrete):
    model, table, p = discrete
    rng = np.random.default_rng(1)
    rows = table.head(120).mask(rng.random((120, 4)) < 0.5)
    codes = codes_of(model, rows)
    found = model.log_prob(rows)
    for i in range(len(rows)):
        at = tuple(slice(None) if codes[v][i] < 0 else codes[v][i] for v in NAMES)
        assert found.iloc[i] == pytest.approx(math.log(p[at].sum()), rel=1e-10, abs=1e-12)


def test_a_condition_is_a_ratio(discrete):
    model, _, p = discrete
    found = model.log_prob(pd.DataFrame({"a": ["a1"], "d": ["d2"]}), given={"c": "c0"})
    assert found[0] == pytest.approx(math.log(p[1, :, 0, 2].sum() / p[:, :, 0].sum()), rel=1e-10)
    over = model.prob("b == 'b0'", given={"c": "c1", "d": "d0"})
    assert over.value == pytest.approx(p[:, 0, 1, 0].sum() / p[:, :, 1, 0].sum(), rel=1e-9)


def test_a_new_level_has_the_mass_that_the_prior_keeps_for_it(discrete):
    model, table, p = discrete
    row = pd.DataFrame({"a": ["a0"], "b": ["b1"], "c": ["c0"], "d": ["new"]})
    count = (table.c == "c0").sum()
    alpha = 2.0 / 6
    tail = math.log(alpha / (count + 4 * alpha))
    wanted = math.log(p[0, 1, 0].sum()) + tail
    assert model.log_prob(row, unseen="rare")[0] == pytest.approx(wanted, rel=1e-10)
    above = row.assign(b="new", d="d0")  # a configuration that no row had
    assert model.log_prob(above, unseen="rare")[0] == pytest.approx(math.log(p[0, 3, 0, 0]))
    hole = model.log_prob(row, unseen="missing")[0]
    assert hole == pytest.approx(math.log(p[0, 1, 0].sum()), rel=1e-10)


def log_evidence(
    model: pg.BayesianNetwork, table: pd.DataFrame, size: float, reserved: bool
) -> float:
    """Closed form of the Dirichlet-multinomial; reserved states have a prior and no rows."""
    codes = codes_of(model, table)
    total = 0.0
    for name, parents in PARENTS.items():
        named = [len(model.schema_[v].levels) for v in (*parents, name)]
        counts = np.zeros(named)
        np.add.at(counts, tuple(codes[v] for v in (*parents, name)), 1.0)
        alpha, states = size / math.prod(named), named[-1] + reserved
        total += (gammaln(counts + alpha) - gammaln(alpha)).sum()
        total += (gammaln(states * alpha) - gammaln(counts.sum(-1) + states * alpha)).sum()
    return float(total)


def test_the_loss_is_the_log_evidence(discrete):
    model, table, _ = discrete
    found = -model.result_.losses[-1] * len(table)
    assert found == pytest.approx(log_evidence(model, table, 2.0, reserved=True), rel=1e-10)


def test_the_equivalent_sample_size_is_that_of_most_evidence(discrete):
    _, table, _ = discrete
    model = pg.BayesianNetwork(structure=EDGES, random_state=0, draws=0).fit(table)
    values = [log_evidence(model, table, size, reserved=False) for size in SIZES]
    best = SIZES[int(np.argmax(values))]
    assert 0 < np.argmax(values) < len(SIZES) - 1
    wanted = np.log(joint(dirichlet_tables(model, table, best)))
    at = tuple(codes_of(model, table)[name] for name in NAMES)
    np.testing.assert_allclose(model.log_prob(table), wanted[at], rtol=1e-12)


def test_intervals_are_those_of_dirichlet_draws(discrete):
    _, table, _ = discrete
    model = pg.BayesianNetwork(structure=EDGES, sample_size=2.0, random_state=0, draws=2000)
    found = model.fit(table).log_prob(pd.DataFrame({"a": ["a0"]}), interval=0.9)
    count = np.array([(table.a == "a0").sum() + 1.0, (table.a == "a1").sum() + 2.0])
    wanted = np.log(stats.beta(*count).ppf([0.05, 0.95]))
    # standard error of a quantile of 2000 draws
    p = np.exp(wanted)
    se = math.sqrt(0.05 * 0.95 / 2000) / (stats.beta(*count).pdf(p) * p)
    assert (np.abs(found[["lower", "upper"]].to_numpy()[0] - wanted) < FIVE * se).all()


# --- normal nodes ------------------------------------------------------------------------------


def mixed(n: int = 500, seed: int = 0) -> pd.DataFrame:
    """d -> e, d -> x, (e, x) -> y, y -> z."""
    rng = np.random.default_rng(seed)
    d = rng.integers(0, 2, n)
    e = np.where(rng.random(n) < 0.7, d, rng.integers(0, 3, n))
    x = 2.0 * d + rng.normal(0, 1 + d, n)
    y = 10 + np.array([1.0, -2.0, 0.5])[e] * x + e + rng.normal(0, 0.7, n)
    z = 0.4 * y + rng.normal(0, 0.5, n)
    return pd.DataFrame({
        "d": [f"d{v}" for v in d], "e": [f"e{v}" for v in e], "x": x, "y": y, "z": z,
    })  # fmt: skip


MIXED = [("d", "e"), ("d", "x"), ("e", "y"), ("x", "y"), ("y", "z")]


@pytest.fixture(scope="module")
def cg() -> tuple[pg.BayesianNetwork, pd.DataFrame]:
    table = mixed()
    return pg.BayesianNetwork(structure=MIXED, draws=50, random_state=0).fit(table), table


def normal_inverse_gamma(
    r: np.ndarray, y: np.ndarray, config: np.ndarray, count: int, strength: float, dof: float
) -> list[tuple[np.ndarray, np.ndarray, float, float]]:
    """Mean, precision matrix, shape and rate by configuration; prior centre of all rows."""
    n, design = len(y), np.column_stack([np.ones(len(y)), r])
    q = design.shape[1]
    gram = design.T @ design / n
    centre = np.linalg.solve(gram + 1e-3 * np.eye(q), design.T @ y / n)
    left = y @ y / n - centre @ (design.T @ y / n)
    found = []
    for c in range(count):
        own, target = design[config == c], y[config == c]
        known_ = own.T @ own + strength * np.eye(q)
        mean = np.linalg.solve(known_, own.T @ target + strength * centre)
        shape = (dof + len(own)) / 2
        # prior sum of squares, and what the rows and the prior leave to each other
        rest = ((target - own @ mean) ** 2).sum() + strength * ((mean - centre) ** 2).sum()
        found.append((mean, known_, shape, dof / 2 * left + rest / 2))
    return found


def standard(model: pg.BayesianNetwork, name: str, values: np.ndarray) -> np.ndarray:
    column = model.schema_[name]
    return (np.asarray(values, dtype=float) - column.loc) / column.scale


def test_a_normal_node_predicts_students_t(cg):
    model, table = cg
    x, y = (standard(model, v, table[v]) for v in "xy")
    e = table.e.str[1:].astype(int).to_numpy()
    fits = normal_inverse_gamma(x[:, None], y, e, 3, strength=1.0, dof=3.0)
    new = mixed(60, seed=5)
    given = new[["d", "e", "x"]]
    found = model.log_prob(new[["y"]], given=given).to_numpy()
    own = standard(model, "x", new.x)
    for i, code in enumerate(new.e.str[1:].astype(int)):
        mean, known_, a, b = fits[code]
        v = np.array([1.0, own[i]])
        scale = math.sqrt(b / a * (1 + v @ np.linalg.solve(known_, v)))
        t = stats.t(2 * a, mean @ v, scale).logpdf(standard(model, "y", [new.y[i]])[0])
        wanted = t - math.log(model.schema_["y"].scale)
        assert found[i] == pytest.approx(wanted, rel=1e-8, abs=1e-9)


def nig_draws(fit, count: int, rng) -> tuple[np.ndarray, np.ndarray]:
    mean, known_, a, b = fit
    precision = rng.gamma(a, 1 / b, count)
    root = np.linalg.cholesky(np.linalg.inv(known_))
    noise = rng.normal(size=(count, len(mean))) @ root.T
    return mean + noise / np.sqrt(precision)[:, None], precision


@pytest.fixture(scope="module")
def few() -> tuple[pg.BayesianNetwork, tuple, tuple]:
    """A chain x -> y -> z of 12 rows, whose parameters are in doubt: the model, and means and
    covariances of (x, y, z) in encoded units at 100,000 draws of the posterior."""
    rng = np.random.default_rng(3)
    x = rng.normal(1, 2, 12)
    y = 0.8 * x + rng.normal(0, 1, 12)
    table = pd.DataFrame({"x": x, "y": y, "z": y + rng.normal(0, 1, 12)})
    model = pg.BayesianNetwork(structure=[("x", "y"), ("y", "z")], random_state=0).fit(table)
    u = {v: standard(model, v, table[v]) for v in table}
    one, none = np.zeros(12, dtype=int), np.zeros((12, 0))
    settings = {"config": one, "count": 1, "strength": 1.0, "dof": 3.0}
    fits = [
        normal_inverse_gamma(r, u[v], **settings)[0]
        for v, r in (("x", none), ("y", u["x"][:, None]), ("z", u["y"][:, None]))
    ]
    (b0, t0), (b1, t1), (b2, t2) = (nig_draws(f, 100_000, rng) for f in fits)
    mean = [b0[:, 0]]
    mean.append(b1[:, 0] + b1[:, 1] * mean[0])
    mean.append(b2[:, 0] + b2[:, 1] * mean[1])
    cov = np.zeros((3, 3, 100_000))
    cov[0, 0] = 1 / t0
    cov[0, 1] = cov[1, 0] = b1[:, 1] * cov[0, 0]
    cov[1, 1] = b1[:, 1] ** 2 * cov[0, 0] + 1 / t1
    cov[0, 2] = cov[2, 0] = b2[:, 1] * cov[0, 1]
    cov[1, 2] = cov[2, 1] = b2[:, 1] * cov[1, 1]
    cov[2, 2] = b2[:, 1] ** 2 * cov[1, 1] + 1 / t2
    return model, mean, cov


@pytest.mark.parametrize("hidden", ["x", "y"])
def test_a_hidden_normal_cell_is_the_average_over_parameters(few, hidden):
    """The chain without its root or its middle."""
    model, mean, cov = few
    rows = pd.DataFrame({"x": [0.0, 6.0, -3.0], "y": [1.0, 5.0, -5.0], "z": [1.5, 2.0, -3.0]})
    rows = rows.drop(columns=hidden)
    found = model.log_prob(rows, details=True)
    i, j = {"x": (1, 2), "y": (0, 2)}[hidden]
    names = list(rows.columns)
    jacobian = sum(math.log(model.schema_[v].scale) for v in names)
    for k in range(len(rows)):
        p, q = (standard(model, v, [rows[v][k]])[0] for v in names)
        e1, e2 = p - mean[i], q - mean[j]
        det = cov[i, i] * cov[j, j] - cov[i, j] ** 2
        square = (cov[j, j] * e1**2 - 2 * cov[i, j] * e1 * e2 + cov[i, i] * e2**2) / det
        density = np.exp(-0.5 * square) / (2 * np.pi * np.sqrt(det))
        error = density.std() / math.sqrt(len(density)) / density.mean()
        gap = found["log_prob"].iloc[k] - (math.log(density.mean()) - jacobian)
        stated = found["se"].iloc[k]
        assert 0 < stated < 0.3
        assert abs(gap) < 4 * math.hypot(stated, error)


def test_draws_of_a_hidden_root_spread_as_parameters_in_doubt_make_them(few):
    """x given an extreme z: mean and variance of samples, and the mean from `impute`."""
    model, mean, cov = few
    z = standard(model, "z", [9.0])[0]
    weight = np.exp(-0.5 * (z - mean[2]) ** 2 / cov[2, 2]) / np.sqrt(cov[2, 2])
    w = weight / weight.sum()
    middle = mean[0] + cov[0, 2] / cov[2, 2] * (z - mean[2])
    variance = cov[0, 0] - cov[0, 2] ** 2 / cov[2, 2]
    wanted = w @ middle
    spread, sd = math.sqrt(w @ (middle - wanted) ** 2), math.sqrt(w @ variance)
    whole = math.hypot(spread, sd)
    # of the draws that the package averages over the weights leave so many in effect
    share = weight.mean() ** 2 / (weight**2).mean()
    row = pd.DataFrame({"x": [np.nan], "y": [np.nan], "z": [9.0]})
    found = standard(model, "x", model.impute(row, centre="mean")["x"])[0]
    assert abs(found - wanted) < 3 * spread / math.sqrt(64 * share)
    n = 20_000
    drawn = standard(model, "x", model.sample(n, given={"z": 9.0}, random_state=0)["x"])
    error = math.hypot(whole / math.sqrt(n), spread / math.sqrt(256 * share))
    assert abs(drawn.mean() - wanted) < 3 * error
    parts = (variance + (middle - wanted) ** 2) / whole**2
    loose = math.sqrt(w @ (parts - 1) ** 2 / (256 * share)) + math.sqrt(2 / n)
    assert abs((drawn.std() / whole) ** 2 - 1) < 3 * loose
    assert drawn.std() > 1.05 * sd  # more than the noise alone


def two_classes(seed: int, named: bool) -> pg.BayesianNetwork:
    """d -> x -> y of 12 rows; d true or false, or of levels beside which others may exist."""
    rng = np.random.default_rng(seed)
    d = np.array([0] * 8 + [1] * 4)
    x = 1.5 * d + rng.normal(0, 1, 12)
    y = x + rng.normal(0, 0.7, 12)
    own = d.astype(bool) if named else np.where(d, "u", "v")
    table = pd.DataFrame({"d": own, "x": x, "y": y})
    settings = {"structure": [("d", "x"), ("x", "y")], "draws": 0, "random_state": 0}
    return pg.BayesianNetwork(**settings).fit(table)


@pytest.mark.parametrize("seed", [3, 4])
def test_a_hidden_class_is_weighed_by_what_each_draw_says_of_the_row(seed):
    model = two_classes(seed, named=True)
    member, row = model.members_[0], pd.DataFrame({"y": [-4.0]})
    both = pd.DataFrame({"d": [True], "y": [-4.0]})
    batches = []
    for table in (row, both):
        encoded = encode(table, model.schema_)
        batches.append((torch.from_numpy(encoded.x), torch.from_numpy(encoded.seen)))
    with torch.no_grad():
        found = member.conditionals(Batch.of(*batches[0]))[0][1].probs[0]
        one, two = (member.network.log_rows_by_draw(*b, 64)[:, 0] for b in batches)
    exact = math.exp(model.log_prob(both)[0] - model.log_prob(row)[0])
    # what independent draws would miss it by: these lie evenly
    share, each = one.softmax(0), (two - one).exp()
    error = float((share**2 @ (each - exact) ** 2).sqrt())
    assert abs(float(found[1] / found.sum()) - exact) < error
    assert abs(float(each.mean()) - exact) > 4 * error  # without weights


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("y", [-4.0, 1.0, 5.0])
def test_draws_of_a_hidden_class_have_the_odds_of_its_levels(named, y):
    """Also where a level without a name has a part in the density of what is seen."""
    model = two_classes(1, named)
    levels = model.schema_["d"].levels
    p = np.exp([model.log_prob(pd.DataFrame({"d": [v], "y": [y]}))[0] for v in levels])
    wanted = p[1] / p.sum()
    n = 20_000
    drawn = model.sample(n, given={"y": y}, random_state=1)["d"]
    share = (drawn == levels[1]).mean()
    assert abs(share - wanted) < FIVE * math.sqrt(wanted * (1 - wanted) / n)


def test_a_seen_count_counts_where_rows_are_averaged_over_draws():
    """A count that nothing depends on adds its own log mass, also beside a hidden root."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    table = pd.DataFrame({"x": x, "y": x + rng.normal(size=60), "k": rng.poisson(4, 60)})
    model = pg.BayesianNetwork(structure=[("x", "y")], draws=0, random_state=0).fit(table)
    found = model.log_prob(table[["y", "k"]])
    parts = model.log_prob(table[["y"]]) + model.log_prob(table[["k"]])
    np.testing.assert_allclose(found, parts, rtol=1e-9)
    assert table["k"].nunique() > 5


def gaussian_parts(model, draws) -> list[tuple[float, int, int, np.ndarray, np.ndarray]]:
    """Weight, codes of d and e, mean and covariance of (x, y, z) in each configuration."""
    at = {name: value[0].numpy() for name, value in draws.items()}
    found = []
    for d, e in product(range(3), range(4)):
        weight = at["probs_0"][d] * at["probs_1"][d, e]
        bx, by, bz = at["coefficients_2"][d], at["coefficients_3"][e], at["coefficients_4"][0]
        sx, sy, sz = (1 / at["precision_2"][d], 1 / at["precision_3"][e],
                      1 / at["precision_4"][0])  # fmt: skip
        mean = np.array([bx[0], by[0] + by[1] * bx[0], 0.0])
        mean[2] = bz[0] + bz[1] * mean[1]
        load = np.array([[1, 0, 0], [by[1], 1, 0], [bz[1] * by[1], bz[1], 1]])
        found.append((weight, d, e, mean, load @ np.diag([sx, sy, sz]) @ load.T))
    return found


def holed_rows(model, n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    encoded = encode(mixed(n, seed=7), model.schema_)
    rng = np.random.default_rng(8)
    seen = rng.random(encoded.x.shape) < 0.5
    return torch.from_numpy(np.where(seen, encoded.x, 0.0)), torch.from_numpy(seen)


def test_density_at_a_draw_is_the_sum_over_configurations(cg):
    model, _ = cg
    member = model.members_[0]
    draws = member.network.posterior_draws(1, torch.Generator().manual_seed(0))
    x, seen = holed_rows(model)
    found = member.exact_log_prob(Batch.of(x, seen), draws)[0].numpy()
    parts = gaussian_parts(model, draws)
    assert sum(part[0] for part in parts) == pytest.approx(1)
    for i in range(len(x)):
        total = 0.0
        keep = np.flatnonzero(seen[i, 2:])
        for weight, d, e, mean, cov in parts:
            if (seen[i, 0] and x[i, 0] != d) or (seen[i, 1] and x[i, 1] != e):
                continue
            density = 1.0
            if len(keep):
                own = x[i, 2:].numpy()[keep]
                block = cov[np.ix_(keep, keep)]
                density = stats.multivariate_normal(mean[keep], block).pdf(own)
            total += weight * density
        assert found[i] == pytest.approx(math.log(total), rel=1e-8, abs=1e-9)


def test_conditionals_at_a_draw_are_those_of_the_mixture(cg):
    model, _ = cg
    member = model.members_[0]
    draws = member.network.posterior_draws(1, torch.Generator().manual_seed(1))
    x, seen = holed_rows(model)
    at = member.network.at({name: value[0] for name, value in draws.items()})
    parts = gaussian_parts(model, draws)
    cells = {}
    for node in range(5):
        rows = (~seen[:, node]).nonzero()[:, 0]
        own = distribution_of(member.network, x[rows], seen[rows], at, node)
        cells |= {(int(r), node): (own, k) for k, r in enumerate(rows)}
    for (i, node), (own, k) in cells.items():
        keep = np.flatnonzero(seen[i, 2:])
        weights, means, squares, codes = [], [], [], []
        matter = member.network.layout.informed(seen[i : i + 1])[0] & ~seen[i]
        for weight, d, e, mean, cov in parts:
            if (seen[i, 0] and x[i, 0] != d) or (seen[i, 1] and x[i, 1] != e):
                continue
            if any(matter[n] and c == last for n, c, last in ((0, d, 2), (1, e, 3))):
                continue  # what is unseen and counts has a level with a name
            m, c = mean, cov
            if len(keep):
                v, block = x[i, 2:].numpy()[keep], cov[np.ix_(keep, keep)]
                weight = weight * stats.multivariate_normal(mean[keep], block).pdf(v)
                gain = np.linalg.solve(block, cov[keep]).T
                m, c = mean + gain @ (v - mean[keep]), cov - gain @ cov[keep]
            weights.append(weight)
            codes.append((d, e))
            means.append(m)
            squares.append(np.diag(c) + m**2)
        share = np.array(weights) / sum(weights)
        if node < 2:
            size = (3, 4)[node]
            wanted = np.bincount([c[node] for c in codes], share, size)[: size - 1]
            p = own.probs[k, : size - 1].numpy()
            np.testing.assert_allclose(p / p.sum(), wanted / wanted.sum(), rtol=1e-7, atol=1e-12)
            continue
        first = float(share @ np.array(means)[:, node - 2])
        second = float(share @ np.array(squares)[:, node - 2])
        w, mean, scale = (getattr(own, v)[k].numpy() for v in ("weights", "mean", "scale"))
        w = w / w.sum()
        assert w @ mean == pytest.approx(first, rel=1e-7, abs=1e-9)
        assert w @ (mean**2 + scale**2) == pytest.approx(second, rel=1e-7, abs=1e-9)


def test_the_mean_of_a_hidden_cell_is_the_average_over_draws_of_the_posterior(cg):
    """`impute` against brute force at 3000 draws, weighted by the density of what is seen."""
    model, _ = cg
    row = pd.DataFrame({"e": ["e1"], "z": [3.0], "x": [1.0]})
    found = model.impute(row.assign(d=None, y=np.nan), centre="mean")["y"].iloc[0]
    member = model.members_[0]
    draws = member.network.posterior_draws(3000, torch.Generator().manual_seed(2))
    x, z = (standard(model, v, row[v])[0] for v in "xz")
    weights, means = [], []
    for s in range(3000):
        parts = gaussian_parts(model, {name: v[s : s + 1] for name, v in draws.items()})
        total = first = 0.0
        for weight, _, e, mean, cov in parts:
            if e != 1:
                continue
            block, v = cov[np.ix_([0, 2], [0, 2])], np.array([x, z]) - mean[[0, 2]]
            step = np.linalg.solve(block, v)
            p = weight * math.exp(-0.5 * v @ step) / math.sqrt(np.linalg.det(block))
            total, first = total + p, first + p * (mean[1] + cov[1, [0, 2]] @ step)
        weights.append(total)
        means.append(first / total)
    w, m = np.array(weights) / sum(weights), np.array(means)
    wanted = w @ m
    error = math.sqrt((w**2) @ (m - wanted) ** 2)
    gap = abs(standard(model, "y", [found])[0] - wanted)
    # the package's own average is over 64 draws that lie evenly: better than independent ones
    assert gap < FIVE * math.hypot(error, error * math.sqrt(3000 / 64))


def test_samples_of_a_mixed_network_follow_its_density(cg):
    model, _ = cg
    n = 4000
    drawn = model.sample(n, random_state=3)
    scores = model.log_prob(drawn)
    entropy = model.entropy(samples=4000, random_state=4)
    error = math.hypot(entropy.se, scores.std() / math.sqrt(n))
    assert 0 < entropy.se < 0.2 and abs(entropy.value + scores.mean()) < FIVE * error
    # a cell given others, against its density on a grid
    given = {"e": "e2", "z": 4.0}
    x = np.linspace(-25, 25, 801)
    grid = pd.DataFrame({"x": x})
    p = np.exp(model.log_prob(grid, given=given).to_numpy())
    assert np.trapezoid(p, x) == pytest.approx(1, abs=2e-3)
    below = np.concatenate([[0], np.cumsum((p[1:] + p[:-1]) / 2)]) * (x[1] - x[0])
    cells = model.sample(2000, given=given, random_state=5)["x"]
    found = stats.kstest(cells, lambda v: np.interp(v, x, below / below[-1]))
    assert found.pvalue > 1e-4


# --- groups ------------------------------------------------------------------------------------


def test_the_mass_of_a_count_sums_to_one():
    rng = np.random.default_rng(0)
    n = 600
    a = rng.integers(0, 2, n)
    table = pd.DataFrame({
        "a": np.where(a, "yes", "no"), "k": rng.negative_binomial(2, np.where(a, 0.05, 0.3)),
    })  # fmt: skip
    model = pg.BayesianNetwork(structure=[("a", "k")], draws=0, random_state=0).fit(table)
    assert model.node_kinds_ == ["discrete", "discrete"]
    k = np.arange(3001)
    mean = {}
    for level in ("yes", "no"):
        p = np.exp(model.log_prob(pd.DataFrame({"k": k}), given={"a": level}).to_numpy())
        assert p.sum() == pytest.approx(1, abs=1e-6)
        mean[level] = p @ k
    for level, own in table.groupby("a")["k"]:
        assert abs(mean[level] - own.mean()) < FIVE * own.std() / math.sqrt(len(own))


def test_the_density_of_bins_integrates_to_one_and_is_that_of_its_samples():
    rng = np.random.default_rng(0)
    n = 800
    a = rng.integers(0, 2, n)
    x = np.where(a, rng.normal(0, 1, n), rng.exponential(3, n) - 4)
    table = pd.DataFrame({"a": np.where(a, "u", "v"), "x": x})
    model = pg.BayesianNetwork(structure=[("x", "a")], bins=6, draws=0, random_state=0).fit(table)
    assert model.node_kinds_ == ["discrete", "discrete"] and model.graph_.edges == ((1, 0),)
    network, column = model.members_[0].network, model.schema_["x"]
    cuts = network.group(1).cuts.numpy() * column.scale + column.loc
    assert len(cuts) == 5
    ends = [-200.0, *cuts, 200.0]
    nodes, own = np.polynomial.legendre.leggauss(400)
    points, weights = [], []
    for low, high in zip(ends[:-1], ends[1:], strict=True):
        for s, e in zip(*(np.linspace(low, high, 5)[k:][:4] for k in (0, 1)), strict=True):
            points.append((e - s) / 2 * nodes + (e + s) / 2)
            weights.append((e - s) / 2 * own)
    grid, w = np.concatenate(points), np.concatenate(weights)
    p = np.exp(model.log_prob(pd.DataFrame({"x": grid})).to_numpy())
    assert w @ p == pytest.approx(1, abs=1e-6)
    below = np.cumsum(w * p)
    drawn = model.sample(3000, random_state=1)["x"]
    assert stats.kstest(drawn, lambda v: np.interp(v, grid, below)).pvalue > 1e-4
    # the level depends on the group alone
    share = model.log_prob(pd.DataFrame({"a": ["u"] * 2}), given=pd.DataFrame(
        {"x": [cuts[1] + 1e-6, cuts[2] - 1e-6]}))  # fmt: skip
    assert share[0] == pytest.approx(share[1], abs=1e-12)
    other = model.log_prob(pd.DataFrame({"a": ["u"]}), given={"x": cuts[1] - 1e-6})
    assert abs(other[0] - share[0]) > 1e-3
