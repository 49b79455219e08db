"""The density of each column with its posterior band."""

import types
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import FillBetweenPolyCollection

import probgen as pg
from probgen import plots
from probgen.datasets import penguins
from probgen.errors import NotSupported
from probgen.plots.heights import heights
from probgen.plots.spans import Span, as_series, bins, span_of
from tests import pairs
from tests.plots.drawing import drawn, texts


def test_marginals_show_the_shares_and_the_density(birds):
    table = penguins()
    axes = birds.plot.marginals(table)
    drawn(axes)
    assert [ax.get_title(loc="left") for ax in axes] == list(table.columns)
    bars = [patch.get_height() for patch in axes[0].patches]
    np.testing.assert_allclose(bars, table["species"].value_counts(normalize=True).sort_index())
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == [
        "Adelie", "Chinstrap", "Gentoo",
    ]  # fmt: skip
    data = axes[5].patches[0].get_data()
    assert float((data.values * np.diff(data.edges)).sum()) == pytest.approx(1)
    model = np.asarray(axes[0].get_lines()[0].get_ydata())
    np.testing.assert_allclose(model, bars, atol=0.05)


def test_marginals_of_dates_counts_and_long_labels():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "day": pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(rng.normal(0, 50, 90), "D"),
        "visits": rng.poisson(3, 90),
        "place": rng.choice(["a very long name of a place", "another very long name"], 90),
        "code": pd.Categorical(rng.integers(40, size=90).astype(str)),
        "sure": rng.random(90) < 0.3,
    })  # fmt: skip
    table.loc[3, ["day", "visits"]] = None
    model = pg.GaussianMixture(components=2, random_state=0, draws=2).fit(table)
    axes = model.plot.marginals(table)
    drawn(axes)
    assert "per day" in axes[0].get_ylabel()
    edges = axes[1].patches[0].get_data().edges
    assert np.allclose(edges % 1, 0.5)  # whole numbers are in the middle of their bars
    assert "levels" in axes[3].get_xlabel()
    assert len(model.plot.pairs(table, columns=["day", "visits", "sure"])) == 3


def band_of(ax):
    """x, lower and upper ends of the band of a panel."""
    fill = next(c for c in ax.collections if isinstance(c, FillBetweenPolyCollection))
    ends = pd.DataFrame(fill.get_paths()[0].vertices, columns=["x", "y"]).groupby("x")["y"]
    return ends.min().index.to_numpy(), ends.min().to_numpy(), ends.max().to_numpy()


def test_the_band_is_the_quantiles_of_the_density_by_draw(birds):
    ax = birds.plot.marginals(penguins(), columns=["body_mass_g"], interval=0.8)[0]
    drawn(ax)
    x, low, high = band_of(ax)
    points = pd.DataFrame({"body_mass_g": x})
    known = birds.log_prob(points, interval=0.8)
    np.testing.assert_allclose(low, np.exp(known["lower"]), rtol=1e-9)
    np.testing.assert_allclose(high, np.exp(known["upper"]), rtol=1e-9)
    line = ax.get_lines()[0]
    np.testing.assert_allclose(line.get_ydata(), np.exp(known["log_prob"]), rtol=1e-9)
    # the whole mass is in the picture, in the table's units
    assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(1, abs=0.02)


def test_levels_have_error_bars(birds):
    ax = birds.plot.marginals(penguins(), columns=["species"])[0]
    known = birds.log_prob(pd.DataFrame({"species": ["Adelie", "Chinstrap", "Gentoo"]}),
                           interval=0.9)  # fmt: skip
    bars = ax.containers[1].lines[2][0].get_segments()
    np.testing.assert_allclose([s[0, 1] for s in bars], np.exp(known["lower"]), rtol=1e-9)
    np.testing.assert_allclose([s[1, 1] for s in bars], np.exp(known["upper"]), rtol=1e-9)


@pytest.mark.parametrize(("interval", "said"), [
    (0.5, "model, 50 % posterior band"), (None, "model"),
])  # fmt: skip
def test_the_legend_says_what_the_band_is(birds, interval, said):
    ax = birds.plot.marginals(penguins(), columns=["sex"], interval=interval)[0]
    assert texts(ax.figure.legends[0]) == ["table", said]


def test_without_draws_the_line_alone():
    table = pd.DataFrame({"x": np.random.default_rng(0).normal(size=60)})
    model = pg.GaussianMixture(1, draws=0, random_state=0).fit(table)
    ax = model.plot.marginals(table)[0]
    assert not ax.collections and len(ax.get_lines()) == 1
    assert "no band" in texts(ax.figure.legends[0])[1]
    with pytest.raises(pg.SchemaError, match="interval=1.5"):
        model.plot.marginals(table, interval=1.5)


def test_a_family_without_density_shows_rows_that_it_draws(birds, monkeypatch):
    def none(*_, **__):
        raise NotSupported("no density")

    monkeypatch.setattr(type(birds), "log_prob", none)
    axes = birds.plot.marginals(penguins(), columns=["species", "body_mass_g"])
    drawn(axes)
    assert texts(axes[0].figure.legends[0])[1] == "model (rows drawn)"
    data, model = (patch.get_data().values for patch in axes[1].patches)
    assert np.corrcoef(data, model)[0, 1] > 0.9


