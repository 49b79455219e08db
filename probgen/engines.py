"""How one epoch of training is computed: by gradients, by several losses, or by updates.

The loop in `fitting` does not know which: each class here runs an epoch over a batch,
yields the loss of each step, and hands out its state for snapshots and checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from probgen.batch import Batch
from probgen.compiled import LATER, Refused, Step, ahead, eager, pays, too_short
from probgen.elbo import estimator, inspect_pair, lean_loss, pyro_loss
from probgen.errors import NotSupported, message, warn
from probgen.family import Family
from probgen.session import validated
from probgen.training import Training

__all__ = ["Engine", "Gradients", "Objectives", "Updates", "choose_engine", "held_out"]

#: rows scored at once when a held-out loss is computed
CHUNK = 8192


class Engine:
    """A way to compute the loss of a pair.

    Attributes
    ----------
    name : str
        Recorded in `FitResult.engine`.
    loss : callable
        Batch to negative ELBO a row (nats), a differentiable scalar.
    """

    def __init__(self, name: str, loss: Callable[[Batch], Tensor]) -> None:
        self.name, self.loss = name, loss


def choose_engine(family: Family, batch: Batch) -> Engine:
    """The loss for a pair, by what its sites need.

    A loss of the family's own comes first. Pathwise pairs take the lean messenger; pairs with
    score-function or enumerated sites Pyro's estimators. Whether the steps on that loss are
    compiled is decided by `Gradients`.

    Raises
    ------
    NotSupported
        If a pair with enumerated sites meets unequal weights (Pyro's estimator scales by one
        number).
    """
    own = family.engine(batch)
    if own is not None:
        return Engine(*own)
    need = inspect_pair(family, batch)
    if need.kind == "pathwise":
        return Engine("lean", lambda rows: lean_loss(family, rows))
    if need.kind == "enumerate" and not batch.uniform:
        raise NotSupported(
            message(
                f"unequal row weights for {type(family).__name__}, whose sites are enumerated",
                "equal weights, as the estimator scales all rows by one number",
                "sum the label out in the model, or repeat rows instead of weighting them",
            )
        )
    name = {"score": "trace", "enumerate": "traceenum"}[need.kind]
    return Engine(name, pyro_loss(estimator(need), family))


def held_out(family: Family, batch: Batch, engine: Engine | None) -> float:
    """The score of held-out rows, smaller is better: nats a row unless the family has its own.

    The family's `validate` where it has one; minus the exact log density for families that
    move by updates; the negative ELBO otherwise.
    """
    own = family.validate(batch)
    if own is not None:
        return float(own)
    total = 0.0
    for start in range(0, len(batch), CHUNK):
        part = batch.take(slice(start, start + CHUNK))
        exact = family.exact_log_prob(part, None) if engine is None else None
        if exact is not None:
            total -= float((exact * part.weight).sum())
        elif engine is not None:
            total += float(engine.loss(part)) * float(part.weight.sum())
        else:
            total += float(lean_loss(family, part)) * float(part.weight.sum())
    return total / float(batch.weight.sum())


class _Adam:
    """Adam with gradient clipping and weight decay, in as few kernels as torch allows."""

    def __init__(self, parameters: list[nn.Parameter], rate: float, training: Training) -> None:
        self.parameters, self.clip = parameters, training.gradient_clip
        self.decay = training.weight_decay
        self.decayed: list[Tensor] = [p for p in parameters if p.dim() > 1 and self.decay]
        fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
        self.optimiser = torch.optim.Adam(parameters, lr=rate, fused=fused) if parameters else None

    def descend(self, gradients: Sequence[Tensor | None], rate: float) -> None:
        if self.optimiser is None:
            return
        # one of a constant is a view of a single number, which cannot be changed in place
        gradients = [None if g is None else g.contiguous() for g in gradients]
        if self.clip is not None:
            present = [g for g in gradients if g is not None]
            if not present:
                return
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(present)))
            torch._foreach_mul_(present, (self.clip / norm).clamp(max=1.0))
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.decayed:
            with torch.no_grad():
                torch._foreach_mul_(self.decayed, 1 - rate * self.decay)
        self.optimiser.param_groups[0]["lr"] = rate
        self.optimiser.step()
        for parameter in self.parameters:
            parameter.grad = None

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        if self.optimiser is None:
            return {}
        state = self.optimiser.state
        return {
            f"{prefix}{i}.{key}": value
            for i, parameter in enumerate(self.parameters)
            for key, value in state.get(parameter, {}).items()
        }

    def load(self, prefix: str, tensors: dict[str, Tensor]) -> None:
        if self.optimiser is None:
            return
        self.optimiser.state.clear()
        for i, parameter in enumerate(self.parameters):
            start = f"{prefix}{i}."
            found = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            if found:
                device = parameter.device
                self.optimiser.state[parameter] = {k: v.to(device) for k, v in found.items()}


class _Sliced:
    """Minibatches: one permutation an epoch, cut into slices of equal size.

    Where the rows do not divide, the last slice is filled up with the first rows of the
    permutation: every row is seen once an epoch, fewer than one slice of them twice, each slice
    is a random sample without repetition, and one compiled step serves for all.
    """

    #: why the steps are computed as they are
    reason = ""

    def __init__(self, batch: Batch, size: int) -> None:
        self.batch, self.size = batch, max(1, min(size, len(batch)))
        self.rank, self.world = processes()
        self.first = True  # distributions are checked in the first step only

    def slices(self, generator: torch.Generator) -> Iterator[Batch]:
        n = len(self.batch)
        count = -(-n // self.size)
        if count == 1 and self.world == 1:
            yield self.batch
            return
        order = torch.randperm(n, generator=generator).to(self.batch.seen.device)
        size = -(-n // count)
        order = torch.cat([order, order[: size * count - n]])
        for rows in order.split(size):
            if self.world == 1:
                yield self.batch.take(rows)
            elif len(rows) >= self.world:
                yield self._share(rows)

    def _share(self, rows: Tensor) -> Batch:
        """This process's rows, scaled so that the mean over processes is the whole slice."""
        mine = self.batch.take(rows[self.rank :: self.world])
        whole = float(self.batch.weight[rows].sum())
        part = self.world * float(mine.weight.sum()) / whole
        return replace(mine, total=mine.total * part)

    def shrink(self) -> int:
        if self.size <= 1:
            return 0
        self.size = self.size // 2
        return self.size

    def close(self) -> None:
        """Leave the parameters of the family as they were found, each a tensor of its own."""


