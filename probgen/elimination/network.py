"""A Bayesian network of discrete variables that answers exactly, many rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from probgen.elimination.factors import Factor, evidence, radix, sliced, taken
from probgen.elimination.groups import Group, Pattern, distinct, grouped, patterns
from probgen.elimination.plans import LIMIT, plan
from probgen.elimination.questions import Question
from probgen.elimination.states import drawn, inverse, maximise
from probgen.elimination.sums import log_sum, marginals
from probgen.errors import SchemaError, message
from probgen.graphs.dag import Dag

__all__ = ["DiscreteNetwork"]

#: questions whose preparation is kept
KEPT = 256
#: cells of a row up to which draws of all patterns come from one plan
TOGETHER = 50_000


class DiscreteNetwork:
    """Exact answers of a network of discrete variables with given tables.

    Rows are grouped by which of their cells are seen, or answered together by one plan where
    there are many patterns. What a question does not need is left out before: barren nodes
    (Shachter 1986, Evaluating influence diagrams, Operations Research 34) and what the seen cells
    separate from it (`pruning.requisite`). Rows that are equal in what matters are worked out
    once. No answer depends on the other rows.

    Parameters
    ----------
    dag : Dag
        The graph.
    tables : sequence of Tensor ``(size, *sizes of parents)``
        The conditional table of each node, in float64: its parents in the order of
        ``dag.parents``, each distribution summing to 1. All answers but states are differentiable
        in them. They are not to be changed in place: sums that all rows share are kept.
    limit : int
        Most bytes that one row may take; 2 GiB by default.

    Raises
    ------
    SchemaError
        If a table's shape does not fit the graph.

    Examples
    --------
    Rain makes grass wet; it is wet, so it rained:

    >>> rain = torch.tensor([0.8, 0.2], dtype=torch.float64)
    >>> wet = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    >>> network = DiscreteNetwork(Dag.of(2, [(0, 1)]), [rain, wet])
    >>> codes, seen = torch.tensor([[-1, 1]]), torch.tensor([[False, True]])
    >>> network.posterior(codes, seen, 0)
    tensor([[0.3077, 0.6923]], dtype=torch.float64)
    >>> network.log_evidence(codes, seen).exp()
    tensor([0.2600], dtype=torch.float64)
    """

    def __init__(self, dag: Dag, tables: Sequence[Tensor], limit: int = LIMIT) -> None:
        self.dag = dag
        self.tables = tuple(tables)
        self.sizes = tuple(len(table) for table in tables)
        self.limit = limit
        self._questions: dict[tuple[Pattern, tuple[int, ...], int], Question] = {}
        wanted = [(self.sizes[v], *(self.sizes[p] for p in own))
                  for v, own in enumerate(dag.parents)]  # fmt: skip
        shapes = [tuple(table.shape) for table in tables]
        if shapes != wanted:
            raise SchemaError(message(
                f"tables of shapes {shapes}", f"{wanted}: a node's states by those of its parents",
                "pass the tables in the order of the nodes and of dag.parents",
            ))  # fmt: skip

    @property
    def _fixed(self) -> bool:
        """Whether no gradient is wanted, so that what all rows share may be kept."""
        return not (torch.is_grad_enabled() and any(table.requires_grad for table in self.tables))

    def _groups(self, seen: Tensor) -> list[Group]:
        return grouped(seen, self._work)

    def _work(self, always: Pattern, mixed: tuple[int, ...]) -> float | None:
        """The cells that a row takes, about; None if they do not fit."""
        nodes = self._needed(always, mixed)
        hidden = [tuple(v for v in (node, *self.dag.parents[node]) if not always[v])
                  for node in nodes]  # fmt: skip
        scopes = [scope for scope in hidden if scope] + [(v,) for v in mixed]
        if not scopes:
            return 0.0
        found = plan(tuple(scopes), (True,) * len(scopes), self.sizes, (), True)
        return float(found.total) if found.memory(1, True) <= self.limit else None

    def _needed(self, always: Pattern, mixed: Iterable[int]) -> list[int]:
        """The nodes that are not barren."""
        return sorted(self.dag.ancestors([*(v for v, own in enumerate(always) if own), *mixed]))

    def _factors(self, codes: Tensor, group: Group, nodes: Iterable[int]) -> list[Factor]:
        found = sliced(self.dag.parents, self.tables, codes, group.seen, nodes)
        return found + evidence(codes, self.sizes, group.mixed, self.tables[0].dtype)

    def log_prob(self, codes: Tensor) -> Tensor:
        """Log probability of rows without hidden cells: look-ups only.

        Parameters
        ----------
        codes : Tensor (n, d) of long

        Returns
        -------
        Tensor (n,)
            In nats.
        """
        factors = sliced(self.dag.parents, self.tables, codes, [True] * len(self.sizes))
        scales = [factor.log_scale for factor in factors if factor.log_scale is not None]
        return scales[0]

    def log_evidence(self, codes: Tensor, seen: Tensor, barren: bool | None = None) -> Tensor:
        """Log probability of the seen cells of each row.

        Parameters
        ----------
        codes : Tensor (n, d) of long
            The states of seen cells; -1 in the others.
        seen : Tensor (n, d) of bool
        barren : bool, optional
            Whether the tables of nodes enter below which nothing is seen. They sum to 1 and do not
            change the answer. By default they do where a gradient by the tables is wanted: a table
            times its gradient is then its expected counts, those of barren nodes too. Tables that
            do not sum to 1, as in variational learning, need `True`.

        Returns
        -------
        Tensor (n,)
            In nats; -inf for what cannot be.

        Raises
        ------
        NotSupported
            If one row takes more memory than the limit.
        """
        codes = torch.where(seen, codes, -1)
        barren = not self._fixed if barren is None else barren
        every = list(range(len(self.sizes)))
        found = self.tables[0].new_zeros(len(codes))
        for group in self._groups(seen):
            own = codes[group.rows]
            nodes = every if barren else self._needed(group.seen, group.mixed)
            columns = [v for v in nodes if group.seen[v] or v in group.mixed]
            found = found.index_copy(0, group.rows, self._once(own, columns, group, nodes))
        return found

    def _once(
        self, codes: Tensor, columns: Sequence[int], group: Group, nodes: Sequence[int]
    ) -> Tensor:
        """Log evidence of the rows of a group, equal ones once."""
        once = distinct(codes, columns, self.sizes) if len(nodes) > len(columns) else None
        own = codes if once is None else codes[once[0]]
        logs = log_sum(self._factors(own, group, nodes), self.sizes, len(own), (), self.limit)
        return logs if once is None else logs.index_select(0, once[1])

    def posterior(self, codes: Tensor, seen: Tensor, variable: int) -> Tensor:
        """Posterior of one variable given the seen cells of each row.

        Parameters
        ----------
        codes, seen
            As for `log_evidence`.
        variable : int
            The variable; where it is seen, all probability is on its state.

        Returns
        -------
        Tensor (n, size)
            Each row sums to 1, or is 0 throughout where the cells that matter to the variable
            cannot be.

        Raises
        ------
        NotSupported
            If one row takes more memory than the limit.
        """
        codes = torch.where(seen, codes, -1)
        found = self.tables[0].new_zeros(len(codes), self.sizes[variable])
        for group in self._groups(seen):
            own = codes[group.rows] if len(group.rows) < len(codes) else codes
            answer = self._posterior(own, group, variable)
            if len(group.rows) == len(codes):
                return answer
            found = found.index_copy(0, group.rows, answer)
        return found

    def _posterior(self, codes: Tensor, group: Group, variable: int) -> Tensor:
        if group.seen[variable]:
            states = torch.arange(self.sizes[variable], device=codes.device)
            return (codes[:, variable, None] == states).to(self.tables[0].dtype)
        question = self._question(group, variable)
        once = distinct(codes, question.columns, self.sizes)
        own = codes if once is None else codes[once[0]]
        answer = question.ask(own, self._fixed)
        return answer if once is None else answer.index_select(0, once[1])

    def _question(self, group: Group, variable: int) -> Question:
        key = group.seen, group.mixed, variable
        found = self._questions.get(key)
        if found is None:
            if len(self._questions) >= KEPT:
                self._questions.clear()
            found = self._questions[key] = Question(
                self.dag, self.tables, group.seen, group.mixed, variable, self.limit
            )
        return found

    def marginals(self, codes: Tensor, seen: Tensor) -> dict[int, Tensor]:
        """Posterior of every variable given the seen cells of each row.

        Parameters
        ----------
        codes, seen
            As for `log_evidence`.

        Returns
        -------
        dict of int to Tensor (n, size)
            Of every variable; where it is seen, all probability is on its state. Rows whose cells
            cannot be are 0 throughout.

        Raises
        ------
        NotSupported
            If one row takes more memory than the limit.
        """
        codes = torch.where(seen, codes, -1)
        every = range(len(self.sizes))
        found = {v: self.tables[0].new_zeros(len(codes), self.sizes[v]) for v in every}
        for group in self._groups(seen):
            first, once = self._different(codes[group.rows], group)
            factors = self._factors(first, group, every)
            hidden = [v for v in every if not group.seen[v]]
            answers = marginals(factors, self.sizes, len(first), hidden, self.limit)
            sure = self._sure(first, factors, answers)
            for v in every:
                states = torch.arange(self.sizes[v], device=codes.device)
                answer = answers[v] if v in answers else (first[:, v, None] == states) & sure
                answer = answer if once is None else answer.index_select(0, once)
                found[v] = found[v].index_copy(0, group.rows, answer.to(found[v].dtype))
        return found

    def _different(self, codes: Tensor, group: Group) -> tuple[Tensor, Tensor | None]:
        """The rows of a group, or one of each kind and the kind of each row."""
        columns = [v for v in range(len(self.sizes)) if group.seen[v] or v in group.mixed]
        once = distinct(codes, columns, self.sizes)
        return (codes, None) if once is None else (codes[once[0]], once[1])

    def _sure(
        self, codes: Tensor, factors: Sequence[Factor], answers: dict[int, Tensor]
    ) -> Tensor:
        """Whether the seen cells of each row can be (n, 1)."""
        for answer in answers.values():
            return answer.detach().sum(1, keepdim=True) > 0
        possible = log_sum(factors, self.sizes, len(codes), (), self.limit) > -math.inf
        return possible[:, None]

    def maximise(self, codes: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """The most probable states of the hidden cells of each row, jointly.

        Parameters
        ----------
        codes, seen
            As for `log_evidence`.

        Returns
        -------
        value : Tensor (n,)
            Log probability of the completed row, in nats; -inf where the seen cells cannot be.
        states : Tensor (n, d) of long
            The completed rows: seen cells as they are; the lowest code where several are best,
            -1 in hidden cells where the seen ones cannot be.

        Raises
        ------
        NotSupported
            If one row takes more memory than the limit.
        """
        codes = torch.where(seen, codes, -1)
        value = self.tables[0].new_zeros(len(codes))
        states = codes.clone()
        for group in self._groups(seen):
            own, once = self._different(codes[group.rows], group)
            factors = self._factors(own, group, range(len(self.sizes)))
            best, found = maximise(factors, self.sizes, len(own), self.limit)
            value[group.rows] = best if once is None else best[once]
            for v, column in found.items():
                states[group.rows, v] = column if once is None else column[once]
        return value, torch.where(seen, codes, states)

    def draw(self, codes: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
        """The hidden cells of each row drawn jointly given the seen ones.

        Parameters
        ----------
        codes, seen
            As for `log_evidence`.
        generator : torch.Generator
            Of the CPU.

        Returns
        -------
        Tensor (n, d) of long
            The completed rows; -1 in hidden cells where the seen ones cannot be. A row's draw
            depends on its cells and its place among the rows, not on the other rows.

        Raises
        ------
        NotSupported
            If one row takes more memory than the limit.
        """
        codes = torch.where(seen, codes, -1)
        n, d = len(codes), len(self.sizes)
        uniform = torch.rand(n, d, dtype=torch.float64, generator=generator).to(codes.device)
        states = codes.clone()
        for group in self._own_groups(seen):
            nodes = self._needed(group.seen, group.mixed)
            factors = self._factors(codes[group.rows], group, nodes)
            found, possible = drawn(factors, self.sizes, uniform[group.rows], self.limit)
            own = states[group.rows]
            for v, column in found.items():
                own[:, v] = column
            states[group.rows] = self._downwards(own, uniform[group.rows], nodes, possible)
        return torch.where(seen, codes, states)

    def _own_groups(self, seen: Tensor) -> list[Group]:
        """Groups by each row's own cells: one plan for all, or one a pattern if that is wide.

        Another plan turns the same uniform numbers into other states.
        """
        empty, every = (False,) * len(self.sizes), tuple(range(len(self.sizes)))
        work = self._work(empty, every)
        if work is None or work > TOGETHER:
            return [Group(rows, pattern) for pattern, rows in patterns(seen)]
        some = seen.any(1)
        parts = [Group(some.nonzero()[:, 0], empty, every), Group((~some).nonzero()[:, 0], empty)]
        return [part for part in parts if len(part.rows)]

    def _downwards(
        self, states: Tensor, uniform: Tensor, done: Sequence[int], possible: Tensor
    ) -> Tensor:
        """Draw barren nodes given their parents, in the order of the graph."""
        states = states.clone()
        for node in self.dag.order:
            if node in done:
                continue
            table, parents = self.tables[node].detach(), self.dag.parents[node]
            if parents:
                index = radix(states, parents, [self.sizes[p] for p in parents])
                weights = taken(table.flatten(1), index.clamp(min=0))
            else:
                weights = table[:, None]
            column = inverse(weights, uniform[:, node].to(weights))
            states[:, node] = column.masked_fill(~possible, -1)
        return states
