"""Exact inference in discrete networks against enumeration of all states."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probgen.elimination import contraction, groups, plans, sums
from probgen.elimination import network as network_module
from probgen.elimination.factors import Factor, evidence, sliced
from probgen.elimination.groups import distinct, grouped, patterns
from probgen.elimination.network import DiscreteNetwork
from probgen.elimination.plans import plan
from probgen.elimination.pruning import requisite
from probgen.elimination.states import draw, maximise
from probgen.elimination.sums import log_sum, marginals
from probgen.errors import NotSupported, SchemaError
from probgen.graphs.dag import Dag

CLOSE = dict(rtol=1e-10, atol=1e-12)


@dataclass
class Case:
    """A random network, rows with hidden cells, and all its states with their probabilities."""

    network: DiscreteNetwork
    codes: Tensor
    seen: Tensor
    states: Tensor
    joint: Tensor

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.network.sizes

    @property
    def d(self) -> int:
        return len(self.sizes)

    def weights(self, row: int) -> Tensor:
        """The joint probability of each state, 0 where it contradicts the row."""
        own = self.seen[row]
        return self.joint * (self.states[:, own] == self.codes[row, own]).all(1)

    def marginal(self, row: int, variable: int) -> Tensor:
        weights = self.weights(row)
        total = weights.sum()
        sums = torch.zeros(self.sizes[variable], dtype=torch.float64)
        sums.index_add_(0, self.states[:, variable], weights)
        return sums / total if total > 0 else sums


def tables_of(dag: Dag, sizes: list[int], rng: np.random.Generator, zeros: float) -> list[Tensor]:
    found = []
    for node, own in enumerate(dag.parents):
        table = rng.gamma(1.0, size=(sizes[node], *(sizes[p] for p in own)))
        table[rng.random(table.shape) < zeros] = 0.0
        table[0] += table.sum(0) == 0
        found.append(torch.from_numpy(table / table.sum(0)))
    return found


def case(
    seed: int, d: int = 6, n: int = 12, density: float = 0.4, zeros: float = 0.15,
    hidden: float = 0.5,
) -> Case:  # fmt: skip
    """Rows whose seen cells are any states: some cannot be, where tables have zeros."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(d)
    edges = [(int(order[i]), int(order[j])) for j in range(d) for i in range(j)
             if rng.random() < density]  # fmt: skip
    dag, sizes = Dag.of(d, edges), rng.integers(1, 4, d).tolist()
    tables = tables_of(dag, sizes, rng, zeros)
    states = torch.tensor(list(itertools.product(*(range(size) for size in sizes))))
    joint = torch.ones(len(states), dtype=torch.float64)
    for node, own in enumerate(dag.parents):
        joint = joint * tables[node][tuple(states[:, v] for v in (node, *own))]
    seen = torch.from_numpy(rng.random((n, d)) >= hidden)
    codes = states[torch.from_numpy(rng.integers(len(states), size=n))]
    return Case(
        DiscreteNetwork(dag, tables), torch.where(seen, codes, -1), seen, states, joint
    )  # fmt: skip


def relevant(x: Case, row: int) -> Tensor:
    return x.weights(row).sum()


