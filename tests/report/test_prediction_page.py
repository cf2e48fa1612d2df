"""The page of `fre predict -o` in bounded memory."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from conftest import texture
from fitted_models import defective
from fre import FRE
from fre.errors import ImageError
from fre.report.prediction_page import ERRORS_SHOWN, PredictionGallery


def test_only_the_most_anomalous_images_are_kept(tmp_path: Path) -> None:
    model = FRE(size=64).fit([texture(seed) for seed in range(12)])
    gallery = PredictionGallery(model, limit=3)
    good, bad = model.predict(texture(60)), model.predict(defective(texture(61)))
    given = [(good, 0.5), (bad, 30.0), (good, 0.1), (bad, 50.0), (bad, 40.0), (good, 0.2)]
    for index, (prediction, score) in enumerate(given):
        result = replace(prediction, score=score)
        gallery.count(result)
        gallery.add(result, f"part {index}", f"overlays/part {index}.png", texture(0))
    for index in range(ERRORS_SHOWN + 2):
        gallery.count(ImageError(f"<{index}>.png", "no such file"))
    gallery.write(tmp_path / "index.html", "m.onnx")
    page = (tmp_path / "index.html").read_text()
    names = re.findall(r'<a href="overlays/part%20(\d)\.png">part \d</a>', page)
    assert names == ["3", "4", "1"]
    assert "<h1>3 of 6 images are anomalous</h1>" in page
    assert "3 of 6 images, the highest scores first; 3 are not shown" in page
    assert "3 of 3 not shown" in page
    assert "&lt;0&gt;.png: no such file" in page
    assert "and 2 more, in predictions.jsonl" in page
