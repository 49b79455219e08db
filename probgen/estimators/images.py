"""Columns of a table that are the pixels of an image: what they are, and how they are read."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probgen import cells
from probgen.columns import Column
from probgen.errors import SchemaError, message
from probgen.grids import common_step, location
from probgen.nn.convolutions import Network
from probgen.nn.pixels import Picture, Pixels
from probgen.schema import Schema
from probgen.table import Encoded, encode

__all__ = ["described", "encoded", "picture", "pixel_names"]

#: the kind of column that pixels are, by how they are modelled
KINDS = {"bernoulli": "boolean", "logistic": "ordered", "normal": "real"}
#: largest grey level of 8 bits; pixels that go above the half of it are taken to have all levels
BYTE = 255
#: grey levels at most
MOST = 65_535

Floats = NDArray[np.float64]


def pixel_names(
    image: Sequence[Hashable] | None, modelled: Sequence[Hashable], every: Sequence[Hashable]
) -> list[Hashable]:
    """Names of the pixels, row after row: those chosen, or all columns that are modelled."""
    if image is None:
        return list(modelled)
    names: list[Hashable] = [image] if isinstance(image, str) else list(image)
    known = set(every)
    foreign = [name for name in names if name not in known]
    if foreign or len(set(names)) < len(names) or not names:
        raise SchemaError(message(
            f"image with column(s) {foreign[:5]} that the table does not have" if foreign else
            "an image without columns, or with one of them twice",
            "the names of the pixels, row after row from the top, each once",
            "correct image=",
        ))  # fmt: skip
    return names


def described(
    frame: pd.DataFrame,
    names: Sequence[Hashable],
    pixels: Pixels,
    columns: Mapping[Hashable, Any] | None,
    given: Sequence[Hashable],
    dequantise: bool,
) -> Schema:
    """The schema of a table whose pixels `names` are all of one kind, whatever one looks like.

    A pixel that is the same in all training rows is modelled like the others. Other columns are
    described as ever.
    """
    both = [name for name in names if name in (columns or {})]
    if both:
        raise SchemaError(message(
            f"columns= for the pixel(s) {both[:5]}", "one kind for all pixels",
            f"leave them out of columns, or drop pixels={pixels!r}",
        ))  # fmt: skip
    chosen = set(names)
    rest = frame[[name for name in frame.columns if name not in chosen]]
    context = [name for name in given if name not in chosen]
    found: dict[Hashable, Column] = {}
    if rest.shape[1] or context:
        found = {c.name: c for c in Schema.infer(rest, columns, context, dequantise).columns}
    elif len(frame) < 2:
        Schema.infer(frame, None, (), dequantise)  # says what a table needs
    values = _values(frame, names)
    seen = values[~np.isnan(values)]
    kinds = {"bernoulli": _binary, "logistic": _levels, "normal": _real}
    common = kinds[pixels](seen, dequantise)
    for name in names:
        own = replace(common, name=name, dtype=cells.dtype_name(frame[name]),
                      role="context" if name in given else "modelled",
                      why=f"pixels={pixels!r}")  # fmt: skip
        found[name] = own
    return Schema(tuple(found[name] for name in frame.columns))


def _values(frame: pd.DataFrame, names: Sequence[Hashable]) -> Floats:
    """Values (n, pixels) of pixels, NaN in the holes."""
    stored = {name: cells.storage(frame[name]) for name in names}
    bad = [name for name, kind in stored.items() if kind not in ("number", "bool", "null")]
    if bad:
        raise SchemaError(message(
            f"pixel column(s) {bad[:5]} of type {frame[bad[0]].dtype}", "numbers or booleans",
            "name the pixels in image=, or pass columns to condition on as given=",
        ))  # fmt: skip
    return frame[list(names)].to_numpy(np.float64, na_value=np.nan)


def _binary(seen: Floats, dequantise: bool) -> Column:
    outside = seen[(seen < 0) | (seen > 1)]
    if len(outside):
        raise SchemaError(message(
            f"the pixel value {outside[0]:g}",
            "0 and 1, or probabilities between them, for pixels='bernoulli'",
            "divide by the largest value, or choose pixels='logistic' or 'normal'",
        ))  # fmt: skip
    return Column("", "boolean", "", levels=(0, 1))


def _levels(seen: Floats, dequantise: bool) -> Column:
    bad = seen[(seen != np.rint(seen)) | (seen < 0) | (seen > MOST)]
    top = 0 if not len(seen) else int(seen.max())
    if len(bad) or top < 2:
        raise SchemaError(message(
            f"the pixel value {bad[0]:g}" if len(bad) else f"no pixel above {top}",
            f"whole grey levels for pixels='logistic', from 0 to 2 or more, at most {MOST}",
            "scale and round them, or choose pixels='bernoulli' or 'normal'",
        ))  # fmt: skip
    top = BYTE if BYTE // 2 < top < BYTE else top
    return Column("", "ordered", "", levels=tuple(range(top + 1)))


def _real(seen: Floats, dequantise: bool) -> Column:
    infinite = seen[np.isinf(seen)]
    if len(infinite):
        raise SchemaError(message(
            "an infinite pixel value", "finite numbers", "correct it, or make it missing"
        ))  # fmt: skip
    distinct, counts = np.unique(seen, return_counts=True)
    grid = common_step(distinct, counts) if dequantise and len(distinct) else None
    loc, scale, _ = location(seen)
    # half of the pixels may be background: their spread says nothing of the others
    scale = float(seen.std()) if len(distinct) > 1 else scale
    return Column("", "real", "", loc=loc, scale=scale, grid=grid)


def encoded(
    frame: pd.DataFrame, schema: Schema, names: Sequence[Hashable], jitter: Any
) -> Encoded:
    """The table to fit, with the probability of a 1 in the cells of binary pixels."""
    own = [name for name in names if schema[name].role == "modelled"]
    found = encode(frame.drop(columns=own), schema, jitter=jitter)
    slots = schema.slots_of(own)
    values = _values(frame, own)
    found.seen[:, slots] = ~np.isnan(values)
    found.x[:, slots] = np.nan_to_num(values)
    return found


def picture(
    schema: Schema,
    image: Sequence[Hashable] | None,
    pixels: Pixels,
    network: Network,
    shape: tuple[int, int] | None,
) -> Picture | None:
    """Which slots are the pixels, for the network; None where nothing depends on it."""
    if network == "dense" and pixels == "auto":
        return None
    modelled = [c.name for c in schema.columns if c.role != "context"]
    names = pixel_names(image, modelled, schema.names)
    if shape is not None or network == "conv":
        shape = _checked_shape(shape, names)
    slots = []
    for name in names:
        column = schema[name]
        own = schema.slots_of([name]) if column.role == "modelled" else []
        slots.append(own[-1] if own else -1)  # beside an atom, the number
        if own:
            _check_kind(column, pixels, network)
    return Picture(tuple(slots), shape if network == "conv" else None, pixels)


def _checked_shape(shape: Any, names: Sequence[Hashable]) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in shape)
        fits = height * width == len(names) and (height, width) == tuple(shape)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise SchemaError(message(
            f"shape={shape!r} for {len(names)} pixel(s)",
            "(height, width) of the image, whose product is the number of pixels",
            "pass shape=, and the names of the pixels as image= if the table has other columns",
        ))  # fmt: skip
    return height, width


def _check_kind(column: Column, pixels: Pixels, network: Network) -> None:
    """A pixel must be of the kind that the setting says."""
    wanted = KINDS.get(pixels)
    if wanted is not None and column.kind != wanted:
        raise SchemaError(message(
            f"a schema in which pixel {column.name!r} is {column.kind}",
            f"kind {wanted!r} for pixels={pixels!r}", "leave schema= out, or pixels=",
        ))  # fmt: skip
    if network == "conv" and column.kind == "category" and len(column.levels or ()) > 2:
        raise SchemaError(message(
            f"pixel {column.name!r} of kind category with {len(column.levels or ())} levels",
            "pixels that are numbers, ordered or of two values", "set pixels=, or network='dense'",
        ))  # fmt: skip
