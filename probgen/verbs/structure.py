"""What the latent space of a model holds: ways through it, and what they change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from probgen import queries
from probgen.batch import Batch
from probgen.errors import NotSupported, SchemaError, message
from probgen.events import Event
from probgen.events.values import from_frame
from probgen.queries import Moments
from probgen.table import encode, to_frame
from probgen.verbs.base import Extra, Unseen
from probgen.verbs.latents import Latents, flat

__all__ = ["Structure"]

#: dimensions that a traversal takes where none are named
TRAVERSED = 3


class Structure(Latents):
    """Verbs about the latent space."""

    def traverse(
        self,
        table: Any,
        dimensions: Sequence[int | str] | None = None,
        values: Sequence[float] = (-2.0, -1.0, 0.0, 1.0, 2.0),
        unseen: Unseen = "error",
        extra: Extra = "error",
    ) -> pd.DataFrame:
        """Rows decoded while one latent at a time moves and the others stay.

        Parameters
        ----------
        table : data frame of n rows
            Where each traversal goes through. One row is enough.
        dimensions : list of names or numbers, optional
            Which latents move, as `latent` names or orders them. By default the three of which
            the rows say most: whose sd is smallest beside that of the prior.
        values : list of floats
            Where they move to, in standard deviations of the prior from its mean.
        unseen, extra
            As in `log_prob`.

        Returns
        -------
        data frame
            n * dimensions * values rows, indexed by (row, dimension, value): what stands for
            each cell at that point. What changes along a dimension is what it holds; where
            nothing does, the decoder does not read it.

        Raises
        ------
        NotSupported
            If the family decodes no points, or its points are codes (a flow): these have no
            dimensions to move one by one.
        SchemaError
            For dimensions that there are not.

        References
        ----------
        Higgins et al. (2017), beta-VAE, ICLR.
        """
        check_is_fitted(self)
        encoded = encode(table, self.schema_, unseen=unseen, extra=extra)
        batch = self._batch(encoded, self._device)
        parts, labels = [], []
        with torch.no_grad():
            places, coded = self._places(batch)
            if coded:
                raise NotSupported(message(
                    f"a traversal of the codes of a {type(self).__name__}",
                    "latents of which each has its own meaning, as in a VAE",
                    "use interpolate, or reconstruct(table, latent=...)",
                ))  # fmt: skip
            known = self._latent_moments(batch)
            for name, site, i in _chosen(known, dimensions):
                middle, unit = known[site].prior_mean[:, i], known[site].prior_sd[:, i]
                for value in values:
                    moved = places[site].clone()
                    flat(moved)[:, i] = middle + value * unit
                    parts.append(self._decoded(batch, {**places, site: moved}, coded))
                    labels.append((name, float(value)))
        named = {"dimension": [name for name, _ in labels], "value": [at for _, at in labels]}
        return self._decoded_along(parts, encoded.index, named)

    def _latent_moments(self, batch: Batch) -> dict[str, Moments]:
        return queries.latent_moments(self._predictive(), batch)

    def attribute_vector(
        self, table: Any, event: str, unseen: Unseen = "error", extra: Extra = "error"
    ) -> pd.Series:
        """The direction in latent space from rows without an attribute to rows with it.

        The difference of the mean latents of the rows of a table where an event holds and of
        those where it does not. Added to latents, and decoded, it gives rows the attribute:
        ``model.reconstruct(table, latent=model.latent(table) + vector)``.

        Parameters
        ----------
        table : data frame
            Rows with and without the attribute; those where a hole leaves it open count for
            neither.
        event : str
            As in `prob`: ``"species == 'Gentoo'"``.
        unseen, extra
            As in `log_prob`.

        Returns
        -------
        Series
            On the columns of `latent`. 0 for the ``.sd`` columns: a shift of all latents of a
            row by the same vector leaves their spread as it is.

        Raises
        ------
        SchemaError
            For an event outside the language, or if either group has no rows.

        Notes
        -----
        What goes together with the attribute in the table moves with it: of groups that differ
        in other ways too, pass rows that are alike in these.

        References
        ----------
        Larsen, Sønderby, Larochelle and Winther (2016), Autoencoding beyond pixels using a
        learned similarity metric, ICML.
        """
        check_is_fitted(self)
        asked = Event(event, self.schema_)
        frame = to_frame(table)
        latent = self.latent(frame, unseen=unseen, extra=extra)
        held = asked.holds(from_frame(frame, self.schema_, asked.columns, unseen))
        yes, no = (np.broadcast_to(part, (len(frame),)) for part in held)
        if not yes.any() or not no.any():
            raise SchemaError(message(
                f"{int(yes.sum())} row(s) where {event} is known to hold, and {int(no.sum())} "
                "where it is known not to", "at least one of each", "pass rows of both kinds",
            ))  # fmt: skip
        vector = latent[yes].mean() - latent[no].mean()
        vector[[name for name in latent.columns if name.endswith(".sd")]] = 0.0
        return vector.rename(event)


def _chosen(
    known: dict[str, Moments], dimensions: Sequence[int | str] | None
) -> list[tuple[str, str, int]]:
    """Name, site and number within it of the dimensions asked for."""
    every = [(f"{site}[{i}]", site, i) for site, found in known.items()
             for i in range(found.mean.shape[1])]  # fmt: skip
    if dimensions is None:
        gain = torch.cat([(m.prior_sd / m.sd).log().mean(0) for m in known.values()])
        best = gain.argsort(descending=True, stable=True)[:TRAVERSED]
        return [every[place] for place in best.tolist()]
    names = [name for name, _, _ in every]
    asked: list[Any] = [names.index(d) if d in names else d for d in dimensions]
    bad = [d for d in asked if not isinstance(d, int | np.integer) or not 0 <= d < len(every)]
    if bad or not asked:
        raise SchemaError(message(
            f"dimensions={list(dimensions)}",
            f"names among {names}, or numbers below {len(names)}",
            "choose among the columns of latent(table)",
        ))  # fmt: skip
    return [every[place] for place in asked]
