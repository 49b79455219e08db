"""The one module that touches Pyro's private parts: traces, enumeration, contraction.

Everything here must be called inside `probgen.session.guarded`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from opt_einsum import shared_intermediates
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.ops.contract import contract_to_tensor
from pyro.ops.rings import LogRing
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from probgen.batch import ROWS, Batch
from probgen.errors import NotSupported, message
from probgen.family import Family
from probgen.queries.noise import KeyedNoise

__all__ = [
    "STILL",
    "Plan",
    "Weighed",
    "fixed",
    "global_sites",
    "label_log_probs",
    "log_joint",
    "row_log_weights",
    "row_sites",
    "survey",
    "traced",
    "weighed",
]

#: key of `infer` under which a guide's site keeps its distribution with parameters detached
STILL = "_still"

_Values = dict[str, Tensor]
#: a tensor without dims of size 1, its dims named by the characters of `_pyro_dims`
_Packed = Any


class fixed(Messenger):  # noqa: N801  (a handler, named as Pyro's are)
    """Gives sites their values from a dict; unlike `poutine.condition`, they stay latent."""

    def __init__(self, values: _Values) -> None:
        super().__init__()
        self._values = values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        value = self._values.get(msg["name"])
        if value is not None and not msg["is_observed"]:
            msg["value"] = value
            msg["done"] = True


class _Marked(Messenger):
    """Says which sites are enumerated, whatever the model says."""

    def __init__(self, enumerated: frozenset[str]) -> None:
        super().__init__()
        self._enumerated = enumerated

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        on = msg["name"] in self._enumerated
        msg["infer"] = dict(msg["infer"], enumerate="parallel" if on else None)


def traced(
    program: Callable[[Batch], object],
    batch: Batch,
    values: _Values,
    keys: Tensor | None = None,
    lenient: bool = False,
) -> Trace:
    """The trace of a model or guide with some sites fixed, row latents by keyed noise."""
    program = fixed(values)(program)
    if keys is not None:
        program = KeyedNoise(keys, lenient)(program)
    return poutine.trace(program).get_trace(batch)


def row_sites(trace: Trace, observed: bool | None = None) -> dict[str, dict[str, Any]]:
    """The sample sites inside the rows plate: all, the observed, or the latent ones."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not site_is_subsample(site)
        and any(frame.name == ROWS for frame in site["cond_indep_stack"])
        and (observed is None or site["is_observed"] == observed)
    }


def global_sites(trace: Trace) -> dict[str, dict[str, Any]]:
    """The latent sample sites outside the rows plate, auxiliary ones left out."""
    rows = row_sites(trace)
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and name not in rows
        and not site["is_observed"]
        and not site_is_subsample(site)
        and not site["infer"].get("is_auxiliary", False)
    }


@dataclass(frozen=True)
class Plan:
    """How the row latents of a pair are dealt with.

    Attributes
    ----------
    proposed : frozenset of str
        Row latents that the guide draws.
    enumerated : frozenset of str
        Row latents of the model that are summed out.
    prior : frozenset of str
        Row latents that the guide lacks, drawn from the model.
    nesting : int
        How many batch dims the plates of the model use.
    """

    proposed: frozenset[str]
    enumerated: frozenset[str]
    prior: frozenset[str]
    nesting: int

    @property
    def sampled(self) -> bool:
        """Whether the density of a row is a Monte Carlo estimate."""
        return bool(self.proposed or self.prior)


def survey(family: Family, batch: Batch, values: _Values) -> Plan:
    """Learn the structure of a pair by running it once on one row."""
    one = family.typical(batch)
    keys = torch.zeros(len(one), dtype=torch.int64, device=one.seen.device)
    guide = row_sites(traced(family.guide, one, values, keys), observed=False)
    _refuse_points(family, guide)
    proposals = {name: site["value"] for name, site in guide.items()}
    model = row_sites(traced(family.model, one, {**values, **proposals}, keys))
    latent = {name: site for name, site in model.items() if not site["is_observed"]}
    marked = {name for name, site in latent.items() if _enumerable(site)}
    in_guide = {name for name, site in guide.items() if _enumerable(site)}
    # with nothing but enumerable sites in the guide, the model can be summed exactly
    proposed = frozenset() if set(guide) <= in_guide & set(latent) else frozenset(guide)
    enumerated = (marked | in_guide) - proposed
    frames = [f for site in model.values() for f in site["cond_indep_stack"] if f.vectorized]
    return Plan(
        proposed=proposed,
        enumerated=frozenset(enumerated),
        prior=frozenset(set(latent) - proposed - enumerated),
        nesting=max([1] + [-frame.dim for frame in frames]),
    )


