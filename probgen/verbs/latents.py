"""The latents of rows, and the rows as the model sees them."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from probgen import queries
from probgen.table import encode
from probgen.verbs.base import Asked, Extra, Unseen

__all__ = ["Latents"]


class Latents(Asked):
    """Verbs about latents."""

    def latent(self, table: Any, unseen: Unseen = "error", extra: Extra = "error") -> pd.DataFrame:
        """Latents of each row: label probabilities, or mean and sd under the guide.

        Columns are ``name[code]`` for labels; ``name`` and ``name.sd`` (with an index where
        there are several dimensions) for others. Of several restarts, those of the first.
        """
        check_is_fitted(self)
        encoded = encode(table, self.schema_, unseen=unseen, extra=extra)
        batch = self._batch(encoded, self._device)
        with torch.no_grad():
            labels = self.members_[0].row_latents(batch)
            if labels is not None:
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

    def reconstruct(
        self, table: Any, unseen: Unseen = "error", extra: Extra = "error"
    ) -> pd.DataFrame:
        """The rows as the model sees them, through their latents and back."""
        check_is_fitted(self)
        encoded = encode(table, self.schema_, unseen=unseen, extra=extra)
        batch = self._batch(encoded, self._device)
        with torch.no_grad():
            x = self.members_[0].reconstruct(batch)
            if x is None:
                x = queries.reconstruct(self._predictive(), batch)
        return self._decode(x.cpu().numpy(), encoded.index)
