"""A Bayesian network: a factor a column, over a graph that is learned or given.

    discrete node | parents in configuration c ~ Categorical(probs_c)
    normal node | configuration c, normal parents r ~ Normal(coefficients_c . (1, r), precision_c)
    value of a grouped node | its group g ~ sum_b shape_gb * kernel_gb  (see probgen.nodes.groups)

All parameters have conjugate priors. The guide is their posterior, exact where all cells are
seen and mean-field where some are not: `update` is then a step of variational expectation
maximisation, with exact sums over the unseen cells. The predictive integrates the parameters out:
expected tables, Student's t for normal nodes. Rows in which an unseen normal node has seen
descendants are averaged over draws of the regressions, since Student's t does not stay one there.

References: Koller and Friedman (2009), Probabilistic Graphical Models; Lauritzen (1992),
Propagation of probabilities, means and variances in mixed graphical association models, JASA 87;
Beal and Ghahramani (2003), The variational Bayesian EM algorithm for incomplete data, Bayesian
Statistics 7.
"""

from __future__ import annotations

import math
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.conditionals import Conditionals
from probgen.family import Draws, Family
from probgen.graphs.dag import Dag
from probgen.graphs.nodes import NodeRows
from probgen.leaves import pick
from probgen.nodes.answers import conditionals_of, posterior_states
from probgen.nodes.augmenting import augmented_draws
from probgen.nodes.groups import WeightsByGroup
from probgen.nodes.intervening import draws_after, network_after
from probgen.nodes.learning import Learner, Units, begin, node_rows
from probgen.nodes.naming import site_axes
from probgen.nodes.network import Network
from probgen.nodes.rows import RowNetwork
from probgen.nodes.softmax import WeightsOfCurve
from probgen.nodes.sums import too_wide
from probgen.nodes.weighting import weighted_rows
from probgen.queries.draws import keyed
from probgen.queries.estimates import Estimate, estimate_of, exact
from probgen.queries.noise import Stream, particle_keys
from probgen.queries.particles import PARTICLES
from probgen.schema import Schema

__all__ = ["BayesianNetwork"]

#: weighted draws of which one completes a row
CANDIDATES = 256
#: rows, times particles, that are weighted at once
WIDE = 2**17
#: before the names of the draws of the chain among the tensors
REFINED = "refined."


