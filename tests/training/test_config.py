"""A preset sets defaults, and every argument overrides it."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest

from conftest import texture
from fre import FRE, Autoencoder, Method
from fre.cli.train import train
from fre.errors import OptionError
from fre.scoring.fusion import Reading
from fre.training.config import (
    OF_AUTOENCODER,
    OF_METHOD,
    Configuration,
    parse_settings,
    resolve,
)

NOTHING: dict[str, Any] = {
    "preset": None,
    "backbone": None,
    "default_backbone": "efficientnet_lite0",
    "subspace": None,
}


def resolved(**given: Any) -> Configuration:
    method = {name: given.pop(name) for name in OF_METHOD if name in given}
    return resolve(**(NOTHING | given), method=Method(**method))


def summary(configuration: Configuration) -> tuple[Any, ...]:
    parts = ("preset", "backbone", "pool", "subspace", "variance", "rank")
    return tuple(getattr(configuration, part) for part in parts)


def test_by_default_the_default_preset_on_the_default_backbone() -> None:
    expected = ("default", "efficientnet_lite0", None, "pca", 0.97, None)
    assert summary(resolved()) == expected
    assert resolved().reading == Reading("position", 0.03, 4.0, 32, None)


def test_the_reference_alone_is_the_documented_one() -> None:
    expected = ("reference", "resnet50", (2,), "tied", 0.97, 220)
    assert summary(resolved(preset="reference")) == expected


def test_the_reference_with_another_backbone_is_the_closed_form() -> None:
    configuration = resolved(preset="reference", backbone="resnet18")
    assert summary(configuration) == ("reference", "resnet18", (2,), "pca", 0.97, None)


def test_an_autoencoder_means_the_reference() -> None:
    expected = ("reference", "resnet18", (2,), "tied", 0.97, 220)
    assert summary(resolved(subspace=Autoencoder(), backbone="resnet18")) == expected


def test_every_argument_overrides() -> None:
    given = resolved(preset="reference", subspace="pca", pool=4, variance=0.9)
    assert summary(given) == ("reference", "resnet50", (4,), "pca", 0.9, None)
    assert resolved(preset="reference", subspace=Autoencoder(rank=50)).rank == 50
    assert resolved(subspace=Autoencoder("plain")).rank == 220
    assert resolved(subspace=Autoencoder("plain", rank=7)).rank == 7
    assert resolved(rank=7).rank == 7
    assert resolved(scope=["patch", "image"]).scope == ("patch", "image")
    reading = resolved(standardise="layer", top=1, smoothing=0, prior=0, overall=False).reading
    assert reading == Reading("layer", 1, 0, 0, False)


def test_mistakes() -> None:
    with pytest.raises(
        OptionError, match=r"no preset is called 'best'.*default, fast, accurate, reference"
    ):
        resolved(preset="best")
    with pytest.raises(OptionError, match="\"pca\" or an Autoencoder, not 'svd'"):
        resolved(subspace="svd")
    with pytest.raises(OptionError, match="variance has no effect with subspace tied"):
        resolved(subspace=Autoencoder(), variance=0.9)
    with pytest.raises(OptionError, match="subspaces by PCA, not plain"):
        resolved(preset="default", subspace=Autoencoder("plain"))
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
        ({"subspace": "tied", "scope": "image"}, "scope has no effect with the reference preset"),
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
    with pytest.raises(OptionError, match=message):
        FRE.from_parameters(backbone | {"size": 64} | given).fit([texture(0)] * 4)


@pytest.mark.slow
def test_the_same_settings_where_they_have_an_effect() -> None:
    images = [texture(seed) for seed in range(4)]
    tiled = FRE(tile=64, overlap=8).fit(images)
    assert tiled.metadata["preprocessing"]["tiling"]["overlap"] == 8
    assert FRE(tile=128).fit(images).metadata["preprocessing"]["tiling"]["overlap"] == 64
    fixed = FRE("efficientnet_lite0", preset="reference", method=Method(rank=2), size=64).fit(
        images
    )
    assert fixed.metadata["subspaces"][0]["rank"] == 2
    again = fixed.metadata["parameters"]
    assert again["variance"] is None
    other = FRE.from_parameters({"backbone": "efficientnet_lite0", "size": 64} | again)
    assert other.fit(images).threshold == fixed.threshold
    patches = FRE(method=Method(scope="patch"), size=64).fit(images)
    other = FRE.from_parameters(patches.metadata["parameters"] | {"size": 64})
    assert other.fit(images).threshold == patches.threshold


@pytest.mark.parametrize(
    "given",
    [
        {"top": 0.0},
        {"top": 1.1},
        {"smoothing": -1.0},
        {"prior": float("nan")},
        {"variance": 1.1},
        {"rank": 0},
        {"folds": 1},
        {"subspace": "tied", "rank": 0},
        {"subspace": "tied", "epochs": 0},
        {"subspace": "plain", "learning_rate": float("nan")},
        {"subspace": "plain", "batch_size": 0},
    ],
)
def test_values_out_of_range(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=[*given][-1]):
        FRE.from_parameters(given)


def test_settings_are_parsed_by_their_types() -> None:
    assignments = ["top=0.1", "pool=1,2", "overall=no", "scope=patch", "score-layers=a", "rank=3"]
    assert parse_settings(assignments) == {
        "top": 0.1,
        "pool": [1, 2],
        "overall": False,
        "scope": "patch",
        "score_layers": ["a"],
        "rank": 3,
    }
    for assignment, message in {
        "tops=1": "no setting is called 'tops'; choose from: variance, .*, batch_size",
        "top": "expected top=VALUE",
        "top=x": "expected a number, not 'x'",
        "overall=3": "expected true or false",
        "folds=1.5": "expected a whole number",
    }.items():
        with pytest.raises(OptionError, match=message):
            parse_settings([assignment])


@pytest.mark.parametrize("settings", [Method, Autoencoder])
def test_the_docs_list_every_setting_with_its_default(settings: type) -> None:
    page = Path(__file__).parents[2] / "docs" / "default.md"
    rows = [row.split(" | ") for row in page.read_text().splitlines() if row.startswith("| `")]
    listed = [(row[0].strip("|` "), row[-1].strip("| ").split("`")[1]) for row in rows]
    expected = [(one.name, str(one.default)) for one in fields(settings) if one.name != "kind"]
    first = listed.index(expected[0])
    assert listed[first : first + len(expected)] == expected
    assert len(listed) == len(OF_METHOD) + len(OF_AUTOENCODER)


def test_the_help_names_every_setting() -> None:
    (option,) = [parameter for parameter in train.params if parameter.name == "settings"]
    assert isinstance(option, click.Option)
    words = re.findall(r"\w+", option.help or "")
    assert {*OF_METHOD, *OF_AUTOENCODER} <= {*words}
