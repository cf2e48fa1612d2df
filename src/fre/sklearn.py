"""FRE as an outlier detector of scikit-learn; needs ``fre-vision[sklearn]``.

>>> from fre.sklearn import FREDetector
>>> detector = FREDetector().fit(images)              # doctest: +SKIP
>>> detector.predict(new)                             # doctest: +SKIP
array([ 1, -1])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fre.detector import FRE
from fre.errors import DatasetError, InputError, MissingDependencyError
from fre.images.decode import ImageSource
from fre.model import Model

try:
    from sklearn.base import BaseEstimator, OutlierMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError:
    raise MissingDependencyError("fre.sklearn", "sklearn") from None


class FREDetector(OutlierMixin, BaseEstimator, FRE):
    """FRE with the conduct of scikit-learn's outlier detectors.

    Parameters are those of `fre.FRE`. ``X`` is a sequence of images: files, PIL images or arrays;
    an array (n, H, W), (n, H, W, 3) or (n, H, W, 4); or a folder. Good images are inliers, +1.
    With labelled images in `GridSearchCV`, ``cv`` must be stratified: both kinds in each part.

    Attributes:
        model_: the fitted `fre.Model`, to save and deploy.
        offset_: ``decision_function`` is ``score_samples`` minus this: the threshold's negative.
        n_images_in_: number of images that were fitted.
    """

    model_: Model
    offset_: float
    n_images_in_: int

    def fit(  # type: ignore[override]  # X is a folder or images, too
        self,
        X: Path | str | Iterable[ImageSource],
        y: ArrayLike | None = None,
        **options: Any,
    ) -> FREDetector:
        """Fit to good images.

        Args:
            X: images.
            y: (n,), 1 for a good image and -1 for a defective one, which is left out of the fit.
                ``None``: all are good.
            options: keywords of `fre.FRE.fit`, such as ``progress``.

        Raises:
            InputError: as `fre.FRE.fit`; or ``y`` does not fit the images.
        """
        images = _images(X)
        if y is not None:
            images = _good(images, y)
        self.model_ = super().fit(images, **options)
        self.offset_ = -self.model_.threshold
        self.n_images_in_ = self.model_.document.provenance.n_images
        return self

    def score_samples(self, X: Path | str | Iterable[ImageSource]) -> NDArray[np.float64]:
        """Return the negated scores, float64 (n,): higher is more normal.

        An image that is anomalous for another reason than its score, such as a black one, has at
        most a value just below ``offset_``.

        Raises:
            NotFittedError: the detector is not fitted.
            ImageError: an image can't be read.
        """
        check_is_fitted(self, "model_")
        above = float(np.nextafter(self.model_.threshold, np.inf))
        return np.array(
            [
                -max(one.score, above) if one.anomalous else -one.score
                for one in self.model_.predict_many(_images(X))
            ],
            np.float64,
        )

    def decision_function(self, X: Path | str | Iterable[ImageSource]) -> NDArray[np.float64]:
        """Return ``score_samples`` minus ``offset_``, float64 (n,): below 0 is anomalous.

        Raises:
            NotFittedError: the detector is not fitted.
            ImageError: an image can't be read.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Path | str | Iterable[ImageSource]) -> NDArray[np.int64]:
        """Return 1 for good images and -1 for anomalous ones, int64 (n,).

        Raises:
            NotFittedError: the detector is not fitted.
            ImageError: an image can't be read.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags


def _images(X: Path | str | Iterable[ImageSource]) -> Any:
    """Return the images of an array as a list; others stay as they are."""
    if not isinstance(X, np.ndarray):
        return X
    if X.ndim == 2 and X.dtype.kind in "biuf":
        raise InputError(
            f"X must hold images, such as an array (n, H, W) or (n, H, W, 3), not {X.shape}: "
            "reshape each row to its image"
        )
    # Columns of file names, as tables have them.
    return list(X.ravel() if X.dtype.kind in "OUT" else X)


def _good(images: Any, y: ArrayLike) -> list[ImageSource]:
    if isinstance(images, (str, Path)):
        raise InputError("y needs images one by one; a folder has labels of its own")
    sources: Sequence[ImageSource] = list(images)
    labels = np.asarray(y)
    if labels.shape != (len(sources),) or not np.isin(labels, (-1, 1)).all():
        raise InputError(
            f"y must hold 1 (good) or -1 (defective) for each of the {len(sources)} images"
        )
    good = [image for image, label in zip(sources, labels, strict=True) if label == 1]
    if not good:
        raise DatasetError("y calls all images defective: nothing is left to fit to")
    return good
