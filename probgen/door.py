"""Checks at the border of the verbs: what scikit-learn demands, weights, `given`, seeds."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from probgen.columns import Column
from probgen.errors import SchemaError, message, warn
from probgen.grids import common_step
from probgen.schema import Schema
from probgen.table import Encoded, encode, to_frame

__all__ = [
    "Given", "check_settings", "check_weight", "count_distinct", "fit_frame", "generator_of",
    "given_parts", "given_rows", "hide_reserved", "refuse_without_context", "require_context",
    "require_rows", "require_two_weights", "score_frame", "warn_of_structure", "weighted_rows",
]  # fmt: skip

#: of a date in a text: 12/05 and 05/12 look the same, "now" changes
YEAR_FIRST = re.compile(r"\d{4}([-/ T]|$)")
Given: TypeAlias = Mapping[Any, Any] | pd.DataFrame | str | None


def _is_frame(table: Any) -> bool:
    if hasattr(table, "tocsr"):  # some of scipy's sparse matrices are mappings
        return False
    return hasattr(table, "columns") or isinstance(table, Mapping) or hasattr(table, "schema")


def fit_frame(estimator: BaseEstimator, table: Any) -> pd.DataFrame:
    """The table to fit as a data frame; sets `n_features_in_` and `feature_names_in_`."""
    if not _is_frame(table):
        if getattr(table, "ndim", 0) > 2:
            to_frame(table)  # says what to do
        table = validate_data(
            estimator, table, dtype="numeric", ensure_all_finite="allow-nan", ensure_min_samples=2
        )
        return to_frame(table)
    frame = to_frame(table)
    validate_data(estimator, frame, skip_check_array=True)
    return frame


def score_frame(estimator: BaseEstimator, table: Any) -> pd.DataFrame:
    """Rows with exactly the fitted columns, by scikit-learn's rules."""
    if not _is_frame(table):
        table = validate_data(
            estimator, table, dtype="numeric", ensure_all_finite="allow-nan", reset=False
        )
        return to_frame(table, estimator.schema_.names)
    frame = to_frame(table)
    validate_data(estimator, frame, skip_check_array=True, reset=False)
    return frame


def check_settings(estimator: BaseEstimator, **rules: tuple[str, ...] | int | float) -> None:
    """Each setting is one of a tuple, a whole number from an int, or a number above a float."""
    for name, rule in rules.items():
        value = getattr(estimator, name)
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if isinstance(rule, tuple):
            fits, needed = value in rule, f"one of {rule}"
        elif isinstance(rule, int):
            fits, needed = whole and value >= rule, f"a whole number, at least {rule}"
        else:
            number = whole or isinstance(value, float | np.floating)
            fits, needed = number and rule < value < np.inf, f"a finite number above {rule:g}"
        if not fits:
            raise SchemaError(message(f"{name}={value!r}", needed, f"change {name}"))


def check_weight(weight: Any, n: int) -> np.ndarray | None:
    """Frequency weights (n,): finite, not negative, not all zero."""
    if weight is None:
        return None
    values = np.asarray(weight, dtype=np.float64)
    if values.ndim == 0:
        values = np.full(n, float(values))
    if values.shape != (n,):
        raise SchemaError(message(
            f"sample_weight of shape {values.shape}", f"one weight a row, shape ({n},)",
            "pass an array as long as the table",
        ))  # fmt: skip
    bad = ~np.isfinite(values) | (values < 0)
    if bad.any():
        raise SchemaError(message(
            f"{int(bad.sum())} negative or non-finite value(s) in sample_weight",
            "finite weights, 0 or more", "correct or drop these rows",
        ))  # fmt: skip
    if not values.any():
        raise SchemaError(message(
            "sample_weight that is zero everywhere", "a positive sum", "pass other weights"
        ))  # fmt: skip
    return values


def require_two_weights(weight: np.ndarray | None) -> None:
    """Two rows at least must carry weight."""
    if weight is not None and (weight > 0).sum() < 2:
        raise SchemaError(message(
            "fewer than 2 rows with positive sample_weight", "at least 2", "pass other weights"
        ))  # fmt: skip


def require_rows(encoded: Encoded) -> None:
    """Training rows must lie inside the support."""
    if encoded.illegal.any():
        rows = encoded.index[encoded.illegal][:5].tolist()
        raise SchemaError(message(
            f"{int(encoded.illegal.sum())} row(s) outside the schema's support, first {rows}",
            "values inside the bounds, levels and kinds of the schema",
            "correct these rows, or widen the schema",
        ))  # fmt: skip


