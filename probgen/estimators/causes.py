"""What a network says of causes: interventions, separation, adjustment, effects."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from probgen.columns import Column
from probgen.conditionals import Cells, Levels
from probgen.density import Density
from probgen.errors import SchemaError, closest, message
from probgen.families.bayesian_network import BayesianNetwork as Pair
from probgen.graphs import adjustment, separation
from probgen.graphs.dag import Dag
from probgen.nodes.answers import distribution_of
from probgen.nodes.intervening import draws_after
from probgen.nodes.network import Network, Values
from probgen.queries.intervals import quantiles
from probgen.table import encode
from probgen.verbs.centres import mean_value

__all__ = ["Causal", "node_number", "under"]

#: what a paragraph about interventions adds to the text of a verb
DO = """
        do : dict, optional
            Columns that are set from outside, and the values they are set to: the answer is that
            of the model after the intervention (see `do`).
"""


def under(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The verb with a keyword ``do``, which asks the model after an intervention."""

    @functools.wraps(verb)
    def asked(
        self: Causal, *args: Any, do: Mapping[Hashable, Any] | None = None, **more: Any
    ) -> Any:
        return verb(self if do is None else self.do(do), *args, **more)

    signature = inspect.signature(verb)
    extra = inspect.Parameter("do", inspect.Parameter.KEYWORD_ONLY, default=None)
    asked.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), extra]
    )
    text = verb.__doc__ or ""
    head, mark, tail = text.partition("\n\n        Returns\n")
    asked.__doc__ = head + DO.rstrip() + mark + tail if mark else text
    return asked


def node_number(names: Sequence[str], name: Hashable) -> int:
    """The node of a name."""
    if str(name) not in names:
        raise SchemaError(message(
            f"the node {name!r}", f"a modelled column, such as {closest(name, names)}",
            "correct the name",
        ))  # fmt: skip
    return list(names).index(str(name))


