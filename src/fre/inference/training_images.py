"""Names, digests and held-out scores of training images: who set the threshold, who was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fre.errors import ModelFileError
from fre.subspaces.arrays import take

DIGEST_BYTES = 8
"""Of a training image's SHA-256: two of 100,000 images are the same by chance in 1 of 10^9 sets."""

UNKNOWN = float(np.finfo(np.float32).min)
"""Stands for NaN in the file, whose numbers are all finite."""

PREFIX = "images/"
"""Of the names of these arrays beside the graph."""


class OddImage(NamedTuple):
    """A training image whose held-out score stands out.

    Attributes:
        name: file name without its folder; ``image N`` for an array, N from 0.
        score: held-out score.
        digest: the first 8 bytes of its SHA-256, hexadecimal.
    """

    name: str
    score: float
    digest: str


@dataclass(frozen=True)
class TrainingImages:
    """The images that a model was fitted to: none may count twice, or be tested on.

    At 100,000 images with names of 16 characters they take 2.9 MB of the file, and are read only
    when asked for.

    Attributes:
        names: (n,), file names without their folders; empty for an array.
        digests: (n,), the first 8 bytes of each file's SHA-256 (of an array's pixels).
        scores: float32 (n,), held-out score of each image; NaN where there is none, as of most
            images of a very large training.
    """

    names: tuple[str, ...]
    digests: tuple[bytes, ...]
    scores: NDArray[np.float32]

    @classmethod
    def of(cls, names: Sequence[str], sha256: Sequence[str]) -> TrainingImages:
        """Return the list of some images, without scores.

        Args:
            names: (n,), file names.
            sha256: (n,), digests in hexadecimal.
        """
        return cls(
            tuple(names),
            tuple(bytes.fromhex(digest[: 2 * DIGEST_BYTES]) for digest in sha256),
            np.full(len(names), np.nan, np.float32),
        )

    def __len__(self) -> int:
        return len(self.names)

    def beside(self, other: TrainingImages) -> TrainingImages:
        """Return the images of both, the other's last."""
        return TrainingImages(
            self.names + other.names,
            self.digests + other.digests,
            np.concatenate([self.scores, other.scores]),
        )

    def with_scores(self, places: NDArray[np.intp], scores: NDArray[np.floating]) -> TrainingImages:
        """Return the images with scores of some of them; the others have none.

        Args:
            places: (m,), which images.
            scores: (m,), their held-out scores.
        """
        # Older scores of the others are of another calibration.
        changed = np.full(len(self), np.nan, np.float32)
        changed[places] = scores
        return replace(self, scores=changed)

    def shared(self, other: TrainingImages) -> list[str]:
        """Return the names, in ``other``, of the images that are in both."""
        known = set(self.digests)
        return [
            name for digest, name in zip(other.digests, other.names, strict=True) if digest in known
        ]

    def highest(self, count: int) -> list[OddImage]:
        """Return the images with the highest scores, highest first; equal ones by their digest.

        Args:
            count: how many; images without a score are never among them.
        """
        known = np.flatnonzero(~np.isnan(self.scores))
        order = sorted(known, key=lambda place: (-self.scores[place], self.digests[place]))
        return [
            OddImage(
                self.names[place] or f"image {place}",
                float(self.scores[place]),
                self.digests[place].hex(),
            )
            for place in order[:count]
        ]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return arrays to store; `from_arrays` reads them."""
        names = "\0".join(self.names).encode("utf-8", "surrogateescape")
        digests = np.frombuffer(b"".join(self.digests), np.uint8)
        return {
            f"{PREFIX}digests": digests.reshape(-1, DIGEST_BYTES),
            f"{PREFIX}names": np.frombuffer(names, np.uint8),
            f"{PREFIX}scores": np.where(np.isnan(self.scores), UNKNOWN, self.scores),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TrainingImages:
        """Return what `to_arrays` stored.

        Raises:
            ModelFileError: an array is missing or has the wrong shape, or there is not a name for
                each digest.
        """
        what = "the list of the model's training images"
        digests = take(arrays, f"{PREFIX}digests", (None, DIGEST_BYTES), what).astype(np.uint8)
        joined = take(arrays, f"{PREFIX}names", (None,), what).astype(np.uint8).tobytes()
        scores = take(arrays, f"{PREFIX}scores", (len(digests),), what).astype(np.float32)
        names = joined.decode("utf-8", "surrogateescape").split("\0") if len(digests) else []
        if len(names) != len(digests):
            raise ModelFileError(f"{what} is damaged: {len(names)} names, {len(digests)} digests")
        scores[scores == UNKNOWN] = np.nan
        return cls(tuple(names), tuple(row.tobytes() for row in digests), scores)
