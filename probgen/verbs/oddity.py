"""Which rows are odd, and why."""

from __future__ import annotations

from typing import Any

import pandas as pd
from sklearn.utils.validation import check_is_fitted

from probgen.verbs.base import Extra, Unseen
from probgen.verbs.scoring import Scoring

__all__ = ["Oddity"]


class Oddity(Scoring):
    """Verbs about odd rows."""

    def surprisal(self, table: Any, unseen: Unseen = "error", extra: Extra = "error") -> pd.Series:
        """-log_prob of each row, nats, on the caller's index: larger is stranger."""
        value = self.log_prob(table, unseen=unseen, extra=extra)
        return (-value).rename("surprisal")

    def explain(
        self, table: Any, unseen: Unseen = "error", extra: Extra = "error"
    ) -> pd.DataFrame:
        """Surprisal split into one share a column; see `probgen.outliers.explain`."""
        from probgen.outliers import explain

        check_is_fitted(self)
        return explain(self._density, table, unseen, extra)

    def outliers(
        self,
        table: Any,
        samples: int = 2000,
        random_state: int = 0,
        unseen: Unseen = "error",
        extra: Extra = "error",
    ) -> pd.DataFrame:
        """How odd each row is, and the column to blame; see `probgen.outliers.outliers`."""
        from probgen.outliers import outliers

        check_is_fitted(self)
        return outliers(self._density, table, samples, random_state, unseen, extra)
