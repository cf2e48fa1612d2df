"""Training that lets go of features is training that holds them, but for the calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import texture
from fre import FRE, Autoencoder, Method
from fre.backbones import get_backbone
from fre.errors import DatasetError, ImageError
from fre.features.stream import NO_THUMBNAIL, ImageRecord
from fre.model import Model
from fre.subspaces.position_left_out import LeftOut
from fre.training.sources import Sources
from fre.training.streamed import HeldOutResiduals

TINY = 1e-6
LITE = {"backbone": "efficientnet_lite0", "preset": "reference"}
CASES: list[dict[str, Any]] = [
    {"size": 64},
    {"size": 64, **LITE},
    {"size": 64, "method": Method(scope=["patch", "position", "image"])},
    {"size": 64, "layers": ["blocks.3"], "method": Method(scope="image", pool=2)},
    {"tile": 64, "overlap": 16},
    {"size": 64, "augment": 2, "method": Method(flip=True)},
    {"size": (64, 96), "image_fit": "letterbox"},
]


def images(n: int, first: int = 0) -> list[np.ndarray]:
    return [texture(seed) for seed in range(first, first + n)]


def both(parameters: dict[str, Any], n: int = 40) -> tuple[Model, Model]:
    held, streamed = (FRE(**parameters, memory=m).fit(images(n)) for m in (2.0, TINY))
    assert "calibration_images" in streamed.metadata["provenance"]
    assert "calibration_images" not in held.metadata["provenance"]
    return held, streamed


@pytest.mark.parametrize(
    "parameters",
    [CASES[0], *(pytest.param(case, marks=pytest.mark.slow) for case in CASES[1:])],
    ids=str,
)
def test_subspaces_are_those_of_training_in_memory(parameters: dict[str, Any]) -> None:
    held, streamed = both(parameters)
    for one, other in zip(held.metadata["subspaces"], streamed.metadata["subspaces"], strict=True):
        assert one["rank"] == other["rank"]
        assert one["n"] == other["n"]
        assert one["kept_variance"] == pytest.approx(other["kept_variance"], rel=1e-4)
        np.testing.assert_allclose(
            one.get("singular_values", []), other.get("singular_values", []), rtol=1e-4
        )


def test_the_reference_scores_the_same() -> None:
    held, streamed = both({"size": 64, **LITE})
    for one, other in zip(
        held.predict_many(images(5, 900)), streamed.predict_many(images(5, 900)), strict=True
    ):
        assert one.score == pytest.approx(other.score, rel=1e-4)


def test_a_fixed_rank_holds_in_the_calibration_too() -> None:
    held, streamed = both({"size": 64, "method": Method(rank=5), **LITE})
    of_held, of_streamed = (np.median(model.calibration.scores) for model in (held, streamed))
    assert of_streamed == pytest.approx(of_held, rel=0.2)


@pytest.mark.slow
def test_the_default_preset_tells_apart_the_same() -> None:
    held, streamed = both({"size": 64})
    good, bad = images(12, 900), [image.copy() for image in images(12, 900)]
    for image in bad:
        image[30:42, 30:42] = 255
    for model in (held, streamed):
        of_good = [prediction.score for prediction in model.predict_many(good)]
        assert all(prediction.anomalous for prediction in model.predict_many(bad))
        assert np.median(of_good) < model.threshold
    scores = [[p.score for p in model.predict_many(good)] for model in (held, streamed)]
    assert np.corrcoef(scores)[0, 1] > 0.99


@pytest.mark.slow
def test_images_that_are_left_out_one_by_one_score_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    usual = LeftOut.squared_residuals

    def counted(self: LeftOut, X: np.ndarray, channels: int | None = None) -> np.ndarray:
        seen.append(len(X))
        return usual(self, X, channels)

    monkeypatch.setattr(LeftOut, "squared_residuals", counted)
    models = both({"size": 32, "layers": ["blocks.2"]}, 60)
    # All at once in memory, and fold by fold from the stream.
    assert seen == [60, *[3] * 20]
    held, streamed = (model.calibration.scores for model in models)
    assert np.abs(streamed - held).max() < 0.02 * held.std()


def test_what_was_looked_at_fold_by_fold_is_put_in_order() -> None:
    seen = [ImageRecord(place, "", (8, 8), NO_THUMBNAIL) for place in (4, 1, 0)]
    found = HeldOutResiduals(
        [np.float32([[40], [41], [10], [0]])],
        np.array([0, 0, 1, 2]),
        np.array([0, 1, 0, 0]),
        tuple(seen),
    ).in_order()
    assert [image.place for image in found.images] == [0, 1, 4]
    assert found.image.tolist() == [0, 1, 2, 2]
    assert found.tile.tolist() == [0, 0, 0, 1]
    assert found.residuals[0].ravel().tolist() == [0, 10, 40, 41]


def test_groups_and_unreadable_images(tmp_path: Path) -> None:
    for index, pixels in enumerate(images(20)):
        Image.fromarray(pixels).save(tmp_path / f"part{index // 2:02}_{index % 2}.png")
    (tmp_path / "part03_9.png").write_bytes(b"no image")
    detector = FRE(size=64, memory=TINY, group_by=r"^(part\d+)_")
    with pytest.raises(ImageError, match=r"part03_9\.png"):
        detector.fit(tmp_path)
    model = detector.fit(tmp_path, skip_unreadable=True)
    assert [error.path.name for error in detector.skipped_] == ["part03_9.png"]
    assert model.metadata["provenance"]["n_images"] == 20
    assert model.metadata["provenance"]["n_groups"] == 10


def test_what_can_not_be_streamed_says_so() -> None:
    with pytest.raises(DatasetError, match="an autoencoder can't be trained without"):
        FRE("efficientnet_lite0", subspace=Autoencoder(), size=64, memory=TINY).fit(images(4))
    # by itself, the preset means the autoencoder of its ResNet-50
    documented = FRE(preset="reference", size=64, memory=TINY)
    lite = FRE(**LITE, size=64)._extractor(
        get_backbone("efficientnet_lite0")
    )  # its weights suffice
    with pytest.raises(DatasetError, match="an autoencoder can't be trained without"):
        documented._trainer(lite).fit(Sources(images(4)))
    with pytest.raises(DatasetError, match="3 good images or more; 2 of 3"):
        FRE(size=64, memory=TINY).fit([*images(2), Path("nowhere.png")], skip_unreadable=True)
