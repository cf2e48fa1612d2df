"""Reviewed images are scored before and after an update, and decoded once for both."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import fre
from conftest import texture

pytest.importorskip("fastapi", reason="needs fre-vision[serve]")

from fre.images import loading
from fre.serve.lessons import Reviewed, compare


def test_reviewed_images_are_decoded_once_for_both_models(
    weave: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviewed = []
    for seed in range(300, 309):  # more than one batch
        file = tmp_path / f"{seed}.png"
        Image.fromarray(texture(seed)).save(file)
        reviewed.append(Reviewed(seed, file.name, "good", f"{seed:064x}", file))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    reviewed[4] = Reviewed(304, broken.name, "good", f"{304:064x}", broken)
    decoded: list[str] = []
    load = loading._load

    def counted(source: Path, *more: object) -> object:
        decoded.append(Path(source).name)
        return load(source, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "_load", counted)
    before = fre.load(weave)
    after = before.with_calibration(before.calibration.at_threshold(-100.0))
    seen: list[tuple[int, int]] = []
    found = compare(before, after, reviewed, lambda _, done, total: seen.append((done, total)))
    assert sorted(decoded) == sorted(image.name for image in reviewed)
    assert seen == [(n, 9) for n in range(1, 10)]
    assert (found["n_checked"], found["n_unreadable"]) == (8, 1)
    assert (found["confusion"]["before"]["tn"], found["confusion"]["after"]["fp"]) == (8, 8)
    assert found["n_changes"] == 8
    for change in found["changes"]:
        score = before.predict(tmp_path / change["name"]).score
        assert change["score_before"] == change["score_after"] == pytest.approx(score, abs=1e-4)
