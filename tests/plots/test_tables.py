"""Plots of tables, rows and fits: what is drawn, and from what."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

import probgen as pg
from probgen import plots
from probgen.datasets import penguins
from probgen.plots.shared import DATA, MODEL
from tests.plots.drawing import drawn


def test_loss_has_a_line_for_each_restart(birds):
    ax = birds.plot.loss()
    drawn(ax)
    for line, result in zip(ax.get_lines(), birds.results_, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), result.losses)
    assert "nats a row" in ax.get_ylabel() and "2 of 2" in ax.get_title(loc="left")


def test_loss_draws_on_given_axes_with_held_out_rows():
    model = pg.GaussianMixture(components=2, validation=0.2, random_state=0, draws=2)
    model.fit(penguins())
    _, mine = plt.subplots()
    ax = plots.loss(model, ax=mine)
    assert ax is mine and len(ax.get_lines()) == 2
    assert any("held out" in text.get_text() for text in ax.get_legend().get_texts())


def test_pairs_show_equally_many_rows_of_both_sorts(birds):
    table = penguins().dropna()
    axes = birds.plot.pairs(table, columns=["species", "bill_length_mm", "body_mass_g"])
    drawn(axes)
    points = axes[2, 1].collections[0]
    assert len(points.get_offsets()) == 2 * len(table)
    colours, counts = np.unique([to_hex(c) for c in points.get_facecolors()], return_counts=True)
    assert set(colours) == {DATA.lower(), MODEL.lower()} and len(set(counts)) == 1
    assert axes[2, 0].get_xlabel() == "species" and axes[2, 0].get_ylabel() == "body mass g"
    assert not axes[0, 1].axison
    x, y = points.get_offsets().T
    assert {x.min() <= table["bill_length_mm"].min(), y.max() >= table["body_mass_g"].max()} == {
        True
    }


def test_pairs_choose_numbers_and_refuse_too_many(birds):
    assert birds.plot.pairs(penguins(), rows=50).shape == (4, 4)
    with pytest.raises(pg.SchemaError, match=r"1 column.*2 to 6"):
        birds.plot.pairs(penguins(), columns=["sex"])
    with pytest.raises(pg.SchemaError, match="weight"):
        birds.plot.pairs(penguins(), columns=["sex", "weight"])


def test_surprisal_marks_the_oddest_rows(birds):
    table = penguins()
    ax = birds.plot.surprisal(table, odd=3)
    drawn(ax)
    worst = birds.surprisal(table).nlargest(3)
    assert {text.get_text() for text in ax.texts} == {str(label) for label in worst.index}
    np.testing.assert_allclose(np.sort(ax.get_lines()[0].get_xdata()), np.sort(worst))


def test_waterfall_ends_at_the_surprisal_of_the_row(birds):
    row = penguins().loc[[293]]
    ax = birds.plot.waterfall(row)
    drawn(ax)
    ends = sorted(line.get_xdata()[0] for line in ax.get_lines())
    total = sum(bar.get_width() for bar in ax.patches)
    surprisal = birds.surprisal(row).item()
    assert min(abs(np.array(ends) - surprisal)) < 1e-9
    start = next(end for end in ends if abs(end - surprisal) > 1e-9)
    assert start + total == pytest.approx(surprisal)
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert "bill_length_mm = 58" in labels and "row 293" in ax.get_title(loc="left")
    # the bars hang together: each starts where the one above it ends
    bars = sorted(ax.patches, key=lambda bar: -bar.get_y())
    reach = [bar.get_x() + bar.get_width() for bar in bars]
    np.testing.assert_allclose([bar.get_x() for bar in bars[1:]], reach[:-1], atol=1e-9)


def test_waterfall_leaves_holes_out_and_wants_one_row(birds):
    table = penguins()
    ax = birds.plot.waterfall(table.loc[[3]])  # nothing measured
    assert len(ax.patches) == 3
    with pytest.raises(pg.SchemaError, match="344 rows"):
        birds.plot.waterfall(table)
    with pytest.raises(pg.SchemaError, match="without cells"):
        birds.plot.waterfall(pd.DataFrame({"body_mass_g": [np.nan]}))


def test_p_values_of_sound_rows_lie_in_the_band():
    rng = np.random.default_rng(0)
    old, new = (pd.DataFrame(rng.exponential(size=(n, 2)), columns=["a", "b"]) for n in (400, 200))
    kinds = dict.fromkeys("ab", "real")
    model = pg.GaussianMixture(1, columns=kinds, random_state=0, draws=2).fit(old, calibration=0.5)
    ax = model.plot.p_values(new)
    x, y = ax.lines[-1].get_data()
    assert x[0] == y[0] == 0 and x[-1] == y[-1] == 1 and len(x) == 202
    found = model.outliers(new, fdr=None)["p_value"]
    np.testing.assert_allclose(np.sort(found), x[1:-1])
    assert "split-conformal" in ax.get_legend_handles_labels()[0][-1].get_label()
    for own, spread in ((ax, 1 / 200 + 1 / 200), (model.plot.p_values(old, folds=2), 1 / 400)):
        band = own.collections[0].get_paths()[0].vertices
        middle = band[np.isclose(band[:, 0], 0.5), 1]
        assert np.ptp(middle) == pytest.approx(2 * 1.96 * 0.5 * np.sqrt(spread))
    with pytest.raises(pg.SchemaError, match="no rows"):
        model.plot.p_values(new.head(0))
