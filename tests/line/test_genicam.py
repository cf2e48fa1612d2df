"""GenICam cameras, by the simulated producer that the package genicam brings."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fre.errors import OptionError
from fre.line.folder import FolderOptions
from fre.line.frame import Frame, SourceError, SourceOptions
from fre.line.genicam import genicam_pixels
from fre.line.sources import open_source
from line_peers import needs

FOUND = importlib.util.find_spec("genicam")
PRODUCER = Path(str(FOUND and FOUND.origin)).parent / "viky.cti"


@needs("harvesters", "genicam")
@pytest.mark.skipif(not PRODUCER.is_file(), reason="needs the producer viky.cti of genicam 1.6")
def test_a_simulated_camera() -> None:
    told: list[str] = []
    means = []
    for number in range(3):
        text = f"genicam:{PRODUCER}?serial_number={number}"
        source = open_source(text, SourceOptions(), FolderOptions(), warn=told.append)
        source.start(())
        frames: list[Frame] = []
        while len(frames) < 5 and not told:
            frames += source.take(5, 1)
        source.close()
        assert told == []
        assert frames[0].image.shape == (400, 400, 3)  # type: ignore[union-attr]
        means.append(np.asarray(frames[0].image).mean(axis=(0, 1)))
    # A red, a green and a blue camera: the channels are in order.
    assert [int(mean.argmax()) for mean in means] == [0, 1, 2]


@needs("harvesters", "genicam")
def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="GenTL producer"):
        open_source(f"genicam:{tmp_path}/x.cti", SourceOptions(), FolderOptions(), warn=print)


def test_pixel_formats() -> None:
    grey = np.array([[1, 2, 9], [3, 4, 9]], np.uint8)  # a padded row
    assert genicam_pixels(grey.ravel(), 2, 2, "Mono8")[..., 0].tolist() == [[1, 2], [3, 4]]
    colour = np.array([1, 2, 3, 4, 5, 6], np.uint8)
    assert genicam_pixels(colour, 1, 2, "RGB8").tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert genicam_pixels(colour, 1, 2, "BGR8").tolist() == [[[3, 2, 1], [6, 5, 4]]]
    with pytest.raises(SourceError, match="set the camera to one of Mono8"):
        genicam_pixels(grey, 2, 2, "BayerRG12")
