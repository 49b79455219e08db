"""The multivariate t against scipy, the gradient of its penalised likelihood, and its pair."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import probgen as pg
from probgen import queries
from probgen.families.student import Student, best_dof, best_factor
from probgen.family import Family
from probgen.normals import student
from probgen.table import encode
from probgen.testing.pair import without_overrides

REAL = ["a", "b", "c"]


def correlated(n: int = 300, seed: int = 0) -> pd.DataFrame:
    """Three dependent columns with heavy tails."""
    random = np.random.default_rng(seed)
    root = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [-0.5, 0.3, 0.4]])
    z = random.standard_t(4, size=(n, 3)) @ root.T
    return pd.DataFrame(z * [1.0, 10.0, 0.1] + [0.0, 50.0, -1.0], columns=REAL)


def holed(table: pd.DataFrame, share: float) -> pd.DataFrame:
    """The table with a share of its cells missing at random."""
    return table.mask(np.random.default_rng(5).random(table.shape) < share)


def fit(table: pd.DataFrame, **settings: object) -> pg.StudentT:
    return pg.StudentT(random_state=0, tolerance=1e-9, **settings).fit(table)


def batch_of(model: pg.Density, table: pd.DataFrame):
    return model._batch(encode(table, model.schema_), model._device)


def test_density_is_that_of_scipy():
    table = correlated()
    model = fit(table)
    family, schema = model.members_[0], model.schema_
    loc, scale = (np.array([getattr(schema[n], k) for n in REAL]) for k in ("loc", "scale"))
    peer = stats.multivariate_t(
        loc + scale * family.mean.numpy(), family.scale.numpy() * np.outer(scale, scale),
        df=float(family.dof),
    )  # fmt: skip
    assert np.allclose(model.log_prob(table), peer.logpdf(table.to_numpy()), atol=1e-9)
    two = stats.multivariate_t(peer.loc[:2], peer.shape[:2, :2], df=float(family.dof))
    assert np.allclose(model.log_prob(table[REAL[:2]]), two.logpdf(table[REAL[:2]]), atol=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_fit_is_stationary(share):
    """No gradient is left in the penalised likelihood of the seen cells, holes or none."""
    table = holed(correlated(), share) if share else correlated()
    model = fit(table, max_epochs=4000)
    family, batch = model.members_[0], batch_of(model, table)
    mean = family.mean.clone().requires_grad_()
    scale = family.scale.clone().requires_grad_()
    log_dof = family.dof.log().clone().requires_grad_()
    value = torch.zeros((), dtype=torch.float64)
    for x, seen in zip(batch.x, batch.seen, strict=True):
        if not seen.any():
            continue
        at = seen.nonzero()[:, 0]
        part = scale[at][:, at]
        gap = x[at] - mean[at]
        quad = gap @ torch.linalg.solve(part, gap)
        value = value + student(quad, -torch.logdet(part), len(at), log_dof.exp())
    d = len(REAL)
    penalty = 0.5 * family.pseudo * (torch.logdet(scale) + torch.linalg.inv(scale).trace() - d)
    ((value - penalty) / len(table)).backward()
    assert mean.grad.abs().max() < 1e-3
    assert (scale.grad @ family.scale).abs().max() < 1e-3  # per relative change of the scale
    assert log_dof.grad.abs() < 1e-3
    loss = family.update(batch, 0.0)
    assert loss == pytest.approx((penalty - value).item() / len(table), abs=1e-9)


def test_degrees_of_freedom_are_found():
    """Within four standard errors of the truth, and a normal table has many."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(12):
        heavy = random.standard_normal((1000, 4)) / np.sqrt(random.chisquare(5, (1000, 1)) / 5)
        found.append(float(fit(pd.DataFrame(heavy)).members_[0].dof))
    assert abs(np.log(found).mean() - np.log(5)) < 4 * np.log(found).std() / len(found) ** 0.5
    normal = pd.DataFrame(random.standard_normal((2000, 4)))
    assert fit(normal).members_[0].dof > 25


