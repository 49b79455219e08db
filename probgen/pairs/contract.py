"""The rules of a user's pair, and what to say where one is broken.

1. One site a modelled column, named after it, a number a row, inside ``batch.rows()``.
2. Its value is ``obs=batch["column"]``, in the table's own units.
3. Other sites are latent; those of a row lie inside ``batch.rows()``.
4. The model is a normalised density: no `pyro.factor`, no `poutine.scale`.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import torch
from pyro import distributions as dist
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from probgen.errors import NotSupported, SchemaError, message
from probgen.pairs.sites import Columns, base_of, in_rows

__all__ = ["check_guide", "check_model", "explained"]


def check_model(trace: Trace, columns: Columns) -> None:
    """Hold the trace of one run of a model to the rules."""
    generating = columns.view.generating
    sites = {name: site for name, site in trace.nodes.items() if _is_sample(site)}
    for name, site in sites.items():
        own = columns.column(name)
        if isinstance(base_of(site["fn"]), dist.Unit):
            _refuse_factor(name)
        if not _is_plain_scale(site["scale"]):
            _refuse_scale(name)
        if own is not None:
            _check_column(own[0], name, site, sites, columns)
        elif site["is_observed"] and "_deterministic" not in site["infer"]:
            _raise(
                f"observed site {name!r}, which is no column of the table",
                f"sites named after their column, one of {sorted(columns.modelled)}",
                f"rename it, or make {name!r} a column of the table",
            )
    missing = [name for name in columns.modelled if name not in columns.found]
    if missing:
        how = "draws" if generating else "observes"
        _raise(
            f"a model that {how} no site for column(s) {missing}",
            "one site for each modelled column of the table",
            f"add pyro.sample({missing[0]!r}, ..., obs=batch[{missing[0]!r}]), drop the column, "
            "or condition on it: fit(table, given=[...])",
        )


def _is_sample(site: Any) -> bool:
    return site["type"] == "sample" and not site_is_subsample(site)


def _is_plain_scale(scale: Any) -> bool:
    return bool((scale == 1).all()) if isinstance(scale, Tensor) else scale == 1


def _check_column(
    column: str, name: str, site: Any, sites: dict[str, Any], columns: Columns
) -> None:
    if "_deterministic" in site["infer"]:
        if f"{column}_observed" not in sites:
            _raise(
                f"column {column!r} as pyro.deterministic",
                "a distribution: a column that is certain has no density",
                "drop the column, or give it a pyro.sample site",
            )
        return
    if not in_rows(site):
        _raise(
            f"site {name!r} of a column outside the rows plate",
            "sites of columns inside `with batch.rows():`",
            "move it inside",
        )
    if name.endswith("_unobserved"):
        return
    generating = columns.view.generating
    if not generating and not site["is_observed"]:
        _raise(
            f"site {name!r} without obs",
            f"obs=batch[{column!r}]",
            f"write pyro.sample({name!r}, ..., obs=batch[{column!r}])",
        )
    _check_shape(column, site, len(columns.view))
    if not generating:
        _check_value(column, columns)


def _check_shape(column: str, site: Any, n: int) -> None:
    fn = site["fn"]
    batch, event = tuple(fn.batch_shape), tuple(fn.event_shape)
    if event or not batch or batch[-1] != n or any(size != 1 for size in batch[:-1]):
        _raise(
            f"site {column!r} of batch shape {batch} and event shape {event} for {n} rows",
            f"one number a row: batch shape ({n},), no event",
            "look for (n, 1) beside (n,) in its parameters, a plate or to_event too many; "
            "several columns are several sites",
        )


def _check_value(column: str, columns: Columns) -> None:
    given, wanted = columns.given[column], columns.view[column]
    same = given is wanted or (
        wanted is not None
        and given.shape == wanted.shape
        and torch.equal(given.double().nan_to_num(), wanted.double().nan_to_num())
    )
    if not same:
        _raise(
            f"site {column!r} with obs that is not batch[{column!r}]",
            "the column itself, in the table's own units",
            "observe the column, and put a change of scale into the distribution, such as "
            "LogNormal or a TransformedDistribution",
        )


def _refuse_factor(name: str) -> NoReturn:
    raise NotSupported(message(
        f"pyro.factor({name!r}) in the model of a pair", "a normalised density",
        "write the term as the distribution of a site, or a potential as a Family of its own "
        "with normalised = False",
    ))  # fmt: skip


def _refuse_scale(name: str) -> NoReturn:
    raise NotSupported(message(
        f"site {name!r} under poutine.scale or a subsampled plate", "densities as they are: a "
        "power of a density is not normalised",
        "leave it out; weights of rows are sample_weight in fit",
    ))  # fmt: skip


def check_guide(trace: Trace, model: Trace, columns: Columns) -> None:
    """Hold the trace of a guide to the sites of its model."""
    for name, site in trace.nodes.items():
        if not _is_sample(site) or site["infer"].get("is_auxiliary"):
            continue
        if site["is_observed"] and "_deterministic" not in site["infer"]:
            _raise(f"observed site {name!r} in the guide", "latent sites only", "drop its obs")
        if name in columns.modelled:
            _raise(
                f"column {name!r} as a site of the guide",
                "guides over latents",
                "remove it: an unseen cell is proposed from the model, or through "
                f"obs_mask= at a guide site {name + '_unobserved'!r}",
            )
        if name not in model.nodes and "_deterministic" not in site["infer"]:
            _raise(
                f"site {name!r} in the guide that the model lacks",
                f"sites of the model, {_latents(model)}",
                "correct its name",
            )
        if name in model.nodes and in_rows(site) != in_rows(model.nodes[name]):
            _raise(
                f"site {name!r} inside the rows plate in one of model and guide only",
                "the same plate in both",
                "move it",
            )


def _latents(trace: Trace) -> list[str]:
    return [n for n, s in trace.nodes.items() if _is_sample(s) and not s["is_observed"]]


def _raise(found: str, needed: str, do: str) -> NoReturn:
    raise SchemaError(message(found, needed, do))


def explained(error: Exception, view: Any, which: str) -> Exception | None:
    """An error of a user's function in the words of the contract, where it is a known one."""
    text = str(error)
    where = _line(error)
    if view.generating and isinstance(error, TypeError | AttributeError) and "NoneType" in text:
        return SchemaError(message(
            f"{type(error).__name__} in the {which} ({text}{where}): batch['column'] is None "
            "while rows are generated", "a model that runs without the modelled columns",
            "use the value that pyro.sample returns instead of batch['column']",
        ))  # fmt: skip
    if isinstance(error, ValueError) and "to satisfy the constraint" in text:
        return SchemaError(message(
            f"a parameter of a distribution outside its range in the {which}{where}: "
            f"{' '.join(text.split())[:200]}", "parameters that the distribution allows",
            "use constraint= in pyro.param, or a prior with the right support",
        ))  # fmt: skip
    if isinstance(error, AttributeError) and "param_state" in text:
        return NotSupported(message(
            f"a PyroModule that the {which} closes over", "modules that the pair can copy",
            "pass the PyroModule itself as model, or make it a part of the one passed",
        ))  # fmt: skip
    if (
        view.holed
        and re.search("ind(ex|ices)", text)
        and isinstance(error, IndexError | TypeError)
    ):
        return SchemaError(message(
            f"{type(error).__name__} in the {which} ({text}{where}): codes of a column with "
            "unseen cells are float64 with NaN", "whole codes for an index",
            "index with the value that pyro.sample returns for that column",
        ))  # fmt: skip
    return None


def _line(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f", line {trace.tb_lineno} of {trace.tb_frame.f_code.co_name}"
