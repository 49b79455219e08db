"""The codec: what is read, what is refused, and what is written back."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse

from probgen.errors import DataWarning, SchemaError, SchemaTypeError
from probgen.schema import Schema
from probgen.table import decode, encode, to_frame

N = 200
RNG = np.random.default_rng(3)
WHOLE = RNG.poisson(4, N)
HOLES = RNG.random(N) < 0.2
HOLES[0] = True
WORDS = RNG.choice(["cook", "nurse", "guard"], N)
FLAGS = RNG.random(N) < 0.4
DAYS = pd.Series(pd.date_range("2020-03-20 00:30", periods=N, freq="7h"))


def arrow(kind: pa.DataType) -> pd.ArrowDtype:
    return pd.ArrowDtype(kind)


SERIES: dict[str, pd.Series] = {}
for name in ("int8", "int16", "int32", "int64", "uint8", "uint64"):
    SERIES[name] = pd.Series(WHOLE).astype(name)
for name in ("Int8", "Int64", "UInt16", "Float32", "Float64"):
    SERIES[name] = pd.Series(WHOLE).astype(name).mask(HOLES)
for name in ("float16", "float32", "float64"):
    SERIES[name] = pd.Series(WHOLE / 4 - 1).astype(name).mask(HOLES)
SERIES["float with whole numbers"] = pd.Series(WHOLE).astype(float).mask(HOLES)
for kind in (pa.int16(), pa.int64(), pa.uint32(), pa.float32(), pa.float64()):
    SERIES[f"arrow {kind}"] = pd.Series(WHOLE).astype(arrow(kind)).mask(HOLES)
for name in ("str", "string[python]", "string[pyarrow]", "category"):
    SERIES[name] = pd.Series(WORDS).astype(name).mask(HOLES)
for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
    SERIES[f"arrow {kind}"] = pd.Series(pa.array(WORDS, mask=HOLES).cast(kind).to_pandas(),
                                        dtype=arrow(kind))  # fmt: skip
SERIES["object"] = pd.Series(np.where(HOLES, None, WORDS.astype(object)), dtype=object)
SERIES["ordered"] = pd.Series(pd.Categorical(WORDS, ["guard", "cook", "none", "nurse"], True))
SERIES["category of numbers"] = pd.Series(pd.Categorical(WHOLE))
SERIES["category of dates"] = pd.Series(pd.Categorical(DAYS.iloc[WHOLE]))
SERIES["bool"] = pd.Series(FLAGS)
for name in ("boolean", "object", "bool[pyarrow]"):
    SERIES[f"flags {name}"] = pd.Series(FLAGS).astype(name).mask(HOLES)
SERIES["flags object"] = pd.Series(np.where(HOLES, None, FLAGS.astype(object)), dtype=object)
SERIES["numbers object"] = pd.Series(np.where(HOLES, None, WHOLE.astype(object)), dtype=object)
for unit in ("s", "ms", "us", "ns"):
    SERIES[f"dates {unit}"] = DAYS.astype(f"datetime64[{unit}]").mask(HOLES)
    zoned = DAYS.astype(f"datetime64[{unit}]").dt.tz_localize("UTC")
    SERIES[f"zoned {unit}"] = zoned.dt.tz_convert("Europe/Paris").mask(HOLES)
    SERIES[f"arrow {unit}"] = zoned.astype(arrow(pa.timestamp(unit, "Asia/Tokyo"))).mask(HOLES)
    SERIES[f"duration {unit}"] = (DAYS - DAYS[0]).astype(f"timedelta64[{unit}]")
SERIES["arrow date"] = DAYS.astype(arrow(pa.date32())).mask(HOLES)
SERIES["arrow naive"] = DAYS.astype(arrow(pa.timestamp("us")))
SERIES["arrow duration"] = (DAYS - DAYS[0]).astype(arrow(pa.duration("ms"))).mask(HOLES)


@pytest.mark.parametrize("case", SERIES)
def test_every_type_comes_back_exactly(case: str) -> None:
    frame = SERIES[case].to_frame("a")
    before = frame.copy(deep=True)
    schema = Schema.from_json(Schema.infer(frame).to_json())
    encoded = encode(frame, schema)
    assert not encoded.illegal.any()
    assert np.array_equal(encoded.seen[:, -1], frame["a"].notna())
    assert (encoded.x[~encoded.seen] == 0).all()
    back = decode(encoded.x, schema, frame.index, encoded.seen)
    pd.testing.assert_frame_equal(back, frame, check_exact=True)
    pd.testing.assert_frame_equal(frame, before)
    whole = decode(encoded.x[encoded.seen[:, -1]], schema)
    assert whole["a"].dtype == frame["a"].dtype
    assert whole["a"].notna().all()


def test_a_numpy_type_without_holes_gets_a_nullable_one() -> None:
    frame = pd.DataFrame({"a": [1, 2, 3], "b": [True, False, True]})
    back = decode(np.zeros((2, 2)), Schema.infer(frame), seen=np.array([[0, 1], [1, 0]], bool))
    assert back.dtypes.astype(str).tolist() == ["Int64", "boolean"]
    assert back.isna().to_numpy().tolist() == [[True, False], [False, True]]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    return pd.DataFrame(
        {
            "real": rng.normal(size=N),
            "size": rng.lognormal(size=N),
            "count": rng.poisson(3, N),
            "job": rng.choice(["cook", "nurse"], N),
            "flag": rng.random(N) < 0.5,
            "day": pd.date_range("2020", periods=N),
            "rain": np.where(rng.random(N) < 0.4, 0.0, rng.lognormal(size=N)),
        },
        index=np.arange(N) // 2,
    )


@pytest.fixture(scope="module")
def schema(table: pd.DataFrame) -> Schema:
    return Schema.infer(table)


def test_other_order_and_types_of_the_same_kind(table: pd.DataFrame, schema: Schema) -> None:
    x = encode(table, schema).x
    other = table[table.columns[::-1]].astype({"count": "Int64", "real": "Float64"})
    other["job"] = pd.Categorical(other["job"], ["nurse", "monk", "cook"])
    other["flag"] = other["flag"].astype(int)
    other["day"] = other["day"].astype("datetime64[s]")
    other["size"] = other["size"].astype(object)
    encoded = encode(other, schema)
    assert np.array_equal(encoded.x, x)
    assert encoded.index.equals(table.index)
    for unit in ("ns", "us"):
        again = encode(table.assign(day=table["day"].astype(f"M8[{unit}]")), schema)
        assert np.array_equal(again.x, x)


def test_missing_and_extra_columns(table: pd.DataFrame, schema: Schema) -> None:
    part = encode(table[["count", "rain"]], schema)
    places = schema.slots_of(["count", "rain"])
    assert np.array_equal(np.flatnonzero(part.seen.any(0)), np.sort(places))
    only = encode(table, schema, only=["count", "rain"])
    assert np.array_equal(only.x, part.x)
    assert np.array_equal(only.seen, part.seen)
    with pytest.raises(SchemaError, match=r"\['more'\]"):
        encode(table.assign(more=1), schema)
    assert np.array_equal(encode(table.assign(more=1), schema, extra="ignore").x[:, 2],
                          table["count"])  # fmt: skip


def test_atoms_take_a_slot_of_their_own(table: pd.DataFrame, schema: Schema) -> None:
    encoded = encode(table, schema)
    atom, real = schema.slots_of(["rain"])
    zero = (table["rain"] == 0).to_numpy()
    assert np.array_equal(encoded.x[:, atom], zero)
    assert encoded.seen[:, atom].all()
    assert np.array_equal(encoded.seen[:, real], ~zero)
    back = decode(encoded.x, schema)  # with everything seen the atom wins
    assert np.array_equal(back["rain"] == 0, zero)


def test_unseen_levels(table: pd.DataFrame, schema: Schema) -> None:
    new = table.assign(job=["monk", *table["job"][1:]])
    place = schema.slots_of(["job"])[0]
    with pytest.raises(SchemaError, match="'monk' in column 'job'"):
        encode(new, schema)
    assert not encode(new, schema, unseen="missing").seen[0, place]
    rare = encode(new, schema, unseen="rare")
    assert rare.x[0, place] == 2 == schema.slots[place].size - 1
    assert np.array_equal(rare.x[1:], encode(table, schema).x[1:])
    with pytest.raises(SchemaError, match="'g4' and 3 more in column 'job'"):
        encode(table[:8].assign(job=[f"g{i}" for i in range(8)]), schema)
    with pytest.raises(SchemaError, match="column 'flag'"):
        encode(table[:1].assign(flag=[2]), schema, unseen="rare")
    with pytest.raises(SchemaError, match="unseen='ignore'"):
        encode(new, schema, unseen="ignore")  # type: ignore[arg-type]


def test_values_outside_the_support(table: pd.DataFrame, schema: Schema) -> None:
    new = table.astype({"count": float})
    new.iloc[0, new.columns.get_loc("size")] = -1.0
    new.iloc[1, new.columns.get_loc("count")] = 2.5
    new.iloc[2, new.columns.get_loc("count")] = -3
    with pytest.warns(DataWarning, match=r"3 row\(s\), by column: 'size' \(1\), 'count' \(2\)"):
        encoded = encode(new, schema)
    assert np.flatnonzero(encoded.illegal).tolist() == [0, 1, 2]
    assert np.isfinite(encoded.x).all()


def test_another_value_of_a_constant() -> None:
    frame = pd.DataFrame({"k": [5] * 3, "w": ["x"] * 3, "a": [1, 2, 4]})
    with pytest.warns(DataWarning, match="constant"):
        schema = Schema.infer(frame)
    new = pd.DataFrame({"k": [5, 6, None], "w": ["x", "x", "y"]})
    with pytest.warns(DataWarning, match="'k'"):
        assert encode(new, schema).illegal.tolist() == [False, True, True]
    with pytest.warns(DataWarning, match="'k'"):
        assert encode(new, schema, unseen="missing").illegal.tolist() == [False, True, False]


REFUSED = {
    "infinite": ({"a": [1.0, np.inf, -np.inf, 2.5]}, r"2 infinite value.* column 'a'"),
    "nullable infinite": ({"a": pd.array([1.5, np.inf], dtype="Float64")}, "1 infinite value"),
    "big integers": ({"a": [2**53 + 1, 1]}, r"2\*\*53 in column 'a'"),
    "big objects": ({"a": pd.Series([2**70, 1, None], dtype=object)}, r"2\*\*53"),
    "mixed objects": ({"a": [1, "a", None]}, "holds int, str"),
    "lists": ({"a": [[1], [2]]}, "holds list"),
    "complex": ({"a": [1j, 2]}, "Complex data not supported"),
    "period": ({"a": pd.period_range("2020", periods=2, freq="M")}, r"period\[M\]"),
    "interval": ({"a": pd.interval_range(0, 2)}, "interval"),
    "cut": ({"a": pd.cut(pd.Series([1, 2, 3]), 2)}, "Interval"),
    "sparse": ({"a": pd.arrays.SparseArray([1, 0, 0])}, "Sparse"),
    "dates as objects": ({"a": pd.Series([DAYS[0].date(), DAYS[9].date()], dtype=object)}, "date"),
    "nested arrow": ({"a": pd.Series([[1], [2]], dtype=arrow(pa.list_(pa.int64())))}, "list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_named(case: str) -> None:
    data, match = REFUSED[case]
    frame = pd.DataFrame(data)
    with pytest.raises(SchemaError, match=match) as caught:
        Schema.infer(frame)
    assert all(part in str(caught.value) for part in ("found ", "needed ", "do: "))
    schema = Schema.infer(pd.DataFrame({"a": [0.5, 1.7, 2.1, -3.3]}))
    if case != "cut":  # a category where numbers were fitted is refused as such
        with pytest.raises(SchemaError, match=match):
            encode(frame, schema)


@pytest.mark.parametrize("name", ["real", "count", "day"])
def test_text_is_never_parsed(name: str, table: pd.DataFrame, schema: Schema) -> None:
    with pytest.raises(SchemaError, match=f"text .* in column '{name}'"):
        encode(table.assign(**{name: table[name].astype(str)}), schema)
    holes = encode(table.assign(**{name: None}), schema)
    assert not holes.seen[:, schema.slots_of([name])].any()
    holes = encode(table.assign(**{name: np.nan}), schema)
    assert not holes.seen[:, schema.slots_of([name])].any()


def test_zones_must_match(table: pd.DataFrame, schema: Schema) -> None:
    with pytest.raises(SchemaError, match="with a time zone in column 'day'"):
        encode(table.assign(day=table["day"].dt.tz_localize("UTC")), schema)
    zoned = table[["day"]].assign(day=table["day"].dt.tz_localize("UTC"))
    fitted = Schema.infer(zoned)
    other = encode(zoned.assign(day=zoned["day"].dt.tz_convert("Asia/Tokyo")), fitted)
    assert np.array_equal(other.x, encode(zoned, fitted).x)


def test_column_names() -> None:
    values = np.ones((3, 2))
    with pytest.raises(SchemaError, match=r"repeated column names \['a'\]"):
        to_frame(pd.DataFrame(values, columns=["a", "a"]))
    with pytest.raises(SchemaError, match="MultiIndex columns"):
        to_frame(pd.DataFrame(values, columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2)])))
    with pytest.raises(TypeError, match=r"your input has \['int', 'str'\]"):
        to_frame(pd.DataFrame(values, columns=["a", 1]))
    frame = pd.DataFrame([[1.5, 2], [2.5, 7]], columns=[0, 1])
    schema = Schema.from_json(Schema.infer(frame).to_json())
    assert decode(encode(frame, schema).x, schema).columns.tolist() == [0, 1]


def test_tables_of_other_libraries() -> None:
    data = {"a": [1.5, 2.25, 4.0], "b": ["x", "y", "x"], "c": [1, 2, 3]}
    expected = pd.DataFrame(data)
    for other in (data, pl.DataFrame(data), pa.table(data)):
        pd.testing.assert_frame_equal(to_frame(other), expected)
    frame = to_frame(pl.DataFrame({"c": [1, None, 3]}))
    assert Schema.infer(frame)["c"].kind == "count"
    with pytest.raises(SchemaError, match=r"2\*\*53 in column 'c'"):
        to_frame(pl.DataFrame({"c": [2**53 + 1, None]}))
    with pytest.raises(SchemaTypeError, match="collect"):
        to_frame(pl.DataFrame(data).lazy())
    with pytest.raises(SchemaTypeError, match="sparse csr_matrix"):
        to_frame(scipy.sparse.csr_matrix(np.eye(3)))
    for odd in (np.ones(3), pd.Series([1, 2]), None, "text", np.ones((2, 2, 2))):
        with pytest.raises(SchemaError, match="Expected 2D array"):
            to_frame(odd)


def test_arrays_take_the_fitted_names(table: pd.DataFrame) -> None:
    numeric = table[["real", "size", "count"]]
    schema = Schema.infer(numeric)
    assert np.array_equal(encode(numeric.to_numpy(), schema).x, encode(numeric, schema).x)
    values = np.ones((4, 2))
    assert np.shares_memory(to_frame(values).to_numpy(), values)


def test_no_rows(table: pd.DataFrame, schema: Schema) -> None:
    for none in (table[:0], pd.DataFrame(columns=table.columns)):
        encoded = encode(none, schema)
        assert encoded.x.shape == (0, len(schema.slots))
    back = decode(np.zeros((0, len(schema.slots))), schema)
    assert back.dtypes.equals(table.dtypes)


def test_jitter_spreads_over_the_cell() -> None:
    rng = np.random.default_rng(11)
    frame = pd.DataFrame(
        {
            "a": np.round(rng.normal(5, 1, 2000), 1),
            "b": np.round(rng.lognormal(0, 1, 2000) + 0.1, 1),
            "c": np.round(rng.uniform(0, 10, 2000)),
            "d": rng.normal(size=2000),
        }
    )
    bounds = {"kind": "bounded", "lower": 0, "upper": 10}
    schema = Schema.infer(frame, {"c": bounds, "b": "positive"})
    plain = encode(frame, schema)
    assert np.isfinite(plain.x).all()
    assert not plain.illegal.any()
    jittered = encode(frame, schema, jitter=np.random.default_rng(0))
    assert np.isfinite(jittered.x).all()
    assert np.array_equal(plain.x[:, 3], jittered.x[:, 3])
    loc, scale = schema["a"].loc, schema["a"].scale
    shift = (jittered.x[:, 0] * scale + loc) - frame["a"].to_numpy()
    assert np.abs(shift).max() <= 0.05 + 1e-12
    assert shift.std() == pytest.approx(0.1 / np.sqrt(12), rel=0.05)
    for encoded in (plain, jittered):
        pd.testing.assert_frame_equal(
            decode(encoded.x, schema)[list("abc")], frame[list("abc")], check_exact=True
        )


def test_far_encoded_values_are_legal(table: pd.DataFrame) -> None:
    frame = table.assign(
        unit=np.linspace(0.01, 0.99, N), small=np.float32(table["size"]),
        share=np.linspace(0.01, 0.99, N).astype("float32"), tiny=table["count"].astype("int8"),
    )  # fmt: skip
    frame["tiny"] += 1
    schema = Schema.infer(frame, {"unit": "unit", "share": "unit", "tiny": "positive"})
    for far in (1e6, -1e6, 1e300, -1e300):
        x = np.full((3, len(schema.slots)), far)
        for place, slot in enumerate(schema.slots):
            if slot.kind == "category":
                x[:, place] = 0
        back = decode(x, schema)
        assert back.dtypes.equals(frame.dtypes)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not encode(back, schema).illegal.any()


def test_the_reserved_code_has_no_value(table: pd.DataFrame, schema: Schema) -> None:
    x = encode(table, schema).x.copy()
    x[0, schema.slots_of(["job"])[0]] = 2
    with pytest.raises(SchemaError, match="column 'job'"):
        decode(x, schema)
    with pytest.raises(SchemaError, match="shape"):
        decode(x[:, 1:], schema)
    x[0] = np.nan
    with pytest.raises(SchemaError, match="not finite"):
        decode(x, schema)


def test_squares_of_encoded_values_are_finite() -> None:
    values = np.append(np.random.default_rng(0).normal(0, 1e-3, 300), 1e306)
    with pytest.warns(DataWarning, match="extreme value in column 'a'"):
        schema = Schema.infer(pd.DataFrame({"a": values}))
    x = encode(pd.DataFrame({"a": values}), schema).x
    assert np.isfinite((x**2).sum())
    assert x[-1, 0] == x.max()


def test_dates_are_shifted_before_they_become_floats() -> None:
    start = pd.Timestamp("2263-01-01").as_unit("us")
    days = pd.Series(start + pd.to_timedelta(np.arange(50), unit="us"))
    schema = Schema.infer(days.to_frame("a"))
    encoded = encode(days.to_frame("a"), schema)
    gaps = np.diff(encoded.x[:, 0]) * schema["a"].scale * 86_400e6
    np.testing.assert_allclose(gaps, 1.0, rtol=1e-9)
    pd.testing.assert_series_equal(decode(encoded.x, schema)["a"], days, check_names=False)


def test_plain_numbers_encode_alike_as_a_block_and_by_column():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(3, [1e-3, 1.0, 1e9], (50, 3)), columns=list("abc"))
    schema = Schema.infer(table)
    block = encode(table[["c", "a", "b"]], schema)
    holed = table.copy()
    holed.iloc[0, 0] = np.nan  # a hole takes the way column by column
    single = encode(holed, schema)
    np.testing.assert_array_equal(block.x[1:], single.x[1:])
    assert block.seen.all() and not single.seen[0, 0] and not block.illegal.any()
    with pytest.raises(SchemaError, match="infinite"):
        encode(table.assign(a=np.inf), schema)