def _enumerable(site: dict[str, Any]) -> bool:
    wanted = site["infer"].get("enumerate") == "parallel"
    return wanted and getattr(site["fn"], "has_enumerate_support", False)


def _refuse_points(family: Family, guide: dict[str, dict[str, Any]]) -> None:
    """A guide of point masses is no proposal: a ratio of densities to it means nothing."""
    points = [name for name, site in guide.items() if _is_point(site["fn"])]
    if points and len(points) == len(guide):
        raise NotSupported(
            message(
                f"a guide of {type(family).__name__} with only point masses at {points}",
                "a guide with a density over the row latents",
                "give these sites a distribution with a spread, such as a Normal",
            )
        )


def _is_point(fn: object) -> bool:
    base = getattr(fn, "base_dist", None)
    return isinstance(fn, dist.Delta) or (base is not None and _is_point(base))


def row_log_weights(
    family: Family, batch: Batch, values: _Values, keys: Tensor, plan: Plan
) -> Tensor:
    """log p(x_n, z_n | t) - log q(z_n | x_n) at one keyed draw of the row latents.

    Parameters
    ----------
    family : Family
    batch : Batch of n rows, n >= 1
    values : dict
        The global latents t.
    keys : Tensor (n,) of int64
    plan : Plan

    Returns
    -------
    Tensor (n,)
        Enumerated sites summed out; sites drawn from the model contribute 0; masks count,
        scales do not; inner plates are summed.
    """
    n = len(batch)
    total = torch.zeros(n, dtype=_dtype(batch), device=batch.seen.device)
    if plan.proposed:
        guide = row_sites(traced(family.guide, batch, values, keys), observed=False)
        values = {**values, **{name: site["value"] for name, site in guide.items()}}
        for site in guide.values():
            total = total - _per_row(_log_prob(site), n)
    if plan.enumerated:
        return total + _contracted(family, batch, values, keys, plan)
    sites = row_sites(traced(family.model, batch, values, keys))
    return total + sum(_per_row(_log_prob(s), n) for m, s in sites.items() if m not in plan.prior)


def _dtype(batch: Batch) -> torch.dtype:
    return batch.weight.dtype if batch.x is None else batch.x.dtype


def _log_prob(site: dict[str, Any], masked: bool = True) -> Tensor:
    """The log density of a site without any scale."""
    value = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(value, 1.0, site["mask"] if masked else None)


def _per_row(value: Tensor, n: int) -> Tensor:
    """Sum over inner plates: (..., n) -> (n,)."""
    value = value.expand(torch.broadcast_shapes(value.shape, (n,)))
    return value.reshape(-1, n).sum(0)


def label_log_probs(
    family: Family, batch: Batch, values: _Values, keys: Tensor, plan: Plan
) -> dict[str, Tensor]:
    """log p(label | x_n, t) of each enumerated site of the rows, by site (n, codes).

    Other latents are at one keyed draw from the guide; sites in inner plates are left out.
    """
    if plan.proposed:
        guide = row_sites(traced(family.guide, batch, values, keys), observed=False)
        values = {**values, **{name: site["value"] for name, site in guide.items()}}
    factors = _factors(family, batch, values, keys, plan)
    found = {}
    for name in sorted(plan.enumerated):
        site = factors.trace.nodes[name]
        if sum(frame.vectorized for frame in site["cond_indep_stack"]) == 1:
            joint = factors.contracted(site["infer"]["_enumerate_symbol"])
            found[name] = joint.log_softmax(-1)
    return found


def _contracted(family: Family, batch: Batch, values: _Values, keys: Tensor, plan: Plan) -> Tensor:
    """log p of the model's row sites, enumerated ones summed out by variable elimination."""
    return _factors(family, batch, values, keys, plan).contracted()


