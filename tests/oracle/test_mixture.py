"""The mixture against closed forms, second libraries and its own pair."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture as Peer

import probgen as pg
from probgen.batch import Batch
from probgen.columns import Slot
from probgen.families.mixture import Mixture
from probgen.queries.contraction import global_sites, traced
from probgen.session import guarded

COVARIANCES = ("full", "tied", "diag", "spherical", "flexible")


class Slots:
    """The only part of a schema that a family reads."""

    def __init__(self, *slots: Slot) -> None:
        self.slots = slots
        self.context_slots = ()


MIXED = Slots(
    Slot("a", 0, "real"), Slot("b", 1, "real"), Slot("c", 2, "count"),
    Slot("d", 3, "category", 4, False, True),
)  # fmt: skip


def mixed_rows(n: int, holes: float, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(3, (n,), generator=g)
    centre = torch.tensor([[0.0, 0.0], [3.0, 1.0], [0.0, 4.0]], dtype=torch.float64)[label]
    real = centre + torch.randn(n, 2, generator=g, dtype=torch.float64)
    count = torch.poisson((3.0 * label + 1).double(), generator=g)
    code = (label + (torch.rand(n, generator=g) < 0.2).long()) % 3
    x = torch.cat([real, count[:, None], code[:, None].double()], 1)
    seen = torch.rand(x.shape, generator=g) >= holes
    return Batch.of(torch.where(seen, x, 0.0), seen)


def fitted(covariance: str, holes: float, k: int = 3, steps: int = 15, **setting) -> tuple:
    batch = mixed_rows(150, holes)
    family = Mixture(MIXED, k, covariance, **setting)
    generator = torch.Generator().manual_seed(1)
    family.start(batch, generator)
    losses = [family.update(batch, 1.0) for _ in range(steps)]
    return family, batch, losses


@pytest.mark.parametrize("weights", ["dirichlet", "dp"])
@pytest.mark.parametrize("holes", [0.0, 0.3])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_coordinate_ascent_never_raises_its_loss(covariance, holes, weights):
    _, _, losses = fitted(covariance, holes, weights=weights)
    assert np.diff(losses).max() < 1e-9


@pytest.mark.parametrize("weights", ["dirichlet", "dp"])
@pytest.mark.parametrize("holes", [0.0, 0.3])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_closed_form_at_a_draw_equals_the_pair(covariance, holes, weights):
    family, batch, _ = fitted(covariance, holes, weights=weights)
    with torch.no_grad(), guarded(3):
        guide = traced(family.guide, batch, {})
        draw = {name: site["value"] for name, site in global_sites(guide).items()}
        model = traced(family.model, batch, draw)
    row = model.nodes["row"]
    through_pair = row["fn"].log_prob(row["value"])
    closed = family.exact_log_prob(batch, {name: v[None] for name, v in draw.items()})[0]
    torch.testing.assert_close(through_pair, closed, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("holes", [0.0, 0.3])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_own_bound_lies_below_the_elbo_with_the_label_summed_out(covariance, holes):
    family, batch, _ = fitted(covariance, holes)
    own = -family.update(batch, 0.0)  # a step of size 0 only tells the bound
    with torch.no_grad(), guarded(0):
        loss = pyro.infer.Trace_ELBO(num_particles=200)(family.model, family.guide)
        particles = -torch.stack([loss(batch) for _ in range(3)]) / batch.total
    # 600 guide draws; the spread of three means of 200 tells the error
    assert own <= float(particles.mean()) + 4 * float(particles.std()) / 3**0.5 + 1e-3


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_predictive_is_the_average_over_the_guide(covariance):
    family, batch, _ = fitted(covariance, 0.2, posterior="mean_field")
    few = batch.take(slice(0, 20))
    with torch.no_grad(), guarded(5):
        logs = []
        for _ in range(3000):
            guide = traced(family.guide, few, {})
            draw = {name: site["value"][None] for name, site in global_sites(guide).items()}
            logs.append(family.exact_log_prob(few, draw)[0])
    densities = torch.stack(logs).exp()
    exact = family.exact_log_prob(few, None).exp()
    error = densities.std(0) / len(logs) ** 0.5
    assert ((densities.mean(0) - exact).abs() < 4.5 * error).all()


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_conditional_draws_follow_the_joint(covariance):
    """Mean of a function of the hidden cell under complete() = ratio of joint densities."""
    family, _, _ = fitted(covariance, 0.2)
    n = 20_000
    x = torch.tensor([[0.7, 0.0, 2.0, 1.0]], dtype=torch.float64).expand(n, -1).clone()
    seen = torch.tensor([[True, False, True, True]]).expand(n, -1)
    drawn = family.complete(Batch.of(x, seen), torch.Generator().manual_seed(0))[:, 1]
    grid = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    rows = torch.stack([grid * 0 + 0.7, grid, grid * 0 + 2, grid * 0 + 1], 1)
    p = family.exact_log_prob(Batch.of(rows), None).exp()
    cdf = (p.cumsum(0) / p.sum()).numpy()
    found = stats.kstest(drawn.numpy(), lambda v: np.interp(v, grid.numpy(), cdf))
    assert found.pvalue > 1e-3


@pytest.mark.parametrize(("k", "expected"), [(1, -379.915), (2, -214.355), (3, -180.185)])
def test_iris_reaches_the_known_maximum(k, expected):
    """Vague priors, the plug-in density, and labels near the published optimum."""
    x = torch.from_numpy(load_iris().data)
    label = Peer(k, random_state=0, n_init=5).fit(x.numpy()).predict_proba(x.numpy())
    centre, scale = x.mean(0), x.std(0)
    family = Mixture(
        Slots(*(Slot(n, i, "real") for i, n in enumerate("abcd"))), k,
        spread=1e-6, dof=1.0, mean_strength=1e-6,
    )  # fmt: skip
    batch = Batch.of((x - centre) / scale)
    family.start_from(batch, torch.from_numpy(label))
    for _ in range(300):
        family.update(batch, 1.0)
    found = family.exact_log_prob(batch, family.point_globals()).sum() - 150 * scale.log().sum()
    assert float(found) == pytest.approx(expected, abs=0.6)


def test_vague_priors_agree_with_scikit_learn_at_its_optimum():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (4000, 3)), rng.normal(4, 0.5, (4000, 3))])
    peer = Peer(2, tol=1e-8, random_state=0).fit(x)
    own = pg.GaussianMixture(
        2, spread=1e-3, tolerance=1e-8, random_state=0, posterior="mean_field"
    ).fit(x)
    gap = np.abs(own.score_samples(x) - peer.score_samples(x))
    assert gap.mean() < 2e-3
    assert abs(own.score(x) - peer.score(x)) < 1e-3


def test_spherical_predictive_of_one_component_is_students_t():
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    family = Mixture(Slots(Slot("a", 0, "real"), Slot("b", 1, "real")), 1, "spherical")
    family.start_from(Batch.of(x), torch.ones(30, 1, dtype=torch.float64))
    kernel = family.rows.normals.predictive()
    expected = stats.multivariate_t.logpdf(
        x.numpy(), kernel.mean[0].numpy(), np.diag(1 / kernel.precision[0].expand(2).numpy()),
        df=float(kernel.dof[0, 0]),
    )  # fmt: skip
    found = family.exact_log_prob(Batch.of(x), None).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_stochastic_updates_come_near_the_full_ones():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (6000, 2)), rng.normal(5, 1, (6000, 2))])
    full = pg.GaussianMixture(2, random_state=0, posterior="mean_field").fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = pg.GaussianMixture(
            2, batch_size=500, max_epochs=10, random_state=0, posterior="mean_field"
        ).fit(x)
    assert small.score(x) == pytest.approx(full.score(x), abs=0.01)


def test_refined_draws_widen_intervals_of_overlapping_components():
    rng = np.random.default_rng(3)
    x = pd.DataFrame(np.concatenate([rng.normal(0, 1, (120, 1)), rng.normal(1.5, 1, (80, 1))]))
    x.columns = ["a"]
    widths = {}
    for posterior in ("gibbs", "mean_field"):
        model = pg.GaussianMixture(2, posterior=posterior, spread=1.0, random_state=0).fit(x)
        found = model.log_prob(x, interval=0.9)
        widths[posterior] = float((found["upper"] - found["lower"]).median())
    assert widths["gibbs"] > 1.05 * widths["mean_field"]


def test_components_are_ordered_and_restarts_agree():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(m, 0.5, (c, 1)) for m, c in ((0, 300), (6, 200), (12, 100))])
    model = pg.GaussianMixture(3, restarts=3, random_state=0, posterior="mean_field").fit(x)
    means = [m.rows.normals.predictive().mean[:, 0] for m in model.members_]
    assert (model.members_[0].weight_counts.diff() <= 0).all()
    for other in means[1:]:
        torch.testing.assert_close(means[0], other, atol=0.05, rtol=0)
