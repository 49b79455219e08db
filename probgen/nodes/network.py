"""The parameters of a network over the slots of a table, and rows under them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from probgen.columns import Slot
from probgen.elimination.network import DiscreteNetwork
from probgen.graphs.dag import Dag
from probgen.nodes.groups import GroupNode
from probgen.nodes.layout import Layout
from probgen.nodes.regressions import Line, RegressionNode, potential_of
from probgen.nodes.rows import complete_rows, log_density
from probgen.nodes.softmax import SoftmaxNode
from probgen.nodes.statistics import Statistics
from probgen.nodes.sums import Parameters
from probgen.nodes.tables import TableNode
from probgen.nodes.training import TrainingRows

__all__ = ["Network", "Values", "joined_rows"]

#: steps of the densities inside groups for each of the tables and regressions: they are cheap
STEPS = 5
#: Newton steps of softmax regressions for each of the tables
NEWTON = 3
#: rows, times draws, that are worked out at once
WIDE = 2**17
#: parameters at a point, and log weights inside the groups of grouped nodes
Values = tuple[Parameters, dict[int, Tensor]]
#: values of the parameters by site name
Draw = dict[str, Tensor]


def joined_rows(rows: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Several sets of rows (n, q) with shares (n, c, k) as one."""
    r, share = zip(*rows, strict=True)
    return torch.cat(r), torch.cat(share)


