"""Exact inference against published numbers and second libraries."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import torch

from probgen.elimination.network import DiscreteNetwork
from probgen.graphs.dag import Dag

ASIA, TUBERCULOSIS, SMOKING, CANCER, BRONCHITIS, EITHER, XRAY, DYSPNOEA = range(8)
EDGES = [
    (ASIA, TUBERCULOSIS), (SMOKING, CANCER), (SMOKING, BRONCHITIS), (TUBERCULOSIS, EITHER),
    (CANCER, EITHER), (EITHER, XRAY), (BRONCHITIS, DYSPNOEA), (EITHER, DYSPNOEA),
]  # fmt: skip


def yes(*probability: float, parents: int = 1) -> torch.Tensor:
    """A table of no and yes from the probabilities of yes given the parents' states."""
    p = torch.tensor(probability, dtype=torch.float64).reshape([2] * parents)
    return torch.stack([1 - p, p])


def asia() -> DiscreteNetwork:
    """The chest clinic of Lauritzen and Spiegelhalter (1988), JRSS B 50."""
    return DiscreteNetwork(
        Dag.of(8, EDGES),
        [
            yes(0.01, parents=0), yes(0.01, 0.05), yes(0.5, parents=0), yes(0.01, 0.10),
            yes(0.30, 0.60), yes(0.0, 1.0, 1.0, 1.0, parents=2), yes(0.05, 0.98),
            # of bronchitis, then of either
            yes(0.10, 0.70, 0.80, 0.90, parents=2),
        ],
    )  # fmt: skip


def row(**states: int) -> tuple[torch.Tensor, torch.Tensor]:
    codes = torch.full((1, 8), -1)
    for name, state in states.items():
        codes[0, globals()[name]] = state
    return codes, codes >= 0


def test_the_chest_clinic_before_and_after_evidence():
    network = asia()
    prior = network.marginals(*row())
    published = {TUBERCULOSIS: 0.0104, CANCER: 0.055, EITHER: 0.0648, BRONCHITIS: 0.45,
                 XRAY: 0.1103, DYSPNOEA: 0.4360}  # fmt: skip
    for v, wanted in published.items():
        assert float(prior[v][0, 1]) == pytest.approx(wanted, abs=5e-5)
    # a visit to Asia and shortness of breath
    after = network.marginals(*row(ASIA=1, DYSPNOEA=1))
    for v, wanted in {TUBERCULOSIS: 0.0878, CANCER: 0.0995, BRONCHITIS: 0.8114}.items():
        assert float(after[v][0, 1]) == pytest.approx(wanted, abs=5e-5)
    assert float(network.log_evidence(*row(EITHER=0, TUBERCULOSIS=1))) == -np.inf


def random_network(seed: int, d: int = 10) -> DiscreteNetwork:
    rng = np.random.default_rng(seed)
    dag = Dag.of(d, [(i, j) for j in range(d) for i in range(j) if rng.random() < 0.3])
    sizes = rng.integers(2, 5, d)
    tables = []
    for node, own in enumerate(dag.parents):
        table = rng.gamma(0.7, size=(sizes[node], *(sizes[p] for p in own)))
        tables.append(torch.from_numpy(table / table.sum(0)))
    return DiscreteNetwork(dag, tables)


@pytest.mark.parametrize("seed", range(3))
def test_posteriors_and_most_probable_states_are_those_of_pgmpy(seed):
    pytest.importorskip("pgmpy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pgmpy.factors.discrete import TabularCPD
        from pgmpy.inference import VariableElimination
        from pgmpy.models import DiscreteBayesianNetwork
    logging.getLogger("pgmpy").setLevel(logging.ERROR)
    network = random_network(seed)
    dag, sizes, d = network.dag, network.sizes, len(network.sizes)
    peer = DiscreteBayesianNetwork([(str(a), str(b)) for a, b in dag.edges])
    peer.add_nodes_from([str(v) for v in range(d)])
    for v, own in enumerate(dag.parents):
        peer.add_cpds(
            TabularCPD(
                str(v), sizes[v], network.tables[v].reshape(sizes[v], -1).numpy(),
                [str(p) for p in own] or None, [sizes[p] for p in own] or None,
            )
        )  # fmt: skip
    engine = VariableElimination(peer)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(d)[:3]
    codes = torch.full((1, d), -1)
    codes[0, chosen] = torch.tensor([rng.integers(sizes[v]) for v in chosen])
    seen = codes >= 0
    given = {str(v): int(codes[0, v]) for v in chosen}
    every = network.marginals(codes, seen)
    hidden = [v for v in range(d) if str(v) not in given]
    for v in hidden:
        wanted = engine.query([str(v)], evidence=given, show_progress=False).values
        np.testing.assert_allclose(every[v][0], wanted, rtol=1e-10)
        np.testing.assert_allclose(network.posterior(codes, seen, v)[0], wanted, rtol=1e-10)
    best = engine.map_query([str(v) for v in hidden], evidence=given, show_progress=False)
    states = network.maximise(codes, seen)[1][0]
    assert {str(v): int(states[v]) for v in hidden} == best
