"""The globals of one pair inside the model or the guide of another, under names of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger

from probgen.batch import ROWS, Batch
from probgen.family import Draws
from probgen.queries.contraction import global_sites

__all__ = ["scoped_globals"]


def scoped_globals(program: Callable[[Batch], object], one: Batch, head: str) -> Draws:
    """Run a model or a guide for its globals, inside another.

    Handlers around the call see the global sites, `head` before their names, and nothing of
    the rows.

    Parameters
    ----------
    program : callable
        A model or a guide.
    one : Batch
        A row to run it on.
    head : str

    Returns
    -------
    Draws
        One draw: by site, with `head`, values ``(1, *shape)``.
    """
    with _Named(head), poutine.block(hide_fn=_of_rows):
        trace = poutine.trace(program).get_trace(replace(one, sites={}))
    return {name: site["value"][None] for name, site in global_sites(trace).items()}


class _Named(Messenger):
    """Puts a prefix before the names of sites."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self._head = head

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        msg["name"] = self._head + msg["name"]


def _of_rows(msg: dict[str, Any]) -> bool:
    """Whether a site belongs to a row."""
    return msg["type"] == "sample" and any(f.name == ROWS for f in msg["cond_indep_stack"])
