"""Real tables that ship with the package, each with its source and licence beside it."""

from __future__ import annotations

from importlib.resources import files

import pandas as pd

__all__ = ["penguins"]


def penguins() -> pd.DataFrame:
    """Measurements of 344 penguins of three species, with the holes that were recorded.

    Adult penguins near Palmer Station, Antarctica, 2007 to 2009. Two birds have no
    measurements at all, and 11 have no sex.

    Returns
    -------
    DataFrame (344, 8)
        ``species``, ``island``, ``sex`` (category), ``bill_length_mm``,
        ``bill_depth_mm``, ``flipper_length_mm`` (millimetres, float), ``body_mass_g``
        (grams, float), ``year`` (int). Missing values are NaN. A new frame at each call.

    Notes
    -----
    The data are in the public domain (CC0 1.0); the notice is in ``probgen/data/README.md``.

    References
    ----------
    Gorman KB, Williams TD, Fraser WR (2014). Ecological sexual dimorphism and environmental
    variability within a community of Antarctic penguins (genus Pygoscelis). PLOS ONE 9(3):
    e90081.

    Horst AM, Hill AP, Gorman KB (2020). palmerpenguins: Palmer Archipelago (Antarctica)
    penguin data. R package version 0.1.0.

    Examples
    --------
    >>> table = penguins()
    >>> table.shape
    (344, 8)
    >>> table["species"].value_counts().to_dict()
    {'Adelie': 152, 'Gentoo': 124, 'Chinstrap': 68}
    >>> int(table["sex"].isna().sum())
    11
    """
    categories = dict.fromkeys(("species", "island", "sex"), "category")
    sizes = dict.fromkeys(("flipper_length_mm", "body_mass_g"), "float64")
    with (files("probgen") / "data" / "penguins.csv").open(encoding="utf-8") as source:
        return pd.read_csv(source, dtype={**categories, **sizes, "year": "int64"})
