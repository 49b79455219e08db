"""Latents as features: densities that are transformers of scikit-learn too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from probgen.door import score_frame

__all__ = ["LatentFeatures"]


class LatentFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """Makes a density with continuous row latents a transformer; named before `Density`.

    The features of a row are the means of its latents, so that any classifier, regressor or
    clustering of scikit-learn can stand behind the model in a pipeline. They are learned
    without a target: rows without a label count as much as others.

    Examples
    --------
    >>> import probgen as pg
    >>> from probgen.datasets import penguins
    >>> model = pg.VAE(2, hidden=(8,), max_epochs=2, noise=0.0, random_state=0).fit(penguins())
    >>> model.transform(penguins()).shape
    (344, 2)
    >>> model.get_feature_names_out().tolist()
    ['vae0', 'vae1']
    """

    def transform(self, X: Any) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's name
        """Mean latents (n, L) of rows with exactly the fitted columns; holes are allowed.

        They are the columns of `latent` without the standard deviations. What comes out is set
        by ``set_output``: an array, a pandas or a polars frame.
        """
        check_is_fitted(self)
        return self._means(score_frame(self, X))

    def _means(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        found: pd.DataFrame = self.latent(frame)  # type: ignore[attr-defined]
        names = [name for name in found if not name.endswith(".sd")]
        return found[names].to_numpy(np.float64)

    @property
    def _n_features_out(self) -> int:
        """Of which `ClassNamePrefixFeaturesOutMixin` makes names."""
        check_is_fitted(self)
        none = pd.DataFrame(columns=list(self.schema_.names))  # type: ignore[attr-defined]
        return self._means(none).shape[1]
