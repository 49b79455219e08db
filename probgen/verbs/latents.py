"""The latents of rows, and the rows as the model sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from probgen import queries
from probgen.batch import Batch
from probgen.errors import NotSupported, SchemaError, message
from probgen.family import Family
from probgen.queries.hidden import holes
from probgen.table import encode
from probgen.verbs.base import Asked, Extra, Unseen

__all__ = ["Latents", "flat"]


class Latents(Asked):
    """Verbs about latents."""

    def latent(self, table: Any, unseen: Unseen = "error", extra: Extra = "error") -> pd.DataFrame:
        """Latents of each row: label probabilities, mean and sd under the guide, or its code.

        Columns are ``name[code]`` for labels; ``name`` and ``name.sd`` (with an index where
        there are several dimensions) for others. A flow gives the point ``z[0], z[1], ...``
        of its base that the real cells of the row are the image of, NaN beside an atom;
        it needs rows without holes (`NotSupported`). Of several restarts, those of the first.
        """
        check_is_fitted(self)
        encoded = encode(table, self.schema_, unseen=unseen, extra=extra)
        batch = self._batch(encoded, self._device)
        with torch.no_grad():
            labels = self.members_[0].row_latents(batch)
            codes = self._codes(batch)
            if codes is not None:
                parts = {f"{name}[{i}]": z[:, i] for name, z in codes.items()
                         for i in range(z.shape[1])}  # fmt: skip
            elif labels is not None:
                parts = {f"{name}[{k}]": p[:, k] for name, p in labels.items()
                         for k in range(p.shape[1])}  # fmt: skip
            else:
                parts = {}
                for name, both in queries.latent(self._predictive(), batch).items():
                    for suffix, value in zip(("", ".sd"), both, strict=True):
                        wide = flat(value)
                        parts |= {f"{name}[{i}]{suffix}": wide[:, i] for i in range(wide.shape[1])}
        return pd.DataFrame(
            {name: value.cpu().numpy() for name, value in parts.items()}, index=encoded.index
        )

    def _codes(self, batch: Batch) -> dict[str, torch.Tensor] | None:
        """The codes of rows under the first restart, where its rows have some."""
        codes = self.members_[0].codes(batch)
        if codes is None:
            return None
        bad = holes(batch, self.schema_.slots).any(1).nonzero()[:, 0]
        if len(bad):
            raise NotSupported(message(
                f"{len(bad)} row(s) with holes, the first at place {int(bad[0])}",
                "rows that are seen in whole: each has one point of the base",
                "impute the table first, or leave these rows out",
            ))  # fmt: skip
        return codes

    def _places(self, batch: Batch) -> tuple[dict[str, torch.Tensor], bool]:
        """Latents of rows that the family decodes, and whether they are codes.

        Codes hold the real cells of a row; other latents, here their means, all its cells.
        """
        codes = self._codes(batch)
        if codes is not None:
            return codes, True
        if type(self.members_[0]).decoded is Family.decoded:
            raise NotSupported(message(
                f"rows from latents of a {type(self).__name__}",
                "a family whose rows are decoded from points, such as a VAE or a flow",
                "ask a VAE or a Flow",
            ))  # fmt: skip
        found = queries.latent(self._predictive(), batch)
        return {name: mean for name, (mean, _) in found.items()}, False

    def _decoded(
        self, batch: Batch, places: dict[str, torch.Tensor], coded: bool
    ) -> NDArray[np.float64]:
        """Encoded rows (n, m) at latents of the first restart."""
        x = self.members_[0].decoded(batch, places)
        assert x is not None  # `_places` has looked
        if coded:  # a cell beside an atom has no value
            x = torch.where(batch.seen, x, 0.0)
        return x.double().cpu().numpy()

    def _decoded_along(
        self, parts: list[NDArray[np.float64]], rows: pd.Index, labels: dict[str, Any]
    ) -> pd.DataFrame:
        """Encoded versions (n, m) of rows, indexed by row and the labels of the version."""
        x = np.stack(parts, 1).reshape(len(rows) * len(parts), parts[0].shape[1])
        flat = rows.to_flat_index().repeat(len(parts))
        own = [np.tile(np.asarray(label), len(rows)) for label in labels.values()]
        return self._decode(x, pd.MultiIndex.from_arrays([flat, *own], names=["row", *labels]))

    def reconstruct(
        self,
        table: Any,
        unseen: Unseen = "error",
        extra: Extra = "error",
        latent: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """The rows as the model sees them, through their latents and back.

        Parameters
        ----------
        table : data frame of n rows
            Holes are allowed where the guide takes them, as that of a `VAE`: they come back
            filled.
        unseen, extra
            As in `log_prob`.
        latent : data frame of n rows, optional
            Latents in place of those of the rows, as `latent` gives them, perhaps changed; row
            by row, whatever its index. Columns other than the places (``.sd``) do not matter.

        Returns
        -------
        data frame
            On the index of the table, fitted columns and dtypes. Without `latent`, values that
            stand for each cell (mean, or likeliest level), averaged over the guide's latents.
            With `latent`, what stands for the cells at that one point. A flow takes the real
            cells only from the codes, all others from the table.

        Raises
        ------
        NotSupported
            If the family has no latents; with `latent`, if it decodes no points.
        SchemaError
            If `latent` lacks rows or columns, or holds no finite numbers.

        References
        ----------
        Vincent, Larochelle, Lajoie, Bengio and Manzagol (2010), Stacked denoising
        autoencoders, JMLR 11.
        """
        check_is_fitted(self)
        encoded = encode(table, self.schema_, unseen=unseen, extra=extra)
        batch = self._batch(encoded, self._device)
        with torch.no_grad():
            codes = self._codes(batch)
            if codes is None and latent is None:
                x = self.members_[0].reconstruct(batch)
                if x is None:
                    x = queries.reconstruct(self._predictive(), batch)
                return self._decode(x.cpu().numpy(), encoded.index)
            places, coded = self._places(batch) if codes is None else (codes, True)
            cells = self._decoded(batch, _replaced(places, latent, coded), coded)
        return self._decode(cells, encoded.index)

    def interpolate(
        self,
        table: Any,
        other: Any,
        steps: int = 5,
        unseen: Unseen = "error",
        extra: Extra = "error",
    ) -> pd.DataFrame:
        """Rows on the way from each row of one table to the row beside it in another.

        The way is a straight line between the latents of the two rows: the means that `latent`
        gives, decoded whole, or the codes of a flow. Rows between codes have the cells that are
        not real of `table`, as have their atoms.

        Parameters
        ----------
        table, other : data frames of n rows
            Without holes for a flow.
        steps : int
            Rows of each way, both ends included; at least 2. The ends are the rows as the
            model sees them: those of the tables exactly for a flow only.
        unseen, extra
            As in `log_prob`, for both tables.

        Returns
        -------
        data frame
            n * steps rows, indexed by (row of `table`, share of the way).

        Raises
        ------
        NotSupported
            If the family decodes no points, or rows of a flow have holes.
        SchemaError
            If the tables differ in length.
        """
        check_is_fitted(self)
        both = [encode(f, self.schema_, unseen=unseen, extra=extra) for f in (table, other)]
        first, last = (self._batch(encoded, self._device) for encoded in both)
        if len(first) != len(last) or steps < 2:
            raise SchemaError(message(
                f"{len(first)} and {len(last)} rows, steps={steps}",
                "as many rows in both, and at least 2 steps", "pass rows that go together",
            ))  # fmt: skip
        shares, parts = np.linspace(0.0, 1.0, steps), []
        with torch.no_grad():
            (start, coded), (end, _) = self._places(first), self._places(last)
            for share in shares:
                # where one end has no point the other one stays
                places = {name: torch.lerp(z.where(~z.isnan(), end[name]),
                                           end[name].where(~end[name].isnan(), z), float(share))
                          for name, z in start.items()}  # fmt: skip
                parts.append(self._decoded(first, places, coded))
        return self._decoded_along(parts, both[0].index, {"share": shares})


def flat(value: torch.Tensor) -> torch.Tensor:
    """Latents (n, ...) as (n, dimensions)."""
    return value.flatten(1) if value.dim() > 1 else value[:, None]


def _replaced(
    places: dict[str, torch.Tensor], latent: pd.DataFrame | None, coded: bool
) -> dict[str, torch.Tensor]:
    """The latents of a frame, in the places of those of the rows."""
    if latent is None:
        return places
    found = {}
    for name, own in places.items():
        wanted = [f"{name}[{i}]" for i in range(flat(own).shape[1])]
        if not set(wanted) <= set(latent.columns) or len(latent) != len(own):
            raise SchemaError(message(
                f"latent of {len(latent)} rows with columns {list(latent.columns)}",
                f"{len(own)} rows with columns {wanted}", "pass what latent(table) gave",
            ))  # fmt: skip
        value = latent[wanted].to_numpy(np.float64, copy=True)
        if not coded and not np.isfinite(value).all():  # a code is missing beside an atom
            bad = int((~np.isfinite(value)).any(1).sum())
            raise SchemaError(message(
                f"{bad} row(s) of latent that are not finite", "finite numbers",
                "pass what latent(table) gave, with finite changes",
            ))  # fmt: skip
        found[name] = torch.from_numpy(value).to(own).reshape(own.shape)
    return found
