"""Which rows are odd, and why."""

from __future__ import annotations

from typing import Any, Literal

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
        self,
        table: Any,
        details: bool = False,
        unseen: Unseen = "error",
        extra: Extra = "error",
    ) -> pd.DataFrame:
        """Surprisal split into one share a column; see `probgen.outliers.explain`."""
        from probgen.outliers import explain

        check_is_fitted(self)
        return explain(self._density, table, details, unseen, extra)

    def outliers(
        self,
        table: Any,
        fdr: float | None = 0.05,
        folds: int | None = None,
        method: Literal["auto", "model"] = "auto",
        samples: int = 2000,
        random_state: int = 0,
        unseen: Unseen = "error",
        extra: Extra = "error",
    ) -> pd.DataFrame:
        """How odd each row is, which to flag, and why; see `probgen.outliers.outliers`."""
        from probgen.outliers import outliers

        check_is_fitted(self)
        return outliers(
            self._density, table, fdr, folds, method, samples, random_state, unseen, extra
        )

    def repair(
        self,
        table: Any,
        candidates: int = 64,
        random_state: int = 0,
        unseen: Unseen = "error",
        extra: Extra = "error",
    ) -> pd.DataFrame:
        """The cell of each row whose change helps most; see `probgen.outliers.repair`."""
        from probgen.outliers import repair

        check_is_fitted(self)
        return repair(self._density, table, candidates, random_state, unseen, extra)
