"""The numbers that are ranked: what a truth and a posterior draw both have.

Any function of the globals and of the table will do. The log likelihood of the table sees
errors of the posterior that no single global shows (Modrák et al. 2023); it and the log
density of single rows do not depend on the order of exchangeable parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probgen.batch import Batch
from probgen.family import Draws, Family
from probgen.queries import Predictive, log_prob_draws
from probgen.queries.draws import count_draws, one_draw

__all__ = ["MOST", "Quantities", "Quantity", "joined"]

Floats = NDArray[np.float64]
#: a function of one draw of the globals, arrays by site
Quantity = Callable[[dict[str, Any]], float]

#: numbers of raw globals that are ranked at most, spread over all of them
MOST = 60
#: rows of the table, and points fixed beforehand, whose log density is ranked
ROWS = 2
#: particles of each draw where the density of a row is an estimate; its noise falls on truths
#: and draws alike
PARTICLES = 64
#: prior draws by which numbers are found that never vary, or repeat another
LOOKED = 8


@dataclass(frozen=True)
class Quantities:
    """What is ranked.

    Parameters
    ----------
    sites : dict of str to list of index tuples
        Entries of global sites.
    sorted : tuple of str
        Sites whose entries are exchangeable: they are sorted first.
    own : dict of str to callable
        The caller's.
    points : Batch
        Rows fixed beforehand.
    """

    sites: dict[str, list[tuple[int, ...]]]
    sorted: tuple[str, ...]
    own: Mapping[str, Quantity]
    points: Batch
    dropped: int = 0
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        names = ["log likelihood", *(f"log p(row {i})" for i in range(ROWS))]
        names += [f"log p(point {i})" for i in range(len(self.points))]
        object.__setattr__(self, "names", names + self.of_sites(self.sites) + list(self.own))

    def of_sites(self, sites: Iterable[str]) -> list[str]:
        """Names of the quantities that are entries of some sites."""
        chosen, names = set(sites), []
        for site, places in self.sites.items():
            label = f"sorted {site}" if site in self.sorted else site
            names += [
                f"{label}{list(place)}" if place else label for place in places if site in chosen
            ]
        return names

    def values(self, predictive: Predictive, batch: Batch) -> Floats:
        """The quantities (S, Q) at the draws of all members, member by member.

        NaN where a site has another shape than in the prior: its numbers follow the table.
        """
        both = joined(batch, self.points)
        with torch.no_grad():
            log_p = log_prob_draws(predictive, both, particles=PARTICLES)
        rows = log_p.double().cpu().numpy()
        n = len(batch)
        parts = [rows[:, :n].sum(1, keepdims=True), rows[:, :ROWS], rows[:, n:]]
        parts += [np.concatenate([self._globals(own) for own in predictive.draws])]
        return np.concatenate(parts, 1)

    def _globals(self, draws: Draws) -> Floats:
        count = count_draws(draws)
        columns = []
        for site, places in self.sites.items():
            value = draws[site].double().cpu().numpy() if site in draws else np.empty((count, 0))
            value = np.sort(value, 1) if site in self.sorted else value
            columns += [_entry(value, place) for place in places]
        if self.own:
            each = [
                {name: value.double().cpu().numpy() for name, value in one_draw(draws, s).items()}
                for s in range(count)
            ]
            columns += [np.array([float(f(one)) for one in each]) for f in self.own.values()]
        return np.stack(columns, 1) if columns else np.empty((count, 0))

    @classmethod
    def of(
        cls, member: Family, prior: Draws, own: Mapping[str, Quantity], points: Batch
    ) -> Quantities:
        """All that a family lets one rank; `prior` are some draws of its prior."""
        parts = member.interchangeable()
        sites: dict[str, list[tuple[int, ...]]] = {}
        in_order: list[str] = []
        known: set[bytes] = set()
        for name, value in prior.items():
            array = value.double().cpu().numpy()
            if name in parts:
                if array.ndim != 2:  # parts of several numbers have no order
                    continue
                in_order.append(name)
                array = np.sort(array, 1)
            sites[name] = [
                place for place in itertools.product(*map(range, array.shape[1:]))
                if _is_new(_entry(array, place), known)
            ]  # fmt: skip
        total = sum(map(len, sites.values()))
        if total > MOST:
            share = max(1, MOST // max(1, len(sites)))
            sites = {name: _spread(places, share) for name, places in sites.items()}
        kept = sum(map(len, sites.values()))
        return cls(sites, tuple(in_order), own, points, total - kept)


def _entry(value: Floats, place: tuple[int, ...]) -> Floats:
    inside = len(place) == value.ndim - 1 and all(
        i < size for i, size in zip(place, value.shape[1:], strict=False)
    )
    at: Any = (slice(None), *place)
    return value[at] if inside else np.full(len(value), np.nan)


def _is_new(draws: Floats, known: set[bytes]) -> bool:
    """Whether a number varies, and is not the same as one before it."""
    if len(draws) > 1 and (draws == draws[0]).all():
        return False
    own = draws.tobytes()
    seen = own in known
    known.add(own)
    return not seen


def _spread(places: list[tuple[int, ...]], count: int) -> list[tuple[int, ...]]:
    chosen = np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).astype(int))
    return [places[i] for i in chosen]


def joined(first: Batch, second: Batch) -> Batch:
    """The rows of both."""
    if first.x is None or second.x is None:
        raise TypeError("rows without values cannot be scored")
    context = None
    if first.context is not None and second.context is not None:
        context = torch.cat([first.context, second.context])
    x, seen = torch.cat([first.x, second.x]), torch.cat([first.seen, second.seen])
    return Batch.of(x, seen, context=context)
