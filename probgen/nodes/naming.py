"""Names of states, groups and configurations, as a reader of the table knows them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable

from probgen.columns import Column
from probgen.nodes.network import Network
from probgen.schema import Schema

__all__ = ["site_axes", "state_names"]

Axes = list[tuple[str, list[str]]]


def state_names(network: Network, schema: Schema, node: int) -> tuple[Hashable, ...]:
    """Labels of the named states of a discrete node, in table units; () of a normal one."""
    slot = network.slots[node]
    column = schema.columns[slot.column]
    if network.is_normal(node):
        return ()
    if node in network.grouped:
        return _groups(column, network, node)
    return tuple(column.levels or ()) if column.labelled else ("other", *column.atoms)


def _groups(column: Column, network: Network, node: int) -> tuple[str, ...]:
    """Names of groups of values."""
    cuts = network.group(node).cuts.cpu().numpy()
    if column.kind == "count":
        lower = int(column.support()[0])
        starts = [lower, *(math.ceil(c) + lower for c in cuts)]
        inner = [str(a) if a == b - 1 else f"{a}-{b - 1}" for a, b in itertools.pairwise(starts)]
        return (*inner, f">= {starts[-1]}")
    edges = [f"{v:.4g}" for v in column.backward(cuts * column.scale + column.loc)]
    if not edges:
        return ("all",)
    inner = [f"{a} to {b}" for a, b in itertools.pairwise(edges)]
    return (f"< {edges[0]}", *inner, f">= {edges[-1]}")


def _every_state(network: Network, schema: Schema, node: int) -> list[str]:
    """Labels of all states, the reserved one too."""
    named = [str(label) for label in state_names(network, schema, node)]
    return named + ["(unseen)"] * (network.layout.sizes[node] - len(named))


def site_axes(network: Network, schema: Schema, what: str, node: int) -> Axes:
    """Names and labels of the dimensions of a global site of a node."""
    layout, slots = network.layout, network.slots
    name = slots[node].name

    def levels(i: int) -> tuple[str, list[str]]:
        return f"{slots[i].name}_level", _every_state(network, schema, i)

    if what == "probs":
        return [*(levels(p) for p in layout.labels[node]), levels(node)]
    if what == "shape":
        return [(f"{name}_kernel", [str(b) for b in range(len(network.group(node).kernel))])]
    parents = layout.labels[node]
    each = itertools.product(*(levels(p)[1] for p in parents))
    labels = [
        ", ".join(f"{slots[p].name}={v}" for p, v in zip(parents, key, strict=True)) or "all"
        for key in each
    ]
    config = (f"{name}_configuration", labels)
    terms = (f"{name}_term", ["level", *(slots[p].name for p in layout.inputs[node])])
    if what == "precision":
        return [config]
    if what == "coefficients":
        return [config, terms]
    named = [str(label) for label in state_names(network, schema, node)]
    return [config, (f"{name}_named", named), terms]