def test_best_dof_never_loses():
    random = np.random.default_rng(1)
    quad = torch.tensor(random.chisquare(3, 200) * random.uniform(0.1, 30, 200))
    width, weight = torch.full((200,), 3.0, dtype=torch.float64), torch.ones(200).double()

    def value(dof: torch.Tensor) -> float:
        return float(weight @ student(quad, quad * 0, width, dof))

    grid = torch.linspace(0, np.log(1000), 4001).double().exp()
    top = max(value(v) for v in grid)
    for now in (1.0, 2.345, 900.0):
        best = best_dof(quad, width, weight, torch.tensor(now).double())
        assert value(best) >= value(torch.tensor(now).double())
        assert value(best) > top - 1e-3


def test_best_factor_is_the_best():
    """No factor beside it gives rows and penalty a higher log density."""
    random = np.random.default_rng(3)
    quad = torch.tensor(40 * random.chisquare(3, 300) / random.uniform(0.05, 1, 300))
    width = torch.tensor(random.integers(0, 4, 300)).double()
    quad = quad * (width > 0)
    weight, dof = torch.tensor(random.uniform(0, 2, 300)), torch.tensor(1.5).double()
    trace, pseudo = torch.tensor(7.0).double(), 4.0

    def value(factor: torch.Tensor) -> float:
        rows = student(quad / factor, -width * factor.log(), width, dof)
        return float(weight @ rows - 0.5 * (pseudo * factor.log() + trace / factor))

    best = best_factor(quad, width, weight, dof, trace, pseudo)
    assert best > 5
    assert all(value(best) > value(best * k) for k in (0.01, 0.5, 0.999, 1.001, 2.0, 100.0))


def test_pairs_equal_those_of_the_marginals(monkeypatch):
    """The closed form of the pairs is what one marginal a pair gives, holes and kinds included."""
    random = np.random.default_rng(2)
    table = correlated(60).assign(
        kind=random.choice(["x", "y"], 60), number=random.poisson(2.0, 60)
    )
    table = holed(table, 0.4)
    table.iloc[0] = None
    table.iloc[1, 1:] = None
    model = fit(table)
    batch = batch_of(model, table)
    own = queries.log_pairs(model._predictive(), batch)
    monkeypatch.setattr(Student, "log_pairs", Family.log_pairs)
    generic = queries.log_pairs(model._predictive(), batch)
    assert own[0] == 0 and torch.allclose(own, generic, atol=1e-9)
    few = batch.seen.sum(-1) <= 2
    row = queries.log_prob(model._predictive(), batch).value
    assert few.sum() > 5 and torch.allclose(own[few], row[few], atol=1e-9)


def test_without_overrides_the_pair_knows_no_pairs():
    model = fit(correlated(40))
    assert without_overrides(model.members_[0]).log_pairs(batch_of(model, correlated(5))) is None


def test_hidden_cells_follow_the_conditional():
    """Draws given a far cell spread as a t with more degrees of freedom and a larger scale."""
    model = fit(correlated(2000), dof=5.0)
    family = model.members_[0]
    far = model.schema_["a"].loc + 8 * model.schema_["a"].scale
    drawn = model.sample(4000, given={"a": far}, random_state=0)["b"].to_numpy()
    z = (drawn - model.schema_["b"].loc) / model.schema_["b"].scale
    s, m = family.scale.numpy(), family.mean.numpy()
    gap = 8 - m[0]
    centre = m[1] + s[1, 0] / s[0, 0] * gap
    width = (5 + gap**2 / s[0, 0]) / 6 * (s[1, 1] - s[1, 0] ** 2 / s[0, 0])
    peer = stats.t(6, loc=centre, scale=np.sqrt(width))
    assert stats.kstest(z, peer.cdf).pvalue > 1e-4
    assert stats.kstest(z, stats.t(6, loc=centre, scale=np.sqrt(width) / 1.5).cdf).pvalue < 1e-4
