"""Sample images that the service draws itself, for people without images at hand."""

from __future__ import annotations

import threading
from pathlib import Path

from fre.datasets.plates import KINDS, draw_plate
from fre.drawing.heatmaps import encode
from fre.errors import OutputError
from fre.serve.responses import not_found
from fre.storage.files import write_atomic
from fre.types import ImageArray, Progress

SEED = 20_000
GOOD_SEED = 10_000
PER_KIND = 2
SEVERITY = 0.8


class Samples:
    """Drawn plates: three good ones, and two with each kind of defect.

    Args:
        folder: cache folder of the drawn images.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._seeds = {
            f"{kind}-{number}": (kind, (SEED, index, number))
            for index, kind in enumerate(("good", *KINDS))
            for number in range(1, (3 if kind == "good" else PER_KIND) + 1)
        }

    def list(self) -> list[dict[str, str]]:
        """Return id, kind and URL of each sample."""
        return [
            {"id": identity, "kind": kind, "url": f"/v1/samples/{identity}.png"}
            for identity, (kind, _) in self._seeds.items()
        ]

    def png(self, identity: str) -> bytes:
        """Return one sample as a PNG file.

        Raises:
            Problem: no sample has this id.
        """
        if identity not in self._seeds:
            raise not_found(f"no sample is called {identity!r}")
        path = self.folder / f"{identity}.png"
        with self._lock:
            try:
                return path.read_bytes()
            except OSError:
                pass
            kind, seed = self._seeds[identity]
            severity = 0.5 if kind == "good" else SEVERITY
            data = _png(draw_plate(seed, kind=kind, severity=severity)[0])
            try:
                write_atomic(path, data, parents=True)
            except OutputError:
                return data  # drawn again at the next request
            return data


def draw_good(folder: Path, n: int, progress: Progress) -> list[tuple[Path, str]]:
    """Draw good plates for a training.

    Args:
        folder: folder for the files.
        n: number of plates.
        progress: called after each plate.

    Returns:
        Path and name of each file.
    """
    found = []
    for number in range(n):
        path = folder / f"{number:06d}"
        path.write_bytes(_png(draw_plate((GOOD_SEED, number))[0]))
        found.append((path, f"plate-{number:03d}.png"))
        progress("Drawing samples", number + 1, n)
    return found


def _png(image: ImageArray) -> bytes:
    return encode(image, "PNG", compress_level=3)
