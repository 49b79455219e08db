"""The training step as one graph: equal to the eager one, and given up where it cannot be.

What needs no machine code runs the graph uncompiled, which takes a fraction of a second.
"""

from __future__ import annotations

import os
import pickle
import signal
import warnings
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from probgen import compiled, tracing
from probgen.batch import Batch
from probgen.engines import Gradients
from probgen.family import Family
from probgen.fitting import fit, fit_starts, split
from probgen.session import guarded
from probgen.training import FitResult, Training
from tests.toys import FactorAnalysis, GlobalMean, LabelledMixture, NormalMixture, blobs, factors

SHORT = Training(max_epochs=4, random_state=0, batch_size=32, compile=True)


def parameters(family: nn.Module) -> Tensor:
    return torch.cat([v.detach().double().reshape(-1) for v in family.state_dict().values()])


def run(family: Family, batch: Batch, training: Training = SHORT, held: Batch | None = None):
    """The result, and the parameters; any warning of a fall back is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.filterwarnings("ignore", "found .* there is no C")
        result = fit(family, batch, training, held, warn=False)
    return result, parameters(family)


@pytest.fixture
def traced(monkeypatch):
    """The graph is run as it is."""
    monkeypatch.setattr(compiled, "has_compiler", lambda: False)


class Kitchen(Family):
    """Dropout, batch statistics, a buffer put anew, holes, context, weights, row latents."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__(None)
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 4)
        )
        self.idle = nn.Parameter(torch.ones(2, 2))  # moved by weight decay alone
        self.frozen = nn.Parameter(torch.full((2,), 0.5), requires_grad=False)
        self.register_buffer("count", torch.zeros(()))
        self.fixed = torch.tensor([1.0, 2.0])  # neither parameter nor buffer

    def model(self, batch: Batch) -> None:
        z = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with batch.rows():
            own = batch.context @ self.fixed.to(batch.context) + z.sum()
            loc = own[:, None] + self.frozen[0]
            batch.observe("a", dist.Normal(loc, 1.0).to_event(1), [0])
            batch.observe("b", dist.Normal(loc.squeeze(-1), 2.0), [1])

    def guide(self, batch: Batch) -> None:
        if self.training:
            self.count = self.count + 1
        out = self.net(torch.cat([batch.x, batch.context], -1)).mean(0)
        pyro.sample("mean", dist.Normal(out[:2], out[2:].exp()).to_event(1))


def kitchen_rows() -> Batch:
    g = torch.Generator().manual_seed(0)
    x, context = (torch.randn(100, 2, generator=g, dtype=torch.float64) for _ in range(2))
    seen = torch.rand(100, 2, generator=g) < 0.8
    weight = torch.rand(100, generator=g, dtype=torch.float64) + 0.5
    return Batch.of(torch.where(seen, x, 0.0), seen, weight, context=context)


# -- compiled ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both():
    """One fit by machine code and one eager: (family, result, parameters) each."""
    train, held = split(Batch.of(factors(110, 5, 2)), 0.1, torch.Generator().manual_seed(0))
    found = {}
    for how in (True, False):
        family = FactorAnalysis(5, 2)
        training = replace(SHORT, compile=how, max_epochs=20, weight_decay=0.1)
        found[how] = family, *run(family, train, training, held)
    return found, train, held, training


@pytest.mark.slow
def test_a_compiled_fit_equals_the_eager_one(both):
    (_, a, p), (_, b, q) = both[0][True], both[0][False]
    assert (a.engine, b.engine) == ("compiled", "lean") and a.batch_size == b.batch_size == 32
    assert a.engine_reason == "the whole step is one graph" and b.engine_reason == "compile=False"
    # 80 steps of Adam in single precision, summed in another order
    torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(a.losses), torch.tensor(b.losses), rtol=1e-5, atol=0)
    assert a.validation == pytest.approx(b.validation, rel=1e-5)
    assert FitResult.from_dict(a.to_dict()) == a


