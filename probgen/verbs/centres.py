"""One value for an unseen cell: the mean, median or mode of its distribution, in table units."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probgen.columns import Column
from probgen.conditionals import Cells, Conditionals, Counts, Drawn, Levels, Reals
from probgen.errors import SchemaError, message
from probgen.schema import Schema

__all__ = ["Centre", "CentreName", "fill_centres", "mean_value", "plan"]

CentreName = Literal["auto", "mean", "median", "mode"]
Centre: TypeAlias = CentreName | Mapping[Hashable, CentreName]
Floats = NDArray[np.float64]

NAMES = ("auto", "mean", "median", "mode")
#: what may stand for a kind; the first is what "auto" takes. The mean has the least squared
#: error; of positive columns a mixture has none (the logarithm is a Student's t), and their
#: median, as that of unit and bounded ones, does not depend on the bijection.
CHOICES = {
    "real": ("mean", "median"),
    "date": ("mean", "median"),
    "positive": ("median", "mean"),
    "unit": ("median", "mean"),
    "bounded": ("median", "mean"),
    "count": ("median", "mean"),
    "ordered": ("median", "mode"),
    "category": ("mode",),
    "boolean": ("mode",),
}


def plan(schema: Schema, centre: Centre) -> dict[Hashable, str]:
    """What stands for each column; "auto" stays where the column has atoms.

    One name for all columns holds where it applies; by column it must apply.
    """
    if not isinstance(centre, Mapping):
        if centre not in NAMES:
            raise SchemaError(message(
                f"centre={centre!r}", f"one of {NAMES}, or a dict by column", "change centre"
            ))  # fmt: skip
        return {c.name: _choice(c, centre, strict=False) for c in schema.columns}
    foreign = [name for name in centre if name not in schema.number]
    if foreign:
        raise SchemaError(message(
            f"centre for unknown column(s) {foreign}", f"columns among {list(schema.names)}",
            "check the names",
        ))  # fmt: skip
    return {c.name: _choice(c, centre.get(c.name, "auto"), strict=True) for c in schema.columns}


def _choice(column: Column, name: str, strict: bool) -> str:
    choices = CHOICES[column.kind]
    if name in choices:
        return name
    if strict and name != "auto":
        raise SchemaError(message(
            f"centre {name!r} for column {column.name!r} of kind {column.kind!r}",
            f"one of {('auto', *choices)}", "change centre",
        ))  # fmt: skip
    return "auto" if column.atoms else choices[0]


def fill_centres(x: Floats, schema: Schema, cells: Conditionals, how: dict[Hashable, str]) -> None:
    """Put one value into every unseen cell of encoded rows x (n, m), in place."""
    for place, slot in enumerate(schema.slots):
        column = schema.columns[slot.column]
        if place not in cells or (slot.kind == "category" and column.atoms):
            continue  # the atoms of a column come with its numbers
        rows, own = cells[place]
        at = rows.cpu().numpy()
        if not column.atoms:
            x[at, place] = _centre(column, own, how[column.name]).cpu().numpy()
            continue
        codes = cells[place - 1][1]
        assert isinstance(codes, Levels)  # noqa: S101 - the slot before holds the atoms
        x[at, place - 1], x[at, place] = _with_atoms(column, codes, own, how[column.name])


def _half(cells: Cells, rows: int) -> Tensor:
    if isinstance(cells, Reals | Drawn):
        return cells.weights.new_full((rows,), 0.5)
    if isinstance(cells, Levels):
        return cells.probs.new_full((rows,), 0.5)
    return cells.parts[0][1].new_full((rows,), 0.5)


def _centre(column: Column, cells: Cells, how: str) -> Tensor:
    """The centre (c,) in encoded units."""
    if how == "mode" and isinstance(cells, Levels):
        return cells.mode()
    if how == "mean" and not isinstance(cells, Levels):
        if isinstance(cells, Counts) or column.kind in ("real", "date", "count"):
            return cells.centre()
        return _encode(column, _mean(column, cells)).to(cells.weights.device)
    return cells.quantile(_half(cells, len(cells)))


def mean_value(column: Column, cells: Reals | Drawn | Counts) -> Floats:
    """The mean (c,) in table units; days since its origin for a date."""
    if isinstance(cells, Counts):
        return cells.centre().cpu().numpy() + column.support()[0]
    if column.kind in ("real", "date"):
        return _decode(column, cells.centre().cpu().numpy())
    return _mean(column, cells)


def _mean(column: Column, cells: Reals | Drawn) -> Floats:
    """The mean (c,) in table units."""

    def back(z: Tensor) -> Tensor:
        return torch.from_numpy(_decode(column, z.cpu().numpy()))

    return cells.average(back).cpu().numpy()


def _decode(column: Column, z: Floats) -> Floats:
    """Values in table units from a real slot."""
    return column.backward(z * column.scale + column.loc)


def _encode(column: Column, values: Floats) -> Tensor:
    """A real slot from values inside the support, in table units."""
    return torch.from_numpy((column.forward(values) - column.loc) / column.scale)


def _with_atoms(column: Column, codes: Levels, rest: Cells, how: str) -> tuple[Floats, Floats]:
    """(codes of the atoms, 0 for none; real slot), both (c,)."""
    assert isinstance(rest, Reals | Drawn)  # noqa: S101 - atoms belong to real columns
    probs = (codes.probs / codes.probs.sum(1, keepdim=True)).cpu()
    rest = type(rest)(*(getattr(rest, name).cpu() for name in rest.__dataclass_fields__))
    kind = CHOICES[column.kind][0]
    if how == "auto":  # the most probable atom, unless no atom is more probable still
        return codes.mode().cpu().numpy(), _centre(column, rest, kind).cpu().numpy()
    if how == "mean":
        inside = _decode(column, _centre(column, rest, "mean").numpy())
        mean = probs[:, 0].numpy() * inside + probs[:, 1:].numpy() @ np.array(column.atoms)
        legal = np.where(column.legal(mean), mean, inside)  # atoms may lie outside the support
        return np.zeros(len(mean)), _encode(column, legal).numpy()
    return _median_with_atoms(column, probs, rest)


def _median_with_atoms(
    column: Column, probs: Tensor, rest: Reals | Drawn
) -> tuple[Floats, Floats]:
    """The median of a distribution with atoms: one of them, or a quantile of the rest."""
    code = torch.zeros(len(probs), dtype=torch.float64)
    below = torch.zeros_like(code)  # mass of the atoms that lie below the median
    passed = torch.zeros_like(code)  # mass of the atoms below the one that is looked at
    lower, _ = column.support()
    for j in np.argsort(column.atoms).tolist():
        atom, p = column.atoms[j], probs[:, j + 1]
        if column.legal(np.array([atom]))[0]:
            place = _encode(column, np.array([atom])).expand(len(probs))
            cdf = rest.cdf(place)
        else:
            cdf = torch.full_like(code, 0.0 if atom <= lower else 1.0)
        reached = passed + probs[:, 0] * cdf
        code = torch.where((reached < 0.5) & (reached + p >= 0.5), float(j + 1), code)
        below = torch.where(reached + p < 0.5, below + p, below)
        passed = passed + p
    level = ((0.5 - below) / probs[:, 0].clamp_min(1e-300)).clamp(1e-9, 1 - 1e-9)
    return code.numpy(), rest.quantile(level).numpy()
