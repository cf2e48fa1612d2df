"""Training: what goes into the model file, and that it is reproducible."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from sklearn.base import clone

from conftest import texture
from fre import FRE, Method, load
from fre.backbones import get_backbone
from fre.errors import BackboneError, DatasetError, ImageError, OptionError
from fre.inference.model_file import METADATA_KEY
from fre.model import Model

LITE = {"backbone": "efficientnet_lite0", "preset": "reference"}


@pytest.fixture(scope="module")
def model(good_folder: Path) -> Model:
    return FRE(size=96).fit(good_folder)


@pytest.fixture(scope="module")
def reference(good_folder: Path) -> Model:
    return closed_form().fit(good_folder)


def closed_form(**parameters: Any) -> FRE:
    """The reference preset with the default backbone."""
    return FRE("efficientnet_lite0", preset="reference", **({"size": 96} | parameters))


def initialisers(model: Model) -> dict[str, bytes]:
    graph = onnx.load_from_string(model.data).graph
    return {tensor.name: tensor.SerializeToString() for tensor in graph.initializer}


def test_metadata_tell_everything(reference: Model, good_folder: Path) -> None:
    metadata = reference.metadata
    assert metadata["format"] == 2
    assert metadata["preset"] == "reference"
    assert metadata["backbone"]["name"] == "efficientnet_lite0"
    assert metadata["backbone"]["layers"] == ["blocks.4"]
    assert len(metadata["backbone"]["weights_sha256"]) == 64
    assert metadata["preprocessing"]["size"] == [96, 96]
    assert metadata["preprocessing"]["fit"] == "stretch"
    assert metadata["preprocessing"]["tiling"] is None
    assert metadata["preprocessing"]["mean"] == [127, 127, 127]
    (subspace,) = metadata["subspaces"]
    assert subspace["dimension"] == 112 * 3 * 3
    assert subspace["rank"] == len(subspace["singular_values"]) <= 11
    assert 0.97 <= subspace["kept_variance"] <= 1
    assert (subspace["n"], subspace["pool"]) == (12, 2)
    assert len(metadata["calibration"]["scores"]) == 12
    assert metadata["calibration"]["scores"] == sorted(metadata["calibration"]["scores"])
    assert metadata["provenance"]["n_images"] == 12
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in good_folder.iterdir()]
    lines = "".join(f"{digest}\n" for digest in sorted(digests))
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert metadata["provenance"]["images_sha256"] == expected


def test_model_file_is_one_valid_onnx_model(model: Model) -> None:
    proto = onnx.load_from_string(model.data)
    onnx.checker.check_model(proto, full_check=True)
    assert [value.name for value in proto.graph.input] == ["images"]
    assert [value.name for value in proto.graph.output] == [
        "score",
        "anomaly_map",
        "p_value",
        "anomalous",
    ]
    assert max(entry.version for entry in proto.opset_import) >= 18
    assert [entry.key for entry in proto.metadata_props] == [METADATA_KEY]
    basis = [t for t in proto.graph.initializer if t.name == "basis"]
    assert len(basis) == 1
    assert model.metadata["preset"] == "default"


@pytest.mark.slow
def test_training_twice_gives_the_same_bytes(
    model: Model, good_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert initialisers(FRE(size=96).fit(good_folder)) == initialisers(model)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first = FRE(size=96).fit(good_folder)
    assert first.data == FRE(size=96).fit(good_folder).data
    assert first.metadata["provenance"]["created"] == "2023-11-14T22:13:20+00:00"


def test_order_and_threads_hardly_matter(model: Model, reference: Model, good_folder: Path) -> None:
    images = [texture(seed) for seed in range(100, 108)]
    # A score of the default preset is in normal deviations, and may be 0.
    for one, detector, tolerance in (
        (reference, closed_form(), {"rtol": 1e-4}),
        (model, FRE(size=96), {"atol": 1e-3}),
    ):
        expected = [p.score for p in one.predict_many(images)]
        other = detector.fit(sorted(good_folder.iterdir(), reverse=True), threads=1)
        scores = [p.score for p in other.predict_many(images)]
        np.testing.assert_allclose(scores, expected, **tolerance)
        np.testing.assert_allclose(other.calibration.scores, one.calibration.scores, **tolerance)


def test_files_and_arrays_train_the_same_subspace(reference: Model) -> None:
    from_arrays = closed_form().fit([texture(seed) for seed in range(12)])
    image = texture(50)
    expected = reference.predict(image).score
    assert from_arrays.predict(image).score == pytest.approx(expected, rel=1e-4)


def test_seed_changes_the_folds_only() -> None:
    images = [texture(seed) for seed in range(24)]
    one, other = (closed_form(size=64, seed=seed).fit(images) for seed in (0, 1))
    graphs = [onnx.load_from_string(each.data).graph for each in (one, other)]
    # The graph has the scores of the calibration, too, which follow from the folds.
    kept = [[t for t in graph.initializer if not t.name.startswith("fre/")] for graph in graphs]
    assert kept[0] == kept[1]
    assert other.calibration.scores.tolist() != one.calibration.scores.tolist()


def test_with_no_more_images_than_folds_the_seed_is_no_matter(
    reference: Model, good_folder: Path
) -> None:
    other = closed_form(seed=1).fit(good_folder)
    assert other.calibration.scores.tolist() == reference.calibration.scores.tolist()


def test_three_images_are_enough_and_one_is_not() -> None:
    model = FRE(size=64).fit([texture(seed) for seed in range(3)])
    assert np.isfinite(model.predict(texture(3)).score)
    with pytest.raises(DatasetError, match="3 good images or more, found 1"):
        FRE(size=64).fit([texture(0)])


def test_unreadable_images_stop_the_training_unless_skipped(
    good_folder: Path, tmp_path: Path
) -> None:
    files = sorted(good_folder.iterdir())
    bad = tmp_path / "truncated.png"
    bad.write_bytes(files[0].read_bytes()[:500])
    files.insert(5, bad)
    with pytest.raises(ImageError, match=r"truncated\.png"):
        FRE(size=96).fit(files)
    detector = FRE(size=96)
    model = detector.fit(files, skip_unreadable=True)
    assert model.metadata["provenance"]["n_images"] == 12
    assert [error.path for error in detector.skipped_] == [bad]
    with pytest.raises(DatasetError, match="2 of 3 could be read"):
        FRE(size=96).fit([*files[:2], bad], skip_unreadable=True)
    with pytest.raises(DatasetError, match="none of the 3"):
        FRE(size=96).fit([bad] * 3, skip_unreadable=True)


REFERENCE = {"backbone": "efficientnet_lite0", "preset": "reference"}


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"backbone": "nonsense"}, BackboneError, "efficientnet_lite0"),
        ({"layers": ["layer9"]}, BackboneError, "blocks.4"),
        ({"layers": "blocks.4"}, OptionError, "list of names"),
        (REFERENCE | {"layers": ["blocks.3", "blocks.4"]}, OptionError, "one layer"),
        (REFERENCE | {"layers": "blocks.4"}, OptionError, "list of one layer"),
        (REFERENCE | {"method": Method(rank=12)}, OptionError, "span 11 dimensions"),
        ({"image_fit": "crop"}, OptionError, "stretch, letterbox"),
        ({"tile": 64, "overlap": 33}, OptionError, "0 to 32 pixels"),
        ({"tile": 64, "image_fit": "letterbox"}, OptionError, "no letterbox"),
        ({"augment": -1}, OptionError, "1 to 64 copies"),
        ({"method": Method(flip=True)}, OptionError, "flip has no effect with no copies"),
        ({"false_alarm_rate": 0}, OptionError, "false-alarm rate"),
        ({"method": Method(pool=99)}, OptionError, "pool must be"),
        ({"size": 16}, OptionError, "32 to 8192"),
        ({"size": (64, 10_000)}, OptionError, "32 to 8192"),
    ],
)
def test_bad_parameters(
    good_folder: Path, parameters: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        FRE(**({"size": 64} | parameters)).fit(good_folder)


def test_scikit_learn_can_clone_it() -> None:
    detector = FRE(size=64, layers=["blocks.3"], method=Method(rank=5))
    copy = clone(detector)
    assert copy is not detector
    assert copy.get_params() == detector.get_params()
    assert repr(copy) == "FRE(layers=['blocks.3'], size=64, method=Method(rank=5))"
    assert copy.set_params(seed=6).seed == 6
    with pytest.raises(OptionError, match="no parameter 'ranks'"):
        copy.set_params(ranks=6)
    assert not hasattr(copy, "decision_function")


def test_other_layers_sizes_and_pools(good_folder: Path) -> None:
    model = FRE(size=(64, 96), layers=["blocks.5"], method=Method(scope="image", rank=3)).fit(
        good_folder
    )
    prediction = model.predict(texture(0, (50, 70)))
    assert prediction.input_map.shape == (64, 96)
    assert prediction.anomaly_map.shape == (50, 70)
    assert model.metadata["subspaces"][0]["rank"] == 3


def test_progress_counts_every_image(good_folder: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    FRE(size=64).fit(good_folder, progress=lambda *step: seen.append(step))
    assert [step for step in seen if step[0] == "Extracting features"] == [
        ("Extracting features", done, 12) for done in range(1, 13)
    ]
    assert seen[-1] == ("Fitting", 4, 4)
    closed_form().fit(good_folder, progress=lambda *step: seen.append(step))
    assert seen[-1] == ("Fitting", 1, 1)


def test_saved_and_loaded_is_the_same(model: Model, tmp_path: Path) -> None:
    again = load(model.save(tmp_path / "m.onnx"))
    assert again.data == model.data
    assert again.sha256 == hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest()
    assert again.predict(texture(5)).score == model.predict(texture(5)).score


def test_the_network_comes_back_after_it_was_released() -> None:
    images = [texture(seed) for seed in range(9)]
    extractor = FRE(size=64)._extractor(get_backbone("efficientnet_lite0"))
    before = extractor.extract(images).X
    extractor.release()
    np.testing.assert_array_equal(extractor.extract(images).X, before)
    extractor.release()
    extractor.release()


@pytest.mark.parametrize("parameters", [{}, {"memory": 1e-6}, LITE])
@pytest.mark.parametrize(
    ("seeds", "found"),
    [
        ([0] * 9, "9 good images, but all of them are equal"),
        ([0] * 9 + [1], "10 good images, but only 2 of them are different"),
        ([0, 1] * 4, "8 good images, but only 2 of them are different"),
        ([0, 1], "training needs 3 good images or more, found 2"),
    ],
)
def test_what_has_no_variance_is_refused(
    parameters: dict[str, Any], seeds: list[int], found: str
) -> None:
    with pytest.raises(DatasetError, match=found):
        FRE(**{"size": 64, **parameters}).fit([texture(seed) for seed in seeds])


def test_images_that_differ_where_nothing_is_inspected_have_no_variance() -> None:
    ignored = np.zeros((96, 96), np.uint8)
    ignored[48:] = 1
    images = [texture(0).copy() for _ in range(6)]
    for seed, image in enumerate(images):
        image[50:] = texture(seed)[50:]
    found = r"sees no difference between them.*outside the inspected region"
    with pytest.raises(DatasetError, match=found):
        FRE(size=64, ignore=ignored).fit(images)


@pytest.mark.parametrize("others", [2, 9])
@pytest.mark.parametrize("parameters", [{}, LITE])
def test_copies_are_judged_together_and_a_model_of_many_alarms(
    others: int, parameters: dict[str, Any]
) -> None:
    images = [texture(0)] * 12 + [texture(seed) for seed in range(1, others + 1)]
    model = FRE(**{"size": 64, **parameters}).fit(images)
    assert sum(model.predict(image).anomalous for image in images) == 0
    assert np.abs(model.calibration.scores).max() < 1e4
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    for dead in (noise, np.zeros_like(noise)):
        assert model.predict(dead).score > model.threshold


@pytest.mark.slow
def test_images_of_two_proportions_are_said_to_be_stretched() -> None:
    square, wide = [texture(seed) for seed in range(4)], [texture(9, (40, 300))] * 1
    detector = FRE(size=64)
    detector.fit(square)
    assert detector.notes_ == []
    for parameters in ({}, {"memory": 1e-6}):
        detector = FRE(size=64, **parameters)
        detector.fit([*square, *wide])
        (note,) = detector.notes_
        assert "96 x 96 (an array) to 300 x 40 (an array) pixels" in note
        assert "stretched to 64 x 64: letterbox keeps their proportions" in note
    detector = FRE(size=64, image_fit="letterbox")
    detector.fit([*square, *wide])
    assert detector.notes_ == []
