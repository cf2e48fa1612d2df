"""Messages by POST: each arrives at least once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fre.line.sinks import webhook as module
from fre.line.sinks.webhook import Webhook
from line_peers import Receiver, wait_for


def hook(url: str, told: list[str]) -> Webhook:
    return Webhook(url, told.append)


def test_messages_arrive_in_order_with_their_ids(
    line: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRE_WEBHOOK_TOKEN", "secret")
    with Receiver() as receiver:
        one = line()
        one.open(hook(receiver.url + "?key=1", one.told))
        one.send(*range(50))
        assert one.close() == 0
    assert [item["number"] for item in receiver.got] == list(range(50))
    headers = receiver.headers[7]
    assert headers["Idempotency-Key"] == receiver.got[7]["id"]
    assert headers["Authorization"] == "Bearer secret"
    assert receiver.got[7]["model_sha256"] == "ab" * 32
    assert receiver.got[7]["threshold"] == 1.5


def test_errors_are_tried_again_and_refusals_are_said(line: Callable[[], Any]) -> None:
    with Receiver() as receiver:
        receiver.answers = [200, 503, 429, 301, 200, 422, 0, 200]
        one = line()
        sink = hook(receiver.url, one.told)
        one.open(sink)
        one.send(*range(6))
        assert one.close() == 0
    # The third is refused for good; the fourth was taken without an answer, and comes again.
    assert [item["number"] for item in receiver.got] == [0, 1, 3, 3, 4, 5]
    assert [item.get("redelivered", False) for item in receiver.got] == [False] * 3 + [
        True,
        False,
        False,
    ]
    assert receiver.got[2]["id"] == receiver.got[3]["id"]
    assert sink.refused == 1
    assert any("refuses" in text and "422" in text for text in one.told)
    assert any("answers 503" in text for text in one.told)


def test_a_receiver_that_is_away_for_a_while_loses_nothing(line: Callable[[], Any]) -> None:
    receiver = Receiver()
    one = line()
    one.open(hook(receiver.url.replace("//", "//user:pass@"), one.told))
    one.send(*range(10))
    wait_for(lambda: len(receiver.got) == 10)
    receiver.stop()
    one.send(*range(10, 40))
    wait_for(lambda: one.told)
    receiver.start()
    assert one.close() == 0
    receiver.stop()
    numbers = [item["number"] for item in receiver.got if not item.get("redelivered")]
    assert set(range(40)) == {item["number"] for item in receiver.got}
    assert len(numbers) == len(set(numbers))
    assert receiver.headers[0]["Authorization"].startswith("Basic ")
    assert not any("pass" in text for text in one.told)


def test_a_receiver_that_never_answers(
    line: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setattr(module, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        one = line()
        one.open(hook(f"http://127.0.0.1:{silent.getsockname()[1]}/", one.told))
        one.send(1)
        wait_for(lambda: one.told)
        assert one.close(0.1) == 1
    assert "gives no answer: timed out; messages are kept" in one.told[0]