@pytest.fixture(params=["one by one", "together", "default"])
def grouping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Patterns of seen cells in groups of their own, in one group, or as it pays."""
    seconds = {"one by one": 0.0, "together": 1e9, "default": groups.GROUP_SECONDS}
    monkeypatch.setattr(groups, "GROUP_SECONDS", seconds[request.param])
    return request.param


@pytest.mark.parametrize("seed", range(12))
def test_every_answer_is_that_of_enumeration(seed, grouping, monkeypatch):
    monkeypatch.setattr(plans, "WIDEST", 8 * (1 + 40 * (seed % 3)))  # chunks of a row and more
    monkeypatch.setattr(contraction, "LARGE", (1, 10**5)[seed % 2])
    x = case(seed, d=2 + seed % 5, hidden=(0.2, 0.5, 0.9)[seed % 3])
    network, n = x.network, len(x.codes)
    if grouping == "together":
        assert len(network._groups(x.seen)) == 1
    evidence_ = network.log_evidence(x.codes, x.seen)
    every = network.marginals(x.codes, x.seen)
    value, best = network.maximise(x.codes, x.seen)
    states = network.draw(x.codes, x.seen, torch.Generator().manual_seed(seed))
    single = [network.posterior(x.codes, x.seen, v) for v in range(x.d)]
    for row in range(n):
        weights = x.weights(row)
        z, own = weights.sum(), x.seen[row]
        torch.testing.assert_close(evidence_[row].exp(), z, **CLOSE)
        torch.testing.assert_close(value[row].exp(), weights.max(), **CLOSE)
        for v in range(x.d):
            torch.testing.assert_close(every[v][row], x.marginal(row, v), **CLOSE)
            if z > 0:
                torch.testing.assert_close(single[v][row], x.marginal(row, v), **CLOSE)
        for found in (best[row], states[row]):
            assert (found[own] == x.codes[row, own]).all()
            assert (found[~own] == -1).all() or z > 0
        if z > 0:
            assert network.log_prob(states[row : row + 1]) > -math.inf
            torch.testing.assert_close(
                network.log_prob(best[row : row + 1])[0], value[row], **CLOSE
            )


def test_the_cases_hold_impossible_rows_and_sizes_of_one():
    found = [case(seed, d=2 + seed % 5, hidden=(0.2, 0.5, 0.9)[seed % 3]) for seed in range(12)]
    assert any(relevant(x, row) == 0 for x in found for row in range(len(x.codes)))
    assert any(size == 1 for x in found for size in x.sizes)
    assert any(not x.network.dag.edges for x in found) or any(
        len(x.network.dag.ancestors([0]) | x.network.dag.descendants([0])) < x.d for x in found
    )


@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_evidence_and_marginals_of_any_network(seed, d, density, hidden):
    x = case(seed, d, 4, density, 0.2, hidden)
    logs = x.network.log_evidence(x.codes, x.seen)
    every = x.network.marginals(x.codes, x.seen)
    assert not torch.isnan(logs).any()
    for row in range(len(x.codes)):
        torch.testing.assert_close(logs[row].exp(), x.weights(row).sum(), **CLOSE)
        for v in range(d):
            torch.testing.assert_close(every[v][row], x.marginal(row, v), **CLOSE)


@pytest.mark.parametrize("zeros", [0.0, 0.2])
def test_the_gradient_by_a_table_is_its_expected_counts(zeros, grouping):
    x = case(3, n=30, zeros=zeros)
    tables = [table.clone().requires_grad_() for table in x.network.tables]
    logs = DiscreteNetwork(x.network.dag, tables).log_evidence(x.codes, x.seen)
    possible = logs > -math.inf
    assert possible.sum() > 5
    logs[possible].sum().backward()
    for node, own in enumerate(x.network.dag.parents):
        wanted = torch.zeros_like(tables[node])
        for row in possible.nonzero()[:, 0].tolist():
            weights = x.weights(row)
            family = tuple(x.states[:, v] for v in (node, *own))
            wanted.index_put_(family, weights / weights.sum(), accumulate=True)
        found = tables[node].detach() * tables[node].grad
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


def test_gradients_do_not_keep_every_chunk_of_a_long_table(monkeypatch):
    x = case(4, n=40)
    found = []
    for retained in (0, 1e9):
        monkeypatch.setattr(sums, "RETAINED", retained)
        monkeypatch.setattr(plans, "WIDEST", 64)
        tables = [table.clone().requires_grad_() for table in x.network.tables]
        logs = DiscreteNetwork(x.network.dag, tables).log_evidence(x.codes, x.seen)
        logs[logs > -math.inf].sum().backward()
        found.append([table.grad for table in tables])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_posteriors_and_marginals_are_differentiable():
    x = case(5, d=4, n=3, zeros=0.0)
    pattern = x.seen.clone()
    pattern[:, 0] = False

    def answers(*tables: Tensor) -> tuple[Tensor, ...]:
        network = DiscreteNetwork(x.network.dag, tables)
        codes = torch.where(pattern, x.codes.clamp(min=0), -1)
        return network.posterior(codes, pattern, 0), network.marginals(codes, pattern)[0]

    tables = [table.clone().requires_grad_() for table in x.network.tables]
    assert torch.autograd.gradcheck(answers, tables)


@pytest.mark.parametrize("together", [0, math.inf])
def test_draws_have_the_frequencies_of_the_posterior(together, monkeypatch):
    monkeypatch.setattr(network_module, "TOGETHER", together)
    x = case(6, n=1, zeros=0.0, density=0.6, hidden=0.7)
    n = 20_000
    weights = x.weights(0) / x.weights(0).sum()
    mixed = torch.cat([x.codes, torch.full_like(x.codes, -1)]).repeat(n, 1)
    rows = x.network.draw(mixed, mixed >= 0, torch.Generator().manual_seed(0))
    radix = torch.tensor([math.prod(x.sizes[v + 1 :]) for v in range(x.d)])
    for part, wanted in ((rows[0::2], weights), (rows[1::2], x.joint)):
        share = torch.bincount((part * radix).sum(1), minlength=len(x.states)) / n
        error = (wanted * (1 - wanted) / n).sqrt()
        # rare states by the sum of their squared errors, as many as there are degrees of freedom
        common = wanted > 10 / n
        assert common.sum() > 20
        assert ((share - wanted).abs() <= 4.5 * error)[common].all()
        chi = ((share - wanted) ** 2 / wanted)[common].sum() * n
        assert abs(chi - common.sum()) < 4 * (2 * common.sum()).sqrt()


def test_a_row_does_not_depend_on_the_others(grouping):
    x = case(7, n=60, zeros=0.05)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))

    def answers(codes: Tensor, seen: Tensor) -> list[Tensor]:
        every = x.network.marginals(codes, seen)
        return [
            x.network.log_evidence(codes, seen), x.network.posterior(codes, seen, 1),
            *(every[v] for v in range(x.d)), *x.network.maximise(codes, seen),
        ]  # fmt: skip

    whole = answers(x.codes, x.seen)
    for one, other in zip(whole, answers(x.codes[order], x.seen[order]), strict=True):
        torch.testing.assert_close(one[order], other, rtol=1e-12, atol=0)
    for row in range(0, 60, 7):
        alone = answers(x.codes[row : row + 1], x.seen[row : row + 1])
        for one, other in zip(whole, alone, strict=True):
            torch.testing.assert_close(one[row : row + 1], other, rtol=1e-12, atol=0)


@pytest.mark.parametrize("together", [0, math.inf])
def test_a_draw_depends_on_the_row_and_its_place_only(together, monkeypatch):
    monkeypatch.setattr(network_module, "TOGETHER", together)
    x = case(8, n=40, zeros=0.0)
    seen = x.seen.clone()
    seen[3] = False
    whole = x.network.draw(x.codes, seen, torch.Generator().manual_seed(1))
    seen[20:] = seen[20:].flip(0)
    codes = torch.where(seen, x.codes.clamp(min=0), -1)
    other = x.network.draw(codes, seen, torch.Generator().manual_seed(1))
    assert (whole[:20] == other[:20]).all()


def test_nothing_seen_everything_seen_and_no_rows():
    x = case(9)
    hidden = torch.zeros(2, x.d, dtype=torch.bool)
    codes = torch.full((2, x.d), -1)
    torch.testing.assert_close(x.network.log_evidence(codes, hidden).exp(), torch.ones(2).double())
    value, best = x.network.maximise(codes, hidden)
    assert (x.states[x.joint.argmax()] == best).all()
    torch.testing.assert_close(value.exp(), x.joint.max().expand(2))
    complete = x.network.log_evidence(x.states, torch.ones_like(x.states, dtype=torch.bool))
    torch.testing.assert_close(complete.exp(), x.joint, **CLOSE)
    torch.testing.assert_close(x.network.log_prob(x.states).exp(), x.joint, **CLOSE)
    none = codes[:0], hidden[:0]
    assert x.network.log_evidence(*none).shape == (0,)
    assert x.network.posterior(*none, 0).shape == (0, x.sizes[0])
    assert x.network.marginals(*none)[1].shape == (0, x.sizes[1])
    assert x.network.maximise(*none)[1].shape == (0, x.d)
    assert x.network.draw(*none, torch.Generator()).shape == (0, x.d)


def chain(length: int, noise: float) -> DiscreteNetwork:
    """A chain of bits, each turned with a small probability, and a reading of each."""
    flip = torch.tensor([[1 - noise, noise], [noise, 1 - noise]], dtype=torch.float64)
    dag = Dag(((), *((i,) for i in range(length - 1)), *((i,) for i in range(length))))
    return DiscreteNetwork(dag, [torch.tensor([0.5, 0.5]).double(), *[flip] * (2 * length - 1)])


def test_no_underflow_however_improbable_the_evidence():
    """Readings that alternate cost a factor of 1e-12 each second step: 1e-800 in all."""
    length, noise = 140, 1e-12
    network = chain(length, noise)
    seen = (torch.arange(2 * length) >= length).expand(3, -1)
    codes = torch.full((3, 2 * length), -1)
    codes[0, length:] = torch.arange(length) % 2
    codes[1, length:] = 0
    codes[2, length:] = torch.arange(length) // 2 % 2
    logs = network.log_evidence(codes, seen)
    forward = torch.zeros(3, 2, dtype=torch.float64)  # by logarithms throughout
    log_flip = torch.tensor([[1 - noise, noise], [noise, 1 - noise]], dtype=torch.float64).log()
    for i in range(length):
        if i:
            forward = torch.logsumexp(forward[:, :, None] + log_flip, 1)
        forward = forward + log_flip[:, codes[:, length + i]].T
    wanted = torch.logsumexp(forward, 1) - math.log(2)
    assert wanted[0] < -1800 and wanted[1] > -2
    torch.testing.assert_close(logs, wanted, rtol=1e-12, atol=1e-9)
    every = network.marginals(codes, seen)
    torch.testing.assert_close(
        network.posterior(codes, seen, length // 2), every[length // 2], rtol=1e-9, atol=1e-12
    )
    end = torch.softmax(forward, 1)
    torch.testing.assert_close(every[length - 1], end, rtol=1e-9, atol=1e-12)
    states = network.draw(codes, seen, torch.Generator().manual_seed(0))
    assert (states >= 0).all() and (network.log_prob(states) > -2 * 28 * length).all()
    assert (network.maximise(codes, seen)[0] > -math.inf).all()
    tables = [table.clone().requires_grad_() for table in network.tables]
    DiscreteNetwork(network.dag, tables).log_evidence(codes, seen).sum().backward()
    count = sum(float((table.detach() * table.grad).sum()) for table in tables)
    assert count == pytest.approx(3 * 2 * length, rel=1e-9)  # a cell of each table a row


def test_factors_may_be_densities_and_have_scales():
    values = torch.tensor([[1e-5, 1e305], [0.0, 0.0], [2.0, 3.0]], dtype=torch.float64)
    scale = torch.tensor([-1000.0, 0.0, 5.0], dtype=torch.float64)
    shared = torch.tensor([[1e200, 0.0], [3e200, 1e-300]], dtype=torch.float64)
    factors = [
        Factor((0,), values, True, scale), Factor((0, 1), shared, False),
        Factor((), torch.tensor(0.5, dtype=torch.float64), False),
        Factor((), torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64), True, scale),
    ]  # fmt: skip
    logs = (values[:, :, None].log() + shared.log()).flatten(1)
    wanted = torch.logsumexp(logs, 1) + 2 * scale + torch.tensor([0.5, 0.5, 1.0]).double().log()
    torch.testing.assert_close(log_sum(factors, [2, 2], 3), wanted, rtol=1e-12, atol=1e-12)
    posterior = marginals(factors, [2, 2], 3, [1])[1]
    torch.testing.assert_close(posterior.sum(1), torch.tensor([1.0, 0.0, 1.0]).double())
    rest = log_sum([Factor((0,), values, True), Factor.of_log((0,), values.log())], [2, 2], 3)
    torch.testing.assert_close(rest[2], torch.tensor(13.0).double().log())
    assert rest[1] == -math.inf


def test_variables_that_stay_and_variables_without_factor():
    x = case(10, d=5, n=6, zeros=0.0)
    factors = sliced(x.network.dag.parents, x.network.tables, x.codes, [False] * 5)
    factors += evidence(x.codes, x.sizes, range(5))
    for out in ((), (3,), (4, 1), (0, 2, 3)):
        found = log_sum(factors, x.sizes, 6, out)
        assert found.shape == (6, *(x.sizes[v] for v in out))
        for row in range(6):
            wanted = torch.zeros([x.sizes[v] for v in out], dtype=torch.float64)
            place = tuple(x.states[:, v] for v in out)
            weights = x.weights(row)
            wanted = wanted.index_put(place, weights, accumulate=True) if out else weights.sum()
            torch.testing.assert_close(found[row].exp(), wanted, **CLOSE)
    free = log_sum(factors, (*x.sizes, 3), 6, (5,))
    torch.testing.assert_close(free, log_sum(factors, x.sizes, 6)[:, None].expand(6, 3))
    torch.testing.assert_close(
        marginals(factors, (*x.sizes, 4), 6, [5])[5], torch.full((6, 4), 0.25).double()
    )
    assert log_sum([], [2], 3).tolist() == [0, 0, 0]


def test_ties_go_to_the_lowest_code():
    dag = Dag.of(3, [(0, 1), (1, 2)])
    even = [torch.full((3,), 1 / 3), torch.full((3, 3), 1 / 3), torch.full((3, 3), 1 / 3)]
    network = DiscreteNetwork(dag, [table.double() for table in even])
    codes = torch.tensor([[-1, -1, -1], [-1, 2, -1]])
    assert network.maximise(codes, codes >= 0)[1].tolist() == [[0, 0, 0], [0, 2, 0]]


def test_draws_and_maxima_of_factors_without_a_network():
    uneven = Factor((2,), torch.tensor([[0.0, 3.0], [0.0, 0.0]]).double(), True)
    assert draw([uneven], [1, 1, 2], 2, torch.Generator())[2].tolist() == [1, -1]
    value, states = maximise([uneven], [1, 1, 2], 2)
    assert states[2].tolist() == [1, -1] and value[1] == -math.inf
    assert float(value[0].exp()) == pytest.approx(3)


def test_too_wide_a_network_is_refused_with_what_it_would_take():
    """A grid of 40 x 40 bits: 2^40 states at its narrowest."""
    side = 40
    edges = [(i * side + j, (i + a) * side + j + 1 - a) for i in range(side) for j in range(side)
             for a in (0, 1) if i + a < side and j + 1 - a < side]  # fmt: skip
    scopes = tuple((a, b) for a, b in edges)
    wide = plan(scopes, (False,) * len(scopes), (2,) * side**2, (), True)
    with pytest.raises(NotSupported, match=r"treewidth \d\d.*GiB a row.*importance sampling"):
        wide.check()
    small = case(11, density=0.9, zeros=0.0)
    network = DiscreteNetwork(small.network.dag, small.network.tables, limit=8)
    with pytest.raises(NotSupported, match="at most"):
        network.log_evidence(small.codes, small.seen)
    for call in (network.marginals, network.maximise):
        with pytest.raises(NotSupported, match="GiB a row"):
            call(small.codes, small.seen)


def test_tables_that_do_not_fit_the_graph_are_refused():
    with pytest.raises(SchemaError, match="parents"):
        DiscreteNetwork(Dag.of(2, [(0, 1)]), [torch.ones(2) / 2, torch.ones(2) / 2])


def test_patterns_and_groups_hold_every_row_once():
    seen = torch.from_numpy(np.random.default_rng(0).random((200, 7)) < 0.5)
    found = patterns(seen)
    assert sorted(torch.cat([rows for _, rows in found]).tolist()) == list(range(200))
    assert all((seen[rows] == torch.tensor(pattern)).all() for pattern, rows in found)
    assert len(found) == len(np.unique(seen.numpy(), axis=0))

    def work(always: tuple[bool, ...], mixed: tuple[int, ...]) -> float | None:
        return None if len(mixed) > 3 else 1.0

    parts = grouped(seen, work)
    assert sorted(torch.cat([part.rows for part in parts]).tolist()) == list(range(200))
    assert 1 < len(parts) < len(found)
    for part in parts:
        own = seen[part.rows]
        assert len(part.mixed) <= 3
        assert own.all(0).tolist() == list(part.seen)
        assert (own.any(0) & ~own.all(0)).nonzero()[:, 0].tolist() == list(part.mixed)


def test_equal_rows_are_worked_out_once():
    codes = torch.from_numpy(np.random.default_rng(0).integers(-1, 3, (300, 4)))
    for columns, sizes in (([0, 2], (3, 3, 3, 3)), ([1], (3, 400, 3, 3)), ([], (3, 3, 3, 3))):
        first, inverse = distinct(codes, columns, sizes)
        assert (codes[first][inverse][:, columns] == codes[:, columns]).all()
        assert len(first) == len(codes[:, columns].unique(dim=0)) if columns else len(first) == 1
    assert distinct(torch.arange(300)[:, None], [0], (300,)) is None


def separated(dag: Dag, x: int, y: int, given: set[int]) -> bool:
    """By moralisation of the ancestral graph (Lauritzen et al. 1990)."""
    kept = dag.ancestors({x, y, *given})
    links = {v: set() for v in kept}
    for child in kept:
        family = (child, *dag.parents[child])
        for a, b in itertools.permutations(family, 2):
            links[a].add(b)
    reached, waiting = set(), [x]
    while waiting:
        node = waiting.pop()
        if node not in reached and node not in given:
            reached.add(node)
            waiting += links[node]
    return y not in reached


@pytest.mark.parametrize("seed", range(20))
def test_the_evidence_that_matters_is_what_is_not_separated(seed):
    x = case(seed, d=8, n=1)
    dag, rng = x.network.dag, np.random.default_rng(seed)
    variable, *rest = rng.permutation(8).tolist()
    seen = set(rest[:3])
    nodes, columns = requisite(dag, [variable], seen)
    for v in seen:
        if not separated(dag, variable, v, seen - {v}):
            assert v in columns
        else:  # it matters at most for another one
            assert v not in columns or any(v in dag.parents[node] for node in nodes)
    barren = set(range(8)) - dag.ancestors({variable, *seen})
    assert not barren & set(nodes)


def test_what_all_rows_share_does_not_take_memory_for_each_row_unless_marginals_need_it():
    """A wide part that is shared, and evidence on a narrow one."""
    scopes = ((0, 1, 2), (2, 3), (3,))
    sizes = (100, 100, 2, 2)
    found = plan(scopes, (False, False, True), sizes)
    assert found.cells <= 4
    assert found.chunk(10**6) == plans.WIDEST // (8 * found.cells)
    assert found.chunk(10**6, outside=True) == plans.WIDEST // (8 * 20_000)
    assert found.memory(1000) < 8 * (20_000 * 2 + 1000 * 20)
    assert found.memory(1000, kept=True) > 8 * 1000 * 20_000
    nothing = plan(scopes, (False,) * 3, sizes)
    assert nothing.chunk(10**6) == nothing.chunk(10**6, outside=True) == 10**6


def test_codes_of_unseen_cells_do_not_matter():
    """What stands where nothing is seen is not looked at, in groups of many patterns either."""
    generator = torch.Generator().manual_seed(0)
    dag = Dag.of(4, [(0, 1), (1, 2), (1, 3)])
    shapes = [(2,), (3, 2), (2, 3), (3, 3)]
    tables = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    net = DiscreteNetwork(dag, [table / table.sum(0) for table in tables])
    seen = torch.rand(60, 4, generator=generator) < 0.5
    codes = torch.stack([torch.randint(k, (60,), generator=generator) for k in net.sizes], 1)
    hidden = torch.where(seen, codes, -1)
    torch.testing.assert_close(net.log_evidence(codes, seen), net.log_evidence(hidden, seen))
    torch.testing.assert_close(net.posterior(codes, seen, 1), net.posterior(hidden, seen, 1))
    assert torch.equal(net.maximise(codes, seen)[1], net.maximise(hidden, seen)[1])
    for v, p in net.marginals(codes, seen).items():
        torch.testing.assert_close(p, net.marginals(hidden, seen)[v])
