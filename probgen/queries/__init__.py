"""The verbs on tensors: everything derived from any model/guide pair.

Nothing here knows pandas or a family by name. Closed forms of a family are plain torch and
may run in several threads; everything that runs the pair is inside one guarded session.
"""

from probgen.queries.density import Estimate, interval, log_prob, log_prob_draws
from probgen.queries.draws import Predictive, draw_globals, encoded
from probgen.queries.latents import latent, reconstruct
from probgen.queries.pairs import log_pairs
from probgen.queries.sampling import sample

__all__ = [
    "Estimate",
    "Predictive",
    "draw_globals",
    "encoded",
    "interval",
    "latent",
    "log_pairs",
    "log_prob",
    "log_prob_draws",
    "reconstruct",
    "sample",
]
