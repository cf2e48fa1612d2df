"""The container, the compose file and the systemd unit, as far as tools on this machine check."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fre.cli import cli

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def test_the_container_runs_as_a_user_with_a_health_check() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    last = text[text.rindex("\nFROM") :]
    assert re.search(r"^USER 10001:10001$", last, re.M)
    found = re.search(r"^CMD (\[.*\])$", last, re.M)
    assert found is not None
    program, name, *arguments = json.loads(found[1])
    assert program == "fre"
    cli.commands[name].make_context(name, arguments)
    for source in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.M):
        for path in source.split():
            assert (DEPLOY.parent / path).exists(), path


@pytest.mark.slow
def test_the_health_check_of_the_container_asks_the_service(tmp_path: Path) -> None:
    from serving import NEEDED, Server

    for package in NEEDED:
        pytest.importorskip(package, reason="needs fre-vision[serve]")
    found = re.search(r'CMD \["python", "-c", "(.*)"\]', (DEPLOY / "Dockerfile").read_text())
    assert found is not None
    with Server(tmp_path) as server:
        port = server.url.rstrip("/").rsplit(":", 1)[1]
        code = found[1].replace(":8000", f":{port}")
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    gone = subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    assert gone.returncode == 1


def test_the_compose_file_is_sound_and_asks_for_a_token() -> None:
    if shutil.which("docker") is None:
        pytest.skip("needs the client of Docker: apt install docker.io docker-compose-v2")
    command = ["docker", "compose", "-f", str(DEPLOY / "compose.yaml"), "config"]
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("needs docker compose")
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin"}
    asked = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert asked.returncode != 0
    assert "give a secret" in asked.stderr
    environment["FRE_TOKEN"] = "secret"
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "read_only: true" in done.stdout


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze: apt install systemd")
    text = (DEPLOY / "fre.service").read_text()
    found = re.search(r"^ExecStart=(\S+) (\S+) (.*)$", text, re.M)
    assert found is not None
    cli.commands[found[2]].make_context(found[2], found[3].split())
    unit = tmp_path / "fre.service"
    # The program must exist; this machine has it elsewhere.
    unit.write_text(text.replace(found[1], sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if str(unit) in line or "fre.service" in line]
    assert ours == []
    broken = tmp_path / "broken.service"
    broken.write_text(text)
    refused = subprocess.run(["systemd-analyze", "verify", broken], capture_output=True, text=True)
    if not Path(found[1]).exists():
        assert "not executable" in refused.stderr
