"""The variables that a PLC reads, by a real OPC UA client."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fre.errors import OutputError
from fre.line.sinks.open import open_sinks
from line_peers import free_port, needs

pytestmark = [needs("asyncua", "opcua")]


def test_score_decision_and_counter(line: Callable[[], Any], tmp_path: Path) -> None:
    from asyncua import ua
    from asyncua.sync import Client

    port = free_port()
    (sink,), _ = open_sinks([f"opcua://127.0.0.1:{port}"], warn=print)
    one = line()
    delivery = one.open(sink)
    with Client(f"opc.tcp://127.0.0.1:{port}/fre/") as client:
        space = client.get_namespace_index("urn:fre")

        def read(name: str) -> Any:
            return client.get_node(f"ns={space};s=fre.{name}").read_value()

        assert math.isnan(read("Score"))
        assert read("Anomalous") is True
        assert read("Counter") == 0
        one.send(4, 5, part="A-5")
        while read("Counter") < 2:
            pass
        found = {name: read(name) for name in ("Score", "Anomalous", "Decision", "Part", "Path")}
        assert found == {
            "Score": 2.5,
            "Anomalous": True,
            "Decision": "fail",
            "Part": "A-5",
            "Path": "cam#5",
        }
        assert read("ModelSha256") == "ab" * 32
        assert read("Threshold") == 1.5
        node = client.get_node(f"ns={space};s=fre.Anomalous")
        with pytest.raises(ua.UaStatusCodeError):
            node.write_value(False)  # clients only read
        one.journal.record([(None, {"path": "x", "error": "no frame", "decision": "error",
                                    "threshold": 1.5, "model": "weave", "model_sha256": "",
                                    "time": "", "dropped": 3})])  # fmt: skip
        delivery.wake()
        while read("Counter") < 3:
            pass
        assert math.isnan(read("Score"))
        assert (read("Anomalous"), read("Decision"), read("Error")) == (True, "error", "no frame")
        with pytest.raises(OutputError, match="can't listen"):
            open_sinks([f"opcua://127.0.0.1:{port}"], warn=print)
    assert one.close() == 0