def test_the_average_over_contexts_is_that_of_each_draw():
    table = pairs.hierarchical_table().head(60)
    model = pairs.fit(table, pairs.hierarchical, given=pairs.HIERARCHICAL_GIVEN)
    held = table[pairs.HIERARCHICAL_GIVEN].head(3)
    points = pd.DataFrame({"body_mass_g": [3500.0, 4500.0]})
    found = heights(model, points, held, 0.9)
    each = [
        np.exp(model.log_prob(pd.concat([points, pd.concat([held.iloc[[i]]] * 2,
               ignore_index=True)], axis=1)))
        for i in range(3)
    ]  # fmt: skip
    np.testing.assert_allclose(found.value, np.mean(each, 0), rtol=1e-6)
    assert (found.lower < found.value).all() and (found.value < found.upper).all()
    axes = model.plot.marginals(table)
    drawn(axes)
    assert [ax.get_title(loc="left") for ax in axes] == ["body_mass_g"]
    with pytest.raises(pg.SchemaError, match="no row with a whole context"):
        plots.marginals(model, table.assign(flipper_length_mm=np.nan))


def wild(n=240):
    """Atoms, several orders of magnitude, dates, a tail, holes, a long name, copies of labels."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "rain": np.where(rng.random(n) < 0.4, 0.0, rng.gamma(2, 3, n)),
        "income of the household in the year before the interview": np.exp(rng.normal(9, 2, n)),
        "visits": rng.negative_binomial(0.3, 0.0006, n),
        "day": pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(rng.normal(0, 50, n), "D"),
        "wait": pd.to_timedelta(rng.gamma(3, 2, n), "h"),
        "tail": rng.standard_t(1, n),
    }, index=np.arange(n) // 2)  # fmt: skip
    table.iloc[::11, 1] = np.nan
    table.iloc[3::7, 3] = pd.NaT
    return table


@pytest.fixture(scope="module")
def wild_model():
    kinds = {wild().columns[1]: "positive", "rain": {"kind": "real", "atoms": [0.0]}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pg.GaussianMixture(
            components=2, columns=kinds, draws=10, max_epochs=40, random_state=0
        ).fit(wild())


def test_awkward_columns(wild_model):
    table = wild()
    axes = wild_model.plot.marginals(table)
    figure = drawn(axes)
    rain, income, visits, day, wait, tail = axes
    right = next(ax for ax in figure.axes if ax.get_ylabel() == "share at single values")
    stem = right.collections[0].get_segments()[0]
    assert stem[1, 1] == pytest.approx((table["rain"] == 0).mean())
    chance = np.exp(wild_model.log_prob(pd.DataFrame({"rain": [0.0]}))).item()
    assert right.get_lines()[0].get_ydata()[0] == pytest.approx(chance)
    # the curve and the bars hold what the atom leaves
    bars = rain.patches[0].get_data()
    area = (bars.values * np.diff(bars.edges)).sum()
    assert area == pytest.approx((table["rain"] > 0).mean(), abs=0.02)
    assert income.get_xscale() == "log" and income.get_title(loc="left").endswith("…")
    line = income.get_lines()[0]
    assert np.trapezoid(line.get_ydata(), np.log(line.get_xdata())) == pytest.approx(1, abs=0.03)
    assert visits.get_xscale() == "function" and "log(1 + x)" in visits.get_ylabel()
    assert "per day" in day.get_ylabel() and "per day" in wait.get_ylabel()
    beyond = next(text.get_text() for text in tail.texts)
    assert beyond.endswith("beyond") and tail.get_xlim()[1] < table["tail"].abs().max()


def test_one_row_and_none(wild_model):
    for table in (wild().head(1), wild().head(0), wild().assign(rain=np.nan).head(2)):
        drawn(wild_model.plot.marginals(table, samples=50))


def test_no_figure_is_left_open_but_that_of_the_axes(birds):
    before = len(plt.get_fignums())
    birds.plot.marginals(penguins(), columns=["sex"])
    assert len(plt.get_fignums()) == before + 1


class TestSpans:
    def column(self, kind):
        return pg.Schema.infer(pd.DataFrame({"x": [1.0, 2.0, 7.0]}), {"x": kind})["x"]

    def test_points_are_legal_and_follow_the_data(self):
        column = self.column("positive")
        near = np.full(400, 2.0) + np.linspace(0, 1e-3, 400)
        span = span_of(column, np.append(near, [0.5, 90.0]), near)
        points = span.points(20, near)
        assert (points > 0).all() and ((points > 2) & (points < 2.001)).sum() >= 8

    def test_warp_and_back(self):
        span = Span(self.column("count"), 0.0, 1000.0, shift=1.0)
        values = np.array([0.0, 1.0, 999.0])
        np.testing.assert_allclose(span.unwarp(span.warp(values)), values, atol=1e-9)
        edges = bins(span, values)
        assert np.allclose(edges % 1, 0.5) and (np.diff(edges) > 0).all()
        # the mass of each whole number is the area over its cell
        width = span.warp(values + 0.5) - span.warp(values - 0.5)
        np.testing.assert_allclose(span.slope(values) * width, 1)

    def test_numbers_become_cells_of_the_column(self):
        days = pd.Series(pd.to_datetime(["2024-03-01 06:00", "1991-01-02 00:00"])).dt.tz_localize(
            "Europe/Berlin"
        )
        schema = pg.Schema.infer(pd.DataFrame({"x": days}))
        numbers = plots.shared.numbers(days)
        back = as_series(numbers, schema["x"])
        assert (back == days).all() and back.dt.tz is not None
        stand = types.SimpleNamespace(labelled=True, levels=("a", "b"))
        assert list(as_series(np.array([1, 0]), stand)) == ["b", "a"]
