"""A mixture that scores whole rows only: stands for families without closed forms."""

from __future__ import annotations

import copy

import probgen as pg
from probgen.families.mixture import Mixture
from probgen.queries import Companion


class Whole(Mixture):
    """The pair and its density, without any answer about rows with holes."""

    holes = "refuse"

    def complete(self, batch, generator):
        return None

    def complete_at(self, batch, draw, generator):
        return None

    def conditionals(self, batch):
        return None

    def exact_log_prob_masked(self, batch, masks):
        return None

    def exact_log_prob(self, batch, draws):
        beside = {i for i, slot in enumerate(self.schema.slots) if "[atom]" in slot.name}
        open_ = [i for i in range(batch.seen.shape[1]) if i - 1 not in beside]
        assert batch.seen[:, open_].all(), "asked about a row with holes"
        return super().exact_log_prob(batch, draws)


def whole(member: Mixture) -> Whole:
    """A fitted mixture without its answers about holes."""
    twin = copy.deepcopy(member)
    twin.__class__ = Whole
    return twin


class WholeMixture(pg.GaussianMixture):
    """The estimator of `Whole`: trained as a mixture, holes and all."""

    def _install(self, schema, fits):
        super()._install(schema, [(whole(member), result) for member, result in fits])

    def with_companion(self, companion: Companion) -> WholeMixture:
        """A copy whose proposals come from another companion."""
        twin = copy.copy(self)
        twin.__dict__["_companion"] = companion
        twin.__dict__.pop("_with_draws", None)
        return twin
