"""Pictures of networks: every node and edge is there, boxes do not overlap, arrows go down."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from probgen import plots
from probgen.errors import NotSupported, SchemaError
from probgen.graphs.dag import Dag
from probgen.plots.accessor import Plots
from probgen.plots.layers import layered
from tests.plots.drawing import drawn, texts

# Lauritzen and Spiegelhalter (1988)
ASIA = ("asia", "tub", "smoke", "lung", "bronc", "either", "xray", "dysp")
CHEST = Dag.of(8, [(0, 1), (2, 3), (2, 4), (1, 5), (3, 5), (5, 6), (5, 7), (4, 7)])


def random_dag(nodes: int, chance: float, seed: int) -> Dag:
    rng = np.random.default_rng(seed)
    return Dag.of(nodes, [(i, j) for i in range(nodes) for j in range(i + 1, nodes)
                          if rng.random() < chance])  # fmt: skip


def shapes(ax, kind):
    return [patch for patch in ax.patches if isinstance(patch, kind)]


def inked(text):
    """What a text covers, in pixels."""
    return text.get_window_extent()


def test_all_nodes_and_edges_are_drawn_parents_above():
    ax = plots.draw_network(ASIA, CHEST)
    drawn(ax)
    place = {text.get_text(): text.get_position() for text in ax.texts}
    assert set(place) == set(ASIA)
    arrows = shapes(ax, FancyArrowPatch)
    assert len(arrows) == len(CHEST.edges) and len(shapes(ax, FancyBboxPatch)) == 8
    for (parent, child), arrow in zip(CHEST.edges, arrows, strict=True):
        way = arrow._path_original.vertices
        up, down = place[ASIA[parent]], place[ASIA[child]]
        assert up[1] > down[1]
        assert up[1] > way[0, 1] > way[-1, 1] > down[1]
        assert abs(way[0, 0] - up[0]) < 40 and abs(way[-1, 0] - down[0]) < 40


@pytest.mark.parametrize("dag", [
    CHEST, Dag.of(3, [(0, 1)]), random_dag(40, 0.05, 0), random_dag(20, 0.3, 1),
    Dag.of(40, [(0, i) for i in range(1, 40)]), Dag.of(12),
])  # fmt: skip
def test_boxes_stand_apart_and_edges_pass_between_them(dag):
    widths = [30.0 + 7 * (i % 9) for i in range(len(dag))]
    plan = layered(dag, widths, 20.0, 40.0)
    for i in range(len(dag)):
        for j in range(i):
            beside = abs(plan.x[i] - plan.x[j]) - (widths[i] + widths[j]) / 2
            assert beside > 13.9 or abs(plan.y[i] - plan.y[j]) > 20.0
        assert widths[i] / 2 - 1e-9 <= plan.x[i] <= plan.width - widths[i] / 2 + 1e-9
    for parent, child in dag.edges:
        assert plan.y[parent] > plan.y[child]
        for x, y in plan.lanes[parent, child]:
            assert plan.y[parent] > y > plan.y[child]
            level = np.flatnonzero(np.abs(plan.y - y) < 1e-6)
            assert all(abs(plan.x[n] - x) > widths[n] / 2 for n in level)


def test_a_tree_has_no_crossings_and_straight_long_edges():
    # a chain beside an edge from its first to its last node
    plan = layered(Dag.of(6, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 5)]), [40.0] * 6, 20, 40)
    assert np.ptp(plan.lanes[0, 5][:, 0]) < 15
    tree = Dag.of(13, [((i - 1) // 3, i) for i in range(1, 13)])
    plan = layered(tree, [40.0] * 13, 20, 40)
    for one in tree.edges:
        for two in tree.edges:
            if plan.y[one[0]] == plan.y[two[0]] and plan.x[one[0]] < plan.x[two[0]]:
                assert plan.x[one[1]] < plan.x[two[1]]


def test_probabilities_stand_at_their_edges_and_widen_them():
    chance = np.random.default_rng(0).uniform(0.1, 1, (8, 8))
    ax = plots.draw_network(ASIA, CHEST, probabilities=chance)
    figure = drawn(ax)
    arrows = shapes(ax, FancyArrowPatch)
    wanted = [chance[edge] for edge in CHEST.edges]
    order = np.argsort(wanted)
    assert (np.diff([arrows[i].get_linewidth() for i in order]) > 0).all()
    numbers = [text for text in ax.texts if text.get_text() not in ASIA]
    assert [text.get_text() for text in numbers] == [f"{value:.2f}" for value in wanted]
    boxes = [inked(text) for text in ax.texts]
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[:i])
    for text, arrow in zip(numbers, arrows, strict=True):
        others = [other for other in arrows if other is not arrow]
        at = text.get_position()
        nearest = [np.hypot(*(path_points(other) - at).T).min() for other in (arrow, *others)]
        assert nearest[0] < 2 and nearest[0] == min(nearest)
    plt.close(figure)


def path_points(arrow):
    way = arrow._path_original.cleaned(curves=False).vertices[:-1]
    return Path(way).interpolated(20).vertices


def test_kinds_differ_in_shape_and_marked_nodes_in_colour():
    kinds = ["normal" if i < 3 else "discrete" for i in range(8)]
    ax = plots.draw_network(ASIA, CHEST, kinds, highlight={"lung"})
    drawn(ax)
    assert len(shapes(ax, Ellipse)) == 3 and len(shapes(ax, FancyBboxPatch)) == 5
    assert texts(ax.get_legend()) == ["discrete", "normal"]
    colours = [tuple(patch.get_edgecolor()) for patch in ax.patches
               if not isinstance(patch, FancyArrowPatch)]  # fmt: skip
    assert sorted(colours.count(colour) for colour in set(colours)) == [1, 3, 4]
    assert plots.draw_network(ASIA, CHEST).get_legend() is None


def test_given_axes_are_used_and_letters_shrink_to_fit():
    _, (mine, _) = plt.subplots(1, 2, figsize=(3, 1.5))
    ax = plots.draw_network(ASIA, CHEST, ax=mine)
    assert ax is mine
    figure = drawn(ax)
    box = ax.get_window_extent()
    for text in ax.texts:
        own = inked(text)
        assert box.x0 - 1 <= own.x0 and own.x1 <= box.x1 + 1
    large = plots.draw_network(ASIA, CHEST)
    assert ax.texts[0].get_fontsize() < large.texts[0].get_fontsize()
    plt.close(figure)


def test_a_model_with_a_graph_is_drawn():
    names = ["a", "$b_{1$", "a long name that must be shortened"]
    frame = pd.DataFrame(0.75, index=names[::-1], columns=names)
    model = SimpleNamespace(
        graph_=Dag.of(3, [(0, 1), (0, 2)]), node_names_=names,
        node_kinds_=["discrete", "normal", "normal"], edge_probabilities_=frame,
    )  # fmt: skip
    ax = Plots(model).network(highlight=["a"])
    drawn(ax)
    found = [text.get_text() for text in ax.texts]
    assert found[:2] == names[:2] and found[2].endswith("…") and found.count("0.75") == 2
    model.edge_probabilities_ = None
    assert len(Plots(model).network().texts) == 3
    with pytest.raises(NotSupported, match="no graph"):
        Plots(SimpleNamespace()).network()


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(SchemaError, match="8 nodes"):
        plots.draw_network(ASIA[:3], CHEST)
    with pytest.raises(SchemaError, match="kinds"):
        plots.draw_network(ASIA, CHEST, ["counts"] * 8)
    with pytest.raises(SchemaError, match="shape"):
        plots.draw_network(ASIA, CHEST, probabilities=np.ones((3, 3)))
    with pytest.raises(SchemaError, match="'dysp'"):
        plots.draw_network(ASIA, CHEST, highlight=["dyspnoea"])
