"""The registry leaves nothing out, so that a new family cannot escape the contract."""

import inspect
from typing import get_args

import probgen
from probgen.likelihoods import Covariance
from tests.registry import REGISTRY

MADE = {name: make() for name, make in REGISTRY.items()}


def subclasses(base):
    return {base} | {deep for sub in base.__subclasses__() for deep in subclasses(sub)}


def test_every_exported_density_is_in_the_registry():
    exported = {
        value
        for name in probgen.__all__
        if inspect.isclass(value := getattr(probgen, name)) and issubclass(value, probgen.Density)
    }
    bases = {probgen.Density, probgen.NetworkDensity}
    assert exported - bases == {type(made) for made in MADE.values()}


def test_every_density_of_the_package_is_exported():
    own = {c for c in subclasses(probgen.Density) if c.__module__.startswith("probgen.")}
    public = {c for c in own if "<locals>" not in c.__qualname__ and not c.__name__[0] == "_"}
    made = {c for c in public if "_make" in vars(c)}  # bases that only add verbs make nothing
    assert len(made) >= 10
    hidden = {c.__name__ for c in made if getattr(probgen, c.__name__, None) is not c}
    assert {name for name in hidden if not name.startswith("Density[")} == set()


def test_every_choice_of_the_mixture_is_in_the_registry():
    mixtures = [m for m in MADE.values() if isinstance(m, probgen.GaussianMixture)]
    assert {m.covariance for m in mixtures} == set(get_args(Covariance))
    assert {m.weights for m in mixtures} == {"dirichlet", "dp"}
    assert any(m.restarts > 1 for m in mixtures)
    assert any(m.batch_size for m in mixtures)


def test_entries_are_seeded_and_made_anew():
    for name, make in REGISTRY.items():
        assert make() is not make()
        assert isinstance(make().random_state, int), name
