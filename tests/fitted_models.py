"""Small models that tests of updates and merges share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from conftest import texture
from fre import FRE, Model
from fre.scoring.calibration import Calibration
from fre.subspaces.image_statistics import ImageStatistics
from fre.subspaces.patch import PatchStatistics
from fre.subspaces.position import PositionStatistics
from fre.training.fitted import FittedDetector
from fre.training.update import Rebuilt

SIZE = 64
IMAGES = [texture(seed) for seed in range(24)]
NEW = [texture(seed) for seed in range(100, 106)]


def detector(preset: str = "default", **parameters: Any) -> FRE:
    return FRE("efficientnet_lite0", preset=preset, **({"size": SIZE} | parameters))


def calibrated(scores: Sequence[float] | np.ndarray, rate: float = 0.1) -> Calibration:
    """A calibration of some held-out scores, whose maps do not matter."""
    return Calibration.fit(
        np.asarray(scores, float), rate, pixel_threshold=1.0, map_range=(0.5, 3.0)
    )


def fitted(model: Model) -> FittedDetector:
    return Rebuilt.of(model, threads=1).fitted


def scores(model: Model, images: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([prediction.score for prediction in model.predict_many(images)])


def defective(image: np.ndarray) -> np.ndarray:
    changed = image.copy()
    changed[30:40, 20:70] = 255
    return changed


def sine(A: np.ndarray, B: np.ndarray) -> float:
    return float(np.linalg.norm(A - B @ (B.T @ A), 2))


def assert_same_subspaces(one: Model, other: Model) -> None:
    """Equal but for rounding to float32, once an update."""
    pairs = zip(fitted(one).parts, fitted(other).parts, strict=True)
    for first, second in pairs:
        a, b = first.statistics, second.statistics
        assert a.n == b.n
        if isinstance(a, ImageStatistics):
            assert isinstance(b, ImageStatistics)
            np.testing.assert_allclose(a.mean, b.mean, atol=1e-5 * np.abs(a.mean).max())
            assert a.rank == b.rank
            np.testing.assert_allclose(
                a.singular_values, b.singular_values, atol=1e-5 * a.singular_values[0]
            )
            k = min(a.fit().rank, b.fit().rank)
            assert sine(a.basis[:, :k], b.basis[:, :k]) < 1e-3
        elif isinstance(a, PositionStatistics):
            assert isinstance(b, PositionStatistics)
            np.testing.assert_allclose(a.mean, b.mean, atol=1e-5 * np.abs(a.mean).max())
            np.testing.assert_allclose(a.scatter, b.scatter, atol=1e-5 * np.abs(a.scatter).max())
        else:
            assert isinstance(b, PatchStatistics)
            largest = np.abs(a.pooled.scatter).max()
            np.testing.assert_allclose(a.pooled.scatter, b.pooled.scatter, atol=1e-5 * largest)
