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

import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from probgen.adam import BETA1, FlatAdam
from probgen.batch import Batch
from probgen.elbo import buffers_of, same_buffers
from probgen.family import Family
from probgen.tracing import Run, Work, compile_graph, has_compiler, signature, trace
from probgen.training import Training

__all__ = ["Refused", "Step", "eager", "expected", "out_of_question", "pays", "too_little"]

Loss = Callable[[Batch], Tensor]

#: seconds that compiling takes: at least, and for each operation of an eager step; and what a
#: compiled step saves for each operation, and each number that it writes
#: (benchmarks/compiled.py)
FIXED, EACH = 4.0, 0.021
SAVED, SAVED_NUMBER = 5e-6, 3.5e-10
#: steps below which nothing was seen to pay: the eager step is then not even counted
FEWEST = 500
#: largest difference to the eager gradient, relative, in the first step and in later epochs
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
LATER = 1e-2
FAILED = "the compiler failed"
#: graphs that are kept for another start or restart with the same one
KEPT = 8
_COMPILED: OrderedDict[object, Run] = OrderedDict()


class Refused(Exception):  # noqa: N818 - a way to go on, not an error
    """The step stays eager, for the reason that this says; `odd` if no one had to expect it."""

    def __init__(self, reason: str, odd: bool = False) -> None:
        super().__init__(reason)
        self.odd = odd


def expected(training: Training, steps: int) -> int:
    """Steps that a fit of so many steps an epoch will take, cautiously.

    Early stopping waits for `patience` epochs, and half as many again at the lower rate of
    "plateau": no fit is shorter. As many again are taken for the way to the optimum;
    `max_epochs` is seldom reached.
    """
    least = training.patience
    if training.schedule == "plateau":
        least += training.patience - training.patience // 2
    return steps * min(2 * least, training.max_epochs)


def out_of_question(loss: str, world: int) -> str:
    """Why no step of a loss of this name can be one graph, or ''."""
    if world > 1:
        return "several processes average their gradients between loss and step"
    if loss == "traceenum":
        return "Pyro's estimator for enumerated sites looks at the values of tensors"
    return ""


def too_little(rows: Batch, steps: int) -> str:
    """Why "auto" does not even count the work of a step, or ''."""
    if steps < FEWEST:
        return f"some {steps} steps are too few to pay for compiling"
    if rows.seen.device.type != "cpu":
        return "what pays is known on the CPU alone"
    return ""


def pays(work: Work, steps: int) -> str:
    """Why compiling does not pay within so many steps, or ''. Goes by sizes alone."""
    saved = steps * (SAVED * work.operations + SAVED_NUMBER * work.numbers)
    cost = FIXED + EACH * work.operations
    if saved > cost:
        return ""
    return f"some {steps} steps would save {saved:.2g} s, and compiling takes {cost:.2g} s"


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
    with same_buffers(family), torch.random.fork_rng(devices=devices):
        yield


