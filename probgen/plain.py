"""Parameters and results of a model as plain JSON, and back."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np

from probgen.columns import KINDS, Column
from probgen.errors import NotSupported, message
from probgen.schema import Schema

__all__ = ["checked", "decode", "encode"]

ROLES = ("modelled", "constant", "empty", "context")


def encode(value: Any, name: str) -> Any:
    """A parameter as JSON; what JSON lacks is tagged by a key that starts with $."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Schema):
        return {"$schema": json.loads(value.to_json())}
    if isinstance(value, np.random.RandomState):
        return {"$random_state": encode(value.get_state(legacy=True), name)}
    if isinstance(value, tuple):
        return {"$tuple": [encode(item, name) for item in value]}
    if isinstance(value, list):
        return [encode(item, name) for item in value]
    if hasattr(value, "tolist"):  # an array or an index
        return encode(value.tolist(), name)
    if hasattr(value, "keys"):
        pairs = [[encode(k, name), encode(value[k], name)] for k in value.keys()]  # noqa: SIM118
        plain = all(isinstance(k, str) and not k.startswith("$") for k, _ in pairs)
        return dict(pairs) if plain else {"$dict": pairs}
    raise NotSupported(message(
        f"{name} of type {type(value).__name__}",
        "None, numbers, text, lists, tuples, dicts or a Schema",
        f"set_params({name}=...) to something that can be written down, then save",
    ))  # fmt: skip


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    match [*value.items()]:
        case [("$float", text)]:
            return float(text)
        case [("$schema", data)]:
            return checked(Schema.from_json(json.dumps(data)))
        case [("$random_state", state)]:
            random = np.random.RandomState()
            random.set_state(decode(state))
            return random
        case [("$tuple", items)]:
            return tuple(decode(item) for item in items)
        case [("$dict", pairs)]:
            return {decode(k): decode(v) for k, v in pairs}
    return {k: decode(v) for k, v in value.items()}


def checked(schema: Schema) -> Schema:
    """Refuse a schema that `Schema.infer` could not have made."""

    def fine(c: Column) -> bool:
        return (
            c.kind in KINDS and c.role in ROLES and isinstance(c.dtype, str)
            and math.isfinite(c.loc) and 0 < c.scale < math.inf
        )  # fmt: skip

    wrong = [column.name for column in schema.columns if not fine(column)]
    if wrong or not schema.columns or len(set(schema.names)) != len(schema.columns):
        raise ValueError(f"a schema with wrong columns {wrong}")
    return schema