@pytest.mark.slow
def test_a_compiled_fit_repeats_bit_for_bit_and_the_graph_is_kept(both):
    found, train, held, training = both
    many = len(compiled._COMPILED)
    result, p = run(FactorAnalysis(5, 2), train, replace(training, compile=True), held)
    assert result.engine == "compiled" and len(compiled._COMPILED) == many
    assert torch.equal(p, found[True][2]) and result.losses == found[True][1].losses
    # another start with the same sizes takes the same machine code
    other = replace(training, compile=True, restarts=2, max_epochs=2)
    fits = fit_starts(lambda: FactorAnalysis(5, 2, seed=1), train, other, held)
    assert [r.engine for _, r in fits] == ["compiled"] * 2 and len(compiled._COMPILED) == many


@pytest.mark.slow
def test_noise_buffers_holes_weights_and_context_are_compiled():
    found = {}
    for how in (True, False):
        family = Kitchen()
        training = replace(SHORT, compile=how, weight_decay=0.5, precision="float64")
        found[how] = run(family, kitchen_rows(), training)[1]
        assert family.count == 16
        assert float(family.net[1].num_batches_tracked) == 16
    torch.testing.assert_close(found[True], found[False], rtol=1e-6, atol=1e-7)


# -- the graph, uncompiled --------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda: FactorAnalysis(4, 2), lambda: GlobalMean(4), lambda: NormalMixture(4, 3),
    lambda: LabelledMixture(4, 3, enumerate_=False),
], ids=["rows", "globals", "plain", "score"])  # fmt: skip
def test_every_estimator_is_traced(traced, make):
    batch = Batch.of(blobs(70, 4))
    torch.manual_seed(0)
    result, p = run(make(), batch)
    torch.manual_seed(0)
    eager, q = run(make(), batch, replace(SHORT, compile=False))
    assert result.engine == "traced" and result.engine_reason.startswith("there is no C++")
    torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    assert result.losses == pytest.approx(eager.losses, rel=1e-5)


def test_nothing_is_left_behind(traced):
    before, state = torch._C._get_tracing_state, torch.get_rng_state()
    family = FactorAnalysis(4, 2)
    run(family, Batch.of(blobs(70, 4)))
    assert torch._C._get_tracing_state is before
    assert torch.equal(torch.get_rng_state(), state) and not len(pyro.get_param_store())
    for parameter in family.parameters():  # each a tensor of its own, as a file needs
        assert parameter.untyped_storage().nbytes() == 4 * parameter.numel()
    assert len(pickle.dumps(family)) < 10_000


def test_a_resumed_fit_equals_one_that_never_stopped(traced, tmp_path):
    batch, path = Batch.of(blobs(70, 4)), tmp_path / "fit.safetensors"
    whole, p = run(FactorAnalysis(4, 2), batch)
    run(FactorAnalysis(4, 2), batch, replace(SHORT, max_epochs=2, checkpoint=path))
    for how in (True, False):  # the eager step can go on from the state of the graph
        family = FactorAnalysis(4, 2)
        again = fit(family, batch, replace(SHORT, compile=how), resume=path, warn=False)
        assert again.engine == ("traced" if how else "lean")
        if how:
            assert torch.equal(parameters(family), p) and again.losses == whole.losses
        torch.testing.assert_close(parameters(family), p, rtol=1e-4, atol=1e-5)


def test_interruption_keeps_the_best_state(traced):
    class Stopped(FactorAnalysis):
        scored = 0

        def model(self, batch: Batch) -> None:
            if not self.training:  # held-out scores are eager
                self.scored += 1
                if self.scored == 3:
                    os.kill(os.getpid(), signal.SIGINT)
            super().model(batch)

    train, held = split(Batch.of(factors(110, 5, 2)), 0.1, torch.Generator().manual_seed(0))
    family = Stopped(5, 2)
    result, p = run(family, train, SHORT, held)
    assert result.engine == "traced"
    assert result.reason == "interrupted" and result.epochs == 2
    short = run(FactorAnalysis(5, 2), train, replace(SHORT, max_epochs=2), held)[1]
    assert torch.equal(p, short)


