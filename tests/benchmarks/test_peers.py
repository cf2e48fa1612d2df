"""The benchmarks of speed: their arithmetic, and fre's own part of them from end to end."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import texture

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def _path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        # The measured processes import fre from where this one does.
        patch.setenv("PYTHONPATH", str(ROOT / "src"))
        yield
    for name in ("measuring", "peers", "peers_child", "scaling"):
        sys.modules.pop(name, None)


def module(name: str) -> Any:
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weaves")

    def save(pixels: np.ndarray, *parts: str) -> None:
        path = root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    for seed in range(8):
        save(texture(seed), "train", "good", f"{seed}.png")
    for seed in range(10, 13):
        save(texture(seed), "test", "good", f"{seed}.png")
        defect, mask = texture(seed + 10), np.zeros((96, 96), np.uint8)
        defect[20:60, 20:60], mask[20:60, 20:60] = 255, 255
        save(defect, "test", "spot", f"{seed}.png")
        save(mask, "ground_truth", "spot", f"{seed}_mask.png")
    return root


def test_anomavision_takes_part_with_a_resnet_only() -> None:
    choose = module("peers").choose
    assert "anomavision-padim" in [system.key for system in choose(None, "resnet18")]
    assert "anomavision-padim" not in [system.key for system in choose(None, "efficientnet_lite0")]
    with pytest.raises(click.BadParameter, match="needs --backbone resnet18"):
        choose("fre,anomavision", "efficientnet_lite0")


def test_the_systems_take_turns_and_leave_when_their_rounds_are_over() -> None:
    assert module("measuring").interleaved({"a": 2, "b": 1, "c": 2}) == [
        *[(0, "a"), (0, "b"), (0, "c")],
        *[(1, "a"), (1, "c")],
    ]
    assert module("measuring").interleaved({}) == []


def test_a_summary_is_the_median_and_the_range() -> None:
    summary = module("measuring").Summary
    found = summary.of([3.0, 1.0, 20.0])
    assert (found.median, found.least, found.most, found.n) == (3.0, 1.0, 20.0, 3)
    assert found.text() == "3.00 (1.00–20.0)"
    assert summary.of([1234.6]).text() == "1,235"
    with pytest.raises(ValueError, match="needs a value"):
        summary.of([])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123456, "0.0123"), (9.999, "10.0"), (40.04, "40.0"), (1e6, "1,000,000"), (0, "0")],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert module("measuring").significant(value) == text


def test_percentiles_are_values_that_were_measured() -> None:
    percentile = module("measuring").percentile
    values = list(range(100, 0, -1))
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile(values, 1) == 100
    assert percentile([7.0], 0.99) == 7.0


@given(
    exponent=st.floats(-3, 3),
    factor=st.floats(1e-3, 1e3),
    work=st.lists(st.integers(1, 10_000), min_size=2, max_size=8, unique=True),
)
def test_the_slope_of_a_power_law_is_its_exponent(
    exponent: float, factor: float, work: list[int]
) -> None:
    cost = [factor * w**exponent for w in work]
    assert module("measuring").loglog_slope(work, cost) == pytest.approx(exponent, abs=1e-6)


@pytest.mark.parametrize(("work", "cost"), [([2, 2], [1, 3]), ([1, 2], [0, 1]), ([1], [1])])
def test_no_slope_without_two_amounts_of_work(work: list[float], cost: list[float]) -> None:
    with pytest.raises(ValueError, match="two different amounts"):
        module("measuring").loglog_slope(work, cost)


def test_epochs_are_extrapolated_from_the_later_ones() -> None:
    extrapolate = module("peers").extrapolate
    # 5 s before the epochs, a slow first one, then 2 s each; the median passes over the outlier.
    assert extrapolate(5 + 9 + 2 + 2 + 7, [9, 2, 2, 7], 220) == 25 + 216 * 2
    assert extrapolate(14, [9], 10) == 14 + 9 * 9
    assert extrapolate(25, [9, 2, 2, 7], 4) == 25
    assert extrapolate(25, [], 220) == 25


def test_images_are_spread_and_repeated() -> None:
    measuring = module("measuring")
    assert measuring.evenly(range(11), 3) == [0, 5, 10]
    assert measuring.evenly(range(3), 5) == [0, 1, 2]
    assert measuring.evenly(range(3), 1) == [0]
    assert measuring.repeated("abc", 7) == list("abcabca")


def test_ratios_say_how_many_times_dearer() -> None:
    peers = module("peers")
    measured = [
        {"system": "fre-reference", "figures": {"train_seconds": 2.0, "images_per_second": 100.0}},
        {"system": "fre-reference", "figures": {"train_seconds": 4.0}},
        {"system": "anomalib-padim", "figures": {"train_seconds": 30, "images_per_second": 20.0}},
    ]
    summaries = peers.summarise(measured)
    seconds, images = peers.METRICS[0], peers.METRICS[3]
    assert peers.ratio(summaries, "anomalib-padim", "fre-reference", seconds) == 10
    assert peers.ratio(summaries, "anomalib-padim", "fre-reference", images) == 5
    assert peers.ratio(summaries, "anomalib-dfm", "fre-reference", images) is None
    rows = [peers.SYSTEMS[key] for key in ("fre-reference", "anomalib-padim", "anomalib-dfm")]
    marks = {"anomalib-padim train_seconds": " \\*"}
    lines = peers.figure_table(summaries, rows, (seconds, images), marks).splitlines()
    assert lines[2:] == [
        "| fre, reference | 3.00 (2.00–4.00) | 100 |",
        "| anomalib PaDiM | 30.0 \\* | 20.0 |",
        "| anomalib DFM | - | - |",
    ]
    ratios = peers.ratio_table(summaries, rows, (seconds, images), rows[0]).splitlines()
    assert ratios[3] == "| anomalib PaDiM | 10.0 x | 5.00 x |"


def test_systems_are_chosen_with_the_one_whose_model_they_run() -> None:
    choose = module("peers").choose
    assert [s.key for s in choose("fre-default-openvino")] == [
        "fre-default",
        "fre-default-openvino",
    ]
    assert [s.key for s in choose("exported-dfm")] == ["anomalib-dfm", "exported-dfm"]
    assert len(choose(None, "resnet18")) == len(module("peers").SYSTEMS)
    with pytest.raises(Exception, match="no system is called 'padim'"):
        choose("padim")


def test_those_that_take_long_come_last_in_each_round_and_exports_after_their_models() -> None:
    peers = module("peers")
    chosen = peers.choose("exported-fre,exported-dfm,fre-default")
    keys = [key for _, key in peers.turns(chosen, 2)]
    assert keys == 2 * [
        *["fre-default", "fre-default-openvino", "anomalib-dfm", "exported-dfm"],
        *["anomalib-fre", "exported-fre"],
    ]


def test_names_of_weights_are_those_of_timm() -> None:
    name = module("peers_child").timm_name
    repeats = [1, 2, 2]
    assert name("_conv_stem.weight", repeats) == "conv_stem.weight"
    assert name("_bn0.running_var", repeats) == "bn1.running_var"
    assert name("_blocks.0._project_conv.weight", repeats) == "blocks.0.0.conv_pw.weight"
    assert name("_blocks.2._bn2.bias", repeats) == "blocks.1.1.bn3.bias"


def test_a_failing_measurement_says_what_it_printed(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text("import sys; print('the reason'); sys.exit(3)")
    with pytest.raises(
        module("measuring").MeasurementError, match=r"training failed with exit code 3:\nthe reason"
    ):
        module("measuring").isolated(script, {}, name="training")


def test_installed_size_counts_what_is_needed() -> None:
    measuring = module("measuring")
    needed = measuring.closure(["onnxruntime"])
    assert {"onnxruntime", "numpy"} <= needed
    total, _ = measuring.installed_bytes(["onnxruntime"])
    alone, _ = measuring.installed_bytes(["numpy"])
    assert total > alone > 1e6


@pytest.mark.slow
def test_fre_beside_its_limit(dataset: Path, tmp_path: Path) -> None:
    """All but anomalib and OpenVINO, through the command."""
    options = ["--train", "8", "--test", "6", "--files", "8", "--rounds", "2", "--latencies", "2"]
    systems = "bare-reference-backbone-onnxruntime,bare-reference-graph-onnxruntime"
    file = tmp_path / "peers.json"
    result = CliRunner().invoke(
        module("peers").main,
        [str(dataset), *options, "--size", "64", "--systems", systems, "--json", str(file)],
    )
    assert result.exit_code == 0, result.output
    document = json.loads(file.read_text())
    order = [row["system"] for row in document["measured"] if row["stage"] != "installed"]
    assert order == 2 * ["fre-reference", "fre-reference", *systems.split(",")]
    summary = document["summaries"]["fre-reference"]
    assert set(summary) == {metric.key for metric in module("peers").METRICS}
    assert summary["train_seconds"]["n"] == 2
    assert document["quality"]["fre-reference"]["image_auroc"] == 1
    assert re.search(r"\| fre, reference \| 1.00 x \|", result.output)
    assert re.search(r"fre, reference / bare whole graph, reference, ONNX Runtime", result.output)

    # Told again from what was kept, and carried to a page that has room.
    rooms = ["<!-- peers: begin -->", "<!-- peers: end -->"]
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n{}\nOld.\n{}\n\nAfter.\n".format(*rooms))
    again = CliRunner().invoke(module("peers").main, [str(file), "--write", str(page)])
    assert again.exit_code == 0, again.output
    assert result.stdout == again.stdout
    written = page.read_text()
    assert result.stdout.strip() in written
    assert "Old." not in written
    assert written.startswith(f"Before.\n\n{rooms[0]}\n")
    assert written.endswith(f"{rooms[1]}\n\nAfter.\n")
    page.write_text("<!-- peers, summary: begin -->\n<!-- peers, summary: end -->\n")
    CliRunner().invoke(module("peers").main, [str(file), "--write", str(page)])
    assert re.search(r"^\| fre, reference \|.* \| 1.000 \|", page.read_text(), re.MULTILINE)
    page.write_text("No room.\n")
    refused = CliRunner().invoke(module("peers").main, [str(file), "--write", str(page)])
    assert refused.exit_code == 2
    assert "has no room" in refused.output


@pytest.mark.slow
def test_scaling_prints_exponents(dataset: Path, tmp_path: Path) -> None:
    file = tmp_path / "scaling.json"
    points = ["--images", "6,12", "--size", "64", "--rank", "2,4", "--batch", "", "--threads", ""]
    base = ["--base-images", "8", "--base-size", "64", "--files", "4", "--latencies", "2"]
    result = CliRunner().invoke(
        module("scaling").main,
        [str(dataset), *points, *base, "--rounds", "1", "--json", str(file)],
    )
    assert result.exit_code == 0, result.output
    document = json.loads(file.read_text())
    assert {(row["factor"], row["value"]) for row in document["measured"]} == {
        *[("images", 6), ("images", 12), ("size", 64), ("rank", 2), ("rank", 4)]
    }
    # More dimensions, a larger file; its size does not depend on the clock.
    assert 0 < document["exponents"]["rank"]["model_bytes"] < 1
    assert "size" not in document["exponents"]
    assert result.output.count("**exponent**") == 2


def counting_child(folder: Path, file: Path, *, fails: str) -> Path:
    """A measured process that fails for some tasks, and counts what is kept already for others."""
    script = folder / "child.py"
    script.write_text(
        "import json, pathlib, sys\n"
        "task = json.loads(pathlib.Path(sys.argv[1]).read_text())\n"
        f"if {fails}:\n"
        "    sys.exit('the reason')\n"
        f"kept = json.loads(pathlib.Path({str(file)!r}).read_text())\n"
        "n = len(kept['measured']) + 1\n"
        "parts = {'features': 1, 'fit': 1}\n"
        "train = {'train_seconds': n, 'train_peak_bytes': 1, 'model_bytes': 1, 'parts': parts}\n"
        "predict = {'latencies_ms': [1, 3], 'images_per_second': n, 'predict_peak_bytes': 1}\n"
        "result = train if task['stage'] == 'train' else predict\n"
        "pathlib.Path(sys.argv[2]).write_text(json.dumps(result))\n"
    )
    return script


def test_a_failing_system_loses_its_own_figures_only(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers, file = module("peers"), tmp_path / "peers.json"
    script = counting_child(tmp_path, file, fails="task['stage'] == 'train'")
    monkeypatch.setattr(peers, "CHILD", script)
    options = ["--rounds", "2", "--systems", "bare-reference", "--json", str(file)]
    result = CliRunner().invoke(peers.main, [str(dataset), *options])
    assert result.exit_code == 1
    document = json.loads(file.read_text())
    assert "the reason" in document["failures"]["fre-reference"]
    graphs = ["bare-reference-graph-onnxruntime", "bare-reference-graph-openvino"]
    assert [document["failures"][key] for key in graphs] == 2 * [
        "there is no model of fre, reference to run"
    ]
    rows = [row for row in document["measured"] if row["stage"] == "predict"]
    backbones = ["bare-reference-backbone-onnxruntime", "bare-reference-backbone-openvino"]
    assert [row["system"] for row in rows] == 2 * backbones
    # Each process found all measurements before it in the file: they would survive the end of all.
    before = len(document["measured"]) - len(rows)
    assert [row["figures"]["images_per_second"] for row in rows] == [
        before + n for n in range(1, 5)
    ]
    assert "| bare backbone, reference, ONNX Runtime | - | 1.00 (1.00–1.00) |" in result.output
    assert (
        "- fre, reference: train of fre, reference failed with exit code 1: the reason\n"
        in result.output
    )


def test_no_turn_begins_once_the_minutes_are_over(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers, file = module("peers"), tmp_path / "peers.json"
    monkeypatch.setattr(peers, "CHILD", counting_child(tmp_path, file, fails="False"))
    options = ["--minutes", "0", "--systems", "bare-reference-backbone", "--json", str(file)]
    result = CliRunner().invoke(peers.main, [str(dataset), *options])
    assert result.exit_code == 0, result.output
    assert json.loads(file.read_text())["measured"] == []
    stopped = "Stopped after 0 minutes, before bare backbone, reference, ONNX Runtime in round 1."
    assert stopped in result.output


def test_a_failing_point_loses_its_own_figures_only(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaling, file = module("scaling"), tmp_path / "scaling.json"
    file.write_text('{"measured": []}')
    script = counting_child(tmp_path, file, fails="task['parameters'].get('rank') == 4")
    monkeypatch.setattr(scaling, "CHILD", script)
    others = [part for name in ("size", "batch", "threads") for part in (f"--{name}", "")]
    options = ["--images", "6,12", "--rank", "2,4", *others, "--rounds", "1", "--json", str(file)]
    result = CliRunner().invoke(scaling.main, [str(dataset), *options])
    assert result.exit_code == 1
    document = json.loads(file.read_text())
    assert list(document["failures"]) == ["rank-4"]
    assert "the reason" in document["failures"]["rank-4"]
    assert list(document["exponents"]) == ["images"]
    assert document["summaries"]["images"]["12"]["train_seconds"]["median"] == 2
    assert list(document["summaries"]["rank"]) == ["2"]
    assert "- rank-4: training at rank-4 failed with exit code 1: the reason\n" in result.output
