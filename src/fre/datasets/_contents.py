"""The contents of a dataset, which every layout returns: samples, their split, and notes."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fre.datasets.samples import Sample
from fre.storage.listing import relative


class Contents(NamedTuple):
    """A dataset without its name and place."""

    train: list[Sample]
    test: list[Sample]
    notes: list[str]


def good_samples(paths: Sequence[Path]) -> list[Sample]:
    """Return images as good samples."""
    return [Sample(path, "good") for path in paths]


def count(number: int, noun: str) -> str:
    """Return ``1 image`` or ``2 images``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def some(paths: Sequence[Path], root: Path) -> str:
    """Return the first path below ``root``, and how many more there are."""
    first = relative(paths[0], root)
    return first if len(paths) == 1 else f"{first} and {len(paths) - 1} more"


TEST_SHARE = 0.2


def draw(key: str) -> float:
    """Return a number in [0, 1) that depends on ``key`` alone."""
    # macOS may hand the same name back in another Unicode form.
    digest = hashlib.sha256(os.fsencode(unicodedata.normalize("NFC", key))).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_good(
    samples: Sequence[Sample], key: Callable[[Sample], str]
) -> tuple[list[Sample], list[Sample]]:
    """Split good samples into about 80 % for training and 20 % for testing.

    The side of an image follows from its name alone: other images may come and go, and no training
    image becomes a test image. Samples with the same key stay together. From two keys on, neither
    side is empty.
    """
    keys = [key(sample) for sample in samples]
    draws = sorted((draw(name), name) for name in set(keys))
    n_test = sum(number < TEST_SHARE for number, _ in draws)
    n_test = max(0, min(max(n_test, 1), len(draws) - 1))
    test_keys = {name for _, name in draws[:n_test]}
    train = [sample for sample, name in zip(samples, keys, strict=True) if name not in test_keys]
    test = [sample for sample, name in zip(samples, keys, strict=True) if name in test_keys]
    return train, test


def split_unpublished(
    samples: Iterable[Sample], key: Callable[[Sample], str], notes: Sequence[str] = ()
) -> Contents:
    """Return the contents of a dataset with labels but without a split.

    With defects, a fifth of the good images is kept for testing. Without defects, all good images
    are for training.
    """
    samples = list(samples)
    good = [sample for sample in samples if sample.good]
    defects = [sample for sample in samples if not sample.good]
    if not good or not defects:
        return Contents(good, defects, list(notes))
    train, test_good = split_good(good, key)
    note = (
        f"no split of its own: {len(test_good)} of {count(len(good), 'good image')}, drawn by "
        "file name, are kept for testing; a model trained on all of them has seen these"
    )
    return Contents(train, [*test_good, *defects], [*notes, note])


def good_only(train: Sequence[Sample], notes: list[str]) -> list[Sample]:
    """Return the good samples of a training split, and note the number of defective ones."""
    good = [sample for sample in train if sample.good]
    if len(good) < len(train):
        notes.append(f"train: {count(len(train) - len(good), 'defective image')} not trained on")
    return good
