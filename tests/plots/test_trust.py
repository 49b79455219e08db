"""Bands of chance, PIT, ranks, k-hat and differences of elpd."""

import dataclasses
import types

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

import probgen as pg
from probgen import plots
from probgen.datasets import penguins
from probgen.plots.bands import cumulative_band, share_band
from probgen.plots.shared import DATA, MODEL
from tests import pairs
from tests.plots.drawing import drawn, texts


@dataclasses.dataclass
class Ranks:
    """What simulations of calibration give."""

    ranks: pd.DataFrame
    draws: int
    summary: pd.DataFrame


def simulated(draws=99, n=200, verdicts=("ok", "under-dispersed", "biased")):
    rng = np.random.default_rng(1)
    ranks = pd.DataFrame({
        "right": rng.integers(0, draws + 1, n),
        "narrow": rng.binomial(draws, rng.beta(0.5, 0.5, n)),
        "low": rng.binomial(draws, rng.beta(1, 1.8, n)),
    })  # fmt: skip
    summary = pd.DataFrame({"verdict": verdicts, "p_value": [0.6, 0.0, 0.0]}, index=ranks.columns)
    return Ranks(ranks, draws, summary)


# --- bands ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [12, 150, 3000])
@pytest.mark.parametrize("steps", [(0.05,) * 20, (0.5, 0.1, 0.1, 0.3)])
def test_the_bands_hold_whole_samples(n, steps):
    rng, level, trials = np.random.default_rng(0), 0.9, 4000
    counts = rng.multinomial(n, steps, size=trials)
    for band, shares in ((cumulative_band, counts.cumsum(1) / n), (share_band, counts / n)):
        low, high = band(n, steps, level)
        inside = ((shares >= low - 1e-12) & (shares <= high + 1e-12)).all(1).mean()
        error = 4 * np.sqrt(level * (1 - level) / trials)
        assert inside > level - error
        assert inside < level + error or n < 200  # counts are coarse in small samples


def test_a_band_is_wider_than_at_one_place_and_narrower_than_bonferroni():
    from scipy import stats

    low, high = cumulative_band(500, (0.02,) * 50)
    at_one, bonferroni = stats.binom.isf([0.05 / 2, 0.05 / 49 / 2], 500, 0.5) / 500
    assert at_one < high[24] < bonferroni
    assert low[-1] == high[-1] == 1


# --- PIT --------------------------------------------------------------------------------------


def test_pit_of_rows_of_the_model_stays_in_the_band(birds):
    own = birds.sample(300, random_state=5)
    axes = birds.plot.pit(own, columns=["species", "body_mass_g", "year"])
    drawn(axes)
    assert [ax.get_title(loc="left") for ax in axes] == ["species", "body_mass_g", "year"]
    for ax in axes:
        assert to_hex(ax.get_lines()[1].get_color()) == DATA.lower()
        assert ax.get_lines()[1].get_ydata()[-1] == pytest.approx(0, abs=1e-12)


def test_pit_of_a_column_in_other_units_leaves_it(birds):
    wrong = birds.sample(300, random_state=5)
    wrong["body_mass_g"] += 300
    wrong.loc[:20, "bill_depth_mm"] = np.nan
    mass, depth = birds.plot.pit(wrong, columns=["body_mass_g", "bill_depth_mm"])
    assert [text.get_text() for ax in (mass, depth) for text in ax.texts] == [
        "leaves the band", ""
    ]  # fmt: skip
    line = mass.get_lines()[1]
    # the values are too high: fewer than there should be lie below any place
    assert to_hex(line.get_color()) == MODEL.lower() and line.get_ydata().min() < -0.1
    values = pg.diagnostics.pit.pit(birds, wrong, random_state=0)["body_mass_g"]
    at = line.get_xdata()
    np.testing.assert_allclose(line.get_ydata(), [(values <= x).mean() - x for x in at], atol=1e-9)
    ax = birds.plot.pit(wrong, columns=["body_mass_g"], shape="histogram")[0]
    heights = ax.patches[-1].get_data().values
    assert heights.mean() == pytest.approx(1) and ax.texts[0].get_text() == "leaves the band"


def test_pit_of_a_hole_says_so_and_of_nothing_is_refused(birds):
    table = penguins().assign(body_mass_g=np.nan)
    ax = birds.plot.pit(table, columns=["body_mass_g", "sex"])[0]
    assert ax.texts[0].get_text() == "nothing seen"
    for wrong, said in ((table.head(0), "no seen cells"), (table[["body_mass_g"]], "no seen")):
        with pytest.raises(pg.SchemaError, match=said):
            birds.plot.pit(wrong)
    with pytest.raises(pg.SchemaError, match="shape='bars'"):
        birds.plot.pit(penguins(), columns=["sex"], shape="bars")


# --- ranks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["difference", "histogram"])
def test_ranks_leave_the_band_where_the_posterior_is_wrong(shape):
    found = simulated()
    axes = plots.ranks(found, shape=shape)
    figure = drawn(axes)
    assert [ax.get_title(loc="left") for ax in axes] == ["right", "narrow", "low"]
    assert [ax.texts[0].get_text() for ax in axes] == list(found.summary["verdict"])
    colours = [
        to_hex(ax.get_lines()[1].get_color() if shape == "difference"
               else ax.patches[-1].get_edgecolor()) for ax in axes
    ]  # fmt: skip
    assert colours == [DATA.lower(), MODEL.lower(), MODEL.lower()]
    assert texts(figure.legends[0] if figure.legends else axes[0].figure.axes[-1].get_legend())
    if shape == "difference":
        x, y = axes[2].get_lines()[1].get_data()
        ranks = found.ranks["low"].to_numpy()
        edges = np.rint(x * (found.draws + 1)).astype(int)
        np.testing.assert_allclose(y, [(ranks < e).mean() - e / 100 for e in edges], atol=1e-9)


