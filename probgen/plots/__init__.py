"""Pictures of a fitted model (matplotlib): every function returns the axes it drew on.

Nothing global is changed: no style, no backend. A figure is made where no axes are passed;
close it with ``matplotlib.pyplot.close``.
"""

from probgen.plots.accessor import Plots
from probgen.plots.fits import loss
from probgen.plots.latents import latents
from probgen.plots.maps import components, density, latent
from probgen.plots.marginals import marginals
from probgen.plots.networks import draw_network, network
from probgen.plots.pairs import pairs
from probgen.plots.rows import p_values, surprisal, waterfall
from probgen.plots.trust import elpd, gains, khat
from probgen.plots.uniform import pit, ranks
from probgen.plots.warps import warp

__all__ = [
    "Plots", "components", "density", "draw_network", "elpd", "gains", "khat", "latent",
    "latents", "loss", "marginals", "network", "p_values", "pairs", "pit", "ranks", "surprisal",
    "warp", "waterfall",
]  # fmt: skip
