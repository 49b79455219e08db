"""A normalizing flow over the globals of a pair, which factorises over their sites.

The flow is triangular: entry i of the vector of all globals is a monotone function of noise i
whose shape depends on the noise before it (Knothe-Rosenblatt). Any density can be written so,
and the density of a site given the sites before it can be read off, so that each site has a
density of its own and log q is their sum, as for any other guide. Networks and splines are
zuko's (Durkan, Bekasov, Murray and Papamakarios 2019, Neural spline flows, NeurIPS 32).
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn.utils import parametrize

from probgen.queries.noise import even_uniforms

__all__ = ["UNIT", "Bend", "Joint", "draw", "noise_like", "push", "spread_noise"]

#: maps in a row, bins of a spline, hidden units;
#: ``benchmarks/guides.py --only settings`` compares them, not yet run since the search is L-BFGS
LAYERS, BINS, HIDDEN = 1, 8, 32
#: hidden units for each global at least
UNITS = 4
#: of the weights: a step of Adam moves each by its rate at once, and a whole network too far
UNIT = 0.02
#: noise up to which a spline bends; beyond it goes on straight
REACH = 5.0
#: degrees of freedom of the noise: with normal tails a guide that is a little too narrow there
#: has draws of unbounded weight, and k-hat rejects it; no benchmark compares other degrees
DOF = 10.0
LOG_NORMAL = math.lgamma((DOF + 1) / 2) - math.lgamma(DOF / 2) - 0.5 * math.log(DOF * math.pi)


class Bend(nn.Module):
    """A triangular, monotone map of noise (..., d) that starts as the identity.

    Each layer bends an entry by a rational-quadratic spline on [-5, 5], then scales it, by a
    factor in (0.001, 1000), and shifts it; a network of the entries before it says how.
    """

    def __init__(
        self, size: int, layers: int = LAYERS, bins: int = BINS, hidden: int = HIDDEN
    ) -> None:
        super().__init__()
        self.size, self.bins = size, bins
        numbers = 3 * bins + 1
        makers = [_network if size > 1 else _constant] * layers
        self.layers = nn.ModuleList(make(size, numbers, hidden) for make in makers)
        for part in list(self.modules()):
            for name in [name for name, own in part._parameters.items() if own is not None]:
                parametrize.register_parametrization(part, name, _Scaled())

    def _maps(self, layer: nn.Module, x: Tensor) -> tuple[Any, Any]:
        """The spline and the affine map of each entry."""
        from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform

        k = self.bins
        found = layer(x).unflatten(-1, (-1, 3 * k + 1))
        widths, heights, slopes, shift, scale = found.split([k, k, k - 1, 1, 1], -1)
        spline = MonotonicRQSTransform(widths, heights, slopes, bound=REACH)
        return spline, MonotonicAffineTransform(shift[..., 0], scale[..., 0])

    def forward(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The image (..., d), and the log slope of each entry in its own noise (..., d)."""
        value, slope = noise, torch.zeros_like(noise)
        for layer in self.layers:
            for step in self._maps(layer, value):
                image = step(value)
                slope = slope + step.log_abs_det_jacobian(value, image)
                value = image
        return value, slope

    def solve(self, noise: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """The noise and log slopes of the entries (part,) that follow those of `noise` (start,).

        `image` are the values of these entries; as many runs of the networks as there are.
        """
        start, slopes = len(noise), []
        for target in image:
            here = len(noise)
            maps: list[Any] = []
            at = torch.cat([noise, noise.new_zeros(self.size - here)])
            mine = torch.arange(self.size, device=noise.device) == here
            for layer in self.layers:
                steps = self._maps(layer, at)
                maps += steps
                for step in steps:
                    at = step(at)
            value, slope = target, target.new_zeros(())
            for step in reversed(maps):
                image_ = torch.where(mine, value, 0.0)  # the other entries are not read
                back = step.inv(image_)
                slope = slope + step.log_abs_det_jacobian(back, image_)[here]
                value = back[here]
            noise = torch.cat([noise, value[None]])
            slopes.append(slope)
        return noise[start:], torch.stack(slopes) if slopes else noise[start:]


def _network(size: int, numbers: int, hidden: int) -> nn.Module:
    """Numbers of each entry from the entries before it, 0 at first."""
    return _Masked(size, numbers, max(hidden, UNITS * size)).double()


class _Masked(nn.Module):
    """A network whose output for entry i sees the entries before i only.

    A straight line beside a residual block of smooth, unbounded units: beyond the noise that it
    has seen it goes on like a line, where a bounded unit would stay flat.
    """

    def __init__(self, size: int, numbers: int, width: int) -> None:
        super().__init__()
        from zuko.nn import MaskedLinear  # its import takes time that most fits need not spend

        entry, last = torch.arange(size), torch.arange(width) % (size - 1)
        before = (entry < entry[:, None]).repeat_interleave(numbers, 0)
        self.first = MaskedLinear(entry <= last[:, None])
        self.middle = MaskedLinear(last <= last[:, None])
        self.last = MaskedLinear((last < entry[:, None]).repeat_interleave(numbers, 0))
        self.line = MaskedLinear(before, bias=False)
        for part in (self.last.weight, self.last.bias, self.line.weight):
            nn.init.zeros_(part)

    def forward(self, x: Tensor) -> Tensor:
        units = nn.functional.silu(self.first(x))
        units = units + nn.functional.silu(self.middle(units))
        return self.last(units) + self.line(x)


class _Scaled(nn.Module):
    """A weight in units of `UNIT`."""

    def forward(self, raw: Tensor) -> Tensor:
        return UNIT * raw

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight / UNIT


class _Same(nn.Module):
    """The same numbers whatever comes in: one entry has none before it."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.zeros(numbers, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.numbers.expand(*x.shape[:-1], -1)


def _constant(size: int, numbers: int, hidden: int) -> nn.Module:
    return _Same(numbers)


def push(bend: Bend, loc: Tensor, root: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Values ``loc + root bend(noise)``, and the log density of each entry, both (..., d)."""
    image, slope = bend(noise)
    return loc + image @ root.T, _log_base(noise) - slope - root.diagonal().log()


def draw(
    bend: Bend, loc: Tensor, root: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Values ``loc + root bend(noise)``, and the log density of each entry given those before.

    All of the shape (..., d) of the noise. The third is the log density with its gradient in
    the value alone, parameters held (Roeder, Wu and Duvenaud 2017, Sticking the landing);
    None where there are no gradients.
    """
    value, log_q = push(bend, loc, root, noise)
    if not torch.is_grad_enabled():
        return value, log_q, None
    return value, log_q, log_q.detach() + _pull(bend, root, noise) * (value - value.detach())


def _pull(bend: Bend, root: Tensor, noise: Tensor) -> Tensor:
    """The gradient (..., d) of the log density in the value.

    With J the Jacobian of value in noise, and the log density a function h of the noise, it is
    J^-T dh / dnoise. A batch of d equal rows gives the rows of J at once.
    """
    size = noise.shape[-1]
    at = noise.detach()[..., None, :].expand(*noise.shape, size).clone().requires_grad_()
    image, slope = bend(at)
    h = _log_base(at[..., 0, :]) - slope[..., 0, :]
    ends = image.diagonal(dim1=-2, dim2=-1).sum()
    [rows] = torch.autograd.grad(ends, at, retain_graph=True)
    [own] = torch.autograd.grad(h.sum(), at)
    jacobian = root.detach() @ rows
    own = own[..., 0, :, None]
    return torch.linalg.solve_triangular(jacobian.mT, own, upper=True)[..., 0]


class Joint:
    """One draw of all globals, ``loc + root bend(noise)``, handed out site by site.

    Parameters
    ----------
    bend : Bend
    loc : Tensor (d,)
    root : Tensor (d, d)
        Lower triangular.
    """

    def __init__(self, bend: Bend, loc: Tensor, root: Tensor) -> None:
        self.bend, self.loc, self.root = bend, loc, root
        self.noise = noise_like(loc, ())
        self._drawn: tuple[Tensor, Tensor, Tensor | None] | None = None

    def drawn(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Value (d,), log density of each entry given those before, and the still one."""
        if self._drawn is None:
            self._drawn = draw(self.bend, self.loc, self.root, self.noise)
        return self._drawn

    def site(self, part: slice, transform: Any, shape: torch.Size) -> Share:
        """The distribution of some entries given those before, as that of a site."""
        return Share(self, part, transform, shape)

    def take(self, part: slice, noise: Tensor) -> None:
        """Go on from other noise of a part: its value came from elsewhere."""
        self.noise = torch.cat([self.noise[: part.start], noise, self.noise[part.stop :]])
        self._drawn = None


class Share(dist.TorchDistribution):  # type: ignore[misc]
    """A site's share of a joint draw: its density given the sites before it."""

    has_rsample = True
    arg_constraints: dict[str, Any] = {}

    def __init__(self, joint: Joint, part: slice, transform: Any, shape: torch.Size) -> None:
        self._joint, self._part, self._transform, self._shape = joint, part, transform, shape
        self._before = joint.noise[: part.start]
        #: value, its noise, its log density
        self._known: tuple[Tensor, Tensor | None, Tensor] | None = None
        self._still: Tensor | None = None
        super().__init__((), transform.forward_shape(shape), validate_args=False)

    @property
    def support(self) -> Any:
        """That of the site."""
        return self._transform.codomain

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Share:
        """Of no more than one draw."""
        if len(batch_shape):
            raise NotImplementedError("a share of one joint draw has no batch")
        return self

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """The part of the joint draw."""
        value, log_q, still = self._joint.drawn()
        free = value[self._part].reshape(self._shape)
        own = self._transform(free)
        stretch = self._transform.log_abs_det_jacobian(free, own).sum()
        self._known = own, None, log_q[self._part].sum() - stretch
        if still is not None:
            self._still = still[self._part].sum() - stretch
        return own

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density given the sites before, nats."""
        if self._known is None or self._known[0] is not value:
            self._read(value)
        assert self._known is not None  # just read
        return self._known[2]

    @property
    def still(self) -> _Still:
        """The same of its own draw, with parameters detached."""
        return _Still(self)

    def still_log_prob(self, value: Tensor) -> Tensor:
        """`log_prob` with the gradient of the value alone, where it is its own draw."""
        own = self._known is not None and self._known[0] is value and self._still is not None
        return self._still if own else self.log_prob(value)  # type: ignore[return-value]

    def follow(self, value: Tensor) -> None:
        """Tell the joint what the site turned out to be."""
        if self._known is None or self._known[0] is not value:
            self._read(value)
        assert self._known is not None  # just read
        if self._known[1] is not None:
            self._joint.take(self._part, self._known[1])

    def _read(self, value: Tensor) -> None:
        """The noise and the density of a value that came from elsewhere."""
        joint, part = self._joint, self._part
        free = self._transform.inv(value)
        gap = free.reshape(-1).to(joint.loc.dtype) - joint.loc[part]
        if part.start:
            padded = torch.cat(
                [self._before, self._before.new_zeros(joint.loc.numel() - part.start)]
            )
            gap = gap - joint.root[part, : part.start] @ joint.bend(padded)[0][: part.start]
        root = joint.root[part, part]
        image = torch.linalg.solve_triangular(root, gap[:, None], upper=False)[:, 0]
        noise, slope = joint.bend.solve(self._before, image)
        log_q = (_log_base(noise) - slope - root.diagonal().log()).sum()
        stretch = self._transform.log_abs_det_jacobian(free, value).sum()
        self._known = value, noise, log_q - stretch


class _Still:
    """What stands under `STILL`: `Share.still_log_prob` by the name that is called there."""

    def __init__(self, share: Share) -> None:
        self._share = share

    def log_prob(self, value: Tensor) -> Tensor:
        return self._share.still_log_prob(value)


def noise_like(loc: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Noise ``(*shape, d)`` of independent Student's t."""
    one = torch.tensor(DOF, dtype=loc.dtype, device=loc.device)
    return dist.StudentT(one).sample((*shape, *loc.shape))


def spread_noise(loc: Tensor, count: int, seed: int) -> Tensor:
    """The same noise (count, d), spread evenly (`even_uniforms`)."""
    uniform = even_uniforms(count, len(loc), seed)
    return torch.from_numpy(stats.t(DOF).ppf(uniform.numpy())).to(loc)


def _log_base(noise: Tensor) -> Tensor:
    return LOG_NORMAL - (DOF + 1) / 2 * (noise.square() / DOF).log1p()
