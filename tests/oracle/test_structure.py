"""Structure scores against pgmpy and pyAgrum, and the search against pyAgrum's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from probgen.graphs.dag import Dag
from probgen.graphs.nodes import NodeRows
from probgen.graphs.scores import Scorer
from probgen.graphs.search import hill_climb

SIZES = (2, 3, 2, 4)
NAMES = ["a", "b", "c", "d"]


def table(n: int = 400) -> tuple[NodeRows, pd.DataFrame]:
    random = np.random.default_rng(0)
    codes = np.stack([random.integers(0, s, n) for s in SIZES], axis=1)
    codes[:, 3] = np.where(random.random(n) < 0.6, codes[:, 0] + codes[:, 1], codes[:, 3])
    frame = pd.DataFrame(codes.astype(str), columns=NAMES)
    return NodeRows(codes, np.full(codes.shape, np.nan), SIZES, np.ones(n)), frame


@pytest.mark.parametrize("score", ["bic", "bdeu"])
def test_discrete_scores_are_those_of_pgmpy(score):
    scores = pytest.importorskip("pgmpy.structure_score")
    rows, frame = table()
    states = {name: [str(i) for i in range(size)] for name, size in zip(NAMES, SIZES, strict=True)}
    if score == "bic":
        peer = scores.BIC(frame, state_names=states)
    else:
        peer = scores.BDeu(frame, equivalent_sample_size=5, state_names=states)
    scorer = Scorer(rows, score, ess=5.0)
    for node, parents in [(3, (0, 1)), (3, ()), (1, (0, 2)), (2, (3,))]:
        theirs = peer.local_score(NAMES[node], tuple(NAMES[p] for p in parents))
        assert scorer.local(node, parents) == pytest.approx(float(theirs), abs=1e-6)


def test_linear_gaussian_bic_is_that_of_pgmpy():
    scores = pytest.importorskip("pgmpy.structure_score")
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 3))
    x[:, 2] += x[:, 0] - 0.5 * x[:, 1]
    x = (x - x.mean(0)) / x.std(0)
    rows = NodeRows(np.full((300, 3), -1), x, (0, 0, 0), np.ones(300))
    peer = scores.BICGauss(pd.DataFrame(x, columns=list("xyz")))
    scorer = Scorer(rows, "bic")
    theirs = peer.local_score("z", ("x", "y")) - peer.local_score("z", ("x",))
    ours = scorer.local(2, (0, 1)) - scorer.local(2, (0,))
    assert ours == pytest.approx(float(theirs), abs=0.05)  # a hundredth of a row in the variance


def test_hill_climbing_reaches_the_score_of_pyagrum():
    gum = pytest.importorskip("pyagrum")
    rows, frame = table()
    learner = gum.BNLearner(frame)
    learner.useGreedyHillClimbing()
    learner.useScoreBIC()
    scorer = Scorer(rows, "bic")
    theirs = scorer.graph(Dag.of(4, learner.learnDAG().arcs()))
    assert scorer.graph(hill_climb(scorer)) >= theirs - 1e-6
