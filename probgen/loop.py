"""One fit: epochs, early stopping, return from trouble, checkpoints, interruption."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from tqdm.auto import tqdm

from probgen.batch import Batch
from probgen.checkpoint import pack, save_checkpoint, unpack
from probgen.engines import Gradients, Objectives, Updates, processes
from probgen.errors import FitError, ModelFileError, message, warn
from probgen.family import Family
from probgen.session import noise, spawn_seeds, threads
from probgen.stopping import flat, trend
from probgen.training import FitResult, Training

__all__ = ["Loop", "slot_names"]

#: seconds between two checkpoints
CHECKPOINT_SECONDS = 2.0
#: times that a non-finite loss may halve the rate
RETRIES = 3
#: reasons of a fit that another run may continue
UNFINISHED = ("max_epochs reached", "interrupted")
#: what "plateau" multiplies the rate by, and how often
DROP, DROPS = 0.1, 1
#: rows a step up to which one thread is used: a second one gains at most 15 % there on a
#: quiet machine and costs ten times on a loaded one
ONE_THREAD = 1024


def slot_names(family: Family, slots: list[int]) -> str:
    """Names of some slots for a message."""
    known = getattr(family.schema, "slots", None)
    return ", ".join(known[j].name if known else f"slot {j}" for j in slots)


def _automatic_batch(n: int, least: int) -> int:
    """A power of two near n / 32: some thirty steps an epoch, within what vectorises well."""
    return min(1024, max(least, 2 ** round(math.log2(max(n, 2) / 32)))) if n > least else n


Steps = Gradients | Objectives | Updates


class _NonFinite(Exception):
    """The loss or a parameter is not a finite number."""


class Loop:
    """One fit: its state, and what an epoch does to it."""

    def __init__(
        self,
        family: Family,
        batch: Batch,
        training: Training,
        validation: Batch | None,
        seed: int,
        loop_seed: int,
        warn: bool = True,
    ) -> None:
        self.family, self.batch, self.training = family, batch, training
        self.validation, self.seed, self.warn = validation, seed, warn
        self.generator = torch.Generator().manual_seed(loop_seed)
        self.validation_seed = spawn_seeds(loop_seed, 1)[0]
        self.clock = time.perf_counter()
        self.result = FitResult(seed=seed, device=str(batch.seen.device))
        self.steps = self._steps()
        self.factor = 1.0  # of the rate: halved by failures and plateaus
        self.best_score, self.best_epoch, self.stale = math.inf, 0, 0
        self.drops, self.saved_at = 0, -math.inf
        self.remember()

    def _steps(self) -> Steps:
        n, training = len(self.batch), self.training
        if self.family.updates:
            size = training.batch_size or n
            steps: Steps = Updates(self.family, self.batch, training, size)
        else:
            kind = Objectives if self.family.objectives() else Gradients
            size = training.batch_size or _automatic_batch(n, training.least_batch)
            steps = kind(self.family, self.batch, training, size)
        self.base_rate = steps.rate
        self.result.batch_size = min(size, n)
        return steps

    def remember(self) -> None:
        """Take the present state for good and best (before the first epoch)."""
        self.good = self.best = self.before = self.state()

    # -- state ---------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """A copy of parameters, buffers, optimiser and random states."""
        family = {k: v.detach().clone() for k, v in self.family.state_dict().items()}
        steps = {k: v.detach().clone() for k, v in self.steps.tensors().items()}
        random = {"order": self.generator.get_state(), "cpu": torch.get_rng_state()}
        if self.batch.seen.is_cuda:
            random["cuda"] = torch.cuda.get_rng_state(self.batch.seen.device)
        return {**pack("family", family), **pack("steps", steps), **pack("random", random)}

    def rewind(self, state: dict[str, Tensor]) -> None:
        """Put a copy back, random states included."""
        self.install(state)
        random = unpack("random", state)
        self.generator.set_state(random["order"])
        torch.set_rng_state(random["cpu"])
        if self.batch.seen.is_cuda and "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], self.batch.seen.device)

    def install(self, state: dict[str, Tensor]) -> None:
        """Put a copy back, and go on with the present random states."""
        self.install_family(state)
        self.steps.load({k: v.clone() for k, v in unpack("steps", state).items()})

    def install_family(self, state: dict[str, Tensor]) -> None:
        # a family may replace a buffer by one of another shape in `start` or `update`
        own = self.family.state_dict()
        values = unpack("family", state)
        for name, value in values.items():
            if own[name].shape != value.shape:
                parent, _, leaf = name.rpartition(".")
                setattr(self.family.get_submodule(parent), leaf, value.to(own[name].device))
        self.family.load_state_dict(values)

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Go back to where a checkpoint was written."""
        if meta["rows"] != self._fingerprint():
            raise ModelFileError(
                message(
                    f"a checkpoint of a fit on {meta['rows'][:2]} rows and slots",
                    f"the rows it was fitted on; these are {self._fingerprint()[:2]}",
                    "resume with the same table, or fit without resume",
                )
            )
        self.result = FitResult.from_dict(meta["result"])
        self.clock = time.perf_counter() - self.result.seconds
        self.factor, self.best_score, self.stale = meta["factor"], meta["best"], meta["stale"]
        self.best_epoch, self.drops = meta["best_epoch"], meta["drops"]
        if self.result.batch_size < self.steps.size:
            self.steps.size = self.result.batch_size
        self.best, self.good = unpack("best", tensors), unpack("good", tensors)
        self.rewind(unpack("now", tensors))
        self.before = self.state()
        self.steps.first = False

    def save(self, force: bool = False) -> None:
        """Write a checkpoint if one is asked for and due; only the first process does."""
        path, now = self.training.checkpoint, time.perf_counter()
        if path is None or processes()[0]:
            return
        if not force and now - self.saved_at < CHECKPOINT_SECONDS:
            return
        tensors = {**pack("now", self.state()), **pack("best", self.best)}
        tensors |= pack("good", self.good)
        self.result.seconds = now - self.clock
        self.result.engine, self.result.engine_reason = self.steps.engine, self.steps.reason
        meta = {
            "seed": self.seed, "rows": self._fingerprint(), "result": self.result.to_dict(),
            "factor": self.factor, "best": self.best_score, "best_epoch": self.best_epoch,
            "stale": self.stale, "drops": self.drops,
        }  # fmt: skip
        save_checkpoint(path, tensors, meta)
        self.saved_at = time.perf_counter()

    def _fingerprint(self) -> list[float]:
        x, seen = self.batch.x, self.batch.seen
        total = 0.0 if x is None else float(torch.where(seen, x, x.new_zeros(())).double().sum())
        return [*seen.shape, float(seen.sum()), self.batch.total, total]

    # -- the loop ------------------------------------------------------------------------

    def run(self) -> FitResult:
        """Epochs until a reason to stop; the best state is then in the family."""
        result, training = self.result, self.training
        reason = "" if result.reason in UNFINISHED else result.reason
        rank, _ = processes()
        bar = tqdm(
            total=training.max_epochs, initial=result.epochs, unit="epoch",
            disable=not training.progress or rank > 0, leave=False,
        )  # fmt: skip
        small = not self.family.updates and self.result.batch_size <= ONE_THREAD
        with bar, threads(1 if small else None), _interruptible() as interrupted:
            try:
                if not result.epochs:
                    self._score_start()
                while not reason:
                    if result.epochs >= training.max_epochs:
                        reason = "max_epochs reached"
                        break
                    reason = self._epoch(interrupted)
                    bar.set_postfix(loss=f"{result.losses[-1]:.4f}", refresh=False)
                    bar.update()
            except KeyboardInterrupt:
                reason = "interrupted"
                self.rewind(self.before)  # a half epoch could not be resumed bit for bit
            finally:
                self.steps.close()
        return self._end(reason)

    def _end(self, reason: str) -> FitResult:
        result = self.result
        result.reason = reason
        result.converged = reason not in UNFINISHED
        result.learning_rate = self.steps.rate
        result.engine, result.engine_reason = self.steps.engine, self.steps.reason
        result.seconds = time.perf_counter() - self.clock
        self.save(force=True)
        self.install_family(self.best)
        if reason == "interrupted":
            self._complain(
                f"training was interrupted after {result.epochs} epochs",
                "the best state so far is kept; fit again, or go on from a checkpoint",
            )
        elif not result.converged:
            self._complain(
                f"training did not converge in {result.epochs} epochs ({reason})",
                "raise max_epochs, or learning_rate if the loss falls slowly",
            )
        return result

    def _complain(self, found: str, do: str) -> None:
        if self.warn:
            text = message(found, "convergence", do)
            warn(text, ConvergenceWarning)

    def _epoch(self, interrupted: threading.Event) -> str:
        """One epoch, repeated from the last good state until it is finite; why to stop, or ''."""
        while True:
            self.before = self.state()
            self._set_rate()
            try:
                loss = self._pass(interrupted)
                score = self._score()
            except _NonFinite:
                self._back_off()
                continue
            except torch.OutOfMemoryError:
                self._shrink()
                continue
            break
        # the state before is known to give a finite loss; the one after is not, yet
        self.good = self.before
        self.result.losses.append(loss)
        self.result.epochs += 1
        if score is not None:
            self.result.validation.append(score)
        reason = self._judge()
        self.save()
        return reason

    def _pass(self, interrupted: threading.Event) -> float:
        self.family.train()
        self.family.begin_epoch(self.result.epochs)
        total: Tensor | float = 0.0
        count = 0
        for loss in self.steps.epoch(self.generator):
            total, count = total + loss, count + 1
            if interrupted.is_set():
                raise KeyboardInterrupt
        mean = float(total) / count
        # one look an epoch: a look at every step would wait for the device
        finite = all(bool(torch.isfinite(p).all()) for p in self.family.parameters())
        # a buffer may hold an infinity on purpose, such as the logarithm of 0
        broken = any(bool(torch.isnan(b).any()) for b in self.family.buffers())
        if broken or not finite or not math.isfinite(mean):
            raise _NonFinite
        return mean

    def _score(self) -> float | None:
        if self.validation is None:
            return None
        self.family.eval()
        # the same noise at every epoch: differences are then those of the parameters
        with torch.no_grad(), noise(self.validation_seed):
            score = self.steps.held_out(self.validation)
        if math.isnan(score):
            raise _NonFinite
        return score

    def _score_start(self) -> None:
        """A good start may stay the best state: of few rows, a network learns only noise."""
        try:
            score = self._score()
        except _NonFinite:
            return
        if score is not None and math.isfinite(score):
            self.best_score = score

    def _set_rate(self) -> None:
        rate = self.base_rate * self.factor
        if self.training.schedule == "cosine" and not self.family.updates:
            rate *= 0.5 * (1 + math.cos(math.pi * self.result.epochs / self.training.max_epochs))
        self.steps.rate = rate

    def _judge(self) -> str:
        """Note the best state, lower the rate on a plateau; the reason to stop, or ''."""
        training, result = self.training, self.result
        whole = isinstance(self.steps, Updates) and self.steps.whole
        if whole and not result.validation:
            self.best, self.best_epoch = self.state(), result.epochs
            return flat(result.losses, training.tolerance)
        if result.validation:
            slack, score = 0.0, result.validation[-1]
            improved = score < self.best_score - training.tolerance
        else:
            score, slack, improved = self._training_trend()
        if score <= self.best_score + slack:
            self.best, self.best_epoch = self.state(), result.epochs
        self.best_score = min(self.best_score, score)
        self.stale = 0 if improved else self.stale + 1
        if self.stale < training.patience or self._anneal():
            return ""
        what = "held-out" if result.validation else "training"
        return f"{what} loss stopped improving"

    def _anneal(self) -> bool:
        """Lower the rate and go on from the best state, if the schedule has this left to do."""
        drops = DROPS if self.training.schedule == "plateau" and not self.family.updates else 0
        if self.drops >= drops:
            return False
        self.drops += 1
        self.factor *= DROP
        self.stale = self.training.patience // 2
        self.install(self.best)
        self.good = self.best
        return True

    def _training_trend(self) -> tuple[float, float, bool]:
        """Smoothed training loss, its noise (two standard errors), whether it still falls.

        Single losses of a stochastic bound are noisy: the smallest is a lucky one, and
        waiting for a smaller would stop far from the optimum. A line through the last
        `patience` epochs tells a fall from noise.
        """
        patience, losses = max(3, self.training.patience), self.result.losses
        recent = losses[-max(1, patience // 5) :]
        score = sum(recent) / len(recent)
        if len(losses) < patience:
            return score, math.inf, True
        slope, t, spread = trend(losses[-patience:])
        falling = t < -2 and slope * patience < -self.training.tolerance
        return score, 2 * spread / math.sqrt(len(recent)), falling

    # -- trouble -------------------------------------------------------------------------

    def _back_off(self) -> None:
        self.install(self.good)
        if self.best_epoch == self.result.epochs:  # no loss was ever computed there
            self.best, self.best_epoch = self.good, -1
        self.result.retries += 1
        if self.result.retries <= RETRIES:
            self.factor *= 0.5
            return
        self.install_family(self.best)
        raise FitError(
            message(
                f"a loss that is not finite, {RETRIES + 1} times, also after halving the rate;"
                f" the largest encoded values are in {self._largest()}",
                "a finite loss",
                "look at these columns for outliers or a wrong kind, or lower learning_rate",
            )
        )

    def _largest(self) -> str:
        x, seen = self.batch.x, self.batch.seen
        if x is None:
            return "no column"
        peak = torch.where(seen, x.abs(), x.new_zeros(())).amax(0)
        slots = peak.argsort(descending=True)[:3].tolist()
        return ", ".join(f"{slot_names(self.family, [j])} ({float(peak[j]):.3g})" for j in slots)

    def _shrink(self) -> None:
        self.rewind(self.before)
        size = self.result.batch_size
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        smaller = self.steps.shrink()
        if not smaller:
            self.install_family(self.best)
            raise FitError(
                message(
                    f"no memory left on {self.result.device} at batch_size={size}",
                    "a step that fits",
                    "use a smaller model, free the device, or device='cpu'",
                )
            )
        self.result.batch_size = smaller


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event that is looked at between steps.

    A step is never cut in two, so that parameters and Pyro's handlers stay consistent; a
    second Ctrl-C raises at once. Only in the main thread, and only where Ctrl-C would have
    raised: a handler of the caller's own is left alone.
    """
    event = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield event
        return

    def note(number: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