class BayesianNetwork(Family):
    """The pair; `probgen.BayesianNetwork` describes the settings."""

    updates = True
    closed_form = True
    row_cost = 1

    def __init__(
        self,
        schema: Schema,
        learner: Dag | Learner,
        sample_size: float | None = None,
        strength: float = 1.0,
        dof: float = 3.0,
        groups: int = 8,
        bins: int | None = None,
        draws: int = 100,
        approximate: bool = False,
        spread: int = 256,
        symmetric: bool = False,
    ) -> None:
        super().__init__(schema)
        self.learner, self.sample_size, self.count = learner, sample_size, draws
        self.approximate, self.symmetric = approximate, symmetric
        if approximate:  # some answers are sampled
            self.density = "estimate"
        self.strength, self.dof, self.groups, self.bins = strength, dof, groups, bins
        self.network = Network(schema.slots, bins is not None, spread)
        #: posterior draws that a chain over the unseen cells found, in place of the guide's
        self.refined: Draws = {}

    # --- the pair -----------------------------------------------------------------------

    def model(self, batch: Batch) -> Tensor:
        """Priors over tables, regressions and shapes, then one site for all slots of a row."""
        net, layout = self.network, self.network.layout
        found: Draws = {}
        for i in layout.curved:
            pull = net.curve(i).pull()
            zero = torch.zeros_like(net.curve(i).weights)
            normal = dist.Normal(zero, pull.rsqrt().expand_as(zero)).to_event(3)
            found[f"weights_{i}"] = pyro.sample(f"weights_{i}", normal)
        for i in layout.tabled:
            table = net.table(i)
            if not table.fixed:
                alpha = net.alpha(i)
                found[f"probs_{i}"] = _table_site(i, table.prior.expand(alpha.shape))
        for i in layout.normal:
            node = net.regression(i)
            c = len(node.moments)
            found |= _line_sites(
                i, node.shape.expand(c), node.rate.expand(c), node.centre.expand(c, -1),
                node.pull.expand(c, -1, -1),
            )  # fmt: skip
        for i in net.grouped:
            prior = WeightsByGroup(net.group(i).prior, net.group(i).group)
            found[f"shape_{i}"] = pyro.sample(f"shape_{i}", prior)
        row = RowNetwork(
            partial(self._log_rows, found), partial(self._new_rows, found), batch.seen
        )
        with batch.rows():
            return batch.observe("row", row, range(len(self.schema.slots)))

    def guide(self, batch: Batch) -> None:
        """The conjugate posterior."""
        net, layout = self.network, self.network.layout
        for i in layout.curved:
            pyro.sample(f"weights_{i}", WeightsOfCurve(net.curve(i)))
        for i in layout.tabled:
            if not net.table(i).fixed:
                _table_site(i, net.alpha(i))
        for i in layout.normal:
            mean, known, shape, rate = net.regression(i).posterior()
            _line_sites(i, shape, rate, mean, known)
        for i in net.grouped:
            own = net.group(i)
            pyro.sample(f"shape_{i}", WeightsByGroup(own.alpha, own.group))

    def _log_rows(self, draw: Draws, x: Tensor, seen: Tensor) -> Tensor:
        return self.network.log_rows(x.double(), seen, self.network.at(draw))

    def _new_rows(self, draw: Draws, n: int) -> Tensor:
        # sampled under Pyro, whose randomness is torch's global state
        seed = int(torch.randint(2**62, ()))
        generator = torch.Generator(self.network.edges.device).manual_seed(seed)
        x = torch.zeros(n, len(self.schema.slots), dtype=torch.float64, device=generator.device)
        return self.network.complete(x, x.bool(), self.network.at(draw), generator)

    # --- training -------------------------------------------------------------------------

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Cut groups, learn the graph, and lay all priors and the first counts."""
        self.refined = {}
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        begin(
            self.network, _values(batch), batch.seen, batch.weight, self.learner, seed,
            sample_size=self.sample_size, strength=self.strength, dof=self.dof,
            groups=self.groups, bins=self.bins, units=self._units(),
        )  # fmt: skip

    def node_rows(self, batch: Batch) -> NodeRows:
        """The rows as graphs are learned from them, by the groups that were laid at `start`."""
        codes, values = self.network.split(_values(batch), batch.seen)
        return node_rows(self.network, codes, values, batch.seen, batch.weight, self._units())

    def _units(self) -> Units:
        """Location and scale of real columns, where graphs are learned from all as numbers."""
        if not self.symmetric or self.network.layout.discrete:
            return {}
        columns = [self.schema.columns[slot.column] for slot in self.schema.slots]
        return {i: (c.loc, c.scale) for i, c in enumerate(columns) if c.kind == "real"}

    def update(self, batch: Batch, rate: float) -> float:
        """One step of (variational) expectation maximisation; the loss before it."""
        # a batch stands for the whole table
        factor = batch.total / float(batch.weight.sum().clamp_min(1e-300))
        divergence = self.network.kl()
        value = self.network.step(_values(batch), batch.seen, batch.weight, factor, rate)
        return float((divergence - value) / batch.total)

    def finish(self, batch: Batch, generator: torch.Generator) -> None:
        """Refine the posterior draws where unseen cells make those of the guide too narrow."""
        self.network.forget()
        self.refined = {}
        if self.count and not self.network.fixed:
            self.refined = augmented_draws(
                self.network, _values(batch), batch.seen, batch.weight.double(), self.count,
                self._here(generator),
            )  # fmt: skip

    # --- posterior ------------------------------------------------------------------------

    def draw_globals(self, count: int, generator: torch.Generator) -> Draws | None:
        """The draws of the chain over unseen cells, if there was one; else those of the guide."""
        if not self.refined:
            return None
        have = len(next(iter(self.refined.values())))
        keep = torch.arange(count) * have // count if count < have else torch.arange(have)
        return {name: value[keep] for name, value in self.refined.items()}

    @property
    def joint_posterior(self) -> bool:  # type: ignore[override]
        """False where the restarts have graphs of their own."""
        return not bool(self.network.one_of_many)

    def axes(self, site: str) -> list[tuple[str, list[str]]] | None:
        """Levels of a table's parents and of its node; configurations, terms, kernels."""
        what, _, number = site.rpartition("_")
        return site_axes(self.network, self.schema, what, int(number))

    def point_globals(self) -> Draws:
        """Posterior means of tables, coefficients and precisions."""
        return {name: value[None] for name, value in self.network.point().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Graph, counts, priors, groups and refined draws."""
        return super().tensors() | {REFINED + k: v for k, v in self.refined.items()}

    def load_tensors(self, values: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        refined = {k: v for k, v in values.items() if k.startswith(REFINED)}
        super().load_tensors({k: v for k, v in values.items() if k not in refined})
        self.refined = {k.removeprefix(REFINED): v for k, v in refined.items()}
        self.network.check()

    def estimate(
        self, batch: Batch, draws: Draws | None, particles: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, str] | None:
        """The predictive with the error of rows that are averaged over draws, or sampled."""
        if draws is not None:
            return None
        sampled = self._sampled(batch)
        if bool(sampled.any()):
            return self._with_sampled(batch, sampled, particles)
        if not bool(self.network.layout.hidden_inputs(batch.seen).any()):
            return None
        value, se, ess = self._averaged(batch)
        return value, se, ess, torch.full_like(value, torch.nan), "average over draws"

    def _averaged(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Log predictive density (n,), its error and effective draws; rows are not sampled."""
        x, seen, net = _values(batch), batch.seen, self.network
        open_ = net.layout.hidden_inputs(seen)
        value = x.new_zeros(len(x))
        se, ess = torch.zeros_like(value), torch.full_like(value, torch.inf)
        closed, rows = (~open_).nonzero()[:, 0], open_.nonzero()[:, 0]
        if len(closed):
            value[closed] = net.log_predictive(x[closed], seen[closed])
        if len(rows):
            by_draw = net.log_rows_by_draw(x[rows], seen[rows], net.spread)
            value[rows] = by_draw.logsumexp(0) - math.log(len(by_draw))
            share = (by_draw - value[rows]).exp().nan_to_num(1.0)
            # draws that lie evenly do better than this, which holds for independent ones
            se[rows] = share.std(0) / math.sqrt(len(share))
            ess[rows] = share.sum(0).square() / share.square().sum(0)
        return value, se, ess

    def extra_work(self, batch: Batch) -> int:
        """Rows that are averaged over draws cost as many."""
        return self.network.spread * int(self.network.layout.hidden_inputs(batch.seen).sum())

    def _sampled(self, batch: Batch) -> Tensor:
        """Rows (n,) whose unseen cells are sampled, since they have no exact sum: on request."""
        if not self.approximate:
            return torch.zeros(len(batch), dtype=torch.bool, device=batch.seen.device)
        layout = self.network.layout
        return layout.open_curves(batch.seen) | too_wide(layout, batch.seen)

    def _with_sampled(
        self, batch: Batch, sampled: Tensor, particles: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, str]:
        """Rows of which some are sampled by weighting, each by noise of its own content."""
        rest, rows = (~sampled).nonzero()[:, 0], sampled.nonzero()[:, 0]
        out = exact(batch.weight.new_zeros(len(batch), dtype=torch.float64), "importance")
        if len(rest):
            part = batch.take(rest)
            known = self.estimate(part, None, particles)
            value = self.exact_log_prob(part, None) if known is None else None
            out.put(rest, Estimate(*known) if known else exact(_require(value), "exact"))
        for some in rows.split(max(1, WIDE // particles)):
            part = keyed(batch.take(some))
            keys = particle_keys(_require(part.key), particles)
            uniform = Stream(keys, axis=0).uniform((len(keys), part.seen.shape[1]))
            again = _values(part).repeat(particles, 1), part.seen.repeat(particles, 1)
            weights = weighted_rows(self.network, *again, self.network.predictive(), uniform)[2]
            out.put(some, estimate_of(True, weights.view(1, particles, len(part))))
        return out.value, out.se, out.ess, out.khat, "importance"

    # --- exact answers --------------------------------------------------------------------

    def exact_log_prob(self, batch: Batch, draws: Draws | None) -> Tensor:
        """Predictive (n,) or, with draws, (S, n)."""
        x, seen, net = _values(batch), batch.seen, self.network
        if draws is not None:
            count = len(next(iter(draws.values()))) if draws else 1
            return torch.stack([
                net.log_rows(x, seen, net.at({n: v[s] for n, v in draws.items()}))
                for s in range(count)
            ])  # fmt: skip
        sampled = self._sampled(batch)
        if bool(sampled.any()):
            return self._with_sampled(batch, sampled, PARTICLES)[0]
        if not bool(net.layout.hidden_inputs(seen).any()):
            return net.log_predictive(x, seen)
        return self._averaged(batch)[0]

    def complete(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Unseen cells drawn exactly given the seen ones, from the predictive."""
        x, seen, net = _values(batch), batch.seen, self.network
        generator = self._here(generator)
        sampled = self._sampled(batch)
        if bool(sampled.any()):
            return self._complete_sampled(batch, sampled, generator)
        open_ = net.layout.hidden_inputs(seen)
        if not bool(open_.any()):
            return net.complete(x, seen, net.predictive(), generator)
        out = torch.zeros_like(x)
        closed, rows = (~open_).nonzero()[:, 0], open_.nonzero()[:, 0]
        out[closed] = net.complete(x[closed], seen[closed], net.predictive(), generator)
        by_draw = net.log_rows_by_draw(x[rows], seen[rows], net.spread, named=True)
        choice = pick(by_draw.softmax(0).T, generator)
        out[rows] = net.complete(x[rows], seen[rows], net.averaged(choice, net.spread), generator)
        return out

    def _complete_sampled(
        self, batch: Batch, sampled: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Rows of which some are completed by one of many weighted draws."""
        x, seen, net = _values(batch), batch.seen, self.network
        out, rest, rows = x.clone(), (~sampled).nonzero()[:, 0], sampled.nonzero()[:, 0]
        if len(rest):
            out[rest] = self.complete(batch.take(rest), generator)
        for some in rows.split(max(1, WIDE // CANDIDATES)):
            again = x[some].repeat(CANDIDATES, 1), seen[some].repeat(CANDIDATES, 1)
            uniform = torch.rand(again[0].shape, generator=generator, dtype=torch.float64,
                                 device=x.device).clamp(1e-12, 1 - 1e-12)  # fmt: skip
            codes, values, log_weight = weighted_rows(
                net, *again, net.predictive(), uniform, reserved=False
            )
            share = log_weight.view(CANDIDATES, -1).softmax(0).nan_to_num(1 / CANDIDATES)
            at = pick(share.T, generator) * len(some) + torch.arange(len(some), device=x.device)
            shapes = net.predictive()[1]
            out[some] = net.joined(x[some], seen[some], codes[at], values[at], shapes, generator)
        return out

    def complete_at(self, batch: Batch, draw: Draws, generator: torch.Generator) -> Tensor:
        """Unseen cells drawn exactly given the seen ones, at one draw of the globals."""
        at = self.network.at({name: value[0] for name, value in draw.items()})
        return self.network.complete(_values(batch), batch.seen, at, self._here(generator))

    def conditionals(self, batch: Batch) -> Conditionals | None:
        """Each unseen cell given the seen ones of its row; from draws of real columns in bins."""
        if self.bins is not None or bool(self._sampled(batch).any()):
            return None
        with torch.no_grad():
            return conditionals_of(self.network, _values(batch), batch.seen)

    def states_given(self, batch: Batch, node: int) -> Tensor:
        """Probabilities (n, named states) of a discrete node that is seen in no row.

        Given the seen cells of each row; NaN where these have probability 0.
        """
        with torch.no_grad():
            p = posterior_states(self.network, _values(batch), batch.seen, node)
        p = p[:, : self.network.nameable.get(node)]
        return p / p.sum(1, keepdim=True)

    # --- interventions ------------------------------------------------------------------

    def after(self, settings: dict[int, float], schema: Schema) -> BayesianNetwork:
        """The pair after some nodes are set, over a schema without their slots."""
        found = BayesianNetwork(
            schema, self.learner, self.sample_size, self.strength, self.dof, self.groups,
            self.bins, self.count, self.approximate, self.network.spread, self.symmetric,
        )  # fmt: skip
        found.network = network_after(self.network, settings)
        found.refined = draws_after(self.network, self.refined, settings)
        return found

    def _here(self, generator: torch.Generator) -> torch.Generator:
        """A generator on this family's device: torch refuses another device's."""
        device = self.network.edges.device
        if generator.device.type == device.type:
            return generator
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        return torch.Generator(device).manual_seed(seed)


def _require(found: Tensor | None) -> Tensor:
    assert found is not None  # noqa: S101 - just made
    return found


def _table_site(node: int, alpha: Tensor) -> Tensor:
    """Tables of Dirichlet parameters (*parents, size)."""
    table = dist.Dirichlet(alpha).to_event(alpha.dim() - 1)
    found: Tensor = pyro.sample(f"probs_{node}", table)
    return found


def _line_sites(
    node: int, shape: Tensor, rate: Tensor, centre: Tensor, pull: Tensor
) -> dict[str, Tensor]:
    """Precisions (c,) and coefficients (c, q) of a normal node."""
    precision = pyro.sample(f"precision_{node}", dist.Gamma(shape, rate).to_event(1))
    normal = dist.MultivariateNormal(centre, precision_matrix=pull * precision[..., None, None])
    return {
        f"precision_{node}": precision,
        f"coefficients_{node}": pyro.sample(f"coefficients_{node}", normal.to_event(1)),
    }


def _values(batch: Batch) -> Tensor:
    """The encoded values; zeros where there are none yet."""
    if batch.x is None:
        return torch.zeros(batch.seen.shape, dtype=torch.float64, device=batch.seen.device)
    return batch.x.double()
