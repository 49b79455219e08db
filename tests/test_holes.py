"""Normals with holes against dense formulas, row by row: marginals, conditionals, statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from probgen.holes import OWN_GROUP, SWEPT, Marginals, pattern_groups
from probgen.normals import Kernel

K, D = 3, 12


def kernel(dof: torch.Tensor | None) -> Kernel:
    g = torch.Generator().manual_seed(0)
    root = torch.randn(K, D, D + 3, generator=g, dtype=torch.float64)
    mean = torch.randn(K, D, generator=g, dtype=torch.float64)
    return Kernel(mean, root @ root.mT, torch.zeros(K, dtype=torch.float64), dof)


def rows(rate: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows with distinct patterns, and enough of one pattern for a group of its own."""
    g = torch.Generator().manual_seed(1)
    n = 60
    seen = torch.rand(n, D, generator=g) > rate
    seen = torch.cat([seen, seen[:1].expand(OWN_GROUP + 5, D), torch.ones(2, D) > 0])
    x = 2 * torch.randn(len(seen), D, generator=g, dtype=torch.float64)
    return torch.where(seen, x, 0.0), seen


def dense(own: Kernel, k: int, x: np.ndarray, on: np.ndarray):
    """Log density of the seen slots, mean and scale matrix of the hidden ones, and their dof."""
    cov, mean = torch.linalg.inv(own.precision[k]).numpy(), own.mean[k].numpy()
    gap, block = (x - mean)[on], cov[np.ix_(on, on)]
    slope = np.linalg.solve(block, cov[np.ix_(on, ~on)]).T
    hidden = mean[~on] + slope @ gap
    scale = cov[np.ix_(~on, ~on)] - slope @ cov[np.ix_(on, ~on)]
    if own.dof is None:
        log_p = stats.multivariate_normal(mean[on], block).logpdf(x[on]) if on.any() else 0.0
        return log_p, hidden, scale, np.inf
    dof = float(own.dof[k])
    log_p = stats.multivariate_t(mean[on], block, dof).logpdf(x[on]) if on.any() else 0.0
    wider = (dof + gap @ np.linalg.solve(block, gap)) / (dof + on.sum())
    return log_p, hidden, scale * wider, dof + on.sum()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("student", [True, False])
def test_against_dense_formulas(rate, exact, student):
    dof = torch.tensor([3.0, 8.0, 50.0], dtype=torch.float64) if student else None
    own, (x, seen) = kernel(dof), rows(rate)
    r = torch.rand(len(x), K, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    visits = torch.zeros(len(x))
    first = torch.zeros(K, D, dtype=torch.float64)
    second = torch.zeros(K, D, D, dtype=torch.float64)
    wanted_first, wanted_second = first.clone(), second.clone()
    widths = set()
    for at, patterns in pattern_groups(seen, K):
        visits[at] += 1
        if patterns is None:
            continue
        part = Marginals(own, patterns, exact)
        widths.add(part.h)
        log_p = part.log_rows(x[at], seen[at])
        cells = part.conditional(x[at], seen[at])
        stats_ = part.accumulate(x[at], seen[at], r[at])
        first += stats_.first
        second += stats_.second
        for i, row in enumerate(at.tolist()):
            on = seen[row].numpy()
            for k in range(K):
                log, mean, scale, degrees = dense(own, k, x[row].numpy(), on)
                assert log_p[i, k].item() == pytest.approx(log, abs=1e-8)
                assert np.allclose(cells.mean[i, k].numpy()[~on], mean, atol=1e-9)
                spread = np.sqrt(np.diag(scale))
                assert np.allclose(cells.scale[i, k].numpy()[~on], spread, atol=1e-9)
                assert (cells.dof[i, k].numpy()[~on] == degrees).all()
                whole = x[row].numpy().copy()
                whole[~on] = mean
                outer = np.outer(whole, whole)
                if not student:  # training is by normals only
                    outer[np.ix_(~on, ~on)] += scale
                wanted_first[k] += r[row, k] * torch.from_numpy(whole)
                wanted_second[k] += r[row, k] * torch.from_numpy(outer)
    assert (visits == 1).all()
    assert torch.allclose(first, wanted_first, atol=1e-8)
    if not student:
        assert torch.allclose(second, wanted_second, atol=1e-7)
    assert rate != 0.9 or max(widths) > SWEPT  # both ways to an inverse were taken


def test_draws_have_the_conditional_mean_and_covariance():
    own, (x, seen) = kernel(None), rows(0.5)
    one = seen[:1].expand(20_000, D)
    values = x[:1].expand(20_000, D)
    [(at, patterns)] = pattern_groups(one, K)
    part = Marginals(own, patterns)
    part.log_rows(values[at], one[at])
    label = torch.full((20_000,), 1)
    drawn = part.fill(values, one, label, torch.Generator().manual_seed(0)).numpy()
    on = one[0].numpy()
    assert (drawn[:, on] == values[0].numpy()[on]).all()
    _, mean, scale, _ = dense(own, 1, values[0].numpy(), on)
    z = (drawn[:, ~on] - mean) @ np.linalg.inv(np.linalg.cholesky(scale)).T
    assert np.abs(z.mean(0)).max() < 4.5 / np.sqrt(20_000)
    assert np.abs(np.cov(z.T) - np.eye(z.shape[1])).max() < 5 * np.sqrt(2 / 20_000)


def test_a_nearly_singular_block_gives_numbers():
    """Two slots that determine each other, both hidden, or one of them."""
    cov = torch.eye(3, dtype=torch.float64)
    cov[0, 1] = cov[1, 0] = 1 - 1e-10
    own = Kernel(torch.zeros(1, 3, dtype=torch.float64), torch.linalg.inv(cov)[None],
                 torch.zeros(1, dtype=torch.float64))  # fmt: skip
    x = torch.tensor([[0.7, 0.0, 0.0], [0.0, 0.0, 0.3]], dtype=torch.float64)
    seen = torch.tensor([[True, False, True], [False, False, True]])
    for at, patterns in pattern_groups(seen, 1):
        part = Marginals(own, patterns)
        log_p = part.log_rows(x[at], seen[at])
        wanted = torch.distributions.Normal(0.0, 1.0).log_prob(x[at]) * seen[at]
        assert torch.allclose(log_p[:, 0], wanted.sum(1), atol=1e-5)
        mean = part.conditional(x[at], seen[at]).mean[0, 0]
        assert abs(mean[1] - x[at][0, 0]) < 1e-5
