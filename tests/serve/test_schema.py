"""The service against its own documentation, with whatever schemathesis thinks of."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import fre
from conftest import texture
from serving import Server, needs_serve, write_images

pytestmark = [
    needs_serve,
    pytest.mark.skipif(
        importlib.util.find_spec("schemathesis") is None,
        reason="needs schemathesis: pip install 'fre-vision[test-serve]'",
    ),
]

TOKEN = "a-token-for-the-tests-0123456789"
# Some rules can't be said in a schema: that an image must be readable, for instance.
EXCLUDED = "positive_data_acceptance"


@pytest.mark.slow
def test_every_operation_keeps_its_promises(tmp_path: Path) -> None:
    """Valid and invalid requests: status, type and body as documented, and never a 5xx."""
    (tmp_path / "models").mkdir()
    model = fre.FRE(size=64).fit([texture(seed) for seed in range(20)])
    model.save(tmp_path / "models" / "plate.onnx")
    with Server(tmp_path / "models", token=TOKEN) as server:
        server.predict(*write_images(tmp_path / "images", 8), model="plate")
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                "run",
                f"{server.url}/openapi.json",
                *("--header", f"Authorization: Bearer {TOKEN}"),
                *("--exclude-path", "/v1/events"),  # it never ends
                # Without the model nothing else would be tried; test_serve.py deletes models.
                *("--exclude-operation-id", "delete_model"),
                *("--exclude-checks", EXCLUDED),
                *("--phases", "examples,coverage,fuzzing"),
                *("--max-examples", "15", "--seed", "1", "--no-color"),
                *("--generation-database", "none"),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout
        assert server.process.poll() is None
        assert not [line for line in server.log if "Traceback" in line], server.log
