"""Several shots of one part: which images belong together, by their names.

Shots of one part are not independent: one of them is explained by a subspace that saw another,
and its score is too small to say what a new part would score. Cross-fitting therefore keeps a
group in one fold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from fre.errors import OptionError


def group_labels(paths: Iterable[Path | str], rule: str | int) -> list[str]:
    """The group of each image.

    Args:
        paths: the image files.
        rule: ``"folder"``, the name of the folder that an image is in; a number (also as text),
            the name of the folder so many levels up, 1 being the same as ``"folder"``; or a
            regular expression, searched in the file's name, whose one capture group is the label.

    Returns:
        A label for each image.

    Raises:
        OptionError: the rule makes no sense, or does not fit one of the names.
    """
    levels = 1 if rule == "folder" else int(rule) if str(rule).isdecimal() else None
    if levels is not None:
        return [_ancestor(Path(path), levels) for path in paths]
    pattern = _compiled(str(rule))
    return [_captured(Path(path), pattern) for path in paths]


def _ancestor(path: Path, levels: int) -> str:
    if levels < 1:
        raise OptionError("groups by folder count levels from 1, the folder that an image is in")
    parents = path.absolute().parents
    if levels >= len(parents):
        raise OptionError(f"{path}: has no folder {levels} levels up to be its group")
    return parents[levels - 1].name


def _compiled(rule: str) -> re.Pattern[str]:
    expected = "folder, a number of levels, or a regular expression with one capture group"
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise OptionError(
            f"groups: {rule!r} is no regular expression ({error}); expected {expected}"
        ) from None
    if pattern.groups != 1:
        raise OptionError(
            f"groups: {rule!r} has {pattern.groups} capture groups; expected {expected}"
        )
    return pattern


def _captured(path: Path, pattern: re.Pattern[str]) -> str:
    found = pattern.search(path.name)
    if found is None or found[1] is None:
        raise OptionError(
            f"{path}: its name does not match {pattern.pattern!r}, so it has no group"
        )
    return found[1]
