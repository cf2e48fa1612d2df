"""Errors of the library as answers of the service."""

from __future__ import annotations

import pytest

pytest.importorskip("starlette", reason="needs fre-vision[serve]: starlette is not installed")

from fre.errors import DatasetError, FREError, ImageError, InternalError, OutputError
from fre.serve.responses import problem_from


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OutputError("part.onnx: can't be written: No space left on device"), 507, "not_written"),
        (ImageError("a.png", "truncated"), 422, "unreadable"),
        (DatasetError("no images"), 422, "invalid"),
        (InternalError("a fault"), 500, "internal"),
    ],
)
def test_a_full_disk_is_not_a_fault_of_fre(error: FREError, status: int, code: str) -> None:
    problem = problem_from(error)
    assert (problem.status, problem.code, problem.message) == (status, code, str(error))