def test_a_loss_that_is_not_finite_halves_the_rate(traced):
    batch = Batch.of(blobs(70, 4))
    training = replace(SHORT, learning_rate=60.0, schedule="constant", gradient_clip=None)
    a, p = run(FactorAnalysis(4, 2), batch, training)
    b, _ = run(FactorAnalysis(4, 2), batch, replace(training, compile=False))
    assert a.engine == "traced" and a.retries == b.retries > 0
    assert a.learning_rate == b.learning_rate == 60.0 / 2**a.retries
    assert torch.isfinite(p).all()


def test_less_memory_makes_another_graph(traced, monkeypatch):
    full = compiled.Step.__call__

    def small(self, rows, rate):
        if len(rows) > 18:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return full(self, rows, rate)

    monkeypatch.setattr(compiled.Step, "__call__", small)
    monkeypatch.setattr(compiled.Step, "hold", lambda *a: None)
    result, p = run(FactorAnalysis(4, 2), Batch.of(blobs(70, 4)))
    assert result.batch_size == 16 and result.engine == "traced" and torch.isfinite(p).all()


# -- what is refused, and what is done then ---------------------------------------------------


class Looks(NormalMixture):
    """Takes another way where a number of the data says so."""

    def row_log_prob(self, x: Tensor) -> Tensor:
        return super().row_log_prob(x) * (1.0 if bool(x.sum() > -1e9) else 2.0)


class Counts(NormalMixture):
    """Its loss changes from pass to pass by a number that no tensor holds."""

    passes = 0

    def row_log_prob(self, x: Tensor) -> Tensor:
        self.passes += self.training
        return super().row_log_prob(x) * self.passes


class Anneals(NormalMixture):
    """Its loss changes from epoch to epoch."""

    epochs = 0

    def train(self, mode: bool = True):
        self.epochs += mode
        return super().train(mode)

    def row_log_prob(self, x: Tensor) -> Tensor:
        return super().row_log_prob(x) * (1.0 + 0.5 * self.epochs)


@pytest.mark.parametrize(("make", "reason"), [
    (lambda: Looks(4, 3), r"cannot be traced: .* at test_compiled\.py:\d+"),
    (lambda: LabelledMixture(4, 3), "enumerated sites looks"),
    (lambda: Counts(4, 3), r"the loss of the graph is off by"),
    (lambda: Anneals(4, 3), r"the loss of the graph is off by"),
], ids=["looks", "enumerated", "counts", "anneals"])  # fmt: skip
def test_what_cannot_be_one_graph_stays_eager(traced, make, reason):
    batch, family = Batch.of(blobs(70, 4)), make()
    with pytest.warns(RuntimeWarning, match=f"found .*{reason}.*needed .*do: ") as said:
        result = fit(family, batch, SHORT, warn=False)
    known = "no C++ compiler"
    assert len([w for w in said if w.category is RuntimeWarning and known not in str(w)]) == 1
    assert result.engine == ("traceenum" if isinstance(family, LabelledMixture) else "lean")
    assert result.epochs == 4
    if isinstance(family, Looks | Anneals):
        q = run(make(), batch, replace(SHORT, compile=False))[1]
        torch.testing.assert_close(parameters(family), q, rtol=1e-4, atol=1e-5)


def test_auto_warns_of_what_no_one_expects_alone(traced, monkeypatch):
    monkeypatch.setattr(compiled, "FEWEST", 0)
    monkeypatch.setattr(compiled, "FIXED", -99.0)
    batch, auto = Batch.of(blobs(70, 4)), replace(SHORT, compile="auto")
    result, _ = run(Looks(4, 3), batch, auto)
    assert result.engine == "lean" and "cannot be traced" in result.engine_reason
    with pytest.warns(RuntimeWarning, match="the loss of the graph is off"):
        fit(Anneals(4, 3), batch, auto, warn=False)


