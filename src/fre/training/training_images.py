"""Names and digests of training images, to recognise them later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.errors import ModelFileError
from fre.subspaces.arrays import take

DIGEST_BYTES = 8
"""Of a training image's SHA-256: two of 100,000 images are the same by chance in 1 of 10^9 sets."""


@dataclass(frozen=True)
class TrainingImages:
    """Names and digests of the images that a model was fitted to: none may count twice.

    Attributes:
        names: (n,), file names without their folders; empty for an array.
        digests: (n,), the first 8 bytes of each file's SHA-256 (of an array's pixels).
    """

    names: tuple[str, ...] = ()
    digests: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, names: Sequence[str], sha256: Sequence[str]) -> TrainingImages:
        """Return the list of some images, sorted, so that the order of the files is no matter.

        Args:
            names: (n,), file names.
            sha256: (n,), digests in hexadecimal.
        """
        short = (bytes.fromhex(digest[: 2 * DIGEST_BYTES]) for digest in sha256)
        return cls()._sorted(zip(short, names, strict=True))

    @staticmethod
    def _sorted(pairs: Iterable[tuple[bytes, str]]) -> TrainingImages:
        ordered = sorted(pairs)
        return TrainingImages(
            tuple(name for _, name in ordered), tuple(digest for digest, _ in ordered)
        )

    def beside(self, other: TrainingImages) -> TrainingImages:
        """Return the images of both."""
        return self._sorted(
            [
                *zip(self.digests, self.names, strict=True),
                *zip(other.digests, other.names, strict=True),
            ]
        )

    def shared(self, other: TrainingImages) -> list[str]:
        """Return the names, in ``other``, of the images that are in both."""
        known = set(self.digests)
        return [
            name for digest, name in zip(other.digests, other.names, strict=True) if digest in known
        ]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return arrays to store; `from_arrays` reads them."""
        names = "\0".join(self.names).encode("utf-8", "surrogateescape")
        return {
            "images/digests": np.frombuffer(b"".join(self.digests), np.uint8).reshape(
                -1, DIGEST_BYTES
            ),
            "images/names": np.frombuffer(names, np.uint8),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TrainingImages:
        """Return what `to_arrays` stored; no images from files of older versions.

        Raises:
            ModelFileError: an array has the wrong shape, or there is not a name for each digest.
        """
        if "images/digests" not in arrays:
            return cls()
        what = "the model's training images"
        digests = take(arrays, "images/digests", (None, DIGEST_BYTES), what).astype(np.uint8)
        joined = take(arrays, "images/names", (None,), what).astype(np.uint8).tobytes()
        names = joined.decode("utf-8", "surrogateescape").split("\0") if len(digests) else []
        if len(names) != len(digests):
            raise ModelFileError(f"{what} are damaged: {len(names)} names, {len(digests)} digests")
        return cls(tuple(names), tuple(row.tobytes() for row in digests))
