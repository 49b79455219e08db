"""One guarded door to Pyro: a lock, local parameters, forked random state, validation."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyro
import torch

__all__ = ["fresh_seed", "guarded", "noise", "spawn_seeds", "threads", "validated"]

#: Pyro's handler stack is a module global: two threads inside it corrupt one another.
_LOCK = threading.RLock()

_CHECKS = (
    "validate_distributions_pyro",
    "validate_distributions_torch",
    "validate_infer",
    "validate_poutine",
)


@contextmanager
def guarded(seed: int | None, validate: bool = False) -> Iterator[None]:
    """Enter Pyro alone, with a random state of our own, and leave no trace.

    Inside, parameters of modules are local (never in Pyro's store), torch draws from a
    state seeded with `seed`, and the checks of distributions and handlers follow
    `validate`. On leaving, also by an error, the caller's random state and all settings
    are as before. Re-entrant in one thread; other threads wait.

    Parameters
    ----------
    seed : int or None
        Seed of torch's generators, on CPU and on every CUDA device; None: a fresh one
        from the operating system (the caller's stream is neither used nor advanced).
    validate : bool
        Whether distributions and handlers check their arguments.

    Examples
    --------
    >>> import torch
    >>> before = torch.get_rng_state()
    >>> with guarded(0):
    ...     a = torch.rand(2)
    >>> with guarded(0):
    ...     b = torch.rand(2)
    >>> bool((a == b).all()), bool((torch.get_rng_state() == before).all())
    (True, True)
    """
    seed = fresh_seed() if seed is None else seed
    with (
        _LOCK,
        pyro.settings.context(module_local_params=True),
        validated(validate),
        noise(seed),
    ):
        yield


@contextmanager
def validated(on: bool = True) -> Iterator[None]:
    """Switch the checks of distributions and handlers, and switch them back."""
    with pyro.settings.context(**dict.fromkeys(_CHECKS, on)):
        yield


@contextmanager
def noise(seed: int) -> Iterator[None]:
    """Draw from a state seeded with `seed`; the state before is restored afterwards."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        # only the forked generators: torch.manual_seed would also touch idle devices
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with `count` threads inside torch's kernels; None: as many as before."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fresh_seed() -> int:
    """A seed from the operating system, which no one else's random state decides."""
    return secrets.randbits(62)


def spawn_seeds(seed: int | Sequence[int], count: int) -> list[int]:
    """`count` independent seeds derived from one (NumPy's SeedSequence).

    >>> spawn_seeds(0, 2) == spawn_seeds(0, 3)[:2]
    True
    """
    children = np.random.SeedSequence(seed).spawn(count)
    return [int(child.generate_state(1, np.uint64)[0] >> np.uint64(2)) for child in children]
