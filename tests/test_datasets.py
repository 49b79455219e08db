"""The shipped tables are what their notice says."""

import pandas as pd

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