@dataclass(frozen=True)
class _Factors:
    """Log factors of a model by the plates that they lie in, as packed tensors."""

    tree: OrderedDict[frozenset[str], list[_Packed]]
    sizes: dict[str, int]
    trace: Trace

    def contracted(self, kept: str | None = None) -> Tensor:
        """The log of the sum over all enumerated dims: (n,), or (n, codes) with one kept."""
        terms = [term for part in self.tree.values() for term in part]
        summed = {dim for term in terms for dim in term._pyro_dims} - set(self.sizes)
        target = {kept} & summed if kept else set()
        rows = self.trace.plate_to_symbol[ROWS]
        with shared_intermediates() as cache:
            ring = _StableRing(cache=cache, dim_to_size=self.sizes)
            result = contract_to_tensor(self.tree, summed, frozenset({rows}), target, ring=ring)
        wanted = [dim for dim in (rows, kept) if dim and dim in result._pyro_dims]
        result = result.permute([result._pyro_dims.index(dim) for dim in wanted])
        return result if len(target) or not kept else result[:, None]


def _factors(
    family: Family, batch: Batch, values: _Values, keys: Tensor | None, plan: Plan
) -> _Factors:
    # the handler entered last acts first: marks, then enumeration, then values, then noise
    model = _Marked(plan.enumerated)(family.model)
    model = EnumMessenger(first_available_dim=-1 - plan.nesting)(model)
    trace = traced(model, batch, values, keys)
    for site in row_sites(trace).values():
        # an enumerated site sums to one also where it is masked
        masked = site["infer"].get("_enumerate_dim") is None
        site["log_prob"] = site["unscaled_log_prob"] = _log_prob(site, masked)
    trace.pack_tensors()
    tree: OrderedDict[frozenset[str], list[_Packed]] = OrderedDict()
    sizes: dict[str, int] = {}
    for name, site in row_sites(trace).items():
        frames = [f for f in site["cond_indep_stack"] if f.vectorized]
        sizes.update({trace.plate_to_symbol[f.name]: f.size for f in frames})
        if name in plan.prior and not _scored(site):
            continue
        if name in plan.prior:  # worth 0, with the gradient of its score
            packed = site["packed"]["log_prob"]
            detached = packed.detach()
            detached._pyro_dims = packed._pyro_dims
            site["packed"]["log_prob"] = _added([packed, _negative(detached)])
        plates = frozenset(trace.plate_to_symbol[f.name] for f in frames)
        tree.setdefault(plates, []).append(site["packed"]["log_prob"])
    return _Factors(tree, sizes, trace)


def _scored(site: dict[str, Any]) -> bool:
    """Whether the gradient of a site needs its score: its draws cannot be differentiated."""
    if site["fn"].has_rsample or not torch.is_grad_enabled():
        return False
    return bool(site["fn"].log_prob(site["value"]).requires_grad)


def _negative(term: _Packed) -> _Packed:
    result = -term
    result._pyro_dims = term._pyro_dims
    return result


@dataclass(frozen=True)
class Weighed:
    """One differentiable draw of all latents of a pair.

    Attributes
    ----------
    rows : Tensor (n,)
        log p(x_n, z_n given t) - log q(z_n given x_n), enumerated sites summed out.
    score : Tensor (n,)
        log q of the row latents that the guide draws and whose draws cannot be
        differentiated: `rows` holds no gradient of it.
    globals : Tensor ()
        log p(t) - log q(t).
    """

    rows: Tensor
    score: Tensor
    globals: Tensor


