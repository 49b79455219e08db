"""Reading and writing the cells of one column, whatever its data type.

What is read: numbers as float64 with NaN in the holes, labels as integer codes with -1 in the
holes, dates as whole ticks. What is written: a series of the data type that was read.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probgen.errors import SchemaError, SchemaTypeError, message

__all__ = [
    "all_missing", "dtype_from", "dtype_name", "labels", "numbers", "scalar", "storage",
    "tick_range", "ticks", "too_large", "write", "write_labels", "zone",
]  # fmt: skip

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: ticks in a day by resolution
PER_DAY = {
    "D": 1,
    "s": 86_400,
    "ms": 86_400_000,
    "us": 86_400_000_000,
    "ns": 86_400_000_000_000,
}
#: largest whole number up to which float64 holds every integer
EXACT = 2**53

_OBJECT = {
    "string": "text", "boolean": "bool", "integer": "number", "floating": "number",
    "mixed-integer-float": "number", "empty": "null",
}  # fmt: skip


def storage(series: pd.Series) -> str:
    """How the cells are stored: number, bool, text, date, duration, category or null.

    Raises
    ------
    SchemaError
        For anything else; the message names the column and the types found.
    """
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    if isinstance(dtype, pd.StringDtype):
        return "text"
    if isinstance(dtype, pd.ArrowDtype):
        found = _arrow_storage(dtype)
    elif isinstance(dtype, (pd.SparseDtype, pd.PeriodDtype, pd.IntervalDtype)):
        found = None
    elif dtype == np.dtype(object):
        found = _OBJECT.get(pd.api.types.infer_dtype(series, skipna=True))
        if found is None:
            raise _foreign_objects(series)
    else:
        kinds = {"b": "bool", "i": "number", "u": "number", "f": "number", "M": "date"}
        found = (kinds | {"m": "duration"}).get(getattr(dtype, "kind", ""))
    if found is None:
        raise _unsupported(series)
    return found


def _arrow_storage(dtype: pd.ArrowDtype) -> str | None:
    import pyarrow as pa

    kind = dtype.pyarrow_dtype
    tests = {
        "bool": pa.types.is_boolean, "number": lambda t: pa.types.is_integer(t)
        or pa.types.is_floating(t), "text": lambda t: pa.types.is_string(t)
        or pa.types.is_large_string(t), "date": lambda t: pa.types.is_timestamp(t)
        or pa.types.is_date(t), "duration": pa.types.is_duration,
        "category": pa.types.is_dictionary, "null": pa.types.is_null,
    }  # fmt: skip
    return next((name for name, test in tests.items() if test(kind)), None)


def _unsupported(series: pd.Series) -> SchemaError:
    dtype = series.dtype
    if getattr(dtype, "kind", "") == "c":
        # scikit-learn's estimator checks look for this sentence
        return SchemaTypeError(
            message(
                f"complex numbers in column {series.name!r}: Complex data not supported",
                "real numbers",
                "keep the real and the imaginary part as two columns",
            )
        )
    advice = "convert it to numbers, text, category or datetime64"
    if isinstance(dtype, pd.SparseDtype):
        advice = "make it dense: table['column'].sparse.to_dense()"
    if isinstance(dtype, pd.PeriodDtype):
        advice = "convert it with .dt.to_timestamp()"
    return SchemaTypeError(
        message(
            f"column {series.name!r} of type {dtype}",
            "numbers, text, booleans, categories or dates",
            advice,
        )
    )


def _foreign_objects(series: pd.Series) -> SchemaError:
    """The error for an object column that holds more than text, or booleans, or numbers."""
    held = series[series.notna().to_numpy()]
    kinds = sorted({type(value).__name__ for value in held})
    advice = "convert it, e.g. .astype(str), and declare it as category if it holds labels"
    if kinds == ["Decimal"]:
        advice = f"convert it: table[{series.name!r}].astype(float)"
    elif kinds == ["date"] or set(kinds) <= {"datetime", "Timestamp"}:
        advice = f"convert it: pd.to_datetime(table[{series.name!r}])"
    return SchemaTypeError(
        message(
            f"object column {series.name!r} that holds {', '.join(kinds)} "
            "(each argument must be a string or a real number)",
            "one type in a column: text, booleans or numbers",
            advice,
        )
    )


def dtype_name(series: pd.Series) -> str:
    """A string from which `dtype_from` makes the series' data type again."""
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        inner = dtype_name(pd.Series(dtype.categories))
        return f"{'ordered' if dtype.ordered else 'category'}[{inner}]"
    if isinstance(dtype, pd.StringDtype):
        return f"{'string' if dtype.na_value is pd.NA else 'str'}[{dtype.storage}]"
    if isinstance(dtype, pd.ArrowDtype):
        return f"arrow:{dtype.pyarrow_dtype}"
    return str(dtype)


