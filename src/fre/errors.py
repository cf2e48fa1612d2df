"""Every exception that fre raises on purpose.

The tree::

    FREError
    ├── InputError                 the caller's mistake; the command line exits with 2
    │   ├── ImageError             an image that can't be read, or is too large
    │   ├── DatasetError           a folder without the expected images, splits or masks
    │   ├── OptionError            an argument out of range (also a ValueError)
    │   ├── BackboneError          an unknown backbone or layer, or unusable weights
    │   ├── ModelFileError         a file that is no model of fre, or is damaged
    │   │   └── FrozenModelError   a model that can't be updated
    │   ├── AnomalousError         new training images that are anomalous to the model
    │   ├── OutputError            a file or folder that can't be written
    │   └── MissingDependencyError an extra that is not installed (also an ImportError)
    └── InternalError              our fault; the command line exits with 1

A message says in one line what happened, in which file, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class FREError(Exception):
    """Base of every exception that fre raises on purpose."""

    exit_code = 1


class FREWarning(UserWarning):
    """A remark on work that goes on; the command line prints it as one line."""


class InputError(FREError):
    """The caller's mistake: something to change in the call or in its files."""

    exit_code = 2


class ImageError(InputError):
    """An image that can't be read, or that exceeds the pixel limit.

    Attributes:
        path: the file, or ``None`` for an image given as an array.
        reason: the problem, without the path.
    """

    def __init__(self, path: Path | str | None, reason: str) -> None:
        self.path = None if path is None else Path(path)
        self.reason = reason
        self._source = path
        super().__init__(reason if path is None else f"{path}: {reason}")

    def __reduce__(self) -> tuple[type[ImageError], tuple[Path | str | None, str]]:
        # A URL is no longer one as a path.
        return type(self), (self._source, self.reason)


class DatasetError(InputError):
    """A folder that does not hold the expected images, splits or masks."""


class OptionError(InputError, ValueError):
    """An argument out of range, or two arguments that contradict each other."""


class BackboneError(InputError):
    """An unknown backbone or layer, or weights that do not fit it."""


class ModelFileError(InputError):
    """A model file that is missing, damaged, not ONNX, or not written by fre."""


class FrozenModelError(ModelFileError):
    """A model that can't be updated, because its file lacks the statistics."""


class AnomalousError(InputError):
    """New training images that are anomalous to the model.

    Attributes:
        found: file (or index among the arrays) and score of each anomalous image.
        of: number of all new images.
        threshold: score above which an image is anomalous.
    """

    def __init__(
        self, found: Sequence[tuple[Path | int, float]], of: int, threshold: float
    ) -> None:
        self.found = tuple(found)
        self.of = of
        self.threshold = threshold
        names = ", ".join(str(source) for source, _ in self.found[:3])
        more = f" and {len(self.found) - 3} more" if len(self.found) > 3 else ""
        super().__init__(
            f"{len(self.found)} of {of} images are anomalous to the model: {names}{more}; look at "
            "them, and leave out what is not good, or accept all (--accept-anomalous)"
        )

    def __reduce__(
        self,
    ) -> tuple[type[AnomalousError], tuple[tuple[tuple[Path | int, float], ...], int, float]]:
        return type(self), (self.found, self.of, self.threshold)


class OutputError(InputError):
    """A file or folder that can't be written."""


class MissingDependencyError(InputError, ImportError):
    """A feature whose optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        self._named = (feature, extra)
        super().__init__(f"{feature} needs an extra: pip install 'fre-vision[{extra}]'")

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[str, str]]:
        return type(self), self._named


class InternalError(FREError):
    """A fault of fre, worth a report."""
