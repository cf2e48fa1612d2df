"""A preset sets defaults, and every argument overrides it."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import texture
from fre import FRE
from fre.errors import OptionError
from fre.scoring.fusion import Reading
from fre.training.config import Configuration, resolve

NOTHING: dict[str, Any] = {
    "preset": None,
    "backbone": None,
    "default_backbone": "efficientnet_lite0",
    "pool": None,
    "subspace": None,
    "variance": None,
    "rank": None,
}


def resolved(**given: Any) -> Configuration:
    return resolve(**(NOTHING | given))


def summary(configuration: Configuration) -> tuple[Any, ...]:
    parts = ("preset", "backbone", "pool", "subspace", "variance", "rank")
    return tuple(getattr(configuration, part) for part in parts)


def test_by_default_the_default_preset_on_the_default_backbone() -> None:
    expected = ("default", "efficientnet_lite0", None, "pca", 0.97, None)
    assert summary(resolved()) == expected
    assert resolved().reading == Reading("position", 0.05, 4.0, 32, None)


def test_the_reference_alone_is_the_documented_one() -> None:
    expected = ("reference", "resnet50", (2,), "tied", 0.97, 220)
    assert summary(resolved(preset="reference")) == expected


def test_the_reference_with_another_backbone_is_the_closed_form() -> None:
    configuration = resolved(preset="reference", backbone="resnet18")
    assert summary(configuration) == ("reference", "resnet18", (2,), "pca", 0.97, None)


def test_an_autoencoder_means_the_reference() -> None:
    expected = ("reference", "resnet18", (2,), "tied", 0.97, 220)
    assert summary(resolved(subspace="tied", backbone="resnet18")) == expected


def test_every_argument_overrides() -> None:
    given = resolved(preset="reference", subspace="pca", pool=4, variance=0.9)
    assert summary(given) == ("reference", "resnet50", (4,), "pca", 0.9, None)
    assert resolved(preset="reference", rank=50).rank == 50
    assert resolved(subspace="plain").rank == 220
    assert resolved(subspace="plain", rank=7).rank == 7
    assert resolved(rank=7).rank == 7
    assert resolved(scope=["patch", "image"]).scope == ("patch", "image")
    reading = resolved(standardise="layer", top=1, smoothing=0, prior=0, overall=False).reading
    assert reading == Reading("layer", 1, 0, 0, False)


def test_mistakes() -> None:
    with pytest.raises(OptionError, match=r"no preset is called 'best'.*default, reference"):
        resolved(preset="best")
    with pytest.raises(OptionError, match="choose from: pca, tied, plain"):
        resolved(subspace="svd")
    with pytest.raises(OptionError, match="variance has no effect with subspace tied"):
        resolved(subspace="tied", variance=0.9)
    with pytest.raises(OptionError, match="subspaces in closed form, not plain"):
        resolved(preset="default", subspace="plain")
    with pytest.raises(OptionError, match="choose from: image, position, patch"):
        resolved(scope="everywhere")
    with pytest.raises(OptionError, match="score-layers has no effect with the reference"):
        resolved(preset="reference", score_layers=["layer3"])
    with pytest.raises(OptionError, match="reads one layer, with one pool"):
        resolved(preset="reference", pool=[1, 2])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 220}, "epochs has no effect with subspace pca"),
        ({"learning_rate": 1e-3}, "learning-rate has no effect with subspace pca"),
        ({"batch_size": 32}, "batch-size has no effect with subspace pca"),
        ({"preset": "reference", "subspace": "pca", "epochs": 9}, "epochs has no effect"),
        ({"subspace": "tied", "variance": 0.9}, "variance has no effect with subspace tied"),
        (
            {"preset": "reference", "subspace": "pca", "rank": 3, "variance": 0.9},
            "variance has no effect with rank",
        ),
        ({"preset": "reference", "overall": False}, "overall has no effect with the reference"),
        ({"scope": "patch", "prior": 3}, "prior has no effect with scope patch"),
        ({"overlap": 32}, "overlap has no effect with whole images: give a tile size"),
        ({"per_tile": True}, "per-tile has no effect with whole images"),
        ({"preset": "reference", "subspace": "pca", "tile": 64, "per_tile": True}, "per-tile has"),
        ({"flip": True}, "flip has no effect with no copies: it mirrors copies: give augment"),
    ],
)
def test_settings_without_effect_are_refused(given: dict[str, Any], message: str) -> None:
    backbone = {"backbone": "efficientnet_lite0"} if given.get("preset") == "reference" else {}
    detector = FRE(**backbone, **{"size": 64} | given)
    with pytest.raises(OptionError, match=message):
        detector.fit([texture(seed) for seed in range(4)])


def test_the_same_settings_where_they_have_an_effect() -> None:
    images = [texture(seed) for seed in range(4)]
    tiled = FRE(tile=64, overlap=8).fit(images)
    assert tiled.metadata["preprocessing"]["tiling"]["overlap"] == 8
    assert FRE(tile=128).fit(images).metadata["preprocessing"]["tiling"]["overlap"] == 64
    fixed = FRE("efficientnet_lite0", preset="reference", rank=2, size=64).fit(images)
    assert fixed.metadata["subspaces"][0]["rank"] == 2
    again = fixed.metadata["parameters"]
    assert again["variance"] is None
    assert FRE("efficientnet_lite0", **again, size=64).fit(images).threshold == fixed.threshold
    patches = FRE(scope="patch", size=64).fit(images)
    assert FRE(**patches.metadata["parameters"], size=64).fit(images).threshold == patches.threshold


@pytest.mark.parametrize(
    "given", [{"top": 0.0}, {"top": 1.1}, {"smoothing": -1.0}, {"prior": float("nan")}]
)
def test_values_out_of_range(given: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(given))):
        resolved(**given)
