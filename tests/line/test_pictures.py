"""Images of anomalous parts in a folder of bounded size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fre
from conftest import texture
from fre.errors import OptionError
from fre.line.frame import Frame
from fre.line.payload import Judgement
from fre.line.sinks.open import open_sinks
from fre.line.watch import ModelScorer
from line_peers import pixels_of


@pytest.fixture(scope="module")
def scorer() -> ModelScorer:
    fitted = fre.FRE(size=64, false_alarm_rate=0.05).fit([texture(seed) for seed in range(40)])
    return ModelScorer("weave", fitted)


def judged(scorer: ModelScorer, seed: int, image: Path | None = None) -> tuple[Frame, Judgement]:
    frame = Frame(f"cam#{seed}", seed, 1e9 + seed, image or pixels_of(seed))
    (judgement,) = scorer([frame])
    assert judgement is not None
    return frame, judgement


def test_anomalous_parts_are_kept_with_overlays(scorer: ModelScorer, tmp_path: Path) -> None:
    _, (folder,) = open_sinks([f"pictures:{tmp_path}/kept"], warn=print)
    frame, judgement = judged(scorer, 110)
    path = folder.save(frame, judgement)
    assert path is not None
    assert np.array_equal(np.asarray(Image.open(path)), frame.image)
    overlay = np.asarray(Image.open(path.with_suffix(".overlay.jpg")))
    assert overlay.shape == (96, 96, 3)
    assert np.abs(overlay[34:37, 30:60].astype(int) - 255).mean() > 20  # it glows
    assert folder.save(*judged(scorer, 111)) is None
    file = tmp_path / "part.PNG"
    Image.fromarray(pixels_of(120)).save(file)
    kept = folder.save(*judged(scorer, 120, file))
    assert kept is not None
    assert kept.read_bytes() == file.read_bytes()
    _, (folder,) = open_sinks([f"pictures:{tmp_path}/all?good=1"], warn=print)
    assert folder.save(*judged(scorer, 111)) is not None


def test_the_oldest_are_deleted_and_other_files_stay(scorer: ModelScorer, tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"x" * 100_000)
    for _ in range(2):  # the second finds what the first left
        _, (folder,) = open_sinks([f"pictures:{tmp_path}?limit=1"], warn=print)
        folder.limit = 60_000
        last = [folder.save(*judged(scorer, seed)) for seed in range(100, 200, 10)][-1]
        kept = [path for path in tmp_path.iterdir() if path.name != "mine.png"]
        assert sum(path.stat().st_size for path in kept) <= 60_000
        assert last in kept
        assert len(kept) >= 2
    assert (tmp_path / "mine.png").stat().st_size == 100_000


def test_mistakes(tmp_path: Path) -> None:
    for text, reason in {
        f"pictures:{tmp_path}?limit=0": "expected a number of MB",
        f"pictures:{tmp_path}?good=yes": "expected 0 or 1",
        f"pictures:{tmp_path}?size=3": "no option is called 'size'",
        "ftp://host/x": "expected mqtt://",
        "results.txt": "expected mqtt://",
    }.items():
        with pytest.raises(OptionError, match=reason):
            open_sinks([text], warn=print)
    with pytest.raises(OptionError, match="given twice"):
        open_sinks([f"{tmp_path}/a.csv"] * 2, warn=print)
