"""Joint densities, components and latents."""

import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest

import probgen as pg
from probgen import plots
from probgen.datasets import penguins
from probgen.errors import NotSupported
from tests import pairs
from tests.plots.drawing import drawn, texts

TWO = ["bill_length_mm", "body_mass_g"]


def test_contours_hold_their_share_of_the_rows_that_the_model_draws(birds):
    ax = birds.plot.density(penguins(), TWO, masses=(0.5, 0.9))
    drawn(ax)
    contours = next(c for c in ax.collections if hasattr(c, "levels"))
    own = birds.sample(4000, random_state=3)[TWO]
    height = np.exp(birds.log_prob(own))
    for level, mass in zip(contours.levels, (0.9, 0.5), strict=True):
        # 4000 draws, and a grid of 64 x 64 in the picture only
        assert (height > level).mean() == pytest.approx(mass, abs=0.03)
    rows = ax.collections[0].get_offsets()
    np.testing.assert_allclose(np.ma.filled(rows, np.nan), penguins()[TWO])
    assert (ax.get_xlabel(), ax.get_ylabel()) == tuple(TWO)


def in_context(batch):
    with batch.rows():
        x = pyro.sample("x", dist.Normal(3 * batch["c"], 1.0), obs=batch["x"])
        pyro.sample("y", dist.Normal(x, 1.0), obs=batch["y"])


def test_a_density_in_context_is_the_average():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"c": rng.choice([-1.0, 1.0], 40)})
    table["x"] = 3 * table["c"] + rng.normal(size=40)
    table["y"] = table["x"] + rng.normal(size=40)
    table.loc[3, "c"] = np.nan  # no context: such rows are left out
    model = pairs.fit(table.drop(3), in_context, given=["c"])
    ax = model.plot.density(table)
    drawn(ax)
    inner = [c for c in ax.collections if hasattr(c, "levels")][0].get_paths()[-1]
    middles = [polygon.mean(0) for polygon in inner.to_polygons()]
    assert len(middles) == 2  # one peak for each context
    assert np.sign([x for x, _ in middles]).sum() == 0


@pytest.mark.parametrize("columns", [["sex", "year"], TWO[:1], [TWO[0], TWO[0]], ["x", "y"]])
def test_maps_want_two_columns_of_numbers(birds, columns):
    for draw in (birds.plot.density, birds.plot.components):
        with pytest.raises(pg.SchemaError):
            draw(penguins(), columns)


def test_shares_of_mass_are_checked(birds):
    with pytest.raises(pg.SchemaError, match="masses"):
        birds.plot.density(penguins(), TWO, masses=(95,))


def test_components_are_where_their_rows_are(birds):
    table = penguins()
    ax = birds.plot.components(table, TWO, rows=1000)
    drawn(ax)
    chance = birds.latent(table).to_numpy()
    best = chance.argmax(1)
    dots = [part for part in ax.collections if len(part.get_offsets())]
    assert sum(len(part.get_offsets()) for part in dots) == len(table)
    labels = texts(ax.get_legend())
    assert {int(label.split(":")[0]) for label in labels} >= set(best)
    for line, label in zip(ax.get_lines(), labels, strict=True):
        k = int(label.split(":")[0])
        own = table.loc[(best == k), TWO].dropna()
        x, y = line.get_data()
        inside = own[TWO[0]].between(x.min(), x.max()) & own[TWO[1]].between(y.min(), y.max())
        assert inside.mean() > 0.85
    shares = [float(label.split(":")[1].removesuffix(" %")) for label in labels]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=3)


def test_an_ellipse_has_the_moments_of_one_normal():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.multivariate_normal([3, -2], [[4, 1.5], [1.5, 1]], 2000),
                         columns=["a", "b"])  # fmt: skip
    model = pg.GaussianMixture(1, draws=0, random_state=0).fit(table)
    ax = model.plot.components(table, ["a", "b"])
    x, y = ax.get_lines()[0].get_data()
    reach = np.sqrt(-2 * np.log(1 - 0.9))
    # four standard errors of a standard deviation from 4000 draws
    assert np.ptp(x) / 2 == pytest.approx(2 * reach, rel=4 / np.sqrt(2 * 2000))
    assert np.ptp(y) / 2 == pytest.approx(reach, rel=4 / np.sqrt(2 * 2000))


def test_a_label_of_a_pair_is_a_component_too():
    rng = np.random.default_rng(0)
    label = rng.random(150) < 0.4
    table = pd.DataFrame({"x": rng.normal(np.where(label, -2, 2), 1),
                          "y": rng.normal(np.where(label, 0, 3), 1)})  # fmt: skip
    model = pairs.fit(table, pairs.mixture)
    ax = model.plot.components(table)
    drawn(ax)
    assert len(texts(ax.get_legend())) == 2


@pytest.fixture(scope="module")
def autoencoder():
    table = pairs.chain_table(120)
    net = pairs.Autoencoder()
    return pairs.fit(table, net.model, net.guide), table


def test_latents_of_rows(autoencoder):
    model, table = autoencoder
    shown = table.assign(group=np.where(table["x"] > 2, "high", "low"))
    ax = model.plot.latent(shown, colour="group")
    drawn(ax)
    found = model.latent(table)
    dots = np.concatenate([part.get_offsets() for part in ax.collections])
    np.testing.assert_allclose(np.sort(dots[:, 0]), np.sort(found.iloc[:, 0]))
    assert texts(ax.get_legend()) == ["high", "low"]
    assert drawn(model.plot.latent(table, colour="x")).axes[1].get_ylabel() == "x"
    with pytest.raises(pg.SchemaError, match="colour"):
        model.plot.latent(table, colour="nothing")


def test_latents_and_components_send_to_one_another(birds, autoencoder):
    with pytest.raises(NotSupported, match=r"plot\.components"):
        birds.plot.latent(penguins())
    with pytest.raises(NotSupported, match=r"plot\.latent"):
        autoencoder[0].plot.components(autoencoder[1])


def test_contours_on_axes_of_logarithms():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"size": np.exp(rng.normal(3, 1.5, 300)), "other": rng.normal(size=300)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = pg.GaussianMixture(
            1, columns={"size": "positive"}, draws=0, random_state=0
        ).fit(table)  # fmt: skip
    ax = plots.density(model, table, masses=(0.8,))
    drawn(ax)
    contour = next(c for c in ax.collections if hasattr(c, "levels"))
    own = model.sample(4000, random_state=1)
    # the contour is of the density on the axes, that of log(size)
    height = np.exp(model.log_prob(own)) * own["size"]
    assert ax.get_xscale() == "log"
    assert (height > contour.levels[0]).mean() == pytest.approx(0.8, abs=0.03)
