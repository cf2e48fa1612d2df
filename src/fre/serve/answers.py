"""JSON that every client can read, whatever a file or a database put into the values."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import Response


def to_json(content: Any) -> str:
    """Return content as JSON text that can be encoded as UTF-8.

    JSON has no NaN and no infinity: such numbers become null. A lone surrogate, which stands for
    a byte of a file name that is not UTF-8, becomes its escape.

    Args:
        content: dictionaries, lists, text, numbers, booleans and None.
    """
    try:
        text = _dumps(content)
        text.encode()
    except ValueError:  # of which UnicodeEncodeError is one
        return _dumps(_plain(content))
    return text


def answer(
    content: Any, *, status_code: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return an answer of HTTP with content as JSON.

    Args:
        content: as for `to_json`.
        status_code: status of HTTP.
        headers: more headers.
    """
    return Response(
        to_json(content).encode(),
        status_code=status_code,
        headers=headers,
        media_type="application/json",
    )


def _dumps(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {_plain(str(key)): _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    if isinstance(content, str):
        return content.encode("utf-8", "backslashreplace").decode()
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
