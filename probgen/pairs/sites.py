"""Makes the sites of a user's model those of the columns: holes, dtypes, what was drawn."""

from __future__ import annotations

import re
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch import distributions as td

from probgen.batch import ROWS, Batch
from probgen.errors import SchemaError, message
from probgen.pairs.view import Place, View

__all__ = ["HIDDEN", "Columns", "Tainted", "base_of", "hidden_name", "in_rows"]

#: marks the latent site that stands for the unseen cells of a column
HIDDEN = "?"
#: the two sites that `pyro.sample(name, ..., obs_mask=...)` makes of one
SPLIT = re.compile(r"(.+)_(observed|unobserved)")

Message = dict[str, Any]


#: where a value leaves torch, and with it the mark
_LEAVING = frozenset({"__array__", "item", "numpy", "tolist"})


class Tainted(Tensor):
    """A tensor that what is computed from it can be told by: torch keeps the class.

    Raises `TypeError` where the mark would be lost: it is written into another tensor in
    place (``loc[x > 0] = 1.0``), or leaves torch.
    """

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        """Keep the class, or raise."""
        name = getattr(func, "__name__", "")
        within = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        into = args[0] if within and args else (kwargs or {}).get("out")
        written = isinstance(into, Tensor) and not isinstance(into, Tainted)
        if written or name in _LEAVING:
            raise TypeError(f"{name} of a marked tensor")
        return super().__torch_function__(func, types, args, kwargs or {})


def hidden_name(column: str) -> str:
    """The site of a column's unseen cells."""
    return column + HIDDEN


def in_rows(msg: Any) -> bool:
    """Whether a site lies inside the rows plate."""
    return any(frame.name == ROWS for frame in msg["cond_indep_stack"])


def base_of(fn: Any) -> Any:
    """The distribution inside wrappers that expand, mask or declare events."""
    while hasattr(fn, "base_dist") and not isinstance(fn, td.TransformedDistribution):
        fn = fn.base_dist
    return fn


class Columns(Messenger):
    """Entered around a user's model; sees its sites in their final form, plates applied.

    Where cells of a column are unseen its site is observed in the other rows only, and the
    cells are drawn at a latent site of their own from the same distribution: proposed from
    the model, they contribute nothing, and what depends on them sees the draw. A `free`
    column, on which nothing depends, needs no such site.

    Parameters
    ----------
    view : View
    batch : Batch
    modelled : dict
        Places of the modelled columns by site name.
    free : frozenset of str
    kept : frozenset of str
        Sites that stay latent whatever they are: those that the guide draws.
    fill : bool
        Draw the unseen cells of free columns, too, at sites of their own.
    taint : str, optional
        A column whose value is handed to the function marked as `Tainted`.
    """

    def __init__(
        self,
        view: View,
        batch: Batch,
        modelled: dict[str, Place],
        free: frozenset[str] = frozenset(),
        kept: frozenset[str] = frozenset(),
        fill: bool = False,
        taint: str | None = None,
    ) -> None:
        super().__init__()
        self.view, self.batch, self.modelled = view, batch, modelled
        self.free = frozenset() if fill else free
        self.kept, self.fill, self.taint = kept, fill, taint
        #: what each column's site was given as `obs`, and the value that it had in the end
        self.given: dict[str, Tensor] = {}
        self.found: dict[str, Tensor] = {}

    def column(self, name: str) -> tuple[str, str] | None:
        """The column that a site belongs to, and as which part of it."""
        if name in self.modelled:
            return name, "whole"
        split = SPLIT.fullmatch(name)
        return (split[1], split[2]) if split and split[1] in self.modelled else None

    def _pyro_sample(self, msg: Message) -> None:
        if "_deterministic" in msg["infer"] or site_is_subsample(msg) or not in_rows(msg):
            return
        if self.view.holed:
            refuse_nan(msg)
        own = self.column(msg["name"])
        if own is None:
            return
        name, part = own
        if part == "unobserved":
            if name in self.free and msg["name"] not in self.kept:
                self._leave_out(msg)
        elif msg["is_observed"]:
            self.given[name] = msg["value"]
            self._fill(msg, name)

    def _leave_out(self, msg: Message) -> None:
        """A draw that nothing depends on is no latent."""
        with torch.no_grad():
            msg["value"] = msg["fn"].sample()
        msg["is_observed"], msg["mask"] = True, False

    def _fill(self, msg: Message, name: str) -> None:
        fn, x = msg["fn"], self.batch.x
        assert x is not None  # a site is observed only where there are values
        value = msg["value"]
        if isinstance(base_of(fn), td.Categorical):
            value = value.nan_to_num(0.0).long() if value.is_floating_point() else value.long()
        else:
            value = value.to(x.dtype)
        msg["value"] = value
        if self.batch.complete:
            return
        seen = self.modelled[name].seen(self.batch)
        if bool(seen.all()):
            return
        if name in self.free:
            with torch.no_grad():
                hidden = fn.sample()
        else:
            infer = {key: v for key, v in msg["infer"].items() if key == "enumerate"}
            hidden = pyro.sample(hidden_name(name), fn, infer=infer)
        msg["value"] = torch.where(seen, value, hidden.to(value.dtype))
        mask = msg["mask"]
        msg["mask"] = seen if mask is None or mask is True else seen & mask

    def _pyro_post_sample(self, msg: Message) -> None:
        own = self.column(msg["name"])
        if own is None or own[1] == "unobserved":
            return
        self.found[own[0]] = msg["value"]
        if own[0] == self.taint and isinstance(msg["value"], Tensor):
            msg["value"] = msg["value"].as_subclass(Tainted)


def refuse_nan(msg: Message) -> None:
    """NaN in a distribution, where columns with holes were read: say how it came there."""
    for value in vars(base_of(msg["fn"])).values():
        if isinstance(value, Tensor) and value.is_floating_point() and bool(value.isnan().any()):
            raise SchemaError(message(
                f"NaN in the distribution of site {msg['name']!r}: batch['column'] holds NaN "
                "where a cell is unseen",
                "distributions without NaN", "use the value that pyro.sample returns for that "
                "column (y = pyro.sample('y', ..., obs=batch['y'])), which is drawn where the "
                "cell is unseen; or, in a guide, torch.where(batch.seen('y'), batch['y'], 0.0)",
            ))  # fmt: skip
