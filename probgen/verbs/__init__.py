"""What can be asked of a fitted density: one method a verb, pandas in and out."""

from probgen.verbs.base import Extra, Unseen
from probgen.verbs.events import Events
from probgen.verbs.generating import Generating
from probgen.verbs.imputing import Imputing
from probgen.verbs.latents import Latents
from probgen.verbs.oddity import Oddity
from probgen.verbs.parameters import Parameters
from probgen.verbs.relations import Relations
from probgen.verbs.scoring import Scoring
from probgen.verbs.structure import Structure
from probgen.verbs.trust import Trust

__all__ = ["Extra", "Unseen", "Verbs"]


class Verbs(
    Oddity, Scoring, Events, Generating, Imputing, Relations, Structure, Latents, Parameters, Trust
):
    """The questions; `probgen.Density` adds fitting and scikit-learn's conventions."""
