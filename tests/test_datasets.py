"""The shipped tables are what their notice says."""

import numpy as np
import pandas as pd
import pytest

import probgen as pg
from probgen import datasets


def test_penguins_has_the_published_shape_types_and_holes():
    table = datasets.penguins()
    assert table.shape == (344, 8)
    assert list(table.columns) == [
        "species",
        "island",
        "bill_length_mm",
        "bill_depth_mm",
        "flipper_length_mm",
        "body_mass_g",
        "sex",
        "year",
    ]
    assert [str(kind) for kind in table.dtypes] == [
        "category",
        "category",
        "float64",
        "float64",
        "float64",
        "float64",
        "category",
        "int64",
    ]
    assert table.isna().sum().to_dict() == {
        "species": 0,
        "island": 0,
        "bill_length_mm": 2,
        "bill_depth_mm": 2,
        "flipper_length_mm": 2,
        "body_mass_g": 2,
        "sex": 11,
        "year": 0,
    }


def test_penguins_agrees_with_the_published_means():
    # Horst, Hill, Gorman (2020), species summary of the palmerpenguins manual
    mass = datasets.penguins().groupby("species", observed=True)["body_mass_g"].mean()
    assert mass.round().to_dict() == {"Adelie": 3701, "Chinstrap": 3733, "Gentoo": 5076}


def test_penguins_is_a_new_frame_at_each_call():
    first = datasets.penguins()
    first.loc[0, "year"] = 1900
    pd.testing.assert_series_equal(
        datasets.penguins()["year"].head(1), pd.Series([2007], name="year")
    )


def test_digits_has_a_column_a_pixel_and_the_digit():
    table = datasets.digits()
    assert table.shape == (1797, 65)
    assert list(table.columns[[0, 1, 8, 63, 64]]) == ["r0c0", "r0c1", "r1c0", "r7c7", "digit"]
    assert set(map(str, table.dtypes)) == {"int64", "category"}
    pixels = table.drop(columns="digit")
    assert pixels.to_numpy().min() == 0 and pixels.to_numpy().max() == 16
    # the counts of the test set in the notice of the UCI repository
    assert table["digit"].value_counts(sort=False).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip
    table.loc[0, "r0c0"] = 9
    assert datasets.digits().loc[0, "r0c0"] == 0


def test_binarised_draws_ones_with_their_probabilities():
    grey = pd.DataFrame({"A": np.full(4000, 0.3), "B": np.linspace(0, 1, 4000)})
    grey.iloc[0, 1] = np.nan
    drawn = datasets.binarised(grey, 0)
    assert drawn.columns.equals(grey.columns) and drawn.index.equals(grey.index)
    assert np.isnan(drawn.iloc[0, 1]) and set(drawn["A"]) == {0.0, 1.0}
    assert drawn["A"].mean() == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 4000) ** 0.5)
    assert drawn["B"].iloc[3999] == 1.0
    pd.testing.assert_frame_equal(drawn, datasets.binarised(grey, 0))
    assert not drawn.equals(datasets.binarised(grey, 1))
    assert isinstance(datasets.binarised(grey.to_numpy(), 0), np.ndarray)
    with pytest.raises(pg.SchemaError, match="the value 16"):
        datasets.binarised(16 * np.ones((2, 2)))
