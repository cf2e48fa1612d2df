"""Known layouts, and the recognition of a folder's layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fre.datasets._contents import Contents
from fre.datasets._folder import find_folder, read_folder
from fre.datasets._kolektor import (
    find_kolektorsdd,
    find_kolektorsdd2,
    read_kolektorsdd,
    read_kolektorsdd2,
)
from fre.datasets._listing import LIST_SUFFIXES, find_list, read_list
from fre.datasets._magnetic_tile import find_magnetic_tile, read_magnetic_tile
from fre.datasets._mvtec import (
    by_folder,
    is_ad2,
    is_btad,
    is_loco,
    is_mvtec,
    read_ad2,
    read_mvtec,
)
from fre.datasets._real_iad import find_real_iad, read_real_iad
from fre.datasets._visa import find_visa, read_visa
from fre.errors import DatasetError, OptionError
from fre.storage.listing import SUFFIXES, subfolders
from fre.storage.remote import check_local


class Layout(NamedTuple):
    """A layout of datasets on disk.

    Attributes:
        name: name for ``layout=``.
        shape: expected folders and files, for error messages.
        find: returns the categories of a root and its subfolders: the place of each by name, and
            none if the root has another layout. A root that is one dataset is the only category.
        read: returns the contents of a place and the name of its category.
        takes_good: whether ``read`` takes names of folders of good images as a third argument.
    """

    name: str
    shape: str
    find: Callable[[Path, Sequence[Path]], dict[str, Path]]
    read: Callable[..., Contents]
    takes_good: bool = False


# In the order of recognition: special layouts before general ones.
_LAYOUTS = (
    Layout("list", "a .csv or .jsonl file with a column 'path'", find_list, read_list),
    Layout(
        "real_iad", "realiad_jsons/<category>.json, realiad_1024/", find_real_iad, read_real_iad
    ),
    Layout("visa", "<category>/Data/Images/Normal, split_csv/1cls.csv", find_visa, read_visa),
    Layout(
        "mvtec_ad2",
        "train/good, test_public/good, test_public/bad",
        by_folder(is_ad2),
        read_ad2,
        True,
    ),
    Layout(
        "mvtec_loco",
        "train/good, test/good, test/logical_anomalies",
        by_folder(is_loco),
        read_mvtec,
        True,
    ),
    Layout("btad", "train/ok, test/ok, test/ko", by_folder(is_btad), read_mvtec, True),
    Layout(
        "kolektorsdd2",
        "train/10000.png with train/10000_GT.png",
        find_kolektorsdd2,
        read_kolektorsdd2,
    ),
    Layout(
        "kolektorsdd",
        "kos01/Part0.jpg with kos01/Part0_label.bmp",
        find_kolektorsdd,
        read_kolektorsdd,
    ),
    Layout(
        "magnetic_tile", "MT_Free/Imgs, MT_Blowhole/Imgs", find_magnetic_tile, read_magnetic_tile
    ),
    Layout("mvtec", "train/good, test/good, test/<kind>", by_folder(is_mvtec), read_mvtec, True),
    # MPDD has the layout of MVTec AD, and is recognised as such.
    Layout("mpdd", "train/good, test/good, test/<kind>", by_folder(is_mvtec), read_mvtec, True),
    Layout("folder", "good/ and a folder for each kind of defect", find_folder, read_folder, True),
)

LAYOUTS: tuple[str, ...] = tuple(sorted(layout.name for layout in _LAYOUTS))
"""Names for ``layout=``."""


def locate(root: Path, name: str | None) -> tuple[Layout, dict[str, Path]]:
    """Return the layout of ``root``, and its categories: at least one.

    Raises:
        OptionError: no layout is called ``name``.
        DatasetError: ``root`` does not exist, or has another layout than ``name``.
    """
    if name is not None and name not in LAYOUTS:
        raise OptionError(f"unknown layout {name!r}; choose from {', '.join(LAYOUTS)}")
    check_local(str(root))
    if not root.exists():
        raise DatasetError(f"{root}: no such folder or list of images")
    children = subfolders(root)
    wanted = [layout for layout in _LAYOUTS if name in (None, layout.name)]
    for layout in wanted:
        if found := layout.find(root, children):
            return layout, found
    if name is None:
        hint = "an image; give its folder" if root.suffix.lower() in SUFFIXES else "neither"
        raise DatasetError(
            f"{root}: expected a folder or a list of images ({', '.join(LIST_SUFFIXES)}), "
            f"found {hint}"
        )
    raise DatasetError(
        f"{root}: not laid out as {name!r}: expected {wanted[0].shape}, found none of it; "
        "leave the layout out to have it recognised"
    )


def shape_of(name: str) -> str:
    """Return the expected folders of a layout; the name itself for an unknown layout."""
    return next((layout.shape for layout in _LAYOUTS if layout.name == name), name)
