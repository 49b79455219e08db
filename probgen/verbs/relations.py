"""How much columns say about one another."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
from sklearn.utils.validation import check_is_fitted

from probgen.answers import Answer
from probgen.verbs.base import Asked

__all__ = ["Relations"]


class Relations(Asked):
    """Verbs about dependence."""

    def entropy(
        self,
        columns: Any = None,
        given: Any = None,
        samples: int = 10_000,
        random_state: int | None = 0,
    ) -> Answer:
        """Entropy of the model: how uncertain some columns are, ``-E log p``, in nats.

        Parameters
        ----------
        columns : column name or list of them, optional
            All modelled columns by default.
        given : dict, list of column names or event, optional
            A dict or an event holds values fixed; a list of columns averages over theirs
            (conditional entropy).
        samples : int
            Rows drawn, where the columns do not have few enough combinations of levels for
            an exact sum.
        random_state : int, optional
            Seed of these rows; None draws afresh.

        Returns
        -------
        Answer
            With ``value``, ``se``, ``method``, ``ess``. Of real columns it is a differential
            entropy: it depends on their units, and can be negative.

        References
        ----------
        Cover and Thomas (2006), Elements of Information Theory, chapters 2 and 8.
        """
        from probgen.dependence import entropy

        check_is_fitted(self)
        return entropy(self._density, columns, given, samples, random_state)

    def mutual_information(
        self,
        columns: Any,
        others: Any,
        given: Any = None,
        samples: int = 10_000,
        random_state: int | None = 0,
    ) -> Answer:
        """What two groups of columns say about each other, in nats: 0 if independent.

        ``E[log p(a, b) - log p(a) - log p(b)]``, under the model: the same in any units, and
        after any invertible change of a column.

        Parameters
        ----------
        columns, others : column name or list of them
            The two groups.
        given : dict, list of column names or event, optional
            A dict or an event holds values fixed; a list of columns averages over theirs
            (conditional mutual information).
        samples, random_state
            As in `entropy`.

        Returns
        -------
        Answer
            An estimate from draws can fall below 0 by its error.

        Raises
        ------
        SchemaError
            For unknown columns, or one on two sides.

        Examples
        --------
        >>> import probgen as pg
        >>> from probgen.datasets import penguins
        >>> model = pg.GaussianMixture(4, random_state=0, draws=0).fit(penguins())
        >>> float(model.mutual_information("species", "island")) > 0.3
        True
        """
        from probgen.dependence import mutual_information

        check_is_fitted(self)
        return mutual_information(self._density, columns, others, given, samples, random_state)

    def dependence(
        self,
        columns: Any = None,
        given: Any = None,
        measure: Literal["correlation", "nats"] = "correlation",
        samples: int = 2_000,
        random_state: int | None = 0,
    ) -> pd.DataFrame:
        """Dependence of every pair of columns, of whatever kind and shape.

        Parameters
        ----------
        columns : list of column names, optional
            All modelled columns by default.
        given : dict, list of column names or event, optional
            As in `mutual_information`.
        measure : {"correlation", "nats"}
            "correlation" is the informational coefficient ``sqrt(1 - exp(-2 I))``, in [0, 1],
            which for two jointly normal columns is the size of their correlation; with
            "nats", mutual informations, and entropies on the diagonal.
        samples, random_state
            As in `entropy`; the same rows serve all pairs. Cost: one log density a pair and
            row.

        Returns
        -------
        DataFrame (columns, columns)
            Symmetric. Of the coefficient, values below ``sqrt(2 / samples)`` or so are
            noise.

        References
        ----------
        Linfoot (1957), An informational measure of correlation. Joe (1989), Relative entropy
        measures of multivariate dependence.
        """
        from probgen.dependence import dependence

        check_is_fitted(self)
        return dependence(self._density, columns, given, measure, samples, random_state)
