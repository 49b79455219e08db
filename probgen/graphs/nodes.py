"""The rows from which a graph is learned: codes of discrete nodes, values of normal ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["NodeRows"]


@dataclass(frozen=True)
class NodeRows:
    """n rows over d nodes, each discrete or normal.

    Parameters
    ----------
    codes : array (n, d) of int64
        Code of each discrete node, 0 to size - 1; -1 where unseen, and for normal nodes.
    values : array (n, d) of float64
        Value of each normal node, about standardised; NaN where unseen, and for discrete nodes.
    sizes : tuple of int
        States of each discrete node; 0 for a normal node.
    weight : array (n,) of float64
        Frequency weights, more than 0.
    """

    codes: NDArray[np.int64]
    values: NDArray[np.float64]
    sizes: tuple[int, ...]
    weight: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def nodes(self) -> int:
        """How many nodes there are, d."""
        return len(self.sizes)
