"""The leaf of a count: point masses and kernels of many widths, with conjugate weights."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import betainc, pdtr
from torch import Tensor

from probgen.leaves import HALF_LOG_2PI, LARGE, GridLeaf, gamma_draws, occupied, sorted_mass

__all__ = ["CountLeaf"]


class CountLeaf(GridLeaf):
    """A count as a weighted grid of point masses and overdispersed and narrow kernels.

    Four kinds of basis mass functions on 0, 1, 2, ...: point masses at the smallest
    values (at every value if there are few), Poisson with means up to 60, negative
    binomials of shape 1, 8 and 30 with means on a geometric grid up to the largest value,
    and normals rounded to whole numbers, for counts that vary less than a Poisson.
    """

    SHAPES = ((30.0, 0.18, 20.0), (8.0, 0.35, 2.0), (1.0, 0.7, 0.3))  # shape, log step, least mean
    FEW = 40

    def __init__(self, k: int, spread: float = 0.005, strength: float = 1.0) -> None:
        super().__init__(k, spread, strength)
        self.reach = 1.0
        for name in ("points", "poisson", "mean", "shape", "centre", "width"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))

    def emphasis(self) -> Tensor:
        # a kernel much wider than the column would put wild values into samples
        spread = torch.cat([
            torch.zeros_like(self.points), self.poisson.sqrt(),
            (self.mean + self.mean.square() / self.shape).sqrt(), self.width,
        ])  # fmt: skip
        return (self.reach / spread.clamp_min(1e-9)).clamp(max=1.0) ** 2

    def size_of_basis(self) -> int:
        return sum(len(t) for t in (self.points, self.poisson, self.mean, self.centre))

    def begin(self, x: Tensor, weight: Tensor) -> None:
        device = x.device
        ordered, mass = sorted_mass(x, weight)
        values = ordered.unique()
        top = float(values[-1]) if len(values) else 1.0
        self.points = values if len(values) <= self.FEW else values[values < 6]
        means, m = [], 0.3
        while m < min(1.2 * top + 1.0, 60.0):
            means.append(m)
            m = (math.sqrt(m) + 0.5) ** 2  # half a standard deviation apart
        self.poisson = torch.tensor(means, dtype=torch.float64, device=device)
        grid, shapes = [], []
        for shape, step, least in self.SHAPES:
            count = max(0, math.ceil(math.log((1.5 * top + 1.0) / least) / step))
            grid += [least * math.exp(step * i) for i in range(count)]
            shapes += [shape] * count
        self.mean = torch.tensor(grid, dtype=torch.float64, device=device)
        self.shape = torch.tensor(shapes, dtype=torch.float64, device=device)
        self._narrow(ordered, mass)
        total = float(weight.sum())
        if total > 0:
            gap = x - (weight @ x) / total
            self.reach = 2.0 * math.sqrt(float(weight @ gap.square()) / total) + 0.5
        self._set_prior(x, weight)

    def _narrow(self, ordered: Tensor, mass: Tensor) -> None:
        """Rounded normals, only at widths below those of all other kernels at the same place."""
        n = float(mass[-1]) if len(mass) else 0.0
        if n < 8:
            return
        ends = torch.tensor([0.16, 0.84], dtype=mass.dtype, device=mass.device) * (n - 1)
        low, high = ordered[torch.searchsorted(mass, ends.floor(), right=True)].tolist()
        spread = (high - low) / 2
        centres, widths = [], []
        for p in range(4):
            width = spread * 2.0**-p
            if width < 0.5:
                break
            grid = occupied(ordered, mass, width, 1.4, least=4)
            # the narrowest other kernel: the negative binomial of the largest shape
            grid = grid[grid + grid.square() / self.SHAPES[0][0] > width**2]
            centres.append(grid)
            widths.append(torch.full_like(grid, width))
        if centres:
            self.centre, self.width = torch.cat(centres), torch.cat(widths)

    def log_basis(self, x: Tensor) -> Tensor:
        # counts repeat: each distinct value is worked out once
        values, back = x.unique(return_inverse=True)
        v = values[:, None]
        factorial = torch.lgamma(v + 1)
        points = torch.where(v == self.points, 0.0, -torch.inf)
        poisson = torch.xlogy(v, self.poisson) - self.poisson - factorial
        r, m = self.shape, self.mean
        # of large counts both gammas are huge and their difference is not: Stirling's first term
        rise = torch.where(
            v > LARGE, (r - 1) * (v + 0.5 * r).log(), torch.lgamma(v + r) - factorial
        )
        binomial = rise - torch.lgamma(r) + r * (r / (r + m)).log() - v * (r / m).log1p()
        narrow = _log_cell_mass(v, self.centre, self.width)
        return torch.cat([points, poisson, binomial, narrow], 1)[back]

    def centre_of(self, weights: Tensor) -> Tensor:
        # a median: the mean of a heavy-tailed count says little
        means, order = self.basis_means().sort()
        share = (weights / weights.sum(-1, keepdim=True))[:, order].cumsum(-1)
        return means[(share < 0.5).sum(-1).clamp_max(len(means) - 1)].round()

    def basis_means(self) -> Tensor:
        # of a rounded normal, that of the normal cut off at -1/2
        low = (-0.5 - self.centre) / self.width
        hazard = (-0.5 * low.square() - HALF_LOG_2PI - torch.special.log_ndtr(-low)).exp()
        return torch.cat([self.points, self.poisson, self.mean, self.centre + self.width * hazard])

    def cumulative(self, v: Tensor) -> Tensor:
        """Probability (c, b) of at most v (c,), whole numbers, under each basis density."""
        value = v[:, None].cpu().numpy()
        p, r, m = (t.cpu().numpy() for t in (self.poisson, self.shape, self.mean))
        # nothing lies below 0; the functions of SciPy are not defined there
        poisson = np.where(value < 0, 0.0, pdtr(np.maximum(value, 0), p))
        binomial = np.where(value < 0, 0.0, betainc(r, np.maximum(value, 0) + 1, r / (r + m)))
        exact = torch.from_numpy(np.concatenate([poisson, binomial], 1)).to(v.device)
        points = (v[:, None] >= self.points).double()
        low = torch.special.ndtr((-0.5 - self.centre) / self.width)
        high = torch.special.ndtr((v[:, None] + 0.5 - self.centre) / self.width)
        narrow = ((high - low) / (1 - low)).clamp(0.0, 1.0)
        return torch.cat([points, exact, narrow], 1)

    def draw_basis(self, index: Tensor, generator: torch.Generator) -> Tensor:
        ends = torch.tensor([len(self.points), len(self.poisson), len(self.mean)]).cumsum(0)
        out = torch.empty(len(index), dtype=torch.float64, device=index.device)
        a, b, c = (int(e) for e in ends)

        def uniform(rows: Tensor) -> Tensor:
            shape = (int(rows.sum()),)
            return torch.rand(shape, generator=generator, dtype=torch.float64, device=out.device)

        rows = index < a
        out[rows] = self.points[index[rows]] if a else out[rows]
        rows = (index >= a) & (index < b)
        out[rows] = torch.poisson(self.poisson[index[rows] - a], generator=generator)
        rows = (index >= b) & (index < c)
        shape, mean = self.shape[index[rows] - b], self.mean[index[rows] - b]
        rate = gamma_draws(shape, generator) / shape * mean
        out[rows] = torch.poisson(rate, generator=generator)
        rows = index >= c
        centre, width = self.centre[index[rows] - c], self.width[index[rows] - c]
        # normal truncated to the support, then rounded to its cell
        low = torch.special.ndtr((-0.5 - centre) / width)
        z = torch.special.ndtri((low + (1 - low) * uniform(rows)).clamp(1e-16, 1 - 1e-16))
        out[rows] = (centre + width * z).round().clamp_min(0.0)
        return out


def _log_cell_mass(v: Tensor, centre: Tensor, width: Tensor) -> Tensor:
    """Log mass of [v - 1/2, v + 1/2) under a normal truncated to [-1/2, inf)."""
    if not len(centre):
        return v.new_zeros(len(v), 0)
    low, high = (v - 0.5 - centre) / width, (v + 0.5 - centre) / width
    flip = low > 0  # work in the lower tail, where log_ndtr keeps its digits
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    upper = torch.special.log_ndtr(high)
    gap = (torch.special.log_ndtr(low) - upper).clamp_max(-1e-15)
    whole = torch.special.log_ndtr((centre + 0.5) / width)
    # of a wide normal the difference has few digits, and the density at the middle has all
    middle = -0.5 * ((v - centre) / width).square() - HALF_LOG_2PI - width.log()
    exact = upper + torch.log(-torch.expm1(gap))
    return torch.where(width > 1e4, middle, exact) - whole
