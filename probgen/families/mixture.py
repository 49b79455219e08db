"""A mixture over mixed columns: normals for real slots, conjugate leaves for the others.

    label ~ Categorical(weights)
    real slots | label ~ Normal(mean, precision)         (full, tied, diagonal, spherical)
    other slots | label ~ sum_b probs[b] * basis_b        (see probgen.leaves)

The label is summed out. The guide is the conjugate mean-field posterior over weights,
means, precisions and leaf weights; its state is the expected sufficient statistics, which
`update` moves by natural-gradient steps. Integrating the guide out gives the predictive in
closed form: a mixture of Student's t and of expected leaf weights.

References: Bishop (2006), Pattern Recognition and Machine Learning, chapter 10; Hoffman,
Blei, Wang and Paisley (2013), Stochastic variational inference, JMLR 14; Blei and Jordan
(2006), Variational inference for Dirichlet process mixtures, Bayesian Analysis 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.conditionals import Conditionals, conditionals
from probgen.family import Draws, Family
from probgen.gibbs import dirichlet_draw, posterior_draws
from probgen.leaves import pick
from probgen.likelihoods import Components, Covariance, MixedRows, RowMixture
from probgen.masked import log_rows_masked
from probgen.normals import Kernel
from probgen.schema import Schema
from probgen.starts import merged_labels

__all__ = ["Mixture"]


class Site(NamedTuple):
    """A global of the pair; prior and posterior are functions of the sites before it."""

    name: str
    prior: Callable[[Draws], dist.TorchDistribution]
    posterior: Callable[[Draws], dist.TorchDistribution]


class Mixture(Family):
    """The pair; `probgen.GaussianMixture` describes the settings."""

    updates = True
    closed_form = True
    row_cost = 1
    weight_counts: Tensor

    def __init__(
        self,
        schema: Schema,
        components: int,
        covariance: Covariance = "full",
        weights: Literal["dirichlet", "dp"] = "dirichlet",
        concentration: float = 1.0,
        mean_strength: float = 0.01,
        dof: float | None = None,
        spread: float | None = None,
        leaf_spread: float = 0.005,
        leaf_strength: float = 1.0,
        category_strength: float = 0.3,
        posterior: Literal["auto", "gibbs", "mean_field"] = "auto",
        draws: int = 100,
    ) -> None:
        super().__init__(schema)
        self.components, self.covariance, self.weights = components, covariance, weights
        self.concentration, self.posterior, self.count = concentration, posterior, draws
        self.rows = MixedRows(
            schema.slots, components, covariance, mean_strength, dof, spread,
            leaf_spread, leaf_strength, category_strength,
        )  # fmt: skip
        self.register_buffer("weight_counts", torch.zeros(components, dtype=torch.float64))
        #: posterior draws that `finish` refined; empty where the guide's own are used
        self.refined: Draws = {}

    # --- the pair -------------------------------------------------------------------

    def model(self, batch: Batch) -> Tensor:
        """Priors over the globals, then one site for all slots of a row, label summed out."""
        found: Draws = {}
        for site in self._sites():
            found[site.name] = pyro.sample(site.name, site.prior(found))
        components = self.plugin(found)
        with batch.rows():
            return batch.observe(
                "row", RowMixture(self.rows, components, batch.seen), range(self.rows.m)
            )

    def guide(self, batch: Batch) -> None:
        """The conjugate posterior over the globals."""
        found: Draws = {}
        for site in self._sites():
            found[site.name] = pyro.sample(site.name, site.posterior(found))

    def _sites(self) -> list[Site]:
        k, c, counts = self.components, self.concentration, self.weight_counts
        sites: list[Site] = []
        if k > 1 and self.weights == "dp":
            a, b = self._sticks()
            one = torch.ones_like(a)
            sites.append(Site(
                "sticks",
                lambda _: dist.Beta(one, c * one).to_event(1),
                lambda _: dist.Beta(a, b).to_event(1),
            ))  # fmt: skip
        elif k > 1:
            flat = torch.full_like(counts, c / k)
            sites.append(Site(
                "weights",
                lambda _: dist.Dirichlet(flat),
                lambda _: dist.Dirichlet(flat + counts),
            ))  # fmt: skip
        if self.rows.real:
            normals = self.rows.normals
            sites.append(Site("precision", lambda _: normals.precision_prior(),
                              lambda _: normals.precision_posterior()))  # fmt: skip
            sites.append(Site("mean", lambda f: normals.mean_prior(f["precision"]),
                              lambda f: normals.mean_posterior(f["precision"])))  # fmt: skip
        for i, leaf in self.rows.leaf_items():
            sites.append(_leaf_site(f"probs_{i}", leaf.prior.expand(k, -1), leaf.alpha))
        return sites

    def plugin(self, draw: Draws) -> Components:
        """The components at given values of the globals."""
        if self.components == 1:
            log_weights = self.weight_counts.new_zeros(1)
        elif self.weights == "dp":
            log_weights = _stick_logs(draw["sticks"].log(), torch.log1p(-draw["sticks"]))
        else:
            log_weights = draw["weights"].clamp_min(1e-300).log()
        kernel = None
        if self.rows.real:
            precision = self.rows.normals.spread_out(draw["precision"])
            kernel = Kernel(draw["mean"], precision, torch.zeros_like(log_weights)[:, None])
            if precision.dim() == 3:
                kernel.log_const = kernel.log_const[:, 0]
        leaves = {i: draw[f"probs_{i}"].clamp_min(1e-300).log() for i, _ in self.rows.leaf_items()}
        return Components(log_weights, kernel, leaves)

    # --- posterior summaries --------------------------------------------------------

    def _sticks(self, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Beta parameters (k - 1,) of the stick-breaking proportions."""
        counts = self.weight_counts if counts is None else counts
        after = counts.flip(0).cumsum(0).flip(0) - counts
        return 1 + counts[:-1], self.concentration + after[:-1].clamp_min(0.0)

    def _log_weights(self, log_mean: Callable[[Tensor], Tensor]) -> Tensor:
        """Log weights (k,); log_mean is digamma for E log, log for log E."""
        if self.components == 1:
            return self.weight_counts.new_zeros(1)
        if self.weights == "dp":
            a, b = self._sticks()
            both = log_mean(a + b)
            return _stick_logs(log_mean(a) - both, log_mean(b) - both)
        alpha = self.weight_counts + self.concentration / self.components
        return log_mean(alpha) - log_mean(alpha.sum())

    def _components(
        self, log_mean: Callable[[Tensor], Tensor], kernel: Callable[[], Kernel]
    ) -> Components:
        leaves = {
            i: log_mean(leaf.alpha) - log_mean(leaf.alpha.sum(-1, keepdim=True))
            for i, leaf in self.rows.leaf_items()
        }
        return Components(
            self._log_weights(log_mean), kernel() if self.rows.real else None, leaves
        )

    def expected(self) -> Components:
        """exp(E log p) under the guide: what the responsibilities are made of."""
        return self._components(torch.digamma, self.rows.normals.expected)

    def predictive(self) -> Components:
        """The posterior predictive: expected weights, Student's t, expected leaf weights."""
        return self._components(torch.log, self.rows.normals.predictive)

    def point_globals(self) -> Draws:
        """Posterior means of weights, means, covariances and leaf weights."""
        draw: Draws = {}
        if self.components > 1 and self.weights == "dp":
            a, b = self._sticks()
            draw["sticks"] = a / (a + b)
        elif self.components > 1:
            draw["weights"] = self._log_weights(torch.log).exp()
        if self.rows.real:
            kernel = self.rows.normals.plugin()
            draw["mean"], draw["precision"] = kernel.mean, kernel.precision
        for i, leaf in self.rows.leaf_items():
            draw[f"probs_{i}"] = leaf.alpha / leaf.alpha.sum(-1, keepdim=True)
        return {name: value[None] for name, value in draw.items()}

    def kl(self) -> Tensor:
        """KL(guide || prior) over all globals, nats."""
        total = self.weight_counts.new_zeros(())
        k, c = self.components, self.concentration
        if k > 1 and self.weights == "dp":
            a, b = self._sticks()
            prior = torch.stack([torch.ones_like(a), torch.full_like(a, c)], -1)
            total = total + _dirichlet_kl(torch.stack([a, b], -1), prior)
        elif k > 1:
            flat = torch.full_like(self.weight_counts, c / k)
            total = total + _dirichlet_kl(self.weight_counts + flat, flat)
        for _, leaf in self.rows.leaf_items():
            total = total + _dirichlet_kl(leaf.alpha, leaf.prior.expand(k, -1))
        return total + self.rows.normals.kl() if self.rows.real else total

    # --- training -------------------------------------------------------------------

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Start from merged k-means clusters or, where all leaves are flexible, from rows."""
        generator = self._here(generator)
        if self.covariance == "flexible":
            self._start_from_rows(batch, generator)
            return
        x, weight = _values(batch), batch.weight.double()
        label = merged_labels(
            x, batch.seen, weight, self.schema.slots, self.components,
            self.covariance in ("full", "tied"), generator,
        )  # fmt: skip
        hard = torch.nn.functional.one_hot(label, self.components).double()
        # a little of every row everywhere keeps all components alive for the first step
        self.start_from(batch, 0.95 * hard + 0.05 / self.components)

    def _here(self, generator: torch.Generator) -> torch.Generator:
        """A generator on this family's device: torch refuses another device's."""
        device = self.weight_counts.device
        if generator.device.type == device.type:
            return generator
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        return torch.Generator(device).manual_seed(seed)

    def _start_from_rows(self, batch: Batch, generator: torch.Generator) -> None:
        """Each component starts as a random row, smoothed half-way to the table's margins.

        Flexible leaves absorb a k-means start and stay there: 0.1 to 0.2 nats a row worse
        on benchmarks/known_density.py.
        """
        x, weight, k = _values(batch), batch.weight.double(), self.components
        self.rows.begin(x, batch.seen, weight, batch.total)
        rows = pick(weight.expand(k, -1), generator)
        share = batch.total / k
        for i, leaf in self.rows.leaf_items():
            leaf.counts = share * leaf.around(x[rows, i], batch.seen[rows, i])
        self.weight_counts = torch.full_like(self.weight_counts, share)

    def start_from(self, batch: Batch, responsibilities: Tensor) -> None:
        """Start from given responsibilities (n, k)."""
        x, weight = _values(batch), batch.weight.double()
        self.rows.begin(x, batch.seen, weight, batch.total)
        self.weight_counts = torch.zeros_like(self.weight_counts)
        margin = Components(
            self.weight_counts, self.rows.normals.unit() if self.rows.real else None,
            {i: (leaf.prior / leaf.prior.sum()).log().expand(self.components, -1)
             for i, leaf in self.rows.leaf_items()},
        )  # fmt: skip
        self._step(batch, margin, 1.0, responsibilities)

    def _step(
        self, batch: Batch, components: Components, rate: float, fixed: Tensor | None = None
    ) -> Tensor:
        """Blend the batch's statistics, scaled to the whole table; return its scaled bound."""
        weight = batch.weight.double()
        # frequency weights: a batch stands for the whole table
        weight = weight * (batch.total / weight.sum().clamp_min(1e-300))
        new, bound = self.rows.sweep(_values(batch), batch.seen, weight, components, fixed)
        self.weight_counts = self.weight_counts.lerp(new.weights, rate)
        self.rows.blend(new, rate)
        return bound

    def update(self, batch: Batch, rate: float) -> float:
        """One step of coordinate ascent (rate 1) or of stochastic variational inference."""
        divergence = self.kl()
        bound = self._step(batch, self.expected(), rate)
        return float((divergence - bound) / batch.total)

    def finish(self, batch: Batch, generator: torch.Generator) -> None:
        """Order the components by weight; refine the posterior draws where that is cheap."""
        self.rows.forget()
        self.reorder(self.weight_counts.argsort(descending=True, stable=True))
        if self.posterior != "mean_field" and self.count:
            self.refined = posterior_draws(
                self.rows, self.expected(), self.plugin, self._draw_weights, batch,
                self.count, self._here(generator), forced=self.posterior == "gibbs",
            )  # fmt: skip

    def _draw_weights(self, counts: Tensor, generator: torch.Generator) -> Draws:
        """The globals of the weights given how many rows each component holds (k,)."""
        if self.components == 1:
            return {}
        if self.weights == "dp":
            ab = torch.stack(self._sticks(counts), -1)
            return {"sticks": dirichlet_draw(ab, generator)[:, 0].clamp(1e-15, 1 - 1e-15)}
        alpha = counts + self.concentration / self.components
        return {"weights": dirichlet_draw(alpha, generator)}

    def reorder(self, order: Tensor) -> None:
        """Permute the components; a DP's sticks are defined by the order, so its draws go."""
        self.weight_counts = self.weight_counts[order]
        self.rows.reorder(order)
        if self.weights == "dp":
            self.refined = {}
        else:
            self.refined = {
                name: v[:, order] if v.shape[1] == self.components else v
                for name, v in self.refined.items()
            }

    def interchangeable(self) -> frozenset[str]:
        """All globals that have a part for each component."""
        shared = {"precision"} if self.covariance == "tied" else set()
        names = {site.name for site in self._sites()} if self.components > 1 else set()
        return frozenset(names - shared)

    def align(self, reference: Family) -> None:
        """Relabel so that components match those of another restart as well as they can."""
        from scipy.optimize import linear_sum_assignment

        if not isinstance(reference, Mixture) or self.weights == "dp":
            return
        gap = self._signature()[None] - reference._signature()[:, None]
        _, order = linear_sum_assignment(gap.square().sum(-1).cpu().numpy())
        self.reorder(torch.as_tensor(order, device=self.weight_counts.device))

    def _signature(self) -> Tensor:
        """Where a component sits (k, features): its share, means and typical leaf values."""
        share = self.weight_counts / self.weight_counts.sum().clamp_min(1e-300)
        parts = [share[:, None]]
        if self.rows.real:
            parts.append(self.rows.normals.predictive().mean)
        for _, leaf in self.rows.leaf_items():
            if leaf.name_by_code:
                parts.append(leaf.alpha / leaf.alpha.sum(-1, keepdim=True))
            else:
                parts.append(leaf.centre_of(leaf.alpha).clamp_min(0).log1p()[:, None])
        return torch.cat(parts, -1)

    def tensors(self) -> dict[str, Tensor]:
        """Statistics, basis grids and refined draws."""
        return super().tensors() | {f"refined.{k}": v for k, v in self.refined.items()}

    def load_tensors(self, values: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        super().load_tensors({k: v for k, v in values.items() if not k.startswith("refined.")})
        self.refined = {
            k.removeprefix("refined."): v for k, v in values.items() if k.startswith("refined.")
        }

    # --- exact answers --------------------------------------------------------------

    def draw_globals(self, count: int, generator: torch.Generator) -> Draws | None:
        """The refined draws where `finish` made them; None leaves it to the guide."""
        if not self.refined:
            return None
        have = next(iter(self.refined.values())).shape[0]
        keep = torch.arange(count) * have // count if count < have else torch.arange(have)
        return {name: value[keep] for name, value in self.refined.items()}

    def exact_log_prob(self, batch: Batch, draws: Draws | None) -> Tensor:
        """Closed form: predictive (n,) or, with draws, (S, n)."""
        x = _values(batch)
        if draws is None:
            return self.rows.log_rows(x, batch.seen, self.predictive())
        count = next(iter(draws.values())).shape[0] if draws else 1
        return torch.stack([
            self.rows.log_rows(x, batch.seen, self.plugin({n: v[s] for n, v in draws.items()}))
            for s in range(count)
        ])  # fmt: skip

    def exact_log_prob_masked(self, batch: Batch, masks: Tensor) -> Tensor:
        """Closed form (g, n) for g sets of slots: every cell is looked at once."""
        return log_rows_masked(self.rows, _values(batch), batch.seen, masks, self.predictive())

    def complete(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Unseen cells drawn exactly given the seen ones, from the predictive."""
        return self.rows.complete(
            _values(batch), batch.seen, self.predictive(), self._here(generator)
        )

    def complete_at(self, batch: Batch, draw: Draws, generator: torch.Generator) -> Tensor:
        """Unseen cells drawn exactly given the seen ones, at one draw of the globals."""
        components = self.plugin({name: value[0] for name, value in draw.items()})
        return self.rows.complete(_values(batch), batch.seen, components, self._here(generator))

    def conditionals(self, batch: Batch) -> Conditionals:
        """Each unseen cell given the seen ones of its row, under the predictive."""
        return conditionals(
            self.rows, self.schema.slots, _values(batch), batch.seen, self.predictive()
        )

    def reconstruct(self, batch: Batch) -> Tensor:
        """Each row as the average of the components it belongs to."""
        predictive = self.predictive()
        share = self.rows.responsibilities(_values(batch), batch.seen, predictive)
        return self.rows.centres(share, predictive)

    def row_latents(self, batch: Batch) -> dict[str, Tensor]:
        """p(component | seen cells) of each row (n, k)."""
        p = self.rows.responsibilities(_values(batch), batch.seen, self.predictive())
        return {"component": p}


def _leaf_site(name: str, prior: Tensor, alpha: Tensor) -> Site:
    """The weights of a leaf (k, b)."""
    return Site(
        name,
        lambda _: dist.Dirichlet(prior).to_event(1),
        lambda _: dist.Dirichlet(alpha).to_event(1),
    )


def _values(batch: Batch) -> Tensor:
    """The encoded values; zeros where there are none yet."""
    if batch.x is None:
        return torch.zeros(batch.seen.shape, dtype=torch.float64, device=batch.seen.device)
    return batch.x.double()


def _stick_logs(log_v: Tensor, log_rest: Tensor) -> Tensor:
    """Log weights (k,) from logs of the k - 1 stick proportions and of what they leave."""
    zero = log_v.new_zeros(1)
    return torch.cat([log_v, zero]) + torch.cat([zero, log_rest.cumsum(0)])


def _dirichlet_kl(alpha: Tensor, prior: Tensor) -> Tensor:
    """Sum of KL(Dirichlet(alpha) || Dirichlet(prior)) over leading dimensions."""
    total, base = alpha.sum(-1), prior.sum(-1)
    gap = torch.digamma(alpha) - torch.digamma(total)[..., None]
    return (
        torch.lgamma(total) - torch.lgamma(base)
        - (torch.lgamma(alpha) - torch.lgamma(prior)).sum(-1)
        + ((alpha - prior) * gap).sum(-1)
    ).sum()  # fmt: skip
