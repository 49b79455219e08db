"""The codec for any table: what is encoded comes back, what is decoded is legal."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probgen.errors import DataWarning, SchemaError
from probgen.grids import common_step, location
from probgen.schema import Schema
from probgen.table import decode, encode

FEW = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
N = st.integers(2, 40)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def holed(cells: st.SearchStrategy[object]) -> st.SearchStrategy[list[object]]:
    return st.lists(st.none() | cells, min_size=30, max_size=30)


COLUMNS = {
    "float": (holed(FINITE), "float64"),
    "single": (holed(st.floats(-(2.0**99), 2.0**99, width=32)), "float32"),
    "rounded": (holed(st.integers(-999, 999).map(lambda v: v / 10)), "Float64"),
    "whole": (holed(st.integers(-(2**40), 2**40)), "Int64"),
    "count": (holed(st.integers(0, 100)), "Int16"),
    "text": (holed(st.sampled_from(["", "a", "ä", "NA", "None", "nan"])), "str"),
    "object": (holed(st.sampled_from(["a", "b", "c"])), "object"),
    "flag": (holed(st.booleans()), "boolean"),
    "category": (holed(st.sampled_from([1, 5, 7])), pd.CategoricalDtype([7, 5, 1, 9], True)),
    "date": (
        holed(st.integers(-(2**62), 2**62).map(lambda v: pd.Timestamp(v, unit="ns"))),
        "datetime64[ns]",
    ),
    "second": (
        holed(st.integers(-(2**35), 2**35).map(lambda v: pd.Timestamp(v, unit="s", tz="UTC"))),
        "datetime64[s, America/New_York]",
    ),
}


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    names = draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=4, unique=True))
    return pd.DataFrame({k: pd.Series(draw(COLUMNS[k][0]), dtype=COLUMNS[k][1]) for k in names})


def infer(table: pd.DataFrame, override: dict[str, object] | None = None) -> Schema:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return Schema.infer(table, override)


@FEW
@given(tables())
def test_round_trip(table: pd.DataFrame) -> None:
    schema = infer(table)
    assert Schema.from_json(schema.to_json()) == schema
    encoded = encode(table, schema)
    assert np.isfinite(encoded.x).all()
    assert not encoded.illegal.any()
    back = decode(encoded.x, schema, table.index, encoded.seen)
    for column in schema.columns:
        before, after = table[column.name], back[column.name]
        assert after.dtype == before.dtype
        if column.role != "modelled":
            continue
        if column.real_like and column.kind != "date" and not column.grid:
            place = schema.slots_of([column.name])[-1]
            near = np.abs(encoded.x[:, place]) < 1e100
            before, after = before[near], after[near]
            top = np.abs(before.astype(float)).max() + column.scale
            np.testing.assert_allclose(
                after.astype(float) / top, before.astype(float) / top, rtol=0, atol=1e-6
                if column.name == "single" else 1e-13,
            )  # fmt: skip
        elif column.name == "date":  # a float64 day holds a nanosecond only nearby
            gap = (after - before).abs().max()
            assert pd.isna(gap) or gap <= pd.Timedelta(50, "us")
        else:
            pd.testing.assert_series_equal(after, before, check_exact=True)


@FEW
@given(tables(), st.data())
def test_what_is_decoded_is_legal(table: pd.DataFrame, data: st.DataObject) -> None:
    schema = infer(table)
    x = np.zeros((3, len(schema.slots)))
    for place, slot in enumerate(schema.slots):
        top = slot.size - 1 - slot.reserved
        cell = st.integers(0, top) if slot.kind == "category" else FINITE
        x[:, place] = data.draw(st.lists(cell, min_size=3, max_size=3))
    back = decode(x, schema)
    assert [str(t) for t in back.dtypes] == [str(t) for t in table.dtypes]
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        again = encode(back.drop(columns=[c.name for c in schema.columns if c.role == "empty"]),
                       schema)  # fmt: skip
    assert not again.illegal.any()


@FEW
@given(
    st.lists(st.floats(0.001, 0.999), min_size=5, max_size=30, unique=True),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
)
def test_bounded_round_trip(shares: list[float], lower: float, width: float) -> None:
    values = lower + width * np.array(shares)
    bounds = {"kind": "bounded", "lower": lower, "upper": lower + width}
    table = pd.DataFrame({"a": values})
    try:
        schema = infer(table, {"a": bounds})
    except SchemaError:
        assert not ((values > lower) & (values < lower + width)).all()
        return
    if schema["a"].role == "modelled":
        back = decode(encode(table, schema).x, schema)["a"].to_numpy()
        np.testing.assert_allclose(back, values, rtol=0, atol=1e-11 * (abs(lower) + width))


@FEW
@given(st.lists(st.integers(-9999, 9999), min_size=20, max_size=60), st.integers(0, 4),
       st.floats(1e-9, 1e9))  # fmt: skip
def test_step_of_rounded_numbers(steps: list[int], digits: int, c: float) -> None:
    values = np.array(steps) / 10**digits * c
    distinct, counts = np.unique(values, return_counts=True)
    step = common_step(distinct, counts)
    if step is not None:
        size = np.gcd.reduce(np.abs(steps)) / 10**digits * c
        np.testing.assert_allclose(step, size, rtol=1e-9)


@FEW
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40), st.integers(-60, 60))
def test_location_is_equivariant(values: list[float], power: int) -> None:
    u = np.array(values)
    u = u[np.abs(u) > 1e-100]
    c = 2.0**power
    loc, scale, extreme = location(u)
    other = location(u * c)
    if len(u) and scale != 1.0:
        assert other == (loc * c, scale * c, extreme)


@FEW
@given(st.permutations(range(30)), st.integers(0, 2**31))
def test_rows_are_encoded_one_by_one(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"a": rng.normal(size=30), "b": rng.choice(list("xy"), 30),
                          "c": rng.lognormal(size=30)})  # fmt: skip
    schema = infer(table)
    x = encode(table, schema).x
    assert np.array_equal(encode(table.iloc[order], schema).x, x[list(order)])
    assert np.array_equal(encode(table.iloc[[3]], schema).x, x[[3]])
