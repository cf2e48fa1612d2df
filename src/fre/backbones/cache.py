"""The cache of backbone graphs in the user's cache folder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import onnx
from google.protobuf.message import DecodeError

from fre.errors import OutputError
from fre.storage.cache import cache_folder
from fre.storage.files import write_atomic


def cached_model(name: str, make: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
    """Return a model from the cache, or make and store it.

    Two processes may make it at the same time: each writes atomically, so a reader never finds half
    a file. A damaged file is replaced. If the cache can't be written, the model is made again next
    time.

    Args:
        name: name of the file in the cache folder.
        make: makes the model.
    """
    path = cache_folder() / name
    with suppress(OSError, DecodeError):
        return onnx.load_from_string(path.read_bytes())
    model = make()
    with suppress(OSError, OutputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, model.SerializeToString())
    return model
