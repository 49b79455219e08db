"""Variational autoencoders of mixed rows: a latent point a row, cells independent given it.

    p(row | context) = integral of p(z) prod_i p(cell i | z, context) dz

The guide q(z | seen cells, context) reads values and which cells are seen, so that one network
answers for every pattern of holes; it trains the model (Kingma and Welling 2014, Rezende,
Mohamed and Wierstra 2014), and proposes the latents over which every question is averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import torch
from pyro import sample
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from probgen.batch import Batch
from probgen.conditionals import Conditionals, atom_slots
from probgen.family import Family
from probgen.nn.bounds import Bound
from probgen.nn.cells import Cells
from probgen.nn.convolutions import coders
from probgen.nn.factors import Factors
from probgen.nn.heads import Heads, RealHead
from probgen.nn.latents import (
    WIDEST,
    FlowPrior,
    Guide,
    GuideKind,
    MixturePrior,
    NormalPrior,
    Posterior,
    Prior,
    PriorKind,
)
from probgen.nn.linear_start import LinearStart
from probgen.nn.pixels import Picture
from probgen.nn.unseen import stacked, unseen_cells
from probgen.queries.noise import even_uniforms
from probgen.schema import Schema

__all__ = ["Autoencoder", "Scale"]

Scale: TypeAlias = Literal["cell", "column", "table"]
#: latents of a row over which its unseen cells are averaged
PARTICLES = 128
#: latents of a held-out row by which the weighted bound is judged, and rows scored at once
HELD_OUT, SCORED = 64, 512
#: rows that training starts from
STARTED = 5_000
#: numbers in the widest intermediate of cells given others
HELD = 2**22
#: smallest scale of a cell relative to that of its column: no density grows without bound
LEAST = 0.01


class Autoencoder(Family):
    """The pair; `probgen.VAE` describes the settings."""

    density = "estimate"
    holes = "latent"
    coherent = False
    takes_context = True
    warm: Tensor
    drawn: Tensor
    spreads: Tensor

    def __init__(
        self,
        schema: Schema,
        latents: int = 8,
        hidden: tuple[int, ...] = (128, 128),
        prior: PriorKind = "normal",
        guide: GuideKind = "diagonal",
        bound: Bound | None = None,
        scale: Scale = "cell",
        parts: int = 1,
        components: int = 32,
        dropout: float = 0.0,
        picture: Picture | None = None,
    ) -> None:
        super().__init__(schema)
        slots = schema.slots
        self.bound, self.scale = bound or Bound(), scale
        self.latents = latents
        self.context = Cells(schema.context_slots) if schema.context_slots else None
        given = 0 if self.context is None else self.context.width
        pixels = "auto" if picture is None else picture.pixels
        held = frozenset(() if picture is None else picture.held)
        #: whether cells of pixels hold the probability of a 1, drawn anew in every step
        self.dynamic = pixels == "bernoulli"
        drawn = [self.dynamic and i in held for i in range(len(slots))]
        self.register_buffer("drawn", torch.tensor(drawn, dtype=torch.bool), persistent=False)
        self.heads = Heads(slots, parts, LEAST, held if pixels == "logistic" else ())
        self.encoder, self.decoder = coders(
            slots, picture, latents, given, hidden, self.heads, dropout
        )
        self.posterior = Guide(guide, latents, self.encoder.width)
        self.prior = self._prior(prior, components)
        #: scales of cells that do not depend on the row
        self.spread = None if scale == "cell" else nn.Parameter(torch.zeros(self.heads.width))
        self.register_buffer("spreads", self.heads.spreads(), persistent=False)
        self.register_buffer("warm", torch.ones(()))
        #: the widest intermediate of one particle of a row
        self.row_cost = max(self.encoder.widest, self.decoder.widest)

    def _prior(self, kind: PriorKind, components: int) -> Prior:
        if kind == "normal":
            return NormalPrior(self.latents)
        if kind == "flow":
            return FlowPrior(self.latents)
        made = MixturePrior(self.latents, components, self.encoder.features)
        made.encoded += [self.encoder, self.posterior]
        return made

    # --- the pair -------------------------------------------------------------------

    def model(self, batch: Batch) -> Tensor:
        """The latents of a row, and one site for all its slots."""
        about = self._about(batch)
        with batch.rows():
            z = sample("z", self.prior.distribution(len(batch), batch.weight))
            row = LatentRows(self, self._outputs(z, about), batch)
            return batch.observe("row", row, range(batch.seen.shape[1]))

    def guide(self, batch: Batch) -> Tensor:
        """The latents of a row given its seen cells."""
        found = self.at(batch).distribution()
        with batch.rows():
            return sample("z", found)

    def at(self, batch: Batch) -> Posterior:
        """q(z | seen cells) of the rows of a batch."""
        return self._encoded(_values(batch), batch.seen, self._about(batch))

    def _encoded(self, x: Tensor, seen: Tensor, about: Tensor | None) -> Posterior:
        found: Posterior = self.posterior(self.encoder(self.encoder.read(x, seen), about))
        return found

    def _about(self, batch: Batch) -> Tensor | None:
        """Features (n, c) of the context of each row."""
        if self.context is None or batch.context is None:
            return None
        return self.context(batch.context, torch.ones_like(batch.context, dtype=torch.bool))

    def _outputs(self, z: Tensor, about: Tensor | None) -> Tensor:
        """What the heads read (..., n, width) at latents z (..., n, L)."""
        flat = z.reshape(-1, z.shape[-1])
        if about is not None and len(flat) != len(about):
            about = about.repeat(len(flat) // len(about), 1)
        out = self.decoder(flat, about)
        if self.spread is not None:
            own = self.spread if self.scale == "column" else self.spread.mean()
            out = torch.where(self.spreads, own, out)
        return out.view(*z.shape[:-1], out.shape[-1])

    def _rows(self, out: Tensor, x: Tensor, seen: Tensor) -> Tensor:
        """Log density (..., n) of the seen cells of rows x (n, m) under outputs."""
        cells = self.heads.log_probs(out, x)
        return torch.where(seen, cells, 0.0).sum(-1)

    # --- training -------------------------------------------------------------------

    @torch.no_grad()
    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Start at factor analysis of the cells; about it, every head gives its marginal."""
        assert batch.x is not None  # training rows are there
        x = self._redrawn(batch.x, generator)
        self.encoder.start(x, batch.seen, batch.weight)
        if self.context is not None and batch.context is not None:
            on = torch.ones_like(batch.context, dtype=torch.bool)
            self.context.start(batch.context, on, batch.weight)
        outputs = self.heads.start(x, batch.seen, batch.weight)
        if self.scale == "table":
            for head, own in self.heads.split(outputs):
                if isinstance(head, RealHead):
                    head.alike(own, LEAST)
        outputs = self._linear(replace(batch, x=x), outputs, generator)
        if self.spread is not None:
            self.spread.copy_(outputs if self.scale == "column" else outputs[self.spreads].mean())
        if isinstance(self.prior, MixturePrior):
            pick = torch.randint(len(batch), (len(self.prior.rows),), generator=generator)
            pick = pick.to(batch.seen.device)
            self.prior.rows.copy_(self.encoder.read(x[pick], batch.seen[pick]))

    def _linear(self, batch: Batch, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Start decoder and guide at factor analysis of some rows; the outputs of its centre."""
        n, size = len(batch), self.latents
        few = torch.randperm(n, generator=generator)
        few = few[: Factors.rows(size, min(n, STARTED), self.heads.width)]
        some = batch.take(few.to(batch.seen.device))
        x, about = _values(some), self._about(some)
        start = LinearStart.of(self.heads, x, some.seen, some.weight)
        found = start.fit(about, size, self.scale == "table")
        outputs = start.tightened(outputs, found.factors.own)
        self.decoder.start(outputs, found.slope)
        if self.encoder.direct:
            # the guide learns at once what a hole means: half of the rows have more of them
            seen = self.bound.hide(some.seen, self._columns(), generator)
            inputs = self.encoder(self.encoder.read(x, seen), about)
            direct = inputs[:, -self.encoder.direct :]
            self.posterior.start(*found.line(seen, direct, WIDEST))
        return outputs

    def begin_epoch(self, epoch: int) -> None:
        """Raise the weight of the divergence."""
        share = (epoch + 1) / self.bound.warmup if self.bound.warmup else 1.0
        self.warm.fill_(min(1.0, share))

    def engine(self, batch: Batch) -> tuple[str, Callable[[Batch], Tensor]]:
        """The bound asked for; that of the pair for "elbo" with beta 1 and no extras."""
        return self.bound.kind, self.loss

    def validate(self, batch: Batch) -> Tensor | None:
        """The weighted bound of held-out rows by many latents a row, closer to their density.

        Early stopping then waits for the decoder: by few latents a guide that has learned the
        training rows by heart would end it.
        """
        if self.bound.kind != "iwae":
            return None
        total = torch.zeros((), dtype=torch.float64, device=batch.seen.device)
        for at in range(0, len(batch), SCORED):
            part = batch.take(slice(at, at + SCORED))
            total += self.loss(part, max(HELD_OUT, self.bound.particles)) * part.weight.sum()
        return total / batch.weight.sum()

    def loss(self, batch: Batch, particles: int | None = None) -> Tensor:
        """The negative bound, nats a row of the table; masks and noise while training."""
        x, seen, read = self._practice(batch)
        about = self._about(batch)
        guide = self._encoded(read, seen, about)
        shape = (particles or self.bound.particles, *guide.mean.shape)
        noise = torch.randn(shape, dtype=guide.mean.dtype, device=guide.mean.device)
        if self.bound.kind == "iwae":
            rows = self._importance_weighted(x, seen, about, guide, noise)
        else:
            rows = self._evidence(x, seen, about, guide, noise, batch)
        return -(rows * batch.scale).sum() / batch.total

    def _evidence(
        self,
        x: Tensor,
        seen: Tensor,
        about: Tensor | None,
        guide: Posterior,
        noise: Tensor,
        batch: Batch,
    ) -> Tensor:
        """The evidence lower bound (n,), its divergence weighed."""
        z, log_q = guide.draw(noise)
        fit = self._rows(self._outputs(z, about), x, seen).mean(0)
        if isinstance(self.prior, NormalPrior) and guide.warp is None:
            cells = guide.divergence()
        else:
            cells = (log_q - self.prior.log_prob(z)).mean(0)[:, None]
        free = self.bound.free_bits
        if free:  # held-out rows too: the state that is kept must be one that free bits allow
            share = batch.scale / batch.total
            mean = (cells * share).sum(0) if isinstance(share, float) else share @ cells
            least = free * self.latents / cells.shape[1]
            # below the floor the divergence has no gradient, whatever a single row has
            cells = torch.where(mean > least, cells, least)
        weight = self.bound.beta * self.warm if self.training else self.bound.beta
        return fit - weight * cells.sum(1)

    def _importance_weighted(
        self, x: Tensor, seen: Tensor, about: Tensor | None, guide: Posterior, noise: Tensor
    ) -> Tensor:
        """The importance-weighted bound (n,) (Burda, Grosse and Salakhutdinov 2016).

        Its gradient in the guide is doubly reparametrised (Tucker et al. 2019): along the
        draws alone, by squared weights, without the score of log q, whose mean is 0.
        """
        z, log_q = guide.draw(noise)
        if z.requires_grad and guide.warp is None:
            log_q = guide.still().log_prob(z)
        weights = self._rows(self._outputs(z, about), x, seen) + self.prior.log_prob(z) - log_q
        if z.requires_grad and guide.warp is None:
            share = weights.detach().softmax(0)
            z.register_hook(lambda g: share[..., None] * g)
        return weights.logsumexp(0) - math.log(len(weights))

    def _practice(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Cells that are scored, which of them are seen, and what the guide reads of them."""
        # held-out rows are scored under one seed: of them the draws are the same in each epoch
        x, seen = self._redrawn(_values(batch)), batch.seen
        if not self.training:
            return x, seen, x
        if self.noise:
            x = x + self.noise * torch.randn_like(x) * self._slots_of("real", x.device)
        seen = self.bound.hide(seen, self._columns())
        return x, seen, self.bound.corrupt(x, seen, self._slots_of("real", x.device))

    def _redrawn(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Cells that hold probabilities drawn (Salakhutdinov and Murray 2008)."""
        if not self.dynamic:
            return x
        u = torch.rand(x.shape, generator=generator, dtype=x.dtype,
                       device=x.device if generator is None else "cpu")  # fmt: skip
        return torch.where(self.drawn, (u.to(x.device) < x).to(x), x)

    def _slots_of(self, kind: str, device: torch.device) -> Tensor:
        """Which slots (m,) are of a kind."""
        return torch.tensor([slot.kind == kind for slot in self.schema.slots], device=device)

    def _columns(self) -> list[int]:
        """The column of each slot; in Python, as graphs need sizes."""
        return [slot.column for slot in self.schema.slots]

    # --- questions ------------------------------------------------------------------

    def importance(self, batch: Batch) -> tuple[int, Callable[[Tensor], Tensor]]:
        """How many numbers of noise a row takes, and the log weights (K, n) of noise (K, n, L).

        The mean of their exponentials over standard normal noise is the density of the
        seen cells (Burda et al. 2016; with holes Mattei and Frellsen 2019, MIWAE).
        """
        guide, about, x = self.at(batch), self._about(batch), _values(batch)

        def weights(noise: Tensor) -> Tensor:
            z, log_q = guide.draw(noise.to(guide.mean.dtype))
            rows = self._rows(self._outputs(z, about), x, batch.seen)
            return rows + self.prior.log_prob(z) - log_q

        return self.latents, weights

    def from_noise(self, batch: Batch, noise: Tensor, generator: torch.Generator) -> Tensor:
        """Unseen cells drawn given the latents that the guide maps noise (n, L) to."""
        guide, x = self.at(batch), _values(batch)
        z, _ = guide.draw(noise.to(guide.mean.dtype))
        return self._filled(self._outputs(z, self._about(batch)), x, batch.seen, generator)

    def _filled(self, out: Tensor, x: Tensor, seen: Tensor, source: Any) -> Tensor:
        """Rows x (n, m) with their unseen cells drawn from outputs (n, width)."""
        x = torch.where(seen, x, torch.zeros_like(x)).double()
        atoms = atom_slots(self.schema.slots)
        for slot in sorted(range(x.shape[1]), key=lambda i: i in atoms):
            off = ~seen[:, slot]
            if slot in atoms:
                off = off & (x[:, atoms[slot]] == 0)
            if bool(off.any()):
                _, _, span = self.heads.at[slot]
                drawn = self.heads.draw(out[:, span], slot, source)
                x[:, slot] = torch.where(off, drawn.to(x.dtype), x[:, slot])
        return x

    def decoded(self, batch: Batch, codes: dict[str, Tensor]) -> Tensor:
        """Rows (n, m) of the values that stand for each cell at latents ``codes["z"]`` (n, L)."""
        z = codes["z"].to(self._dtype())
        return self._centres(self._outputs(z, self._about(batch)))

    def _centres(self, out: Tensor) -> Tensor:
        x = self.heads.centres(out)
        for slot, atom in atom_slots(self.schema.slots).items():
            x[..., slot] = torch.where(x[..., atom] == 0, x[..., slot], 0.0)
        return x

    def _dtype(self) -> torch.dtype:
        return self.decoder.line.weight.dtype

    @torch.no_grad()
    def conditionals(self, batch: Batch) -> Conditionals:
        """Each unseen cell given the seen ones: the weighted mixture over draws of the guide."""
        n, k, slots = len(batch), PARTICLES, self.schema.slots
        step = max(1, HELD // (k * self.row_cost))
        found: dict[int, list[tuple[Tensor, Any]]] = {}
        for at in range(0, n, step):
            rows = torch.arange(at, min(n, at + step), device=batch.seen.device)
            part = batch.take(rows)
            guide, about, x = self.at(part), self._about(part), _values(part)
            # the same noise for all rows: an answer never depends on the rows beside it
            noise = torch.special.ndtri(even_uniforms(k, self.latents)).to(guide.mean)
            z, log_q = guide.draw(noise[:, None].expand(k, len(part), -1))
            out = self._outputs(z, about)
            weight = self._rows(out, x, part.seen) + self.prior.log_prob(z) - log_q
            share = weight.double().softmax(0)
            for slot, own in unseen_cells(slots, self.heads, part.seen, out, share).items():
                found.setdefault(slot, []).append((rows[own[0]], own[1]))
        return {slot: stacked(parts) for slot, parts in found.items()}


class LatentRows(TorchDistribution):
    """The cells of rows given their latents; batch shape (n,), event shape (m,)."""

    arg_constraints: dict = {}
    support = constraints.real_vector
    has_rsample = False
    skips_unseen = True

    def __init__(self, family: Autoencoder, out: Tensor, batch: Batch) -> None:
        self.family, self.out, self.batch = family, out, batch
        super().__init__(out.shape[:1], torch.Size([batch.seen.shape[1]]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """(n,) log density of the seen cells."""
        return self.family._rows(self.out, value, self.batch.seen)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """(n, m) new rows, from torch's global generator (Pyro's convention)."""
        empty = torch.zeros(self.out.shape[0], self.batch.seen.shape[1], dtype=self.out.dtype,
                            device=self.out.device)  # fmt: skip
        off = torch.zeros_like(empty, dtype=torch.bool)
        return self.family._filled(self.out, empty, off, None).to(self.out.dtype)

    @property
    def centre(self) -> Tensor:
        """The values (n, m) that stand for the cells."""
        return self.family._centres(self.out)


def _values(batch: Batch) -> Tensor:
    """The encoded values; zeros where there are none yet."""
    if batch.x is None:
        return torch.zeros(batch.seen.shape, dtype=batch.weight.dtype, device=batch.seen.device)
    return batch.x
