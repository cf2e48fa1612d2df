"""Good, defective and mask samples from plain folders, lists, and the field's datasets.

    >>> from fre.datasets import open_dataset
    >>> dataset = open_dataset("mvtec/screw")  # doctest: +SKIP

Each layout has a module that draws it: ``_mvtec`` (MVTec AD, AD 2, LOCO, MPDD, BTAD), ``_visa``,
``_kolektor``, ``_magnetic_tile``, ``_real_iad``, ``_folder``, ``_listing``; ``_layouts`` lists
them in the order in which they are recognised.
"""

from __future__ import annotations

from fre.datasets._layouts import LAYOUTS
from fre.datasets._listing import LIST_SUFFIXES, listed_images
from fre.datasets._masks import check_masks, load_mask, unreadable_among
from fre.datasets._open import (
    categories,
    count_kinds,
    describe,
    open_dataset,
    open_datasets,
    require_test,
    require_train,
    training_images,
)

__all__ = [
    "LAYOUTS",
    "LIST_SUFFIXES",
    "categories",
    "check_masks",
    "count_kinds",
    "describe",
    "listed_images",
    "load_mask",
    "open_dataset",
    "open_datasets",
    "require_test",
    "require_train",
    "training_images",
    "unreadable_among",
]
