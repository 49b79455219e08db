"""Fitting a family to rows: one fit, and fits from several starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.checkpoint import load_checkpoint
from probgen.engines import processes
from probgen.errors import FitError, SchemaError, message
from probgen.family import Family
from probgen.loop import Loop, slot_names
from probgen.session import fresh_seed, guarded, spawn_seeds, threads
from probgen.training import FitResult, Training

__all__ = ["fit", "fit_starts", "reweighted", "split"]

#: rows on which the short runs of `starts` are compared, and their epochs
START_ROWS, START_EPOCHS = 10_000, 10
#: rows up to which updates run on one thread: more cost time on a busy machine
FEW_ROWS = 20_000


def fit(
    family: Family,
    batch: Batch,
    training: Training,
    validation: Batch | None = None,
    resume: str | os.PathLike[str] | None = None,
    *,
    start: bool = True,
    finish: bool = True,
    warn: bool = True,
) -> FitResult:
    """Train a family on the rows of a batch; its parameters are changed in place.

    Parameters
    ----------
    family : Family
        Moved by `update` where it has one, by its `objectives` where it has some, by the
        gradient of the negative ELBO otherwise.
    batch : Batch
        All training rows, already on the device.
    training : Training
        Settings.
    validation : Batch or None
        Held-out rows: training stops when their score stops improving.
    resume : path or None
        A checkpoint of the same fit, to go on from. The result equals that of a fit that
        was never stopped, bit for bit.
    start, finish : bool
        Whether to call the family's `start` before and `finish` after.
    warn : bool
        Whether to warn where training did not converge.

    Returns
    -------
    FitResult

    Raises
    ------
    FitError
        If the loss stays non-finite after three returns to the last good state with half
        the rate, or the device is out of memory at every batch size. The family keeps the
        best state before that.
    SchemaError
        If rows or weights are not finite, or fewer than two rows carry weight.

    Warns
    -----
    ConvergenceWarning
        If training stopped for another reason than having converged.
    """
    batch = _checked(family, batch)
    saved = load_checkpoint(resume) if resume is not None else None
    seed = fresh_seed() if training.random_state is None else training.random_state
    seed = saved[1]["seed"] if saved else seed
    noise_seed, loop_seed = spawn_seeds(seed, 2)
    rank, _ = processes()
    # another stream of noise in each process, the same permutations in all
    with guarded(noise_seed + rank):
        before = next((p.dtype for p in family.parameters()), torch.float64)
        dtype = torch.float64 if family.updates else getattr(torch, training.precision)
        family.to(dtype)
        few = family.updates and len(batch) <= FEW_ROWS
        try:
            rows, held = _cast(batch, dtype), _cast(validation, dtype) if validation else None
            loop = Loop(family, rows, training, held, seed, loop_seed, warn)
            with threads(1 if few else None):
                if saved:
                    loop.load(*saved)
                elif start:
                    family.start(rows, loop.generator)
                    loop.remember()
                result = loop.run()
                if finish:
                    family.finish(rows, loop.generator)
        finally:
            family.to(before)
            family.eval()
    return result


def fit_starts(
    make_family: Callable[[], Family],
    batch: Batch,
    training: Training,
    validation: Batch | None = None,
) -> list[tuple[Family, FitResult]]:
    """`training.restarts` fits, each trained on from the best of `training.starts` short runs.

    The short runs see at most 10,000 rows and 10 epochs and are compared by their last loss
    on the same rows. Each start and restart has its own seed, derived from `random_state`.
    `make_family` is called inside a seeded random state, once a start.

    Returns
    -------
    list of (Family, FitResult)
        One pair a restart, in order.
    """
    seed = fresh_seed() if training.random_state is None else training.random_state
    found = []
    for restart_seed in spawn_seeds([seed, 1], training.restarts):
        own = replace(training, random_state=restart_seed, checkpoint=None)
        if training.restarts == 1:
            own = replace(own, checkpoint=training.checkpoint)
        family = _best_start(make_family, batch, own)
        result = fit(family, batch, own, validation, start=training.starts == 1)
        found.append((family, result))
        if result.reason == "interrupted":
            break
    return found


def _best_start(make_family: Callable[[], Family], batch: Batch, training: Training) -> Family:
    first, *seeds = spawn_seeds([training.random_state or 0, 2], training.starts + 1)
    if training.starts == 1:
        with guarded(seeds[0]):
            return make_family()
    generator = torch.Generator().manual_seed(first)
    few = batch
    if len(batch) > START_ROWS:
        pick = torch.randperm(len(batch), generator=generator)[:START_ROWS]
        few = batch.take(pick.to(batch.seen.device))
    best: tuple[float, Family] | None = None
    for seed in seeds:
        with guarded(seed):
            family = make_family()
        short = replace(
            training, random_state=seed, checkpoint=None, progress=False,
            max_epochs=min(START_EPOCHS, training.max_epochs),
        )  # fmt: skip
        try:
            result = fit(family, few, short, finish=False, warn=False)
        except FitError:
            if best is None and seed == seeds[-1]:
                raise
            continue
        loss = result.losses[-1]
        if best is None or loss < best[0]:
            best = loss, family
        if result.reason == "interrupted":
            break
    assert best is not None  # the last start raises if none succeeded
    return best[1]


def split(batch: Batch, fraction: float, generator: torch.Generator) -> tuple[Batch, Batch | None]:
    """Training rows and held-out rows, drawn at random; both keep the training `total`.

    With one `total` the globals weigh the same in both losses, a row. Fewer than 20 rows,
    or a fraction that rounds to none, leave nothing held out (None).

    >>> batch = Batch.of(torch.zeros(100, 2))
    >>> train, held = split(batch, 0.1, torch.Generator().manual_seed(0))
    >>> len(train), len(held), train.total
    (90, 10, 90.0)
    """
    n = len(batch)
    count = round(n * fraction)
    if n < 20 or count < 1:
        return batch, None
    order = torch.randperm(n, generator=generator).to(batch.seen.device)
    # in table order: sorted gathers are faster and a later reader sees what he expects
    held, train = batch.take(order[:count].sort()[0]), batch.take(order[count:].sort()[0])
    total = float(train.weight.sum())
    return replace(train, total=total), replace(held, total=total)


def reweighted(batch: Batch, seed: int) -> Batch:
    """The rows under Dirichlet weights of the same sum: one draw of the Bayesian bootstrap.

    Rubin (1981), The Bayesian bootstrap, Annals of Statistics 9.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.empty(len(batch), dtype=torch.float64).exponential_(generator=generator)
    weight = batch.weight * drawn.to(batch.weight)
    weight = weight * (batch.weight.sum() / weight.sum())
    return replace(batch, weight=weight, uniform=False)


def _checked(family: Family, batch: Batch) -> Batch:
    """The rows that carry weight, all finite."""
    if not bool(torch.isfinite(batch.weight).all()) or bool((batch.weight < 0).any()):
        raise SchemaError(
            message("negative or non-finite row weights", "weights of 0 or more", "correct them")
        )
    if bool((batch.weight == 0).any()):
        batch = batch.take(torch.nonzero(batch.weight)[:, 0])
    if len(batch) < 2:
        raise SchemaError(
            message(f"{len(batch)} rows with positive weight", "at least 2", "pass more rows")
        )
    if batch.x is not None:
        bad = ~torch.isfinite(batch.x) & batch.seen
        if bool(bad.any()):
            names = slot_names(family, torch.nonzero(bad.any(0))[:, 0].tolist())
            raise SchemaError(
                message(f"non-finite values in {names}", "finite or missing cells", "clean them")
            )
    return batch


def _cast(batch: Batch, dtype: torch.dtype) -> Batch:
    def cast(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(dtype)

    return replace(
        batch, x=cast(batch.x), weight=batch.weight.to(dtype), context=cast(batch.context)
    )
