"""Probabilities of events, and rows given events, from the densities of any fitted family.

`exact_answers` sums and integrates, `estimated` draws, `conditioned` and `draw_rows` give rows
that satisfy an event. Nothing here knows pandas or a family by name.
"""

from probgen.probability.answers import Answers, exact_answers
from probgen.probability.drawing import Conditioned, conditioned, draw_rows, impossible, satisfied
from probgen.probability.monte_carlo import Effort, estimated, estimated_given
from probgen.probability.source import Rows, Source, TooHard

__all__ = [
    "Answers",
    "Conditioned",
    "Effort",
    "Rows",
    "Source",
    "TooHard",
    "conditioned",
    "draw_rows",
    "estimated",
    "estimated_given",
    "exact_answers",
    "impossible",
    "satisfied",
]
