"""Rows as they would have been, and the likeliest of what was not seen."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from probgen.door import Given, generator_of, given_rows
from probgen.errors import SchemaError, message
from probgen.estimators.causes import Causal, under
from probgen.families.bayesian_network import BayesianNetwork as Pair
from probgen.nodes.counterfactuals import Noise, counterfactual_rows
from probgen.nodes.maximum import most_probable_rows
from probgen.nodes.naming import state_names
from probgen.queries import encoded as encoded_of
from probgen.queries import log_prob
from probgen.table import encode
from probgen.verbs.base import Extra, Unseen

__all__ = ["Imagined"]


@dataclass(eq=False, repr=False, kw_only=True)
class Imagined(Causal):
    """A network that works out single rows: counterfactuals and most probable explanations."""

    def counterfactual(
        self,
        table: Any,
        do: Mapping[Hashable, Any],
        draws: int = 100,
        noise: Noise = "gumbel",
        random_state: int | None = None,
    ) -> pd.DataFrame:
        """What each row would have been, had some of its columns been set otherwise.

        Parameters
        ----------
        table : data frame of m rows
            What was seen; unseen cells are drawn given the seen ones.
        do : dict
            A value by column name.
        draws : int
            Draws for each row, spread over the posterior draws of the parameters.
        noise : {"gumbel", "quantile"}
            How noise and parents make the state of a discrete column, which no data can show:
            a Gumbel-max model, or one uniform number against cumulative probabilities, for
            levels that have an order. Numbers keep their residual in either.
        random_state : int, optional
            Seed; None draws afresh at each call.

        Returns
        -------
        data frame
            m * draws whole rows, indexed by (row, draw). Columns on which nothing that was set
            acts are as in the row.

        References
        ----------
        Pearl (2009), Causality, 2nd edition, chapter 7. Oberst and Sontag (2019), Counterfactual
        off-policy evaluation with Gumbel-max structural causal models, ICML.
        """
        check_is_fitted(self)
        if not isinstance(draws, int | np.integer) or isinstance(draws, bool) or draws < 1:
            raise SchemaError(
                message(f"draws={draws!r}", "a whole number, at least 1", "pass 100")
            )
        if noise not in get_args(Noise):
            raise SchemaError(message(
                f"noise={noise!r}", f"one of {get_args(Noise)}", "change noise"
            ))  # fmt: skip
        chosen, _ = self._settings(do)
        encoded = encode(table, self.schema_)
        batch = self._batch(encoded, self._device)
        generator = generator_of(random_state)
        with_draws, parts = self._with_draws, []
        with torch.no_grad():
            for number in range(draws):
                r = number % len(with_draws.members)
                member, own = with_draws.members[r], with_draws.draws[r]
                assert isinstance(member, Pair)  # noqa: S101 - made by this estimator
                have = len(next(iter(own.values()))) if own else 1
                wanted = -(-draws // len(with_draws.members))
                s = number // len(with_draws.members) * max(1, have // wanted) % have
                at = member.network.at({name: value[s] for name, value in own.items()})
                x = member.network.complete(encoded_of(batch), batch.seen, at, generator)
                parts.append(counterfactual_rows(member.network, x, at, chosen, noise, generator))
        rows = torch.stack(parts, 1).flatten(0, 1).cpu().numpy()
        turn = np.tile(np.arange(draws), len(encoded.index))
        index = pd.MultiIndex.from_arrays(
            [encoded.index.repeat(draws), turn], names=[encoded.index.name, "draw"]
        )
        return self._decode(rows, index)

    @under
    def posterior(
        self, column: Hashable, given: Given = None, unseen: Unseen = "error"
    ) -> pd.DataFrame:
        """Distribution of a discrete column given other cells, row by row.

        Parameters
        ----------
        column : column name
            A category, an ordered or boolean column, a count (by its groups), or a column with
            atoms (which of them, or another value).
        given : dict or data frame of n rows, optional
            What to condition on; NaN conditions on nothing.
        unseen : {"error", "missing", "rare"}
            As in `log_prob`.

        Returns
        -------
        data frame (n, levels)
            Probabilities, on the index of `given`; NaN where the given cells have probability 0.

        Raises
        ------
        SchemaError
            For a column of numbers (ask `prob` or `impute`), or one that is given as well.
        """
        check_is_fitted(self)
        frame = given_rows({} if given is None else given, self.schema_)
        if column in frame.columns:
            raise SchemaError(message(
                f"{column!r} on both sides", "each column on one side", "leave it out of given"
            ))  # fmt: skip
        slots = self.schema_.slots_of([column])
        levels = state_names(self._network, self.schema_, slots[0]) if slots else ()
        if not levels:
            raise SchemaError(message(
                f"the distribution of {column!r}, which has no levels", "a discrete column",
                "ask prob for an event, or impute for its mean",
            ))  # fmt: skip
        encoded = encode(frame, self.schema_, unseen=unseen)
        batch = self._batch(encoded, self._device)
        each = torch.stack([
            member.states_given(batch, slots[0])
            for member in self.members_ if isinstance(member, Pair)
        ])  # fmt: skip
        if len(each) > 1:
            single = [log_prob(self._predictive().of(r), batch).value for r in range(len(each))]
            share = torch.stack(single).softmax(0)
            each = (share[..., None] * each).sum(0)[None]
        columns = pd.Index(list(levels), name=column)
        return pd.DataFrame(each[0].cpu().numpy(), index=encoded.index, columns=columns)

    @under
    def most_probable(
        self, table: Any, unseen: Unseen = "error", extra: Extra = "error"
    ) -> pd.DataFrame:
        """The table with its holes filled by their most probable values together.

        The most probable explanation: the joint maximum of all unseen cells of a row given the
        seen ones, at the posterior mean of the parameters (of the first restart). `impute` fills
        each cell by itself, which can put together what never comes together. The density of real
        columns is that of encoded values.

        Parameters
        ----------
        table : data frame of n rows
        unseen, extra
            As in `log_prob`.

        Returns
        -------
        data frame
            On the caller's index, with all fitted columns.

        References
        ----------
        Dawid (1992), Applications of a general propagation algorithm for probabilistic expert
        systems, Statistics and Computing 2.
        """
        network = self._network
        encoded = encode(table, self.schema_, unseen=unseen, extra=extra)
        batch = self._batch(encoded, self._device)
        with torch.no_grad():
            at = network.at(network.point())
            x, _ = most_probable_rows(network, encoded_of(batch).double(), batch.seen, at)
        return self._decode(x.cpu().numpy(), encoded.index)
