"""What may be compared or mixed: densities with respect to one measure, that are densities."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from probgen.errors import NotSupported, SchemaError, message
from probgen.schema import Schema

__all__ = ["require_density", "require_one_measure"]


def require_density(name: str, traits: Any) -> None:
    """Refuse a family without a density, or whose density has an unknown total mass.

    Parameters
    ----------
    name : str
        Of the model, for the message.
    traits : Family, or its class

    Raises
    ------
    NotSupported
    """
    family = traits if isinstance(traits, type) else type(traits)
    if traits.density == "none":
        raise NotSupported(message(
            f"{name!r} ({family.__name__}) has no density: it only draws rows",
            "a log density of held-out rows", f"leave {name!r} out, and compare samples instead",
        ))  # fmt: skip
    if not traits.normalised:
        raise NotSupported(message(
            f"{name!r} ({family.__name__}) is not normalised: nobody knows the total mass of its "
            "density", "densities of total mass 1: any other can have the highest score",
            f"leave {name!r} out",
        ))  # fmt: skip


def require_one_measure(
    schemas: Mapping[str, Schema], given: Sequence[Hashable] = ()
) -> dict[str, dict[str, Any]]:
    """Refuse densities with respect to different measures.

    Columns that are conditioned on have no density: how they are described does not matter.

    Parameters
    ----------
    schemas : dict of Schema
        By name of the model.
    given : sequence of column names
        What all are conditioned on; context columns must be among these.

    Returns
    -------
    dict
        The measure that they share.

    Raises
    ------
    SchemaError
        That names the models, the columns, and what differs.
    """
    known = {str(name) for name in given}
    measures = {}
    for name, schema in schemas.items():
        context = {str(c.name) for c in schema.columns if c.role == "context"}
        if context - known or (context and context != known):
            raise SchemaError(message(
                f"{name!r} conditions on {sorted(context)} and given={sorted(known)}",
                "the same columns to condition on for all models",
                f"pass given={sorted(context)}, and fit every model with these columns",
            ))  # fmt: skip
        own = schema.measure()
        measures[name] = {column: own[column] for column in own if column not in known}
    first, *others = measures
    for other in others:
        differ = _difference(measures[first], measures[other])
        if differ:
            raise SchemaError(message(
                f"{first!r} and {other!r} have densities with respect to different measures: "
                f"{differ}", "the same columns, kinds, atoms, grids and bounds",
                "fit both with schema=pg.Schema.infer(table), or pass unfitted models",
            ))  # fmt: skip
    return measures[first]


def _difference(one: dict[str, dict[str, Any]], two: dict[str, dict[str, Any]]) -> str:
    alone = sorted(set(one) ^ set(two))
    if alone:
        return f"column(s) {alone} belong to one of them only"
    found = [
        f"{key} of {name!r} is {one[name][key]!r} and {two[name][key]!r}"
        for name in one for key in one[name] if one[name][key] != two[name][key]
    ]  # fmt: skip
    return "; ".join(found[:5])
