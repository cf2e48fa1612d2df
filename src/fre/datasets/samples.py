"""Samples of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """One image of a dataset.

    Attributes:
        path: the image file.
        kind: ``"good"``, or the name of the defect.
        masks: mask files, non-zero where there is a defect; their union counts. Empty for a
            good image, and for a defect without a mask.
    """

    path: Path
    kind: str
    masks: tuple[Path, ...] = ()

    @property
    def good(self) -> bool:
        """Whether the image shows no defect."""
        return self.kind == "good"


@dataclass(frozen=True)
class Dataset:
    """Training images and test images.

    Attributes:
        name: name of the folder.
        root: folder of the dataset.
        layout: name of the layout, such as ``"mvtec"``.
        train: good images to train on.
        test: good and defective images to evaluate on.
        notes: oddities of the folder, one line each.
        source: folder or list that was opened.
    """

    name: str
    root: Path
    layout: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    notes: tuple[str, ...] = ()
    source: Path | None = None
