"""The network of a model file: its quantisation reads images, whose errors stay their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fre import FRE
from fre.backbones.model_file import quantized
from fre.errors import ImageError
from fre.inference.rebuild import network_of
from fre.types import FloatArray


def test_an_image_that_can_not_be_read_is_not_the_network_s_fault(good_folder: Path) -> None:
    backbone = network_of(FRE(size=64).fit(good_folder))

    def batches() -> Iterator[FloatArray]:
        yield np.zeros((1, 3, 64, 64), np.float32)
        raise ImageError("part.png", "damaged")

    with pytest.raises(ImageError, match=r"^part\.png: damaged$"):
        quantized(backbone, batches())
