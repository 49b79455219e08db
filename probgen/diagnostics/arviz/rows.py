"""The groups that belong to rows: log densities, replicates, the rows themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from probgen import queries
from probgen.batch import Batch
from probgen.columns import Column
from probgen.diagnostics.arviz.groups import Groups, row_labels, variable_names
from probgen.diagnostics.posterior import Fitted, Kind, guide_log_p_q, posterior
from probgen.errors import ProbgenError, SchemaError, message
from probgen.family import Draws
from probgen.queries import Predictive
from probgen.queries.draws import count_draws
from probgen.session import spawn_seeds
from probgen.table import Encoded, encode

__all__ = ["MOST", "add_rows"]

#: numbers that all groups together may hold: 2 GB
MOST = 250_000_000
#: kinds whose values are whole numbers in ArviZ, by which it takes them for discrete
WHOLE = ("category", "ordered", "boolean", "count")


def add_rows(
    groups: Groups,
    model: Fitted,
    frame: pd.DataFrame,
    source: Kind,
    prior: list[Draws],
    column: object = None,
) -> None:
    """Everything about the rows of a table, the fitted ones; `prior` draws of each restart."""
    predictive, schema = posterior(model), model.schema_
    encoded = encode(frame, schema)
    batch = model._batch(encoded, model._device)
    _require_room(model, predictive, len(frame))
    groups.coords["row"] = row_labels(frame.index)
    names = {k: v for k, v in variable_names(schema, groups.dims).items() if k in frame.columns}
    context = {c.name for c in schema.columns if c.role == "context"}
    modelled = {k: v for k, v in names.items() if k not in context}
    if source not in ("none", "parts"):
        _add_log_likelihood(groups, model, batch, encoded, source, _named(modelled, column))
    new = {"posterior_predictive": _replicates(model, predictive, batch, 1)}
    if prior:
        new |= _at_prior(groups, model, prior, batch)
    _add_values(groups, model, frame, new, modelled)
    if context:
        group = groups.data.setdefault("constant_data", {})
        for name in context & set(names):
            variable = names[name]
            group[variable] = _numbers(frame[name], schema[name])
            groups.dims[variable] = ["row"]
            groups.attrs["constant_data", variable] = _meaning(schema[name])


def _require_room(model: Fitted, predictive: Predictive, n: int) -> None:
    each = len(predictive) if any(predictive.draws) else len(model.members_) * model.draws
    if each * n * (2 * len(model.schema_.names) + 2) > MOST:
        raise SchemaError(message(
            f"{n} rows at {each} draws", "numbers that fit into 2 GB",
            "pass a part of the rows, say table.sample(10_000)",
        ))  # fmt: skip


def _named(modelled: dict[Any, str], column: object) -> str:
    """The variable of the log likelihood: after the one column there is, or a chosen one."""
    if column is None:
        return next(iter(modelled.values())) if len(modelled) == 1 else "log_prob"
    if column not in modelled:
        raise SchemaError(message(
            f"column={column!r}", f"a modelled column, one of {list(modelled)}", "correct it"
        ))  # fmt: skip
    return modelled[column]


def _add_log_likelihood(
    groups: Groups, model: Fitted, batch: Batch, encoded: Encoded, source: Kind, name: str
) -> None:
    """Log density of each row at each draw, its error where it has one, and log_p, log_q."""
    predictive, chains = posterior(model), len(model.members_)
    with torch.no_grad():
        shift = model.schema_.log_det(queries.encoded(batch), batch.seen)
        value, se = queries.estimate_draws(predictive, batch)
        value = value.double() + shift
    illegal = torch.from_numpy(encoded.illegal).to(value.device)
    value[:, illegal] = -torch.inf

    def by_chain(numbers: Tensor) -> NDArray[Any]:
        return numbers.double().reshape(chains, -1, len(batch)).cpu().numpy()

    groups.data["log_likelihood"] = {name: by_chain(value)}
    groups.dims[name] = ["row"]
    groups.attrs["log_likelihood", name] = {
        "about": "log density of all modelled columns of a row together, row latents integrated "
        "out", "units": "nats, table units",
    }  # fmt: skip
    stats: dict[str, NDArray[Any]] = {}
    if source == "guide":
        parts = zip(model.members_, predictive.draws, value.chunk(chains), strict=True)
        pairs = [guide_log_p_q(member, draws, batch, own) for member, draws, own in parts]
        for own, values in zip(("log_p", "log_q"), zip(*pairs, strict=True), strict=True):
            stats[own] = torch.stack(values).cpu().numpy()
        groups.attrs["sample_stats"] = {
            "about": "log_p: log joint density of all rows and a draw; log_q: that of the guide"
        }
    if bool((se > 0).any()):
        stats["log_prob_se"] = by_chain(se)
        groups.dims["log_prob_se"] = ["row"]
        groups.attrs["sample_stats", "log_prob_se"] = {
            "about": "Monte Carlo standard error of the log likelihood", "units": "nats"
        }  # fmt: skip
    if stats:
        groups.data["sample_stats"] = stats


def _at_prior(
    groups: Groups, model: Fitted, prior: list[Draws], batch: Batch
) -> dict[str, pd.DataFrame]:
    """Rows at prior draws; where they are no numbers an attribute says so."""
    predictive = Predictive(model.members_, prior, integrated=False)
    try:
        return {"prior_predictive": _replicates(model, predictive, batch, 2)}
    except (ValueError, RuntimeError, ArithmeticError, ProbgenError) as error:
        why = " ".join(str(error).split())[:120]
        groups.attrs[""]["prior_predictive"] = f"left out: rows at prior draws fail ({why})"
        return {}


def _add_values(
    groups: Groups, model: Fitted, frame: pd.DataFrame, new: dict[str, pd.DataFrame], names: Any
) -> None:
    """Replicated and observed cells in one form."""
    schema, chains = model.schema_, len(model.members_)
    groups.data |= {group: {} for group in (*new, "observed_data")}
    for name, variable in names.items():
        column = schema[name]
        values = {group: _numbers(rows[name], column) for group, rows in new.items()}
        values["observed_data"] = _numbers(frame[name], column)
        if column.kind in WHOLE and all(_is_whole(value) for value in values.values()):
            values = {group: value.astype(np.int64) for group, value in values.items()}
        for group, value in values.items():
            leading = () if group == "observed_data" else (chains, -1)
            groups.data[group][variable] = value.reshape(*leading, len(frame))
            groups.attrs[group, variable] = _meaning(column)
        groups.dims[variable] = ["row"]


def _is_whole(value: NDArray[Any]) -> bool:
    with np.errstate(invalid="ignore"):
        return bool((np.isfinite(value) & (np.abs(value) < 2**53) & (value % 1 == 0)).all())


def _replicates(model: Fitted, predictive: Predictive, batch: Batch, stream: int) -> pd.DataFrame:
    """As many new rows for each restart and draw, in the same context, stacked in that order."""
    n, m = batch.seen.shape
    parts = []
    for member, draws, result in zip(
        predictive.members, predictive.draws, model.results_, strict=True
    ):
        generator = torch.Generator().manual_seed(spawn_seeds([result.seed, stream], 1)[0])
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
