"""Adam with clipping and decoupled weight decay: on parameters, and written into a graph.

Kingma and Ba (2015), Adam: a method for stochastic optimization; decay as in Loshchilov and
Hutter (2019), Decoupled weight decay regularization. Both forms give the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from probgen.training import Training

__all__ = ["BETA1", "Adam", "FlatAdam"]

#: of the moments, and beside the root of the second, as in torch
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
#: names of the moments in torch's own state
MOMENTS = ("exp_avg", "exp_avg_sq")


class Adam:
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


class FlatAdam:
    """The same optimiser on one flat tensor, of which the parameters become views.

    Parameters
    ----------
    parameters : list of nn.Parameter
        Of one type, on one device.
    training : Training
        Clipping and decay.

    Attributes
    ----------
    flat : Tensor (p,)
        All parameters; a change of it changes them.
    moments : tuple of Tensor (p,)
        First and second.
    count : int
        Steps so far.
    """

    def __init__(self, parameters: list[nn.Parameter], training: Training) -> None:
        self.parameters = parameters
        self.clip, self.decay = training.gradient_clip, training.weight_decay
        self.sizes = [p.numel() for p in parameters]
        self.flat = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.moments = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.count = 0
        for parameter, piece in zip(parameters, self.split(self.flat), strict=True):
            parameter.data = piece

    def split(self, flat: Tensor) -> list[Tensor]:
        """A flat tensor (p,) as views in the shapes of the parameters."""
        pieces = zip(flat.split(self.sizes), self.parameters, strict=True)
        return [piece.view(parameter.shape) for piece, parameter in pieces]

    def release(self) -> None:
        """Give every parameter a tensor of its own again."""
        for parameter in self.parameters:
            parameter.data = parameter.data.clone()

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """The state under the names of `Adam`, which can go on from it."""
        if not self.count:
            return {}
        found = {}
        for i, pair in enumerate(zip(*map(self.split, self.moments), strict=True)):
            found[f"{prefix}{i}.step"] = torch.tensor(float(self.count))
            found |= {f"{prefix}{i}.{k}": v for k, v in zip(MOMENTS, pair, strict=True)}
        return found

    def load(self, prefix: str, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`, of either class; nothing means no step yet."""
        steps = [int(v) for k, v in tensors.items() if k.endswith(".step")]
        self.count = max(steps, default=0)
        for moment, key in zip(self.moments, MOMENTS, strict=True):
            for i, piece in enumerate(self.split(moment)):
                found = tensors.get(f"{prefix}{i}.{key}")
                piece.zero_() if found is None else piece.copy_(found)

    def state(self, rate: float) -> list[Tensor]:
        """What `descend` takes besides a gradient, for a step at this rate."""
        count = max(1, self.count)
        bias = 1 / (1 - BETA1**count), 1 / math.sqrt(1 - BETA2**count)
        numbers = self.flat.new_tensor([rate * bias[0], bias[1], rate * self.decay])
        return [self.flat, *self.moments, numbers]

    def descend(
        self, flat: Tensor, first: Tensor, second: Tensor, numbers: Tensor, gradient: Tensor
    ) -> None:
        """One step, in place, by operations that a graph can hold."""
        if self.clip is not None:
            norm = torch.linalg.vector_norm(gradient)
            gradient = gradient * (self.clip / norm).clamp(max=1.0)
        first.lerp_(gradient, 1 - BETA1)
        second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        change = numbers[0] * first / (second.sqrt() * numbers[1] + EPS)
        if self.decay:
            on = [flat.new_full((p.numel(),), float(p.dim() > 1)) for p in self.parameters]
            change = change + numbers[2] * torch.cat(on) * flat
        flat.sub_(change)
