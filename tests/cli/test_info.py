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
    assert "dimensions" not in fre("info", model).stdout
    ranks = [line for line in fre("info", "-v", model).stdout.splitlines() if "subspace" in line]
    assert [line.split()[1] for line in ranks] == [
        "blocks.2,",
        "blocks.4,",
        "blocks.5,",
        "blocks.4,",
    ]
    assert all("dimensions" in line for line in ranks)