def require_context(encoded: Encoded, schema: Schema) -> None:
    """Context columns have a value in every row, of a level that was there at fit."""
    for place, slot in enumerate(schema.context_slots):
        holes = ~encoded.context_seen[:, place]
        name = schema.columns[slot.column].name
        if slot.reserved:
            foreign = encoded.context[:, place] == slot.size - 1
            if foreign.any():
                raise SchemaError(message(
                    f"{int(foreign.sum())} level(s) of context column {name!r} that the fit did "
                    "not see", "fitted levels", "drop these rows, or fit again with them",
                ))  # fmt: skip
        beside = slot.kind == "real" and schema.columns[slot.column].atoms  # of an atom: no hole
        if holes.any() and not beside:
            rows = encoded.index[holes][:5].tolist()
            raise SchemaError(message(
                f"{int(holes.sum())} row(s) without a value of context column {name!r}, "
                f"first {rows}", "a value in every row: the model conditions on this column",
                "fill or drop these rows, or model the column instead of passing it as given",
            ))  # fmt: skip


def refuse_without_context(schema: Schema) -> None:
    """Raise if the model conditions on columns, where no values of them can be passed."""
    context = [column.name for column in schema.columns if column.role == "context"]
    if context:
        raise SchemaError(message(
            f"no values of context column(s) {context}",
            "a value of each: the model conditions on them and does not model them",
            f"pass them by given, as a dict or a data frame: given={{{context[0]!r}: ...}}",
        ))  # fmt: skip


def hide_reserved(encoded: Encoded, schema: Schema) -> None:
    """Rows with a level that the fit did not see have density 0; the cell itself is hidden."""
    for place, slot in enumerate(schema.slots):
        if slot.reserved:
            foreign = encoded.seen[:, place] & (encoded.x[:, place] == slot.size - 1)
            encoded.illegal |= foreign
            encoded.seen[foreign, place] = False
            encoded.x[foreign, place] = 0.0


#: rows that stand for a weighted table, at most, as a multiple of its length
REPEATS = 10


def weighted_rows(frame: pd.DataFrame, weight: np.ndarray | None) -> pd.DataFrame:
    """Rows that stand for a weighted table where it is described: weight 2 is the row twice.

    Whole weights repeat rows; others take a systematic sample about as long as the table, in
    which every row of positive weight stands once at least, so that no level is lost.
    """
    if weight is None or (weight == 1).all():
        return frame
    whole = (weight == np.rint(weight)).all() and weight.sum() <= REPEATS * len(frame)
    if whole:
        times = weight.astype(np.int64)
    else:
        marks = np.floor(np.cumsum(weight) / weight.sum() * len(frame) + 0.5)
        times = np.maximum(np.diff(marks, prepend=0.0), weight > 0).astype(np.int64)
    return frame.iloc[np.repeat(np.arange(len(frame)), times)]


#: absolute correlation of two encoded columns from which they are called collinear
COLLINEAR = 1 - 1e-9
#: share of distinct rows below which a table is called duplicated, and where it is looked at
DISTINCT, LOOK_ROWS, LOOK_COLUMNS = 0.5, 10_000, 200


def warn_of_structure(encoded: Encoded, schema: Schema) -> None:
    """Warn of column pairs that determine each other, and of tables of repeated rows."""
    slots = schema.slots
    real = [i for i, slot in enumerate(slots) if slot.kind == "real"][:LOOK_COLUMNS]
    if not real:
        return
    x, seen = encoded.x[:LOOK_ROWS, real], encoded.seen[:LOOK_ROWS, real]
    whole = x[seen.all(1)]
    if len(whole) > 2:
        with np.errstate(invalid="ignore", divide="ignore"):
            r = np.abs(np.corrcoef(whole, rowvar=False).reshape(len(real), -1))
        pairs = np.argwhere(np.triu(r > COLLINEAR, 1))
        for i, j in pairs[:3]:
            names = slots[real[i]].name, slots[real[j]].name
            warn(
                f"columns {names[0]!r} and {names[1]!r} determine each other: the density is "
                "concentrated on a line, and its height means little; consider dropping one",
            )  # fmt: skip
    if len(whole) >= 20 and all(schema.columns[slots[i].column].grid is None for i in real):
        share = len(np.unique(whole, axis=0)) / len(whole)
        columns = [schema.columns[slots[i].column] for i in real]
        if share < DISTINCT and not _rounded(whole, columns):
            warn(
                f"only {share:.0%} of the rows are distinct in their real columns: repeated rows "
                "count as evidence each time; use sample_weight, or drop copies",
            )  # fmt: skip


def _rounded(x: np.ndarray, columns: list[Column]) -> bool:
    """Whether rounding explains that rows are equal, in a schema that notes no grids."""
    for place, column in enumerate(columns):
        values = column.backward(x[:, place] * column.scale + column.loc)
        if common_step(*np.unique(values, return_counts=True)) is not None:
            return True
    return False


