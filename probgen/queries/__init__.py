"""The verbs on tensors: everything derived from any model/guide pair.

Nothing here knows pandas or a family by name. Closed forms of a family are plain torch and
may run in several threads; everything that runs the pair is inside one guarded session.
"""

from probgen.queries.companion import Companion
from probgen.queries.density import Estimate, log_prob, log_prob_given
from probgen.queries.divergences import (
    ACTIVE,
    Divergences,
    LatentDraws,
    Moments,
    latent_divergences,
    latent_draws,
    latent_moments,
)
from probgen.queries.draws import Predictive, draw_globals, encoded
from probgen.queries.intervals import estimate_draws, interval, log_prob_draws
from probgen.queries.latents import latent, reconstruct
from probgen.queries.masked import log_prob_masked, masked
from probgen.queries.pairs import log_pairs
from probgen.queries.particles import MOST, PARTICLES
from probgen.queries.resampling import Drawn
from probgen.queries.sampling import draw, sample

__all__ = [
    "MOST",
    "PARTICLES",
    "ACTIVE",
    "Companion",
    "Divergences",
    "Drawn",
    "Estimate",
    "LatentDraws",
    "Moments",
    "Predictive",
    "draw",
    "draw_globals",
    "encoded",
    "estimate_draws",
    "interval",
    "latent",
    "latent_divergences",
    "latent_draws",
    "latent_moments",
    "log_pairs",
    "log_prob",
    "log_prob_draws",
    "log_prob_given",
    "log_prob_masked",
    "masked",
    "reconstruct",
    "sample",
]
