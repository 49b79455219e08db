"""The density that odd rows do not bend, and how odd rows are by it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import probgen as pg
from probgen import queries
from probgen.outliers.robust import blended_surprisal, default_density
from probgen.schema import Schema


def contaminated(
    n: int = 400, share: float = 0.1, seed: int = 0
) -> tuple[pd.DataFrame, np.ndarray]:
    """Columns that depend on one another, and rows in one cluster off that dependence."""
    random = np.random.default_rng(seed)
    common = random.normal(size=(n, 1))
    x = common + 0.3 * random.normal(size=(n, 4))
    odd = np.arange(n) < share * n
    x[odd] = [2.0, -2.0, 2.0, -2.0] + 0.3 * random.normal(size=(odd.sum(), 4))
    table = pd.DataFrame(x, columns=list("abcd")).assign(count=random.poisson(3.0, n))
    return table, odd


def mixed(n: int = 80, seed: int = 0) -> pd.DataFrame:
    """Numbers, a count, a category, a flag and a date, with holes."""
    random = np.random.default_rng(seed)
    table = pd.DataFrame({
        "real": random.normal(size=n), "count": random.poisson(2.0, n),
        "kind": random.choice(["x", "y", "z"], n), "flag": random.random(n) < 0.3,
        "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(random.integers(0, 90, n), "D"),
    })  # fmt: skip
    hidden = random.random(table.shape) < 0.15
    return table.astype({"flag": object, "kind": object}).mask(hidden)


def surprisal(table: pd.DataFrame, **settings: object) -> pd.Series:
    return blended_surprisal(default_density(0).set_params(**settings).fit(table), table)


def test_a_cluster_of_odd_rows_cannot_hide():
    """Rows off the others' dependence bend a normal most, and one degree of freedom least."""
    table, odd = contaminated(share=0.1)
    normal, learned, least = (
        roc_auc_score(odd, surprisal(table, dof=dof)) for dof in (1e6, None, 1.0)
    )
    assert normal < 0.975 < 0.98 < learned < 0.995 < 0.999 < least


def test_the_blend_is_half_of_rows_and_half_of_pairs():
    table, _ = contaminated(60)
    model = default_density(0).fit(table)
    names = list(table)
    pairs = sum(
        model.surprisal(table[[a, b]]) for i, a in enumerate(names) for b in names[i + 1 :]
    ) / (len(names) - 1)
    wanted = 0.5 * (model.surprisal(table) + pairs)
    assert np.allclose(blended_surprisal(model, table), wanted, atol=1e-9)


def test_any_density_with_marginals_can_be_blended():
    table, odd = contaminated(200)
    model = pg.GaussianMixture(components=2, random_state=0, draws=0).fit(table)
    found = blended_surprisal(model, table.iloc[:50])
    assert found.index.equals(table.index[:50]) and np.isfinite(found).all()
    independent = pg.Independent(random_state=0, draws=0).fit(table)
    assert np.allclose(
        blended_surprisal(independent, table.iloc[:9]), independent.surprisal(table.iloc[:9])
    )


def test_units_names_and_order_do_not_matter():
    """Rescaled, shifted, renamed and permuted columns leave order and differences of rows."""
    table, _ = contaminated(300)
    table.loc[:40, "a"] = 0.0  # a value that repeats is no atom here: its mass has no unit
    before = surprisal(table)
    other = table * [1e6, 1e-4, 3.0, 1.0, 7.5] + [0.0, 5.0, -2.0, 1e3, 0.5]
    other = other.rename(columns={n: f"column {n}" for n in other})[[f"column {n}" for n in "dbac"]
                                                                  + ["column count"]]  # fmt: skip
    after = surprisal(other)
    assert np.allclose(after - after.mean(), before - before.mean(), atol=1e-6)
    assert (after.rank() == before.rank()).all()


