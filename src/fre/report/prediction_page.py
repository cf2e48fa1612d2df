"""The page of ``fre predict -o``: the report's gallery, without labels."""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from fre.drawing.charts import number
from fre.errors import ImageError
from fre.inference.prediction import Prediction
from fre.model import Model
from fre.report.gallery import Group
from fre.report.page import template
from fre.report.pictures import GalleryItem, Picture, draw, swatches
from fre.report.wording import p_text
from fre.storage.files import write_atomic
from fre.types import ImageArray

MOST_SHOWN = 200
QUALITY = ((320, 65),)
"""Longest side and JPEG quality: `MOST_SHOWN` of them take some 5 MB."""
ERRORS_SHOWN = 50

GROUPS = {
    "anomalous": ("Anomalous", "Above the threshold. Highest score first."),
    "review": ("For review", "In the review band, for a person to look at. Highest score first."),
    "good": ("Good", "Below the threshold. Highest score first."),
}


@dataclass(frozen=True)
class PredictionCard:
    """An image of the gallery, with a link to its overlay."""

    group: str
    title: str
    name: str
    score: float
    p_text: str
    picture: Picture
    link: str
    reason: str = ""


class PredictionGallery:
    """The most anomalous images of a stream, drawn as they come; memory is bounded.

    Args:
        model: model that predicts.
        limit: number of images that are kept.
    """

    def __init__(self, model: Model, limit: int = MOST_SHOWN) -> None:
        self._model = model
        self._limit = limit
        self._kept: list[tuple[tuple[bool, float, str], PredictionCard]] = []
        self._counts: Counter[str] = Counter()
        self._errors: list[str] = []
        self._lock = threading.Lock()

    def count(self, result: Prediction | ImageError) -> None:
        """Count an image, or note the error in its place."""
        if isinstance(result, ImageError):
            self._errors.append(str(result))
        else:
            self._counts[result.verdict] += 1

    def add(self, prediction: Prediction, name: str, link: str, image: ImageArray) -> None:
        """Draw an image, if it is among the most anomalous so far. Threads may call it at once.

        Args:
            prediction: prediction of the image.
            name: name on the page, unique.
            link: path of its overlay, below the folder of the page.
            image: uint8 (H, W, 3), RGB.
        """
        key = (prediction.anomalous, prediction.score, name)
        with self._lock:
            if len(self._kept) >= self._limit and key <= self._kept[0][0]:
                return
        card = PredictionCard(
            prediction.verdict,
            prediction.reason or prediction.verdict,
            name,
            prediction.score,
            p_text(prediction.p_value),
            draw(GalleryItem(image, prediction.input_map), self._model.map_range, QUALITY),
            quote(link),
        )
        with self._lock:
            heapq.heappush(self._kept, (key, card))
            if len(self._kept) > self._limit:
                heapq.heappop(self._kept)

    def write(self, file: Path, model_name: str) -> None:
        """Write the page: one HTML file.

        Args:
            file: file to write.
            model_name: name of the model on the page.

        Raises:
            OutputError: the file can't be written.
        """
        shown = [card for _, card in sorted(self._kept, key=lambda item: item[0], reverse=True)]
        n_images = sum(self._counts.values())
        html = template("predictions.html.j2").render(
            labelled=False,
            verdict=f"{self._counts['anomalous']} of {n_images} images are anomalous",
            model=model_name,
            threshold=self._model.threshold,
            rate=self._model.calibration.rate_in_words(),
            errors=self._errors[:ERRORS_SHOWN],
            n_errors=len(self._errors),
            groups=[
                Group(key, *GROUPS[key], [card for card in shown if card.group == key], total)
                for key in GROUPS
                if (total := self._counts[key])
            ],
            n_images=n_images,
            n_shown=len(shown),
            level=0,
            swatches=swatches(),
            scale=[number(value) for value in self._model.map_range],
            written=datetime.now(timezone.utc),
        )
        write_atomic(file, html.encode("utf-8", "replace"))
