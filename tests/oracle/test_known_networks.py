"""Networks of known tables against sums over all rows."""

from __future__ import annotations

import math
from itertools import combinations, permutations, product

import numpy as np
import pandas as pd
import pytest

import probgen as pg
from probgen.exchange.tables import NetworkTables
from probgen.graphs.dag import Dag

FIVE = 5.0  # standard errors


def known(
    seed: int = 0, d: int = 6, chance: float = 0.45
) -> tuple[pg.BayesianNetwork, np.ndarray]:
    """A random network and its joint table."""
    rng = np.random.default_rng(seed)
    dag = Dag.of(d, [(i, j) for j in range(d) for i in range(j) if rng.random() < chance])
    sizes = [int(s) for s in rng.integers(2, 4, d)]
    tables = []
    for node, own in enumerate(dag.parents):
        t = rng.gamma(0.6, size=(sizes[node], *(sizes[p] for p in own)))
        tables.append(t / t.sum(0))
    names = tuple(f"v{i}" for i in range(d))
    levels = tuple(tuple(f"s{k}" for k in range(s)) for s in sizes)
    model = pg.BayesianNetwork.from_tables(NetworkTables(names, levels, dag, tuple(tables)))
    args: list = []
    for node, own in enumerate(dag.parents):
        args += [tables[node], [node, *own]]
    return model, np.einsum(*args, list(range(d)))


@pytest.mark.parametrize("seed", range(3))
def test_the_most_probable_completion_is_the_largest_entry(seed):
    model, p = known(seed)
    rng = np.random.default_rng(seed)
    rows = model.sample(25, random_state=seed)
    holed = rows.mask(rng.random(rows.shape) < 0.6)
    found = model.most_probable(holed)
    for i in range(len(rows)):
        at = tuple(slice(None) if pd.isna(v) else int(str(v)[1:]) for v in holed.iloc[i].tolist())
        got = tuple(int(str(v)[1:]) for v in found.iloc[i])
        assert p[got] == pytest.approx(p[at].max(), rel=1e-12)
        seen = holed.iloc[i].notna()
        assert (found.iloc[i][seen] == holed.iloc[i][seen]).all()


def test_whole_samples_follow_the_joint_and_its_entropy():
    model, p = known(1)
    n = 20_000
    drawn = model.sample(n, random_state=0)
    scores = model.log_prob(drawn)
    exact = float(-(p * np.log(np.where(p > 0, p, 1.0))).sum())
    assert model.entropy().value == pytest.approx(exact, rel=1e-9)
    assert abs(-scores.mean() - exact) < FIVE * scores.std() / math.sqrt(n)
    codes = tuple(drawn[v].str[1:].astype(int).to_numpy() for v in drawn)
    counts = np.zeros_like(p)
    np.add.at(counts, codes, 1)
    usual = n * p >= 5
    z = (counts - n * p)[usual] / np.sqrt(n * p * (1 - p))[usual]
    # squares of about as many standard normals as there are usual cells
    assert (z**2).sum() < usual.sum() + FIVE * math.sqrt(2 * usual.sum())


@pytest.mark.parametrize("seed", range(2))
def test_conditional_samples_follow_the_posterior(seed):
    model, p = known(seed)
    given = model.sample(1, random_state=seed)[["v4", "v5"]]
    at = tuple(int(v[1:]) for v in given.iloc[0])
    wanted = p[..., at[0], at[1]] / p[..., at[0], at[1]].sum()
    n = 20_000
    drawn = model.sample(n, given=given.iloc[0].to_dict(), random_state=1)
    assert (drawn[["v4", "v5"]] == given.iloc[0]).all(axis=None)
    counts = np.zeros_like(wanted)
    np.add.at(counts, tuple(drawn[f"v{i}"].str[1:].astype(int) for i in range(4)), 1)
    error = np.sqrt(wanted * (1 - wanted) / n)
    assert (np.abs(counts / n - wanted) <= FIVE * error + 1 / n).all()


def conditional(p: np.ndarray, keep: tuple[int, ...], given: tuple[int, ...]) -> np.ndarray:
    """p(keep | given), with axes of size 1 for all others."""
    rest = tuple(i for i in range(p.ndim) if i not in {*keep, *given})
    own = p.sum(rest, keepdims=True)
    return own / own.sum(keep, keepdims=True)


