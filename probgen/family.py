"""The contract of a family: a model and a guide over the rows of a schema."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from probgen.batch import Batch
from probgen.conditionals import Conditionals
from probgen.schema import Schema

__all__ = ["Draws", "Family", "Objective"]

#: draws of the global latents by site name, each `(S, *shape)`
Draws = dict[str, Tensor]
#: before the names of the draws of a sampler among the tensors of a family
SAMPLED = "sampled."


@dataclass
class Objective:
    """One loss of a family that trains by more than one (a GAN has two).

    `loss(batch)` is a scalar to be minimised over `parameters`, once every `every` steps.
    """

    name: str
    loss: Callable[[Batch], Tensor]
    parameters: Sequence[nn.Parameter]
    every: int = 1


class Family(nn.Module):
    """A Pyro model/guide pair over the rows of a schema.

    A subclass writes `model` and `guide`. Everything that belongs to one row sits inside
    ``with batch.rows():``; what is outside is global, shared by all rows. Learned numbers
    are `nn.Parameter`s or buffers of the module, never entries of Pyro's store.

    The remaining methods are optional: each has a default that says "no special way", and
    the generic code then derives the answer from the pair.
    """

    #: how exact `log_prob` is
    density: Literal["exact", "bound", "estimate", "none"] = "exact"
    #: what an unseen cell means
    holes: Literal["exact", "latent", "masked", "refuse"] = "exact"
    #: whether `exact_log_prob` scores rows that are seen in whole only, whatever `holes` says of
    #: the answers: hidden cells are then proposed by a companion density and weighed
    whole_rows: bool = False
    #: whether marginals, conditionals and the joint obey the chain rule exactly
    coherent: bool = True
    #: whether the model is a normalised density
    normalised: ClassVar[bool] = True
    #: whether `exact_log_prob` has a closed form, so that scoring needs no draws
    closed_form: ClassVar[bool] = False
    #: numbers a row in the widest intermediate of `exact_log_prob`, by which callers cut
    #: tables into chunks; 0 lets them guess, 1 says that the family cuts them itself
    row_cost: int = 0
    #: whether the pair conditions on context columns (``fit(table, given=[...])``)
    takes_context: ClassVar[bool] = False
    #: whether a level that the fit did not see has mass (the reserved code of a category)
    reserves: ClassVar[bool] = True
    #: whether the draws of all globals are of one posterior, which leave-one-out can weigh
    joint_posterior: ClassVar[bool] = True
    #: whether the training loop moved the parameters, so that it can go on from them
    trained: ClassVar[bool] = True
    #: whether `update` is implemented: closed-form steps instead of gradients
    updates: ClassVar[bool] = False

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        #: sd of the noise that a network adds to real cells while it trains, encoded units
        self.noise = 0.0
        #: posterior draws of the globals that a sampler found (S, ...), in place of the guide's
        self.sampled: Draws = {}

    def model(self, batch: Batch) -> object:
        """The generative pair's p: sample sites for globals, then rows."""
        raise TypeError(f"{type(self).__name__} must define model(batch)")

    def guide(self, batch: Batch) -> object:
        """The pair's q over the latent sites of the model; none by default."""

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Set data-driven starting values from (a subsample of) the training rows."""

    def update(self, batch: Batch, rate: float) -> float:
        """One closed-form natural-gradient step of size `rate` on a batch (rate 1: full).

        Returns the loss at the parameters before the step: negative ELBO, nats, the sum
        over the whole table divided by `batch.total`.
        """
        raise TypeError(f"{type(self).__name__} has no closed-form update")

    def begin_epoch(self, epoch: int) -> None:
        """Called before each pass over the training rows, the first being 0.

        What changes with the epoch is held in buffers: numbers of Python are frozen into a
        compiled step.
        """

    def finish(self, batch: Batch, generator: torch.Generator) -> None:
        """Called once on the training rows after training: orders labels, refines draws."""

    def objectives(self) -> list[Objective]:
        """Losses that replace the ELBO; none by default."""
        return []

    def validate(self, batch: Batch) -> Tensor | None:
        """A held-out score (smaller is better) that replaces the held-out loss."""
        return None

    def engine(self, batch: Batch) -> tuple[str, Callable[[Batch], Tensor]] | None:
        """A loss of the family's own in place of the ELBO: its name, and what computes it.

        `batch` holds all training rows. The loss of a batch is a differentiable scalar, nats
        a row of the whole table (the sum over rows divided by ``batch.total``).
        """
        return None

    def typical(self, batch: Batch) -> Batch:
        """One row on which the pair shows the sites that it has on some row of the batch."""
        return batch.take(slice(0, 1))

    def example(self) -> Batch | None:
        """A whole row on the CPU to run the pair on; None where a row of unseen cells does."""
        return None

    def draw_globals(self, count: int, generator: torch.Generator) -> Draws | None:
        """`count` posterior draws of the global latents; None: trace the guide.

        Those that a sampler found, evenly thinned, where there are some.
        """
        if not self.sampled:
            return None
        have = len(next(iter(self.sampled.values())))
        keep = torch.arange(count) * have // count
        return {name: value[keep.to(value.device)] for name, value in self.sampled.items()}

    def exact_log_prob(self, batch: Batch, draws: Draws | None) -> Tensor | None:
        """Exact log density of the seen cells of each row, in encoded units.

        With `draws` None, the predictive (n,); with draws, one row a draw (S, n). None
        where the family has no closed form. Plain torch: never enters Pyro.
        """
        return None

    def estimate(
        self, batch: Batch, draws: Draws | None, particles: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, str] | None:
        """Log density of the seen cells where the family works out its error itself.

        As in `queries.Estimate`: value, standard error, effective sample size and Pareto shape,
        each (n,), and the method. With `draws` None of the predictive, by about `particles`
        importance draws a row. None leaves it to `exact_log_prob` and the pair.
        """
        return None

    def importance(self, batch: Batch) -> tuple[int, Callable[[Tensor], Tensor]] | None:
        """Log weights of latents of rows, as a function of noise: the density is their mean.

        Returns how many numbers L of noise a row takes, and a function of standard normal noise
        (K, n, L), differentiable in it, that gives log weights (K, n): the mean of their
        exponentials over the noise is the density of the seen cells. Plain torch: never enters
        Pyro. None leaves it to the pair.
        """
        return None

    def from_noise(self, batch: Batch, noise: Tensor, generator: torch.Generator) -> Tensor:
        """Rows x (n, m) with their unseen cells drawn given the latents of noise (n, L).

        For families that have `importance`.
        """
        raise TypeError(f"{type(self).__name__} has no latents of noise")

    def estimate_given(
        self, batch: Batch, given: Batch
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, str] | None:
        """Log density of the seen cells of `batch` that are unseen in `given`, given those there.

        `given` holds the same rows with fewer cells seen. As in `estimate`. None leaves it to the
        ratio of two densities, which is one only where the family is coherent.
        """
        return None

    def exact_log_prob_masked(self, batch: Batch, masks: Tensor) -> Tensor | None:
        """Log density (g, n) of the cells seen and inside each of g masks (g, m), at once.

        Of the predictive, as `exact_log_prob(batch, None)`; None leaves it to g calls of that.
        """
        return None

    def log_pairs(self, batch: Batch) -> Tensor | None:
        """Log densities of the pairs of seen cells of each row (n,), see `queries.log_pairs`."""
        return None

    def complete(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """x (n, m) with the unseen cells drawn exactly given the seen ones of their row.

        Drawn from the same predictive that `exact_log_prob(batch, None)` scores.
        """
        return None

    def propose(
        self, batch: Batch, values: dict[str, Tensor], keys: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Candidates for the unseen cells of each row at one draw `values` of the globals.

        Returns x (n, m), whose noise is keyed by `keys` (n,), and log weights (n,) such that
        the expectation of their exponential is p(seen cells | globals). None where the
        family has no way of its own.
        """
        return None

    def complete_at(self, batch: Batch, draw: Draws, generator: torch.Generator) -> Tensor | None:
        """As `complete`, with the globals at one draw, each ``(1, *shape)``, for all rows."""
        return None

    def point_globals(self) -> Draws | None:
        """One value of the globals, each (1, ...), for the plug-in density; None: derive it."""
        return None

    def conditionals(self, batch: Batch) -> Conditionals | None:
        """Each unseen cell given the seen ones of its row, by slot; None: from draws.

        Under the same predictive that `exact_log_prob(batch, None)` scores.
        """
        return None

    def reconstruct(self, batch: Batch) -> Tensor | None:
        """x (n, m) decoded from the exact posterior of the row's latents."""
        return None

    def row_latents(self, batch: Batch) -> dict[str, Tensor] | None:
        """Exact probabilities (n, codes) of the row labels that the model sums out, by name."""
        return None

    def codes(self, batch: Batch) -> dict[str, Tensor] | None:
        """Values (n, ...) that the real cells of a row are a one-to-one image of, by name.

        NaN where a row has none, as beside an atom; `decoded` goes back. None where rows
        have no such code.
        """
        return None

    def decoded(self, batch: Batch, codes: dict[str, Tensor]) -> Tensor | None:
        """Rows x (n, m) with the real cells that have given codes, all others as in the batch."""
        return None

    def axes(self, site: str) -> list[tuple[str, list[str]]] | None:
        """Names and labels of the dimensions of a global site; None: read from its shape."""
        return None

    def interchangeable(self) -> frozenset[str]:
        """Names of global sites whose parts can change places: "component 3" has no identity.

        Such numbers are not compared between fits; what does not depend on the order is.
        """
        return frozenset()

    def align(self, reference: Family) -> None:
        """Relabel so that parts match those of another restart; nothing to do by default."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything learned, by name: what a saved model holds."""
        return dict(self.state_dict()) | {SAMPLED + k: v for k, v in self.sampled.items()}

    def load_tensors(self, values: dict[str, Tensor]) -> None:
        """The inverse of `tensors`; shapes that depend on the data are taken as they come."""
        chain = {k: v for k, v in values.items() if k.startswith(SAMPLED)}
        self.sampled = {k.removeprefix(SAMPLED): v for k, v in chain.items()}
        for name, value in values.items():
            if name in chain:
                continue
            path, _, leaf = name.rpartition(".")
            owner = self.get_submodule(path)
            if leaf in owner._parameters:
                owner._parameters[leaf] = nn.Parameter(value)
            else:
                owner._buffers[leaf] = value