def dtype_from(name: str) -> Any:
    """The pandas data type called `name` by `dtype_name` (categories apart)."""
    if name.startswith("arrow:"):
        return pd.ArrowDtype(_arrow_type(name.removeprefix("arrow:")))
    match = re.fullmatch(r"(str|string)\[(python|pyarrow)\]", name)
    if match:
        missing = pd.NA if match[1] == "string" else np.nan
        return pd.StringDtype(match[2], na_value=missing)
    return pd.api.types.pandas_dtype(name)


def _arrow_type(name: str) -> Any:
    import pyarrow as pa

    stamp = re.fullmatch(r"timestamp\[(\w+)(?:, tz=(.+))?\]", name)
    if stamp:
        return pa.timestamp(stamp[1], tz=stamp[2])
    table = re.fullmatch(r"dictionary<values=(.+), indices=(\w+), ordered=(\d)>", name)
    if table:
        return pa.dictionary(_arrow_type(table[2]), _arrow_type(table[1]), table[3] == "1")
    aliases = {"float": "float32", "double": "float64", "halffloat": "float16"}
    short = {"date32[day]": pa.date32(), "date64[ms]": pa.date64()}
    return short[name] if name in short else pa.type_for_alias(aliases.get(name, name))


def scalar(value: Any) -> Any:
    """A plain Python scalar, or a pandas time stamp."""
    return value.item() if isinstance(value, np.generic) else value


def numbers(series: pd.Series) -> Floats:
    """Cells as float64 (n,), NaN in the holes; durations in days. May share memory.

    Raises
    ------
    SchemaError
        For infinite values, and for whole numbers that float64 cannot hold.
    """
    kind = storage(series)
    if kind == "null":
        return np.full(len(series), np.nan)
    if kind == "duration":
        count, hole, unit = ticks(series)
        return np.where(hole, np.nan, count / PER_DAY[unit])
    dtype = series.dtype
    if getattr(dtype, "kind", "") in "iu" or dtype == np.dtype(object):
        _check_exact(series)
    if isinstance(dtype, np.dtype) and dtype != np.dtype(object):
        values = series.to_numpy(dtype=np.float64)
    else:
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    infinite = int(np.isinf(values).sum())
    if infinite:
        raise SchemaError(
            message(
                f"{infinite} infinite value(s) (inf or infinity) in column {series.name!r}",
                "finite numbers or holes",
                "replace them, e.g. by NaN where the value is not known",
            )
        )
    return values


def _check_exact(series: pd.Series) -> None:
    if series.dtype == np.dtype(object):
        whole = [value for value in series if isinstance(value, (int, np.integer))]
        top = max((abs(int(value)) for value in whole), default=0)
    else:
        ends = (series.max(), series.min())
        top = max(0 if pd.isna(value) else abs(int(value)) for value in ends)
    if top > EXACT:
        raise too_large(series.name)


def too_large(name: Any) -> SchemaError:
    """The error for whole numbers that float64 cannot hold."""
    return SchemaError(
        message(
            f"whole numbers above 2**53 in column {name!r}",
            "numbers that float64 holds without loss of precision",
            "drop the column if it is an identifier, or subtract a constant, or declare "
            "it as category after .astype(str)",
        )
    )


def zone(dtype: Any) -> str | None:
    """The time zone of a date type, None where it has none."""
    if isinstance(dtype, pd.ArrowDtype):
        return getattr(dtype.pyarrow_dtype, "tz", None)
    return str(dtype.tz) if isinstance(dtype, pd.DatetimeTZDtype) else None


def tick_range(unit: str) -> tuple[int, int]:
    """First and last tick that pandas and Python's dates both can hold: years 1 to 9999."""
    if unit == "ns":
        return -(2**63) + 1, 2**63 - 1
    first, last = (int(np.datetime64(d, "D").astype(int)) for d in ("0001-01-02", "9999-12-30"))
    return first * PER_DAY[unit], last * PER_DAY[unit]


def all_missing(n: int, dtype: str) -> Any:
    """n holes of the data type called `dtype`; a type that holds none becomes float64."""
    target = dtype_from(dtype)
    if dtype == "object":
        return np.full(n, None, dtype=object)
    if isinstance(target, np.dtype):
        return np.full(n, "NaT" if target.kind in "Mm" else np.nan).astype(target)
    return pd.array([None] * n, dtype=target)


def labels(series: pd.Series) -> tuple[NDArray[np.intp], pd.Index]:
    """Codes (n,), -1 in the holes, and the label of each code; no pass over rows in Python."""
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return series.cat.codes.to_numpy(), dtype.categories
    if isinstance(dtype, pd.ArrowDtype) and storage(series) == "category":
        series = series.astype(pd.ArrowDtype(dtype.pyarrow_dtype.value_type))
    codes, found = pd.factorize(series, use_na_sentinel=True)
    return codes, pd.Index(found)


