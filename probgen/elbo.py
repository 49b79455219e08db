"""The evidence lower bound of a pair in one pass of one messenger, without trace objects.

Pyro's own estimators record two traces and walk them; on small steps that costs more than
the arithmetic. `Lean` adds ``scale * mask * log p - log q`` up while the pair runs. It is
exact where the noise of the guide is reparametrised. Other pairs are handed to Pyro:
sites whose gradient needs the score function to `Trace_ELBO`, enumerated sites to
`TraceEnum_ELBO`. What touches Pyro's messages lives here and in `batch`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor, nn

from probgen.batch import Batch
from probgen.errors import NotSupported, message
from probgen.family import Family
from probgen.session import noise

__all__ = ["Need", "PairKind", "estimator", "inspect_pair", "lean_loss", "pyro_loss"]

#: how the gradient of a pair's ELBO can be estimated
PairKind = Literal["pathwise", "score", "enumerate"]

Message = dict[str, Any]
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class _Lean(Messenger):
    """Adds up the ELBO of a guide, then of a model replayed against it.

    Sits below the plates in the stack of handlers, so it sees each site in its final form.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Tensor] = {}
        self.normals: dict[str, _Normal] = {}
        self.in_model = False
        #: the ELBO as a sum of tensors times numbers, and a number
        self.parts: list[tuple[Tensor, float]] = []
        self.constant = 0.0

    def _process_message(self, msg: Message) -> None:
        if msg["type"] != "sample" or msg["done"] or msg["value"] is not None:
            return
        if self.in_model:
            value = self.values.get(msg["name"])
            if value is None:
                return
        else:
            normal = _as_normal(msg["fn"])
            if normal is None or msg["args"] or msg["kwargs"]:
                return
            # the same random bits as `rsample`, and the noise is kept: log q needs no more
            self.normals[msg["name"]] = normal
            value = normal.draw()
        msg["value"] = value
        msg["done"] = True

    def _postprocess_message(self, msg: Message) -> None:
        if msg["type"] != "sample" or "_deterministic" in msg["infer"]:
            return
        name = msg["name"]
        if isinstance(msg["fn"], _Subsample):  # the indices of a plate: no density
            self.values[name] = msg["value"]
        elif self.in_model:
            # a latent that the guide lacks was proposed from the model: log p - log q = 0
            if msg["is_observed"] or name in self.values:
                self._add(msg, 1.0)
        else:
            if not msg["is_observed"]:
                self.values[name] = msg["value"]
            self._add(msg, -1.0)

    def _add(self, msg: Message, sign: float) -> None:
        mask, scale = msg["mask"], msg["scale"]
        if mask is False:
            return
        normal = None if self.in_model else self.normals.get(msg["name"])
        if normal is None and not msg["args"] and not msg["kwargs"]:
            normal = _as_normal(msg["fn"])
        if normal is not None:
            unit = normal.unit(msg["value"])
            if (mask is None or mask is True) and not isinstance(scale, Tensor):
                parts, constant = normal.total(unit)
                self.parts += [(part, factor * scale * sign) for part, factor in parts]
                self.constant += constant * scale * sign
                return
            log_prob = normal.rows(unit)
        else:
            log_prob = msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        if isinstance(mask, Tensor):
            # where, not a product: a masked cell may hold -inf or NaN
            log_prob = torch.where(mask, log_prob, log_prob.new_zeros(()))
        if isinstance(scale, Tensor):
            log_prob, scale = log_prob * scale, 1.0
        self.parts.append((log_prob.sum(), scale * sign))

    def total(self, factor: float) -> Tensor:
        """The ELBO times `factor`."""
        out = torch.tensor(self.constant * factor)
        if self.parts:
            (first, weight), *rest = self.parts
            out = first * (weight * factor)
            for part, weight in rest:
                out = torch.add(out, part, alpha=weight * factor)
            if self.constant:
                out = out + self.constant * factor
        return out


