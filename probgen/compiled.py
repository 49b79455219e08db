"""The whole training step as one graph: loss, gradient, clipping, Adam.

Parameters and the moments of Adam lie in one flat tensor each, of which the `nn.Parameter`s of
the family are views: states are read, saved and put back as ever. The graph is traced from the
family's own loss on the first batch, compiled, and held to the eager gradient of that batch
before a step is taken. Whatever fails raises `Refused` with a reason, and the eager step goes on.

Frozen into the graph are the number of rows, the total weight, the mode of training and
whatever numbers and conditions of Python the family has. A family that changes such a number
while it is trained would be trained on its first value: so the graph is held to the eager loss
again in epochs 2, 4, 8 and so on.
"""

from __future__ import annotations

import math
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from probgen.batch import Batch
from probgen.family import Family
from probgen.tracing import Run, Work, compile_graph, has_compiler, signature, trace
from probgen.training import Training

__all__ = ["Refused", "Step", "ahead", "eager", "pays", "too_short"]

Loss = Callable[[Batch], Tensor]

#: of Adam, as in torch
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
#: seconds that compiling takes: at least, and for each operation of an eager step; and what a
#: compiled step saves for each operation, and each number that it writes
#: (benchmarks/compiled.py)
FIXED, EACH = 6.0, 0.014
SAVED, SAVED_NUMBER = 4e-6, 2e-10
#: steps below which nothing was seen to pay: the eager step is then not even counted
FEWEST = 500
#: largest difference to the eager gradient, relative, in the first step and in later epochs
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
LATER = 1e-2
#: graphs that are kept for another start or restart with the same one
KEPT = 8
_COMPILED: OrderedDict[object, Run] = OrderedDict()


class Refused(Exception):  # noqa: N818 - a way to go on, not an error
    """The step stays eager, for the reason that this says."""


def ahead(training: Training, steps: int) -> int:
    """Steps that a fit of so many steps an epoch takes in any case.

    Early stopping is patient for `patience` epochs at least, and for half as many again after
    the rate has fallen; `max_epochs` is seldom reached.
    """
    epochs = training.patience
    if training.schedule == "plateau":
        epochs += training.patience - training.patience // 2
    if training.schedule == "cosine":
        epochs = training.max_epochs
    return steps * min(epochs, training.max_epochs)


def too_short(rows: Batch, certain: int, world: int, compile_: bool | str) -> str:
    """Why compiling is out of the question, or ''."""
    if compile_ is False:
        return "compile=False"
    if world > 1:
        return "several processes average their gradients between loss and step"
    if compile_ is True:
        return ""
    if certain < FEWEST:
        return f"{certain} steps are certain, too few to pay for compiling"
    if rows.seen.device.type != "cpu":
        return "what pays was measured on the CPU; compile=True tries on others"
    return ""


def pays(work: Work, steps: int) -> str:
    """Why compiling does not pay within so many steps, or ''. Goes by sizes alone."""
    saved = steps * (SAVED * work.operations + SAVED_NUMBER * work.numbers)
    cost = FIXED + EACH * work.operations
    if saved > cost:
        return ""
    return (
        f"{steps} steps are certain, which would save {saved:.2g} s; compiling takes {cost:.2g} s"
    )


@dataclass(frozen=True)
class Eager:
    """Loss and gradients of some rows at the present parameters, and the work they took."""

    loss: Tensor
    gradients: list[Tensor | None]
    work: Work

    @property
    def finite(self) -> bool:
        """Whether all of it is finite."""
        parts = [self.loss, *(g for g in self.gradients if g is not None)]
        return all(bool(v.isfinite().all()) for v in parts)


def eager(family: Family, loss: Loss, parameters: Sequence[nn.Parameter], rows: Batch) -> Eager:
    """The eager gradient, from the present random state, which stays as it is."""
    work = Work()
    with _undone(family), work:
        value = loss(rows)
        if not (parameters and value.requires_grad):
            raise Refused("the pair has nothing to learn")
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    return Eager(value.detach(), list(gradients), work)


