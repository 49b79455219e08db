"""Where a row is expected and how far about: what a flow is centred and scaled by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Frame"]

#: largest factor by which a frame may stretch, as a logarithm
WIDEST = 8.0
#: pseudo-rows of the slope of a standardised feature in the first regression
RIDGE = 1.0


class Frame(nn.Module):
    """An affine map of each entry whose centre and scale a context decides.

    ``(x - centre(context)) / scale(context)``: a straight line plus a network each. The line
    starts at a ridge regression, the network at 0, so that training starts at a linear
    regression with one residual variance.
    """

    def __init__(self, size: int, context: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.size, self.dropout = size, dropout
        self.line = nn.Linear(context, 2 * size)
        self.first = nn.Linear(context, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 2 * size)
        for part in (self.line, self.last):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)

    def parts(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and log scale (d, n) of rows with features (c, n)."""
        h = torch.addmm(self.first.bias[:, None], self.first.weight, context).relu()
        h = self._thinned(h)
        h = torch.addmm(self.second.bias[:, None], self.second.weight, h).relu()
        h = self._thinned(h)
        bent = torch.addmm(self.last.bias[:, None], self.last.weight, h)
        found = torch.addmm(self.line.bias[:, None], self.line.weight, context) + bent
        centre, log_scale = found.unflatten(0, (2, self.size))
        return centre, log_scale / (log_scale.abs() / WIDEST + 1)

    def _thinned(self, h: Tensor) -> Tensor:
        if not self.dropout or not self.training:
            return h
        return nn.functional.dropout(h, self.dropout)

    @torch.no_grad()
    def start(self, x: Tensor, present: Tensor, context: Tensor, weight: Tensor) -> None:
        """Regress the entries x (d, n) on the features (c, n); rows weigh `weight` (n,)."""
        ones = torch.ones_like(context[:1])
        features = torch.cat([context, ones])
        penalty = RIDGE * torch.eye(len(features), dtype=x.dtype, device=x.device)
        penalty[-1, -1] = 1e-9
        for i in range(self.size):
            w = weight * present[i]
            gram = (features * w) @ features.T + penalty
            slope = torch.linalg.solve(gram, (features * w) @ x[i])
            rest = x[i] - slope @ features
            variance = (w @ rest.square() + 1e-6) / (w.sum() + 1.0)
            self.line.weight[i], self.line.bias[i] = slope[:-1], slope[-1]
            bound = 0.5 * float(variance.log())
            bound = max(-0.9 * WIDEST, min(0.9 * WIDEST, bound))
            self.line.bias[self.size + i] = bound / (1 - abs(bound) / WIDEST)
