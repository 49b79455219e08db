"""The guarded session: nothing global is left behind, and threads do not meet."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from probgen.batch import Batch
from probgen.fitting import fit
from probgen.session import guarded, noise, spawn_seeds, threads, validated
from probgen.training import Training
from tests.toys import FactorAnalysis, blobs


def world() -> dict[str, object]:
    """What a user can see of the process's global state."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),
        "random": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "settings": pyro.settings.get(),
        "store": dict(pyro.get_param_store().items()),
        "debug": torch.distributions.Distribution._validate_args,
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
    }


def test_same_seed_same_draws_and_user_state_untouched():
    before = world()
    with guarded(3):
        first = torch.rand(4)
    with guarded(3):
        second = torch.rand(4)
    assert torch.equal(first, second)
    assert world() == before


def test_state_restored_after_an_error():
    before = world()
    with pytest.raises(ZeroDivisionError), guarded(0, validate=True):
        torch.rand(3)
        raise ZeroDivisionError
    assert world() == before


def test_unseeded_sessions_differ():
    with guarded(None):
        first = torch.rand(4)
    with guarded(None):
        second = torch.rand(4)
    assert not torch.equal(first, second)


def test_reentrant():
    with guarded(0):
        torch.rand(1)
        with guarded(1):
            inner = torch.rand(2)
        after = torch.rand(2)
    with guarded(0):
        torch.rand(1)
        assert torch.equal(torch.rand(2), after)
    with guarded(1):
        assert torch.equal(torch.rand(2), inner)


def test_validation_follows_the_flag():
    with guarded(0):
        dist.Normal(0.0, -1.0)
        with validated(), pytest.raises(ValueError):
            dist.Normal(0.0, -1.0)
        dist.Normal(0.0, -1.0)


def test_noise_and_threads_restore():
    before = world()
    with noise(0), threads(1):
        torch.rand(1)
        assert torch.get_num_threads() == 1
    assert world() == before


def test_seeds_are_stable_and_distinct():
    assert spawn_seeds(0, 2) == spawn_seeds(0, 5)[:2]
    assert len({*spawn_seeds(0, 50), *spawn_seeds(1, 50), *spawn_seeds([0, 1], 50)}) == 150


def fit_toy(seed: int) -> torch.Tensor:
    family = FactorAnalysis(3, 1)
    fit(family, Batch.of(blobs(60, 3)), Training(max_epochs=4, random_state=seed), warn=False)
    return torch.cat([p.detach().reshape(-1) for p in family.parameters()])


def test_four_threads_equal_serial_bit_for_bit():
    before = world()
    serial = [fit_toy(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(fit_toy, range(4)))
    assert all(torch.equal(a, b) for a, b in zip(serial, parallel, strict=True))
    assert not torch.equal(serial[0], serial[1])
    assert world() == before
