"""Normalizing flows over mixed rows: an exact pmf times a flow given the discrete cells.

    p(row | context) = p(discrete cells | context) p(real cells | discrete cells, context)

The first factor is a masked network along one order (`probgen.nn.rows`). The second is a flow:
the real cells, centred and scaled by the context, are bent step by step (`probgen.nn.warps`) into
entries that have a simple density (`probgen.nn.bases`); all of it sees the discrete cells
and the context. Where a row holds an atom, its real cell is absent, and the density is one over
the others, of which the networks know by the atom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from probgen.batch import Batch
from probgen.conditionals import atom_slots
from probgen.elbo import lean_loss
from probgen.family import Draws, Family
from probgen.nn.bases import BaseKind, MixtureBase, NormalBase, StudentBase
from probgen.nn.cells import Cells
from probgen.nn.frames import Frame
from probgen.nn.gates import Gate
from probgen.nn.mixture_start import StartMixture
from probgen.nn.rows import RowNetwork
from probgen.nn.warps import Kind, Warp
from probgen.queries.hidden import holes, without_holes
from probgen.schema import Schema

__all__ = ["RowFlow"]

#: kernels' intermediates of about this many numbers a map are alive at once
ALIVE = 4
#: components of the mixture that fills holes, and rows for each at least
FILLERS, ROWS_EACH = 8, 10
#: rows that the weights of components given features are fitted to at first
GATED = 5_000


class Given(NamedTuple):
    """What the flow of a row is conditioned on, entries first, rows last."""

    features: Tensor | None  # (c, n)
    present: Tensor | None  # (d, n); None where no column holds atoms


class RowFlow(Family):
    """The pair; `probgen.Flow` describes the settings."""

    holes: Literal["exact", "latent", "masked", "refuse"] = "latent"
    whole_rows = True
    coherent = False
    closed_form = True
    takes_context = True

    def __init__(
        self,
        schema: Schema,
        kind: Kind = "spline",
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        base: BaseKind = "mixture",
        components: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(schema)
        slots = schema.slots
        self.real = [i for i, slot in enumerate(slots) if slot.kind == "real"]
        self.other = [i for i, slot in enumerate(slots) if slot.kind != "real"]
        self.atoms = bool(atom_slots(slots))
        if schema.context_slots:
            self.holes = "refuse"  # nothing proposes hidden cells in contexts
        rest = [slots[i] for i in self.other]
        d, width = len(self.real), max(hidden)
        self.context = Cells(schema.context_slots) if schema.context_slots else None
        given = 0 if self.context is None else self.context.width
        self.cells = Cells(rest) if rest and d else None
        self.rest = RowNetwork(rest, given, 2 * width, 1, dropout) if rest else None
        features = given + (0 if self.cells is None else self.cells.width)
        self.warp = Warp(kind, d, features, transforms, hidden, bins, dropout) if d else None
        self.base = _base(base, d, components) if d else None
        self.frame = Frame(d, features, width, dropout) if d and given else None
        gated = isinstance(self.base, MixtureBase) and features and components > 1
        self.gate = Gate(features, components) if gated else None
        #: components of the mixture that training starts from
        self.components = components if base == "mixture" else 1
        self.row_cost = ALIVE * max(
            d * (self.warp.total if self.warp else 1), width, d * self.components,
            0 if self.rest is None else self.rest.heads.width, 1,
        )  # fmt: skip
        self._filler: list[StartMixture] = []  # not a part of the model: it is not saved

    # --- the pair -------------------------------------------------------------------

    def model(self, batch: Batch) -> Tensor:
        """One site for all slots of a row."""
        row = FlowRows(self, batch.seen, batch.context)
        with batch.rows():
            return batch.observe("row", row, range(batch.seen.shape[1]))

    def guide(self, batch: Batch) -> None:
        """Nothing is latent in rows that are seen in whole; see `engine` for others."""

    # --- density --------------------------------------------------------------------

    def log_rows(self, x: Tensor, seen: Tensor, context: Tensor | None) -> Tensor:
        """Log density (n,) of rows x (n, m), seen in whole but for the real cells of atoms."""
        if self.training and self.noise:
            x = self._noisy(x)
        total = torch.zeros_like(x[:, 0]) if x.shape[1] else x.new_zeros(len(x))
        about = self._about(context)
        if self.rest is not None:
            order = torch.arange(len(self.other), device=x.device)
            part = x[:, self.other], seen[:, self.other]
            total = total + self.rest.log_probs(*part, order, about).sum(1)
        if self.warp is not None and self.base is not None:
            given = self._given(x, seen, about)
            z, log_det = self._forward(self._entries(x, given), given)
            total = total + log_det + self.base.log_prob(z, given.present, self._gated(given))
        return total

    def _noisy(self, x: Tensor) -> Tensor:
        """Real cells with noise, as targets and as what others are conditioned on."""
        moved = torch.zeros_like(x)
        moved[:, self.real] = self.noise * torch.randn_like(moved[:, self.real])
        return x + moved

    def _about(self, context: Tensor | None) -> Tensor | None:
        """Features (n, c) of the context."""
        if self.context is None or context is None:
            return None
        if self.training and self.noise:
            real = [i for i, slot in enumerate(self.context.slots) if slot.kind == "real"]
            moved = torch.zeros_like(context)
            moved[:, real] = self.noise * torch.randn_like(moved[:, real])
            context = context + moved
        return self.context(context, torch.ones_like(context, dtype=torch.bool))

    def _given(self, x: Tensor, seen: Tensor, about: Tensor | None) -> Given:
        """What the real cells of rows are conditioned on."""
        parts = [] if about is None else [about]
        if self.cells is not None:
            parts.append(self.cells(x[:, self.other], seen[:, self.other]))
        present = seen[:, self.real].T if self.atoms else None
        return Given(torch.cat(parts, 1).T if parts else None, present)

    def _entries(self, x: Tensor, given: Given) -> Tensor:
        """The real cells (d, n); 0 where absent."""
        own = x[:, self.real].T if self.other else x.T
        return own if given.present is None else torch.where(given.present, own, 0.0)

    def _gated(self, given: Given) -> Tensor | None:
        if self.gate is None or given.features is None:
            return None
        return self.gate.gate(given.features)

    def _forward(self, x: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """Entries of the base (d, n), and the log determinant (n,)."""
        assert self.warp is not None  # callers have looked
        shift = None
        if self.frame is not None and given.features is not None:
            centre, log_scale = self.frame.parts(given.features)
            x, shift = (x - centre) * (-log_scale).exp(), -log_scale
            if given.present is not None:
                x = torch.where(given.present, x, 0.0)
                shift = torch.where(given.present, shift, 0.0)
        z, log_det = self.warp(x, given.features, given.present)
        return z, log_det if shift is None else log_det + shift.sum(0)

    def _backward(self, z: Tensor, given: Given) -> Tensor:
        """The inverse of `_forward`."""
        assert self.warp is not None  # callers have looked
        x = self.warp.back(z, given.features, given.present)
        if self.frame is not None and given.features is not None:
            centre, log_scale = self.frame.parts(given.features)
            x = centre + x * log_scale.exp()
            if given.present is not None:
                x = torch.where(given.present, x, 0.0)
        return x

    def exact_log_prob(self, batch: Batch, draws: Draws | None) -> Tensor:
        """Log density (n,) of rows that are seen in whole; with draws one for all (S, n)."""
        value = self.log_rows(self._numbers(batch), batch.seen, self._numbers_about(batch))
        if draws is None:
            return value
        count = next((len(v) for v in draws.values()), 1)
        return value.expand(count, -1)

    def _dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.parameters()), torch.float64)

    def _numbers(self, batch: Batch) -> Tensor:
        """The encoded values; zeros where there are none yet."""
        if batch.x is None:
            return torch.zeros(batch.seen.shape, dtype=self._dtype(), device=batch.seen.device)
        return batch.x.to(self._dtype())

    def _numbers_about(self, batch: Batch) -> Tensor | None:
        return None if batch.context is None else batch.context.to(self._dtype())

    # --- drawing and the base space -------------------------------------------------

    @torch.no_grad()
    def generate(self, n: int, context: Tensor | None, device: torch.device) -> Tensor:
        """n new rows (n, m), 0 where absent, by torch's global generator."""
        m = len(self.schema.slots)
        x = torch.zeros(n, m, dtype=self._dtype(), device=device)
        about = self._about(None if context is None else context.to(x.dtype))
        seen = torch.ones(n, m, dtype=torch.bool, device=device)
        if self.rest is not None:
            generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
            order = torch.arange(len(self.other), device=device)
            none = torch.zeros(n, len(self.other), dtype=torch.bool, device=device)
            part = x[:, self.other]
            x[:, self.other] = self.rest.draw(part, none, order, about, generator)
        if self.warp is not None and self.base is not None:
            if self.atoms:
                whole = Batch(x, seen, x.new_ones(n), float(n))
                seen = without_holes(whole, x, self.schema.slots).seen
            given = self._given(x, seen, about)
            z = self.base.draw(n, given.present, self._gated(given))
            x[:, self.real] = self._backward(z, given).T
        return x

    def codes(self, batch: Batch) -> dict[str, Tensor] | None:
        """The entries (n, d) of the base that each row is the image of; NaN where absent."""
        if self.warp is None:
            return None
        x = self._numbers(batch)
        with torch.no_grad():
            given = self._given(x, batch.seen, self._about(self._numbers_about(batch)))
            z = self._forward(self._entries(x, given), given)[0]
            if given.present is not None:
                z = torch.where(given.present, z, torch.nan)
        return {"z": z.T}

    def decoded(self, batch: Batch, codes: dict[str, Tensor]) -> Tensor | None:
        """Rows x (n, m) with the other cells of a batch and the real ones of given codes."""
        if self.warp is None:
            return None
        x = self._numbers(batch).clone()
        with torch.no_grad():
            given = self._given(x, batch.seen, self._about(self._numbers_about(batch)))
            z = codes["z"].to(x.dtype).T
            if given.present is not None:
                z = torch.where(given.present, z, 0.0)
            x[:, self.real] = self._backward(z, given).T
        return x

    # --- training -------------------------------------------------------------------

    def engine(self, batch: Batch) -> tuple[str, Callable[[Batch], Tensor]] | None:
        """For rows with holes: the ELBO with hidden cells drawn from a mixture's conditional.

        The mixture is fitted once, before training, and draws the hidden cells of each row
        anew in every step, exactly given the seen ones: it is the guide of the cells.
        """
        if not bool(holes(batch, self.schema.slots).any()):
            return None
        self._mixture(batch)

        def loss(rows: Batch) -> Tensor:
            whole, log_q = self._filled(rows)
            return lean_loss(self, whole) + log_q

        return "filled", loss

    def _mixture(self, batch: Batch) -> StartMixture:
        """The mixture that fills holes of the training rows."""
        if not self._filler:
            assert batch.x is not None  # training rows are there
            few = min(FILLERS, max(1, len(batch) // ROWS_EACH))
            self._filler.append(StartMixture.fit(
                batch.x, batch.seen, batch.weight, self.schema.slots, few,
                torch.Generator().manual_seed(0),
            ))  # fmt: skip
        return self._filler[0]

    def _filled(self, rows: Batch) -> tuple[Batch, Tensor]:
        """The rows with their holes drawn anew, and the mean of log q a row of the table."""
        assert rows.x is not None  # training rows are there
        mixture = self._filler[0]
        with torch.no_grad():
            x = mixture.complete(rows.x, rows.seen)
            whole = without_holes(rows, x, self.schema.slots)
            assert whole.x is not None  # just made
            log_q = mixture.log_rows(whole.x, whole.seen) - mixture.log_rows(rows.x, rows.seen)
            whole.x = whole.x.to(rows.x.dtype)
            return whole, (log_q * rows.scale).sum().to(rows.x.dtype) / rows.total

    @torch.no_grad()
    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Start as a mixture: of the rows, or of what a regression on the context leaves."""
        assert batch.x is not None  # training rows are there
        weight = batch.weight
        if bool(holes(batch, self.schema.slots).any()):
            self._mixture(batch)
            batch = self._filled(batch)[0]
        x, seen, context = self._numbers(batch), batch.seen, self._numbers_about(batch)
        if self.context is not None and context is not None:
            self.context.start(context, torch.ones_like(context, dtype=torch.bool), weight)
        for part in (self.rest, self.cells):
            if part is not None:
                part.start(x[:, self.other], seen[:, self.other], weight)
        if self.warp is None:
            return
        about = self._about(context)
        given = self._given(x, seen, about)
        if self.frame is not None and about is not None and given.features is not None:
            alone = torch.zeros_like(given.features)
            alone[: about.shape[1]] = about.T
            present = seen[:, self.real].T.to(x.dtype)
            self.frame.start(self._entries(x, given), present, alone, weight)
        if isinstance(self.base, MixtureBase):
            self._start_base(self.base, batch, given, generator)

    def _start_base(
        self, base: MixtureBase, batch: Batch, given: Given, generator: torch.Generator
    ) -> None:
        x, seen, weight = self._numbers(batch).clone(), batch.seen, batch.weight
        x[:, self.real] = self._forward(self._entries(x, given), given)[0].T
        few = min(self.components, max(1, len(batch) // ROWS_EACH))
        slots = self.schema.slots
        mixture = StartMixture.fit(x, seen, weight, slots, few, generator)
        own = mixture.predictive()
        base.set(own)
        if self.gate is not None and given.features is not None and few > 1:
            rows = torch.randperm(len(x), generator=generator)[:GATED].to(x.device)
            share = torch.zeros(len(rows), self.components, dtype=torch.float64, device=x.device)
            share[:, :few] = mixture.shares(x[rows], seen[rows])
            self.gate.start(given.features[:, rows], share, base.logits, weight[rows])

    def finish(self, batch: Batch, generator: torch.Generator) -> None:
        """Drop what filled the holes of the training rows."""
        self._filler.clear()


class FlowRows(TorchDistribution):
    """The rows of a `RowFlow`; batch shape (n,), event shape (m,)."""

    arg_constraints: dict = {}
    support = constraints.real_vector
    has_rsample = False
    skips_unseen = True

    def __init__(self, family: RowFlow, seen: Tensor, context: Tensor | None) -> None:
        self.family, self.seen, self.context = family, seen, context
        super().__init__(seen.shape[:1], seen.shape[1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """(n,) log density of rows that are seen in whole."""
        return self.family.log_rows(value, self.seen, self.context)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """(n, m) new rows, from torch's global generator (Pyro's convention)."""
        return self.family.generate(len(self.seen), self.context, self.seen.device)


def _base(kind: BaseKind, size: int, components: int) -> NormalBase | MixtureBase:
    if kind == "mixture":
        return MixtureBase(size, components)
    return StudentBase(size) if kind == "student" else NormalBase(size)
