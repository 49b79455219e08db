"""Parts of networks that families share: cells as features, heads, rows in any order."""

from probgen.nn.cells import Cells
from probgen.nn.rows import RowNetwork

__all__ = ["Cells", "RowNetwork"]
