"""What an ArviZ object is built from, and the names in it."""

from __future__ import annotations

import re
import sys
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probgen.diagnostics.posterior import Fitted, Kind
from probgen.schema import Schema

__all__ = [
    "CHAINS", "METHODS", "TAKEN", "Groups", "describe", "row_labels", "safe", "variable_names",
]  # fmt: skip

Array = NDArray[Any]
#: names of dimensions and of our own variables, which no column may have
TAKEN = ("chain", "draw", "row", "component", "column", "loc", "scale")

#: by the kind of the draws: a new kind gets a line in each of the three
METHODS: dict[Kind, str] = {
    "none": "point estimate: no posterior",
    "guide": "variational: independent draws from the guide",
    "sampler": "Markov chain started at the variational posterior (Gibbs for mixtures)",
    "nuts": "Markov chain Monte Carlo by the No-U-Turn sampler (NUTS)",
    "parts": "draws of each part from its own posterior; the weights of the parts are fixed",
}
CHAINS: dict[Kind, str] = {
    "none": "",
    "guide": (
        "chain = independent restart: r_hat asks whether restarts agree; draws within a chain "
        "are independent, so ess and mcse say nothing of how good they are"
    ),
    "sampler": (
        "chain = independent restart, each a short Markov chain around the mode that it found: "
        "r_hat asks whether restarts agree, ess counts draws within them"
    ),
    "nuts": "chain = Markov chain of one posterior: r_hat and ess mean what they always mean",
    "parts": "draw = one draw of each part; no log_likelihood, since they share no posterior",
}
SUMMARY: dict[Kind, str] = {
    "none": "",
    "guide": "kind='stats'; whether the draws can be trusted: k-hat of log_p - log_q, or check()",
    "sampler": "kind='all'; labels of parts may switch within a chain, where r_hat misleads",
    "nuts": "kind='all'",
    "parts": "kind='stats'",
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


def describe(groups: Groups, model: Fitted, source: Kind) -> None:
    """Attributes that say how the numbers came about."""
    member = model.members_[0]
    guide = f"{type(member).__module__}.{type(member).__qualname__}.guide"
    own = getattr(member, "global_guide", None)  # of globals that a user's guide leaves out
    if own is not None:
        guide += f" ({getattr(own, 'kind', type(own).__name__)} guide of the globals)"
    groups.attrs[""] = {
        "inference_library": "probgen",
        "inference_library_version": getattr(sys.modules["probgen"], "__version__", ""),
        "pyro_version": version("pyro-ppl"),
        "torch_version": str(torch.__version__),
        "arviz_version": version("arviz"),
        "inference_method": METHODS[source],
        "chains": CHAINS[source],
        "summary": SUMMARY[source],
        "guide": "none: the chain draws from the posterior itself" if source == "nuts" else guide,
        "model": re.sub(r"\s+", " ", repr(model)),
        "seed": [int(result.seed) for result in model.results_],
        "converged": int(model.converged_),
    }


def safe(name: Hashable) -> str:
    """A name that netCDF takes."""
    return str(name).replace("/", "_")


def variable_names(schema: Schema, used: Iterable[str] = ()) -> dict[Hashable, str]:
    """A variable name for each column that is not that of a dimension, nor used twice."""
    taken = {*TAKEN, *used}
    found: dict[Hashable, str] = {}
    for name in schema.names:
        variable = safe(name)
        while variable in taken or variable in found.values():
            variable += "_"
        found[name] = variable
    return found


def row_labels(index: pd.Index) -> Array:
    """The caller's index where netCDF can hold it and it tells rows apart; else positions."""
    plain = isinstance(index, pd.RangeIndex) or index.inferred_type in ("integer", "string")
    if isinstance(index, pd.MultiIndex) or not plain or not index.is_unique:
        return np.arange(len(index))
    return index.to_numpy(dtype=str if index.inferred_type == "string" else np.int64)
