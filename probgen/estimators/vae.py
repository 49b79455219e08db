"""The estimator of variational autoencoders."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd

from probgen.batch import Batch
from probgen.door import check_settings
from probgen.estimators import images
from probgen.estimators.network import NetworkDensity
from probgen.families.autoencoder import Autoencoder, Bound, BoundKind, Scale
from probgen.family import Family
from probgen.nn.convolutions import Network, Pixels
from probgen.nn.latents import GuideKind, PriorKind
from probgen.schema import Schema
from probgen.table import Encoded

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
    network: Network = "dense"
    shape: tuple[int, int] | None = None
    pixels: Pixels = "auto"
    image: Sequence[Hashable] | None = None
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
            images.picture(schema, self.image, self.pixels, self.network, self.shape),
        )  # fmt: skip

    # --- images -----------------------------------------------------------------------

    def _describe(self, frame: pd.DataFrame, given: Sequence[Hashable]) -> Schema:
        check_settings(
            self, network=("dense", "conv"), pixels=("auto", "bernoulli", "logistic", "normal")
        )
        if self.schema is not None or self.pixels == "auto":
            return super()._describe(frame, given)
        modelled = [name for name in frame.columns if name not in given]
        names = images.pixel_names(self.image, modelled, list(frame.columns))
        return images.described(
            frame, names, self.pixels, self.columns, given, self.dequantise
        )  # fmt: skip

    def _encode(
        self, frame: pd.DataFrame, schema: Schema, jitter: np.random.Generator | None
    ) -> Encoded:
        if self.pixels != "bernoulli":
            return super()._encode(frame, schema, jitter)
        modelled = [c.name for c in schema.columns if c.role != "context"]
        names = images.pixel_names(self.image, modelled, schema.names)
        return images.encoded(frame, schema, names, jitter)

    def _noises(self, batch: Batch, held: Batch | None) -> tuple[float, ...]:
        """None by itself where pixels are binary: their probabilities only look like reals."""
        binary = self.pixels == "bernoulli" and self.noise == "auto"
        return (0.0,) if binary else super()._noises(batch, held)
