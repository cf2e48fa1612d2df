"""`fre.evaluate` as a notebook shows it: text, tables, chart and report."""

from __future__ import annotations

import base64
import builtins
import io
import pickle
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import fre
from conftest import texture
from fitted_models import defective
from fre.errors import MissingDependencyError, OptionError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weave")
    for split, kind, seeds in (
        ("train", "good", range(12)),
        ("test", "good", range(20, 26)),
        ("test", "cut", range(30, 35)),
    ):
        (root / split / kind).mkdir(parents=True)
        for seed in seeds:
            image = texture(seed)
            Image.fromarray(defective(image) if kind == "cut" else image).save(
                root / split / kind / f"{seed}.png"
            )
    return root


@pytest.fixture(scope="module")
def model(dataset: Path) -> fre.Model:
    return fre.FRE(size=64).fit(dataset)


@pytest.fixture(scope="module")
def result(model: fre.Model, dataset: Path) -> fre.Evaluation:
    return fre.evaluate(model, dataset)


def test_the_text_says_what_was_found(result: fre.Evaluation) -> None:
    assert re.fullmatch(
        r"Evaluation\(found 5 of 5 defects \(100 %\), \d of 6 false alarms, at threshold \S+ "
        r"\(1 % asked\); image AUROC 1\.000\)",
        repr(result),
    )


def test_a_notebook_shows_the_figures(result: fre.Evaluation) -> None:
    html = result._repr_html_()
    assert "found 5 of 5 defects" in html
    low, high = result.intervals["recall"]
    rows = re.findall(r"<tr><th[^>]*>([^<]*)</th><td[^>]*>([^<]*)</td><td[^>]*>([^<]*)</td>", html)
    assert ("recall", "1.000", f"{low:.3f} to {high:.3f}") in rows
    assert ("pixel AUROC", "-", result.reasons["pixel_auroc"]) in rows
    assert "rained on" not in html
    seen = replace(result, trained_on=("a.png",))
    assert "Trained on 1 of these 11 test images" in seen._repr_html_()


def test_the_frame_has_a_row_for_each_image(result: fre.Evaluation) -> None:
    pytest.importorskip("pandas", reason="needs fre-vision[notebook]")
    frame = result.to_frame()
    assert list(frame) == ["path", "kind", "good", "score", "p_value", "anomalous"]
    assert frame["score"].tolist() == [row.score for row in result.images]
    assert frame.groupby("kind")["anomalous"].mean()["cut"] == 1
    banded = tuple(replace(row, decision="review") for row in result.images)
    assert set(replace(result, images=banded).to_frame()["decision"]) == {"review"}


def test_the_frame_names_its_extra(result: fre.Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: object) -> ModuleType:
        if name == "pandas":
            raise ModuleNotFoundError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingDependencyError, match=r"pip install 'fre-vision\[notebook\]'"):
        result.to_frame()


def test_the_chart_is_an_svg_of_its_own(result: fre.Evaluation, tmp_path: Path) -> None:
    chart = result.plot()
    assert chart.save(tmp_path / "scores.svg").read_text() == chart.svg
    root = ElementTree.parse(tmp_path / "scores.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = " ".join(root.itertext())
    assert "Good: 6" in text
    assert "Defective: 5" in text
    assert ".bars.good" in text
    assert "data:image/svg+xml;base64," in chart._repr_html_()
    with pytest.raises(OptionError, match=r"ends in \.svg"):
        chart.save(tmp_path / "scores.png")
    with pytest.raises(OptionError, match="needs images and the model's threshold"):
        replace(result, threshold=None).plot()


def test_an_evaluation_writes_its_report(result: fre.Evaluation, tmp_path: Path) -> None:
    assert result.report(tmp_path / "r.html") == tmp_path / "r.html"
    page = (tmp_path / "r.html").read_text()
    assert "Inspection report for weave" in page
    assert page.count('class="card"') == 11
    again = pickle.loads(pickle.dumps(result))
    assert again == result
    again.report(tmp_path / "again.html")
    with pytest.raises(OptionError, match="a report needs the model"):
        replace(result, reporter=None).report(tmp_path / "no.html")
    assert not (tmp_path / "no.html").exists()


def test_a_comparison_is_a_table(model: fre.Model, dataset: Path) -> None:
    other = model.with_calibration(model.calibration.at_threshold(1e9))
    comparison = fre.compare(model, other, dataset)
    missed = len(comparison.disagreements)
    assert repr(comparison).endswith(f"{missed} disagreements)")
    html = comparison._repr_html_()
    rows = re.findall(r"<tr><th[^>]*>(.*?)</th>(.*?)</tr>", html)
    cells = {name: re.findall(r"<td[^>]*>(.*?)</td>", rest) for name, rest in rows}
    assert cells["recall"][:3] == ["1.000", "0.000", "-1.000"]
    assert cells["images that only one calls anomalous"] == [str(missed)]
    assert np.all([name in cells for name in ("A", "B", "image AUROC")])


def test_a_notebook_shows_a_model(model: fre.Model) -> None:
    assert repr(model) == (
        "Model(backbone efficientnet_lite0, input 64 x 64 pixels, trained on 12 good images, "
        f"threshold {model.threshold:.4g})"
    )
    html = model._repr_html_()
    [picture] = re.findall(r"image/jpeg;base64,([^\"]+)", html)
    with Image.open(io.BytesIO(base64.b64decode(picture))) as shown:
        assert max(shown.size) <= 96
    assert "12 good images" in html
    assert model.sha256[:12] in html
    assert "data:image/svg+xml;base64," in html
