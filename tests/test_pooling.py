"""Rubin's rules against hand calculations, and what may be pooled."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import probgen as pg

NAMES = pd.Index(["const", "age"])


def fit(q, se, **more):
    return SimpleNamespace(params=pd.Series(q, NAMES), bse=pd.Series(se, NAMES), **more)


FITS = [fit([10.0, 1.0], [2.0, 0.5]), fit([12.0, 1.3], [2.0, 0.4]), fit([11.0, 1.2], [2.0, 0.6])]


def test_by_hand():
    """Three tables, W = 4, B = 1: T = 4 + 4/3, r = 1/3, 32 degrees of freedom."""
    pooled = pg.pool(FITS)
    first = pooled.frame().loc["const"]
    assert first["estimate"] == 11
    assert first["std_error"] == pytest.approx(math.sqrt(16 / 3), rel=1e-14)
    assert first["riv"] == pytest.approx(1 / 3) and first["dof"] == pytest.approx(32)
    assert first["fmi"] == pytest.approx((1 / 3 + 2 / 35) / (4 / 3))
    t = 11 / math.sqrt(16 / 3)
    assert first["t"] == pytest.approx(t)
    assert first["p"] == pytest.approx(2 * stats.t.sf(t, 32))
    half = stats.t.ppf(0.975, 32) * math.sqrt(16 / 3)
    assert first[["lower", "upper"]].tolist() == pytest.approx([11 - half, 11 + half])
    assert pooled.within["age"] == pytest.approx((0.25 + 0.16 + 0.36) / 3)
    assert pooled.between["age"] == pytest.approx(np.var([1.0, 1.3, 1.2], ddof=1))
    assert pooled.draws == 3 and list(pooled.frame().index) == list(NAMES)


def test_small_samples_by_hand():
    """Barnard and Rubin (1999): of 20 complete degrees 21/23 * 20 * 3/4 are observed."""
    observed = 21 / 23 * 20 * 0.75
    pooled = pg.pool(FITS, dof=20)
    assert pooled.dof["const"] == pytest.approx(1 / (1 / 32 + 1 / observed))
    assert (pg.pool([fit(f.params, f.bse, df_resid=20) for f in FITS]).dof == pooled.dof).all()
    assert pooled.dof["const"] < 20  # never more than without holes
    large = pg.pool(FITS, dof=1e12).dof["const"]
    assert large == pytest.approx(32, rel=1e-9)


def test_tables_that_agree_lose_nothing():
    pooled = pg.pool([(3.0, 4.0)] * 5)
    assert pooled.bse.item() == 2 and math.isinf(pooled.dof.item()) and pooled.fmi.item() == 0
    assert pooled.conf_int(0.9).iloc[0].tolist() == pytest.approx(
        [3 - 2 * stats.norm.ppf(0.95), 3 + 2 * stats.norm.ppf(0.95)]
    )
    assert pg.pool([(3.0, 4.0)] * 5, dof=20).dof.item() == pytest.approx(21 / 23 * 20)


def test_every_form_of_a_result_is_one():
    wanted = pg.pool(FITS).frame()
    arrays = [(f.params.to_numpy(), f.bse.to_numpy() ** 2) for f in FITS]
    assert np.array_equal(pg.pool(arrays).frame(), wanted)
    series = [(f.params, f.bse**2) for f in FITS]
    pd.testing.assert_frame_equal(pg.pool(series).frame(), wanted)
    backwards = [(f.params, (f.bse**2)[::-1]) for f in FITS]  # variances are known by name
    pd.testing.assert_frame_equal(pg.pool(backwards).frame(), wanted)
    covariances = [
        SimpleNamespace(params=f.params, cov_params=lambda f=f: pd.DataFrame(
            np.diag(f.bse**2) + 0.01 - 0.01 * np.eye(2), NAMES, NAMES))
        for f in FITS
    ]  # fmt: skip
    pd.testing.assert_frame_equal(pg.pool(covariances).frame(), wanted)
    again = pg.pool(iter(FITS))
    pd.testing.assert_frame_equal(again.frame(), wanted)
    assert "pooled over 3 tables" in repr(again) and "<table" in again._repr_html_()


@pytest.mark.parametrize(
    ("results", "word"),
    [
        ([], "0 result"),
        (FITS[:1], "1 result"),
        ([*FITS, fit([1.0, 2.0], [0.0, 1.0])], "const"),
        ([(1.0, 1.0), (math.nan, 1.0)], "missing"),
        ([(1.0, 1.0), ([1.0, 2.0], [1.0, 1.0])], "same parameters"),
        ([([1.0, 2.0], [1.0])] * 2, "one variance"),
        ([1.0, 2.0], "float"),
        ([("a", "b")] * 2, "no number"),
        ([SimpleNamespace(params=[1.0])] * 2, "no bse"),
        ([(pd.Series([1.0], ["a"]), pd.Series([1.0], ["b"]))] * 2, "other names"),
    ],
)
def test_what_cannot_be_pooled(results, word):
    with pytest.raises(pg.SchemaError, match=word):
        pg.pool(results)


def test_bad_settings():
    with pytest.raises(pg.SchemaError, match="dof=-1"):
        pg.pool(FITS, dof=-1)
    with pytest.raises(pg.SchemaError, match="level=95"):
        pg.pool(FITS).conf_int(95)


def test_pooled_intervals_of_proper_imputations_cover():
    """Normal means with half the values missing, drawn from the exact posterior (4 se)."""
    rng, n, m, reps = np.random.default_rng(0), 40, 20, 4000
    y = rng.normal(0, 1, (n // 2, reps))
    results = []
    for _ in range(m):
        variance = y.var(0, ddof=1) * (len(y) - 1) / rng.chisquare(len(y) - 1, reps)
        mean = rng.normal(y.mean(0), np.sqrt(variance / len(y)))
        drawn = rng.normal(mean, np.sqrt(variance), (n - len(y), reps))
        whole = np.concatenate([y, drawn])
        results.append((whole.mean(0), whole.var(0, ddof=1) / n))
    ends = pg.pool(results, dof=n - 1).conf_int()
    held = ((ends["lower"] < 0) & (ends["upper"] > 0)).mean()
    assert abs(held - 0.95) < 4 * math.sqrt(0.95 * 0.05 / reps) + 0.005


def test_a_matrix_is_read_by_name():
    names = ["slope", "level"]
    estimate = pd.Series([1.0, 2.0], names)
    cov = pd.DataFrame([[0.04, 0.01], [0.01, 0.09]], names, names)
    turned = cov.loc[names[::-1]]
    one = pg.pool([(estimate, cov)] * 3)
    two = pg.pool([(estimate, turned), (estimate, turned[names[::-1]]), (estimate, cov)])
    pd.testing.assert_series_equal(one.bse, two.bse)
    np.testing.assert_allclose(one.bse, [0.2, 0.3])