class Network(nn.Module):
    """One node a slot: tables, regressions and groups, over a graph.

    Parameters
    ----------
    slots : sequence of d Slot
    binned : bool
        Whether real slots are cut into groups as counts are.
    spread : int
        Posterior draws over which rows are averaged where the predictive has no closed form.
    """

    #: rank of each parent (d, d), from 1; 0 where there is no edge
    edges: Tensor
    one_of_many: Tensor

    def __init__(self, slots: Sequence[Slot], binned: bool = False, spread: int = 256) -> None:
        super().__init__()
        self.slots, self.binned, self.spread = tuple(slots), binned, spread
        d = len(self.slots)
        self.register_buffer("edges", torch.zeros(d, d, dtype=torch.int64))
        #: whether there are restarts with other graphs
        self.register_buffer("one_of_many", torch.zeros((), dtype=torch.bool))
        self.nodes = nn.ModuleDict()
        self.values = nn.ModuleDict()
        self.curves = nn.ModuleDict()
        for i, slot in enumerate(self.slots):
            grouped = slot.kind == "count" or (slot.kind == "real" and binned)
            if grouped:
                self.values[str(i)] = GroupNode(whole=slot.kind == "count")
            discrete = grouped or slot.kind == "category"
            self.nodes[str(i)] = TableNode() if discrete else RegressionNode()
            if discrete:
                self.curves[str(i)] = SoftmaxNode()
        #: the training rows, prepared: kept between steps
        self.rows: TrainingRows | None = None
        self._layout: Layout | None = None
        self._discrete: DiscreteNetwork | None = None

    @property
    def layout(self) -> Layout:
        """The graph and the sizes of its nodes."""
        if self._layout is None:
            ranks = self.edges.cpu()
            parents = []
            for child in range(len(ranks)):
                own = ranks[:, child].nonzero()[:, 0].tolist()
                parents.append(tuple(p for _, p in sorted((int(ranks[p, child]), p) for p in own)))
            self._layout = Layout(
                Dag(tuple(parents)), tuple(self._sizes()), tuple(slot.name for slot in self.slots)
            )
        return self._layout

    def refresh(self) -> None:
        """Read graph and sizes anew: something that they follow from was changed."""
        self._layout = self._discrete = None

    def discrete(self) -> DiscreteNetwork | None:
        """The predictive over states, where all nodes have tables: it keeps what rows share."""
        if self._discrete is None and len(self.layout.tabled) == len(self.layout) > 0:
            at, _ = self.predictive()
            tables = [at.tables[i] for i in range(len(self.layout))]
            self._discrete = DiscreteNetwork(self.layout.dag, tables)
        return self._discrete

    def _sizes(self) -> list[int]:
        sizes = []
        for i, slot in enumerate(self.slots):
            if self.is_normal(i):
                sizes.append(0)
            else:
                # a table that is known has the states that it has: none may be unforeseen
                size = len(self.table(i).given) or slot.size
                sizes.append(self.group(i).size if str(i) in self.values else size)
        return sizes

    def is_normal(self, node: int) -> bool:
        """Whether a node is normal and not discrete."""
        return isinstance(self.nodes[str(node)], RegressionNode)

    def table(self, node: int) -> TableNode:
        """The table of a discrete node."""
        return self.nodes[str(node)]  # type: ignore[return-value]

    def regression(self, node: int) -> RegressionNode:
        """The regressions of a normal node."""
        return self.nodes[str(node)]  # type: ignore[return-value]

    def curve(self, node: int) -> SoftmaxNode:
        """The softmax regressions of a discrete node with normal parents."""
        return self.curves[str(node)]  # type: ignore[return-value]

    def group(self, node: int) -> GroupNode:
        """The groups of a node, and the density of values inside."""
        return self.values[str(node)]  # type: ignore[return-value]

    @property
    def nameable(self) -> dict[int, int]:
        """Numbers of states that have a name, of nodes with a reserved one."""
        return {
            i: s.size - 1
            for i, s in enumerate(self.slots)
            if s.reserved and len(self.table(i).given) in (0, s.size)
        }

    @property
    def grouped(self) -> list[int]:
        """Nodes that stand for groups of values."""
        return [int(name) for name in self.values]

    @property
    def fixed(self) -> bool:
        """Whether all tables are known and none is learned."""
        nodes = list(self.nodes.values())
        return bool(nodes) and all(isinstance(n, TableNode) and n.fixed for n in nodes)

    def set_graph(self, dag: Dag) -> None:
        """Take a graph over the slots."""
        edges = torch.zeros_like(self.edges)
        for child, own in enumerate(dag.parents):
            for rank, parent in enumerate(own):
                edges[parent, child] = rank + 1
        self.edges = edges
        self.refresh()

    def set_tables(self, dag: Dag, tables: Sequence[Tensor]) -> None:
        """Take a graph and its tables ``(size, *parent sizes)`` as known."""
        self.set_graph(dag)
        for i, table in enumerate(tables):
            own = self.table(i)
            own.given = table.double().reshape(len(table), -1).to(self.edges.device)
            own.counts = torch.zeros_like(own.given)
        self.refresh()

    def _shaped(self, node: int, table: Tensor) -> Tensor:
        """A table (..., size, c) as ``(..., size, *parent sizes)``."""
        return (
            table.unflatten(-1, self.layout.shape(node))
            if self.layout.labels[node]
            else table[..., 0]
        )

    def alpha(self, node: int) -> Tensor:
        """Dirichlet parameters ``(*parent sizes, size)`` of a table's posterior."""
        return self._shaped(node, self.table(node).alpha).movedim(0, -1)

    def check(self) -> None:
        """Raise ValueError unless the graph and the shapes of all parameters fit together."""
        self.refresh()
        layout = self.layout  # a graph with a cycle is refused here
        for i in layout.curved:
            named = self.nameable.get(i, layout.sizes[i])
            size = layout.configurations(i), named, len(layout.inputs[i]) + 1
            if self.curve(i).weights.shape != size:
                raise ValueError(f"weights of shape {tuple(self.curve(i).weights.shape)}")
        for i in layout.tabled:
            shape = (layout.sizes[i], layout.configurations(i))
            own = self.table(i)
            if own.counts.shape != shape or own.given.shape not in (shape, (0, 0)):
                raise ValueError(f"a table of shape {tuple(own.counts.shape)}, not {shape}")
        for i in layout.normal:
            q, c = len(layout.inputs[i]) + 1, layout.configurations(i)
            node = self.regression(i)
            if node.moments.shape != (c, q + 1, q + 1) or node.pull.shape != (q, q):
                raise ValueError(f"regressions of shape {tuple(node.moments.shape)}")

    # --- parameters -------------------------------------------------------------------

    def at(self, draw: Draw) -> Values:
        """Parameters, and log weights inside groups, at given values of the globals."""
        layout = self.layout
        tables = {
            i: draw[f"probs_{i}"].movedim(-1, 0)
            if f"probs_{i}" in draw
            else self._shaped(i, self.table(i).given)
            for i in layout.tabled
        }
        normals = {
            i: potential_of(Line(draw[f"coefficients_{i}"], draw[f"precision_{i}"]))
            for i in layout.normal
        }
        shapes = {i: draw[f"shape_{i}"].clamp_min(1e-300).log() for i in self.grouped}
        curves = {i: self.curve(i).at(draw[f"weights_{i}"][None]) for i in layout.curved}
        return Parameters(tables, normals, curves), shapes

    def predictive(self) -> Values:
        """Expected tables, Student's t, expected weights inside groups."""
        layout = self.layout
        tables = {i: self._shaped(i, self.table(i).mean()) for i in layout.tabled}
        normals = {i: self.regression(i).predictive() for i in layout.normal}
        curves = {i: self.curve(i).predictive() for i in layout.curved}
        return Parameters(tables, normals, curves), {i: self.group(i).mean() for i in self.grouped}

    def averaged(self, turn: Tensor, count: int) -> Values:
        """The predictive with regressions at posterior draws: its average over these is exact.

        Used where a Student's t has no closed form. `turn` (n,) says which of `count` draws each
        row takes. The draws lie evenly over the posterior (Owen 1997, Scrambled net variance for
        integrals of smooth functions, Annals of Statistics 25), the same at every call; tables
        stay integrated out.
        """
        at, shapes = self.predictive()
        nodes = {i: self.regression(i) for i in self.layout.normal}
        widths = [len(node.centre) + 1 for node in nodes.values()]
        u = torch.quasirandom.SobolEngine(sum(widths), scramble=True, seed=0)
        levels = u.draw(count, dtype=torch.float64).clamp(1e-9, 1 - 1e-9).to(self.edges.device)
        inner = {}
        for (i, node), part in zip(nodes.items(), levels.split(widths, 1), strict=True):
            b, precision = node.at_levels(part)
            inner[i] = potential_of(Line(b.flatten(0, 1), precision.flatten(0, 1)))
        return Parameters(at.tables, at.normals, at.curves, inner, turn), shapes

    def log_rows_by_draw(self, x: Tensor, seen: Tensor, count: int, named: bool = False) -> Tensor:
        """Log density (count, n) of rows x (n, d) at each of the draws of `averaged`.

        With `named` over states that have a name only.
        """
        nameable = self.nameable if named else None
        codes, _ = self.split(x, seen)
        normal = list(self.layout.normal)
        kinds = codes.double()
        kinds[:, normal] = torch.where(seen, x, 0.0)[:, normal]
        # rows that differ inside groups only are worked out once
        _, back = torch.cat([kinds, seen.double()], 1).unique(dim=0, return_inverse=True)
        places = torch.arange(len(x), device=x.device)
        one = torch.full_like(back[: int(back.max()) + 1], len(x))
        one = one.scatter_reduce(0, back, places, "amin")
        turn = torch.arange(count, device=x.device).repeat_interleave(len(one))
        rows, parts = one.repeat(count), []
        for part in torch.arange(len(turn), device=x.device).split(WIDE):
            at, _ = self.averaged(turn[part], count)
            own = codes[rows[part]], x[rows[part]], seen[rows[part]]
            parts.append(log_density(self.layout, *own, at, nameable))
        inside = self.log_shapes(x, seen, self.predictive()[1])
        return torch.cat(parts).view(count, -1)[:, back] + inside

    def expected(self) -> Values:
        """exp(E log p) under the guide: what unseen cells are summed under in training."""
        layout = self.layout
        tables = {i: self._shaped(i, self.table(i).expected()) for i in layout.tabled}
        normals = {i: self.regression(i).expected() for i in layout.normal}
        curves = {i: self.curve(i).at(self.curve(i).weights[None]) for i in layout.curved}
        return Parameters(tables, normals, curves), {
            i: self.group(i).expected() for i in self.grouped
        }

    def blend(self, found: Statistics, rate: float) -> None:
        """Move the counts and moments towards those of some rows."""
        self._discrete = None
        for i, counts in found.tables.items():
            if not self.table(i).fixed:
                own = self.table(i)
                own.counts = own.counts.lerp(counts.reshape(own.counts.shape), rate)
        for i, rows in found.curves.items():
            if rate == 1:
                self.curve(i).learn(*joined_rows(rows), NEWTON)
            else:
                self.curve(i).approach(*joined_rows(rows), rate)
        for i, moments in found.moments.items():
            self.regression(i).take(self.regression(i).moments.lerp(moments, rate))

    def step(self, x: Tensor, seen: Tensor, weight: Tensor, factor: float, rate: float) -> Tensor:
        """Move towards what rows x (n, d) say; their weighted expected log density before.

        Weights (n,) count `factor` times.
        """
        source = x, seen, weight
        if self.rows is None or not self.rows.fits(source):
            self.rows = TrainingRows.of(self.layout, *self.split(x, seen), source)
        at, shapes = self.expected()
        found = self.rows.statistics(self.layout, at, factor)
        total = found.value
        for i in self.grouped:
            rows, own = seen[:, i], factor * weight[seen[:, i]].double()
            total = total + own @ self.group(i).log_prob(x[rows, i], shapes[i])
            self.group(i).learn(x[rows, i], own, rate, STEPS if rate == 1 else 1)
        self.blend(found, rate)
        return total

    def forget(self) -> None:
        """Drop what was kept of the training rows."""
        self.rows = None

    def kl(self) -> Tensor:
        """KL(guide || prior) over all globals, nats."""
        total = self.edges.new_zeros((), dtype=torch.float64)
        layout = self.layout
        for i in (*layout.tabled, *layout.normal):
            total = total + self.nodes[str(i)].kl()  # type: ignore[operator]
        for node in (*self.values.values(), *(self.curve(i) for i in layout.curved)):
            total = total + node.kl()  # type: ignore[operator]
        return total

    def point(self) -> Draw:
        """Posterior means of tables, coefficients and precisions."""
        draw: Draw = {}
        for i in self.layout.tabled:
            if not self.table(i).fixed:
                draw[f"probs_{i}"] = self._shaped(i, self.table(i).mean()).movedim(0, -1)
        for i in self.layout.curved:
            draw[f"weights_{i}"] = self.curve(i).weights
        for i in self.layout.normal:
            line = self.regression(i).point()
            draw[f"coefficients_{i}"], draw[f"precision_{i}"] = line
        for i in self.grouped:
            draw[f"shape_{i}"] = self.group(i).mean().exp()
        return draw

    def posterior_draws(self, count: int, generator: torch.Generator) -> Draw:
        """`count` draws of the conjugate posterior, each (S, ...)."""
        draws: Draw = {}
        for i in self.layout.tabled:
            if not self.table(i).fixed:
                own = self.table(i).draws(count, generator)
                draws[f"probs_{i}"] = self._shaped(i, own).movedim(1, -1)
        for i in self.layout.curved:
            draws[f"weights_{i}"] = self.curve(i).draws(count, generator)
        for i in self.layout.normal:
            line = self.regression(i).draws(count, generator)
            draws[f"coefficients_{i}"], draws[f"precision_{i}"] = line
        for i in self.grouped:
            draws[f"shape_{i}"] = self.group(i).draws(count, generator).exp()
        return draws

    # --- rows -------------------------------------------------------------------------

    def split(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and values (n, d) of the nodes of rows x (n, d); codes are 0 where unseen."""
        # column by column in memory: that is how codes are read
        codes = torch.empty(x.shape[::-1], dtype=torch.int64, device=x.device)
        codes.copy_(x.T if bool(seen.all()) else torch.where(seen, x, 0.0).T)
        codes = codes.T
        for i in range(x.shape[1]):
            if str(i) in self.values:
                codes[:, i] = torch.where(seen[:, i], self.group(i).code(x[:, i]), 0)
            elif self.is_normal(i):
                codes[:, i] = 0
        return codes, x

    def log_shapes(self, x: Tensor, seen: Tensor, shapes: dict[int, Tensor]) -> Tensor:
        """Log density (n,) of seen values inside their groups."""
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for i in self.grouped:
            rows = seen[:, i].nonzero()[:, 0]
            value = self.group(i).log_prob(x[rows, i], shapes[i])
            total = total.index_add(0, rows, value)
        return total

    def log_predictive(self, x: Tensor, seen: Tensor) -> Tensor:
        """Log predictive density (n,) of rows in which no unseen normal node counts."""
        tables = self.discrete()
        if tables is None or self.fixed:
            return self.log_rows(x, seen, self.predictive())
        codes, _ = self.split(x, seen)
        inside = self.log_shapes(x, seen, {i: self.group(i).mean() for i in self.grouped})
        return tables.log_evidence(codes, seen) + inside

    def log_rows(self, x: Tensor, seen: Tensor, values_: Values) -> Tensor:
        """Log density (n,) of the seen cells of rows x (n, d) at given parameters."""
        at, shapes = values_
        layout = self.layout
        codes, values = self.split(x, seen)
        if self.fixed:  # a level without a place in the table has probability 0
            states = torch.tensor(layout.sizes, device=codes.device)
            unknown = (codes >= states).any(1)
            value = log_density(layout, codes.minimum(states - 1), values, seen, at)
            value = torch.where(unknown, -torch.inf, value)
        else:
            value = log_density(layout, codes, values, seen, at)
        return value + self.log_shapes(x, seen, shapes)

    def complete(
        self,
        x: Tensor,
        seen: Tensor,
        values_: Values,
        generator: torch.Generator,
        reserved: bool = False,
    ) -> Tensor:
        """Rows x (n, d) with unseen cells drawn given the seen ones.

        States that have no name are drawn only where `reserved` is set.
        """
        at, shapes = values_
        codes, values = self.split(x, seen)
        codes, values = complete_rows(
            self.layout, codes, values, seen, at, {} if reserved else self.nameable, generator
        )
        return self.joined(x, seen, codes, values, shapes, generator)

    def joined(
        self, x: Tensor, seen: Tensor, codes: Tensor, values: Tensor, shapes: dict[int, Tensor],
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        """Rows (n, d) from codes and values; what lies inside an unseen group is drawn."""
        out = torch.where(seen, x, 0.0)
        for i in range(x.shape[1]):
            if self.is_normal(i):
                new = values[:, i]
            elif str(i) in self.values:
                new = self.group(i).draw(codes[:, i], shapes[i], generator)
            else:
                new = codes[:, i].double()
            out[:, i] = torch.where(seen[:, i], x[:, i], new)
        return out
