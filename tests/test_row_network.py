"""The parts of the row network: features of cells, heads, and tracing."""

import math

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from probgen.columns import Slot
from probgen.nn import Cells, RowNetwork
from probgen.nn.cells import WIDEST, quantiles
from probgen.nn.heads import CategoryHead, CountHead, RealHead
from probgen.nn.rows import by_rank
from probgen.session import guarded

SLOTS = (
    Slot("a", 0, "real"),
    Slot("b", 1, "category", 2),
    Slot("c", 2, "category", 500, reserved=True),
    Slot("d", 3, "category", 4, ordered=True),
    Slot("e", 4, "count"),
)


def rows(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.stack([
        torch.randn(n, generator=g), torch.randint(2, (n,), generator=g),
        torch.randint(499, (n,), generator=g), torch.randint(4, (n,), generator=g),
        torch.randint(9, (n,), generator=g),
    ], 1).double()  # fmt: skip
    return x, torch.ones_like(x, dtype=torch.bool)


def network() -> RowNetwork:
    with guarded(0):
        net = RowNetwork(SLOTS, hidden=16, layers=1, parts=4)
        net.start(*rows(), torch.ones(60))
    return net


def test_unseen_cells_are_zeros_and_the_reserved_level_reads_so():
    x, seen = rows()
    net = network()
    cells = net.cells
    assert cells.widths == [2, 2, WIDEST, 5, 2]
    assert not bool(cells(x, ~seen).any())
    features = cells(x, seen).detach()
    assert features.shape == (60, cells.width) and float(features.abs().max()) < 10
    x[:, 2] = 499.0
    assert not bool(cells(x, seen)[:, cells.owner == 2].any())


def test_wild_values_have_features_of_moderate_size():
    cells = network().cells
    x, seen = rows(2)
    x[:, 0], x[:, 4] = 1e12, 1e15
    assert float(cells(x, seen).detach().abs().max()) < 60


def test_weights_are_frequencies_in_the_start():
    x, seen = rows()
    weight = torch.arange(60).remainder(3).double()
    again = x.repeat_interleave(weight.long(), 0)
    one, two = Cells(SLOTS), Cells(SLOTS)
    one.start(x, seen, weight)
    two.start(again, torch.ones_like(again, dtype=torch.bool), torch.ones(len(again)))
    assert torch.allclose(one.scale, two.scale, rtol=1e-12)
    assert torch.allclose(one.centre, two.centre, rtol=1e-12)
    level = torch.tensor([0.5], dtype=torch.float64)
    seen[::2, 0] = False
    found = quantiles(x, seen, torch.ones(60).double(), level)[0]
    assert float(found) == float(x[1::2, 0].sort()[0][14])


def test_the_start_is_the_marginals():
    x, seen = rows(4000)
    with guarded(0):
        net = RowNetwork(SLOTS, hidden=16)
        net.start(x, seen, torch.ones(4000))
    with torch.no_grad():
        value = net.log_probs(x, seen, torch.arange(5)).mean(0)
    assert float(value[0]) == pytest.approx(-0.5 * math.log(2 * math.pi * math.e), abs=0.03)
    assert float(value[1]) == pytest.approx(-math.log(2), abs=0.01)
    assert float(value[3]) == pytest.approx(-math.log(4), abs=0.01)
    assert float(value[4]) == pytest.approx(-math.log(9), abs=0.15)  # cells of smooth parts


def test_the_reserved_level_keeps_a_small_mass():
    head = CategoryHead(SLOTS, [2])
    x, seen = rows(2000)
    start = head.start(x[:, 2:3], seen[:, 2:3], torch.ones(2000).double())
    codes = torch.arange(500).double()[:, None]
    p = head.log_prob(start.expand(500, 1, -1), codes).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    assert 0 < float(p[-1]) < 1e-3


@pytest.mark.parametrize("kind", [RealHead, CountHead])
def test_mixtures_draw_what_they_score(kind):
    head = kind([0], 3)
    g = torch.Generator().manual_seed(1)
    base = torch.randn(400, 1, generator=g, dtype=torch.float64)
    x = base if kind is RealHead else (2 + base).exp().floor()
    out = head.start(x, torch.ones_like(x, dtype=torch.bool), torch.ones(400).double())
    n = 20_000
    drawn = head.draw(out.expand(n, -1), 0, g)
    score = head.log_prob(out.expand(n, 1, -1), drawn[:, None])[:, 0]
    if kind is RealHead:
        grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
        p = head.log_prob(out.expand(4001, 1, -1), grid[:, None])[:, 0]
        entropy = -(p.exp() * p).sum() * (grid[1] - grid[0])
    else:
        grid = torch.arange(20_000, dtype=torch.float64)
        p = head.log_prob(out.expand(20_000, 1, -1), grid[:, None])[:, 0]
        entropy = -(p.exp() * p).sum()
    assert float(score.mean() + entropy) == pytest.approx(0, abs=4 * float(score.std()) / n**0.5)


def test_by_rank_moves_slots_and_keeps_the_order_among_them():
    order = torch.tensor([3, 1, 0, 2])
    rank = torch.tensor([[0, 2, 1, 0], [0, 0, 0, 0]])
    assert by_rank(order, rank).tolist() == [[3, 0, 2, 1], [3, 1, 0, 2]]


def test_log_probs_can_be_traced():
    x, seen = rows()
    net = network().float()
    x = x.float()

    def total(x: torch.Tensor) -> torch.Tensor:
        order = torch.rand(2, 5).argsort(-1)
        return net.log_probs(x, seen, order).sum()

    graph = make_fx(total, tracing_mode="fake", _allow_non_fake_inputs=True)(x)
    assert torch.isfinite(graph(x))


def test_context_moves_every_cell():
    with guarded(0):
        net = RowNetwork(SLOTS, context=2, hidden=16)
        net.start(*rows(), torch.ones(60))
        net.last.data = torch.randn_like(net.last)
    x, seen = rows()
    context = torch.randn(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = net.log_probs(x, seen, torch.arange(5), context)
    two = net.log_probs(x, seen, torch.arange(5), context + 1)
    assert bool(((one - two).abs().mean(0) > 1e-6).all())
