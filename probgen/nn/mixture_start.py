"""A quick mixture over the slots of a row: where a network starts, and how it fills holes.

The same closed-form steps as those of the mixture family, on a part of the rows, without
posterior draws. References: Bishop (2006), Pattern Recognition and Machine Learning, chapter 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probgen.columns import Slot
from probgen.likelihoods import Components, MixedRows
from probgen.normals import Kernel
from probgen.starts import merged_labels

__all__ = ["StartMixture"]

#: rows that are looked at, sweeps over them, and the gain a row (nats) at which these end
ROWS, SWEEPS, GAIN = 20_000, 100, 1e-4
#: total pseudo-count of the weights, of a mean, of the levels of a category
CONCENTRATION, MEAN, LEVEL = 1.0, 0.01, 0.3


@dataclass
class StartMixture:
    """k components over all slots, label summed out: the posterior predictive.

    Attributes
    ----------
    rows : MixedRows
    counts : Tensor (k,)
        Rows that each component holds.
    """

    rows: MixedRows
    counts: Tensor

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        x: Tensor,
        seen: Tensor,
        weight: Tensor,
        slots: Sequence[Slot],
        components: int,
        generator: torch.Generator,
    ) -> StartMixture:
        """Fit to encoded rows x (n, m), holes integrated out; at most 20,000 of them."""
        x, weight = x.double(), weight.double()
        if generator.device != x.device:
            generator = torch.Generator(x.device).manual_seed(
                int(torch.randint(2**62, (), generator=generator, device=generator.device))
            )
        if len(x) > ROWS:
            pick = torch.randperm(len(x), generator=generator, device=x.device)[:ROWS]
            x, seen, weight = x[pick], seen[pick], weight[pick]
        rows = MixedRows(slots, components, "full", MEAN, None, None, 0.005, 1.0, LEVEL)
        rows.to(x.device)
        made = cls(rows, weight.new_zeros(components))
        label = merged_labels(x, seen, weight, slots, components, True, generator)
        hard = torch.nn.functional.one_hot(label, components).double()
        rows.begin(x, seen, weight, float(weight.sum()))
        made._sweep(x, seen, weight, made._margin(), 0.95 * hard + 0.05 / components)
        last = -torch.inf
        for _ in range(SWEEPS):
            bound = made._sweep(x, seen, weight, made._components(expected=True))
            if bound - last < GAIN * float(weight.sum()):
                break
            last = bound
        rows.forget()
        return made

    def _sweep(
        self,
        x: Tensor,
        seen: Tensor,
        weight: Tensor,
        components: Components,
        fixed: Tensor | None = None,
    ) -> float:
        new, bound = self.rows.sweep(x, seen, weight, components, fixed)
        self.counts = new.weights
        self.rows.blend(new, 1.0)
        return float(bound)

    def _margin(self) -> Components:
        """Components that know nothing yet."""
        return Components(
            torch.zeros_like(self.counts), self.rows.normals.unit() if self.rows.real else None,
            {i: (leaf.prior / leaf.prior.sum()).log().expand(self.rows.k, -1)
             for i, leaf in self.rows.leaf_items()},
        )  # fmt: skip

    def _components(self, expected: bool) -> Components:
        mean = torch.digamma if expected else torch.log
        alpha = self.counts + CONCENTRATION / self.rows.k
        kernel: Kernel | None = None
        if self.rows.real:
            normals = self.rows.normals
            kernel = normals.expected() if expected else normals.predictive()
        leaves = {
            i: mean(leaf.alpha) - mean(leaf.alpha.sum(-1, keepdim=True))
            for i, leaf in self.rows.leaf_items()
        }
        return Components(mean(alpha) - mean(alpha.sum()), kernel, leaves)

    def predictive(self) -> Components:
        """Expected weights, Student's t, expected weights of leaves."""
        return self._components(expected=False)

    def complete(self, x: Tensor, seen: Tensor) -> Tensor:
        """x (n, m) with unseen cells drawn given the seen ones, by torch's global generator."""
        generator = torch.Generator(x.device).manual_seed(int(torch.randint(2**62, ())))
        return self.rows.complete(x.double(), seen, self.predictive(), generator)

    def log_rows(self, x: Tensor, seen: Tensor) -> Tensor:
        """Log density (n,) of the seen cells of each row."""
        return self.rows.log_rows(x.double(), seen, self.predictive())

    def shares(self, x: Tensor, seen: Tensor) -> Tensor:
        """p(component | seen cells) of each row (n, k)."""
        return self.rows.responsibilities(x.double(), seen, self.predictive())
