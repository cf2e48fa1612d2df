"""The list of training images: names, digests and held-out scores."""

from __future__ import annotations

import numpy as np
import pytest

from fre.errors import ModelFileError
from fre.inference.training_images import OddImage, TrainingImages

NAN = float("nan")


def digest(number: int) -> str:
    """A SHA-256 in hexadecimal that begins with a number."""
    return f"{number:016x}" + "f" * 48


def listed(**scores: float) -> TrainingImages:
    """Images with digests in the order of their names, and these scores."""
    images = TrainingImages.of(list(scores), [digest(place) for place in range(len(scores))])
    return images.with_scores(np.arange(len(scores)), np.array([*scores.values()]))


def test_images_stay_in_the_order_that_they_came_in() -> None:
    images = TrainingImages.of(["b.png", "a.png"], [digest(7), digest(3)])
    assert images.names == ("b.png", "a.png")
    assert images.digests == ((7).to_bytes(8, "big"), (3).to_bytes(8, "big"))
    assert np.isnan(images.scores).all()
    assert images.scores.dtype == np.float32
    both = images.beside(listed(c=1.5))
    assert (len(both), both.names[-1], both.scores[-1]) == (3, "c", 1.5)
    scored = both.with_scores(np.array([2, 0]), np.array([9.0, 4.0]))
    np.testing.assert_array_equal(scored.scores, [4, NAN, 9])
    np.testing.assert_array_equal(both.scores, [NAN, NAN, 1.5])
    np.testing.assert_array_equal(
        both.with_scores(np.array([1]), np.array([3.0])).scores, [NAN, 3, NAN]
    )


def test_the_same_image_is_known_by_its_digest_and_named_as_in_the_other_list() -> None:
    images = TrainingImages.of(["a.png", "b.png"], [digest(1), digest(2)])
    other = TrainingImages.of(["b.png", "new.png", "c.png"], [digest(5), digest(2), digest(9)])
    assert images.shared(other) == ["new.png"]
    assert other.shared(images) == ["b.png"]


def test_the_highest_scores_come_first() -> None:
    images = listed(a=1, b=5, c=NAN, d=5, e=-2)
    assert images.highest(3) == [
        OddImage("b", 5, digest(1)[:16]),
        OddImage("d", 5, digest(3)[:16]),
        OddImage("a", 1, digest(0)[:16]),
    ]
    assert [image.name for image in images.highest(9)] == ["b", "d", "a", "e"]
    assert images.highest(0) == []
    arrays = TrainingImages.of(["", ""], [digest(0), digest(1)])
    arrays = arrays.with_scores(np.array([0, 1]), np.array([1.0, 2.0]))
    assert [image.name for image in arrays.highest(2)] == ["image 1", "image 0"]


def test_names_digests_and_scores_come_back() -> None:
    odd = b"part \xff\xc3\xa9.png".decode("utf-8", "surrogateescape")
    images = listed(**{odd: 1.25, "": NAN, "c.png": float(np.finfo(np.float32).max)})
    arrays = images.to_arrays()
    assert all(np.isfinite(values).all() for values in arrays.values())
    again = TrainingImages.from_arrays(arrays)
    assert (again.names, again.digests) == (images.names, images.digests)
    np.testing.assert_array_equal(again.scores, images.scores)
    assert again.scores.dtype == np.float32
    none = TrainingImages.from_arrays(TrainingImages.of([], []).to_arrays())
    assert len(none) == len(none.digests) == len(none.scores) == 0


def test_a_hundred_thousand_images_take_2_9_megabytes() -> None:
    names = [f"part_{place:07}.png" for place in range(100_000)]
    images = TrainingImages.of(names, [digest(place) for place in range(100_000)])
    assert sum(values.nbytes for values in images.to_arrays().values()) == 2_899_999


@pytest.mark.parametrize("key", ["digests", "names", "scores"])
def test_damaged_lists_are_refused(key: str) -> None:
    arrays = listed(a=1, b=2, c=3).to_arrays()
    name = f"images/{key}"
    for damaged in (
        {other: values for other, values in arrays.items() if other != name},
        arrays | {name: arrays[name][:-2]},
        arrays | {name: arrays[name][:0]},
    ):
        with pytest.raises(ModelFileError, match="training images"):
            TrainingImages.from_arrays(damaged)
    with pytest.raises(ModelFileError, match="1 names, 3 digests"):
        TrainingImages.from_arrays(arrays | {"images/names": np.zeros(0, np.uint8)})
