"""One multivariate Student's t over the real columns, the other columns independent of it.

    real slots ~ Student(dof, mean, scale)          (heavy tails: far rows weigh little)
    other slots ~ sum_b probs[b] * basis_b          (see probgen.leaves)

All globals are points, so the guide is empty. `update` is one step of expectation
maximisation with the row's hidden precision ``u ~ Gamma(dof / 2, dof / 2)`` and its hidden
cells as missing data: a row at squared distance q counts ``(dof + d) / (dof + q)`` rows. The
degrees of freedom and the size of the scale move first, each to where the density of the rows
is highest (the ECME of Liu and Rubin, so a step never lowers what it ascends).

References: Lange, Little and Taylor (1989), Robust statistical modeling using the t
distribution, JASA 84; Liu and Rubin (1995), ML estimation of the t distribution using EM and
its extensions, ECM and ECME, Statistica Sinica 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from probgen.batch import Batch
from probgen.conditionals import Conditionals, conditionals
from probgen.family import Draws, Family
from probgen.holes import Marginals, Patterns, pattern_groups
from probgen.likelihoods import Components, MixedRows, RowMixture
from probgen.normals import LOG_2PI, Kernel, cholesky, student
from probgen.schema import Schema
from probgen.whole_rows import WholeRows

__all__ = ["Student"]

#: degrees of freedom that may be learned. Below 1 the fit is that of 1 with a taller peak,
#: which repeated values call for; from 1000 on it is a normal
LEAST, MOST = 1.0, 1000.0
#: numbers in an intermediate of the pairs: 4 MB of float64
WIDE = 500_000
#: numbers of the rows that a training step works on at once: 32 MB of float64
KEPT = 4_000_000
#: real slots up to which what the leaves need of a row is kept between steps
NARROW = 64


class Student(Family):
    """The pair; `probgen.StudentT` describes the settings."""

    updates = True
    closed_form = True
    row_cost = 1
    mean: Tensor
    scale: Tensor
    dof: Tensor

    def __init__(
        self,
        schema: Schema,
        dof: float | None = None,
        strength: float = 1.0,
        category_strength: float = 0.3,
    ) -> None:
        super().__init__(schema)
        self.fixed, self.strength = dof, strength
        self.rows = MixedRows(
            schema.slots, 1, "full", 1.0, None, None, 0.005, 1.0, category_strength
        )
        d = len(self.rows.real)
        self.register_buffer("mean", torch.zeros(d, dtype=torch.float64))
        self.register_buffer("scale", torch.eye(d, dtype=torch.float64))
        self.register_buffer("dof", torch.tensor(dof or 3.0, dtype=torch.float64))

    def tensors(self) -> dict[str, Tensor]:
        """Everything learned; the block of normals holds nothing here."""
        found = super().tensors()
        return {k: v for k, v in found.items() if not k.startswith("rows.normals.")}

    # --- the pair -------------------------------------------------------------------

    def model(self, batch: Batch) -> Tensor:
        """One site for all slots of a row; its hidden precision is integrated out."""
        row = RowMixture(self.rows, self.components(), batch.seen)
        with batch.rows():
            return batch.observe("row", row, range(self.rows.m))

    def guide(self, batch: Batch) -> None:
        """Nothing is latent."""

    def components(self) -> Components:
        """What scores a row: the t and the weights of the leaves, as one component."""
        kernel = self.kernel() if self.rows.real else None
        return Components(self.mean.new_zeros(1), kernel, self._leaf_logs())

    def _leaf_logs(self) -> dict[int, Tensor]:
        return {
            i: leaf.alpha.log() - leaf.alpha.sum(-1, keepdim=True).log()
            for i, leaf in self.rows.leaf_items()
        }

    def kernel(self, heavy: bool = True) -> Kernel:
        """The t over the real slots, or the normal with the same mean and scale."""
        precision = torch.cholesky_inverse(cholesky(self.scale))[None]
        dof = self.dof[None] if heavy else None
        return Kernel(self.mean[None], precision, self.mean.new_zeros(1), dof)

    # --- training -------------------------------------------------------------------

    @property
    def pseudo(self) -> float:
        """Rows of a standard normal that the penalty stands for: `strength` a real slot."""
        return self.strength * len(self.rows.real)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Start from standardised, uncorrelated columns and from the margins of the leaves."""
        self.rows.begin(_values(batch), batch.seen, batch.weight.double(), batch.total)
        self.mean = torch.zeros_like(self.mean)
        self.scale = torch.eye(len(self.mean), dtype=torch.float64, device=self.mean.device)
        self.dof = torch.full_like(self.dof, self.fixed or 3.0)

    def update(self, batch: Batch, rate: float) -> float:
        """One step of expectation maximisation; the loss at the parameters before it.

        The loss is minus the log density of the rows, plus penalties that are 0 at the prior:
        `pseudo` times the Kullback-Leibler divergence of the normal with this scale from the
        standard one, and for each leaf its pseudo-counts times that of the weights from
        their prior mean. A step at rate 1 never raises it.
        """
        x, seen, weight = _values(batch), batch.seen, batch.weight.double()
        weight = weight * (batch.total / weight.sum().clamp_min(1e-300))
        value, leaves = self._count(x, seen, weight)
        if self.rows.real:
            value = value + self._move(self.rows.block(x), self.rows.block(seen), weight, rate)
        for i, leaf in self.rows.leaf_items():
            leaf.counts = leaf.counts.lerp(leaves[i], rate)
        return -float(value / batch.total)

    def finish(self, batch: Batch, generator: torch.Generator) -> None:
        """Drop what was kept of the training rows."""
        self.rows.forget()

    def _count(self, x: Tensor, seen: Tensor, weight: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Penalised log density of the rows under the leaves, and the leaves' expected counts."""
        logs = self._leaf_logs()
        counts, value = {}, weight.new_zeros(())
        for i, leaf in self.rows.leaf_items():
            counts[i] = torch.zeros_like(leaf.counts)
            prior = leaf.prior
            value = value - (prior * ((prior / prior.sum()).log() - logs[i][0])).sum()
        if not logs:
            return value, counts
        only = Components(weight.new_zeros(1), None, logs)
        for chunk in self.rows.chunks(x, seen, only, exact=len(self.mean) > NARROW):
            w = weight[chunk.at]
            value = value + w @ chunk.logits[:, 0]
            for i, total in counts.items():
                hit, look = chunk.piece.looks[i]
                r = (w if hit is None else w[hit])[:, None]
                total += self.rows.leaf(i).expected_counts(look, logs[i], r)
        return value, counts

    def _move(self, x: Tensor, seen: Tensor, weight: Tensor, rate: float) -> Tensor:
        """Move degrees of freedom, mean and scale; the penalised log density before."""
        kernel = self.kernel(heavy=False)
        groups = list(self._groups(seen))
        whole = WholeRows(kernel, exact=True)
        quad, log_det, width = (weight.new_zeros(len(x)) for _ in range(3))
        for at, patterns in groups:
            prepared = whole if patterns is None else Marginals(kernel, patterns)
            quad[at], log_det[at], width[at] = _distances(prepared, x[at], seen[at])
        d, trace = len(self.mean), kernel.precision[0].trace()
        penalty = 0.5 * self.pseudo * (trace - whole.log_det[0] - d)
        value = weight @ student(quad, log_det, width, self.dof) - penalty
        if rate == 0.0:
            return value
        dof = self.dof if self.fixed else best_dof(quad, width, weight, self.dof)
        factor = best_factor(quad, width, weight, dof, self.pseudo * trace, self.pseudo * d)
        share = weight * (dof + width) / (dof + quad / factor)
        first, second = torch.zeros_like(self.mean), torch.zeros_like(self.scale)
        for at, patterns in groups:
            prepared = whole if patterns is None else Marginals(kernel, patterns)
            parts = _expected(prepared, x[at], seen[at], share[at], weight[at] * factor)
            first, second = first + parts[0], second + parts[1]
        step = first / share.sum().clamp_min(1e-300)
        spread = second - torch.outer(first, step)
        eye = torch.eye(d, dtype=step.dtype, device=step.device)
        scale = 0.5 * (spread + spread.mT) + self.pseudo * eye
        self.mean = self.mean + rate * step
        self.scale = self.scale.lerp(scale / (weight.sum() + self.pseudo), rate)
        self.dof = self.dof.lerp(dof, rate)
        return value

    def _groups(self, seen: Tensor) -> Iterator[tuple[Tensor | slice, Patterns | None]]:
        """Rows that are worked out together, as many as memory bears."""
        step = max(1, KEPT // max(1, seen.shape[1]))
        for at, patterns in pattern_groups(seen, 1):
            n = at.stop if isinstance(at, slice) else len(at)
            for part in (slice(i, min(i + step, n)) for i in range(0, n, step)):
                rows = part if isinstance(at, slice) else at[part]
                yield rows, None if patterns is None else patterns.take(part)

    # --- exact answers --------------------------------------------------------------

    def exact_log_prob(self, batch: Batch, draws: Draws | None) -> Tensor:
        """Closed form (n,); there are no globals to draw."""
        return self.rows.log_rows(_values(batch), batch.seen, self.components())

    def log_pairs(self, batch: Batch) -> Tensor:
        """Closed form of `probgen.queries.log_pairs` (n,): bivariate t, and leaves alone."""
        x, seen = _values(batch), batch.seen
        leaves = [i for i, _ in self.rows.leaf_items()]
        only = Components(self.mean.new_zeros(1), None, self._leaf_logs())
        single = self.rows.log_rows(x, seen, only)
        block, on = self.rows.block(x), self.rows.block(seen)
        others = seen.sum(-1) - 1
        total, alone = self._real_pairs(block, on)
        apart = seen[:, leaves].sum(-1)
        mixed = torch.where(others > 0, (total + apart * alone) / others.clamp_min(1), alone)
        return single + mixed

    def _real_pairs(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Summed log densities of the pairs of seen real slots (n,), and of these slots alone."""
        n, d = x.shape
        pairs, alone = (torch.zeros(n, dtype=torch.float64, device=x.device) for _ in range(2))
        root = self.scale.diagonal().sqrt()
        r = (self.scale / torch.outer(root, root)).clamp(-1 + 1e-12, 1 - 1e-12)
        free = 1 / (1 - r.square())
        step = max(1, WIDE // max(1, d))
        for rows in (slice(i, i + step) for i in range(0, n, step)):
            on = seen[rows].to(x.dtype)
            z = (x[rows] - self.mean) / root * on
            square = z.square()
            alone[rows] = (on * student(square, -2 * root.log(), 1, self.dof)).sum(-1)
            for i in range(d - 1):
                later = slice(i + 1, d)
                quad = torch.addcmul(square[:, later] + square[:, i, None], z[:, later],
                                     z[:, i, None] * r[i, later], value=-2.0)  # fmt: skip
                log_det = free[i, later].log() - 2 * (root[i] * root[later]).log()
                value = student(quad * free[i, later], log_det, 2, self.dof)
                pairs[rows] += (value * on[:, later]).sum(-1) * on[:, i]
        return pairs, alone

    def complete(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Unseen cells drawn exactly given the seen ones: again a t, with more degrees."""
        device = self.mean.device
        if generator.device.type != device.type:
            seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
            generator = torch.Generator(device).manual_seed(seed)
        return self.rows.complete(_values(batch), batch.seen, self.components(), generator)

    def conditionals(self, batch: Batch) -> Conditionals:
        """Each unseen cell given the seen ones of its row."""
        return conditionals(
            self.rows, self.schema.slots, _values(batch), batch.seen, self.components()
        )

    def reconstruct(self, batch: Batch) -> Tensor:
        """Every row is seen as the centre of the table."""
        share = self.mean.new_ones(len(batch), 1)
        return self.rows.centres(share, self.components())


def best_dof(quad: Tensor, width: Tensor, weight: Tensor, now: Tensor) -> Tensor:
    """Degrees of freedom () of highest log density of rows at squared distances quad (n,).

    Three grids over the logarithm, each finer; the present value takes part, so that the
    log density never falls.
    """
    lowest, highest = math.log(LEAST), math.log(MOST)
    low, high = lowest, highest
    best = now
    for _ in range(3):
        grid = torch.linspace(low, high, 17, dtype=quad.dtype, device=quad.device)
        tried = torch.cat([best[None], grid.exp()])
        value = torch.stack([weight @ student(quad, quad * 0, width, v) for v in tried])
        best = tried[value.argmax()]
        step = (high - low) / 16
        low = max(lowest, float(best.log()) - step)
        high = min(highest, float(best.log()) + step)
    return best


def best_factor(
    quad: Tensor, width: Tensor, weight: Tensor, dof: Tensor, trace: Tensor, pseudo: float
) -> Tensor:
    """By how much to multiply the scale () so that the penalised log density is highest.

    Expectation maximisation finds shape and centre fast and the size of the scale slowly
    where tails are heavy; this moves it at once. The slope in the logarithm of the factor
    only falls, so its root is found by halving. `trace` is `pseudo` rows' own distance.
    """
    wanted = float(weight @ width) + pseudo
    low, high = -50.0, 50.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        factor = math.exp(middle)
        held = weight @ ((dof + width) * quad / (factor * dof + quad).clamp_min(1e-300))
        if float(held) + float(trace) / factor > wanted:
            low = middle
        else:
            high = middle
    return quad.new_tensor(math.exp(0.5 * (low + high)))


def _distances(
    prepared: WholeRows | Marginals, x: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances, log determinants of the precisions, and numbers of seen slots."""
    normal = prepared.log_rows(x, seen)[:, 0]
    log_det, width = prepared.log_dets(len(x))[:, 0], seen.sum(-1).to(x.dtype)
    return (log_det - width * LOG_2PI - 2 * normal).clamp_min(0.0), log_det, width


def _expected(
    prepared: WholeRows | Marginals, x: Tensor, seen: Tensor, share: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Moments about the present mean: hidden cells are as far off as the seen ones say.

    Their gaps are shared by the row's precision, their remaining covariance is not: given
    the precision u it is that of a normal over u, and counts u times. `weight` carries the
    factor by which the scale has grown.
    """
    if isinstance(prepared, WholeRows):
        gap = x - prepared.kernel.mean
        moved = gap * share[:, None]
        return moved.sum(0), moved.mT @ gap
    gap = prepared.gaps(x, seen)[0]
    moved = gap * share[:, None]
    second = prepared.add_spread((moved.mT @ gap)[None], weight[:, None])
    return moved.sum(0), second[0]


def _values(batch: Batch) -> Tensor:
    """The encoded values; zeros where there are none yet."""
    if batch.x is None:
        return torch.zeros(batch.seen.shape, dtype=torch.float64, device=batch.seen.device)
    return batch.x.double()