def ticks(series: pd.Series) -> tuple[Ints, Bools, str]:
    """Whole ticks since 1970 UTC (n,), the holes (n,), and the unit of the ticks."""
    dtype = series.dtype
    if isinstance(dtype, pd.ArrowDtype):
        import pyarrow as pa

        kind = dtype.pyarrow_dtype
        unit = "D" if pa.types.is_date32(kind) else getattr(kind, "unit", "ms")
        whole = pd.ArrowDtype(pa.int32() if unit == "D" else pa.int64())
        hole = series.isna().to_numpy()
        count = series.astype(whole).to_numpy(dtype=np.int64, na_value=0)
        return count, hole, unit
    count = np.asarray(series.array.view("i8"))
    hole = series.isna().to_numpy()
    return count, hole, str(np.datetime_data(_bare(series.dtype))[0])


def _bare(dtype: Any) -> Any:
    return f"M8[{dtype.unit}]" if isinstance(dtype, pd.DatetimeTZDtype) else dtype


def write(values: Any, hole: Bools, dtype: str) -> Any:
    """An array of the data type called `dtype` from plain values, missing where `hole`.

    `values` are float64 numbers, int64 ticks for dates and durations, or bools. A numpy
    integer or bool column that must hold holes becomes pandas' nullable type.
    """
    target = dtype_from(dtype)
    kind = getattr(target, "kind", "")
    if dtype == "object":
        result = np.array(values, dtype=object)
        result[hole] = None
        return result
    if kind and kind in "Mm":
        return _write_ticks(values, hole, target)
    if kind and kind in "iu":
        values = _whole(values, target)
    if kind == "f" and isinstance(target, np.dtype):
        return _fit_float(np.where(hole, np.nan, values), target)
    if isinstance(target, np.dtype):
        if not hole.any():
            return np.asarray(values).astype(target)
        names = {"b": "boolean", "i": "Int64", "u": "UInt64"}
        target = pd.api.types.pandas_dtype(names[kind])
    if kind == "f":
        values = _fit_float(values, np.dtype(f"f{_width(target)}"))
    result = pd.array(np.asarray(values), dtype=target)
    if hole.any():
        result[hole] = pd.NA
    return result


def write_labels(levels: tuple[Any, ...], codes: NDArray[np.intp], dtype: str) -> Any:
    """An array of the data type called `dtype` holding the level of each code; -1 is a hole."""
    inner = re.fullmatch(r"(category|ordered)\[(.+)\]", dtype)
    if inner:
        categories = pd.Index(list(levels), dtype=dtype_from(inner[2]))
        target = pd.CategoricalDtype(categories, ordered=inner[1] == "ordered")
        return pd.Categorical.from_codes(codes, dtype=target)
    target = dtype_from(dtype)
    hole = codes < 0
    if isinstance(target, pd.ArrowDtype) and storage(pd.Series([], dtype=target)) == "category":
        import pyarrow as pa

        kind = target.pyarrow_dtype
        index = pa.array(codes, mask=hole).cast(kind.index_type)
        words = pa.array(list(levels), type=kind.value_type)
        data = pa.DictionaryArray.from_arrays(index, words, ordered=kind.ordered)
        return pd.array(data, dtype=target)
    if dtype == "object":
        return np.array([*levels, None], dtype=object)[codes]
    if isinstance(target, np.dtype) and hole.any():
        names = {"b": "boolean", "i": "Int64", "u": "UInt64", "f": "Float64"}
        values = pd.array(list(levels), dtype=names[target.kind]).take(codes, allow_fill=True)
        return values.to_numpy(np.float64, na_value=np.nan) if target.kind == "f" else values
    if isinstance(target, np.dtype):
        return np.array(levels).astype(target)[codes]
    return pd.array(list(levels), dtype=target).take(codes, allow_fill=True)


def _width(target: Any) -> int:
    if isinstance(target, pd.ArrowDtype):
        return int(target.pyarrow_dtype.bit_width) // 8
    return int(target.itemsize)


def _fit_float(values: Floats, target: np.dtype[Any]) -> NDArray[Any]:
    """Cast to a float type without turning large values into infinity."""
    top = float(np.finfo(target).max)
    return np.clip(values, -top, top).astype(target)


def _whole(values: Floats, target: Any) -> Ints:
    """Nearest whole numbers that the type and float64 hold."""
    width = _width(target)
    signed = target.kind == "i"
    top = min(2 ** (8 * width - signed) - 1, EXACT)
    bottom = -min(2 ** (8 * width - 1), EXACT) if signed else 0
    return np.clip(np.rint(values), bottom, top).astype(np.int64)


def _write_ticks(count: Ints, hole: Bools, target: Any) -> Any:
    if isinstance(target, pd.ArrowDtype):
        import pyarrow as pa

        kind = target.pyarrow_dtype
        first = np.int32 if pa.types.is_date32(kind) else np.int64
        data = pa.array(count.astype(first), mask=hole).cast(kind)
        return pd.array(data, dtype=target)
    zone = isinstance(target, pd.DatetimeTZDtype)
    unit = target.unit if zone else np.datetime_data(target)[0]
    letter = "m8" if target.kind == "m" else "M8"
    data = np.where(hole, np.iinfo(np.int64).min, count).astype(f"{letter}[{unit}]")
    if not zone:
        return data
    return pd.DatetimeIndex(data).tz_localize("UTC").tz_convert(target.tz).array
