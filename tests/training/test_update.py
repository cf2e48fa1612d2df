"""Models that learn more: from new images, and from one another, without the old images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import texture
from fitted_models import (
    IMAGES,
    NEW,
    SIZE,
    assert_same_subspaces,
    defective,
    detector,
    fitted,
    scores,
)
from fre import Method, Model, load, merge_models
from fre.backbones import get_backbone
from fre.errors import (
    AnomalousError,
    DatasetError,
    FREWarning,
    FrozenModelError,
    ImageError,
    ModelFileError,
    OptionError,
)
from fre.features.extractor import FeatureExtractor
from fre.images.geometry import Geometry
from fre.images.preparation import Preparation
from fre.inference.rebuild import network_of
from fre.onnx_tools.side_arrays import read_arrays, with_arrays, without_arrays
from fre.subspaces.gram import Gram
from fre.subspaces.image import coordinates_of, fit_image_wide
from fre.subspaces.image_statistics import ImageStatistics
from fre.subspaces.protocols import FitOptions


@pytest.mark.slow
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_updates_in_any_split_and_order_are_one_training(data: st.DataObject) -> None:
    preset = data.draw(st.sampled_from(["default", "reference"]))
    order = data.draw(st.permutations(range(14)))
    cuts = sorted({0, 14, *data.draw(st.lists(st.integers(3, 13), max_size=3))})
    cuts = [cut for cut in cuts if cut == 0 or cut >= 3]
    parts = [[IMAGES[index] for index in order[start:stop]] for start, stop in pairwise(cuts)]
    grown = detector(preset).fit(parts[0])
    for part in parts[1:]:
        grown = grown.update(part, accept_anomalous=True)
    one = detector(preset).fit(IMAGES[:14])
    assert_same_subspaces(grown, one)
    assert grown.metadata["provenance"]["n_images"] == 14
    assert len(grown.calibration.scores) == 14
    if preset == "reference":
        # Nothing in its graph is a scale: the scores are those of one training.
        np.testing.assert_allclose(scores(grown, NEW), scores(one, NEW), rtol=1e-4)


@pytest.mark.slow
def test_single_images_can_be_learnt(model: Model) -> None:
    grown = model
    for image in IMAGES[12:15]:
        grown = grown.update([image], accept_anomalous=True)
    assert_same_subspaces(grown, detector().fit(IMAGES[:15]))
    assert [step["n_added"] for step in grown.metadata["provenance"]["history"]] == [1, 1, 1]
    assert len(grown.calibration.scores) == 15


def test_an_updated_model_tells_defects_as_one_of_all_images_does(
    model: Model, whole: Model
) -> None:
    grown = model.update(IMAGES[12:], accept_anomalous=True)
    for each in (grown, whole):
        good, bad = scores(each, NEW), scores(each, [defective(image) for image in NEW])
        assert bad.min() > good.max()
        assert bad.min() > each.threshold
    deviation = np.corrcoef(scores(grown, NEW), scores(whole, NEW))[0, 1]
    assert deviation > 0.9


def test_residuals_shrink_towards_those_of_a_training_on_all(model: Model, whole: Model) -> None:
    """Scales are of the new number of images, not of the old one."""
    before, after, wanted = (
        [float(part.residuals.mean()) for part in fitted(each).parts]
        for each in (model, model.update(IMAGES[12:], accept_anomalous=True), whole)
    )
    for old, new, goal in zip(before, after, wanted, strict=True):
        assert goal < old
        assert abs(new - goal) < abs(old - goal)


def test_the_old_model_stays_as_it_is(model: Model) -> None:
    data, metadata = model.data, json.dumps(model.metadata)
    model.update(IMAGES[12:14], accept_anomalous=True)
    assert model.data == data
    assert json.dumps(model.metadata) == metadata


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        {"method": Method(scope=["patch", "position", "image"])},
        {"tile": 64, "size": None, "overlap": 8},
        {"image_fit": "letterbox"},
        {"method": Method(variance=0.9, rank=5, top=0.1, smoothing=0.0)},
        {"augment": 1, "method": Method(flip=True)},
    ],
    ids=lambda parameters: next(iter(parameters)),
)
def test_every_setting_of_a_training_survives(parameters: dict[str, Any]) -> None:
    model = detector(**parameters).fit(IMAGES[:8])
    grown = model.update(IMAGES[8:10], accept_anomalous=True)
    kept = ["preset", "backbone", "preprocessing", "reading", "layer_maps", "learning"]
    assert [grown.metadata[key] for key in kept] == [model.metadata[key] for key in kept]
    assert grown.calibration.false_alarm_rate == model.calibration.false_alarm_rate
    assert len(grown.calibration.scores) == 10
    merged = merge_models(grown, detector(**parameters).fit(IMAGES[10:14]))
    assert np.isfinite(scores(merged, NEW[:2])).all()


def test_a_region_of_interest_survives() -> None:
    roi = np.zeros((96, 96), np.uint8)
    roi[16:80, 16:80] = 1
    grown = detector(roi=roi).fit(IMAGES[:8]).update(IMAGES[8:10], accept_anomalous=True)
    outside = NEW[0].copy()
    outside[:8] = 255
    np.testing.assert_allclose(*(scores(grown, [image]) for image in (NEW[0], outside)))
    assert grown.predict(outside).anomaly_map[:8].max() == 0


def test_a_threshold_by_hand_keeps_its_rate(model: Model) -> None:
    scores = model.calibration.scores
    middle = float(scores[8:10].mean())
    by_hand = model.with_calibration(model.calibration.at_threshold(middle), chosen="by hand")
    assert by_hand.calibration.rate_of_others == 4 / 13
    grown = by_hand.update(IMAGES[12:18], accept_anomalous=True)
    # 5 of 19 is the largest rate of at most 4 / 13.
    assert grown.calibration.rate_of_others == 5 / 19
    assert grown.calibration.false_alarm_rate is None
    assert grown.metadata["provenance"]["threshold"] == "by hand"


def test_a_threshold_above_all_good_images_keeps_its_distance(model: Model) -> None:
    high = float(model.calibration.scores[-1]) + 40
    grown = model.with_calibration(model.calibration.at_threshold(high), chosen="by hand").update(
        IMAGES[12:14], accept_anomalous=True
    )
    assert grown.threshold == pytest.approx(grown.calibration.scores[-1] + 40)


def test_rate_band_and_odd_images_are_kept(model: Model) -> None:
    at_rate = model.with_calibration(model.calibration.at_rate(0.2))
    assert at_rate.update(NEW[:1], accept_anomalous=True).calibration.false_alarm_rate == 0.2
    changed = model.calibration.at_rate(0.2).with_odd(keep=True)
    banded = model.with_calibration(changed.with_review(float(changed.scores[5])))
    images = [*IMAGES[12:17], defective(IMAGES[17])]
    grown = banded.update(images, accept_anomalous=True).calibration
    assert (grown.keep_odd, grown.n_odd) == (True, 0)
    # Of 12 scores 6 are above the band: 7 of 13 is 10 of 19, the largest rate that is no more.
    assert grown.review_threshold == grown.scores[18 - 10]
    assert model.update(images, accept_anomalous=True).calibration.n_odd == 1


def test_anomalous_images_are_refused(model: Model) -> None:
    bad = defective(NEW[0])
    with pytest.raises(AnomalousError, match="1 of 1 images are anomalous") as caught:
        model.update([bad])
    ((source, score),) = caught.value.found
    assert source == 0
    assert score == model.predict(bad).score > caught.value.threshold == model.threshold
    (step,) = model.update([bad], accept_anomalous=True).metadata["provenance"]["history"]
    assert (step["n_added"], step["n_accepted_anomalous"]) == (1, 1)


def test_what_is_not_there_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        model.update([])
    (tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"broken\.png"):
        model.update([tmp_path / "broken.png"])
    with pytest.raises(DatasetError, match="none of the 1 images"):
        model.update([tmp_path / "broken.png"], skip_unreadable=True)
    sources = [tmp_path / "broken.png", IMAGES[20]]
    with pytest.warns(FREWarning, match=r"left out: .*broken\.png"):
        grown = model.update(sources, skip_unreadable=True, accept_anomalous=True)
    assert grown.metadata["provenance"]["n_images"] == 13


@pytest.mark.slow
def test_frozen_models_are_refused(model: Model) -> None:
    per_tile = detector(tile=64, size=None, overlap=8, per_tile=True)
    for frozen in (detector(frozen=True).fit(IMAGES[:6]), per_tile.fit(IMAGES[:6])):
        assert "learning" not in frozen.metadata
        # Beside the graph there is the list of training images alone.
        assert {name.split("/")[0] for name in read_arrays(frozen.data)} == {"images"}
        with pytest.raises(FrozenModelError, match="can't learn more"):
            frozen.update(NEW)
        with pytest.raises(FrozenModelError, match="can't learn more"):
            merge_models(model, frozen)


def test_a_frozen_model_is_the_same_but_for_what_it_lacks(model: Model) -> None:
    frozen = detector(frozen=True).fit(IMAGES[:12])
    np.testing.assert_array_equal(scores(frozen, NEW), scores(model, NEW))
    assert len(frozen.data) < len(model.data)


@pytest.mark.slow
def test_images_are_not_counted_twice(model: Model) -> None:
    with pytest.raises(OptionError, match=r"has learnt \d+ of the same images"):
        merge_models(model, model)
    grown = model.update(NEW, accept_anomalous=True)
    with pytest.raises(DatasetError, match="has learnt these 6 images already"):
        grown.update(NEW, accept_anomalous=True)
    new = detector().fit(NEW)
    with pytest.raises(OptionError, match=r"has learnt \d+ of the same images"):
        merge_models(grown, new)
    merged = merge_models(model, new)
    with pytest.raises(DatasetError, match="already"):
        merged.update(NEW, accept_anomalous=True)
    with pytest.raises(OptionError, match=r"has learnt \d+ of the same images"):
        merge_models(merged, model)


def written(folder: Path, seeds: Sequence[int]) -> Path:
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        Image.fromarray(texture(seed)).save(folder / f"{seed}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("parameters", [{}, {"memory": 1e-6}])
def test_equal_images_are_named(tmp_path: Path, parameters: dict[str, Any]) -> None:
    folder = written(tmp_path / "good", range(8))
    for copy, seed in (("again", 3), ("third", 3), ("other", 5)):
        (folder / f"{copy}.png").write_bytes((folder / f"{seed}.png").read_bytes())
    fitted = detector(**parameters)
    model = fitted.fit(folder)
    (note,) = fitted.notes_
    assert "equal: 3.png = again.png = third.png; 5.png = other.png; copies make" in note
    new = written(tmp_path / "new", range(20, 24))
    (new / "copy.png").write_bytes((new / "21.png").read_bytes())
    with pytest.raises(DatasetError, match=r"images are equal: 21\.png = copy\.png; to count"):
        model.update(new, accept_anomalous=True)
    (new / "copy.png").unlink()
    grown = model.update(new, accept_anomalous=True)
    assert grown.metadata["provenance"]["n_images"] == 15
    with pytest.raises(DatasetError, match=r"images are equal: image 0 = image 2; to count"):
        model.update([texture(70), texture(71), texture(70)], accept_anomalous=True)
    fitted.fit(written(tmp_path / "different", range(8)))
    assert fitted.notes_ == []


@pytest.mark.parametrize("parameters", [{}, {"memory": 1e-6}])
def test_some_of_the_same_images_are_refused_with_their_names(
    tmp_path: Path, parameters: dict[str, Any]
) -> None:
    first = detector(**parameters).fit(written(tmp_path / "first", range(8)))
    grown = first.update(written(tmp_path / "new", range(20, 24)), accept_anomalous=True)
    grown = load(grown.save(tmp_path / "grown.onnx"))
    with pytest.raises(DatasetError, match=r"has learnt these 8 images already"):
        grown.update(tmp_path / "first", accept_anomalous=True)
    mixed = written(tmp_path / "mixed", [3, 21, 50])
    with pytest.raises(DatasetError, match=r"2 of these 3 images already: 21\.png, 3\.png; "):
        grown.update(mixed, accept_anomalous=True)
    with pytest.raises(OptionError, match=r"8 of the same images .*: 0\.png, .* and 3 more; "):
        merge_models(first, grown)


def test_merges_refuse_and_keep_the_names_of_images(tmp_path: Path) -> None:
    first = detector().fit(written(tmp_path / "first", range(8)))
    grown = first.update(written(tmp_path / "new", range(20, 24)), accept_anomalous=True)
    apart = detector().fit(written(tmp_path / "apart", [50, 51, 52, 7]))
    with pytest.raises(OptionError, match=r"1 of the same images as those before it: 7\.png; "):
        merge_models(grown, apart)
    fresh = detector().fit(written(tmp_path / "fresh", [60, 61, 62]))
    merged = load(merge_models(grown, fresh).save(tmp_path / "merged.onnx"))
    for seed in (0, 22, 61):
        with pytest.raises(DatasetError, match="has learnt these 1 images already"):
            merged.update(
                [
                    tmp_path / f"{folder}/{seed}.png"
                    for folder in ("first", "new", "fresh")
                    if (tmp_path / f"{folder}/{seed}.png").exists()
                ]
            )
    assert merged.update(written(tmp_path / "last", [70]), accept_anomalous=True)


def test_the_backbone_in_a_model_is_the_backbone(model: Model) -> None:
    original = get_backbone("efficientnet_lite0")
    embedded = network_of(model)
    assert embedded.name == original.name
    assert embedded.weights_sha256 == original.weights_sha256
    assert embedded.normalisation == original.normalisation
    for layer in embedded.layers:
        assert layer == original.layer(layer.name)
    names = [layer.name for layer in embedded.layers]
    features = [
        FeatureExtractor(backbone, names, Preparation(Geometry((SIZE, SIZE)))).extract(NEW[:2]).X
        for backbone in (original, embedded)
    ]
    np.testing.assert_array_equal(*features)
    with pytest.raises(Exception, match="64 x 64 pixels"):
        embedded.graph(names, (96, 96))


def test_a_file_does_not_grow_with_its_updates(model: Model) -> None:
    grown = model.update(NEW[:1], accept_anomalous=True)
    again = grown.update(NEW[1:2], accept_anomalous=True)
    graphs = [onnx.load_model_from_string(each.data).graph for each in (model, grown, again)]
    names = [{tensor.name for tensor in graph.initializer} for graph in graphs]
    assert names[0] == names[1] == names[2]
    assert len(graphs[0].node) == len(graphs[2].node)


def test_the_standard_knows_the_arrays(model: Model) -> None:
    proto = onnx.load_model_from_string(model.data)
    onnx.checker.check_model(proto)
    (info,) = proto.training_info
    assert {tensor.name for tensor in info.algorithm.initializer} == set(read_arrays(model.data))
    bare = onnx.load_model_from_string(without_arrays(model.data))
    assert not bare.training_info
    assert bare.graph == proto.graph
    assert bare.metadata_props == proto.metadata_props


def test_runtimes_take_a_file_as_it_is(model: Model) -> None:
    """Also those that are not told to leave the arrays out."""
    import onnxruntime

    images = np.stack([np.asarray(Image.fromarray(image).resize((SIZE, SIZE))) for image in NEW])
    results = [
        onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(
            ["score"], {"images": images}
        )[0]
        for data in (model.data, without_arrays(model.data))
    ]
    np.testing.assert_array_equal(*results)


def test_openvino_takes_a_file_as_it_is(model: Model) -> None:
    openvino = pytest.importorskip("openvino", reason="needs fre-vision[openvino]")
    images = np.stack([np.asarray(Image.fromarray(image).resize((SIZE, SIZE))) for image in NEW])
    network = openvino.Core().read_model(model.data, b"")
    compiled = openvino.Core().compile_model(network, "CPU")
    assert compiled([images])["score"].shape == (6,)


@pytest.mark.slow
def test_damaged_statistics_are_refused(model: Model) -> None:
    arrays = read_arrays(model.data)
    bare = without_arrays(model.data)
    learnt_rows = [key for key in arrays if key.endswith("/energies")]
    for name in ("fold", "image", "sizes", *learnt_rows):
        for damaged in ({key: values for key, values in arrays.items() if key != name}, None):
            broken = damaged or {**arrays, name: arrays[name][:-1]}
            with pytest.raises(ModelFileError):
                Model(with_arrays(bare, broken)).update(NEW, accept_anomalous=True)
    for name in arrays:
        if name.endswith("/coordinates"):
            with pytest.raises(ModelFileError):
                fitted(Model(with_arrays(bare, {**arrays, name: arrays[name][:, 1:]})))


@pytest.mark.parametrize("shape", [(9, 40), (40, 9)], ids=["wide", "tall"])
def test_features_come_back_from_coordinates(shape: tuple[int, int]) -> None:
    X = np.random.default_rng(0).normal(100, 1, shape).astype(np.float32)
    X[3] = X[4]
    gram = Gram(X)
    statistics = ImageStatistics.of_gram(gram)
    found = coordinates_of(gram, statistics)
    assert found is not None
    np.testing.assert_allclose(statistics.features(found), X, rtol=1e-6)
    assert coordinates_of(gram, ImageStatistics.of_gram(gram, capacity=3)) is None


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["default", "reference"])
def test_image_wide_subspaces_are_calibrated_as_in_one_training(preset: str) -> None:
    one = fitted(detector(preset).fit(IMAGES))
    grown = fitted(detector(preset).fit(IMAGES[:12]).update(IMAGES[12:], accept_anomalous=True))
    merged = fitted(merge_models(*(detector(preset).fit(IMAGES[i::2]) for i in range(2))))
    order = [*range(0, 24, 2), *range(1, 24, 2)]
    image_wide = [i for i, part in enumerate(one.parts) if part.part.scope == "image"]
    assert image_wide
    for i in image_wide:
        known = one.parts[i].features(0)
        assert known is not None
        scale = float(np.abs(known).max())
        for other, rows in ((grown, list(range(24))), (merged, order)):
            features = other.parts[i].features(0)
            assert features is not None
            # Directions are stored in 16 bits.
            np.testing.assert_allclose(features, known[rows], atol=1e-4 * scale)
            statistics = other.parts[i].statistics
            assert isinstance(statistics, ImageStatistics)
            again = fit_image_wide(
                known[rows],
                other.parts[i].part.layout.channels,
                other.folds_of_rows,
                FitOptions(at_most=256 if preset == "default" else None),
                statistics.capacity,
            )
            energies = other.parts[i].residuals
            np.testing.assert_allclose(energies, again.residuals, rtol=1e-3, atol=1e-3 * scale)


def test_beyond_the_capacity_features_are_gone(model: Model) -> None:
    small = detector(method=Method(rank=8)).fit(IMAGES[:12])
    image_wide = [part for part in fitted(small).parts if part.part.scope == "image"]
    assert [part.statistics.n for part in image_wide] == [12, 12]
    assert all(part.features(4) is not None for part in image_wide)
    assert all(part.features(5) is None for part in image_wide)
    grown = small.update(IMAGES[12:], accept_anomalous=True)
    for part in fitted(grown).parts:
        assert part.coordinates is None
        assert part.residuals.shape[0] == 24
        assert np.isfinite(part.residuals).all()


@pytest.mark.slow
def test_a_file_without_coordinates_is_updated_all_the_same(model: Model) -> None:
    arrays = read_arrays(model.data)
    kept = {key: values for key, values in arrays.items() if not key.endswith("/coordinates")}
    assert len(kept) == len(arrays) - 2
    older = Model(with_arrays(without_arrays(model.data), kept))
    one, other = (each.update(NEW, accept_anomalous=True) for each in (older, model))
    assert_same_subspaces(one, other)
    assert np.corrcoef(scores(one, IMAGES), scores(other, IMAGES))[0, 1] > 0.95


def test_only_so_many_residuals_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fre.training.fitted.KEPT_ROWS", 33)
    model = detector("reference").fit([texture(seed, (64, 64)) for seed in range(40)])
    kept = fitted(model)
    assert kept.n == 33
    assert len(kept.parts[0].residuals) == 33
    assert kept.parts[0].statistics.n == 40
    grown = fitted(model.update(NEW, accept_anomalous=True))
    assert grown.n == 33
    assert grown.parts[0].statistics.n == 46