@pytest.mark.parametrize("seed", range(4))
def test_separation_is_independence_in_the_joint(seed):
    model, p = known(seed, chance=0.35)
    found = set()
    for x, y in combinations(range(6), 2):
        rest = [i for i in range(6) if i not in (x, y)]
        for size in range(len(rest) + 1):
            for z in combinations(rest, size):
                both = conditional(p, (x, y), z)
                gap = both - both.sum(x, keepdims=True) * both.sum(y, keepdims=True)
                wanted = bool(np.abs(gap).max() < 1e-10)
                names = [f"v{i}" for i in z]
                assert model.d_separated(f"v{x}", f"v{y}", names) == wanted
                found.add(wanted)
    assert found == {True, False}


def test_a_markov_blanket_makes_all_others_irrelevant():
    for seed in range(3):
        model, _ = known(seed)
        rows = model.sample(40, random_state=0)
        for v in rows:
            blanket = model.markov_blanket(v)
            own = model.log_prob(rows[[v]], given=rows.drop(columns=v))
            part = (
                model.log_prob(rows[[v]], given=rows[blanket]) if blanket
                else model.log_prob(rows[[v]])
            )  # fmt: skip
            np.testing.assert_allclose(own, part, rtol=1e-9, atol=1e-12)
            for other in blanket:  # and none of it is idle
                less = rows[[b for b in blanket if b != other]]
                few = model.log_prob(rows[[v]], given=less) if len(less.columns) else (
                    model.log_prob(rows[[v]]))  # fmt: skip
                assert np.abs(few - own).max() > 1e-6


# --- counterfactuals ---


def two_tables(p: list[float], q: list[float]) -> pg.BayesianNetwork:
    """t -> y with distributions p and q of y."""
    dag = Dag.of(2, [(0, 1)])
    levels = (("off", "on"), tuple(f"s{k}" for k in range(len(p))))
    tables = (np.array([0.5, 0.5]), np.array([p, q]).T)
    return pg.BayesianNetwork.from_tables(NetworkTables(("t", "y"), levels, dag, tables))


def test_one_uniform_number_keeps_the_order_of_levels():
    """Where all cumulative probabilities fall, no row goes down; and the exact shares go up."""
    p, q = [0.4, 0.3, 0.2, 0.1], [0.2, 0.4, 0.1, 0.3]
    model = two_tables(p, q)
    rows = pd.DataFrame({"t": ["off"] * 4000, "y": np.repeat([f"s{k}" for k in range(4)], 1000)})
    found = model.counterfactual(rows, {"t": "on"}, 1, "quantile", random_state=0)
    before, after = rows["y"].str[1:].astype(int), found["y"].str[1:].astype(int).to_numpy()
    assert (after >= before).all() and (after > before).any()
    ends = np.cumsum([0, *p]), np.cumsum([0, *q])
    for k in range(4):
        for j in range(4):
            low, high = max(ends[0][k], ends[1][j]), min(ends[0][k + 1], ends[1][j + 1])
            wanted = max(0.0, high - low) / p[k]
            share = (after[before == k] == j).mean()
            assert abs(share - wanted) <= FIVE * math.sqrt(wanted * (1 - wanted) / 1000) + 1e-12
    # the other noise does take some rows down
    other = model.counterfactual(rows, {"t": "on"}, 1, "gumbel", random_state=0)
    assert (other["y"].str[1:].astype(int).to_numpy() < before).any()


def test_gumbel_noise_never_leads_to_a_level_that_lost_more():
    """Counterfactual stability: from i to j only if q_j / p_j > q_i / p_i."""
    p, q = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.2, 0.35, 0.15, 0.3])
    model = two_tables(list(p), list(q))
    n = 3000
    rows = pd.DataFrame({"t": ["off"] * 4 * n, "y": np.repeat([f"s{k}" for k in range(4)], n)})
    found = model.counterfactual(rows, {"t": "on"}, 1, "gumbel", random_state=0)
    after = found["y"].str[1:].astype(int).to_numpy().reshape(4, n)
    for i, j in permutations(range(4), 2):
        if q[j] / p[j] <= q[i] / p[i]:
            assert not (after[i] == j).any()
    # by simulation of the model itself: rows that the noise sends to i, and where else to
    rng = np.random.default_rng(0)
    noise = rng.gumbel(size=(200_000, 4))
    first, second = (np.log(v) + noise for v in (p, q))
    first, second = first.argmax(1), second.argmax(1)
    for i, j in product(range(4), range(4)):
        wanted, share = (second[first == i] == j).mean(), (after[i] == j).mean()
        error = math.sqrt(wanted * (1 - wanted) * (1 / n + 1 / (first == i).sum()))
        assert abs(share - wanted) <= FIVE * error + 1e-12
