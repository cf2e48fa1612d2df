"""Copies of few images: what they show, and that they are no more than that."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import texture
from fre import FRE, Method
from fre.errors import OptionError
from fre.images.augmentation import Augmentation

DIGEST = "0123456789abcdef" * 4


def test_copies_depend_on_image_and_seed_alone() -> None:
    image = texture(0, (60, 90))
    copies = Augmentation(3).of(image, DIGEST)
    assert [copy.shape for copy in copies] == [image.shape] * 3
    assert all(copy.dtype == np.uint8 for copy in copies)
    for one, other in zip(copies, Augmentation(3).of(image, DIGEST), strict=True):
        np.testing.assert_array_equal(one, other)
    for other in (Augmentation(3, seed=1).of(image, DIGEST), Augmentation(3).of(image, "f" * 64)):
        assert not np.array_equal(copies[0], other[0])
    assert not np.array_equal(copies[0], copies[1])


def test_copies_are_the_image_slightly_moved() -> None:
    """A disc's middle stays within the shift and what the rotation adds to it."""
    y, x = np.mgrid[:200, :300]
    disc = np.hypot(y - 60, x - 220) < 15
    image = np.repeat(np.where(disc, 250, 20).astype(np.uint8)[:, :, None], 3, axis=2)
    reach_y = 200 / 32 + np.sin(np.radians(5)) * 70 + 2
    reach_x = 300 / 32 + np.sin(np.radians(5)) * 40 + 2
    places = []
    for copy in Augmentation(16).of(image, DIGEST):
        rows, columns = np.nonzero(copy[:, :, 0] > 128)
        assert abs(len(rows) - disc.sum()) < 0.1 * disc.sum()
        assert abs(rows.mean() - 60) <= reach_y
        assert abs(columns.mean() - 220) <= reach_x
        places.append((rows.mean(), columns.mean()))
    assert np.ptp(places, axis=0).min() > 1


@pytest.mark.parametrize("size", [(32, 900), (900, 32), (1, 64), (40, 40)])
def test_no_copy_has_an_empty_border(size: tuple[int, int]) -> None:
    """Also of narrow images, whose ends move by more than the image is wide."""
    image = np.full((*size, 3), 200, np.uint8)
    for copy in Augmentation(8).of(image, DIGEST):
        np.testing.assert_array_equal(copy, image)


def test_every_second_copy_is_mirrored_if_asked() -> None:
    image = np.zeros((50, 80, 3), np.uint8)
    image[:, :40] = 255
    for flip, expected in ((False, [True] * 4), (True, [True, False, True, False])):
        copies = Augmentation(4, flip).of(image, DIGEST)
        assert [bool(copy[:, :20].mean() > 128) for copy in copies] == expected


@pytest.mark.parametrize("copies", [0, 65, -1])
def test_a_number_of_copies_out_of_range_is_refused(copies: int) -> None:
    with pytest.raises(OptionError, match="1 to 64 copies"):
        Augmentation(copies)


@pytest.mark.parametrize("preset", ["default", "reference"])
def test_copies_teach_the_subspaces_and_are_not_scored(preset: str) -> None:
    images = [texture(seed) for seed in range(4)]
    options = {"preset": preset, "backbone": "efficientnet_lite0", "size": 96}
    plain = FRE(**options).fit(images)
    more = FRE(**options, augment=3).fit(images)
    assert len(more.calibration.scores) == len(plain.calibration.scores) == 4
    assert more.metadata["provenance"]["n_images"] == 4
    assert more.metadata["provenance"]["augmented"] == 3
    assert "augmented" not in plain.metadata["provenance"]
    assert [part["n"] for part in more.metadata["subspaces"]] == [
        4 * part["n"] for part in plain.metadata["subspaces"]
    ]


def test_copies_and_tiles_together() -> None:
    images = [texture(seed, (96, 150)) for seed in range(3)]
    model = FRE(tile=96, overlap=24, augment=1, method=Method(flip=True)).fit(images)
    bad = texture(9, (96, 150)).copy()
    bad[40:56, 100:116] = 255
    assert model.predict(bad).score > 3 * max(model.predict(texture(9, (96, 150))).score, 1.0)
