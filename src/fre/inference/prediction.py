"""The answer of a model for one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fre.errors import ImageError, InputError, OptionError
from fre.images.decode import ImageSource, read_image
from fre.images.resize import resize_map
from fre.scoring.calibration import Decision
from fre.scoring.regions import Region
from fre.storage.files import write_atomic
from fre.types import FloatArray, ImageArray, MaskArray

if TYPE_CHECKING:
    from PIL import Image

    from fre.drawing.heatmaps import Scale


@dataclass(frozen=True, repr=False)
class Prediction:
    """Result of a model for one image.

    Attributes:
        path: the file, or ``None`` for an image given as an array.
        score: higher is more anomalous; unbounded.
        p_value: conformal p-value in (0, 1]: share of good images that score at least this high.
            With a ``reason`` it is the smallest p-value of the model.
        anomalous: whether the score is above the model's threshold, or there is a ``reason``.
        regions: connected parts of the map above the pixel threshold, largest peak first. An
            anomalous image has one at least; a good one has none, unless they were asked for.
        image_size: height and width of the original image, in pixels.
        input_map: float32 (h, w): the model's anomaly map without padding, at the size of the
            input; at the size of the image if it was cut into tiles.
        pixel_threshold: a pixel of the anomaly map at or above it belongs to a region: the
            model's; lower for an anomalous image that has no such pixel.
        bits: range of the image's 16-bit values, as in `fre.images.geometry.Decoding`; pictures
            of the image use the same range.
        reason: why the image can't show what the training images show, such as a black image of a
            dead camera. The image is then anomalous, whatever its score.
        decision: ``"pass"``, ``"review"`` or ``"fail"`` (anomalous), if the model has a review
            band; else ``None``.
        map_range: values of a typical good pixel of the map and of one clearly above, the fixed
            scale of the model's heat maps; ``None`` for a prediction of no model.
        source: the image as it was given, to draw it; an array is kept, not copied.
    """

    path: Path | None
    score: float
    p_value: float
    anomalous: bool
    regions: tuple[Region, ...]
    image_size: tuple[int, int]
    input_map: FloatArray = field(repr=False, compare=False)
    pixel_threshold: float = float("inf")
    bits: int | None = 16
    reason: str | None = None
    decision: Decision | None = None
    map_range: Scale | None = None
    source: ImageSource | None = field(compare=False, default=None)

    def __repr__(self) -> str:
        count = len(self.regions)
        regions = f", {count} region{'s' if count > 1 else ''}" if count else ""
        return (
            f"Prediction({self._name}: score {self.score:.4g}, p-value {self.p_value:.3g}, "
            f"{self.verdict}{regions})"
        )

    @property
    def _name(self) -> str:
        return "image" if self.path is None else self.path.name

    @property
    def verdict(self) -> str:
        """The decision in a word: ``"good"``, ``"review"`` or ``"anomalous"``."""
        if self.anomalous:
            return "anomalous"
        return "review" if self.decision == "review" else "good"

    @cached_property
    def anomaly_map(self) -> FloatArray:
        """float32, (height, width) of the original image; higher is more anomalous.

        One absolute scale for every image of a model, never rescaled per image.
        """
        return resize_map(self.input_map, self.image_size)

    @property
    def mask(self) -> MaskArray:
        """Bool, (height, width) of the original image: the pixels of the regions."""
        return self.mask_of(self.anomaly_map) if self.regions else np.zeros(self.image_size, bool)

    def mask_of(self, anomaly_map: FloatArray) -> MaskArray:
        """Return `mask` of an `anomaly_map` that the caller resized and the prediction won't keep.

        Args:
            anomaly_map: float32, (height, width) of the original image.
        """
        if not self.regions:
            return np.zeros(self.image_size, bool)
        mask = np.asarray(anomaly_map >= self.pixel_threshold)
        # Resizing may lower a narrow peak below the threshold.
        for region in self.regions:
            x, y = region.peak_xy
            mask[y, x] = True
        return mask

    def overlay(self) -> Image.Image:
        """Return the image with its heat map and outlined regions, as a PIL image of its size.

        A colour means the same in every picture of a model. The image is read again from its
        file, or from the given array.

        Raises:
            ImageError: the image can't be read any more, or is another one now.
            OptionError: the prediction holds no image or no scale, as from another program.
        """
        # Imported where they draw: most predictions are never drawn.
        from PIL import Image

        from fre.drawing.heatmaps import outline, overlay

        picture = overlay(self._pixels(), self.anomaly_map, self._scale())
        return Image.fromarray(outline(picture, self.mask) if self.regions else picture)

    def show(self) -> None:
        """Show `overlay` in a notebook, or in the viewer of the desktop."""
        self.overlay().show()

    def save(self, path: Path | str) -> Path:
        """Write `overlay` as an image file, whole or not at all.

        Args:
            path: file to write; its suffix says the format, such as ``.png`` or ``.jpg``.

        Returns:
            The path.

        Raises:
            OptionError: the suffix is that of no image format.
            OutputError: the file can't be written.
        """
        from PIL import Image

        from fre.drawing.heatmaps import encode

        form = Image.registered_extensions().get(Path(path).suffix.lower())
        if form is None or form not in Image.SAVE:
            raise OptionError(f"{path}: no image format has this suffix; try .png or .jpg")
        write_atomic(path, encode(np.asarray(self.overlay()), form))
        return Path(path)

    def _pixels(self) -> ImageArray:
        source = self.path if self.source is None else self.source
        if source is None:
            raise OptionError("this prediction holds no image to draw on")
        image = read_image(source, self.bits)
        if image.shape[:2] != self.image_size:
            height, width = self.image_size
            raise ImageError(self.path, f"is no longer the image of {width} x {height} pixels")
        return image

    def _scale(self) -> Scale:
        if self.map_range is None:
            raise OptionError("this prediction holds no scale of its map: it is of no model")
        return self.map_range

    def _repr_html_(self) -> str:
        from html import escape

        from fre.drawing.notebook import picture, table

        facts = [
            ("score", f"{self.score:.4g}"),
            ("decision", self.verdict if self.reason is None else f"anomalous: {self.reason}"),
            ("p-value", f"{self.p_value:.3g}"),
            ("regions", str(len(self.regions))),
        ]
        try:
            shown = picture(self._pixels(), self._name) + picture(
                np.asarray(self.overlay()), f"heat map of {self._name}"
            )
        except InputError as error:
            # A notebook shows the result, even where the image is gone.
            shown = f"<em>{escape(str(error))}</em>"
        return f"<div><strong>{escape(self._name)}</strong><br>{shown}{table(facts)}</div>"

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as a JSON row of ``fre predict``, without the map."""
        return {
            "path": None if self.path is None else str(self.path),
            "score": self.score,
            "p_value": self.p_value,
            "anomalous": self.anomalous,
            **({} if self.decision is None else {"decision": self.decision}),
            **({} if self.reason is None else {"reason": self.reason}),
            "regions": [region.to_dict() for region in self.regions],
        }


def prediction_row(result: Prediction | ImageError, path: str | None = None) -> dict[str, Any]:
    """Return a prediction, or the error in its place, as one JSON line of ``fre predict``.

    Args:
        result: prediction or error.
        path: path of the image in the line; ``None`` for the result's own path.
    """
    named = {} if path is None else {"path": path}
    if isinstance(result, ImageError):
        return {"path": str(result.path), **named, "error": result.reason}
    return {**result.to_dict(), **named}