def count_distinct(encoded: Encoded, enough: int) -> int:
    """Number of distinct rows; stops looking once there are `enough`."""
    # holes are 0 in x, and equal holes make equal rows, which NaNs would not
    both = np.concatenate([encoded.x, encoded.seen], 1)
    size = max(64, 4 * enough)
    while True:
        distinct = len(np.unique(both[:size], axis=0))
        if distinct >= enough or size >= len(both):
            return distinct
        size *= 4


def given_parts(
    asked: Encoded, table: pd.DataFrame, given: Given, schema: Schema, unseen: Any, extra: Any
) -> tuple[Encoded, Encoded | None]:
    """(asked and given cells together, the given cells alone), row by row."""
    if given is None:
        return asked, None
    frame = _given_frame(given, asked, schema)
    both = [name for name in frame.columns if name in table.columns]
    if both:
        raise SchemaError(message(
            f"column(s) {both} in the table and in given", "each column on one side",
            "drop them from one of the two",
        ))  # fmt: skip
    known = encode(frame, schema, unseen=unseen, extra=extra)
    if known.illegal.any():
        raise SchemaError(message(
            f"{int(known.illegal.sum())} row(s) of given outside the support",
            "conditions of positive probability", "correct the values",
        ))  # fmt: skip
    joint = replace(
        asked,
        x=np.where(known.seen, known.x, asked.x),
        seen=asked.seen | known.seen,
        context=np.where(known.context_seen, known.context, asked.context),
        context_seen=asked.context_seen | known.context_seen,
    )
    # what a model conditions on always is known on both sides
    return joint, replace(known, context=joint.context, context_seen=joint.context_seen)


def given_rows(given: Given, schema: Schema) -> pd.DataFrame:
    """`given` as a frame: one row for a dict, in which a date may be a text as in an event."""
    if isinstance(given, str):
        raise SchemaError(message(
            f"the event {given!r} as given", "a dict or a data frame: this verb takes no event",
            "condition on values, or draw rows by sample(n, given=event)",
        ))  # fmt: skip
    if not isinstance(given, Mapping):
        if not _is_frame(given):
            raise SchemaError(message(
                f"{type(given).__name__} as given", "a dict, a data frame, or an event",
                "pass given={'column': value}, given=table[['column']], or given='column > 3'",
            ))  # fmt: skip
        return to_frame(given)
    several = [name for name, value in given.items() if pd.api.types.is_list_like(value)]
    if several:
        raise SchemaError(message(
            f"several values of {several} in given", "one value a column in a dict",
            "pass a data frame to condition row by row",
        ))  # fmt: skip
    return pd.DataFrame([{name: _dated(name, value, schema) for name, value in given.items()}])


def _dated(name: Any, value: Any, schema: Schema) -> Any:
    """The value of a dict; the text of a date as a time stamp, the year first."""
    column = schema[name] if name in schema.number else None
    if column is None or column.kind != "date" or not isinstance(value, str):
        return value
    try:
        if not YEAR_FIRST.match(value.strip()):
            raise ValueError("the year does not come first")
        stamp = pd.Timestamp(value.strip())
        return stamp.tz_localize(column.tz) if column.tz and stamp.tzinfo is None else stamp
    except ValueError as error:
        raise SchemaError(message(
            f"the date {value!r} of column {name!r} in given ({error})",
            "a time stamp, or a text such as '2020-01-31'", "write it with the year first",
        )) from error  # fmt: skip


def _given_frame(given: Given, asked: Encoded, schema: Schema) -> pd.DataFrame:
    """`given` as a frame on the index of the asked rows."""
    n = len(asked.index)
    frame = given_rows(given, schema)
    if isinstance(given, Mapping):
        return frame.iloc[np.zeros(n, dtype=int)].set_axis(asked.index)
    if len(frame) != n or not frame.index.equals(asked.index):
        raise SchemaError(message(
            f"given with {len(frame)} rows on another index or length",
            f"the same {n} rows as the table, in the same order",
            "pass given=table[[...]] of the same table",
        ))  # fmt: skip
    return frame


def generator_of(random_state: int | None) -> torch.Generator:
    """A generator on the CPU, fresh from the operating system where the state is None."""
    if random_state is None:
        seed = secrets.randbits(62)
    elif isinstance(random_state, np.random.RandomState):  # as `fit` takes it
        seed = int(random_state.randint(2**31))
    elif isinstance(random_state, int | np.integer) and not isinstance(random_state, bool):
        seed = int(random_state)
    else:
        raise SchemaError(message(
            f"random_state={random_state!r}", "a whole number, or None", "pass an int"
        ))  # fmt: skip
    return torch.Generator().manual_seed(seed)
