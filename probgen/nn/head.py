"""What every head of a kind of slot is, and the randomness it draws with."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["Head", "Source", "log1mexp", "uniform"]

#: where uniforms come from: a generator, torch's global one, or a function of a shape
Source: TypeAlias = torch.Generator | Callable[[Sequence[int]], Tensor] | None


class Head(nn.Module, ABC):
    """The distributions of g slots of one form, each by `width` numbers of the network."""

    width: int

    def __init__(self, members: Sequence[int]) -> None:
        super().__init__()
        self.members = list(members)

    def spreads(self) -> list[bool]:
        """Which of the outputs of a slot say how far it spreads."""
        return [False] * self.width

    @abstractmethod
    def centre_of(self, out: Tensor) -> Tensor:
        """One value (..., n, g) that stands for each cell: the mean, or the likeliest code."""

    @abstractmethod
    def start(self, x: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
        """Read the training cells x (n, g); the outputs (g, width) that give the marginals."""

    @abstractmethod
    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        """Log density (..., n, g) of cells x (n, g) under outputs (..., n, g, width)."""

    @abstractmethod
    def draw(self, out: Tensor, member: int, generator: Source) -> Tensor:
        """Values (n,) of one slot, from outputs (n, width)."""


def uniform(like: Tensor, generator: Source) -> Tensor:
    """Float64 uniforms of the shape of a tensor; on its device where the generator is."""
    if callable(generator):
        return generator(like.shape)
    source = like.device if generator is None else generator.device
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64, device=source)
    return drawn.to(like.device)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(-x)) for x > 0 with all its digits."""
    small = x < math.log(2)
    return torch.where(
        small,
        (-torch.expm1(-torch.where(small, x, torch.ones_like(x)))).clamp_min(1e-37).log(),
        (-torch.exp(-torch.where(small, torch.ones_like(x), x))).log1p(),
    )
