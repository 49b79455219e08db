"""The estimator of variational autoencoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from probgen.estimators.network import NetworkDensity
from probgen.families.autoencoder import Autoencoder, Bound, BoundKind, Scale
from probgen.family import Family
from probgen.nn.latents import GuideKind, PriorKind
from probgen.schema import Schema

__all__ = ["VAE"]


@dataclass(eq=False, repr=False)
class VAE(NetworkDensity):
    """A variational autoencoder of a mixed table: a latent point a row, cells given it."""

    latents: int | None = None
    hidden: Sequence[int] = (128, 128)
    prior: PriorKind = "normal"
    guide: GuideKind = "diagonal"
    bound: BoundKind = "elbo"
    particles: int | None = None
    beta: float = 1.0
    free_bits: float = 0.0
    warmup: int = 0
    masked: float = 0.5
    corruption: float = 0.0
    scale: Scale = "cell"
    parts: int = 1
    components: int = 32
    learning_rate: float = field(default=1e-3, kw_only=True)

    family: ClassVar[type[Family]] = Autoencoder

    def _make(self, schema: Schema) -> Family:
        latents = self.latents or max(2, min(32, len(schema.slots) // 2))
        particles = self.particles or (8 if self.bound == "iwae" else 1)
        bound = Bound(
            self.bound, particles, float(self.beta), float(self.free_bits), self.warmup,
            float(self.masked), float(self.corruption),
        )  # fmt: skip
        return Autoencoder(
            schema, latents, tuple(self.hidden), self.prior, self.guide, bound, self.scale,
            self.parts, self.components, self.dropout,
        )  # fmt: skip
