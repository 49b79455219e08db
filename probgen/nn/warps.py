"""Flows of zuko, computed our way: the same weights and the same answers, faster.

zuko's modules hold the architecture and the weights (`Warp.flow`). What is computed here:

- features are the first dimension of every intermediate, so that the maps of all entries run
  along whole rows of memory (see `probgen.nn.splines`);
- the inverse of an autoregressive step works out each hidden unit once, as soon as the entries
  that it depends on are known, and the maps of the next entries only: one pass of the
  network in all, where zuko takes one a feature;
- an entry may be absent. It enters every network as 0, is left as it is and adds nothing to the
  log determinant. Each step, seen on the entries that are there, is still one-to-one,
  so that the density over them is normalised, for autoregressive and for coupling steps alike;
- networks see an entry no further out than `REACH`, so that beyond it nothing but the entry
  itself changes and tails stay those of the base.

References: Papamakarios, Pavlakou and Murray (2017), Masked autoregressive flow, NeurIPS 30;
Dinh, Sohl-Dickstein and Bengio (2017), Density estimation using Real NVP, ICLR; Durkan,
Bekasov, Murray and Papamakarios (2019), Neural spline flows, NeurIPS 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from probgen.nn.splines import BOUND, affine, affine_back, spline, spline_back

__all__ = ["Kind", "Warp"]

#: "spline": autoregressive rational-quadratic splines; "coupling": the same in two passes;
#: "affine": masked affine autoregressive; "realnvp": affine coupling
Kind = Literal["spline", "coupling", "affine", "realnvp"]
#: how far out a network sees an entry
REACH = 2 * BOUND
#: rows that are inverted together
ROWS = 4096


class Warp(nn.Module):
    """A flow over d entries given features of a context; starts as the identity.

    Parameters
    ----------
    kind : {"spline", "coupling", "affine", "realnvp"}
    size : int
        Entries d, at least 1.
    context : int
        Features that every network sees.
    transforms : int
        Steps in a row; each reverses the order (or swaps the halves) of the one before.
    hidden : sequence of int
        Hidden units of each layer of a network.
    bins : int
        Of a spline.
    dropout : float
        Share of hidden units left out while training.
    """

    def __init__(
        self,
        kind: Kind,
        size: int,
        context: int = 0,
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.kind, self.size, self.dropout = kind, size, dropout
        self.flow = _made(kind, size, context, transforms, hidden, bins)
        self.splines = kind in ("spline", "coupling")
        self.total = 3 * bins - 1 if self.splines else 2
        #: entries that a coupling step reads, and those that it moves; known before tracing
        self.split = [_split(step) for step in self._steps()]
        for step in self._steps():
            for last in _last(step):
                nn.init.zeros_(last)

    def _steps(self) -> list[Any]:
        return list(self.flow.transform.transforms)

    def forward(
        self, x: Tensor, context: Tensor | None = None, present: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The image of entries, and the log determinant.

        Parameters
        ----------
        x : Tensor (d, n)
        context : Tensor (features, n), optional
        present : Tensor (d, n) of bool, optional
            Entries that are there; all others must hold 0, and keep it.

        Returns
        -------
        z : Tensor (d, n)
        log_det : Tensor (n,)
        """
        total = torch.zeros_like(x)
        for number, step in enumerate(self._steps()):
            active, raw = self._maps(number, step, x, context)
            own = x if active is None else x[active]
            y, slope = spline(own, raw) if self.splines else affine(own, raw)
            here = present if active is None or present is None else present[active]
            if here is not None:
                y = torch.where(here, y, torch.zeros_like(y))
                slope = torch.where(here, slope, torch.zeros_like(slope))
            x = y if active is None else x.index_copy(0, active, y)
            total = total + slope if active is None else total.index_add(0, active, slope)
        return x, total.sum(0)

    def _maps(
        self, number: int, step: Any, x: Tensor, context: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """Entries that a step moves (None: all), and the numbers of their maps (total, ., n)."""
        hyper = getattr(step, "hyper", None)
        if hyper is None:  # one entry alone: the same numbers whatever comes in
            raw = torch.cat([p.reshape(self.size, -1) for p in step.phi], 1).T
            return None, raw[..., None].expand(*raw.shape, x.shape[1])
        split = self.split[number]
        active = None if split is None else torch.tensor(split[1], device=x.device)
        if self.size == 1:
            seen = x[:0]
        else:
            seen = (x if split is None else x[split[0]]).clamp(-REACH, REACH)
        h = seen if context is None else torch.cat([seen, context])
        *layers, last = _linear(hyper)
        for layer in layers:
            h = torch.addmm(layer.bias[:, None], _weight(layer), h).relu()
            if self.dropout and self.training:
                h = nn.functional.dropout(h, self.dropout)
        weight = _bins_first(_weight(last), self.total)
        bias = _bins_first(last.bias[:, None], self.total)
        return active, torch.addmm(bias, weight, h).unflatten(0, (self.total, -1))

    @torch.no_grad()
    def back(
        self, z: Tensor, context: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        """The entries x (d, n) whose image is z (d, n)."""
        out = torch.empty_like(z)
        for rows in (slice(i, i + ROWS) for i in range(0, z.shape[1], ROWS)):
            out[:, rows] = self._back(
                z[:, rows],
                None if context is None else context[:, rows],
                None if present is None else present[:, rows],
            )
        return out

    def _back(self, z: Tensor, context: Tensor | None, present: Tensor | None) -> Tensor:
        inverse = spline_back if self.splines else affine_back
        for number, step in reversed(list(enumerate(self._steps()))):
            if getattr(step, "order", None) is not None:
                z = _solve(step, z, context, present, self.total, inverse)
                continue
            active, raw = self._maps(number, step, z, context)
            own = inverse(z if active is None else z[active], raw)
            if present is not None:
                own = torch.where(present if active is None else present[active], own, 0.0)
            z = own if active is None else z.index_copy(0, active, own)
        return z


def _made(
    kind: Kind, size: int, context: int, transforms: int, hidden: Sequence[int], bins: int
) -> Any:
    import zuko  # its import takes time that other families need not spend

    if kind not in get_args(Kind):
        raise ValueError(f"kind {kind!r} is none of {get_args(Kind)}")
    settings: dict[str, Any] = {
        "features": size, "context": context, "transforms": transforms,
        "hidden_features": tuple(hidden),
    }  # fmt: skip
    if size == 1 and not context:
        del settings["hidden_features"]
    if kind == "realnvp":
        return zuko.flows.RealNVP(**settings)
    if kind == "affine":
        return zuko.flows.MAF(**settings)
    if kind == "coupling" and size > 1:
        settings["passes"] = 2
    return zuko.flows.NSF(bins=bins, **settings)


def _split(step: Any) -> tuple[list[int], list[int]] | None:
    mask = getattr(step, "mask", None)
    if mask is None:
        return None
    return mask.nonzero()[:, 0].tolist(), (~mask).nonzero()[:, 0].tolist()


def _linear(hyper: nn.Module) -> list[Any]:
    return [layer for layer in hyper if isinstance(layer, nn.Module) and hasattr(layer, "weight")]  # type: ignore[attr-defined]


def _last(step: Any) -> list[Tensor]:
    """What decides the maps of a step: 0 makes each the identity."""
    hyper = getattr(step, "hyper", None)
    if hyper is None:
        return list(step.phi)
    last = _linear(hyper)[-1]
    return [last.weight, last.bias]


def _weight(layer: Any) -> Tensor:
    mask = getattr(layer, "mask", None)
    return layer.weight if mask is None else layer.weight * mask


def _bins_first(rows: Tensor, total: int) -> Tensor:
    """Rows ordered by number of the map, then entry; zuko orders them the other way round."""
    return rows.unflatten(0, (-1, total)).transpose(0, 1).flatten(0, 1)


class _Layer(NamedTuple):
    """A layer with units and inputs in the order in which they can be known."""

    weight: Tensor
    bias: Tensor
    #: units (inputs) that can be known before entries of rank 0, 1, ... are
    ends: list[int]
    known: list[int]


def _solve(
    step: Any, z: Tensor, context: Tensor | None, present: Tensor | None, total: int, inverse: Any
) -> Tensor:
    """The inverse of an autoregressive step, entries of equal rank at a time."""
    rank = step.order
    passes = int(rank.max()) + 1
    *hidden, last = _linear(step.hyper)
    extra = 0 if context is None else len(context)
    # when an input can be known: context at once, an entry after its rank
    ready = torch.cat([rank + 1, rank.new_zeros(extra)])
    order = ready.argsort(stable=True)
    layers, perm = [], order
    for layer in hidden:
        mask = layer.mask
        own = torch.where(mask, ready, 0).amax(1)
        turn = own.argsort(stable=True)
        layers.append(_Layer(
            _weight(layer)[turn][:, perm], layer.bias[turn, None],
            _counts(own, passes), _counts(ready, passes),
        ))  # fmt: skip
        ready, perm = own, turn
    weight, bias, known = _weight(last)[:, perm], last.bias, _counts(ready, passes)
    at = torch.empty_like(order)
    at[order] = torch.arange(len(order), device=order.device)
    values = [z.new_zeros(len(order), z.shape[1])]
    values += [z.new_zeros(len(layer.bias), z.shape[1]) for layer in layers]
    if context is not None:
        values[0][at[len(rank) :]] = context
    x = torch.zeros_like(z)
    for t in range(passes):
        for number, layer in enumerate(layers):
            new = slice(layer.ends[t - 1] if t else 0, layer.ends[t])
            if new.start < new.stop:
                below = values[number][: layer.known[t]]
                product = layer.weight[new, : layer.known[t]] @ below
                values[number + 1][new] = product.add_(layer.bias[new]).relu_()
        own = (rank == t).nonzero()[:, 0]
        rows = (own[None, :] * total + torch.arange(total, device=own.device)[:, None]).flatten()
        raw = weight[rows, : known[t]] @ values[-1][: known[t]] + bias[rows, None]
        found = inverse(z[own], raw.unflatten(0, (total, -1)))
        if present is not None:
            found = torch.where(present[own], found, 0.0)
        x[own] = found
        values[0][at[own]] = found.clamp(-REACH, REACH)
    return x


def _counts(ready: Tensor, passes: int) -> list[int]:
    """How many are known before entries of rank 0, 1, ... are."""
    return [int((ready <= t).sum()) for t in range(passes)]
