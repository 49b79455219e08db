"""Real tables that are there without a network, each with its source and licence beside it."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from probgen.errors import SchemaError, message

__all__ = ["binarised", "digits", "penguins"]


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


def digits() -> pd.DataFrame:
    """Images of 1,797 handwritten digits, 8 x 8 pixels each, and the digits that were written.

    Forms filled in by 43 people were scanned to 32 x 32 bits; a pixel is the number of set bits
    in a block of 4 x 4.

    Returns
    -------
    DataFrame (1797, 65)
        ``r0c0``, ``r0c1``, ..., ``r7c7``: grey level of the pixel in that row and column of the
        image, from 0 (paper) to 16 (ink), int64. ``digit``: 0 to 9 (category). No value is
        missing. A new frame at each call.

    Notes
    -----
    The rows come with scikit-learn (`sklearn.datasets.load_digits`), in its order: the test set
    of the optical recognition of handwritten digits in the UCI repository, under the Creative
    Commons Attribution 4.0 licence.

    References
    ----------
    Alpaydin E, Kaynak C (1998). Optical recognition of handwritten digits. UCI Machine Learning
    Repository, doi:10.24432/C50P49.

    Examples
    --------
    >>> table = digits()
    >>> table.shape
    (1797, 65)
    >>> pixels = table.drop(columns="digit")
    >>> int(pixels.to_numpy().max())
    16
    >>> pixels.to_numpy().reshape(-1, 8, 8)[0, 0].tolist()
    [0, 0, 5, 13, 9, 1, 0, 0]
    """
    from sklearn.datasets import load_digits

    own = load_digits()
    names = [f"r{row}c{column}" for row in range(8) for column in range(8)]
    table = pd.DataFrame(own.data.astype(np.int64), columns=names)
    return table.assign(digit=pd.Categorical(own.target, categories=range(10)))


def binarised(images: Any, random_state: int | None = None) -> Any:
    """Black and white images, drawn from grey ones: a pixel is 1 with its value as probability.

    Parameters
    ----------
    images : data frame or array
        Values from 0 to 1; NaN stays. Never changed.
    random_state : int, optional
        Seed; None draws anew at each call.

    Returns
    -------
    data frame or array
        As `images`, float64, of zeros and ones.

    Raises
    ------
    SchemaError
        If a value lies outside [0, 1].

    References
    ----------
    Salakhutdinov R, Murray I (2008). On the quantitative analysis of deep belief networks.
    Proceedings of ICML 25.

    Examples
    --------
    >>> binarised(np.array([[0.0, 1.0, np.nan]]))
    array([[ 0.,  1., nan]])
    """
    values = np.asarray(images, dtype=np.float64)
    outside = values[(values < 0) | (values > 1)]
    if outside.size:
        raise SchemaError(message(
            f"the value {outside.flat[0]:g}", "probabilities from 0 to 1",
            "divide by the largest grey level",
        ))  # fmt: skip
    u = np.random.default_rng(random_state).random(values.shape)
    found = np.where(np.isnan(values), np.nan, (u < values).astype(np.float64))
    if isinstance(images, pd.DataFrame):
        return pd.DataFrame(found, index=images.index, columns=images.columns)
    return found
