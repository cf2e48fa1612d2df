"""Graphs that take a while to make are kept in the user's cache folder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import onnx
from google.protobuf.message import DecodeError

from fre.errors import OutputError
from fre.storage.cache import cache_folder
from fre.storage.files import write_atomic


def cached_model(name: str, make: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
    """The model in the cache's file of that name; made and stored if it is not there.

    Processes that start at once may both make it: each writes beside and renames, so that every
    reader finds a whole file. A damaged file is made anew. A cache that can't be written is no
    error: the work is only done again next time.
    """
    path = cache_folder() / name
    with suppress(OSError, DecodeError):
        return onnx.load_from_string(path.read_bytes())
    model = make()
    with suppress(OSError, OutputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, model.SerializeToString())
    return model
