"""What the tests of plots share: a fitted model, and a guard on all that is global."""

import matplotlib as mpl
import pytest

import probgen as pg
from probgen.datasets import penguins

mpl.use("Agg")


@pytest.fixture(scope="session")
def birds():
    kinds = {"flipper_length_mm": "real", "year": "ordered"}
    return pg.GaussianMixture(
        components=4, restarts=2, columns=kinds, draws=20, random_state=0
    ).fit(penguins())


@pytest.fixture(autouse=True)
def nothing_global():
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before
    plt.close("all")
