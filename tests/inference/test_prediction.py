"""A prediction as a person sees it: its text, its picture, and in a notebook."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageShow

from conftest import texture
from fitted_models import defective
from fre import FRE, Model
from fre.drawing.heatmaps import OUTLINE_COLOUR, overlay
from fre.errors import ImageError, OptionError
from fre.inference.prediction import Prediction


@pytest.fixture(scope="module")
def model() -> Model:
    return FRE(size=64).fit([texture(seed) for seed in range(24)])


@pytest.fixture(scope="module")
def bad(model: Model) -> Prediction:
    return model.predict(defective(texture(50)))


def shown(html: str) -> list[Image.Image]:
    found = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_the_text_says_what_was_decided(model: Model, bad: Prediction, tmp_path: Path) -> None:
    file = tmp_path / "part 7.png"
    Image.fromarray(texture(60)).save(file)
    good = model.predict(file)
    assert repr(good) == (
        f"Prediction(part 7.png: score {good.score:.4g}, p-value {good.p_value:.3g}, good)"
    )
    assert "Prediction(image: score" in repr(bad)
    assert re.search(r", anomalous, \d regions?\)$", repr(bad))
    assert replace(good, decision="review").verdict == "review"


def test_the_overlay_is_the_image_with_heat_and_outlines() -> None:
    model = FRE(size=128).fit([texture(seed, (128, 128)) for seed in range(8)])
    image = texture(50, (128, 128))
    image[14:28, 98:112] = 160
    bad = model.predict(image)
    assert bad.anomalous
    picture = np.asarray(bad.overlay())
    assert picture.shape == image.shape
    assert 0 < bad.mask.mean() < 0.5
    heat = overlay(image, bad.anomaly_map, model.map_range)
    changed = (picture != heat).any(axis=2)
    assert changed.any()
    assert (picture[changed] == OUTLINE_COLOUR).all()
    assert not changed[bad.mask].any()


@pytest.fixture(scope="module")
def deep() -> Model:
    return FRE(size=64).fit([(texture(seed).astype(np.uint16) << 4) for seed in range(4)])


@pytest.mark.parametrize("kind", ["array", "file", "pil", "bgr", "uint16", "float"])
def test_an_image_of_any_kind_is_drawn(kind: str, deep: Model, tmp_path: Path) -> None:
    image = defective(texture(50, (80, 120)))
    file = tmp_path / "x.png"
    Image.fromarray(image).save(file)
    sources = {
        "array": image,
        "file": file,
        "pil": Image.fromarray(image),
        "bgr": image[:, :, ::-1],
        "uint16": image.astype(np.uint16) << 4,
        "float": image / 255,
    }
    prediction = deep.predict(sources[kind], color="bgr" if kind == "bgr" else "rgb")
    expected = deep.predict(image)
    assert prediction.score == expected.score
    np.testing.assert_array_equal(prediction.overlay(), expected.overlay())


def test_bgr_in_a_stream(model: Model) -> None:
    images = [texture(seed) for seed in (70, 71)]
    images[0][:, :, 0] = 9
    scores = [p.score for p in model.predict_many(images)]
    swapped = [image[:, :, ::-1] for image in images]
    assert [p.score for p in model.predict_many(swapped, color="bgr")] == scores
    assert [p.score for p in model.predict_many(swapped)] != scores
    with pytest.raises(OptionError, match="a PosixPath states its own"):
        list(model.predict_many([Path("x.png")], color="bgr"))


def test_the_overlay_is_saved_by_its_suffix(bad: Prediction, tmp_path: Path) -> None:
    assert bad.save(tmp_path / "x.png") == tmp_path / "x.png"
    with Image.open(tmp_path / "x.png") as image:
        np.testing.assert_array_equal(image, bad.overlay())
    bad.save(str(tmp_path / "x.JPG"))
    with Image.open(tmp_path / "x.JPG") as image:
        assert (image.format, image.size) == ("JPEG", (96, 96))
    for name in ("x", "x.onnx", "x.txt"):
        with pytest.raises(OptionError, match=f"{name}: no image format has this suffix"):
            bad.save(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"x.png", "x.JPG"}


def test_the_overlay_is_shown_by_a_viewer(bad: Prediction, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Image.Image] = []

    class Viewer(ImageShow.Viewer):
        def show(self, image: Image.Image, **options: object) -> int:
            seen.append(image)
            return 1

    monkeypatch.setattr(ImageShow, "_viewers", [Viewer()])
    bad.show()
    np.testing.assert_array_equal(seen[0], bad.overlay())


def test_a_notebook_shows_image_overlay_score_and_decision(model: Model, tmp_path: Path) -> None:
    file = tmp_path / "<b>&.png"
    Image.fromarray(defective(texture(50, (400, 800)))).save(file)
    prediction = model.predict(file)
    html = prediction._repr_html_()
    assert [image.size for image in shown(html)] == [(320, 160)] * 2
    assert "&lt;b&gt;&amp;.png" in html
    assert "<b>" not in html
    assert f"{prediction.score:.4g}" in html
    assert "anomalous" in html
    file.unlink()
    assert "no such file" in prediction._repr_html_()


def test_what_cannot_be_drawn_says_so(bad: Prediction, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="holds no image"):
        replace(bad, source=None).overlay()
    with pytest.raises(OptionError, match="holds no scale"):
        replace(bad, map_range=None).overlay()
    file = tmp_path / "other.png"
    Image.fromarray(texture(0, (40, 50))).save(file)
    with pytest.raises(ImageError, match="is no longer the image of 96 x 96 pixels"):
        replace(bad, path=file, source=None).overlay()


def test_decoded_images_are_not_kept(model: Model, tmp_path: Path) -> None:
    """A service scores what it decoded, and has the files."""
    file = tmp_path / "x.png"
    Image.fromarray(texture(60, (200, 300))).save(file)
    decoded = model.preparation.decode(file.read_bytes(), "x.png")
    (prediction,) = model.predict_loaded([decoded])
    assert isinstance(prediction, Prediction)
    assert prediction.source is None
    assert prediction.score == pytest.approx(model.predict(file).score, rel=1e-4)
