"""Streams of images, decoded ahead on other threads, in order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fre.errors import ImageError, InputError
from fre.images.decode import ImageSource, Target, _decoding, _from_memory, _load
from fre.images.formats import file_limit
from fre.images.geometry import Decoding
from fre.images.near_duplicates import duplicate_thumbnail
from fre.parallel import Workers, in_order
from fre.storage.files import read_regular
from fre.storage.remote import fetch, is_url
from fre.types import ImageArray


@dataclass(frozen=True)
class LoadedImage:
    """A decoded image.

    Attributes:
        source: file or pixels that it was decoded from.
        pixels: uint8 (h, w, 3), at the requested size.
        original_size: height and width before resizing.
        sha256: digest of the file, or of the pixels of an array, in hexadecimal; empty unless
            requested.
        thumbnail: for `fre.images.near_duplicates`; ``None`` unless requested.
    """

    source: ImageSource
    pixels: ImageArray
    original_size: tuple[int, int]
    sha256: str = ""
    thumbnail: NDArray[np.uint8] | None = None


def _content(source: ImageSource) -> bytes | InputError | None:
    """Return the content of a file, or the error of reading it; ``None`` for pixels."""
    if not isinstance(source, (str, Path)):
        return None
    try:
        return fetch(str(source)) if is_url(source) else read_regular(source, file_limit())
    except InputError as error:
        return error
    except OSError:
        return None  # decoding it will say what is wrong


def _decoded(
    source: ImageSource, content: bytes | InputError | None, decoding: Decoding
) -> tuple[ImageArray, tuple[int, int]]:
    if isinstance(content, InputError):
        raise content
    if isinstance(source, (str, Path)):
        return _load(source, decoding, content)
    return _from_memory(source, decoding)


def _digest(source: ImageSource, content: bytes | InputError | None) -> str:
    if isinstance(source, (str, Path)):
        return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else ""
    return hashlib.sha256(source.tobytes()).hexdigest()


def source_digest(source: ImageSource) -> str:
    """Return the SHA-256 of an image's file, or of an array's pixels, in hexadecimal.

    Empty if the file can't be read: decoding it says why.
    """
    return _digest(source, _content(source))


def iter_loaded(
    sources: Iterable[ImageSource],
    target: Target,
    *,
    workers: Workers,
    ahead: int,
    readers: int | None = None,
    identify: bool = False,
) -> Iterator[LoadedImage | ImageError]:
    """Read images on other threads, in order, a bounded number ahead of the caller.

    Args:
        sources: files or arrays; consumed lazily.
        target: height and width of the results, see `fre.images.decode.Target`.
        workers: decoding threads, or their number.
        ahead: number of images that are decoded before the caller asks for them.
        readers: number of threads that read files, for slow stores; ``None`` lets the decoding
            threads read.
        identify: whether to compute the digest of each file, and a thumbnail of its pixels while
            they are in the cache of a core: by these training finds copies and near-duplicates.

    Yields:
        For each source its image, or the error that says why it can't be read.
    """
    decoding = _decoding(target)

    def decode(read: tuple[ImageSource, bytes | InputError | None]) -> LoadedImage | ImageError:
        source, content = read
        try:
            pixels, original = _decoded(source, content, decoding)
            if not identify:
                return LoadedImage(source, pixels, original)
            sha256 = _digest(source, content)
            return LoadedImage(source, pixels, original, sha256, duplicate_thumbnail(pixels))
        except ImageError as error:
            return error

    def load(source: ImageSource) -> LoadedImage | ImageError:
        # Without a digest a large file need not be in memory as a whole.
        return decode((source, _content(source) if identify else None))

    if readers is None:
        for _, image in in_order(load, sources, workers=workers, ahead=ahead):
            yield image
        return
    # Few contents wait in memory, as files may be large.
    contents = in_order(_content, sources, workers=readers, ahead=min(ahead, 2 * readers))
    for _, image in in_order(decode, contents, workers=workers, ahead=ahead):
        yield image
