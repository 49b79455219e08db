"""What the training of an autoencoder maximises, and on what practice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["Bound", "BoundKind"]

BoundKind: TypeAlias = Literal["elbo", "iwae"]


@dataclass(frozen=True)
class Bound:
    """What training maximises.

    Attributes
    ----------
    kind : {"elbo", "iwae"}
    particles : int
        Latents of a row in a step.
    beta : float
        Weight of the divergence between guide and prior.
    free_bits : float
        Nats of divergence of each latent dimension that cost nothing.
    warmup : int
        Epochs over which the weight of the divergence rises from 0.
    masked : float
        Share of the rows of a step of which random cells are hidden.
    corruption : float
        Of what the guide reads: sd of noise on reals, share of other cells that are swapped.
    """

    kind: BoundKind = "elbo"
    particles: int = 1
    beta: float = 1.0
    free_bits: float = 0.0
    warmup: int = 0
    masked: float = 0.2
    corruption: float = 0.0

    def hide(
        self, seen: Tensor, columns: Sequence[int], generator: torch.Generator | None = None
    ) -> Tensor:
        """Which cells (n, m) stay seen; the slots of one column (m,) are hidden together."""
        if not self.masked or not columns:
            return seen
        some, luck = (
            torch.rand(len(seen), width, generator=generator,
                       device=seen.device if generator is None else "cpu").to(seen.device)
            for width in (2, 1 + max(columns))
        )  # fmt: skip
        share = torch.where(some[:, 0] < self.masked, some[:, 1], 0.0)
        return seen & (luck[:, columns] >= share[:, None])

    def corrupt(self, x: Tensor, seen: Tensor, real: Tensor) -> Tensor:
        """What the guide reads of cells x (n, m), of which the slots `real` (m,) are numbers."""
        if not self.corruption:
            return x
        moved = x + self.corruption * torch.randn_like(x)
        swap = torch.rand(x.shape, device=x.device, dtype=x.dtype) < self.corruption
        other = torch.randint(len(x), x.shape, device=x.device)
        swap = swap & seen.gather(0, other)
        return torch.where(real, moved, torch.where(swap, x.gather(0, other), x))
