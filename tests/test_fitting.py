"""The training loop: convergence, trouble, interruption, resumption, starts, processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from probgen import loop
from probgen.batch import Batch
from probgen.checkpoint import load_checkpoint, save_checkpoint
from probgen.errors import FitError, ModelFileError, SchemaError
from probgen.family import Family, Objective
from probgen.fitting import fit, fit_starts, split
from probgen.stopping import flat
from probgen.training import FitResult, Training, resolve_device
from tests.toys import CountingEM, FactorAnalysis, GlobalMean, NormalMixture, blobs, factors

SHORT = Training(max_epochs=6, random_state=0)


def parameters(family: nn.Module) -> Tensor:
    return torch.cat([v.detach().double().reshape(-1) for v in family.state_dict().values()])


def train_and_held(x: Tensor) -> tuple[Batch, Batch]:
    return split(Batch.of(x), 0.2, torch.Generator().manual_seed(0))


class Breaking(NormalMixture):
    """Fails in some way at some passes through the model."""

    def __init__(self, passes: set[int], what: str) -> None:
        super().__init__(4, 3)
        self.passes, self.what, self.count = passes, what, 0

    def row_log_prob(self, x: Tensor) -> Tensor:
        self.count += 1
        if self.count in self.passes or (-1 in self.passes and self.count > 3):
            if self.what == "interrupt":
                raise KeyboardInterrupt
            if self.what == "signal":
                os.kill(os.getpid(), signal.SIGINT)
            elif self.what == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory")
            else:
                return super().row_log_prob(x) * torch.nan
        if self.what == "large" and len(x) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().row_log_prob(x)


# -- reaching the answer ---------------------------------------------------------------------


def test_linear_autoencoder_reaches_probabilistic_pca():
    train, held = train_and_held(factors(800, 5, 2))
    family = FactorAnalysis(5, 2)
    result = fit(family, train, Training(random_state=0, max_epochs=300), held)
    assert result.converged and result.reason == "held-out loss stopped improving"
    # the optimum of probabilistic PCA in closed form (Tipping and Bishop 1999)
    x = train.x
    values, vectors = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0)) / len(x))
    noise = values[:3].mean()
    weight = vectors[:, 3:] * (values[3:] - noise).sqrt()
    best = FactorAnalysis(5, 2).double()
    best.weight.data, best.bias.data = weight, x.mean(0)
    best.log_noise.data = 0.5 * noise.log()
    gap = float(family.double().exact_loss(x).detach() - best.exact_loss(x).detach())
    assert 0 < gap < 0.05
    assert result.validation[-1] == pytest.approx(family.exact_loss(held.x).item(), abs=0.05)


def test_mean_field_guide_reaches_the_posterior():
    x = blobs(60, 3)
    family = GlobalMean(3)
    training = Training(
        random_state=0, max_epochs=3000, patience=200, batch_size=60, learning_rate=0.05,
    )  # fmt: skip
    result = fit(family, Batch.of(x), training)
    mean, sd = family.posterior(x)
    assert result.converged
    assert ((family.q_loc - mean).abs() < sd).all()
    assert ((family.q_log_scale.exp() / sd).log().abs() < 0.5).all()


def test_closed_form_updates_converge():
    result = fit(CountingEM(3), Batch.of(blobs(300, 1)), Training(random_state=0))
    assert result.converged and result.engine == "updates"
    assert result.reason == "loss flat: less than tolerance to gain"
    assert all(b <= a + 1e-12 for a, b in zip(result.losses, result.losses[1:], strict=False))


def test_slow_updates_are_not_taken_for_converged():
    # linear convergence at rate 0.99: steps below tolerance with much still to gain
    losses = [1.0 + 0.0099 * 0.99**i for i in range(600)]
    assert 0.0099 * 0.99**100 * 0.01 < 1e-4
    assert flat(losses[:100], 1e-4) == ""
    assert flat(losses, 1e-4) != ""
    assert flat([3.0, 2.0, 2.0], 1e-4) != ""


def test_minibatched_updates_follow_robbins_and_monro():
    rates = []

    class Noted(CountingEM):
        def update(self, batch: Batch, rate: float) -> float:
            rates.append(rate)
            return super().update(batch, rate)

    family, x = Noted(3), blobs(300, 1)
    fit(family, Batch.of(x), replace(SHORT, batch_size=50, kappa=0.6, delay=2.0), warn=False)
    assert len(rates) == 36
    assert rates[:3] == pytest.approx([2**-0.6, 3**-0.6, 4**-0.6])
    full = CountingEM(3)
    fit(full, Batch.of(x), SHORT, warn=False)
    assert float(family.update(Batch.of(x), 0.0)) == pytest.approx(
        float(full.update(Batch.of(x), 0.0)), abs=0.1
    )


def test_a_good_start_stays_the_best_state():
    """Where every step away is a loss on held-out rows, the fit ends where it began."""
    family = NormalMixture(1, 1)
    held = Batch.of(blobs(40, 1).float() + 50.0)
    with torch.no_grad():
        family.loc.fill_(held.x.mean())
        family.log_scale.fill_(held.x.std().log())
    loc, before = family.loc.item(), float(-family.row_log_prob(held.x).mean())
    result = fit(family, Batch.of(blobs(40, 1)), SHORT, held, start=False, warn=False)
    assert family.loc.item() == loc and min(result.validation) > before


def test_weight_decay_shrinks_matrices_alone():
    """Of a parameter without gradient a step takes the rate times the decay."""

    class Idle(Family):
        def __init__(self) -> None:
            super().__init__(None)
            self.matrix = nn.Parameter(torch.ones(2, 2))
            self.vector = nn.Parameter(torch.ones(2))

        def model(self, batch: Batch) -> None:
            unit = torch.ones(len(batch), 1)
            loc = 0.0 * (self.matrix.sum() + self.vector.sum())
            with batch.rows():
                batch.observe("x", dist.Normal(loc, unit).to_event(1), [0])

    family = Idle()
    training = replace(SHORT, max_epochs=3, batch_size=30, learning_rate=0.1, weight_decay=0.5)
    fit(family, Batch.of(blobs(30, 1)), training, warn=False)
    assert family.matrix.flatten().tolist() == pytest.approx([0.95**3] * 4)
    assert family.vector.tolist() == [1.0, 1.0]


def test_objectives_are_stepped_in_turn():
    class Two(Family):
        def __init__(self) -> None:
            super().__init__(None)
            self.a, self.b = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
            self.seen = {"a": 0, "b": 0}

        def _loss(self, name: str) -> Tensor:
            self.seen[name] += 1
            return (getattr(self, name) - 1) ** 2

        def objectives(self) -> list[Objective]:
            return [
                Objective("a", lambda rows: self._loss("a"), [self.a]),
                Objective("b", lambda rows: self._loss("b"), [self.b], every=3),
            ]

        def validate(self, batch: Batch) -> Tensor:
            return self.a.square()

    family = Two()
    result = fit(family, Batch.of(blobs(30, 1)), SHORT, Batch.of(blobs(9, 1)), warn=False)
    assert family.seen == {"a": 6, "b": 2} and result.engine == "objectives"
    # `validate` prefers a = 0: the start is the best that was scored
    assert family.a.item() == 0.0


# -- stopping ---------------------------------------------------------------------------------


def test_too_few_epochs_is_not_convergence():
    with pytest.warns(ConvergenceWarning, match="max_epochs"):
        result = fit(NormalMixture(4, 3), Batch.of(blobs(200, 4)), SHORT)
    assert not result.converged and result.reason == "max_epochs reached"
    assert result.epochs == len(result.losses) == 6


def test_small_rate_far_from_the_optimum_is_not_convergence():
    x = blobs(50, 1) + 25.0
    with pytest.warns(ConvergenceWarning):
        result = fit(GlobalMean(1), Batch.of(x), Training(max_epochs=100, random_state=0))
    assert not result.converged


def test_early_stopping_restores_the_best_state():
    train, held = train_and_held(factors(60, 8, 1))
    family = NormalMixture(8, 10)
    training = Training(random_state=0, learning_rate=0.1, patience=10, tolerance=0.0)
    result = fit(family, train, training, held)
    assert result.reason == "held-out loss stopped improving"
    best = min(result.validation)
    assert result.validation[-1] > best
    score = -family.row_log_prob(held.x.float()).mean().item()
    assert score == pytest.approx(best, rel=1e-5)


def test_plateau_lowers_the_rate_and_cosine_reaches_zero():
    train, held = train_and_held(blobs(100, 4))
    plateau = fit(NormalMixture(4, 3), train, Training(random_state=0, learning_rate=0.1), held)
    assert plateau.converged
    assert plateau.learning_rate < 0.1
    cosine = fit(NormalMixture(4, 3), train, replace(SHORT, schedule="cosine"), held, warn=False)
    assert 0 < cosine.learning_rate < 0.001


# -- reproducibility and what is left behind --------------------------------------------------


def test_same_seed_same_bits_and_the_seed_is_recorded():
    batch = Batch.of(blobs(150, 4))
    first, second = NormalMixture(4, 3), NormalMixture(4, 3)
    a = fit(first, batch, replace(SHORT, random_state=None), warn=False)
    b = fit(second, batch, replace(SHORT, random_state=a.seed), warn=False)
    assert torch.equal(parameters(first), parameters(second)) and a.losses == b.losses
    third = NormalMixture(4, 3)
    fit(third, batch, replace(SHORT, random_state=a.seed + 1), warn=False)
    assert not torch.equal(parameters(first), parameters(third))


def test_dtype_and_batch_are_left_as_they_were():
    batch = Batch.of(blobs(50, 4))
    x = batch.x.clone()
    family = FactorAnalysis(4, 2).double()
    seen = set()
    handle = family.register_forward_pre_hook(lambda *a: None)
    model = family.model
    family.model = lambda rows: (seen.add((rows.x.dtype, family.bias.dtype)), model(rows))[1]
    fit(family, batch, SHORT, warn=False)
    handle.remove()
    assert seen == {(torch.float32, torch.float32)}
    assert family.bias.dtype == torch.float64 and not family.training
    assert torch.equal(batch.x, x)


def test_zero_weight_rows_do_not_matter():
    x = blobs(64, 4)
    weight = torch.ones(64).double()
    weight[10:30] = 0
    junk = x.clone()
    junk[10:30] = torch.nan
    fits = []
    for rows, w in ((x[weight > 0], None), (junk, weight)):
        family = NormalMixture(4, 3)
        fit(family, Batch.of(rows, weight=w), SHORT, warn=False)
        fits.append(parameters(family))
    torch.testing.assert_close(*fits, rtol=1e-4, atol=1e-5)


def test_split_keeps_one_total():
    batch = Batch.of(blobs(100, 2), weight=torch.arange(1, 101).double())
    train, held = split(batch, 0.1, torch.Generator().manual_seed(0))
    assert len(held) == 10 and train.total == held.total == float(train.weight.sum())
    both = torch.cat([train.weight, held.weight]).sort()[0]
    assert torch.equal(both, batch.weight)
    assert split(Batch.of(blobs(19, 2)), 0.1, torch.Generator())[1] is None
    assert split(batch, 0.0, torch.Generator())[1] is None


# -- trouble ----------------------------------------------------------------------------------


def test_one_bad_loss_goes_back_and_halves_the_rate():
    family = Breaking({8}, "nan")
    training = replace(SHORT, batch_size=16, schedule="constant")
    result = fit(family, Batch.of(blobs(64, 4)), training, warn=False)
    assert result.retries == 1 and result.epochs == 6
    assert result.learning_rate == pytest.approx(0.005)
    assert torch.isfinite(parameters(family)).all()
    assert all(map(lambda loss: loss == loss, result.losses))


def test_endless_bad_losses_name_the_columns_and_keep_the_good_weights():
    family, x = Breaking({-1}, "nan"), blobs(64, 4)
    x[0, 2] = 1e12
    with pytest.raises(FitError, match=r"found.*slot 2 \(1e\+12\).*needed.*do: ") as caught:
        fit(family, Batch.of(x), replace(SHORT, batch_size=64))
    assert "4 times" in str(caught.value)
    assert torch.isfinite(parameters(family)).all()


def test_bad_update_goes_back_two_states():
    class Sick(CountingEM):
        steps = 0

        def update(self, batch: Batch, rate: float) -> float:
            self.steps += 1
            loss = super().update(batch, rate)
            if self.steps == 3:  # finite, but the next loss is not
                self.share = torch.full_like(self.share, torch.inf)
            return loss

    family = Sick(3)
    result = fit(family, Batch.of(blobs(100, 1)), Training(random_state=0))
    assert result.retries == 1 and result.converged
    assert torch.isfinite(parameters(family)).all()


def test_out_of_memory_halves_the_batch():
    family = Breaking(set(), "large")
    result = fit(family, Batch.of(blobs(64, 4)), replace(SHORT, batch_size=64), warn=False)
    assert result.batch_size == 16 and result.epochs == 6


def test_out_of_memory_at_every_size_is_an_error():
    with pytest.raises(FitError, match="no memory left.*batch_size=1;"):
        fit(Breaking({-1}, "memory"), Batch.of(blobs(64, 4)), replace(SHORT, batch_size=64))


@pytest.mark.parametrize(
    "batch, what",
    [
        (Batch.of(torch.zeros(1, 2)), "1 rows"),
        (Batch.of(torch.zeros(3, 2), weight=torch.tensor([1.0, -1.0, 1.0])), "weights"),
        (Batch.of(torch.zeros(3, 2), weight=torch.tensor([1.0, torch.nan, 1.0])), "weights"),
        (Batch.of(torch.tensor([[0.0, 1.0], [torch.inf, 0.0]])), "non-finite values in slot 0"),
    ],
)
def test_bad_rows_are_refused(batch, what):
    with pytest.raises(SchemaError, match=what):
        fit(NormalMixture(2, 2), batch, SHORT)


@pytest.mark.parametrize(
    "setting",
    [
        {"max_epochs": 0}, {"patience": 0}, {"learning_rate": -1.0}, {"batch_size": 0},
        {"validation": 1.0}, {"schedule": "none"}, {"precision": "half"}, {"kappa": 0.5},
        {"tolerance": -1.0}, {"starts": 0}, {"gradient_clip": 0.0}, {"compile": "yes"},
    ],
)  # fmt: skip
def test_bad_settings_are_refused(setting):
    with pytest.raises(SchemaError, match=next(iter(setting))):
        Training(**setting)


def test_devices():
    assert resolve_device("cpu").type == "cpu"
    with pytest.raises(SchemaError, match="device"):
        resolve_device("abacus")
    if not torch.cuda.is_available():
        assert resolve_device("auto").type == "cpu"
        with pytest.raises(SchemaError, match="no usable GPU"):
            resolve_device("cuda")


# -- interruption and resumption --------------------------------------------------------------


@pytest.mark.parametrize("what", ["interrupt", "signal"])
def test_interruption_keeps_the_state_and_resumes_bit_for_bit(tmp_path, what):
    batch, path = Batch.of(blobs(64, 4)), tmp_path / "run.ckpt"
    held = Batch.of(blobs(20, 4), total=64.0)
    training = replace(SHORT, batch_size=16, checkpoint=path)
    whole = NormalMixture(4, 3)
    full = fit(whole, batch, replace(training, checkpoint=None), held, warn=False)

    family = Breaking({18}, what)  # in the fourth epoch: an epoch is 4 steps and a score
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        result = fit(family, batch, training, held)
    assert result.reason == "interrupted" and not result.converged and result.epochs == 3
    assert torch.isfinite(parameters(family)).all()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    again = NormalMixture(4, 3, seed=9)
    resumed = fit(again, batch, training, held, resume=path, warn=False)
    assert resumed.losses == full.losses and resumed.validation == full.validation
    assert torch.equal(parameters(again), parameters(whole))


def test_second_interruption_raises():
    with loop._interruptible() as event:
        os.kill(os.getpid(), signal.SIGINT)
        assert event.wait(1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            event.wait(1)


KILLED = """
import os, sys, torch
from probgen import loop
from probgen.batch import Batch
from probgen.fitting import fit
from probgen.training import Training
from probgen.stopping import flat
from tests.toys import FactorAnalysis, factors
loop.CHECKPOINT_SECONDS = 0.0
class Killed(FactorAnalysis):
    count = 0
    def model(self, batch):
        self.count += 1
        if self.count == 24:
            os._exit(9)
        super().model(batch)
