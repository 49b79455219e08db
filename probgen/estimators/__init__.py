"""The estimators: one dataclass a family, whose fields are its settings."""

from probgen.estimators.autoregressive import Autoregressive
from probgen.estimators.bayesian_network import BayesianNetwork
from probgen.estimators.flow import Flow
from probgen.estimators.mixtures import GaussianMixture, Independent, StudentT
from probgen.estimators.network import NetworkDensity
from probgen.estimators.pair import Pair
from probgen.estimators.vae import VAE

__all__ = [
    "VAE",
    "Autoregressive",
    "BayesianNetwork",
    "Flow",
    "GaussianMixture",
    "Independent",
    "NetworkDensity",
    "Pair",
    "StudentT",
]
