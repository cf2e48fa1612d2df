"""`fre info`."""

from __future__ import annotations

import json
from pathlib import Path

from commands import fre


def test_info(model: Path) -> None:
    done = fre("info", model, "--json", "-")
    values = json.loads(done.stdout)
    assert values["format"] == 2
    assert values["backbone"]["name"] == "efficientnet_lite0"
    assert len(values["calibration"]["scores"]) == 30
    assert "efficientnet_lite0" in fre("info", model).stdout