def test_the_worst_of_many_quantities_are_drawn_and_names_are_checked():
    rng = np.random.default_rng(0)
    names = [f"theta[{i}]" for i in range(30)]
    ranks = pd.DataFrame(rng.integers(0, 51, (40, 30)), columns=names)
    p = np.linspace(1, 0, 30)
    found = Ranks(ranks, 50, pd.DataFrame({"verdict": "ok", "p_value": p}, index=names))
    axes = plots.ranks(found)
    assert [ax.get_title(loc="left") for ax in axes] == names[:13:-1]
    assert len(plots.ranks(found, ["theta[3]"])) == 1
    with pytest.raises(pg.SchemaError, match="sigma"):
        plots.ranks(found, ["sigma"])
    with pytest.raises(pg.SchemaError, match="no simulations"):
        plots.ranks(Ranks(ranks.head(0), 50, found.summary))
    with pytest.raises(pg.SchemaError, match="level=2"):
        plots.ranks(found, level=2)


# --- k-hat ------------------------------------------------------------------------------------


def test_khat_marks_the_bad_rows():
    khat = pd.Series([0.1, 0.6, 1.2, np.nan, np.inf, -0.2, 0.7], index=list("abcdefa"))
    _, mine = plt.subplots()
    ax = plots.khat(types.SimpleNamespace(pointwise=pd.DataFrame({"khat": khat})), ax=mine)
    drawn(ax)
    assert ax is mine
    assert [len(part.get_offsets()) for part in ax.collections] == [2, 2, 2]
    assert {text.get_text() for text in ax.texts} == {"c", "e"}
    assert [line.get_ydata()[0] for line in ax.get_lines()] == [0.5, 0.7]
    assert texts(ax.get_legend())[2] == "above 0.7: 2 rows (33.3 %)"
    np.testing.assert_allclose(ax.collections[1].get_offsets(), [[1, 0.6], [6, 0.7]])


def test_khat_of_a_model_is_that_of_its_densities(birds):
    table = pairs.overdispersed_table(60)
    model = pairs.fit(table, pairs.overdispersed)
    ax = model.plot.khat(table)
    known = np.sort(model.log_prob(table, details=True)["khat"])
    shown = np.concatenate([part.get_offsets()[:, 1] for part in ax.collections])
    np.testing.assert_allclose(np.sort(shown), known, rtol=1e-12)
    with pytest.raises(pg.SchemaError, match="no k-hat"):
        birds.plot.khat(penguins())
    with pytest.raises(pg.SchemaError, match="without rows"):
        plots.khat(model)


# --- comparisons ------------------------------------------------------------------------------


def compared():
    table = pd.DataFrame({
        "elpd": [-12.3, -12.5, -14.0, -np.inf], "se": [0.2, 0.21, 0.3, np.nan],
        "difference": [0.0, -0.2, -1.7, -np.inf], "difference_se": [0.0, 0.05, 0.2, np.nan],
        "weight": [0.8, 0.2, 0.0, 0.0],
    }, index=["mixture", "pair", "independent", "broken"])  # fmt: skip
    rng = np.random.default_rng(0)
    pointwise = pd.DataFrame(rng.normal(size=(344, 4)), columns=table.index)
    return types.SimpleNamespace(table=table, pointwise=pointwise)


def test_elpd_shows_differences_with_their_errors():
    ax = plots.elpd(compared())
    figure = drawn(ax)
    dots = ax.containers[1].lines[0]
    np.testing.assert_allclose(dots.get_xdata(), [0, -0.2, -1.7])
    for container, times in zip(ax.containers, (2, 1), strict=True):
        ends = np.array([s[:, 0] for s in container.lines[2][0].get_segments()])
        np.testing.assert_allclose(np.ptp(ends, axis=1), 2 * times * np.array([0, 0.05, 0.2]))
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert labels == ["mixture", "pair", "independent", "broken"]
    assert dots.get_ydata()[0] > dots.get_ydata()[1]  # the best on top
    right = [tick.get_text() for tick in figure.axes[1].get_yticklabels()]
    assert right[0] == "-12.30 ± 0.20   weight 0.80"
    assert any("density 0" in text.get_text() for text in ax.texts)
    with pytest.raises(pg.SchemaError, match="no models"):
        plots.elpd(types.SimpleNamespace(table=compared().table.head(0)))


def test_gains_are_the_differences_of_rows():
    table, found = penguins(), compared()
    found.pointwise["pair"] -= (table["species"] == "Gentoo") * 2.0
    ax = plots.gains(found, table, "species")
    drawn(ax)
    gap = found.pointwise["mixture"] - found.pointwise["pair"]
    np.testing.assert_allclose(ax.collections[0].get_offsets()[:, 1], gap)
    means = ax.containers[0].lines[0].get_ydata()
    np.testing.assert_allclose(means, gap.groupby(table["species"]).mean())
    ax = plots.gains(found, table, "body_mass_g", ("pair", "independent"))
    drawn(ax)
    assert len(ax.collections[0].get_offsets()) == table["body_mass_g"].notna().sum()
    dates = table.assign(day=pd.date_range("2024-01-01", periods=len(table)))
    ax = plots.gains(found, dates, "day")
    drawn(ax)
    assert "Jul" in [tick.get_text() for tick in ax.get_xticklabels()]
    with pytest.raises(pg.SchemaError, match="344 rows"):
        plots.gains(found, table.head(3), "species")
