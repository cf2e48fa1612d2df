"""The contents of a dataset, which every reader of a layout returns, and helpers for notes."""

from __future__ import annotations

from collections.abc import Sequence
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
    """The images as good samples."""
    return [Sample(path, "good") for path in paths]


def count(number: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def some(paths: Sequence[Path], root: Path) -> str:
    """The first path below ``root``, and how many more there are."""
    first = relative(paths[0], root)
    return first if len(paths) == 1 else f"{first} and {len(paths) - 1} more"
