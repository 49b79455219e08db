"""The latents of rows, and the rows as the model sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from probgen import queries
from probgen.batch import Batch
from probgen.errors import NotSupported, SchemaError, message
from probgen.queries.hidden import holes
from probgen.table import encode
from probgen.verbs.base import Asked, Extra, Unseen

__all__ = ["Latents"]


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
                        flat = value.reshape(len(batch), -1)
                        parts |= {f"{name}[{i}]{suffix}": flat[:, i] for i in range(flat.shape[1])}
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

    def reconstruct(
        self,
        table: Any,
        unseen: Unseen = "error",
        extra: Extra = "error",
        latent: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """The rows as the model sees them, through their latents and back.

        With `latent`, a frame as `latent` gives it, perhaps changed: the real cells of each row
        are those that have these codes, given its other cells; for flows.
        """
        check_is_fitted(self)
        encoded = encode(table, self.schema_, unseen=unseen, extra=extra)
        batch = self._batch(encoded, self._device)
        with torch.no_grad():
            codes = self._codes(batch)
            if codes is not None:
                x = self.members_[0].decoded(batch, self._with_codes(codes, latent))
                assert x is not None  # a family with codes decodes them
                x = torch.where(batch.seen, x, 0.0)
                return self._decode(x.cpu().numpy(), encoded.index)
            self._require_codes(latent is None)
            x = self.members_[0].reconstruct(batch)
            if x is None:
                x = queries.reconstruct(self._predictive(), batch)
        return self._decode(x.cpu().numpy(), encoded.index)

    def _with_codes(
        self, codes: dict[str, torch.Tensor], latent: pd.DataFrame | None
    ) -> dict[str, torch.Tensor]:
        """The codes of a frame, in the places of those of the rows."""
        if latent is None:
            return codes
        found = {}
        for name, own in codes.items():
            wanted = [f"{name}[{i}]" for i in range(own.shape[1])]
            if not set(wanted) <= set(latent.columns) or len(latent) != len(own):
                raise SchemaError(message(
                    f"latent of {len(latent)} rows with columns {list(latent.columns)}",
                    f"{len(own)} rows with columns {wanted}", "pass what latent(table) gave",
                ))  # fmt: skip
            value = torch.from_numpy(latent[wanted].to_numpy(np.float64, copy=True))
            found[name] = value.to(own)
        return found

    def _require_codes(self, have: bool) -> None:
        if not have:
            raise NotSupported(message(
                f"rows from codes of a {type(self).__name__}",
                "a family whose rows are images of points, such as a flow",
                "ask a Flow",
            ))  # fmt: skip

    def interpolate(self, table: Any, other: Any, steps: int = 5) -> pd.DataFrame:
        """Rows on the way from each row of one table to the row beside it in another.

        The way is a straight line between the points of the base that the rows are images of;
        the rows on it have the cells that are not real of `table`, as have their atoms.

        Parameters
        ----------
        table, other : data frames of n rows, without holes
        steps : int
            Rows of each way, both ends included; at least 2.

        Returns
        -------
        data frame
            n * steps rows, indexed by (row of `table`, share of the way).

        Raises
        ------
        NotSupported
            If rows of the family are no images of points, or have holes.
        SchemaError
            If the tables differ in length.
        """
        check_is_fitted(self)
        both = [encode(frame, self.schema_) for frame in (table, other)]
        first, last = (self._batch(encoded, self._device) for encoded in both)
        if len(first) != len(last) or steps < 2:
            raise SchemaError(message(
                f"{len(first)} and {len(last)} rows, steps={steps}",
                "as many rows in both, and at least 2 steps", "pass rows that go together",
            ))  # fmt: skip
        with torch.no_grad():
            start, end = self._codes(first), self._codes(last)
            self._require_codes(start is not None and end is not None)
            assert start is not None and end is not None  # just looked at
            shares, parts = np.linspace(0.0, 1.0, steps), []
            for share in shares:
                # where one end has no point the other one stays
                codes = {name: torch.lerp(z.where(~z.isnan(), end[name]),
                                          end[name].where(~end[name].isnan(), z), float(share))
                         for name, z in start.items()}  # fmt: skip
                x = self.members_[0].decoded(first, codes)
                assert x is not None  # a family with codes decodes them
                parts.append(torch.where(first.seen, x, 0.0).cpu().numpy())
        rows = np.stack(parts, 1).reshape(len(first) * steps, -1)
        index = pd.MultiIndex.from_product([both[0].index, shares], names=["row", "share"])
        return self._decode(rows, index)
