"""The any-order network against sums over all rows, quadrature, and known truths."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import probgen as pg
from probgen.batch import Batch
from probgen.columns import Slot
from probgen.families.autoregressive import AnyOrder
from probgen.nn.rows import places, tied_order
from probgen.session import guarded

SMALL = (
    Slot("a", 0, "category", 2),
    Slot("b", 1, "category", 4, reserved=True),
    Slot("c", 2, "category", 5, ordered=True, reserved=True),
    Slot("d", 3, "category", 2),
)
MIXED = (
    Slot("a", 0, "category", 3),
    Slot("s[atom]", 1, "category", 2),
    Slot("s", 1, "real"),
    Slot("n", 2, "count"),
)


def network(slots: tuple[Slot, ...], rows: torch.Tensor, seen: torch.Tensor) -> AnyOrder:
    """A network with weights far from independence."""
    with guarded(0):
        family = AnyOrder(SimpleNamespace(slots=slots, context_slots=()), 24, 2, 0.1, 3, 3)
        family.start(Batch.of(rows, seen), torch.Generator())
        for weight in (family.net.last, family.net.direct):
            weight.data = 0.5 * torch.randn_like(weight)
    return family.eval()


def small() -> tuple[AnyOrder, torch.Tensor]:
    """A network over categories, and all rows that there are."""
    rows = torch.tensor(list(itertools.product(*(range(s.size) for s in SMALL)))).double()
    drawn = rows[(rows[:, 1] < 3) & (rows[:, 2] < 4)]
    return network(SMALL, drawn, torch.ones_like(drawn, dtype=torch.bool)), rows


def mixed_rows(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    spike = rng.integers(0, 2, n)
    x = np.stack([rng.integers(0, 3, n), spike, rng.normal(size=n) * (spike == 0),
                  rng.poisson(3, n)], 1)  # fmt: skip
    seen = np.ones_like(x, dtype=bool)
    seen[:, 2] = spike == 0
    return torch.from_numpy(x.astype(float)), torch.from_numpy(seen)


def test_every_order_sums_to_one():
    family, rows = small()
    seen = torch.ones_like(rows, dtype=torch.bool)
    for order in itertools.permutations(range(4)):
        total = family.net.log_probs(rows, seen, torch.tensor(order)).sum(1).exp().sum().detach()
        assert abs(float(total) - 1) < 1e-12


def test_every_pattern_of_holes_sums_to_one():
    family, rows = small()
    for pattern in itertools.product([False, True], repeat=4):
        seen = torch.tensor(pattern).expand(len(rows), 4)
        x = torch.where(seen, rows, 0.0)
        first = torch.unique(x, dim=0)
        batch = Batch.of(first, seen[: len(first)])
        total = family.exact_log_prob(batch, None).exp().sum().detach()
        assert abs(float(total) - 1) < 1e-12


def test_a_cell_reads_only_the_cells_before_it():
    family, rows = small()
    seen = torch.ones_like(rows, dtype=torch.bool)
    order = torch.tensor([2, 0, 3, 1])
    before = family.net.log_probs(rows, seen, order)
    for turn in range(4):
        moved = rows.clone()
        moved[:, order[turn + 1 :]] = 0.0
        after = family.net.log_probs(moved, seen, order)
        assert torch.equal(after[:, order[: turn + 1]], before[:, order[: turn + 1]])


def test_orders_by_row_equal_one_order():
    x, seen = mixed_rows(50)
    net = network(MIXED, x, seen).net
    order = tied_order(MIXED, torch.tensor([0.5, 0.1, 0.9]))
    one = net.log_probs(x, seen, order)
    many = net.log_probs_by_row(x, seen, places(order).expand(50, 4))
    assert torch.allclose(one, many, atol=1e-12)
    runs = net.log_probs(x, seen, torch.stack([order, order.flip(0)]))
    assert torch.allclose(runs[:25], one[:25], atol=1e-12)
    assert not torch.allclose(runs[25:], one[25:], atol=1e-2)


def test_an_atom_comes_before_its_number_in_every_order():
    order = tied_order(MIXED, torch.rand(200, 3, generator=torch.Generator().manual_seed(0)))
    turn = places(order)
    assert bool((turn[:, 2] == turn[:, 1] + 1).all())


def test_a_mixed_table_has_mass_one():
    x, seen = mixed_rows(200)
    family = network(MIXED, x, seen)
    real = torch.linspace(-60, 60, 4001, dtype=torch.float64)
    total = 0.0
    for a, n in itertools.product(range(3), range(400)):
        if n > 40 and n % 40:
            continue
        values = torch.zeros(len(real) + 1, 4, dtype=torch.float64)
        values[:, 0], values[:, 3] = a, n
        values[:-1, 2], values[-1, 1] = real, 1
        on = torch.ones_like(values, dtype=torch.bool)
        on[-1, 2] = False
        p = family.exact_log_prob(Batch.of(values, on), None).exp().detach()
        own = float(p[:-1].sum() * (real[1] - real[0]) + p[-1])
        total += own * (1 if n < 40 else 20 if n == 40 else 40)  # trapezoids in the tail
    assert abs(total - 1) < 0.01


def test_counts_of_any_size_lose_no_digits():
    slots = (Slot("n", 0, "count"),)
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(np.floor(np.exp(rng.normal(15, 3, 500)))[:, None])
    family = network(slots, rows, torch.ones_like(rows, dtype=torch.bool))
    start = 150_000_000.0
    cells = start + torch.arange(2000, dtype=torch.float64)[:, None]
    found = family.exact_log_prob(Batch.of(cells), None)
    steps = found.diff()
    assert float(steps.abs().max()) < 1e-7  # a smooth tail: no cell is off
    assert float((steps.diff()).abs().max()) < 1e-11
    head = torch.arange(200_000, dtype=torch.float64)[:, None]
    tail = 10.0 ** torch.linspace(5.30103, 17, 20_000, dtype=torch.float64).floor()
    assert 0 < float(family.exact_log_prob(Batch.of(head), None).exp().sum()) < 1
    assert bool(torch.isfinite(family.exact_log_prob(Batch.of(tail[:, None]), None)).all())


def test_draws_agree_with_the_density():
    family, rows = small()
    n = 40_000
    empty = Batch.of(torch.zeros(n, 4).double(), torch.zeros(n, 4, dtype=torch.bool))
    drawn = family.complete(empty, torch.Generator().manual_seed(1))
    legal = rows[(rows[:, 1] < 3) & (rows[:, 2] < 4)]
    p = family.exact_log_prob(Batch.of(legal), None).exp()
    code = (drawn * torch.tensor([40.0, 10.0, 2.0, 1.0])).sum(1)
    wanted = (legal * torch.tensor([40.0, 10.0, 2.0, 1.0])).sum(1)
    share = (code[:, None] == wanted).double().mean(0)
    z = (share - p / p.sum()) / (p / n).sqrt()
    assert float(z.abs().max()) < 4.5


@pytest.mark.parametrize("alike", [True, False])
def test_completions_agree_with_the_conditional(alike):
    family, _ = small()
    n = 30_000
    x = torch.tensor([1.0, 2.0, 0.0, 0.0]).double().repeat(n, 1)
    seen = torch.tensor([True, True, False, False]).repeat(n, 1)
    if not alike:  # other rows, each with holes of its own, take the path of a pass a hole
        seen = torch.cat([seen, torch.rand(64, 4) < 0.5])
        x = torch.cat([x, torch.zeros(64, 4).double()])
    order = family.orders[0]
    draw = family.net.draw if alike else family.net._draw_apart
    extra = (None, torch.Generator().manual_seed(2))
    drawn = draw(x.clone(), seen.clone(), order, *extra)[:n]
    family.orders = order[None]
    grid = torch.tensor(list(itertools.product([1], [2], range(4), range(2)))).double()
    given = Batch.of(grid, torch.tensor([True, True, False, False]).repeat(len(grid), 1))
    p = family.estimate_given(Batch.of(grid), given)[0].exp()
    share = (drawn[:, None, 2:] == grid[:, 2:]).all(-1).double().mean(0)
    z = (share - p / p.sum()) / (p / n).sqrt()
    assert float(z.abs().max()) < 4.5


@pytest.fixture(scope="module")
def truth() -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """All rows of five bits, their probabilities, and a table drawn from them."""
    rng = np.random.default_rng(3)
    rows = np.array(list(itertools.product([0, 1], repeat=5)))
    p = rng.dirichlet(np.full(32, 0.5))
    drawn = rows[rng.choice(32, 4000, p=p)].astype(bool)
    return rows, p, pd.DataFrame(drawn, columns=list("abcde"))


@pytest.fixture(scope="module")
def fitted(truth) -> pg.Autoregressive:
    return pg.Autoregressive(hidden=64, max_epochs=100, random_state=0).fit(truth[2])


def test_any_marginal_and_conditional_of_a_known_table(truth, fitted):
    rows, p, table = truth
    frame = pd.DataFrame(rows.astype(bool), columns=table.columns)
    kl = float((p * (np.log(p) - fitted.log_prob(frame))).sum())
    assert kl < 0.02  # 31 free numbers from 4,000 rows cost 0.004
    found = fitted.log_prob(frame[["b", "d"]])
    # the table's own shares are off by 0.006 and 0.016
    for known, asked, most in ((["b"], ["d"], 0.02), (["a", "e"], ["c", "b"], 0.06)):
        group = frame.assign(p=p).groupby(known + asked)["p"].transform("sum")
        below = frame.assign(p=p).groupby(known)["p"].transform("sum")
        value = fitted.log_prob(frame[asked], given=frame[known])
        gap = np.abs(np.exp(value) - group / below)
        assert float((p * gap).sum()) < most
    sums = np.exp(found.groupby([frame.b, frame.d]).first()).sum()
    assert abs(sums - 1) < 1e-9


def test_orders_agree_within_the_stated_spread(truth, fitted):
    table = truth[2].head(500)
    joint = fitted.log_prob(table, details=True)
    assert (joint["method"] == "orders").all()
    assert (joint["se"] > 0).all() and joint["ess"].mean() > 7
    part = fitted.log_prob(table[["a", "c"]], details=True)
    rest = fitted.log_prob(table[["b", "d", "e"]], given=table[["a", "c"]], details=True)
    off = joint["log_prob"] - part["log_prob"] - rest["log_prob"]
    error = np.sqrt(joint["se"] ** 2 + part["se"] ** 2 + rest["se"] ** 2)
    # the joint's own orders mix both parts: the spread is of the size of what is off
    assert math.sqrt((off**2).mean()) < 4 * math.sqrt((error**2).mean())


def test_holes_are_masked():
    rng = np.random.default_rng(5)
    n = 800
    a = rng.normal(size=n)
    table = pd.DataFrame({"a": a, "b": a + 0.3 * rng.normal(size=n)})
    table.loc[rng.random(n) < 0.3, "b"] = np.nan
    model = pg.Autoregressive(hidden=32, noise=0.0, max_epochs=40, random_state=0).fit(table)
    assert not model.members_[0].coherent and model.members_[0].holes == "masked"
    empty = pd.DataFrame({"a": [np.nan, 0.0], "b": [np.nan, np.nan]})
    value = model.log_prob(empty)
    assert value[0] == 0
    assert value[1] == pytest.approx(model.log_prob(empty[["a"]])[1], abs=1e-12)
    assert value[1] == pytest.approx(-0.5 * math.log(2 * math.pi), abs=0.2)
    given = model.log_prob(pd.DataFrame({"b": [1.0]}), given={"a": 1.0})
    assert given[0] == pytest.approx(-math.log(0.3 * math.sqrt(2 * math.pi)), abs=0.3)


def test_few_rows_end_near_independent_columns():
    rng = np.random.default_rng(6)
    table = pd.DataFrame(rng.normal(size=(200, 6)), columns=list("abcdef"))
    fresh = pd.DataFrame(rng.normal(size=(2000, 6)), columns=list("abcdef"))
    model = pg.Autoregressive(noise=0.0, random_state=0).fit(table)
    floor = pg.Independent(random_state=0).fit(table)
    assert model.score(fresh) > floor.score(fresh) - 0.3


def test_conditionals_of_one_cell_are_those_of_the_density():
    rng = np.random.default_rng(7)
    n = 600
    a = rng.normal(size=n)
    table = pd.DataFrame({
        "a": a,
        "label": np.where(a + rng.normal(size=n) > 0, "x", rng.choice(list("yz"), n)),
        "count": rng.poisson(np.exp(1 + 0.5 * a)),
        "spike": np.where(rng.random(n) < 0.4, 0.0, a + rng.normal(size=n)),
    })  # fmt: skip
    settings = {"hidden": 32, "noise": 0.0, "max_epochs": 30, "random_state": 0}
    model = pg.Autoregressive(**settings).fit(table)
    row = table.head(1)
    known = row.drop(columns="label")
    levels = pd.DataFrame({"label": list("xyz")})
    p = model.log_prob(levels, given=known.iloc[[0, 0, 0]].reset_index(drop=True))
    assert model.impute(row.assign(label=None))["label"][0] == levels["label"][p.argmax()]
    for name in ("a", "count", "spike"):
        hidden = row.assign(**{name: np.nan})
        many = pd.concat([hidden] * 4000, ignore_index=True)
        drawn = model.impute(many, draws=1, random_state=0)[0][name].to_numpy(float)
        centre = float(model.impute(hidden, centre="mean")[name][0])
        se = drawn.std() / math.sqrt(len(drawn))
        # counts are rounded, and summed up by quantiles
        assert abs(drawn.mean() - centre) < 4 * se + (0.6 if name == "count" else 0)
