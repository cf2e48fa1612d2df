"""A split of the good images, for layouts that come without one."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Sequence

from fre.datasets._contents import Contents, count
from fre.datasets.samples import Sample

TEST_SHARE = 0.2


def draw(key: str) -> float:
    """A number in [0, 1) that depends on nothing but ``key``."""
    # macOS may hand the same name back in another Unicode form.
    digest = hashlib.sha256(os.fsencode(unicodedata.normalize("NFC", key))).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_good(
    samples: Sequence[Sample], key: Callable[[Sample], str]
) -> tuple[list[Sample], list[Sample]]:
    """Good samples to train on (about 80 %) and to test on (about 20 %).

    An image's side follows from its name alone, so that it stays there when other images come
    and go: what a model was trained on yesterday is not what it is tested on today. Samples
    with the same key stay together. From two keys on, neither side is empty.
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
    good: Sequence[Sample],
    defects: Sequence[Sample],
    key: Callable[[Sample], str],
    notes: Sequence[str] = (),
) -> Contents:
    """The contents of a dataset that says what is good, but not what to train on.

    With defects, a fifth of the good images is kept to test on beside them. Without defects
    there is nothing to evaluate, and all good images are for training.
    """
    if not good or not defects:
        return Contents(list(good), list(defects), list(notes))
    train, test_good = split_good(good, key)
    note = (
        f"no split of its own: {len(test_good)} of {count(len(good), 'good image')}, drawn by "
        "file name, are kept for testing; a model trained on all of them has seen these"
    )
    return Contents(train, [*test_good, *defects], [*notes, note])