def test_a_wrong_gradient_is_found(traced, monkeypatch):
    right = compiled.trace

    def wrong(function, inputs):
        graph = right(function, inputs)
        lerp = next(n for n in graph.graph.nodes if "lerp" in str(n.target))
        lerp.update_arg(2, 0.2)  # the gradient twice over, and the right loss
        graph.recompile()
        return graph

    monkeypatch.setattr(compiled, "trace", wrong)
    with pytest.warns(RuntimeWarning, match="the gradient of weight is off"):
        assert (
            fit(FactorAnalysis(4, 2), Batch.of(blobs(70, 4)), SHORT, warn=False).engine == "lean"
        )


def test_several_processes_and_pairs_without_parameters_stay_eager(traced):
    rows = Batch.of(blobs(70, 4))
    assert "several processes" in compiled.out_of_question("lean", 2)

    class Fixed(Family):
        def model(self, batch: Batch) -> None:
            with batch.rows():
                batch.observe("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), range(4))

    with pytest.warns(RuntimeWarning, match="nothing to learn"):
        fit(Fixed(None), rows, SHORT, warn=False)


def test_a_failing_compiler_is_tried_with_a_cache_of_its_own(monkeypatch):
    places = []

    def fails(graph, **options):
        places.append(os.environ.get("TORCHINDUCTOR_CACHE_DIR"))
        if len(places) < works:
            raise OSError("a damaged file\nwith details")
        return graph

    monkeypatch.setattr(tracing, "_inductor", fails)
    monkeypatch.setattr(compiled, "_COMPILED", type(compiled._COMPILED)())
    batch = Batch.of(blobs(70, 4))
    works = 2
    assert run(FactorAnalysis(4, 2), batch)[0].engine == "compiled"
    assert len(places) == 2 and places[0] != places[1]
    compiled._COMPILED.clear()
    places, works = [], 9
    with pytest.warns(RuntimeWarning, match="the compiler failed"):
        result = fit(FactorAnalysis(4, 2), batch, SHORT, warn=False)
    assert result.engine == "traced" and len(places) == 2
    assert result.engine_reason == "the compiler failed: OSError at test_compiled.py:" + (
        result.engine_reason.split(":")[2] + ": a damaged file"
    )


# -- when it pays -----------------------------------------------------------------------------


def work(family: Family, batch: Batch) -> compiled.Work:
    with guarded(0):
        steps = Gradients(family, batch, SHORT, len(batch))
        return compiled.eager(family, steps.chosen.loss, steps.parameters, batch).work


def test_work_is_counted_by_sizes():
    few, many = (work(FactorAnalysis(4, 2), Batch.of(blobs(n, 4).float())) for n in (20, 2000))
    again = work(FactorAnalysis(4, 2), Batch.of(blobs(20, 4, seed=5).float()))
    assert few.operations == many.operations == again.operations > 20
    assert few.numbers == again.numbers < many.numbers / 20


def test_auto_weighs_steps_and_work():
    one = work(FactorAnalysis(4, 2), Batch.of(blobs(64, 4).float()))
    assert compiled.pays(one, 10**6) == ""
    assert "would save" in compiled.pays(one, 1000)
    training = Training(patience=20, max_epochs=1000)
    assert compiled.expected(training, 10) == 10 * 2 * 30
    assert compiled.expected(replace(training, schedule="constant"), 10) == 10 * 2 * 20
    assert compiled.expected(replace(training, max_epochs=5), 10) == 50


def test_auto_is_eager_where_little_is_gained_and_says_so(traced, monkeypatch):
    batch, training = Batch.of(blobs(70, 4)), replace(SHORT, compile="auto")
    result, _ = run(FactorAnalysis(4, 2), batch, training)
    assert result.engine == "lean" and "too few" in result.engine_reason
    monkeypatch.setattr(compiled, "FEWEST", 0)
    result, _ = run(FactorAnalysis(4, 2), batch, training)
    assert result.engine == "lean" and "would save" in result.engine_reason
    monkeypatch.setattr(compiled, "FIXED", -99.0)
    assert run(FactorAnalysis(4, 2), batch, training)[0].engine == "traced"
