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

    def latent_summary(
        self,
        table: Any,
        rows: int = 1000,
        random_state: int = 0,
        unseen: Unseen = "error",
        extra: Extra = "error",
    ) -> pd.DataFrame:
        """What each latent dimension holds of the rows of a table, in nats.

        Parameters
        ----------
        table : data frame of n rows
        rows : int
            Rows to look at, at most. Cost: quadratic in them.
        random_state : int
            Seed of their choice. The draws of the latents are those of the rows' content.
        unseen, extra
            As in `log_prob`.

        Returns
        -------
        data frame
            A row a dimension, and a last one, ``all``, of all dimensions together:

            - ``kl``: mean over rows of KL(q(z | row) || p(z)), what the latents cost in the
              evidence lower bound.
            - ``activity``: variance over rows of the mean of q(z | row), in units of the prior
              variance, and ``active``: whether it exceeds 0.01 (Burda et al. 2016).
            - ``mutual_information``: of z and which of the rows it is of. At most the logarithm
              of their number (``attrs["rows"]``): close to that, more rows would give more.
            - ``aggregate_kl``: KL(q(z) || p(z)) of the aggregate posterior, the mean of
              q(z | row) over the rows. ``kl = mutual_information + aggregate_kl`` (Hoffman and
              Johnson 2016). Where it is large, rows sampled from the prior come from places
              where no row of the table lies.
            - ``se``: Monte Carlo error of these, the largest of the three.

        Raises
        ------
        NotSupported
            If the guide of the family has no continuous row latents.
        SchemaError
            If there are fewer than two rows.

        Notes
        -----
        A dimension is looked at by itself, in its own marginals: of a normal guide and a normal
        or mixture prior they are exact, up to ``se``; of a guide that is a flow, normals with
        its moments; of a prior that is a flow, a kernel estimate. The row ``all`` takes guide
        and prior as they are; a guide that is a flow must be inverted for that, so that it looks
        at 300 of the rows. Latents that depend on each other in the aggregate make the
        ``aggregate_kl`` of all exceed the sum over dimensions. Of globals with a posterior, one
        value is taken.

        References
        ----------
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, ICLR. Hoffman
        and Johnson (2016), ELBO surgery: yet another way to carve up the variational evidence
        lower bound.
        """
        check_is_fitted(self)
        frame = to_frame(table)
        if len(frame) < 2:
            raise SchemaError(message(
                f"{len(frame)} row(s)", "at least two rows, which latents could tell apart",
                "pass more of the table",
            ))  # fmt: skip
        frame = frame if len(frame) <= rows else frame.sample(rows, random_state=random_state)
        encoded = encode(frame, self.schema_, unseen=unseen, extra=extra)
        batch, predictive = self._batch(encoded, self._device), self._predictive(posterior=False)
        sites, total = queries.latent_divergences(predictive, batch)
        activity = {site: m.activity for site, m in self._latent_moments(batch).items()}
        names = [f"{site}[{i}]" for site, found in sites.items() for i in range(len(found.kl))]
        numbers = {"kl": "kl", "mutual_information": "information", "aggregate_kl": "aggregate",
                   "se": "se"}  # fmt: skip
        columns = {
            name: torch.cat([*(getattr(found, own) for found in sites.values()),
                             getattr(total, own)[None]]).cpu().numpy()
            for name, own in numbers.items()
        }  # fmt: skip
        made = pd.DataFrame(columns, index=pd.Index([*names, "all"], name="dimension"))
        units = torch.cat([activity[site] for site in sites]).cpu().numpy()
        made.insert(1, "activity", [*units, np.nan])
        on = pd.array([*(units > queries.ACTIVE), pd.NA], dtype="boolean")
        made.insert(2, "active", on)
        made.attrs["rows"] = len(frame)
        return made

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
