"""The groups of the global latents: draws of the posterior, and of the model's own prior."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probgen.diagnostics.arviz.groups import CHAINS, METHODS, TAKEN, Groups, safe
from probgen.diagnostics.posterior import Fitted, Kind, posterior, site_units
from probgen.errors import FitError, message, warn
from probgen.family import Draws, Family
from probgen.queries.contraction import global_sites, traced
from probgen.queries.draws import count_draws, one_row
from probgen.schema import Schema
from probgen.session import guarded, spawn_seeds

__all__ = ["add_posterior", "add_prior", "prior_draws"]

Array = NDArray[Any]
PRIOR = (
    "draws of the model's own prior; numbers without a prior, and priors that the table sets, "
    "are as in the fit"
)


def add_posterior(groups: Groups, model: Fitted, source: Kind) -> None:
    """Draws of the globals, chain = restart, and the scales of encoded columns."""
    _add_globals(groups, "posterior", model.members_[0], posterior(model).draws)
    groups.attrs["posterior"] = {"inference_method": METHODS[source], "chains": CHAINS[source]}
    member = model.members_[0]
    real = [slot for slot in member.schema.slots if slot.kind == "real"]
    if "column" in groups.coords:
        columns = [member.schema.columns[slot.column] for slot in real]
        groups.data["constant_data"] = {
            "loc": np.array([c.loc for c in columns]),
            "scale": np.array([c.scale for c in columns]),
        }
        groups.dims |= {"loc": ["column"], "scale": ["column"]}


def _add_globals(groups: Groups, name: str, member: Family, chains: list[Draws]) -> None:
    """A variable for each global site in group `name`, from the draws of each restart."""
    group = groups.data[name] = {}
    for site in chains[0]:
        if any(site not in draws for draws in chains):
            continue
        if len({draws[site].shape for draws in chains}) > 1:
            warn(message(
                f"site {site!r} with another shape in each restart", "one shape",
                "it is left out; read it from members_",
            ))  # fmt: skip
            continue
        value = torch.stack([draws[site] for draws in chains]).detach().cpu()
        variable, dims, coords = _site(site, value, member)
        group[variable], groups.dims[variable] = value.numpy(), dims
        groups.coords |= coords
        groups.attrs[name, variable] = {"site": site, "units": site_units(member.schema)}


def _is_own(member: Family) -> bool:
    """Whether a user wrote the sites: their names and shapes then say nothing of the columns."""
    return hasattr(member, "own_model")


def add_prior(groups: Groups, model: Fitted) -> list[Draws]:
    """The draws of each restart that the group holds; none, and an attribute says why."""
    draws, groups.attrs[""]["prior"] = prior_draws(model)
    if draws:
        _add_globals(groups, "prior", model.members_[0], draws)
        groups.attrs["prior"] = {"about": PRIOR}
    return draws


def prior_draws(model: Fitted) -> tuple[list[Draws], str]:
    """As many prior draws as there are posterior draws of each restart, and why there are none.

    Random only through the seeds of the fit.
    """
    stored = posterior(model).draws
    if not any(stored):
        return [], "left out: the model has no global latents"
    found: list[Draws] = []
    try:
        for member, draws, result in zip(model.members_, stored, model.results_, strict=True):
            found.append(_prior(member, count_draws(draws), spawn_seeds(result.seed, 3)[2]))
    except NotImplementedError:  # what torch and Pyro raise where nothing can be drawn
        return [], "left out: the prior is not proper"
    except (ValueError, RuntimeError, FitError) as error:
        return [], f"left out: the model cannot be run at draws of its prior ({_short(error)})"
    if any(not bool(v.isfinite().all()) for draws in found for v in draws.values()):
        return [], "left out: draws of the prior are not finite"
    return found, PRIOR


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _prior(member: Family, count: int, seed: int) -> Draws:
    one = one_row(member)
    with torch.no_grad(), guarded(seed):
        drawn = [
            {
                name: site["value"]
                for name, site in global_sites(traced(member.model, one, {})).items()
            }
            for _ in range(count)
        ]
    return {name: torch.stack([draw[name] for draw in drawn]) for name in drawn[0]}


def _site(site: str, value: Tensor, member: Family) -> tuple[str, list[str], dict[str, Array]]:
    """A readable name, the dimensions and the labels of a global site (chain, draw, ...).

    Read from the shape: the first axis is the component where it has as many entries as the
    family has components, further axes are real columns or the levels of one column.
    """
    schema, shape = member.schema, list(value.shape[2:])
    name, own = _named_after_slot(site, schema)
    if _is_own(member):
        name = safe(site) + "_" * (site in TAKEN)
        return name, [f"{name}_dim_{axis}" for axis in range(len(shape))], {}
    name += "_" * (name in TAKEN)
    told = member.axes(site)
    if told is not None:
        return (
            name,
            [safe(dim) for dim, _ in told],
            {safe(dim): np.array(labels) for dim, labels in told},
        )
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
    return f"{found[1]}_{safe(schema.slots[place].name)}", place


def _levels(place: int, size: int, schema: Schema) -> tuple[str, Array]:
    slot = schema.slots[place]
    column = schema.columns[slot.column]
    name = safe(slot.name)
    if slot.kind != "category" or slot.size != size:
        return f"{name}_basis", np.arange(size)
    if column.labelled:
        labels = [str(level) for level in column.levels or ()]
        return f"{name}_level", np.array(labels + ["(unseen)"] * slot.reserved)
    return f"{name}_level", np.array(["(no atom)", *map(str, column.atoms)])
