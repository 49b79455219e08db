"""How odd a row is, by a density that odd rows in the fitted table do not bend.

What an `OutlierDetector` goes by where it is given no density: `default_density`, and the
`blended_surprisal` of its rows. benchmarks/adbench.py chose both.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from probgen import queries
from probgen.batch import Batch
from probgen.density import Density
from probgen.estimators import StudentT
from probgen.table import encode

__all__ = ["blend", "blended_surprisal", "default_density"]


def default_density(random_state: int | None = None) -> StudentT:
    """The density of an `OutlierDetector` that is given none, unfitted.

    One Student's t over all columns of numbers: it learns how columns depend on one another,
    and rows that do not belong count for little in it (docs/decisions/0008).
    """
    return StudentT(numbers="real", dequantise=False, random_state=random_state)


def blended_surprisal(
    model: Density,
    table: Any,
    unseen: Literal["error", "missing", "rare"] = "error",
    extra: Literal["error", "ignore"] = "error",
) -> pd.Series:
    """Half the surprisal of each row, and half that of its pairs of cells.

    The surprisal of the whole row finds rows that break how all columns depend on one another,
    but a few columns of small conditional variance can drown the others in it. That of the
    pairs is steadier: no column is judged given more than one other. Each of the two counts
    every cell once, so half of each does.

    Parameters
    ----------
    model : Density
        Fitted, with marginals of one joint density.
    table : data frame of n rows
        Any of the fitted columns; NaN cells are integrated out.
    unseen, extra
        As in `Density.log_prob`.

    Returns
    -------
    Series (n,)
        On the caller's index, nats, table units; larger is stranger. Infinite for rows outside
        the support. A change of unit of a real column moves all rows with the same cells alike.

    Raises
    ------
    NotSupported
        If the marginals of the family are not those of one joint density.

    Notes
    -----
    Cost: that of `log_prob`, and of d (d - 1) / 2 pairs, in closed form for `StudentT`.

    References
    ----------
    Varin, Reid and Firth (2011), An overview of composite likelihood methods, Statistica
    Sinica 21.

    Examples
    --------
    >>> import numpy as np
    >>> a, b = np.random.default_rng(0).normal(size=(2, 300))
    >>> table = pd.DataFrame({"size": a, "weight": a + 0.1 * b})
    >>> table.loc[300] = [1.0, -1.0]  # neither is odd alone
    >>> model = default_density(random_state=0).fit(table)
    >>> int(blended_surprisal(model, table).idxmax())
    300
    """
    check_is_fitted(model)
    encoded = encode(table, model.schema_, unseen=unseen, extra=extra)
    value = blend(model, model._batch(encoded, model._device))
    value[encoded.illegal] = np.inf
    return pd.Series(value, index=encoded.index, name="surprisal")


def blend(model: Density, batch: Batch) -> NDArray[np.float64]:
    """`blended_surprisal` (n,) of encoded rows."""
    assert batch.x is not None  # noqa: S101 - made from encoded rows
    predictive = model._predictive()
    with torch.no_grad():
        row = queries.log_prob(predictive, batch).value.double()
        pairs = queries.log_pairs(predictive, batch)
        # the map to encoded units works cell by cell: rows and pairs have the same slope
        value = 0.5 * (row + pairs) + model.schema_.log_det(batch.x, batch.seen)
    return -value.cpu().numpy()
