"""The sections of a model file's document: to JSON and back, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conftest import texture
from fitted_models import calibrated
from fre import FRE, Model
from fre.errors import ModelFileError
from fre.images.appearance import AppearanceLimits, appearance
from fre.images.geometry import Geometry, Tiling
from fre.images.roi import Roi
from fre.inference.document import (
    Document,
    MergedModel,
    Preprocessing,
    Provenance,
    Step,
    read_appearance,
    read_calibration,
    read_roi,
    to_json,
)
from fre.inference.json_object import BadValueError, JsonObject


def stored(section: object) -> JsonObject:
    return JsonObject(json.loads(json.dumps(to_json(section))))


@pytest.fixture(scope="module")
def model() -> Model:
    return FRE(size=64).fit([texture(seed) for seed in range(6)])


def test_a_document_comes_back_as_it_was_written(model: Model) -> None:
    values = model.metadata
    again = Document.from_json(
        JsonObject(json.loads(json.dumps(values))), (model.document.layer_maps or {}).values()
    )
    assert json.dumps(again.to_json()) == json.dumps(values)
    assert again.can_update


def test_unknown_keys_are_kept(model: Model) -> None:
    values = {**model.metadata, "later": {"a": [1]}}
    again = Document.from_json(JsonObject(values), (model.document.layer_maps or {}).values())
    assert again.to_json() == values


def test_provenance_of_updates_and_merges_comes_back() -> None:
    update = Step("2026-01-01", n_added=3, images_sha256="ab", n_accepted_anomalous=0)
    merge = Step("2026-01-02", merged=[MergedModel("cd", 5, "ef", "2026", [update])])
    provenance = Provenance(8, "gh", "2026", seed=0, near_duplicates=0, history=[merge, update])
    assert Provenance.from_json(stored(provenance)) == provenance
    assert list(to_json(update)) == ["date", "n_added", "images_sha256", "n_accepted_anomalous"]
    for _ in range(102):
        merge = Step("2026-01-02", merged=[MergedModel("cd", history=[merge])])
    with pytest.raises(BadValueError, match=r"history: expected fewer models within models"):
        Provenance.from_json(stored(replace(provenance, history=[merge])))


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((64, 96)),
        Geometry((64, 96), "letterbox"),
        Geometry((64, 96), tiling=Tiling(16)),
        Geometry((64, 96), tiling=Tiling(16, (500, 700))),
        Geometry((64, 96), bits=12),
        Geometry((64, 96), bits=None),
    ],
)
def test_geometries_travel_as_json(geometry: Geometry) -> None:
    pixels = Preprocessing(geometry, [0.0, 1, 2], [1.0, 2, 3])
    assert Preprocessing.from_json(stored(pixels)) == pixels


def test_files_of_older_versions_stretch_and_have_the_full_range() -> None:
    values = {"size": [64, 96], "mean": [0, 0, 0], "std": [1, 1, 1]}
    geometry = Preprocessing.from_json(JsonObject(values)).geometry
    assert geometry == Geometry((64, 96))
    assert geometry.bits == 16


def test_calibrations_travel_as_json() -> None:
    fitted = calibrated([0.1, 2.5, 1 / 3, *np.linspace(0, 3, 20), 1e4], 0.2)
    for each in (fitted, fitted.with_odd(keep=True), fitted.with_review(1.5)):
        again = read_calibration(stored(each))
        assert to_json(again) == to_json(each)
        assert (again.n_odd, again.p_value(0.2)) == (each.n_odd, each.p_value(0.2))
        assert again.decision(1.7) == each.decision(1.7)
    assert to_json(fitted)["n_odd"] == 1


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"scores": [], "n_odd": 0}, "n_odd"),
        ({"n_odd": 3}, "n_odd"),
        ({"n_odd": -1}, "n_odd"),
        ({"n_odd": 1.0}, "n_odd"),
        ({"keep_odd": 1}, "keep_odd"),
        ({"review_threshold": "1"}, "review_threshold"),
        ({"review_threshold": float("nan")}, "review_threshold"),
    ],
)
def test_damaged_calibrations_are_refused(change: dict[str, Any], key: str) -> None:
    values = stored(calibrated([1, 2, 3])).values
    with pytest.raises(BadValueError, match=key):
        read_calibration(JsonObject(values | change))


def test_masks_travel_as_json() -> None:
    inspected = np.ones((120, 300), bool)
    inspected[21:88, 64:163] = False
    values = stored(Roi(inspected))
    np.testing.assert_array_equal(read_roi(values).inspected, inspected)
    for damaged in ("!", "AAAA"):
        with pytest.raises(BadValueError, match="bad png"):
            read_roi(JsonObject(values.values | {"png": damaged}))


@pytest.mark.parametrize(
    "change",
    [
        {"n": 0},
        {"contrast": [float("nan"), 1.0]},
        {"fineness": [1.0, 0.0]},
        {"level": [[1, 2], [3, 4]]},
        {"level": 5},
        {"contrast": None},
    ],
)
def test_damaged_ranges_of_pixels_are_refused(change: dict[str, Any]) -> None:
    limits = AppearanceLimits.of([appearance(texture(seed)) for seed in range(3)])
    values = stored(limits).values
    assert to_json(read_appearance(JsonObject(values))) == values
    with pytest.raises((BadValueError, ModelFileError)):
        read_appearance(JsonObject(values | change, "appearance."))
