"""Tables at the door: anything like a data frame becomes a pandas one, with sound names."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from probgen import cells
from probgen.errors import SchemaError, SchemaTypeError, message

__all__ = ["keep_seen", "to_frame", "with_dtypes"]


def to_frame(table: Any, names: Sequence[Hashable] | None = None) -> pd.DataFrame:
    """The table as a pandas data frame; the caller's object is never changed.

    Parameters
    ----------
    table : data frame
        pandas; polars, pyarrow and others through narwhals; a dict of columns; or a
        two-dimensional array.
    names : sequence, optional
        Names for the columns of an array; x0, x1, ... by default.

    Raises
    ------
    SchemaError
        For anything else, and for column names that are repeated, nested or of mixed type.

    Examples
    --------
    >>> to_frame([[1, 2], [3, 4]]).columns.tolist()
    ['x0', 'x1']
    """
    if isinstance(table, pd.DataFrame):
        frame = table
    elif isinstance(table, dict):
        if table and not any(pd.api.types.is_list_like(value) for value in table.values()):
            raise SchemaError(message(
                "a dict of single values", "a data frame, or a dict of columns",
                "put each value into a list: {'x': [1.0]}",
            ))  # fmt: skip
        frame = pd.DataFrame(table)
    else:
        frame = _from_native(table)
        if frame is None:
            frame = _from_array(table, names)
    _check_names(frame.columns)
    return frame


def _from_native(table: Any) -> pd.DataFrame | None:
    """A frame of another library through narwhals; None where narwhals does not know it."""
    import narwhals as nw

    native = nw.from_native(table, pass_through=True)
    if isinstance(native, nw.LazyFrame):
        raise SchemaTypeError(
            message("a lazy frame", "a table in memory", "call .collect() first")
        )
    if not isinstance(native, nw.DataFrame):
        return None
    for name in native.columns:
        column = native[name]
        # pandas would turn whole numbers with holes into floats, silently
        if column.dtype.is_integer() and column.null_count() and len(column.drop_nulls()):
            if max(abs(int(column.max())), abs(int(column.min()))) > cells.EXACT:
                raise cells.too_large(name)
    return native.to_pandas()


def _from_array(table: Any, names: Sequence[Hashable] | None) -> pd.DataFrame:
    if hasattr(table, "tocsr"):
        raise SchemaTypeError(
            message(
                f"a sparse {type(table).__name__}",
                "a dense table: sparse data is not supported",
                "call .toarray()",
            )
        )
    values = np.asarray(table)
    if values.ndim != 2:
        raise SchemaError(
            message(
                f"{type(table).__name__} with {values.ndim} dimension(s): Expected 2D array",
                "a data frame or a two-dimensional array",
                "pass table.loc[[label]] for one row of a data frame, table[[name]] for one "
                "column. Reshape your data: .reshape(1, -1) for one row of an array, "
                ".reshape(len(images), -1) for images",
            )
        )
    if names is None or len(names) != values.shape[1]:
        names = [f"x{place}" for place in range(values.shape[1])]
    return pd.DataFrame(values, columns=pd.Index(names), copy=False)


def _check_names(columns: pd.Index) -> None:
    if isinstance(columns, pd.MultiIndex):
        raise SchemaError(
            message(
                "MultiIndex columns",
                "one name a column",
                "flatten them: table.columns = ['_'.join(map(str, c)) for c in table.columns]",
            )
        )
    if not columns.is_unique:
        twice = list(dict.fromkeys(columns[columns.duplicated()]))
        raise SchemaError(
            message(f"repeated column names {twice}", "unique names", "rename or drop them")
        )
    kinds = sorted({type(name).__name__ for name in columns})
    if len(kinds) > 1 or (kinds and kinds[0] not in ("str", "int")):
        raise SchemaTypeError(
            message(
                f"column names of types {kinds}: Feature names are only supported if all "
                f"input features have string names, but your input has {kinds} as feature "
                "name / column name types",
                "all names text, or all whole numbers",
                "convert them: table.columns = table.columns.astype(str)",
            )
        )


def with_dtypes(table: pd.DataFrame, like: pd.DataFrame) -> pd.DataFrame:
    """`table` with the data types of `like`, where they hold the same values."""
    for name in table.columns:
        if table[name].dtype != like[name].dtype:
            try:
                cast = table[name].astype(like[name].dtype)
            except (TypeError, ValueError):
                continue  # a value that the type cannot hold, such as 1.5 in whole numbers
            if (cast.astype(object) == table[name].astype(object)).all():
                table[name] = cast
    return table


def keep_seen(table: pd.DataFrame, source: pd.DataFrame) -> pd.DataFrame:
    """`table` with every seen cell of `source` exactly as it was."""
    out = {}
    for name in table.columns:
        if name not in source.columns:
            out[name] = table[name]
            continue
        own, filled = source[name].set_axis(table.index), table[name]
        if own.isna().all():
            # of a column of holes only numbers keep a type of the caller's that fits them
            both = all(is_numeric_dtype(s) and not is_bool_dtype(s) for s in (own, filled))
            out[name] = filled.astype(own.dtype) if both else filled
            continue
        if isinstance(own.dtype, pd.CategoricalDtype):
            own = own.astype(filled.dtype)  # the caller's may lack the levels that fill it
        out[name] = own.where(own.notna(), filled)
    return pd.DataFrame(out, index=table.index)
