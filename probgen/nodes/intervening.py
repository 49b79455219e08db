"""A network after an intervention: some nodes are set, and nothing acts on them any more.

The nodes that are set leave the network; their children keep the part of their table or
regression that belongs to the set value (the truncated factorisation; Pearl 2009, Causality, 2nd
edition, section 3.2).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from probgen.graphs.dag import Dag
from probgen.nodes.layout import Layout
from probgen.nodes.network import Draw, Network
from probgen.nodes.softmax import Softmax, SoftmaxNode

__all__ = ["draws_after", "network_after"]

#: by node, the code of a discrete node, or the value of a normal or a grouped one
Settings = Mapping[int, float]


def network_after(network: Network, settings: Settings) -> Network:
    """The network over the remaining slots, in their order."""
    settings = _states(network, settings)
    layout = network.layout
    kept = [i for i in range(len(layout)) if i not in settings]
    number = {i: place for place, i in enumerate(kept)}
    slots = [network.slots[i] for i in kept]
    found = Network(slots, network.binned, network.spread).to(network.edges.device)
    for i in kept:
        place = str(number[i])
        if i in layout.curved and not all(p in settings for p in layout.inputs[i]):
            found.curves[place] = _curve_after(network, layout, i, settings)
        found.nodes[place] = _node_after(network, layout, i, settings)
        if str(i) in network.values:
            found.values[place] = copy.deepcopy(network.values[str(i)])
    edges = [tuple(number[p] for p in layout.dag.parents[i] if p in number) for i in kept]
    found.set_graph(Dag(tuple(edges)))
    return found


def draws_after(network: Network, draws: Draw, settings: Settings) -> Draw:
    """Posterior draws of the network after the intervention, from those before."""
    settings = _states(network, settings)
    layout = network.layout
    kept = [i for i in range(len(layout)) if i not in settings]
    found: Draw = {}
    for place, i in enumerate(kept):
        if f"probs_{i}" in draws:
            found[f"probs_{place}"] = _cut(draws[f"probs_{i}"], layout.labels[i], settings, 1)
        if f"shape_{i}" in draws:
            found[f"shape_{place}"] = draws[f"shape_{i}"]
        if f"weights_{i}" in draws:
            chosen = _chosen(network, layout, i, settings)
            w = draws[f"weights_{i}"].unflatten(1, layout.shape(i) or (1,))
            w = _cut(w, layout.labels[i], settings, 1)
            w = w.reshape(len(w), -1, *w.shape[-2:])
            w = _merged(w, layout.inputs[i], settings)
            if w.shape[-1] > 1:
                found[f"weights_{place}"] = w
            else:  # no normal parent is left: a table
                left = [layout.sizes[p] for p in layout.labels[i] if p not in settings]
                p = _levels_of(network.curve(i).in_configurations(chosen).at(w))
                found[f"probs_{place}"] = p.unflatten(1, left) if left else p[:, 0]
        if f"precision_{i}" in draws:
            shape = layout.shape(i)
            precision = draws[f"precision_{i}"].unflatten(1, shape or (1,))
            b = draws[f"coefficients_{i}"].unflatten(1, shape or (1,))
            precision = _cut(precision, layout.labels[i], settings, 1)
            b = _cut(b, layout.labels[i], settings, 1)
            b = b.reshape(len(b), -1, b.shape[-1])
            found[f"precision_{place}"] = precision.reshape(len(b), -1)
            found[f"coefficients_{place}"] = _merged(b, layout.inputs[i], settings)
    return found


def _states(network: Network, settings: Settings) -> Settings:
    """Settings with the group in place of the value, for nodes that stand for groups."""

    def state(node: int, value: float) -> float:
        if str(node) not in network.values:
            return value
        group = network.group(node)
        return float(group.code(torch.tensor([value], device=group.cuts.device)))

    return {node: state(node, value) for node, value in settings.items()}


def _cut(values: Tensor, labels: tuple[int, ...], settings: Settings, first: int) -> Tensor:
    """Values with an axis a discrete parent, from axis `first` on, taken at the set codes."""
    for axis in reversed(range(len(labels))):
        if labels[axis] in settings:
            values = values.select(first + axis, int(settings[labels[axis]]))
    return values


def _merged(b: Tensor, inputs: tuple[int, ...], settings: Settings) -> Tensor:
    """Coefficients (..., q) of which those of set parents go into the level."""
    level, rest = b[..., 0], []
    for place, parent in enumerate(inputs):
        if parent in settings:
            level = level + settings[parent] * b[..., 1 + place]
        else:
            rest.append(b[..., 1 + place])
    return torch.stack([level, *rest], -1)


def _chosen(network: Network, layout: Layout, node: int, settings: Settings) -> Tensor:
    """Configurations of a node that agree with what is set."""
    every = torch.arange(layout.configurations(node), device=network.edges.device)
    return _cut(every.view(layout.shape(node)), layout.labels[node], settings, 0).reshape(-1)


def _levels_of(own: Softmax) -> Tensor:
    """Probabilities (s, c, states) of a node without normal parents."""
    one = own.weights.new_ones(1, 1)
    each = [Softmax(w[None], own.rare).log_probs(one)[0] for w in own.weights]
    return torch.stack(each).exp()


def _curve_after(network: Network, layout: Layout, node: int, settings: Settings) -> SoftmaxNode:
    found = network.curve(node).in_configurations(_chosen(network, layout, node, settings))
    inputs = layout.inputs[node]
    for place in reversed(range(len(inputs))):
        if inputs[place] in settings:
            found = found.at_value(place, float(settings[inputs[place]]))
    return found


def _node_after(
    network: Network, layout: Layout, node: int, settings: Settings
) -> torch.nn.Module:
    labels = layout.labels[node]
    if not network.is_normal(node):
        table = copy.deepcopy(network.table(node))
        if node in layout.curved:
            if all(p in settings for p in layout.inputs[node]):
                chosen = _chosen(network, layout, node, settings)
                own = network.curve(node).in_configurations(chosen)
                # the very weights that the predictive is averaged over before
                weights = network.curve(node).predictive().weights[:, chosen]
                weights = _merged(weights, layout.inputs[node], settings)
                table.given = _levels_of(own.at(weights)).mean(0).T
                table.counts = torch.zeros_like(table.given)
            return table
        shape = layout.shape(node) or (1,)
        table.counts = _flat(_cut(table.counts.unflatten(1, shape), labels, settings, 1))
        if table.fixed:
            table.given = _flat(_cut(table.given.unflatten(1, shape), labels, settings, 1))
        return table
    found = network.regression(node).in_configurations(_chosen(network, layout, node, settings))
    inputs = layout.inputs[node]
    for place in reversed(range(len(inputs))):
        if inputs[place] in settings:
            found = found.at_value(place, float(settings[inputs[place]]))
    return found


def _flat(table: Tensor) -> Tensor:
    """A table ``(size, *parents)`` as (size, c)."""
    return table.reshape(len(table), -1)
