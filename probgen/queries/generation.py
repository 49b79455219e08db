"""Whole rows from a model that is run forwards."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from probgen.batch import Batch
from probgen.errors import FitError, message
from probgen.family import Family
from probgen.queries.contraction import traced

__all__ = ["generated"]


def generated(
    member: Family, batch: Batch, values: dict[str, Tensor], keys: Tensor | None = None
) -> Tensor:
    """Rows (n, m) that the model generates, from its `observe` sites or what it returns.

    `values` fixes latents; with `keys` the rows draw keyed noise.
    """
    batch = replace(batch, x=None, key=None, sites={})
    trace = traced(member.model, batch, values, keys, lenient=True)
    returned = trace.nodes["_RETURN"]["value"]
    if not batch.sites and isinstance(returned, Tensor) and returned.shape == batch.seen.shape:
        return returned
    n, m = batch.seen.shape
    x = batch.weight.new_zeros(n, m)
    missing = set(range(m))
    for name, columns in batch.sites.items():
        value = trace.nodes[name]["value"].to(x.dtype)
        x[:, list(columns)] = value.reshape(n, len(columns))
        missing -= set(columns)
    if missing:
        raise FitError(
            message(
                f"a model of {type(member).__name__} that generates nothing for slots "
                f"{sorted(missing)}",
                "every modelled slot in some batch.observe call",
                "observe all slots, or return the generated (n, m) rows",
            )
        )
    return x
