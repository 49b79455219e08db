"""A fitted model as ArviZ groups. The one module that knows the versions of ArviZ.

ArviZ 0.2x takes a keyword for each group and gives an ``InferenceData``; ArviZ 1.x takes one
nested dict and gives an ``xarray.DataTree``. Everything before that step is plain arrays.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from probgen import queries
from probgen.batch import Batch
from probgen.columns import Column
from probgen.diagnostics.posterior import Fitted, guide_log_p_q, kind, method, posterior
from probgen.errors import SchemaError, message, warn
from probgen.family import Draws, Family
from probgen.queries import Predictive
from probgen.queries.draws import count_draws
from probgen.schema import Schema
from probgen.session import spawn_seeds
from probgen.table import encode, to_frame

__all__ = ["Groups", "build", "collect", "to_arviz", "write"]

Array = NDArray[Any]
#: numbers that one group may hold: 2 GB
MOST = 250_000_000
#: names of dimensions, which no variable may have
DIMENSIONS = ("chain", "draw", "row", "component", "column")

CHAINS = {
    "none": "",
    "guide": (
        "chain = independent restart: r_hat asks whether restarts agree; draws within a chain "
        "are independent, so ess says nothing"
    ),
    "sampler": (
        "chain = independent restart, each a short Markov chain around the mode that it found: "
        "r_hat asks whether restarts agree, ess counts draws within them"
    ),
}


@dataclass
class Groups:
    """What an ArviZ object is built from.

    Attributes
    ----------
    data : dict
        Arrays by group, then by variable; posterior-like groups lead with (chain, draw).
    dims : dict
        Names of the remaining dimensions by variable.
    coords : dict
        Labels by dimension.
    attrs : dict
        Of the object under ``""``, of a group, or of a variable under ``(group, variable)``.
    """

    data: dict[str, dict[str, Array]] = field(default_factory=dict)
    dims: dict[str, list[str]] = field(default_factory=dict)
    coords: dict[str, Array] = field(default_factory=dict)
    attrs: dict[Any, dict[str, Any]] = field(default_factory=dict)


def to_arviz(model: Fitted, table: Any = None) -> Any:
    """A fitted model as ArviZ groups.

    Parameters
    ----------
    model : Density
        A fitted model.
    table : data frame of n rows, optional
        The rows that the model was fitted to: adds the groups that belong to rows. Memory is
        8 * chains * draws * n * (columns + 1) bytes.

    Returns
    -------
    arviz.InferenceData (ArviZ 0.2x) or xarray.DataTree (ArviZ 1.x)
        ``posterior``
            Draws of the global latents, one variable a site, chain = restart, in encoded
            units (``constant_data`` holds the location and scale of each column). Absent
            where the model has none.
        ``log_likelihood``
            ``log_prob``: log density of each row at each draw, nats, table units.
        ``posterior_predictive``
            n new rows for each draw, one variable a column; levels by code, dates in days.
        ``observed_data``
            The rows themselves in the same form, NaN where unseen.
        ``sample_stats``
            ``log_p`` and ``log_q`` of each draw, only where draws are independent draws of
            the guide: what ``loo_approximate_posterior`` needs.

    Raises
    ------
    SchemaError
        If the table is foreign, or too long for the memory it would take.

    Notes
    -----
    Without a posterior there is neither ``posterior`` nor ``log_likelihood``, and so no
    leave-one-out: score held-out rows instead.
    """
    return build(collect(model, table))


def collect(model: Fitted, table: Any = None) -> Groups:
    """The groups of a model as plain arrays."""
    groups = Groups()
    source = kind(model)
    _describe(groups, model, source)
    if source != "none":
        _add_posterior(groups, model, source)
    if table is not None:
        _add_rows(groups, model, to_frame(table, model.schema_.names), source)
    return groups


def _describe(groups: Groups, model: Fitted, source: str) -> None:
    member = model.members_[0]
    groups.attrs[""] = {
        "inference_library": "probgen",
        "inference_library_version": getattr(sys.modules["probgen"], "__version__", ""),
        "pyro_version": version("pyro-ppl"),
        "torch_version": str(torch.__version__),
        "inference_method": method(model),
        "chains": CHAINS[source],
        "guide": f"{type(member).__module__}.{type(member).__qualname__}.guide",
        "model": re.sub(r"\s+", " ", repr(model)),
        "seed": [int(result.seed) for result in model.results_],
        "converged": int(model.converged_),
    }


# --- draws of the globals -----------------------------------------------------------------


def _add_posterior(groups: Groups, model: Fitted, source: str) -> None:
    member, chains = model.members_[0], posterior(model).draws
    group = groups.data["posterior"] = {}
    for site in chains[0]:
        if len({draws[site].shape for draws in chains}) > 1:
            warn(message(
                f"site {site!r} with another shape in each restart", "one shape",
                "it is left out; read it from members_",
            ))  # fmt: skip
            continue
        value = torch.stack([draws[site] for draws in chains]).detach().cpu()
        name, dims, coords = _site(site, value, member)
        group[name], groups.dims[name] = value.numpy(), dims
        groups.coords |= coords
        groups.attrs["posterior", name] = {"site": site, "units": "encoded"}
    groups.attrs["posterior"] = {"inference_method": method(model), "chains": CHAINS[source]}
    real = [slot for slot in member.schema.slots if slot.kind == "real"]
    if "column" in groups.coords:
        columns = [member.schema.columns[slot.column] for slot in real]
        groups.data["constant_data"] = {
            "loc": np.array([c.loc for c in columns]),
            "scale": np.array([c.scale for c in columns]),
        }
        groups.dims |= {"loc": ["column"], "scale": ["column"]}


def _site(site: str, value: Tensor, member: Family) -> tuple[str, list[str], dict[str, Array]]:
    """A readable name, the dimensions and the labels of a global site (chain, draw, ...).

    Read from the shape: the first axis is the component where it has as many entries as the
    family has components, further axes are real columns or the levels of one column.
    """
    schema, shape = member.schema, list(value.shape[2:])
    name, own = _named_after_slot(site, schema)
    real = [slot.name for slot in schema.slots if slot.kind == "real"]
    k = getattr(member, "components", None)
    dims: list[str] = []
    coords: dict[str, Array] = {}
    square = len(shape) == 2 and shape[0] == shape[1]
    symmetric = square and bool(torch.equal(value, value.transpose(-1, -2)))
    for axis, size in enumerate(shape):
        if axis == 0 and size == k and not symmetric:
            dims.append("component")
            coords["component"] = np.arange(size)
        elif own is not None and axis == len(shape) - 1:
            dim, labels = _levels(own, size, schema)
            dims.append(dim)
            coords[dim] = labels
        elif size == len(real) and own is None and "column_other" not in dims:
            dims.append("column_other" if "column" in dims else "column")
            coords[dims[-1]] = np.array(real)
        else:
            dims.append(f"{name}_dim_{axis}")
    return name, dims, coords


def _named_after_slot(site: str, schema: Schema) -> tuple[str, int | None]:
    """``probs_3`` is named after slot 3, and belongs to it."""
    found = re.fullmatch(r"(.+)_(\d+)", site)
    if not found or int(found[2]) >= len(schema.slots):
        return site, None
    place = int(found[2])
    return f"{found[1]}_{_safe(schema.slots[place].name)}", place


def _levels(place: int, size: int, schema: Schema) -> tuple[str, Array]:
    slot = schema.slots[place]
    column = schema.columns[slot.column]
    name = _safe(slot.name)
    if slot.kind != "category" or slot.size != size:
        return f"{name}_basis", np.arange(size)
    if column.labelled:
        labels = [str(level) for level in column.levels or ()]
        return f"{name}_level", np.array(labels + ["(unseen)"] * slot.reserved)
    return f"{name}_level", np.array(["(no atom)", *map(str, column.atoms)])


def _safe(name: Hashable) -> str:
    """A name that netCDF takes."""
    return str(name).replace("/", "_")


# --- what belongs to rows -------------------------------------------------------------------


def _add_rows(groups: Groups, model: Fitted, frame: pd.DataFrame, source: str) -> None:
    predictive, schema = posterior(model), model.schema_
    encoded = encode(frame, schema)
    batch = model._batch(encoded, model._device)
    chains, n = len(model.members_), len(frame)
    draws = len(predictive) // chains
    if chains * draws * n * (len(schema.names) + 1) > MOST:
        raise SchemaError(message(
            f"{n} rows at {chains * draws} draws", "numbers that fit into 2 GB",
            "pass a part of the rows, say table.sample(10_000)",
        ))  # fmt: skip
    groups.coords["row"] = _row_labels(frame.index)
    names = _variable_names(schema)
    shown = {name: column for name, column in names.items() if name in frame.columns}
    if source != "none":
        with torch.no_grad():
            shift = schema.log_det(batch.x, batch.seen)  # type: ignore[arg-type]
            value = queries.log_prob_draws(predictive, batch) + shift
        log_p = value.reshape(chains, draws, n).cpu().numpy()
        log_p[:, :, encoded.illegal] = -np.inf
        groups.data["log_likelihood"] = {"log_prob": log_p}
        groups.dims["log_prob"] = ["row"]
    new = _replicates(model, predictive, batch)
    groups.data["posterior_predictive"] = {
        variable: _numbers(new[name], schema[name]).reshape(chains, -1, n)
        for name, variable in shown.items() if name in new  # context is not drawn
    }  # fmt: skip
    groups.data["observed_data"] = {
        variable: _numbers(frame[name], schema[name]) for name, variable in shown.items()
    }
    for name, variable in shown.items():
        groups.dims[variable] = ["row"]
        for group in ("posterior_predictive", "observed_data"):
            if variable in groups.data[group]:
                groups.attrs[group, variable] = _meaning(schema[name])
    if source == "guide":
        _add_log_p_q(groups, model, batch)


def _add_log_p_q(groups: Groups, model: Fitted, batch: Batch) -> None:
    pairs = [
        guide_log_p_q(member, draws, batch)
        for member, draws in zip(model.members_, posterior(model).draws, strict=True)
    ]
    groups.data["sample_stats"] = {
        name: torch.stack(values).cpu().numpy()
        for name, values in zip(("log_p", "log_q"), zip(*pairs, strict=True), strict=True)
    }
    groups.attrs["sample_stats"] = {"about": "joint density of rows and draw, and of the guide"}


def _replicates(model: Fitted, predictive: Predictive, batch: Batch) -> pd.DataFrame:
    """As many new rows for each restart and draw, in the same context, stacked in that order."""
    n, m = batch.seen.shape
    parts = []
    for member, draws, result in zip(
        predictive.members, predictive.draws, model.results_, strict=True
    ):
        generator = torch.Generator().manual_seed(spawn_seeds(result.seed, 2)[1])
        for s in range(count_draws(draws) if draws else model.draws):
            at: Draws = {name: value[s : s + 1] for name, value in draws.items()}
            one = Predictive([member], [at], integrated=not draws)
            empty = Batch.empty(n, m, torch.float64, model._device)
            empty.context = batch.context
            parts.append(queries.sample(one, empty, generator).cpu().numpy())
    return model._decode(np.concatenate(parts), None)


def _numbers(series: pd.Series, column: Column) -> NDArray[np.float64]:
    """Values as numbers (n,): codes of levels, days since 1970 of dates; NaN where unseen."""
    if column.labelled:
        codes = pd.Index(list(column.levels or ()), dtype=object).get_indexer(
            pd.Index(series.astype(object))
        )
        return np.where(codes < 0, np.nan, codes.astype(np.float64))
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        start = pd.Timestamp(0, tz=getattr(series.dt, "tz", None))
        return ((series - start) / pd.Timedelta(days=1)).to_numpy(dtype=np.float64)
    if pd.api.types.is_timedelta64_dtype(series.dtype):
        return (series / pd.Timedelta(days=1)).to_numpy(dtype=np.float64)
    return pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def _meaning(column: Column) -> dict[str, Any]:
    if column.labelled:
        return {"kind": column.kind, "levels": [str(level) for level in column.levels or ()]}
    if column.kind == "date":
        return {"kind": column.kind, "units": "days since 1970-01-01"}
    return {"kind": column.kind}


def _variable_names(schema: Schema) -> dict[Hashable, str]:
    """A variable name for each column that is not that of a dimension, nor used twice."""
    found: dict[Hashable, str] = {}
    for name in schema.names:
        variable = _safe(name)
        while variable in DIMENSIONS or variable in found.values():
            variable += "_"
        found[name] = variable
    return found


def _row_labels(index: pd.Index) -> Array:
    """The caller's index where netCDF can hold it and it tells rows apart; else positions."""
    plain = isinstance(index, pd.RangeIndex) or index.inferred_type in ("integer", "string")
    if isinstance(index, pd.MultiIndex) or not plain or not index.is_unique:
        return np.arange(len(index))
    return index.to_numpy(dtype=str if index.inferred_type == "string" else np.int64)


# --- ArviZ ----------------------------------------------------------------------------------


def build(groups: Groups) -> Any:
    """The ArviZ object of the installed version."""
    import arviz

    from_dict: Any = arviz.from_dict
    shared: Mapping[str, Any] = {"coords": groups.coords, "dims": groups.dims}
    # by version: 0.x takes the nested form without a word, and builds a useless object
    if int(arviz.__version__.split(".")[0]) >= 1:
        found = from_dict(groups.data, **shared)
    else:
        found = from_dict(**groups.data, **shared)
    for key, attrs in groups.attrs.items():
        group, variable = key if isinstance(key, tuple) else (key, None)
        place = found if not group else found[group] if group in groups.data else None
        if place is not None:
            (place if variable is None else place[variable]).attrs.update(attrs)
    return found


def write(data: Any, path: str | os.PathLike[str]) -> None:
    """Write an ArviZ object of either version to a netCDF-4 file, through h5netcdf."""
    data.to_netcdf(os.fspath(path), engine="h5netcdf")