fit(Killed(4, 2), Batch.of(factors(64, 4, 2)), Training(
    max_epochs=8, random_state=0, batch_size=16, checkpoint=sys.argv[1]), warn=False)
"""


def test_killed_run_resumes_bit_for_bit(tmp_path):
    path = tmp_path / "run.ckpt"
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], cwd=root, timeout=60, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 9
    assert 0 < load_checkpoint(path)[1]["result"]["epochs"] < 8
    batch = Batch.of(factors(64, 4, 2))
    training = Training(max_epochs=8, random_state=0, batch_size=16)
    whole, resumed = FactorAnalysis(4, 2), FactorAnalysis(4, 2, seed=5)
    full = fit(whole, batch, training, warn=False)
    rest = fit(resumed, batch, training, resume=path, warn=False)
    assert rest.losses == full.losses
    assert torch.equal(parameters(whole), parameters(resumed))


def test_finished_checkpoint_can_go_on_with_more_epochs(tmp_path):
    batch, path = Batch.of(blobs(64, 4)), tmp_path / "run.ckpt"
    fit(NormalMixture(4, 3), batch, replace(SHORT, checkpoint=path), warn=False)
    more, whole = NormalMixture(4, 3), NormalMixture(4, 3)
    longer = replace(SHORT, max_epochs=9)
    rest = fit(more, batch, longer, resume=path, warn=False)
    full = fit(whole, batch, longer, warn=False)
    assert rest.losses == full.losses and torch.equal(parameters(more), parameters(whole))


def test_updates_resume_bit_for_bit(tmp_path):
    batch, path = Batch.of(blobs(90, 1)), tmp_path / "run.ckpt"
    training = replace(SHORT, batch_size=30, checkpoint=path, max_epochs=3)
    fit(CountingEM(3), batch, training, warn=False)
    rest, whole = CountingEM(3, seed=4), CountingEM(3)
    fit(rest, batch, replace(training, max_epochs=6, checkpoint=None), resume=path, warn=False)
    fit(whole, batch, replace(training, max_epochs=6, checkpoint=None), warn=False)
    assert torch.equal(parameters(rest), parameters(whole))


def test_foreign_checkpoints_are_refused(tmp_path):
    batch, path = Batch.of(blobs(64, 4)), tmp_path / "run.ckpt"
    with pytest.raises(FileNotFoundError, match="no file"):
        fit(NormalMixture(4, 3), batch, SHORT, resume=path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ModelFileError, match="cannot be read"):
        fit(NormalMixture(4, 3), batch, SHORT, resume=path)
    fit(NormalMixture(4, 3), batch, replace(SHORT, checkpoint=path), warn=False)
    with pytest.raises(ModelFileError, match="rows it was fitted on"):
        fit(NormalMixture(4, 3), Batch.of(blobs(65, 4)), SHORT, resume=path)


def test_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.ckpt"
    save_checkpoint(path, {"a": torch.ones(2)}, {"epoch": 1})

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("probgen.checkpoint.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"a": torch.zeros(2)}, {"epoch": 2})
    tensors, meta = load_checkpoint(path)
    assert meta == {"epoch": 1} and tensors["a"].sum() == 2
    assert [p.name for p in tmp_path.iterdir()] == ["run.ckpt"]


# -- starts, restarts, records ----------------------------------------------------------------


def test_starts_pick_the_best_and_restarts_keep_all():
    batch = Batch.of(blobs(200, 1, components=4))
    seeds = iter(range(100))

    def make() -> CountingEM:
        return CountingEM(4, seed=next(seeds))

    training = Training(random_state=0, max_epochs=200)
    one = fit_starts(make, batch, training)
    many = fit_starts(make, batch, replace(training, starts=8))
    assert len(one) == len(many) == 1
    assert many[0][1].losses[-1] <= one[0][1].losses[-1] + 1e-6
    pair = fit_starts(lambda: CountingEM(4), batch, replace(training, restarts=2))
    again = fit_starts(lambda: CountingEM(4), batch, replace(training, restarts=2))
    assert len(pair) == 2 and pair[0][1].seed != pair[1][1].seed
    for (a, _), (b, _) in zip(pair, again, strict=True):
        assert torch.equal(parameters(a), parameters(b))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_starts_survive_one_bad_start():
    made = []

    def make() -> Breaking:
        made.append(Breaking({-1} if not made else set(), "nan"))
        return made[-1]

    training = replace(SHORT, starts=3)
    ((family, result),) = fit_starts(make, Batch.of(blobs(64, 4)), training)
    assert family is not made[0] and len(made) == 3 and result.epochs == 6


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_start_and_finish_are_called_once():
    calls = []

    class Noted(CountingEM):
        def start(self, batch: Batch, generator: torch.Generator) -> None:
            calls.append("start")
            super().start(batch, generator)

        def finish(self, batch: Batch, generator: torch.Generator) -> None:
            calls.append("finish")

    batch = Batch.of(blobs(60, 1))
    fit(Noted(2), batch, SHORT, warn=False)
    assert calls == ["start", "finish"]
    calls.clear()
    fit_starts(lambda: Noted(2), batch, replace(SHORT, starts=2))
    assert calls == ["start", "start", "finish"]


def test_result_round_trip():
    result = fit(CountingEM(2), Batch.of(blobs(50, 1)), Training(random_state=0))
    again = FitResult.from_dict({**json.loads(json.dumps(result.to_dict())), "later": 1})
    assert again == result


def test_progress_is_quiet_unless_asked(capsys, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(CountingEM(2), Batch.of(blobs(50, 1)), SHORT)
        assert capsys.readouterr() == ("", "")
        monkeypatch.setattr(loop, "tqdm", partial(loop.tqdm, mininterval=0.0))
        fit(CountingEM(2), Batch.of(blobs(50, 1)), replace(SHORT, progress=True))
    assert "loss=" in capsys.readouterr().err


PARALLEL = """
import sys, torch
from probgen.batch import Batch
from probgen.engines import processes
from probgen.fitting import fit
from probgen.training import Training
from probgen.stopping import flat
from tests.toys import NormalMixture, blobs
family = NormalMixture(3, 3)
g = torch.Generator().manual_seed(1)
batch = Batch.of(blobs(101, 3), weight=torch.rand(101, generator=g).double() + 0.5)
result = fit(family, batch, Training(max_epochs=5, random_state=0, batch_size=34), warn=False)
rank, world = processes()
assert world == int(sys.argv[2])
if rank == 0:
    state = {**family.state_dict(), "losses": torch.tensor(result.losses)}
    torch.save(state, sys.argv[1])
torch.distributed.destroy_process_group() if world > 1 else None
"""


def test_two_processes_equal_one(tmp_path):
    root = Path(__file__).parents[1]
    script, states = tmp_path / "run.py", []
    script.write_text(PARALLEL)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(
        [str(root), os.environ.get("PYTHONPATH", "")])}  # fmt: skip
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for command, world in (([], 1), (torchrun, 2)):
        out = tmp_path / f"{world}.pt"
        subprocess.run(
            [sys.executable, *command, str(script), str(out), str(world)],
            check=True, cwd=root, env=env, timeout=100, capture_output=True,
        )  # fmt: skip
        states.append(torch.load(out, weights_only=True))
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-5)
