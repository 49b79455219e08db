"""How much columns say about one another: entropy and mutual information of the model.

Both are expectations of log densities under the model: averages over rows that it draws, with
a standard error, or, where the columns hold few combinations of levels, exact sums.

References: Cover and Thomas (2006), Elements of Information Theory, chapters 2 and 8;
Linfoot (1957), An informational measure of correlation, Information and Control 1; Joe
(1989), Relative entropy measures of multivariate dependence, JASA 84.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probgen import queries
from probgen.answers import Answer
from probgen.batch import Batch
from probgen.density import Density
from probgen.door import given_rows
from probgen.errors import SchemaError, message
from probgen.table import encode

__all__ = ["Group", "dependence", "entropy", "mutual_information"]

#: a column, or several that are taken together
Group: TypeAlias = Hashable | Sequence[Hashable]
Floats = NDArray[np.float64]
#: signed sets of columns: the quantity is the expectation of the sum of sign * log p(set)
Terms = dict[frozenset[Hashable], int]

#: combinations of levels that are summed over, at most
MOST_CELLS = 10_000


def entropy(
    model: Density,
    columns: Group | None = None,
    given: Any = None,
    samples: int = 10_000,
    random_state: int | None = 0,
) -> Answer:
    """Entropy of some columns, ``-E log p``, in nats; see `Density.entropy`."""
    names = _names(model, _all(model, given) if columns is None else columns, "columns")
    over, given = _averaged(model, given, names)
    terms = _sum((frozenset(names) | over, -1), (over, 1))
    return _Expectation(model, given, samples, random_state).of(terms)


def mutual_information(
    model: Density,
    columns: Group,
    others: Group,
    given: Any = None,
    samples: int = 10_000,
    random_state: int | None = 0,
) -> Answer:
    """What two groups of columns say about each other, nats; see `Density.mutual_information`."""
    a, b = _names(model, columns, "columns"), _names(model, others, "others")
    both = [name for name in a if name in b]
    if both:
        raise SchemaError(message(
            f"column(s) {both} in both groups", "groups without a common column",
            "a column's information about itself is its entropy",
        ))  # fmt: skip
    over, given = _averaged(model, given, [*a, *b])
    left, right = frozenset(a), frozenset(b)
    terms = _sum(
        (left | right | over, 1), (over, 1), (left | over, -1), (right | over, -1)
    )  # fmt: skip
    return _Expectation(model, given, samples, random_state).of(terms)


def dependence(
    model: Density,
    columns: Group | None = None,
    given: Any = None,
    measure: Literal["correlation", "nats"] = "correlation",
    samples: int = 2_000,
    random_state: int | None = 0,
) -> pd.DataFrame:
    """Dependence of every pair of columns; see `Density.dependence`."""
    if measure not in ("correlation", "nats"):
        raise SchemaError(message(
            f"measure={measure!r}", "'correlation' or 'nats'", "choose one"
        ))  # fmt: skip
    names = _names(model, _all(model, given) if columns is None else columns, "columns")
    over, given = _averaged(model, given, names)
    expectation = _Expectation(model, given, samples, random_state)
    value = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    if measure == "nats":
        for name in names:
            own = _sum((frozenset([name]) | over, -1), (over, 1))
            value.loc[name, name] = expectation.of(own).value
    for a, b in combinations(names, 2):
        one, two = frozenset([a]) | over, frozenset([b]) | over
        nats = expectation.of(_sum((one | two, 1), (over, 1), (one, -1), (two, -1))).value
        shown = nats if measure == "nats" else math.sqrt(-math.expm1(-2 * max(nats, 0.0)))
        value.loc[a, b] = value.loc[b, a] = shown
    return value


def _sum(*terms: tuple[frozenset[Hashable], int]) -> Terms:
    """Signed sets with equal ones joined: where nothing is conditioned on, those cancel."""
    total: Terms = {}
    for names, sign in terms:
        total[names] = total.get(names, 0) + sign
    return {names: sign for names, sign in total.items() if sign and names}


def _names(model: Density, group: Group, what: str) -> list[Hashable]:
    """The columns of a group: modelled ones, each once."""
    schema = model.schema_
    names = list(group) if _is_list(group) else [group]  # type: ignore[arg-type]
    wrong = [name for name in names if schema[name].role == "context"]
    if not names or wrong or len(set(names)) < len(names):
        raise SchemaError(message(
            f"{what}={names}" + (f" with context column(s) {wrong}" if wrong else ""),
            "one or more modelled columns, each once", "name columns of the model",
        ))  # fmt: skip
    return names


def _all(model: Density, given: Any) -> list[Hashable]:
    """The modelled columns that are not conditioned on."""
    held = set(given) if isinstance(given, Mapping) else set()
    if _is_list(given):
        held = set(given)
    roles = model.schema_.columns
    return [c.name for c in roles if c.role != "context" and c.name not in held]


def _is_list(given: Any) -> bool:
    return isinstance(given, list | tuple | set | pd.Index)


def _is_event(model: Density, name: str) -> bool:
    """Whether the name of a column is an event: that it is true."""
    return model.schema_[name].levels == (False, True)


def _averaged(
    model: Density, given: Any, names: Sequence[Hashable]
) -> tuple[frozenset[Hashable], Any]:
    """Columns whose values are averaged over, and what is held fixed."""
    if isinstance(given, pd.DataFrame):
        raise SchemaError(message(
            "a data frame as given", "a dict of values, a list of columns, or an event",
            "ask once for each row, or name the columns to average over: given=['age']",
        ))  # fmt: skip
    if isinstance(given, str) and given in model.schema_.number and not _is_event(model, given):
        raise SchemaError(message(
            f"the column {given!r} as given", "a dict of values, a list of columns, or an event",
            f"pass given=[{given!r}] to average over it, or given={{{given!r}: ...}} to fix it",
        ))  # fmt: skip
    over = frozenset(_names(model, list(given), "given")) if _is_list(given) else frozenset()
    held = set(given) if isinstance(given, Mapping) else over
    both = [name for name in names if name in held]
    if both:
        raise SchemaError(message(
            f"column(s) {both} asked about and in given", "each column on one side",
            "drop them from one of the two",
        ))  # fmt: skip
    return over, None if _is_list(given) else given


class _Expectation:
    """Expectations under the model given some values or an event, on rows drawn once."""

    def __init__(self, model: Density, given: Any, samples: int, seed: int | None) -> None:
        if isinstance(samples, bool) or not isinstance(samples, int | np.integer) or samples < 2:
            raise SchemaError(message(f"samples={samples!r}", "2 or more", "pass 10_000, say"))
        self.model, self.given = model, given
        self.samples, self.seed = int(samples), seed
        self._rows: pd.DataFrame | None = None
        self._known: dict[frozenset[Hashable], Floats] = {}

    def of(self, terms: Terms) -> Answer:
        """The expectation of a signed sum of log densities."""
        exact = self._summed(terms)
        if exact is not None:
            return Answer(exact, 0.0, "exact", math.inf)
        total = np.zeros(self.samples)
        for names, sign in terms.items():
            total += sign * self._log_prob(names)
        with np.errstate(invalid="ignore"):
            se = float(total.std(ddof=1)) / math.sqrt(len(total))
        return Answer(float(total.mean()), se, "monte carlo", float(len(total)))

    def _log_prob(self, names: frozenset[Hashable]) -> Floats:
        """Log density (n,) of some columns of the drawn rows."""
        if self._rows is None:
            self._rows = self.model.sample(self.samples, given=self.given, random_state=self.seed)
        if names not in self._known:
            held = [name for name in self._rows.columns if name in names]
            found = self.model.log_prob(self._rows[held], given=self.given)
            self._known[names] = found.to_numpy()
        return self._known[names]

    def _summed(self, terms: Terms) -> float | None:
        """The same as a sum over all combinations of levels; None where that cannot be."""
        schema = self.model.schema_
        names = sorted(set().union(*terms), key=schema.number.__getitem__)
        slots = schema.slots_of(names)
        kinds = [schema.slots[i] for i in slots]
        reserves = self.model._traits.reserves
        sizes = [slot.size - (0 if reserves else slot.reserved) for slot in kinds]
        few = all(s.kind == "category" for s in kinds) and math.prod(sizes) <= MOST_CELLS
        if not few or isinstance(self.given, str) or schema.context_slots:
            return None
        codes = np.stack([c.reshape(-1) for c in np.indices(sizes)], 1) if slots else None
        if codes is None:  # constants only
            return 0.0
        joint = self._cells(slots, codes)
        if joint is None:
            return None
        table = joint.reshape(sizes)
        share = np.exp(table)
        total = np.zeros_like(table)
        place = {slot: axis for axis, slot in enumerate(slots)}
        for group, sign in terms.items():
            kept = {place[slot] for slot in schema.slots_of(group)}
            out = tuple(axis for axis in range(len(slots)) if axis not in kept)
            total += sign * np.log(share.sum(axis=out, keepdims=True).clip(min=1e-300))
        return float((share * total).sum())

    def _cells(self, slots: list[int], codes: NDArray[np.int64]) -> Floats | None:
        """Log probability of each combination of codes given what is held; None if estimated."""
        model, m = self.model, len(self.model.schema_.slots)
        x, seen = np.zeros((len(codes), m)), np.zeros((len(codes), m), dtype=bool)
        if self.given is not None:
            held = encode(given_rows(self.given, model.schema_), model.schema_)
            if held.illegal.any():
                raise SchemaError(message(
                    "an impossible value in given", "values inside the support",
                    "correct the values",
                ))  # fmt: skip
            x[:], seen[:] = held.x, held.seen
        x[:, slots], seen[:, slots] = codes, True
        found = queries.log_prob(model._predictive(), self._batch(x, seen))
        if not set(found.method.split("+")) <= {"exact", "enumerated"}:
            return None
        value = found.value.double().cpu().numpy()
        return value - np.logaddexp.reduce(value)

    def _batch(self, x: Floats, seen: NDArray[np.bool_]) -> Batch:
        device = self.model._device
        return Batch.of(torch.from_numpy(x).to(device), torch.from_numpy(seen).to(device))
