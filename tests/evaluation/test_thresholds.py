"""Another threshold for a fitted model: what changes, and what must not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fre.detector import FRE
from fre.errors import InputError, OptionError
from fre.evaluation.metrics import max_f1
from fre.evaluation.thresholds import max_f1_threshold, recall_threshold
from fre.model import Model
from fre.scoring.calibration import GRAPH_THRESHOLD, Calibration


@pytest.fixture(scope="module")
def model(good_folder: Path) -> Model:
    return FRE(size=64, false_alarm_rate=0.1).fit(good_folder)


def initialisers(model: Model) -> dict[str, bytes]:
    graph = onnx.load_model_from_string(model.data).graph
    return {
        tensor.name: onnx.numpy_helper.to_array(tensor).tobytes() for tensor in graph.initializer
    }


def test_only_the_calibration_changes(model: Model, good_folder: Path) -> None:
    changed = model.with_calibration(model.calibration.at_rate(0.5))
    assert changed.threshold < model.threshold
    assert changed.calibration.pixel_threshold == model.calibration.pixel_threshold
    assert changed.calibration.map_range == model.calibration.map_range
    before, after = initialisers(model), initialisers(changed)
    assert list(before) == list(after)
    assert len(before) > 10
    assert [name for name in before if before[name] != after[name]] == [GRAPH_THRESHOLD]
    same = changed.metadata | {
        key: model.metadata[key] for key in ("calibration", "digest") if key in model.metadata
    }
    assert same == model.metadata
    image = next(good_folder.iterdir())
    one, other = model.predict(image), changed.predict(image)
    assert (one.score, one.p_value) == (other.score, other.p_value)
    assert np.array_equal(one.input_map, other.input_map)


def test_there_and_back_is_the_same_model(model: Model) -> None:
    there = model.with_calibration(model.calibration.at_threshold(1.0), chosen="by hand")
    assert there.metadata["provenance"]["threshold"] == "by hand"
    assert there.calibration.false_alarm_rate is None
    assert there.data != model.data
    back = there.with_calibration(there.calibration.at_rate(0.1))
    assert initialisers(back) == initialisers(model)
    assert back.metadata | {"digest": None} == model.metadata | {"digest": None}


def test_a_rate_gives_what_training_with_it_would(good_folder: Path, model: Model) -> None:
    trained = FRE(size=64, false_alarm_rate=0.3).fit(good_folder).calibration
    changed = model.calibration.at_rate(0.3)
    assert changed.threshold == trained.threshold
    assert changed.pixel_threshold == trained.pixel_threshold


def test_the_expected_rate_is_the_p_value_just_above() -> None:
    fitted = Calibration.fit(np.arange(9.0), 0.2, pixel_threshold=1.0, map_range=(0.0, 1.0))
    for threshold in (-1.0, 0.0, 3.5, 8.0, 20.0):
        moved = fitted.at_threshold(threshold)
        assert moved.expected_rate == fitted.p_value(np.nextafter(threshold, np.inf))
    assert fitted.at_threshold(6.5).n_above == 2
    assert fitted.at_threshold(6.5).rate_in_words() == "false alarms to expect: 30 %"
    assert fitted.at_threshold(6.5).caveat() is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_threshold_is_a_number(model: Model, value: float) -> None:
    with pytest.raises(OptionError, match="finite"):
        model.calibration.at_threshold(value)


labelled = st.lists(
    st.tuples(st.floats(-1e6, 1e6, width=32), st.booleans()), min_size=2, max_size=40
).filter(lambda rows: {label for _, label in rows} == {True, False})


@given(labelled)
def test_the_largest_f1_is_reached_above_its_threshold(rows: list[tuple[float, bool]]) -> None:
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    f1, threshold = max_f1_threshold(scores, labels)
    called = scores > threshold
    assert 2 * (called & labels).sum() / (called.sum() + labels.sum()) == pytest.approx(f1)
    assert f1 == max_f1(scores, labels)[0]


@given(labelled, st.sampled_from([0.01, 0.3, 0.5, 0.99, 1.0]))
def test_a_recall_is_reached_by_the_highest_threshold(
    rows: list[tuple[float, bool]], recall: float
) -> None:
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    reached, threshold = recall_threshold(scores, labels, recall)
    assert reached == np.mean(scores[labels] > threshold) >= recall - 1e-9
    # at the next score up, it would be missed
    above = scores[scores > threshold].min()
    assert np.mean(scores[labels] > above) < recall


def test_a_rounding_error_does_not_ask_for_another_defect() -> None:
    scores = np.arange(100.0)
    assert recall_threshold(scores, np.ones(100), 0.07) == (0.07, 92.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recall_threshold([1, 2], [0, 0], 0.9), "all test images are good"),
        (lambda: max_f1_threshold([1, 2], [0, 0]), "all test images are good"),
        (lambda: max_f1_threshold([1, 2], [1, 1]), "needs good test images"),
        (lambda: recall_threshold([1, 2], [0, 1], 0), "recall must be"),
        (lambda: recall_threshold([1, 2], [0, 1], 1.1), "recall must be"),
    ],
)
def test_what_can_not_be_chosen_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