class _Normal:
    """A normal site, read without the broadcasting that `dist.Normal` does at birth.

    Most sites of a row are normal; with one scale a column, its logarithm and reciprocal
    are needed once a column, not once a cell.
    """

    __slots__ = ("event", "loc", "noise", "scale", "shape")

    def __init__(self, fn: Any, event: int) -> None:
        self.shape, self.event = fn.loc.shape, event
        self.loc, self.scale = _unexpand(fn.loc), _unexpand(fn.scale)
        self.noise: Tensor | None = None

    def draw(self) -> Tensor:
        """A differentiable draw with the random bits of `rsample`; the noise is kept."""
        self.noise = torch.randn(self.shape, dtype=self.loc.dtype, device=self.loc.device)
        return torch.addcmul(self.loc, self.scale, self.noise)

    def unit(self, value: Tensor) -> Tensor:
        """(value - loc) / scale.

        For an own draw that is the noise, a constant: the gradient of its square through
        value cancels the one through loc and scale.
        """
        if self.noise is not None:
            return self.noise
        unit = (value - self.loc) / self.scale
        if unit.shape != self.shape:
            unit = unit.expand(torch.broadcast_shapes(unit.shape, self.shape))
        return unit

    def total(self, unit: Tensor) -> tuple[list[tuple[Tensor, float]], float]:
        """Log density summed over the batch: tensors with their factors, and a constant."""
        size, flat = unit.numel(), unit.reshape(-1)
        log_scale = self.scale.log()
        if log_scale.dim():
            log_scale = log_scale.sum()
        parts = [(torch.dot(flat, flat), -0.5), (log_scale, -size / self.scale.numel())]
        return parts, -size * HALF_LOG_TAU

    def rows(self, unit: Tensor) -> Tensor:
        """Log density of each element of the batch."""
        cells = unit.square() * -0.5 - (self.scale.log() + HALF_LOG_TAU)
        return cells.flatten(-self.event).sum(-1) if self.event else cells


def _as_normal(fn: Any) -> _Normal | None:
    """The normal distribution that `fn` is, whatever number of dims are its event."""
    event = 0
    while type(fn) is dist.Independent:
        event += fn.reinterpreted_batch_ndims
        fn = fn.base_dist
    return _Normal(fn, event) if type(fn) is dist.Normal else None


def _unexpand(tensor: Tensor) -> Tensor:
    """The tensor that `tensor` is an expanded view of; itself where it is none."""
    base = tensor._base if 0 in tensor.stride() else None
    if base is None or base.storage_offset() != tensor.storage_offset():
        return tensor
    if base.requires_grad != tensor.requires_grad:  # detached on the way
        return tensor
    lead = tensor.dim() - base.dim()
    if lead < 0 or any(tensor.stride()[:lead]):
        return tensor
    rest = zip(tensor.shape[lead:], tensor.stride()[lead:], base.shape, base.stride(), strict=True)
    same = all(a == c and b == d or (b == 0 and c == 1) for a, b, c, d in rest)
    return base if same else tensor


def lean_loss(family: Family, batch: Batch) -> Tensor:
    """Negative ELBO per row of the table, one particle, differentiable: a scalar, nats.

    Equal to ``Trace_ELBO().differentiable_loss`` divided by ``batch.total`` at the same
    random state, in value and gradient, for guides whose noise is reparametrised; except
    that a latent of the model that the guide lacks contributes 0. Enter `guarded` first.
    """
    lean = _Lean()
    with lean:
        family.guide(batch)
        lean.in_model = True
        family.model(batch)
    return lean.total(-1.0 / batch.total)


def pyro_loss(elbo: Trace_ELBO | TraceEnum_ELBO, family: Family) -> Callable[[Batch], Tensor]:
    """The same number by one of Pyro's estimators, surrogate gradient included."""

    def loss(batch: Batch) -> Tensor:
        run = elbo.differentiable_loss if torch.is_grad_enabled() else elbo.loss
        return torch.as_tensor(run(family.model, family.guide, batch)) / batch.total

    return loss


