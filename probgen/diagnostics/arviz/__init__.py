"""A fitted model as ArviZ groups: plain arrays first, then the object of either ArviZ."""

from __future__ import annotations

from typing import Any

from probgen.diagnostics.arviz.globals import add_posterior, add_prior
from probgen.diagnostics.arviz.groups import Groups, describe
from probgen.diagnostics.arviz.rows import add_rows
from probgen.diagnostics.arviz.versions import build, write
from probgen.diagnostics.posterior import Fitted, kind
from probgen.table import to_frame

__all__ = ["Groups", "build", "collect", "to_arviz", "write"]


def to_arviz(model: Fitted, table: Any = None, column: object = None) -> Any:
    """A fitted model as ArviZ groups.

    Parameters
    ----------
    model : Density
        A fitted model.
    table : data frame of n rows, optional
        The rows that the model was fitted to: adds the groups that belong to rows. Memory is
        8 * chains * draws * n * (2 * columns + 2) bytes.
    column : column name, optional
        Names the log likelihood of the rows after this column, as `plot_loo_pit` of ArviZ 1
        asks for the column that it is to show. It is that of the whole row all the same.

    Returns
    -------
    arviz.InferenceData (ArviZ 0.2x) or xarray.DataTree (ArviZ 1.x)
        ``posterior``
            Draws of the global latents, one variable a site, chain = restart, in encoded
            units (``constant_data`` holds the location and scale of each column); those of a
            `Pair` in its own. Absent where the model has none.
        ``prior``
            As many draws of the model's own prior. Left out where there is none that can be
            drawn; the attribute ``prior`` says why.
        ``log_likelihood``
            One variable: log density of each row at each draw, row latents integrated out,
            nats, table units. Named after the column where the model has one column, else
            ``log_prob``.
        ``posterior_predictive``, ``prior_predictive``
            n new rows for each draw, one variable a column: levels by code, dates in days.
        ``observed_data``
            The rows themselves in the same form, NaN where unseen.
        ``constant_data``
            Context columns, by row, beside the scales.
        ``sample_stats``
            ``log_p`` and ``log_q`` (chain, draw), only where draws are independent draws of
            the guide: what ``loo_approximate_posterior`` needs. ``log_prob_se`` (chain, draw,
            row): Monte Carlo error of the log likelihood, only where it is estimated.

    Raises
    ------
    SchemaError
        If the table is foreign, or too long for the memory it would take.

    Notes
    -----
    Attributes name the inference method, the guide, the seeds and the versions, and what
    ``r_hat`` and ``ess`` mean for these draws. Without a posterior there is neither
    ``posterior`` nor ``log_likelihood``: `Density.loo` refits by folds instead.
    """
    return build(collect(model, table, column))


def collect(model: Fitted, table: Any = None, column: object = None) -> Groups:
    """The groups of a model as plain arrays."""
    groups = Groups()
    source = kind(model)
    describe(groups, model, source)
    if source != "none":
        add_posterior(groups, model, source)
    prior = add_prior(groups, model)
    if table is not None:
        add_rows(groups, model, to_frame(table, model.schema_.names), source, prior, column)
    return groups
