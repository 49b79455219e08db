"""temporary"""

from __future__ import annotations

from probgen.graphs.constraints import Constraints
from probgen.graphs.scores import Scorer
from probgen.graphs.search import hill_climb


def learn(rows, method="auto", score="auto", constraints=Constraints(), rng=None, root=None):
    return hill_climb(Scorer(rows, "bic"), constraints)