class _Loss(nn.Module):
    """The loss as the forward pass of a module, whose tensors torch can swap for others."""

    def __init__(self, family: Family, loss: Loss) -> None:
        super().__init__()
        self.family, self.loss = family, loss

    def forward(self, rows: Batch, buffers: Sequence[Tensor]) -> Tensor:
        value = self.loss(rows)
        with torch.no_grad():
            for (_, owner, leaf), given in zip(buffers_of(self.family), buffers, strict=True):
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
    odd : bool
        Whether a compiler was there, and failed.

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
        self.family, self.loss, self.adam = family, loss, FlatAdam(parameters, training)
        self.names = {id(p): name for name, p in family.named_parameters()}
        self.frozen = [p for p in family.parameters() if all(p is not q for q in parameters)]
        self.places = list(buffers_of(family))
        #: state of Adam by name, and back, as those of the eager one
        self.tensors, self.load = self.adam.tensors, self.adam.load
        try:
            self._build(rows)
            self.hold(rows, first, TOLERANCE.get(self.adam.flat.dtype, LATER))
        except BaseException:
            self.adam.release()
            raise

    def release(self) -> None:
        """Give every parameter a tensor of its own again."""
        self.adam.release()

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
        inputs = [*self.adam.state(0.0), *self._inputs(rows)]
        self.signature = signature(inputs)
        try:
            with _undone(self.family):
                graph = trace(self._traced(rows), inputs)
        except Exception as error:  # noqa: BLE001 - user code may raise anything
            raise Refused(f"the pair cannot be traced: {_short(error)}") from error
        self.run, self.engine, self.reason = _lowered(graph, self.signature)
        self.odd = self.reason.startswith(FAILED)

    def _traced(self, rows: Batch) -> Run:
        """The step as a function of tensors, which changes the first three."""
        holder = _Loss(self.family, self.loss)
        names = [f"family.{self.names[id(p)]}" for p in [*self.adam.parameters, *self.frozen]]
        names += [f"family.{name}" for name, _, _ in self.places]
        fields = [f for f in ("x", "seen", "weight", "context", "key")
                  if getattr(rows, f) is not None]  # fmt: skip

        def step(
            flat: Tensor, first: Tensor, second: Tensor, numbers: Tensor, *rest: Tensor
        ) -> tuple[Tensor]:
            own = dict(zip(fields, rest, strict=False))
            given = replace(rows, sites={}, **own)  # type: ignore[arg-type]
            others = rest[len(fields) :]
            leaves = [piece.detach().requires_grad_() for piece in self.adam.split(flat)]
            swapped = dict(zip(names, [*leaves, *others], strict=True))
            with torch.enable_grad():
                buffers = others[len(self.frozen) :]
                loss = torch.func.functional_call(holder, swapped, (given, buffers))
                gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
            with torch.no_grad():
                self.adam.descend(flat, first, second, numbers, _flat(gradients, leaves))
            return (loss.detach(),)

        return step

    def __call__(self, rows: Batch, rate: float) -> Tensor:
        """One step; the loss before it. Raises `Refused`, before anything is changed, if the
        rows have other sizes than those of the trace.
        """
        self.adam.count += 1
        inputs = [*self.adam.state(rate), *self._inputs(rows)]
        if signature(inputs) != self.signature:
            self.adam.count -= 1
            raise Refused("a batch or a buffer has another size than in the first step", odd=True)
        with torch.no_grad():
            (loss,) = self.run(*inputs)
        return loss

    # --- verification -------------------------------------------------------------------

    def hold(self, rows: Batch, want: Eager, tolerance: float) -> None:
        """Compare loss and gradient of the graph with the eager ones; nothing is changed.

        A step of rate 0 from moments of 0 leaves a tenth of the clipped gradient in the first
        moment. Each parameter's gradient may be off by `tolerance` of its norm, plus a tenth
        of that of the norm of all.
        """
        if not want.finite:
            return  # nothing to compare with: the loop will lower the rate
        loss, found = self._gradient(rows)
        wanted = _flat(want.gradients, self.adam.parameters)
        norm = torch.linalg.vector_norm(wanted)
        if self.adam.clip is not None:
            wanted = wanted * (self.adam.clip / norm).clamp(max=1.0)
            norm = norm.clamp(max=self.adam.clip)
        off = abs(float(loss - want.loss))
        if not off <= tolerance * max(1.0, abs(float(want.loss))):
            raise Refused(f"the loss of the graph is off by {off:.2g} nats", odd=True)
        pieces = zip(*map(self.adam.split, (found, wanted)), strict=True)
        for parameter, (a, b) in zip(self.adam.parameters, pieces, strict=True):
            allowed = tolerance * (torch.linalg.vector_norm(b) + 0.1 * norm)
            off = float(torch.linalg.vector_norm(a - b))
            if not off <= float(allowed):
                name = self.names[id(parameter)]
                raise Refused(f"the gradient of {name} is off by {off:.2g}", odd=True)

    def _gradient(self, rows: Batch) -> tuple[Tensor, Tensor]:
        """Loss and clipped gradient (p,) by the graph, from the present random state."""
        state = self.adam.flat, *self.adam.moments
        keep, count = [v.clone() for v in state], self.adam.count
        try:
            with torch.no_grad(), _undone(self.family):
                for moment in self.adam.moments:
                    moment.zero_()
                self.adam.count = 0
                loss = self(rows, 0.0)
                return loss, self.adam.moments[0] / (1 - BETA1)
        finally:
            self.adam.count = count
            for now, before in zip(state, keep, strict=True):
                now.copy_(before)


def _flat(gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """Gradients of all parameters as one tensor (p,), 0 where there is none."""
    pairs = zip(gradients, like, strict=True)
    return torch.cat([(torch.zeros_like(v) if g is None else g).reshape(-1) for g, v in pairs])


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
                return graph, "traced", f"{FAILED}: {_short(error)}"
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
