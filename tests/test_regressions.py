"""Bugs that were found by review, each with the smallest case that showed it."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import nbinom, norm

import probgen as pg
from probgen.columns import Slot
from probgen.counts import CountLeaf
from probgen.door import count_distinct
from probgen.errors import SchemaError
from probgen.leaves import CategoryLeaf
from probgen.likelihoods import CHUNK_ELEMENTS, MixedRows
from probgen.normals import cholesky
from probgen.starts import merged_labels
from probgen.table import encode

N = 60


def make_table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({
        "a": rng.normal(size=N), "b": rng.normal(size=N), "job": rng.choice(["x", "y"], N),
    })  # fmt: skip


@pytest.fixture(scope="module")
def model() -> pg.GaussianMixture:
    return pg.GaussianMixture(2, random_state=0, starts=1).fit(make_table())


def test_an_array_names_its_columns_before_given_is_compared() -> None:
    table = make_table()[["a", "b"]]
    model = pg.GaussianMixture(2, random_state=0, starts=1).fit(table)
    with pytest.raises(SchemaError, match="in the table and in given"):
        model.log_prob(table.to_numpy(), given={"a": 1.0})


def test_an_array_can_be_imputed() -> None:
    table = make_table()[["a", "b"]]
    model = pg.GaussianMixture(2, random_state=0, starts=1).fit(table)
    values = table.to_numpy().copy()
    values[0, 0] = np.nan
    filled = model.impute(values)
    assert filled.columns.tolist() == ["a", "b"]
    assert filled.notna().all().all()
    assert (filled.to_numpy()[1:] == values[1:]).all()


def test_a_category_is_imputed_beyond_the_levels_of_the_caller(model: pg.GaussianMixture) -> None:
    table = make_table()
    table["job"] = pd.Categorical(["x"] * 10 + [None] * (N - 10), categories=["x"])
    [filled] = model.impute(table, draws=1, random_state=0)
    assert (filled["job"].iloc[:10] == "x").all()
    assert set(filled["job"]) == {"x", "y"}


@pytest.mark.parametrize(
    "holes", [pd.Categorical([None] * N, categories=["x"]), np.full(N, np.nan), [None] * N]
)
def test_a_column_of_holes_is_imputed_whatever_its_type(
    model: pg.GaussianMixture, holes: object
) -> None:
    filled = model.impute(make_table().assign(job=holes))
    assert filled["job"].isin(["x", "y"]).all()


@pytest.mark.parametrize("weight", ["zero", "small", "large"])
def test_a_level_of_one_light_row_is_no_error_at_fit(weight: str) -> None:
    table = make_table()
    table.loc[0, "job"] = "rare"
    weights = {
        "zero": np.ones(N), "small": np.random.default_rng(0).exponential(size=N),
        "large": np.full(N, 1000.0),
    }[weight]  # fmt: skip
    weights[0] = {"zero": 0.0, "small": 1e-4, "large": 1.0}[weight]
    model = pg.GaussianMixture(2, random_state=0, starts=1).fit(table, sample_weight=weights)
    assert ("rare" in (model.schema_["job"].levels or ())) == (weight != "zero")
    assert math.isfinite(model.score(make_table()))


def test_a_row_of_weight_0_equals_no_row_in_fit_and_score() -> None:
    table = make_table().assign(k=np.arange(N) % 5)
    odd = table.assign(k=table["k"].where(table.index > 0, 99))
    weight = np.ones(N)
    weight[0] = 0.0
    setting = {"columns": {"k": {"kind": "count", "upper": 10}}, "random_state": 0, "starts": 1}
    full = pg.GaussianMixture(2, **setting).fit(odd, sample_weight=weight)
    less = pg.GaussianMixture(2, **setting).fit(table.iloc[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pg.errors.DataWarning)
        score = full.score(odd, sample_weight=weight)
    assert score == pytest.approx(less.score(table.iloc[1:]), rel=1e-12)


def test_dequantise_false_holds_with_a_schema_of_grids() -> None:
    table = pd.DataFrame({"a": np.random.default_rng(0).normal(size=200).round(1)})
    schema = pg.Schema.infer(table)
    assert schema["a"].grid == 0.1
    setting = {"schema": schema, "dequantise": False, "starts": 1}
    one, two = (pg.GaussianMixture(1, random_state=s, **setting).fit(table) for s in (0, 1))
    assert one.score(table) == pytest.approx(two.score(table), rel=1e-12)


def test_equal_rows_with_holes_are_not_distinct() -> None:
    table = pd.DataFrame({"a": [1.0, 2.0] * 10, "b": [np.nan] * 10 + [3.0, 4.0] * 5})
    columns = {"a": {"kind": "real", "atoms": []}, "b": {"kind": "real", "atoms": []}}
    found = encode(table, pg.Schema.infer(table, columns))
    assert count_distinct(found, 50) == 4


def test_no_rows_can_be_reconstructed(model: pg.GaussianMixture) -> None:
    assert model.reconstruct(make_table().head(0)).shape == (0, 3)


def test_the_mode_of_a_category_is_never_the_reserved_level() -> None:
    leaf = CategoryLeaf(2, 3, True, 0.3)
    weights = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.2, 0.3]], dtype=torch.float64)
    assert leaf.centre_of(weights).tolist() == [1.0, 0.0]
    assert leaf.centre_of(weights[:0]).tolist() == []


@pytest.mark.parametrize("top", [1e6, 1e12, 1e15])
def test_the_mass_of_large_counts_is_smooth(top: float) -> None:
    x = torch.as_tensor(np.floor(np.random.default_rng(0).uniform(0.5, 1, 500) * top))
    leaf = CountLeaf(1)
    leaf.begin(x, torch.ones(500, dtype=torch.float64))
    near = math.floor(0.7 * top) + torch.arange(200, dtype=torch.float64)
    log_w = (leaf.prior / leaf.prior.sum()).log()[None]
    log_p = leaf.log_prob(leaf.look(near), log_w)[:, 0]
    # neighbours differ by no more than 200 / top of a scale, and by rounding
    assert float(log_p.max() - log_p.min()) < 0.01


def test_the_mass_of_a_negative_binomial_is_right_beyond_its_expansion() -> None:
    leaf = CountLeaf(1)
    leaf.begin(torch.tensor([2.0e8, 1.0e8]), torch.ones(2))
    v = torch.tensor([1e8, 1e8 + 1, 3e8], dtype=torch.float64)
    first = len(leaf.points) + len(leaf.poisson)
    found = leaf.log_basis(v)[:, first : first + len(leaf.mean)].numpy()
    shape, mean = leaf.shape.numpy(), leaf.mean.numpy()
    near = mean > 1e7
    expected = nbinom.logpmf(v.numpy()[:, None], shape, shape / (shape + mean))
    np.testing.assert_allclose(found[:, near], expected[:, near], atol=1e-5)


@pytest.mark.parametrize(("centre", "sd"), [(5e4, 2e3), (1.7e12, 3e8), (1e15, 1e12)])
def test_counts_far_from_0_keep_their_spread(centre: float, sd: float) -> None:
    """Between a Poisson's width and a fifth of the mean: wages, populations, time stamps."""
    rng = np.random.default_rng(0)
    x, new = (np.rint(rng.normal(centre, sd, 2000)) for _ in range(2))
    table = pd.DataFrame({"k": x})
    model = pg.Independent(random_state=0, columns={"k": "count"}).fit(table)
    gap = norm.logpdf(new, centre, sd).mean() - model.score(pd.DataFrame({"k": new}))
    assert gap < 0.02


