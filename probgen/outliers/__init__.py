"""Odd rows: which they are, by p-values and flags; which cells are to blame; what would mend them.

`scorer` scores rows under any set of columns, `conformal` turns scores into p-values, `judging`
compares rows with rows of the model, `flags` answers `Density.outliers`, `explaining` and
`repairing` the verbs of their names; `detector` is the scikit-learn face, `robust` its default
density.
"""

from probgen.outliers.detector import OutlierDetector
from probgen.outliers.explaining import explain
from probgen.outliers.flags import outliers
from probgen.outliers.repairing import repair
from probgen.outliers.robust import blended_surprisal, default_density

__all__ = [
    "OutlierDetector",
    "blended_surprisal",
    "default_density",
    "explain",
    "outliers",
    "repair",
]
