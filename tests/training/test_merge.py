"""Models that become one, without the images of either."""

from __future__ import annotations

from typing import Any

import pytest

from fitted_models import IMAGES, NEW, assert_same_subspaces, defective, detector, scores
from fre import Method, Model, merge_models
from fre.errors import OptionError


@pytest.mark.slow
def test_a_merge_is_a_training_on_all_images(whole: Model) -> None:
    parts = [detector().fit(IMAGES[start : start + 8]) for start in (0, 8, 16)]
    merged = merge_models(*parts)
    assert_same_subspaces(merged, whole)
    provenance = merged.metadata["provenance"]
    assert provenance["n_images"] == 24
    (step,) = provenance["history"]
    assert [part["n_images"] for part in step["merged"]] == [8, 8, 8]
    assert [part["sha256"] for part in step["merged"]] == [part.sha256 for part in parts]
    again = merge_models(merge_models(*parts[1:]), parts[0])
    assert_same_subspaces(again, whole)
    good, bad = scores(merged, NEW), scores(merged, [defective(image) for image in NEW])
    assert bad.min() > good.max()


def test_a_merged_model_can_be_updated_and_merged(reference: Model) -> None:
    other = detector("reference").fit(IMAGES[12:20])
    grown = merge_models(reference, other).update(IMAGES[20:21], accept_anomalous=True)
    both = merge_models(grown, detector("reference").fit(IMAGES[21:]))
    assert_same_subspaces(both, detector("reference").fit(IMAGES))


@pytest.mark.parametrize(
    ("parameters", "difference"),
    [
        ({"size": 96}, r"size \(64 x 64 and 96 x 96\)"),
        ({"preset": "reference"}, r"preset \(default and reference\)"),
        ({"layers": ["blocks.4", "blocks.5"]}, "layers"),
        ({"method": Method(variance=0.9)}, r"variance \(0.97 and 0.9\)"),
        ({"method": Method(smoothing=2.0)}, "reading"),
        ({"method": Method(pool=2)}, "scopes, pooling"),
        ({"image_fit": "letterbox"}, r"fit \(stretch and letterbox\)"),
    ],
)
def test_models_that_differ_are_not_merged(
    model: Model, parameters: dict[str, Any], difference: str
) -> None:
    other = detector(**parameters).fit(IMAGES[:4])
    with pytest.raises(OptionError, match=difference):
        merge_models(model, other)


def test_one_model_is_no_merge(model: Model) -> None:
    with pytest.raises(OptionError, match="2 models or more"):
        merge_models(model)
