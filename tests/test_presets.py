"""A preset sets defaults, and every argument overrides it."""

from __future__ import annotations

from typing import Any

import pytest

from fre.errors import OptionError
from fre.presets import Configuration, resolve

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


def test_by_default_the_closed_form_on_the_default_backbone() -> None:
    expected = Configuration("reference", "efficientnet_lite0", 2, "pca", 0.97, None)
    assert resolved() == expected


def test_the_reference_alone_is_the_documented_one() -> None:
    expected = Configuration("reference", "resnet50", 2, "tied", 0.97, 220)
    assert resolved(preset="reference") == expected


def test_the_reference_with_another_backbone_is_the_closed_form() -> None:
    configuration = resolved(preset="reference", backbone="resnet18")
    assert configuration == Configuration("reference", "resnet18", 2, "pca", 0.97, None)


def test_every_argument_overrides() -> None:
    assert resolved(preset="reference", subspace="pca", pool=4, variance=0.9) == Configuration(
        "reference", "resnet50", 4, "pca", 0.9, None
    )
    assert resolved(preset="reference", rank=50).rank == 50
    assert resolved(subspace="plain").rank == 220
    assert resolved(subspace="plain", rank=7).rank == 7
    assert resolved(rank=7).rank == 7


def test_mistakes() -> None:
    with pytest.raises(OptionError, match=r"no preset is called 'best'.*reference, default"):
        resolved(preset="best")
    with pytest.raises(OptionError, match="choose from: pca, tied, plain"):
        resolved(subspace="svd")
    with pytest.raises(OptionError, match="a tied autoencoder has a rank, not a variance"):
        resolved(subspace="tied", variance=0.9)
