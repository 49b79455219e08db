"""The estimators: one dataclass a family, whose fields are its settings."""

from probgen.estimators.autoregressive import Autoregressive
from probgen.estimators.flow import Flow
from probgen.estimators.mixtures import GaussianMixture, Independent, StudentT
from probgen.estimators.network import NetworkDensity
from probgen.estimators.pair import Pair

__all__ = [
    "Autoregressive",
    "Flow",
    "GaussianMixture",
    "Independent",
    "NetworkDensity",
    "Pair",
    "StudentT",
]
