"""A real broker, mosquitto, which goes away and comes back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fre.errors import OptionError
from fre.line.sinks.open import open_sinks
from line_peers import Mosquitto, Subscriber, free_port, needs, needs_mosquitto, wait_for

pytestmark = [needs("paho", "mqtt"), needs_mosquitto]

TOPIC = "line1/part"


def sink(url: str, told: list[str]) -> Any:
    (found,), _ = open_sinks([url], warn=told.append)
    return found


def test_messages_state_and_last_will(line: Callable[[], Any], tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        subscriber = Subscriber(broker.port, TOPIC)
        one = line()
        one.open(sink(f"mqtt://127.0.0.1:{broker.port}/{TOPIC}?retain=1", one.told))
        one.send(*range(100))
        assert one.close() == 0
        wait_for(lambda: subscriber.got[f"{TOPIC}/state"][-1] == {"state": "offline"})
        got = subscriber.got[TOPIC]
        assert [item["number"] for item in got] == list(range(100))
        online = next(item for item in subscriber.got[f"{TOPIC}/state"] if "model" in item)
        assert online == {
            "state": "online",
            "model": "weave",
            "model_sha256": "ab" * 32,
            "threshold": 1.5,
            "source": "cam",
        }
        subscriber.close()
        late = Subscriber(broker.port, TOPIC)  # gets what is retained
        late.close()


def test_a_process_that_dies_is_said_to_be_offline(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        subscriber = Subscriber(broker.port, TOPIC)
        url = f"mqtt://127.0.0.1:{broker.port}/{TOPIC}"
        code = (
            "import time\nfrom fre.line.sinks.open import open_sinks\n"
            f"open_sinks([{url!r}], warn=print)\ntime.sleep(60)"
        )
        process = subprocess.Popen([sys.executable, "-c", code])
        states = subscriber.got.setdefault(f"{TOPIC}/state", [])
        wait_for(lambda: states == [{"state": "online"}])
        process.kill()
        process.wait()
        wait_for(lambda: states[-1] == {"state": "offline"})
        subscriber.close()


def test_a_broker_that_is_away_loses_nothing(line: Callable[[], Any], tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        subscriber = Subscriber(broker.port, TOPIC)
        wait_for(subscriber.client.is_connected)
        one = line()
        one.open(sink(f"mqtt://127.0.0.1:{broker.port}/{TOPIC}", one.told))
        number = 0
        for _ in range(2):
            for _ in range(5):
                one.send(*range(number, number + 10))
                number += 10
            broker.stop()
            one.send(*range(number, number + 50))
            number += 50
            wait_for(lambda: one.told)
            broker.start()
        assert one.close() == 0
        wait_for(lambda: {item["number"] for item in subscriber.got[TOPIC]} == set(range(number)))
        by_id: dict[str, set[int]] = {}
        for item in subscriber.got[TOPIC]:
            by_id.setdefault(item["id"], set()).add(item["number"])
        assert len(by_id) == number  # a repeated message has the id of its first time
        assert all(len(found) == 1 for found in by_id.values())
        subscriber.close()


def test_a_broker_that_is_not_there_yet_and_wrong_passwords(
    line: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fre.line.sinks import mqtt as module

    monkeypatch.setattr(module, "SECONDS", 1.0)
    one = line()
    one.open(sink(f"mqtt://127.0.0.1:{free_port()}/{TOPIC}", one.told))
    one.send(1)
    wait_for(lambda: one.told)
    assert one.close(0.1) == 1
    assert "can't be reached: Connection refused; messages are kept" in one.told[0]
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "me", "right"], check=True)
    passwords.chmod(0o644)
    with Mosquitto(tmp_path, "allow_anonymous false", f"password_file {passwords}") as broker:
        for password, left in (("wrong", 1), ("right", 0)):
            monkeypatch.setenv("FRE_MQTT_PASSWORD", password)
            one = line()
            one.open(sink(f"mqtt://me@127.0.0.1:{broker.port}/{TOPIC}", one.told))
            if left:
                one.send(2)
                wait_for(lambda one=one: one.told)
                assert "refuses the connection: Not authorized" in one.told[0]
                assert one.close(0.1) == 1
            else:
                assert one.close(30) == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tls(line: Callable[[], Any], tmp_path: Path) -> None:
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        capture_output=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("needs openssl")
    extra = (f"certfile {tmp_path}/cert.pem", f"keyfile {tmp_path}/key.pem", "allow_anonymous true")
    with Mosquitto(tmp_path, *extra) as broker:
        one = line()
        url = f"mqtts://127.0.0.1:{broker.port}/{TOPIC}"
        one.open(sink(f"{url}?ca={tmp_path}/cert.pem", one.told))
        one.send(*range(5))
        assert one.close() == 0
        assert one.told == []
        two = line()
        two.open(sink(f"{url}?client=other", two.told))
        two.send(1)
        wait_for(lambda: two.told)
        assert two.close(0.1) == 1
        assert "certificate verify failed" in two.told[0]


def test_mistakes() -> None:
    for url, reason in {
        "mqtt://broker": "expected a topic",
        "mqtt://broker/a/+": "expected a topic",
        "mqtt://broker/a?retain=yes": "expected 0 or 1",
        "mqtt://broker/a?ca=/x": "need mqtts://",
        "mqtts://broker/a?ca=/nothing": "expected a file",
        "mqtt://broker/a?qos=2": "no option is called 'qos'",
        "mqtt://broker:port/a": "Port could not be cast",
    }.items():
        with pytest.raises(OptionError, match=reason):
            sink(url, [])