@dataclass(eq=False, repr=False, kw_only=True)
class Causal(Density):
    """A density over a graph whose edges can be read as causes.

    Every answer here takes the graph at its word: that there are no unmeasured common causes,
    and that the arrows point from causes to effects. Data alone cannot show either.
    """

    log_prob = under(Density.log_prob)
    surprisal = under(Density.surprisal)
    sample = under(Density.sample)
    prob = under(Density.prob)
    impute = under(Density.impute)
    explain = under(Density.explain)
    outliers = under(Density.outliers)
    repair = under(Density.repair)
    entropy = under(Density.entropy)
    mutual_information = under(Density.mutual_information)
    dependence = under(Density.dependence)

    # --- the graph ----------------------------------------------------------------------

    @property
    def _network(self) -> Network:
        check_is_fitted(self)
        member = self.members_[0]
        assert isinstance(member, Pair)  # noqa: S101 - made by this estimator
        return member.network

    @property
    def graph_(self) -> Dag:
        """The graph over the nodes, by number (of the first restart)."""
        return self._network.layout.dag

    @property
    def node_names_(self) -> list[str]:
        """Names of the nodes: the columns, and two nodes for a column with atoms."""
        return [slot.name for slot in self._network.slots]

    @property
    def node_kinds_(self) -> list[str]:
        """What each node is: "discrete" or "normal"."""
        return ["discrete" if size else "normal" for size in self._network.layout.sizes]

    def _nodes(self, names: Hashable | Iterable[Hashable]) -> frozenset[int]:
        single = isinstance(names, str) or not isinstance(names, Iterable)
        asked: list[Any] = [names] if single else list(names)  # type: ignore[arg-type]
        found: set[int] = set()
        for name in asked:  # a column with atoms is two nodes
            found |= (
                set(self.schema_.slots_of([name]))
                if name in self.schema_.names
                else {node_number(self.node_names_, name)}
            )
        return frozenset(found)

    def _named(self, nodes: Iterable[int]) -> list[str]:
        return [self.node_names_[node] for node in sorted(nodes)]

    def d_separated(
        self,
        x: Hashable | Iterable[Hashable],
        y: Hashable | Iterable[Hashable],
        given: Hashable | Iterable[Hashable] = (),
    ) -> bool:
        """Whether the graph makes columns x and y independent given others.

        References
        ----------
        Pearl (1988), Probabilistic Reasoning in Intelligent Systems.
        """
        return separation.d_separated(
            self.graph_, self._nodes(x), self._nodes(y), self._nodes(given)
        )

    def markov_blanket(self, column: Hashable) -> list[str]:
        """The columns that make all others irrelevant to one: parents, children, co-parents."""
        own = self._nodes(column)
        each = [separation.markov_blanket(self.graph_, node) for node in own]
        return self._named(frozenset().union(*each) - own)

    def adjustment_sets(
        self,
        treatment: Hashable,
        outcome: Hashable,
        allowed: Iterable[Hashable] | None = None,
    ) -> list[list[str]]:
        """Minimal sets of columns to adjust for, so that an association is an effect.

        Parameters
        ----------
        treatment, outcome : column names
        allowed : column names, optional
            Columns that may be adjusted for.

        Returns
        -------
        list of lists of names
            Small ones first. ``[[]]`` if nothing needs adjusting for, ``[]`` if no set will do.

        References
        ----------
        Perkovic, Textor, Kalisch and Maathuis (2018), Complete graphical characterization and
        construction of adjustment sets, JMLR 18.
        """
        may = None if allowed is None else self._nodes(allowed)
        found = adjustment.adjustment_sets(
            self.graph_, self._nodes(treatment), self._nodes(outcome), may
        )
        return [self._named(nodes) for nodes in found]

    # --- interventions ------------------------------------------------------------------

    def do(self, settings: Mapping[Hashable, Any]) -> Self:
        """The model after an intervention: columns are set, and nothing acts on them any more.

        Parameters
        ----------
        settings : dict
            A value by column name.

        Returns
        -------
        an estimator of the same class
            Its verbs answer about the world in which the columns have these values: other
            values have probability 0. All verbs take ``do=`` to the same end.

        Raises
        ------
        SchemaError
            For unknown columns, missing or illegal values.

        References
        ----------
        Pearl (2009), Causality, 2nd edition, section 3.2: the truncated factorisation.
        """
        check_is_fitted(self)
        chosen, row = self._settings(settings)
        schema = replace(self.schema_, columns=tuple(
            _constant(c, row[c.name].iloc[0]) if c.name in row.columns else c
            for c in self.schema_.columns
        ))  # fmt: skip
        found = copy.copy(self)
        found._forget(found.__dict__)
        # they name columns that are no nodes any more
        found.structure, found.root = "auto", None
        found.required = found.forbidden = found.tiers = ()
        found.schema_ = schema
        found.members_ = [
            member.after(chosen, schema) for member in self.members_ if isinstance(member, Pair)
        ]
        found.calibration_, found.fitted_rows_ = None, None
        return found

    def _settings(self, settings: Mapping[Hashable, Any]) -> tuple[dict[int, float], pd.DataFrame]:
        """What an intervention sets: encoded, by node; and the cells as a frame of one row."""
        row = _one_row(settings, self.schema_.names, "do")
        encoded = encode(row, self.schema_)
        columns = [self.schema_[name] for name in row.columns]
        fixed = [c.name for c in columns if c.role != "modelled"]
        if fixed:
            raise SchemaError(message(
                f"do={dict(settings)}, of which {fixed} cannot be set: constant, or set already",
                "columns that are modelled", "leave them out, or start from the fitted model",
            ))  # fmt: skip
        slots = self.schema_.slots_of([c.name for c in columns])
        empty = [self.schema_.slots[i].name for i in slots if not encoded.seen[0, i]]
        lost = [name for name in empty if f"{name}[atom]" not in self.node_names_]
        if lost or encoded.illegal.any():
            raise SchemaError(message(
                f"do={dict(settings)}", "modelled columns, each with a legal value",
                "correct the values",
            ))  # fmt: skip
        return {i: float(encoded.x[0, i]) for i in slots}, row

    def effect(
        self,
        treatment: Hashable,
        outcome: Hashable,
        values: tuple[Any, Any] | None = None,
        given: Mapping[Hashable, Any] | None = None,
        interval: float = 0.9,
    ) -> pd.DataFrame:
        """How much the outcome changes when the treatment is set to another value.

        Parameters
        ----------
        treatment, outcome : column names
        values : (control, treated), optional
            What the treatment is set to. By default False and True, the first and the last level
            of ordered ones, the two levels of a category that has two, and for numbers the mean
            less and plus half a unit.
        given : dict, optional
            Cells to condition on, which the treatment does not act on.
        interval : float
            Posterior probability of the interval.

        Returns
        -------
        data frame
            One row for a number: the mean of the outcome, in table units, under control and
            treated, and their difference with its interval. One row a level for other
            outcomes: the probability of the level. The draws behind the interval are posterior
            draws of all parameters, in every restart alike: with restarts that learn their graph
            from resampled rows, it carries what the rows leave open about the graph too. Its
            ``attrs`` hold ``graphs``, the number of different graphs, and ``adjustment``, the
            columns that the first graph adjusts for.

        References
        ----------
        Pearl (2009), Causality, 2nd edition.
        """
        check_is_fitted(self)
        if not 0 < interval < 1:
            raise SchemaError(message(f"interval={interval}", "0 < interval < 1", "pass 0.9, say"))
        pair = self._values(treatment, values)
        self._nodes_of_given(treatment, given)
        control, treated = (self._outcomes(outcome, given, {treatment: value}) for value in pair)
        difference = treated - control
        lower, upper = quantiles(difference.sort(0).values, interval)
        if len(difference) < 2:  # a network whose tables are known has no interval
            lower, upper = torch.full_like(lower, torch.nan), torch.full_like(upper, torch.nan)
        column = self.schema_[outcome]
        index = pd.Index(
            list(column.levels or ()) if column.labelled else [outcome],
            name=str(outcome) if column.labelled else None,
        )
        found = pd.DataFrame({
            "control": control.mean(0).numpy(), "treated": treated.mean(0).numpy(),
            "effect": difference.mean(0).numpy(), "lower": lower.numpy(), "upper": upper.numpy(),
        }, index=index)  # fmt: skip
        sets = self.adjustment_sets(treatment, outcome) if treatment != outcome else []
        graphs = {m.network.layout.dag.edges for m in self.members_ if isinstance(m, Pair)}
        found.attrs = {
            "values": pair,
            "graphs": len(graphs),
            "adjustment": sets[0] if sets else None,
        }
        return found

    def _values(self, treatment: Hashable, values: tuple[Any, Any] | None) -> tuple[Any, Any]:
        column = self.schema_[treatment]
        if values is not None:
            pair = list(values) if isinstance(values, list | tuple) else []
            if len(pair) != 2:
                raise SchemaError(message(
                    f"values={values!r}", "two values to compare", "pass values=(control, treated)"
                ))  # fmt: skip
            return pair[0], pair[1]
        levels = column.levels or ()
        if column.labelled and (len(levels) == 2 or column.kind != "category"):
            return levels[0], levels[-1]
        if column.labelled or column.kind == "date":
            raise SchemaError(message(
                f"values of {treatment!r} left out", "two values to compare",
                "pass values=(control, treated)",
            ))  # fmt: skip
        middle = self._mean_of(treatment)
        return (
            (middle - 0.5, middle + 0.5)
            if column.real_like
            else (round(middle), round(middle) + 1)
        )

    def _mean_of(self, name: Hashable) -> float:
        return float(self._outcomes(name, None, {}).mean())

    def _nodes_of_given(self, treatment: Hashable, given: Mapping[Hashable, Any] | None) -> None:
        below = self._named(self.graph_.descendants(self._nodes(treatment)))
        wrong = [name for name in given or () if str(name) in below]
        if wrong:
            raise SchemaError(message(
                f"given {wrong}, on which {treatment!r} acts or which it is",
                "columns that the treatment does not act on", "leave them out",
            ))  # fmt: skip

    def _outcomes(
        self,
        outcome: Hashable,
        given: Mapping[Hashable, Any] | None,
        settings: Mapping[Hashable, Any],
    ) -> torch.Tensor:
        """Means of an outcome, or probabilities of its levels, (S, k) by posterior draw.

        The draws are those before the intervention, so that two interventions share them.
        """
        world = self.do(settings) if settings else self
        chosen, _ = self._settings(settings)
        encoded = encode(_one_row(given or {}, self.schema_.names, "given"), world.schema_)
        x, seen = torch.from_numpy(encoded.x), torch.from_numpy(encoded.seen)
        found = []
        known = self._with_draws
        for member, after, draws in zip(known.members, world.members_, known.draws, strict=True):
            assert isinstance(member, Pair) and isinstance(after, Pair)  # noqa: S101 - made here
            own = draws_after(member.network, draws, chosen) if chosen else draws
            count = len(next(iter(own.values()))) if own else 1
            for s in range(count):
                at = after.network.at({name: value[s] for name, value in own.items()})
                found.append(world._outcome(after.network, at, x, seen, outcome))
        return torch.stack(found)

    def _outcome(
        self, network: Network, at: Values, x: torch.Tensor, seen: torch.Tensor, name: Hashable
    ) -> torch.Tensor:
        """The mean (1,) of a number, or the probabilities (levels,), at given parameters."""
        column = self.schema_[name]
        if column.role == "constant":  # it is the treatment itself
            return _constant_outcome(column)
        *atom, node = self.schema_.slots_of([name])
        if column.labelled:
            own = distribution_of(network, x, seen, at, node)
            assert isinstance(own, Levels)  # noqa: S101 - a labelled column
            p = own.probs[0, : len(column.levels or ())]
            return (p / p.sum()).cpu()
        if not atom:
            return torch.from_numpy(_mean(column, distribution_of(network, x, seen, at, node)))
        states = distribution_of(network, x, seen, at, atom[0])
        assert isinstance(states, Levels)  # noqa: S101 - atoms are states
        p = (states.probs[0] / states.probs[0].sum()).cpu()
        x, seen = x.clone(), seen.clone()
        x[:, atom[0]], seen[:, atom[0]] = 0.0, True
        inside = _mean(column, distribution_of(network, x, seen, at, node))
        atoms = torch.tensor(column.atoms, dtype=p.dtype)
        return p[:1] * torch.from_numpy(inside) + (p[1:] * atoms).sum()


def _mean(column: Column, cells: Cells) -> np.ndarray:
    assert not isinstance(cells, Levels)  # noqa: S101 - a column of numbers
    return mean_value(column, cells)


def _one_row(cells: Mapping[Hashable, Any], names: Sequence[Hashable], what: str) -> pd.DataFrame:
    if not isinstance(cells, Mapping):
        raise SchemaError(message(
            f"{what} of type {type(cells).__name__}", "a dict of values by column", "pass a dict"
        ))  # fmt: skip
    foreign = [name for name in cells if name not in names]
    if foreign:
        raise SchemaError(message(
            f"{what} of unknown column(s) {foreign}", f"columns among {list(names)}",
            "check the names",
        ))  # fmt: skip
    return pd.DataFrame({name: [value] for name, value in cells.items()}, index=[0])


def _constant(column: Column, value: Any) -> Column:
    if hasattr(value, "item"):
        value = value.item()
    return replace(column, role="constant", constant=value)


def _constant_outcome(column: Column) -> torch.Tensor:
    if column.labelled:
        hit = [float(level == column.constant) for level in column.levels or ()]
        return torch.tensor(hit, dtype=torch.float64)
    return torch.tensor([float(column.constant)], dtype=torch.float64)
