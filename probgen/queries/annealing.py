"""Annealed importance sampling of the density of rows, where plain importance weights fail.

A family gives log weights w(e) as a function of standard normal noise e, whose exponentials
have the density of the row as their mean (`Family.importance`). Chains start at such noise and
move through the densities N(e; 0, I) exp(t w(e)), from t = 0, the guide, to t = 1, the posterior
of the noise, by Hamiltonian steps. The exponential of the sum of (t' - t) w(e) along a chain has
the density as its mean too, with far more even weights.

References: Neal (2001), Annealed importance sampling, Statistics and Computing 11; Wu, Burda,
Salakhutdinov and Grosse (2017), On the quantitative analysis of decoder-based generative models.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from probgen.batch import mix
from probgen.queries.noise import Stream, particle_keys

__all__ = ["CHAINS", "anneal"]

#: chains of a row, and those of the pilot run that finds its step sizes
CHAINS, PILOTS = 32, 8
#: leapfrog steps of a move (benchmarks/vae_annealing.py), and the share of moves to accept
LEAPS, ACCEPTED = 3, 0.7
#: how far the temperatures crowd together at both ends
CROWD = 4.0
#: how fast the logarithm of a step size follows the accepted share
GAIN = 0.4
#: other streams of noise than those of the importance draws, from the same keys
_STREAM, _PILOT = 0x616E6E65, 0x70696C6F

Weights = Callable[[Tensor], Tensor]


def anneal(
    size: int, weights: Weights, keys: Tensor, steps: int, chains: int = CHAINS, first: int = 0
) -> Tensor:
    """Log weights (chains, n) of annealed chains: the density is the mean of their exponentials.

    Step sizes are found for each row and temperature on a pilot run of other noise and then
    stay: weights of chains are unbiased, as those of a kernel that adapts itself are not.

    Parameters
    ----------
    size : int
        Numbers L of noise of a row.
    weights : callable
        As from `Family.importance`: noise (K, n, L) to log weights (K, n).
    keys : Tensor (n,) of int64
        Of the content of rows: noise belongs to them.
    steps : int
        Temperatures. Cost: three evaluations of `weights` with gradients a step and chain, and
        a quarter of that for the pilot run.
    chains : int
    first : int
        Number of the first chain: other numbers, other noise.
    """
    temperatures = schedule(steps).to(keys.device)
    pilot = _Chains(size, weights, mix(keys ^ _PILOT), PILOTS, first)
    start = torch.full((len(keys),), 0.5 / max(1, size) ** 0.25, device=keys.device).double()
    sizes = pilot.run(temperatures, start, adapt=True)[1]
    own = _Chains(size, weights, mix(keys ^ _STREAM), chains, first)
    return own.run(temperatures, sizes, adapt=False)[0]


def schedule(steps: int) -> Tensor:
    """Temperatures (steps + 1,) from 0 to 1, closest together at the ends."""
    at = torch.linspace(-CROWD, CROWD, steps + 1, dtype=torch.float64).sigmoid()
    return (at - at[0]) / (at[-1] - at[0])


@dataclass
class _State:
    """Noise (K, n, L), its log weights (K, n) and their gradient."""

    noise: Tensor
    weight: Tensor
    slope: Tensor


class _Chains:
    """Chains of n rows, each with a stream of noise of its own."""

    def __init__(self, size: int, weights: Weights, keys: Tensor, chains: int, first: int) -> None:
        self.weights, self.shape = weights, (chains, len(keys), size)
        self.stream = Stream(particle_keys(keys, chains, first), axis=0)

    def normal(self) -> Tensor:
        chains, n, size = self.shape
        return self.stream.normal((chains * n, size)).view(self.shape)

    def at(self, noise: Tensor) -> _State:
        with torch.enable_grad():
            noise = noise.detach().requires_grad_()
            weight = self.weights(noise)
            (slope,) = torch.autograd.grad(weight.sum(), noise)
        return _State(noise.detach(), weight.detach().double(), slope)

    def run(self, temperatures: Tensor, sizes: Tensor, adapt: bool) -> tuple[Tensor, Tensor]:
        """Log weights (K, n), and the step sizes (steps, n) that were used.

        `sizes` are those, or (n,) to start from where they adapt.
        """
        state, used = self.at(self.normal()), []
        total = torch.zeros_like(state.weight)
        step = sizes if adapt else sizes[0]
        for i, (low, high) in enumerate(zip(temperatures, temperatures[1:], strict=False)):
            # a weight of -inf stays one, whatever the chain does afterwards
            total = total + (high - low) * state.weight
            if i == len(temperatures) - 2:
                break  # a move at the last temperature would change no weight
            step = step if adapt else sizes[i]
            used.append(step)
            state, share = self.moved(state, float(high), step)
            if adapt:
                step = (step.log() + GAIN * (share.mean(0) - ACCEPTED)).exp()
        return total, torch.stack(used) if used else step[None]

    def moved(self, state: _State, temperature: float, step: Tensor) -> tuple[_State, Tensor]:
        """One Hamiltonian move of each chain, and how probable its acceptance was (K, n)."""
        eps = step[:, None]

        def force(at: _State) -> Tensor:
            return temperature * at.slope - at.noise

        def energy(at: _State, speed: Tensor) -> Tensor:
            quadratic = 0.5 * (at.noise.square() + speed.square()).sum(-1)
            return quadratic - temperature * at.weight

        start = self.normal()
        end, speed = state, start + 0.5 * eps * force(state)
        for leap in range(LEAPS):
            end = self.at(end.noise + eps * speed)
            speed = speed + (1.0 if leap < LEAPS - 1 else 0.5) * eps * force(end)
        gain = energy(state, start) - energy(end, speed)
        # no chain moves to where the density is not a number
        gain = torch.where(gain.isnan(), -math.inf, gain)
        chains, n, _ = self.shape
        chance = self.stream.uniform((chains * n,)).view(chains, n)
        yes = chance.log() < gain
        kept = _State(
            torch.where(yes[..., None], end.noise, state.noise),
            torch.where(yes, end.weight, state.weight),
            torch.where(yes[..., None], end.slope, state.slope),
        )
        return kept, gain.clamp_max(0.0).exp()
