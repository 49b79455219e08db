"""Overrides of the inferred schema: a kind by column name, or a dict that says more."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from probgen.columns import KINDS
from probgen.errors import SchemaError, message

__all__ = ["checked"]

#: keys of an override
KEYS = frozenset({"kind", "lower", "upper", "levels", "atoms", "grid"})
#: the kinds for which a key of an override means something
MEANS = {
    "lower": ("positive", "bounded", "count"),
    "upper": ("bounded", "count"),
    "levels": ("category", "ordered", "boolean"),
    "atoms": ("real", "positive", "unit", "bounded"),
    "grid": ("real", "positive", "unit", "bounded"),
}


def checked(name: Hashable, value: Any) -> dict[str, Any]:
    """An override as a dict, checked."""
    spec = {"kind": value} if isinstance(value, str) else value
    if not isinstance(spec, dict) or not KEYS.issuperset(spec):
        raise SchemaError(
            message(
                f"override {value!r} for column {name!r}",
                f"a kind, or a dict with keys among {sorted(KEYS)}",
                "see Schema.infer",
            )
        )
    if spec.get("kind") not in (None, *KINDS):
        raise SchemaError(
            message(
                f"kind {spec['kind']!r} for column {name!r}", f"one of {list(KINDS)}", "choose one"
            )
        )
    spec = dict(spec)
    if spec.get("levels") is not None:
        spec.setdefault("kind", "category")
    _check_keys(name, spec)
    if spec.get("kind") == "bounded":
        lower, upper = spec.get("lower"), spec.get("upper")
        if lower is None or upper is None or not float(lower) < float(upper):
            raise SchemaError(
                message(
                    f"bounds {lower} and {upper} for column {name!r}",
                    "lower < upper for kind 'bounded'",
                    "give both, e.g. {'kind': 'bounded', 'lower': 0, 'upper': 10}",
                )
            )
    return spec


def _check_keys(name: Hashable, spec: dict[str, Any]) -> None:
    """Every key of an override must mean something for its kind."""
    kind = spec.get("kind")
    given = [key for key, means in MEANS.items() if spec.get(key) is not None]
    useless = [key for key in given if kind not in MEANS[key]]
    if useless:
        raise SchemaError(
            message(
                f"override {useless} for column {name!r} of kind {kind!r}",
                "; ".join(f"{key} with kinds {MEANS[key]}" for key in useless),
                "name the kind too, or leave them out",
            )
        )
