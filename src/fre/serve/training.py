"""Training from uploads: files into a folder of ours, then a model beside the others."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from fre.detector import FRE
from fre.errors import DatasetError, ImageError
from fre.images.decode import probe
from fre.serve.archives import is_zip, unpack
from fre.serve.jobs import Work
from fre.serve.problems import Problem
from fre.serve.registry import Registry
from fre.serve.run_calibration import run_calibration
from fre.serve.samples import draw_good
from fre.serve.settings import Limits
from fre.storage.files import read_regular
from fre.types import Progress

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class DiskBudget:
    """Bytes on disk of all uploads for trainings that run, wait or arrive.

    Args:
        limit: number of bytes that may be taken at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._lock = threading.Lock()

    def take(self, n: int) -> None:
        """Count bytes before they are written.

        Raises:
            Problem: there is no room for them.
        """
        with self._lock:
            if self.used + n > self.limit:
                raise Problem(
                    507,
                    "disk_full",
                    f"uploads for trainings may take {self.limit:,} bytes of disk together, packed "
                    f"and unpacked, and {self.used:,} are taken; wait until a training has ended, "
                    "or restart the service with a larger --max-train-disk",
                    retry_after=30,
                )
            self.used += n

    def give_back(self, n: int) -> None:
        """Count bytes that were deleted."""
        with self._lock:
            self.used -= n


class FileSink:
    """A file of an upload on the disk.

    Args:
        path: file to write.
        count: called with the number of bytes before they are written.
    """

    def __init__(self, path: Path, count: Callable[[int], None]) -> None:
        self.path = path
        self.count = count
        self._file: BinaryIO | None = path.open("wb")

    def write(self, data: bytes) -> None:
        """Take a piece.

        Raises:
            Problem: there is no room for it.
        """
        assert self._file is not None
        self.count(len(data))
        self._file.write(data)

    def close(self) -> None:
        """It was the last piece."""
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass
class Staging:
    """A folder for the files of one upload.

    Attributes:
        folder: that is ours alone.
        budget: bytes on disk that all uploads share.
        files: what was uploaded, and the names that the client gave.
        taken: bytes of the budget that this upload has.
    """

    folder: Path
    budget: DiskBudget
    files: list[tuple[Path, str]] = field(default_factory=list)
    taken: int = 0

    @classmethod
    def make(cls, parent: Path, budget: DiskBudget) -> Staging:
        """Make a new folder in ``parent``."""
        parent.mkdir(parents=True, exist_ok=True)
        return cls(Path(tempfile.mkdtemp(dir=parent, prefix="upload-")), budget)

    def count(self, n: int) -> None:
        """Count bytes before they are written to the folder.

        Raises:
            Problem: all uploads together have no room for them.
        """
        self.budget.take(n)
        self.taken += n

    def _discount(self, n: int) -> None:
        self.budget.give_back(n)
        self.taken -= n

    def sink(self, name: str) -> FileSink:
        """The place for one more file."""
        path = self.folder / f"upload-{len(self.files):06d}"
        self.files.append((path, name))
        return FileSink(path, self.count)

    def remove(self) -> None:
        """Delete it all."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._discount(self.taken)

    def unpack(self, limits: Limits) -> list[tuple[Path, str]]:
        """The images of the upload; zip files are opened.

        Raises:
            Problem: a zip file is not acceptable, there are too many images, or no room.
        """
        images: list[tuple[Path, str]] = []
        room = limits.max_train_bytes
        for path, name in self.files:
            if is_zip(path):
                found = unpack(
                    path,
                    self.folder,
                    max_bytes=room,
                    max_files=limits.max_train_images - len(images),
                    first=len(images),
                    count=self.count,
                )
                room -= sum(image.stat().st_size for image, _ in found)
                packed = path.stat().st_size
                path.unlink()
                self._discount(packed)
                images += found
            else:
                images.append((path, name))
        if len(images) > limits.max_train_images:
            raise Problem(
                413, "too_many", f"more than {limits.max_train_images:,} images in one request"
            )
        return images


@dataclass(frozen=True)
class Training:
    """What is to be trained.

    Attributes:
        name: of the model.
        overwrite: whether one of that name may be replaced.
        parameters: of `fre.FRE`.
        threads: of the network; 0 takes all cores.
    """

    name: str
    overwrite: bool
    parameters: dict[str, Any]
    threads: int

    def check(self, registry: Registry) -> None:
        """Refuse what can't end well.

        Raises:
            Problem: the name is not acceptable or taken, or no model can be added.
        """
        if not re.match(NAME_PATTERN, self.name):
            raise Problem(
                422,
                "invalid",
                "name: expected 1 to 64 letters, digits, dots, dashes or underscores, the first "
                f"a letter or digit, not {self.name!r}",
            )
        if not registry.is_folder:
            raise Problem(
                409,
                "conflict",
                "the service was started with one model file; start it with a folder to train",
            )
        if not self.overwrite and registry.path(self.name).exists():
            raise Problem(
                409, "conflict", f"a model called {self.name} exists; choose another name"
            )

    def work(
        self,
        registry: Registry,
        staging: Staging,
        images: list[tuple[Path, str]],
        samples: int,
    ) -> Work:
        """The job.

        Args:
            registry: that the model joins.
            staging: holds the images, and is removed afterwards.
            images: files and their names.
            samples: good plates to draw, if there are no images.
        """

        def run(progress: Progress) -> dict[str, Any]:
            found = images or draw_good(staging.folder, samples, progress)
            return self._train(registry, found, progress)

        return Work(run, staging.remove)

    def _train(
        self, registry: Registry, images: list[tuple[Path, str]], progress: Progress
    ) -> dict[str, Any]:
        usable, skipped = [], []
        for path, name in images:
            reason = unusable(path, name)
            if reason is None:
                usable.append(path)
            else:
                skipped.append({"name": name, "error": reason})
        if len(usable) < 3:
            raise DatasetError(
                f"training needs 3 good images or more; {len(usable)} of {len(images)} files "
                "could be read"
            )
        names = dict(images)
        detector = FRE(**self.parameters)
        model = detector.fit(usable, skip_unreadable=True, threads=self.threads, progress=progress)
        skipped += [
            {"name": names[left_out.path] if left_out.path else "image", "error": left_out.reason}
            for left_out in detector.skipped_
        ]
        # The last chance to cancel, and to find that somebody else took the name.
        progress("Saving", 0, 1)
        self.check(registry)
        model.save(registry.path(self.name))
        registry.refresh()
        provenance = model.document.provenance
        return {
            "model": self.name,
            "n_images": provenance.n_images,
            "seconds": detector.seconds_["total"],
            "threshold": model.threshold,
            "skipped": skipped,
            "caveat": model.calibration.caveat(),
            "near_duplicates": provenance.near_duplicates or 0,
            "calibration": run_calibration(model),
        }


def unusable(path: Path, name: str) -> str | None:
    """Why a file is not an image that strangers may send."""
    try:
        probe(read_regular(path), name=name)
    except ImageError as error:
        return error.reason
    return None
