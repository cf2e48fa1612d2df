"""Read a file of PyTorch weights: safetensors, or a state dict, without running its code."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

from fre.errors import BackboneError
from fre.files import read_regular

__all__ = ["read_weights"]

NESTED = ("state_dict", "model")
"""Where training scripts put the state dict among the rest of a checkpoint."""


def read_weights(path: Path) -> tuple[dict[str, Any], str]:
    """The tensors of a file, and the file's digest.

    A checkpoint that holds its state dict under ``state_dict`` or ``model`` is unpacked, and the
    prefix ``module.`` of data-parallel training is taken off.

    Args:
        path: safetensors, or what ``torch.save`` wrote. The kind is told by the content.

    Returns:
        Name to ``torch.Tensor``, and the SHA-256 of the file in hexadecimal.

    Raises:
        BackboneError: the file is missing, damaged, or holds anything but plain data and tensors.
    """
    import torch

    try:
        data = read_regular(path)
    except OSError as error:
        raise BackboneError(f"{path}: can't read the weights: {error.strerror}") from error
    try:
        content = _load(data)
    except Exception as error:  # a damaged file raises almost anything
        raise BackboneError(
            f"{path}: neither safetensors nor a PyTorch state dict of plain tensors; write one "
            "with torch.save(model.state_dict(), FILE)"
        ) from error
    while isinstance(content, dict):
        inner = next((content[key] for key in NESTED if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    tensors = {
        name.removeprefix("module."): value
        for name, value in (content.items() if isinstance(content, dict) else ())
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise BackboneError(f"{path}: there are no tensors in it")
    return tensors, hashlib.sha256(data).hexdigest()


def _load(data: bytes) -> Any:
    # Safetensors: the length of a JSON object in eight bytes, then the object.
    if data[8:9] == b"{":
        import safetensors.torch

        return safetensors.torch.load(data)
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
