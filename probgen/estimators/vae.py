"""The estimator of variational autoencoders."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import ClassVar, Literal, get_args

import numpy as np
import pandas as pd

from probgen.batch import Batch
from probgen.door import check_settings
from probgen.errors import SchemaError, message
from probgen.estimators import images
from probgen.estimators.features import LatentFeatures
from probgen.estimators.network import NetworkDensity
from probgen.families.autoencoder import Autoencoder, Scale
from probgen.family import Family
from probgen.nn.bounds import Bound, BoundKind
from probgen.nn.convolutions import Network
from probgen.nn.latents import GuideKind, PriorKind
from probgen.nn.pixels import Pixels
from probgen.schema import Schema
from probgen.table import Encoded

__all__ = ["VAE"]

#: latents of a row in a step of the importance-weighted bound
PARTICLES = 8


@dataclass(eq=False, repr=False)
class VAE(LatentFeatures, NetworkDensity):
    """A variational autoencoder of a mixed table: a latent point a row, cells given it.

    A row is a point z of a small latent space, seen through a network that says how each cell
    is distributed there; given z the cells are independent. A second network, the guide, reads
    the seen cells of a row and says where its z lies. It takes any holes: what is seen and what
    is not are both its input, and it is trained with cells hidden at random.

    The density of a row is an average over z, estimated by importance sampling from the guide,
    with its standard error, effective sample size and Pareto k-hat
    (``log_prob(table, details=True)``).

    Parameters
    ----------
    latents : int, optional
        Dimensions of z. None: half the encoded columns, from 2 to 32.
    hidden : sequence of int
        Units of the layers of the encoder; the decoder has them in reverse. None at all,
        ``()``, gives a linear model: with ``scale="table"`` probabilistic principal components
        (Tipping and Bishop 1999), with ``scale="column"`` factor analysis.
    prior : {"normal", "mixture", "flow"}
        Of z. "mixture" is the mean of the guide over learned pseudo-rows (VampPrior, Tomczak
        and Welling 2018), "flow" a neural spline flow.
    guide : {"diagonal", "full", "flow"}
        Shape of q(z | row): a normal with a diagonal or any covariance, or one bent by a
        coupling flow (Rezende and Mohamed 2015).
    bound : {"auto", "elbo", "iwae"}
        What is maximised: the evidence lower bound, or the tighter one of several weighed
        latents a row (Burda, Grosse and Salakhutdinov 2016), with doubly reparametrised
        gradients (Tucker, Lawson, Gu and Maddison 2019). "auto" takes the tighter one, which
        is closer on tables (benchmarks/vae_tables.py), except for images, where it costs
        several times more, and where `beta`, `free_bits` or `warmup` weigh a divergence.
    particles : int, optional
        Latents of a row in a step. None: 1 for "elbo", 8 for "iwae".
    beta : float
        Weight of the divergence between guide and prior (Higgins et al. 2017); 1 is the bound.
        Above 1 fewer latents are used, below 1 rows are reconstructed more closely.
    free_bits : float
        Nats of divergence of each latent dimension that cost nothing (Kingma et al. 2016):
        keeps dimensions from collapsing.
    warmup : int
        Epochs over which the weight of the divergence rises from 0 (Bowman et al. 2016).
    masked : float
        Share of the rows of a training step of which random cells are hidden, from the guide
        and from the bound, so that the guide learns to answer for every pattern of holes: more
        serves tables with many holes, and costs density (benchmarks/vae_tables.py).
    corruption : float
        Noise on what the guide reads while training, never on what is explained (Im et al.
        2017): standard deviation of normal noise on real cells in encoded units, and share of
        the other cells that are swapped for those of another row. `reconstruct` then denoises.
    scale : {"cell", "column", "table"}
        Whether the spread of a number about its mean depends on z, is one number a column, or
        one for all real columns (in encoded units).
    parts : int
        Parts of the mixture that a number follows given z.
    components : int
        Pseudo-rows of ``prior="mixture"``.
    network : {"dense", "conv"}
        "conv" reads and writes an image by convolutions, with `hidden` as dense layers between
        them and the latents; other columns and the context join there.
    shape : (int, int), optional
        Height and width of the image, in pixels, for ``network="conv"``.
    pixels : {"auto", "bernoulli", "logistic", "normal"}
        What all pixels are, whatever single ones look like: a pixel that no training image has
        ink in is modelled like the others. "bernoulli": black or white (0, 1); values between
        are probabilities of a 1, drawn anew in every training step (Salakhutdinov and Murray
        2008), once for held-out rows, and refused elsewhere (`probgen.datasets.binarised`
        draws). "logistic": grey levels from 0 to the largest of any pixel (255 where that is
        above 127) as a logistic cut into cells (Salimans et al. 2017). "normal": real numbers.
        "auto" treats each pixel as any column.
    image : sequence of column names, optional
        The pixels, row after row from the top. None: all columns that are modelled.

    Other parameters are those of `NetworkDensity` and `Density`.

    Notes
    -----
    In a pipeline of scikit-learn it is a transformer: `transform` gives the means of the latents
    as features.

    Columns named in ``fit(table, given=[...])`` are conditioned on and never modelled: guide and
    decoder read them. A column of labels that few rows have is a column with holes: rows without
    label train the rest (semi-supervised learning), and `impute` or ``log_prob(given=)``
    predicts it.

    References
    ----------
    Kingma and Welling (2014), Auto-encoding variational Bayes. Rezende, Mohamed and Wierstra
    (2014), Stochastic backpropagation. Mattei and Frellsen (2019), MIWAE: deep generative
    modelling and imputation of incomplete data sets. Nazabal, Olmos, Ghahramani and Valera
    (2020), Handling incomplete heterogeneous data using VAEs. Im, Ahn, Memisevic and Bengio
    (2017), Denoising criterion for variational auto-encoding framework. Salakhutdinov and Murray
    (2008), On the quantitative analysis of deep belief networks. Salimans, Karpathy, Chen and
    Kingma (2017), PixelCNN++.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=300)
    >>> table = pd.DataFrame({"a": z + 0.1 * rng.normal(size=300), "b": z > 0})
    >>> model = VAE(latents=1, noise=0.0, max_epochs=60, patience=60, random_state=0)
    >>> filled = model.fit(table).impute(pd.DataFrame({"a": [2.0, -2.0], "b": [None, None]}))
    >>> filled["b"].tolist()
    [True, False]
    """

    latents: int | None = None
    hidden: Sequence[int] = (128, 128)
    prior: PriorKind = "normal"
    guide: GuideKind = "diagonal"
    bound: BoundKind | Literal["auto"] = "auto"
    particles: int | None = None
    beta: float = 1.0
    free_bits: float = 0.0
    warmup: int = 0
    masked: float = 0.2
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
        kind = self._kind()
        particles = self.particles or (PARTICLES if kind == "iwae" else 1)
        bound = Bound(
            kind, particles, float(self.beta), float(self.free_bits), self.warmup,
            float(self.masked), float(self.corruption),
        )  # fmt: skip
        return Autoencoder(
            schema, latents, tuple(self.hidden), self.prior, self.guide, bound, self.scale,
            self.parts, self.components, self.dropout,
            images.picture(schema, self.image, self.pixels, self.network, self.shape),
        )  # fmt: skip

    def _kind(self) -> BoundKind:
        if self.bound != "auto":
            return self.bound
        image = self.network == "conv" or self.pixels != "auto"
        return "elbo" if image or self._weighs() else "iwae"

    def _weighs(self) -> bool:
        """Whether the divergence is weighed."""
        return self.beta != 1 or bool(self.free_bits) or bool(self.warmup)

    def _check(self, encoded: Encoded) -> None:
        super()._check(encoded)
        check_settings(
            self, prior=get_args(PriorKind), guide=get_args(GuideKind), scale=get_args(Scale),
            bound=("auto", *get_args(BoundKind)), warmup=0, parts=1, components=1,
        )  # fmt: skip
        for name in ("latents", "particles"):
            if getattr(self, name) is not None:
                check_settings(self, **{name: 1})
        for name, most in (("beta", np.inf), ("free_bits", np.inf), ("masked", 1.0),
                           ("corruption", np.inf)):  # fmt: skip
            value = getattr(self, name)
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not number or not 0 <= value <= most or value == np.inf:
                raise SchemaError(message(
                    f"{name}={value!r}", f"a number, 0 <= {name} <= {most:g}", f"change {name}"
                ))  # fmt: skip
        sizes = self.hidden if isinstance(self.hidden, Sequence) else (0,)
        if not all(isinstance(size, Integral) and int(size) >= 1 for size in sizes):
            raise SchemaError(message(
                f"hidden={self.hidden!r}", "one whole number of units, at least 1, a layer",
                "pass hidden=(128, 128), for example, or () for a linear model",
            ))  # fmt: skip
        if self.bound == "iwae" and self._weighs():
            raise SchemaError(message(
                'beta, free_bits or warmup with bound="iwae"',
                "the divergence as a term of its own, which that bound has not",
                'take bound="elbo", or leave them out',
            ))  # fmt: skip

    # --- images -----------------------------------------------------------------------

    def _describe(self, frame: pd.DataFrame, given: Sequence[Hashable]) -> Schema:
        check_settings(self, network=get_args(Network), pixels=get_args(Pixels))
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