@dataclass
class _Inspect(Messenger):
    """Notes which estimator the sites of a pair need."""

    guide: dict[str, Tensor] = field(default_factory=dict)
    score: list[str] = field(default_factory=list)
    enumerated: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    nesting: int = 0
    in_model: bool = False

    def _process_message(self, msg: Message) -> None:
        if self.in_model and msg["type"] == "sample" and msg["name"] in self.guide:
            if not msg["is_observed"]:
                msg["value"] = self.guide[msg["name"]]
                msg["done"] = True

    def _postprocess_message(self, msg: Message) -> None:
        if msg["type"] != "sample" or "_deterministic" in msg["infer"]:
            return
        name, fn = msg["name"], msg["fn"]
        if isinstance(fn, _Subsample):
            self.guide[name] = msg["value"]
            return
        latent = not msg["is_observed"]
        dims = [-frame.dim for frame in msg["cond_indep_stack"] if frame.vectorized]
        self.nesting = max(self.nesting, *dims, 0)
        if latent and msg["infer"].get("enumerate") in ("parallel", "sequential"):
            self.enumerated.append(name)
        if not self.in_model:
            if latent:
                self.guide[name] = msg["value"]
            if not fn.has_rsample and (latent or isinstance(fn, dist.Unit)):
                self.score.append(name)
        elif latent and name not in self.guide and not fn.has_rsample:
            if fn.log_prob(msg["value"]).requires_grad:
                self.orphans.append(name)


@dataclass(frozen=True)
class Need:
    """Which estimator a pair needs, and how deep its plates are nested."""

    kind: PairKind
    nesting: int


def buffers_of(family: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, owner and own name of each buffer."""
    for name, _ in family.named_buffers():
        path, _, leaf = name.rpartition(".")
        yield name, family.get_submodule(path), leaf


@contextmanager
def same_buffers(family: nn.Module) -> Iterator[None]:
    """Leave the buffers as they were, those too that are replaced by others inside."""
    before = [(owner, leaf, owner._buffers[leaf]) for _, owner, leaf in buffers_of(family)]
    values = [None if held is None else held.clone() for _, _, held in before]
    try:
        yield
    finally:
        with torch.no_grad():
            for (owner, leaf, held), value in zip(before, values, strict=True):
                owner._buffers[leaf] = held
                if held is not None and value is not None:
                    held.copy_(value)


def inspect_pair(family: Family, batch: Batch) -> Need:
    """Run the pair once on a few rows and say which estimator its gradient needs.

    Neither the random state nor the family's buffers are changed.

    Raises
    ------
    NotSupported
        If the model draws a discrete latent with learned parameters that the guide lacks
        and that is not enumerated: no unbiased gradient is implemented for it.
    """
    few = batch.take(slice(0, 2))
    probe = _Inspect()
    Messenger.__init__(probe)
    with same_buffers(family), noise(0), torch.enable_grad(), probe:
        family.guide(few)
        probe.in_model = True
        family.model(few)
    if probe.enumerated:
        return Need("enumerate", probe.nesting)
    if probe.orphans:
        name = type(family).__name__
        raise NotSupported(
            message(
                f"latent site {probe.orphans[0]!r} in the model of {name} that its guide lacks"
                " and whose draws cannot be differentiated",
                "a guide site of that name, or enumeration",
                'mark the site infer={"enumerate": "parallel"} or sum it out',
            )
        )
    return Need("score" if probe.score else "pathwise", probe.nesting)


def estimator(need: Need) -> Trace_ELBO | TraceEnum_ELBO:
    """A fresh estimator of Pyro (they remember the plates of the first model they see)."""
    if need.kind == "enumerate":
        return TraceEnum_ELBO(max_plate_nesting=need.nesting, strict_enumeration_warning=False)
    return Trace_ELBO(max_plate_nesting=need.nesting)