@contextmanager
def _undone(family: Family) -> Iterator[None]:
    """Leave random states and buffers as they were."""
    devices = sorted({p.device.index for p in family.parameters() if p.is_cuda})
    places = list(_buffers(family))
    before = [(owner, leaf, held, held.clone()) for _, owner, leaf in places
              for held in [owner._buffers[leaf]] if held is not None]  # fmt: skip
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for owner, leaf, held, value in before:
                owner._buffers[leaf] = held.copy_(value)


def _buffers(family: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, owner and own name of each buffer."""
    for name, _ in family.named_buffers():
        path, _, leaf = name.rpartition(".")
        yield name, family.get_submodule(path), leaf


class _Loss(nn.Module):
    """The loss as the forward pass of a module, whose tensors torch can swap for others."""

    def __init__(self, family: Family, loss: Loss) -> None:
        super().__init__()
        self.family, self.loss = family, loss

    def forward(self, rows: Batch, buffers: Sequence[Tensor]) -> Tensor:
        value = self.loss(rows)
        with torch.no_grad():
            for (_, owner, leaf), given in zip(_buffers(self.family), buffers, strict=True):
                now = owner._buffers[leaf]
                if now is not None and now is not given:  # the family put another in its place
                    given.copy_(now)
        return value


class Step:
    """Steps of Adam on the negative ELBO as calls of one graph.

    Parameters
    ----------
    family : Family
        Its parameters become views of one flat tensor, until `release`.
    loss : callable
        Batch to negative ELBO a row.
    parameters : list of nn.Parameter
        What is learned.
    training : Training
    rows : Batch
        The first batch: every later one has its sizes.
    first : Eager
        The eager gradient of these rows.

    Attributes
    ----------
    engine : {"compiled", "traced"}
        Whether the graph was compiled, or is run operation by operation.
    reason : str
        Why it was not compiled, or what was.

    Raises
    ------
    Refused
        If the pair cannot be traced, or the gradients differ.
    """

    def __init__(
        self,
        family: Family,
        loss: Loss,
        parameters: list[nn.Parameter],
        training: Training,
        rows: Batch,
        first: Eager,
    ) -> None:
        kinds = {(p.dtype, p.device) for p in parameters}
        if len(kinds) != 1 or not next(iter(kinds))[0].is_floating_point:
            raise Refused("the parameters are of several types or on several devices")
        self.family, self.loss, self.parameters = family, loss, parameters
        self.clip, self.decay = training.gradient_clip, training.weight_decay
        self.sizes = [p.numel() for p in parameters]
        self.names = {id(p): name for name, p in family.named_parameters()}
        self.frozen = [p for p in family.parameters() if all(p is not q for q in parameters)]
        self.places = list(_buffers(family))
        self.flat = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.moments = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.count = 0
        self._view()
        try:
            self._build(rows)
            self.hold(rows, first, TOLERANCE.get(self.flat.dtype, LATER))
        except BaseException:
            self.release()
            raise

    # --- parameters ---------------------------------------------------------------------

    def _view(self) -> None:
        for parameter, piece in zip(self.parameters, self.flat.split(self.sizes), strict=True):
            parameter.data = piece.view(parameter.shape)

    def release(self) -> None:
        """Give every parameter a tensor of its own again."""
        for parameter in self.parameters:
            parameter.data = parameter.data.clone()

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """The state of Adam under the names of the eager step, which can go on from it."""
        if not self.count:
            return {}
        found = {}
        pairs = zip(*(m.split(self.sizes) for m in self.moments), strict=True)
        for i, (parameter, pair) in enumerate(zip(self.parameters, pairs, strict=True)):
            found[f"{prefix}{i}.step"] = torch.tensor(float(self.count))
            for key, value in zip(("exp_avg", "exp_avg_sq"), pair, strict=True):
                found[f"{prefix}{i}.{key}"] = value.view(parameter.shape)
        return found

    def load(self, prefix: str, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`, of either step; nothing means no step yet."""
        steps = [int(v) for k, v in tensors.items() if k.endswith(".step")]
        self.count = max(steps, default=0)
        for moment, key in zip(self.moments, ("exp_avg", "exp_avg_sq"), strict=True):
            for i, piece in enumerate(moment.split(self.sizes)):
                found = tensors.get(f"{prefix}{i}.{key}")
                piece.zero_() if found is None else piece.copy_(found.reshape(-1))

    # --- the graph ----------------------------------------------------------------------

    def _inputs(self, rows: Batch) -> list[Tensor]:
        """What a step reads besides parameters, moments and rates; some of it is changed."""
        found = [v.contiguous() for v in (rows.x, rows.seen, rows.weight, rows.context, rows.key)
                 if v is not None]  # fmt: skip
        found += [p.detach() for p in self.frozen]
        for _, owner, leaf in self.places:
            value = owner._buffers[leaf]
            assert value is not None  # noqa: S101 - only such places are kept
            found.append(value)
        return found

    def _build(self, rows: Batch) -> None:
        inputs = [*self._state(0.0), *self._inputs(rows)]
        self.signature = signature(inputs)
        try:
            with _undone(self.family):
                graph = trace(self._traced(rows), inputs)
        except Exception as error:  # noqa: BLE001 - user code may raise anything
            raise Refused(f"the pair cannot be traced: {_short(error)}") from error
        self.run, self.engine, self.reason = _lowered(graph, self.signature)

    def _traced(self, rows: Batch) -> Run:
        """The step as a function of tensors, which changes the first three."""
        holder = _Loss(self.family, self.loss)
        shapes = [p.shape for p in self.parameters]
        names = [f"family.{self.names[id(p)]}" for p in [*self.parameters, *self.frozen]]
        names += [f"family.{name}" for name, _, _ in self.places]
        fields = [f for f in ("x", "seen", "weight", "context", "key")
                  if getattr(rows, f) is not None]  # fmt: skip

        def step(
            flat: Tensor, first: Tensor, second: Tensor, rates: Tensor, *rest: Tensor
        ) -> Tensor:
            own = dict(zip(fields, rest, strict=False))
            given = replace(rows, sites={}, **own)  # type: ignore[arg-type]
            others = rest[len(fields) :]
            pieces = zip(flat.split(self.sizes), shapes, strict=True)
            leaves = [p.view(s).detach().requires_grad_() for p, s in pieces]
            swapped = dict(zip(names, [*leaves, *others], strict=True))
            with torch.enable_grad():
                buffers = others[len(self.frozen) :]
                loss = torch.func.functional_call(holder, swapped, (given, buffers))
                gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
            with torch.no_grad():
                whole = [torch.zeros_like(v) if g is None else g
                         for g, v in zip(gradients, leaves, strict=True)]  # fmt: skip
                self._adam(flat, first, second, rates, torch.cat([g.reshape(-1) for g in whole]))
            return loss.detach()

        return step

    def _adam(
        self, flat: Tensor, first: Tensor, second: Tensor, rates: Tensor, gradient: Tensor
    ) -> None:
        """Clipping, decoupled weight decay and Adam, as the eager step does them."""
        if self.clip is not None:
            norm = torch.linalg.vector_norm(gradient)
            gradient = gradient * (self.clip / norm).clamp(max=1.0)
        first.lerp_(gradient, 1 - BETA1)
        second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        change = rates[0] * first / (second.sqrt() * rates[1] + EPS)
        if self.decay:
            parts = [
                torch.full((size,), float(p.dim() > 1), dtype=flat.dtype, device=flat.device)
                for p, size in zip(self.parameters, self.sizes, strict=True)
            ]
            change = change + rates[2] * torch.cat(parts) * flat
        flat.sub_(change)

    def _state(self, rate: float) -> list[Tensor]:
        """Flat parameters, moments, and the numbers that change from step to step."""
        count = max(1, self.count)
        numbers = [
            rate / (1 - BETA1**count), 1 / math.sqrt(1 - BETA2**count), rate * self.decay,
        ]  # fmt: skip
        rates = torch.tensor(numbers, dtype=self.flat.dtype, device=self.flat.device)
        return [self.flat, *self.moments, rates]

    def __call__(self, rows: Batch, rate: float) -> Tensor:
        """One step; the loss before it. Raises `Refused`, before anything is changed, if the
        rows have other sizes than those of the trace.
        """
        self.count += 1
        inputs = [*self._state(rate), *self._inputs(rows)]
        if signature(inputs) != self.signature:
            self.count -= 1
            raise Refused("a batch or a buffer has another size than in the first step")
        with torch.no_grad():
            return self.run(*inputs)

    # --- verification -------------------------------------------------------------------

    def hold(self, rows: Batch, want: Eager, tolerance: float) -> None:
        """Compare loss and gradient of the graph with the eager ones; nothing is changed.

        A step of rate 0 from moments of 0 leaves a tenth of the clipped gradient in the first
        moment. Each parameter's gradient may be off by `tolerance` of its norm, plus a tenth
        of that of the norm of all.
        """
        keep = self.flat.clone(), *(m.clone() for m in self.moments)
        count, self.count = self.count, 0
        try:
            with torch.no_grad(), _undone(self.family):
                for moment in self.moments:
                    moment.zero_()
                loss = self(rows, 0.0)
                found = self.moments[0] / (1 - BETA1)
        finally:
            self.count = count
            for now, before in zip((self.flat, *self.moments), keep, strict=True):
                now.copy_(before)
        pieces = zip(want.gradients, self.parameters, strict=True)
        wanted = torch.cat([
            torch.zeros_like(p).reshape(-1) if g is None else g.reshape(-1) for g, p in pieces
        ])  # fmt: skip
        norm = torch.linalg.vector_norm(wanted)
        if not want.finite:
            return  # nothing to compare with: the loop will lower the rate
        if self.clip is not None:
            wanted = wanted * (self.clip / norm).clamp(max=1.0)
            norm = norm.clamp(max=self.clip)
        slack = tolerance * max(1.0, abs(float(want.loss)))
        off = abs(float(loss - want.loss))
        if not off <= slack:
            raise Refused(f"the loss of the graph is off by {off:.2g} nats")
        for parameter, a, b in zip(
            self.parameters, found.split(self.sizes), wanted.split(self.sizes), strict=True
        ):
            allowed = tolerance * (torch.linalg.vector_norm(b) + 0.1 * norm)
            off = float(torch.linalg.vector_norm(a - b))
            if not off <= float(allowed):
                name = self.names[id(parameter)]
                raise Refused(f"the gradient of {name} is off by {off:.2g}")


def _lowered(graph: GraphModule, frozen: object) -> tuple[Run, str, str]:
    """What runs the graph, the name of that engine, and the reason for it."""
    if not has_compiler():
        return graph, "traced", "there is no C++ compiler that torch can use"
    constants = [getattr(graph, str(n.target)) for n in graph.graph.nodes if n.op == "get_attr"]
    if all(isinstance(c, Tensor) for c in constants):
        held = tuple((str(c.dtype), tuple(c.shape), tuple(c.reshape(-1).tolist()))
                     for c in constants)  # fmt: skip
        key = graph.code, frozen, held, torch.get_num_threads()
        if key not in _COMPILED:
            try:
                _COMPILED[key] = compile_graph(graph)
            except Exception as error:  # noqa: BLE001 - of the compiler, or of torch's own
                return graph, "traced", f"the compiler failed: {_short(error)}"
        _COMPILED.move_to_end(key)
        while len(_COMPILED) > KEPT:
            _COMPILED.popitem(last=False)
        return _COMPILED[key], "compiled", "the whole step is one graph"
    return graph, "traced", "the graph holds objects that are no tensors"


def _short(error: BaseException) -> str:
    """Kind and first line of an error, and the line of code outside of torch and Pyro."""
    lines = str(error).strip().splitlines()
    said = f": {lines[0][:160]}" if lines else ""
    frames = [f for f in traceback.extract_tb(error.__traceback__)
              if not ({"torch", "pyro"} & set(Path(f.filename).parts[:-1]))]  # fmt: skip
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}{said}"
