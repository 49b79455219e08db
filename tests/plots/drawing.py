"""Helpers of the tests of plots."""

import numpy as np


def drawn(axes):
    """Lay everything out, so that mistakes in labels show."""
    figure = np.ravel(np.asarray(axes, dtype=object))[0].figure
    figure.canvas.draw()
    return figure


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]