def weighed(family: Family, batch: Batch, plan: Plan, given: _Values | None = None) -> Weighed:
    """The terms of a bound on the log density of rows, from torch's random state.

    `given` are values of the globals to take instead of draws; gradients go through them.

    Draws are reparametrised where they can be. A latent that the guide lacks and whose draws
    cannot be differentiated is worth 0 with the gradient of its log density, so that weights
    of several draws give the gradient of reweighted wake-sleep (Bornschein and Bengio 2015).
    Where a guide states its distribution with parameters detached, log q of the globals is
    taken from it: without the score, whose mean is 0, the gradient has no noise where the
    guide is the posterior (Roeder, Wu and Duvenaud 2017, Sticking the landing).
    """
    n = len(batch)
    guide = traced(family.guide, batch, given or {})
    mine = global_sites(guide)
    proposals = {k: v for k, v in row_sites(guide, False).items() if k in plan.proposed}
    values = {name: site["value"] for name, site in {**mine, **proposals}.items()}
    rows = torch.zeros(n, dtype=_dtype(batch), device=batch.seen.device)
    score = torch.zeros_like(rows)
    for site in proposals.values():
        log_q = _per_row(_log_prob(site), n)
        if not site["fn"].has_rsample:
            score, log_q = score + log_q, log_q.detach()
        rows = rows - log_q
    trace, own = _model_rows(family, batch, values, plan)
    rows = rows + own
    shared = rows.new_zeros(())
    for sign, sites in ((1, global_sites(trace)), (-1, mine)):
        for name, site in sites.items():
            if name in mine:  # one that the guide lacks is proposed from the model: worth 0
                still = None if given else site["infer"].get(STILL)
                log_p = _log_prob(site) if still is None else still.log_prob(site["value"])
                shared = shared + sign * log_p.sum()
    return Weighed(rows, score, shared)


def _model_rows(family: Family, batch: Batch, values: _Values, plan: Plan) -> tuple[Trace, Tensor]:
    """The trace of the model, and log p of its row sites (n,); those of `plan.prior` are 0."""
    if plan.enumerated:
        factors = _factors(family, batch, values, None, plan)
        return factors.trace, factors.contracted()
    trace, n = traced(family.model, batch, values), len(batch)
    rows = torch.zeros(n, dtype=_dtype(batch), device=batch.seen.device)
    for name, site in row_sites(trace).items():
        if name not in plan.prior:
            rows = rows + _per_row(_log_prob(site), n)
        elif _scored(site):
            log_p = _per_row(_log_prob(site), n)
            rows = rows + (log_p - log_p.detach())
    return trace, rows


def log_joint(family: Family, batch: Batch, plan: Plan, values: _Values) -> tuple[Tensor, Tensor]:
    """log p of each row (n,) given the globals `values`, and log p of the globals (), nats.

    Differentiable in the values and the parameters; for plans that sample no row latents.
    """
    trace, rows = _model_rows(family, batch, values, plan)
    prior = [_log_prob(site).sum() for name, site in global_sites(trace).items() if name in values]
    return rows, sum(prior, rows.new_zeros(()))


class _StableRing(LogRing):
    """Sums in log space. Pyro's ring exponentiates each factor by itself, and underflows to
    -inf where the factors of an odd row have their maxima at different labels.
    """

    def sumproduct(self, terms: list[_Packed], dims: set[str]) -> _Packed:
        left = list(terms)
        todo = {dim for term in left for dim in term._pyro_dims} & set(dims)
        while todo:
            dim = min(sorted(todo), key=lambda d: _width(left, d))
            factor = _added([term for term in left if dim in term._pyro_dims])
            names = factor._pyro_dims
            factor = factor.logsumexp(names.index(dim))
            factor._pyro_dims = names.replace(dim, "")
            left = [term for term in left if dim not in term._pyro_dims] + [factor]
            todo.remove(dim)
        return _added(left)


def _width(terms: list[_Packed], dim: str) -> int:
    """How many dims the factor has that eliminating `dim` creates."""
    return len({d for term in terms if dim in term._pyro_dims for d in term._pyro_dims})


def _added(terms: list[_Packed]) -> _Packed:
    """Broadcast sum of packed tensors, always a new tensor."""
    names = "".join(sorted({dim for term in terms for dim in term._pyro_dims}))
    parts = []
    for term in terms:
        own = term._pyro_dims
        order = [own.index(dim) for dim in names if dim in own]
        shape = [term.shape[own.index(dim)] if dim in own else 1 for dim in names]
        parts.append(term.permute(order).reshape(shape))
    total = sum(parts[1:], parts[0] + 0.0)
    total._pyro_dims = names
    return total
