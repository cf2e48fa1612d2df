"""Dead cameras: pictures that no part can look like are anomalous, and the model says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands import fre
from conftest import texture
from fre import FRE, Model, merge_models
from fre.images.appearance import AppearanceLimits, appearance

SIZE = (96, 96)
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
DEAD = {
    "black": np.zeros((*SIZE, 3), np.uint8),
    "white": np.full((*SIZE, 3), 255, np.uint8),
    "grey": np.full((*SIZE, 3), 120, np.uint8),
    "blue": np.full((*SIZE, 3), (0, 0, 255), np.uint8),
    "noise": NOISE,
    "grey noise": np.repeat(NOISE[..., :1], 3, axis=2),
    "dark noise": (NOISE // 60).astype(np.uint8),
    "faint noise": (120 + NOISE // 20).astype(np.uint8),
}
REFERENCE = {"preset": "reference", "backbone": "efficientnet_lite0"}


def fitted(n: int = 5, first: int = 0, **parameters: Any) -> Model:
    images = [texture(seed) for seed in range(first, first + n)]
    return FRE(**{"size": 96, **parameters}).fit(images)


def test_the_statistics_are_those_of_the_pixels() -> None:
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None], 16, axis=0).repeat(3, axis=2)
    red, green, blue, contrast, fineness = appearance(ramp)
    assert red == green == blue == 31.5
    assert contrast == pytest.approx(ramp[0].std(), rel=1e-5)
    assert fineness == pytest.approx(1 / (2 * contrast**2), rel=1e-5)
    assert appearance(NOISE)[4] == pytest.approx(1, abs=0.1)
    np.testing.assert_array_equal(appearance(DEAD["blue"]), [0, 0, 255, 0, 0])
    half = np.zeros(SIZE, bool)
    half[:, 48:] = True
    ignored = np.where(half[..., None], texture(0), NOISE)
    np.testing.assert_array_equal(
        appearance(ignored, half), appearance(np.where(half[..., None], texture(0), 0), half)
    )
    np.testing.assert_array_equal(appearance(NOISE, np.zeros(SIZE, bool)), np.zeros(5))


@pytest.mark.parametrize(
    "parameters", [{}, REFERENCE, {"memory": 1e-6}, {"tile": 64, "overlap": 16}]
)
def test_a_dead_camera_is_anomalous_whatever_its_score(parameters: dict[str, Any]) -> None:
    model = fitted(**parameters)
    for name, image in DEAD.items():
        prediction = model.predict(image)
        assert prediction.anomalous, name
        assert prediction.reason, name
        assert prediction.p_value == pytest.approx(1 / 6), name
        assert prediction.to_dict()["reason"] == prediction.reason
    good = model.predict(texture(50))
    assert good.reason is None
    assert "reason" not in good.to_dict()


def test_the_reason_says_what_is_wrong() -> None:
    limits = AppearanceLimits.of([appearance(texture(seed)) for seed in range(9)])
    reasons = {name: limits.reason(appearance(image)) or "" for name, image in DEAD.items()}
    assert reasons["black"].startswith(
        "no contrast: the grey levels deviate by 0.0 from their mean"
    )
    assert reasons["noise"].startswith("noise: ")
    bright = limits.reason(np.add(appearance(texture(0)), [120, 120, 120, 0, 0]))
    assert bright is not None
    assert bright.startswith("too bright: the mean level of red is 240, that of the training")
    assert (limits.reason(np.subtract(appearance(texture(0)), [110, 0, 0, 0, 0])) or "").startswith(
        "too dark"
    )


def test_images_like_those_of_the_training_are_never_outside() -> None:
    """Flat parts, and parts that look like noise."""
    for images in (
        [DEAD["grey"] + np.uint8(i) for i in range(4)],
        [NOISE // (i + 1) for i in (0, 1)],
    ):
        limits = AppearanceLimits.of([appearance(image) for image in images])
        assert all(limits.reason(appearance(image)) is None for image in images)
        assert limits.reason(appearance(images[0] - np.uint8(3))) is None


@pytest.mark.slow
def test_updates_and_merges_widen_the_ranges() -> None:
    dark = [texture(seed) // 3 for seed in range(40, 46)]
    one, two = fitted(8), FRE(size=96).fit(dark)
    (updated, merged) = one.update(dark, accept_anomalous=True), merge_models(one, two)
    for model in (updated, merged):
        assert model.appearance is not None
        assert model.appearance.n == 14
        measured = [appearance(texture(seed)) for seed in range(8)] + [*map(appearance, dark)]
        np.testing.assert_allclose(model.appearance.low, np.min(measured, axis=0), rtol=1e-6)
        np.testing.assert_allclose(model.appearance.high, np.max(measured, axis=0), rtol=1e-6)


def test_what_is_ignored_is_not_measured() -> None:
    ignored = np.zeros(SIZE, np.uint8)
    ignored[:40] = 1
    model = fitted(ignore=ignored)
    covered = texture(60).copy()
    covered[:38] = 255
    assert model.predict(covered).reason is None
    covered[:] = texture(60)
    covered[40:] = 0
    assert model.predict(covered).reason


def test_the_command_line_gives_the_reason(tmp_path: Path) -> None:
    model = fitted().save(tmp_path / "m.onnx")
    Image.fromarray(DEAD["black"]).save(tmp_path / "black.png")
    done = fre("predict", model, tmp_path / "black.png")
    assert done.returncode == 0
    line = json.loads(done.stdout)
    assert line["anomalous"]
    assert line["reason"].startswith("no contrast")
