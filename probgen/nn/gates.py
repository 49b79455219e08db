"""Weights of mixture components that the features of a row decide."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Gate"]

#: rows that the first weights are fitted to, steps of L-BFGS, pseudo-rows of the penalty
ROWS, STEPS, RIDGE = 5_000, 50, 1.0


class Gate(nn.Linear):
    """Log weights of k components, linear in features; 0 at first."""

    def __init__(self, features: int, components: int) -> None:
        super().__init__(features, components)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def gate(self, features: Tensor) -> Tensor:
        """What is added to the log weights (k, n) of rows with features (c, n)."""
        return torch.addmm(self.bias[:, None], self.weight, features)

    def start(self, features: Tensor, share: Tensor, base: Tensor, weight: Tensor) -> None:
        """Regress the shares (n, k) of the components on the features (c, n).

        Multinomial logistic regression beside the log weights `base` (k,), ridge penalised.
        """
        n = min(ROWS, len(share))
        design = torch.cat([features[:, :n], torch.ones_like(features[:1, :n])]).T.double()
        design, share, weight = design.detach(), share[:n].double(), weight[:n].double()
        base = base.detach().double()
        with torch.enable_grad():
            line = design.new_zeros(design.shape[1], share.shape[1]).requires_grad_()
            optimiser = torch.optim.LBFGS([line], max_iter=STEPS, line_search_fn="strong_wolfe")

            def loss() -> float:
                optimiser.zero_grad()
                logits = (design @ line + base).log_softmax(1)
                value = -(weight[:, None] * share * logits).sum() + 0.5 * RIDGE * (
                    line.square().sum()
                )
                value = value / weight.sum()
                value.backward()  # type: ignore[no-untyped-call]
                return float(value.detach())

            optimiser.step(loss)  # type: ignore[arg-type]
        found = line.detach()
        if bool(torch.isfinite(found).all()):
            with torch.no_grad():
                self.weight.copy_(found[:-1].T)
                self.bias.copy_(found[-1])
