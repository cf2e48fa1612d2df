"""FRE as scikit-learn sees it, by its own checks and in its tools."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import texture
from fitted_models import defective
from fre import FRE, InputError

pytest.importorskip("sklearn", reason="needs fre-vision[sklearn]")

from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from fre.sklearn import FREDetector

GOOD = [texture(seed) for seed in range(12)]
NEW = [*(texture(seed) for seed in range(30, 34)), *(defective(texture(s)) for s in range(40, 43))]
LABELS = [1] * 4 + [-1] * 3


@pytest.fixture(scope="module")
def fitted() -> FREDetector:
    return FREDetector(size=64, false_alarm_rate=0.1).fit(GOOD)


def test_scores_and_decisions_are_those_of_the_model(fitted: FREDetector) -> None:
    model = FRE(size=64, false_alarm_rate=0.1).fit(GOOD)
    scores = np.array([model.predict(image).score for image in NEW])
    found = fitted.score_samples(NEW)
    np.testing.assert_allclose(found, -scores, rtol=1e-5)
    np.testing.assert_array_equal(fitted.decision_function(NEW), found - fitted.offset_)
    assert fitted.offset_ == -model.threshold
    assert fitted.n_images_in_ == 12
    decided = fitted.predict(NEW)
    assert decided.tolist() == [-1 if model.predict(image).anomalous else 1 for image in NEW]
    assert decided[4:].tolist() == [-1] * 3
    assert FREDetector(size=64).fit_predict(GOOD).tolist().count(1) >= 11


def test_a_black_image_is_an_outlier_whatever_its_score(fitted: FREDetector) -> None:
    black = [np.zeros((96, 96, 3), np.uint8)]
    assert fitted.model_.predict(black[0]).reason is not None
    assert fitted.decision_function(black)[0] < 0
    assert fitted.predict(black).tolist() == [-1]


def test_images_may_be_files_arrays_and_grey(fitted: FREDetector, tmp_path: Path) -> None:
    files = []
    for index, image in enumerate(NEW):
        files.append(str(tmp_path / f"{index}.png"))
        Image.fromarray(image).save(files[-1])
    expected = fitted.score_samples(NEW)
    grey = np.stack(NEW)[:, :, :, 0]
    for X in (np.stack(NEW), files, np.array(files), np.array(files)[:, None], tmp_path, grey):
        np.testing.assert_array_equal(fitted.score_samples(X), expected)
    with pytest.raises(InputError, match=r"not \(7, 9\): reshape each row"):
        fitted.score_samples(np.zeros((7, 9)))


def test_defective_images_are_left_out_of_the_fit() -> None:
    labelled = FREDetector(size=64).fit(GOOD + NEW[4:], [1] * 12 + [-1] * 3)
    good = FREDetector(size=64).fit(GOOD)
    assert labelled.model_.training_images.digests == good.model_.training_images.digests
    np.testing.assert_array_equal(labelled.score_samples(NEW), good.score_samples(NEW))
    for y in ([1] * 11, [0] * 12, [[1]] * 12):
        with pytest.raises(InputError, match=r"y must hold 1 \(good\) or -1 \(defective\)"):
            FREDetector(size=64).fit(GOOD, y)
    with pytest.raises(InputError, match="calls all images defective"):
        FREDetector(size=64).fit(GOOD, [-1] * 12)


def test_it_is_cloned_pickled_and_not_fitted_at_first(fitted: FREDetector) -> None:
    with pytest.raises(NotFittedError):
        FREDetector().predict(NEW)
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "model_")
    assert set(copy.get_params()) == set(FRE().get_params())
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.score_samples(NEW), fitted.score_samples(NEW))


class Cropped(TransformerMixin, BaseEstimator):
    """Cuts the middle of each image."""

    def fit(self, X: Any, y: Any = None) -> Cropped:
        return self

    def transform(self, X: Any) -> list[np.ndarray]:
        return [image[8:-8, 8:-8] for image in X]

    def __sklearn_is_fitted__(self) -> bool:
        return True


def test_it_ends_a_pipeline() -> None:
    pipeline = make_pipeline(Cropped(), FREDetector(size=64))
    pipeline.fit(GOOD)
    plain = FREDetector(size=64).fit(Cropped().transform(GOOD))
    cropped = Cropped().transform(NEW)
    np.testing.assert_array_equal(pipeline.decision_function(NEW), plain.decision_function(cropped))
    assert pipeline.predict(NEW)[4:].tolist() == [-1] * 3


def test_a_grid_search_chooses_by_labelled_images() -> None:
    X = np.stack([*GOOD, *(defective(texture(seed)) for seed in range(40, 46))])
    y = np.array([1] * 12 + [-1] * 6)
    search = GridSearchCV(
        FREDetector(), {"size": [32, 64]}, scoring="roc_auc", cv=StratifiedKFold(2)
    )
    search.fit(X, y)
    assert search.best_score_ > 0.9
    assert search.best_estimator_.n_images_in_ == 12
    assert search.predict(NEW)[4:].tolist() == [-1] * 3


class RowsDetector(FREDetector):
    """`FREDetector` on rows of numbers, which scikit-learn's checks bring: each is an image.

    A row becomes stripes of 32 x 32 pixels. ``y`` of the checks are classes, not good and bad.
    """

    def __init__(self, size: int = 32, seed: int = 0) -> None:
        super().__init__(size=size, seed=seed)

    def fit(self, X: Any, y: Any = None, **options: Any) -> RowsDetector:
        from sklearn.utils.validation import validate_data

        super().fit(self._stripes(validate_data(self, X, ensure_min_samples=3)))
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        from sklearn.utils.validation import check_is_fitted, validate_data

        check_is_fitted(self, "model_")
        return super().score_samples(self._stripes(validate_data(self, X, reset=False)))

    @staticmethod
    def _stripes(X: np.ndarray) -> list[np.ndarray]:
        grey = np.rint(127.5 * (1 + np.sin(X))).astype(np.uint8)
        return [np.tile(np.resize(row, 32), (32, 1)) for row in grey]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


@pytest.mark.slow
@parametrize_with_checks([RowsDetector()])
def test_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    """None is excluded. `RowsDetector` checks rows as scikit-learn asks, and brings no labels."""
    check(estimator)


def test_without_scikit_learn_the_extra_is_named() -> None:
    code = """
import sys
sys.modules["sklearn"] = None
try:
    import fre.sklearn
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MissingDependencyError")
    assert "pip install 'fre-vision[sklearn]'" in done.stdout