def test_jitter_of_one_matrix_leaves_the_others_alone_and_failure_is_nan() -> None:
    good = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    singular = torch.ones(2, 2, dtype=torch.float64)
    indefinite = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)
    found = cholesky(torch.stack([good, singular, indefinite]))
    assert bool((found[0] == torch.linalg.cholesky(good)).all())
    torch.testing.assert_close(found[1] @ found[1].mT, singular, atol=1e-10, rtol=0)
    assert bool(found[2].isnan().all())


def test_the_parts_of_wide_tables_stay_small() -> None:
    """d = 1500 has a million pairs of columns: 256 rows of them would be gigabytes."""
    slots = [Slot(f"x{i}", i, "real", 0, False, False) for i in range(1500)]
    rows = MixedRows(slots, 1, "full", 0.01, 3.0, 0.1, 0.005, 1.0, 0.3)
    x = torch.zeros(100, 1500, dtype=torch.float64)
    pieces = list(rows._cut(x, torch.ones_like(x, dtype=torch.bool), exact=False))
    assert max(len(p.x) for p in pieces) * 1500 * 1501 / 2 <= 32 * CHUNK_ELEMENTS
    assert sum(len(p.x) for p in pieces) == 100


def test_starts_do_not_hold_all_pairs_of_columns_of_all_rows(monkeypatch) -> None:
    """Sums over pieces of the rows give the same labels."""
    x = torch.randn(200, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slots = [Slot(f"x{i}", i, "real", 0, False, False) for i in range(5)]
    seen, weight = torch.ones_like(x, dtype=torch.bool), torch.ones(200, dtype=torch.float64)

    def labels() -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return merged_labels(x, seen, weight, slots, 3, True, generator)

    whole = labels()
    monkeypatch.setattr("probgen.starts.PIECE", 100)
    assert bool((labels() == whole).all())


def test_the_plug_in_density_needs_no_draws(monkeypatch) -> None:
    model = pg.GaussianMixture(2, random_state=0, starts=1).fit(make_table())
    before = model.log_prob(make_table(), posterior=False)
    monkeypatch.setattr(pg.GaussianMixture, "_with_draws", property(lambda self: 1 / 0))
    pd.testing.assert_series_equal(model.log_prob(make_table(), posterior=False), before)


@pytest.mark.parametrize(
    "setting", [{"random_state": -3}, {"random_state": 2.5}, {"max_epochs": "x"},
                {"batch_size": 2.5}, {"restarts": 0}],
)  # fmt: skip
def test_a_wrong_training_setting_is_named(setting: dict) -> None:
    with pytest.raises(SchemaError, match=next(iter(setting))):
        pg.GaussianMixture(2, **setting).fit(make_table())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_mixture_fits_samples_and_imputes_on_a_gpu() -> None:
    table = make_table()
    table.loc[:9, "a"] = np.nan
    model = pg.GaussianMixture(2, random_state=0, device="cuda").fit(table)
    assert len(model.sample(5, random_state=0)) == 5
    assert model.impute(table, draws=1, random_state=0)[0].notna().all().all()
    assert model.log_prob(table, interval=0.9).notna().all().all()
    assert model.select(table, [1, 2], "icl").scores.notna()["score"].all()
