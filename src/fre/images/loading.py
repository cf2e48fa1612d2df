"""Images on their way to a network: decoded ahead, in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fre.errors import ImageError, InputError
from fre.images.decode import ImageSource, Target, _decoding, _from_memory, _load
from fre.images.formats import file_limit
from fre.images.geometry import Decoding
from fre.parallel import Workers, in_order
from fre.storage.files import read_regular
from fre.storage.remote import fetch, is_url
from fre.types import ImageArray


@dataclass(frozen=True)
class LoadedImage:
    """An image on its way to a model.

    Attributes:
        source: where it came from.
        pixels: uint8 (h, w, 3), at the size that was asked for.
        original_size: height and width before it was resized.
        sha256: digest of the file (of the pixels, for an array) in hexadecimal; empty unless
            asked for.
        thumbnail: what was made of the pixels, if anything was.
    """

    source: ImageSource
    pixels: ImageArray
    original_size: tuple[int, int]
    sha256: str = ""
    thumbnail: NDArray[np.uint8] | None = None


def _content(source: ImageSource) -> bytes | InputError | None:
    """What a file holds, or why it can't be had; ``None`` for pixels."""
    if not isinstance(source, (str, Path)):
        return None
    try:
        return fetch(str(source)) if is_url(source) else read_regular(source, file_limit())
    except InputError as error:
        return error
    except OSError:
        return None  # and reading it again will say what is wrong with it


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
    digest: bool = False,
    thumbnail: Callable[[ImageArray], NDArray[np.uint8]] | None = None,
) -> Iterator[LoadedImage | ImageError]:
    """Read images on other threads, in order, a bounded number ahead of the caller.

    Args:
        sources: files or arrays; consumed lazily.
        target: of the results, as for `read_resized`.
        workers: the threads that decode.
        ahead: images that are decoded before the caller asks for them.
        readers: threads that read the files, where decoding should not wait for them; ``None``:
            those that decode.
        digest: whether to compute the digests.
        thumbnail: makes those of the pixels, while they are still in the cache of a core.

    Yields:
        For each source its image, or the error that says why it can't be read.
    """
    decoding = _decoding(target)

    def decode(read: tuple[ImageSource, bytes | InputError | None]) -> LoadedImage | ImageError:
        source, content = read
        try:
            pixels, original = _decoded(source, content, decoding)
            sha256 = _digest(source, content) if digest else ""
            small = None if thumbnail is None else thumbnail(pixels)
            return LoadedImage(source, pixels, original, sha256, small)
        except ImageError as error:
            return error

    def load(source: ImageSource) -> LoadedImage | ImageError:
        # Without a digest a large file need not be in memory as a whole.
        return decode((source, _content(source) if digest else None))

    if readers is None:
        for _, image in in_order(load, sources, workers=workers, ahead=ahead):
            yield image
        return
    # Not many, as files may be large.
    contents = in_order(_content, sources, workers=readers, ahead=min(ahead, 2 * readers))
    for _, image in in_order(decode, contents, workers=workers, ahead=ahead):
        yield image
