"""What latents hold of rows, drawn."""

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde

import probgen as pg
from probgen.datasets import penguins
from probgen.errors import NotSupported
from tests.plots.drawing import drawn, texts

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
FAST = {"hidden": (16,), "max_epochs": 8, "noise": 0.0, "compile": False, "random_state": 0}


@pytest.fixture(scope="module")
def vae():
    return pg.VAE(latents=3, **FAST).fit(penguins())


def test_bars_are_the_summary(vae):
    table = penguins().iloc[::2]
    left, right = vae.plot.latents(table, colour="species")
    drawn([left, right])
    summary = vae.latent_summary(table).drop("all").sort_values("kl", ascending=False)
    assert [tick.get_text() for tick in left.get_yticklabels()] == list(summary.index)
    told, rest = ([bar.get_width() for bar in part] for part in left.containers)
    np.testing.assert_allclose(np.add(told, rest), summary["kl"])
    np.testing.assert_allclose(
        told, np.clip(summary["mutual_information"], 0, summary["kl"]), atol=1e-12
    )
    best = summary["mutual_information"].sort_values(ascending=False).index[:2]
    assert [right.get_xlabel(), right.get_ylabel()] == list(best)
    assert texts(right.get_legend()) == ["Adelie", "Chinstrap", "Gentoo"]


def test_points_are_draws_of_the_guide_and_contours_those_of_the_prior(vae):
    table = penguins().dropna()
    _, right = vae.plot.latents(table)
    drawn(right)
    points = np.ma.filled(right.collections[0].get_offsets())
    assert len(points) == len(table)
    found = vae.latent(table)
    mean, sd = (found[right.get_xlabel() + part].to_numpy() for part in ("", ".sd"))
    far = (points[:, 0] - mean) / sd
    assert abs(far.mean()) < 4 / np.sqrt(len(far))
    assert abs(far.std() - 1) < 4 / np.sqrt(2 * len(far))
    # circles that hold 90 % and half of a standard normal
    wanted = np.sqrt(-2 * np.log([0.1, 0.5]))
    paths = [path.vertices for path in right.collections[1].get_paths()]
    for path, radius in zip(paths, wanted, strict=True):
        np.testing.assert_allclose(np.hypot(*path.T), radius, rtol=0.05)


def test_contours_of_other_priors_hold_their_share():
    table = penguins()
    model = pg.VAE(latents=2, prior="flow", **FAST).fit(table)
    _, right = model.plot.latents(table)
    drawn(right)
    family, drawn_from = (
        model.members_[0],
        [int(right.get_xlabel()[2]), int(right.get_ylabel()[2])],
    )
    torch.manual_seed(0)
    fresh = family.prior.distribution(4000, family.decoder.line.weight).sample()[:, drawn_from]
    batch = model._batch(pg.table.encode(table, model.schema_), model._device)
    prior = pg.queries.latent_draws(model._predictive(), batch, 18)["z"].prior[:6000:2, drawn_from]
    density = gaussian_kde(prior.numpy().T, 0.08)(fresh.numpy().T)
    for level, mass in zip(right.collections[1].levels, (0.9, 0.5), strict=True):
        # four standard errors, of these draws and of those that chose the level
        error = 4 * (mass * (1 - mass) * (1 / 4000 + 1 / 3000)) ** 0.5
        assert (density > level).mean() == pytest.approx(mass, abs=error)


def test_one_dimension_and_none(birds):
    model = pg.VAE(latents=1, **FAST).fit(penguins())
    left, right = model.plot.latents(penguins(), rows=50)
    drawn([left, right])
    assert right.get_ylabel() == "density" and len(left.containers[0]) == 1
    with pytest.raises(pg.SchemaError, match="colour"):
        model.plot.latents(penguins(), colour="nothing")
    with pytest.raises(NotSupported, match="latent"):
        birds.plot.latents(penguins())


def test_only_the_largest_of_many_dimensions():
    model = pg.VAE(latents=23, **{**FAST, "max_epochs": 1}).fit(penguins())
    left, _ = model.plot.latents(penguins(), rows=60)
    drawn(left)
    assert len(left.containers[0]) == 20 and "3 smaller ones left out" in left.get_title()
