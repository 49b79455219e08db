"""The warp of a flow."""

import numpy as np
import pandas as pd
import pytest

import probgen as pg
from probgen.errors import NotSupported
from tests.plots.drawing import drawn


@pytest.fixture(scope="module")
def bent():
    rng = np.random.default_rng(0)
    x = rng.normal(size=120)
    table = pd.DataFrame({"x": x, "y": x**2 + 0.3 * rng.normal(size=120)})
    return table, pg.Flow(base="normal", max_epochs=10, noise=0.0, random_state=0).fit(table)


def test_rows_and_grid_in_both_spaces(bent):
    table, model = bent
    left, right = model.plot.warp(table, lines=5)
    drawn([left, right])
    np.testing.assert_allclose(np.ma.filled(right.collections[0].get_offsets()), table, atol=1e-6)
    np.testing.assert_allclose(
        np.ma.filled(left.collections[0].get_offsets()), model.latent(table), atol=1e-6
    )
    assert len(left.lines) == len(right.lines) == 10
    # the image of a grid line goes back to it
    line = pd.DataFrame(np.transpose(right.lines[1].get_data()), columns=["x", "y"])
    back = np.transpose(left.lines[1].get_data())
    np.testing.assert_allclose(model.latent(line), back, atol=1e-5)


def test_a_base_of_two_dimensions_is_needed(bent):
    table, model = bent
    one = pg.Flow(max_epochs=1, noise=0.0, random_state=0).fit(table[["y"]])
    with pytest.raises(NotSupported, match="1 dimensions"):
        one.plot.warp(table[["y"]])
    with pytest.raises(NotSupported, match="no base space"):
        pg.Independent(max_epochs=5).fit(table).plot.warp(table)