class Gradients(_Sliced):
    """Steps of Adam on the negative ELBO, eager or as one graph.

    The first step decides: by `Training.compile`, and for "auto" by the steps that are certain
    and the work of one, which `compiled.pays` weighs against the time to compile. That goes by
    sizes alone, never by a clock, so that a fit can be repeated bit for bit.
    """

    def __init__(self, family: Family, batch: Batch, training: Training, size: int) -> None:
        super().__init__(batch, size)
        self.family, self.rate, self.training = family, training.learning_rate, training
        self.chosen = choose_engine(family, batch)
        self.engine, self.reason = self.chosen.name, ""
        self.parameters = [p for p in family.parameters() if p.requires_grad]
        self.adam = _Adam(self.parameters, self.rate, training)
        self.graph: Step | None = None
        self.undecided, self.epochs = True, 0

    def epoch(self, generator: torch.Generator) -> Iterator[Tensor]:
        self.epochs += 1
        for number, rows in enumerate(self.slices(generator)):
            if not number:
                self._decide(rows)
            loss = self._as_graph(rows)
            yield self._eager(rows) if loss is None else loss

    def _eager(self, rows: Batch) -> Tensor:
        loss = self._loss(rows)
        gradients: list[Tensor | None] = []
        if self.parameters and loss.requires_grad:  # a pair may have nothing to learn
            gradients += torch.autograd.grad(loss, self.parameters, allow_unused=True)
        gradients = gradients or [None] * len(self.parameters)
        loss = self._mean(loss.detach(), gradients)
        self.adam.descend(gradients, self.rate)
        return loss

    # --- the step as one graph ------------------------------------------------------------

    def _decide(self, rows: Batch) -> None:
        """Make the graph before the first step; hold it to the eager loss from time to time."""
        try:
            if self.undecided:
                self._make(rows)
            elif self.graph is not None and self.epochs & (self.epochs - 1) == 0:
                want = eager(self.family, self.chosen.loss, self.parameters, rows)
                self.graph.hold(rows, want, LATER)
        except Refused as refused:
            self._give_up(str(refused))

    def _make(self, rows: Batch) -> None:
        compile_, steps = self.training.compile, -(-len(self.batch) // self.size)
        certain = ahead(self.training, steps)
        self.reason = too_short(rows, certain, self.world, compile_)
        if self.reason:
            self.undecided = False
            return
        with validated(self.first):
            first = eager(self.family, self.chosen.loss, self.parameters, rows)
        if not first.finite:  # the loop will lower the rate; the next epoch decides
            return
        self.undecided = False
        self.reason = pays(first.work, certain) if compile_ == "auto" else ""
        if self.reason:
            return
        graph = Step(
            self.family, self.chosen.loss, self.parameters, self.training, rows, first
        )  # fmt: skip
        graph.load("adam", self.adam.tensors("adam"))
        self.graph, self.engine, self.reason = graph, graph.engine, graph.reason

    def _as_graph(self, rows: Batch) -> Tensor | None:
        """A step by the graph, or None where there is none."""
        if self.graph is None:
            return None
        try:
            return self.graph(rows, self.rate)
        except Refused as refused:
            self._give_up(str(refused))
            return None

    def _give_up(self, reason: str) -> None:
        """Go on with eager steps from the present state."""
        self.undecided = False
        if self.graph is not None:
            self.adam.load("adam", {k: v.clone() for k, v in self.tensors().items()})
            self.close()
        self.graph, self.engine, self.reason = None, self.chosen.name, reason
        warn(
            message(
                f"a training step that is not compiled: {reason}",
                "a model and a guide of torch operations whose shapes and conditions do not "
                "depend on values",
                "set compile=False; the result is the same, later",
            ),
            RuntimeWarning,
        )

    def close(self) -> None:
        """Leave the parameters of the family as they were found, each a tensor of its own."""
        if self.graph is not None:
            self.graph.release()

    # --- the eager step -------------------------------------------------------------------

    def _loss(self, rows: Batch) -> Tensor:
        if self.first:  # entering the context at every step would cost more than it checks
            self.first = False
            with validated():
                loss = self.chosen.loss(rows)
        else:
            loss = self.chosen.loss(rows)
        # per row of the whole table, also where `_share` rescaled
        return loss if self.world == 1 else loss * (rows.total / self.batch.total)

    def _mean(self, loss: Tensor, gradients: Sequence[Tensor | None]) -> Tensor:
        """Loss and gradients averaged over processes, in one message."""
        if self.world == 1:
            return loss
        present = [g for g in gradients if g is not None]
        flat = torch.cat([loss.reshape(1), *(g.reshape(-1) for g in present)])
        distributed.all_reduce(flat)
        flat /= self.world
        sizes = [g.numel() for g in present]
        for gradient, value in zip(present, flat[1:].split(sizes), strict=True):
            gradient.copy_(value.view_as(gradient))
        return flat[0]

    def held_out(self, batch: Batch) -> float:
        return held_out(self.family, batch, self.chosen)

    def tensors(self) -> dict[str, Tensor]:
        return (self.graph or self.adam).tensors("adam")

    def load(self, tensors: dict[str, Tensor]) -> None:
        (self.graph or self.adam).load("adam", tensors)


class Objectives(_Sliced):
    """Several losses, each with its own parameters and Adam, in turn on every slice."""

    engine = "objectives"

    def __init__(self, family: Family, batch: Batch, training: Training, size: int) -> None:
        super().__init__(batch, size)
        if self.world > 1:
            raise NotSupported(
                message("several processes", "one process for several objectives", "use one")
            )
        self.family, self.rate, self.step = family, training.learning_rate, 0
        self.objectives = family.objectives()
        self.adams = [_Adam(list(o.parameters), self.rate, training) for o in self.objectives]

    def epoch(self, generator: torch.Generator) -> Iterator[Tensor]:
        for rows in self.slices(generator):
            losses = []
            for objective, adam in zip(self.objectives, self.adams, strict=True):
                if self.step % objective.every:
                    continue
                with validated(self.first):
                    loss = objective.loss(rows)
                gradients = torch.autograd.grad(loss, adam.parameters, allow_unused=True)
                adam.descend(list(gradients), self.rate)
                losses.append(loss.detach())
            self.first = False
            self.step += 1
            yield torch.stack(losses).sum() if losses else torch.tensor(0.0)

    def held_out(self, batch: Batch) -> float:
        value = self.family.validate(batch)
        if value is None:
            name = type(self.family).__name__
            raise NotSupported(
                message(
                    f"{name} with several objectives and no held-out score",
                    "a method validate(batch)",
                    "write it, or train without held-out rows",
                )
            )
        return float(value)

    def tensors(self) -> dict[str, Tensor]:
        out = {"step": torch.tensor(self.step)}
        for i, adam in enumerate(self.adams):
            out.update(adam.tensors(f"adam{i}-"))
        return out

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.step = int(tensors["step"])
        for i, adam in enumerate(self.adams):
            adam.load(f"adam{i}-", tensors)


class Updates(_Sliced):
    """Closed-form natural-gradient steps of the family itself.

    On the whole table with rate 1; on minibatches with the rates (t + delay)^-kappa of
    Robbins and Monro (1951), as in Hoffman et al. (2013), Stochastic variational inference.
    """

    engine = "updates"

    def __init__(self, family: Family, batch: Batch, training: Training, size: int) -> None:
        super().__init__(batch, size)
        if self.world > 1:
            raise NotSupported(
                message("several processes", "one process for closed-form updates", "use one")
            )
        self.family, self.step, self.rate = family, 0, 1.0
        self.delay, self.kappa = training.delay, training.kappa

    @property
    def whole(self) -> bool:
        """Whether each step sees the whole table."""
        return self.size >= len(self.batch)

    def epoch(self, generator: torch.Generator) -> Iterator[float]:
        for rows in self.slices(generator):
            rate = 1.0 if self.whole else (self.step + self.delay) ** -self.kappa
            self.step += 1
            yield self.family.update(rows, rate * self.rate)

    def held_out(self, batch: Batch) -> float:
        return held_out(self.family, batch, None)

    def tensors(self) -> dict[str, Tensor]:
        return {"step": torch.tensor(self.step)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.step = int(tensors["step"])


def processes() -> tuple[int, int]:
    """(rank, number of processes) of a data-parallel run; (0, 1) for an ordinary one.

    Joins the group that ``torchrun`` announces through the environment if no one did.
    """
    if not distributed.is_available():
        return 0, 1
    if not distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return 0, 1
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return distributed.get_rank(), distributed.get_world_size()