def test_numbers_are_real_where_asked_and_kinds_given_stay():
    table = mixed()
    schema = default_density(0).fit(table).schema_
    assert {n: schema[n].kind for n in schema.names} == {
        "real": "real", "count": "real", "kind": "category", "flag": "boolean", "day": "date",
    }  # fmt: skip
    assert pg.StudentT(random_state=0).fit(table).schema_["count"].kind == "count"
    kept = pg.StudentT(numbers="real", columns={"count": "count"}, random_state=0).fit(table)
    assert kept.schema_["count"].kind == "count"


def test_mixed_tables_with_holes_weights_and_foreign_levels():
    table = mixed()
    weight = np.random.default_rng(1).integers(0, 3, len(table))
    schema = Schema.infer(table, default_density()._kinds(table))
    model = default_density(0).set_params(schema=schema, tolerance=1e-8)
    again = table.iloc[np.repeat(np.arange(len(table)), weight)].reset_index(drop=True)
    one = blended_surprisal(model.fit(table, sample_weight=weight), table)
    two = blended_surprisal(model.fit(again), table)
    assert np.isfinite(one).all() and np.allclose(one, two, atol=1e-7)
    rare = blended_surprisal(model, table.head(3).assign(kind="never seen"), unseen="rare")
    assert np.isfinite(rare).all() and (rare > two.head(3)).all()
    assert blended_surprisal(model, table.head(0)).shape == (0,)


@pytest.mark.parametrize("shape", [(20, 1), (20, 5), (20, 40), (2, 2), (100, 1)])
def test_few_rows_and_many_columns(shape):
    table = pd.DataFrame(np.random.default_rng(0).normal(size=shape)).add_prefix("x")
    far = table.head(1) + 100.0
    model = default_density(0).fit(table)
    own = blended_surprisal(model, table)
    assert np.isfinite(own).all()
    assert blended_surprisal(model, far).iloc[0] > own.max()


@pytest.mark.filterwarnings("ignore::probgen.DataWarning")
def test_columns_that_are_constant_spiked_or_repeated():
    random = np.random.default_rng(0)
    a = random.normal(size=200)
    spike = np.where(random.random(200) < 0.9, 0.0, random.normal(size=200))
    table = pd.DataFrame({"a": a, "twin": a, "double": 2 * a + 1, "fixed": 3.0, "spike": spike,
                          "rare": (np.arange(200) == 7).astype(float)})  # fmt: skip
    model = default_density(0).fit(table)
    own = blended_surprisal(model, table)
    assert np.isfinite(own).all() and own.idxmax() == 7
    broken = table.assign(twin=table["twin"].to_numpy()[::-1])
    assert (blended_surprisal(model, broken) > own).mean() > 0.95
    assert (blended_surprisal(model, table.assign(fixed=4.0)) == np.inf).all()


def test_far_values_keep_their_order():
    """The further, the stranger, also beyond what a float can tell of a square."""
    table, _ = contaminated(100, 0.0)
    model = default_density(0).fit(table)
    steps = pd.concat([table.head(1)] * 6, ignore_index=True)
    steps["a"] = [3.0, 30.0, 1e3, 1e8, 1e20, 1e100]
    found = blended_surprisal(model, steps)
    assert np.isfinite(found).all() and found.is_monotonic_increasing


def test_settings_are_checked():
    table, _ = contaminated(30)
    for setting in ({"dof": 0.0}, {"strength": -1.0}, {"numbers": "whole"}):
        with pytest.raises(pg.SchemaError, match=next(iter(setting))):
            pg.StudentT(**setting).fit(table)


def test_a_family_without_joint_marginals_is_refused():
    table, _ = contaminated(30)
    model = pg.StudentT(random_state=0).fit(table)
    family = model.members_[0]
    family.__class__ = type("Masked", (type(family),), {"coherent": False})
    with pytest.raises(pg.NotSupported, match="marginals"):
        queries.log_pairs(model._predictive(), model._batch(_encoded(model, table), "cpu"))


def _encoded(model: pg.Density, table: pd.DataFrame):
    from probgen.table import encode

    return encode(table, model.schema_)
