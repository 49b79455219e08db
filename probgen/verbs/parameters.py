"""The parameters of the model with their uncertainty."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from probgen.diagnostics.arviz import Groups, collect
from probgen.diagnostics.posterior import kind, site_units
from probgen.errors import NotSupported, SchemaError, message
from probgen.verbs.base import Asked

__all__ = ["Parameters"]


class Parameters(Asked):
    """What the model learned about its own numbers."""

    def parameters(self, interval: float = 0.9) -> pd.DataFrame:
        """Posterior mean, standard deviation and interval of every global parameter.

        Parameters
        ----------
        interval : float
            Mass of the interval, in (0, 1): quantiles of equal tails over the stored draws
            (`draws` of each restart together).

        Returns
        -------
        DataFrame
            A row for each number of each global site, named ``site`` or ``site[index]``, with
            columns ``site``, ``index`` (labels of the axes: components, columns, levels,
            positions; empty for a single number), ``mean``, ``sd``, ``lower``, ``upper`` and
            ``units``: "table" where the family sees the table's own units, "encoded" where it
            sees standardised columns.

        Raises
        ------
        NotSupported
            If the model has no posterior draws: its fit is a point estimate.

        Notes
        -----
        An interval is worth as much as the draws: see `check`, whose verdict "intervals" goes by
        k-hat of the guide. Parameters of different restarts are pooled as they are named.

        Examples
        --------
        >>> import pyro, pyro.distributions as dist, probgen as pg
        >>> def model(batch):
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        ...     with batch.rows():
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=batch["x"])
        >>> table = {"x": [0.5, 1.5, 2.5, 3.5, -0.5, 1.0, 2.0, 1.7]}
        >>> found = pg.Pair(model, random_state=0).fit(table).parameters(interval=0.8)
        >>> float(found.loc["loc", "mean"].round(0)), found.loc["loc", "units"]
        (2.0, 'table')
        """
        check_is_fitted(self)
        if not (isinstance(interval, float | np.floating) and 0 < interval < 1):
            raise SchemaError(message(
                f"interval={interval!r}", "a share in (0, 1)", "pass interval=0.9"
            ))  # fmt: skip
        model = self._density
        if kind(model) == "none":
            raise NotSupported(message(
                f"no posterior draws of a {type(model).__name__}: its fit is a point estimate",
                "a model whose parameters have priors",
                "read the point estimate (of a Pair: params_), or fit a family with a posterior",
            ))  # fmt: skip
        groups = collect(model)
        rows: list[dict[str, Any]] = []
        for name, value in groups.data["posterior"].items():
            site = groups.attrs["posterior", name]["site"]
            # ArviZ needs another name where a dimension has this one; here nothing does
            rows += _rows(site if name == f"{site}_" else name, name, value, groups, interval)
        frame = pd.DataFrame(rows).set_index("name").rename_axis(None)
        return frame.assign(units=site_units(self.schema_))


def _rows(
    name: str, variable: str, value: NDArray[Any], groups: Groups, interval: float
) -> list[dict[str, Any]]:
    """A row for each number of a site, (chain, draw, ...)."""
    dims = groups.dims.get(variable, [])
    axes = [
        [str(label) for label in groups.coords.get(dim, np.arange(size))]
        for dim, size in zip(dims, value.shape[2:], strict=True)
    ]
    flat = value.reshape(value.shape[0] * value.shape[1], -1).astype(np.float64)
    ends = np.quantile(flat, [(1 - interval) / 2, (1 + interval) / 2], axis=0, method="weibull")
    found = []
    for place, labels in enumerate(itertools.product(*axes)):
        index = ", ".join(labels)
        found.append({
            "name": f"{name}[{index}]" if labels else name, "site": name, "index": index,
            "mean": flat[:, place].mean(), "sd": flat[:, place].std(ddof=1),
            "lower": ends[0, place], "upper": ends[1, place],
        })  # fmt: skip
    return found
