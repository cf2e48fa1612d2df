"""The last message as variables of an OPC UA server."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from fre.errors import MissingDependencyError, OutputError
from fre.line.journal import Message

NAMESPACE = "urn:fre"
KINDS = {
    "Score": "Double",
    "PValue": "Double",
    "Threshold": "Double",
    "Anomalous": "Boolean",
    "Decision": "String",
    "Path": "String",
    "Part": "String",
    "Time": "String",
    "Error": "String",
    "Id": "String",
    "Model": "String",
    "ModelSha256": "String",
    "Dropped": "UInt64",
    "Counter": "UInt64",
}
"""Variables of the object ``fre``, and their types. ``Counter`` is written last."""


class OpcUaSink:
    """Serves the last message to PLCs and other OPC UA clients, read only, without encryption.

    Args:
        host: address to listen on; ``0.0.0.0`` lets other machines in.
        port: port to listen on.

    Raises:
        MissingDependencyError: asyncua is not installed.
        OutputError: the address can't be used.
    """

    batch = 64
    refused = 0

    def __init__(self, host: str, port: int) -> None:
        try:
            from asyncua import ua
            from asyncua.sync import Server
        except ImportError as error:
            raise MissingDependencyError("an OPC UA server", "opcua") from error
        logging.getLogger("asyncua").setLevel(logging.ERROR)
        self.name = f"opcua://{host}:{port}"
        self._server: Any = Server()
        try:
            self._server.set_endpoint(f"opc.tcp://{host}:{port}/fre/")
            self._server.set_server_name("fre")
            self._server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
            space = self._server.register_namespace(NAMESPACE)
            part = self._server.nodes.objects.add_object(f"ns={space};s=fre", f"{space}:fre")
            self._nodes = {
                name: part.add_variable(
                    f"ns={space};s=fre.{name}",
                    f"{space}:{name}",
                    _EMPTY[kind],
                    getattr(ua.VariantType, kind),
                )
                for name, kind in KINDS.items()
            }
            self._server.start()
        except OSError as error:
            self._server.stop()
            raise OutputError(f"--to {self.name}: can't listen: {error.strerror}") from error
        self._ua = ua

    def deliver(self, messages: Sequence[Message]) -> Iterator[int]:
        """Set the variables to each message in turn; see `fre.line.delivery.Sink`."""
        for message in messages:
            for name, value in variables(message).items():
                kind = getattr(self._ua.VariantType, KINDS[name])
                self._nodes[name].write_value(self._ua.Variant(value, kind))
            yield message.n

    def close(self) -> None:
        """Stop the server."""
        self._server.stop()


_EMPTY: dict[str, Any] = {"Double": float("nan"), "Boolean": True, "String": "", "UInt64": 0}
"""Values before the first message: no score, and never good."""


def variables(message: Message) -> dict[str, Any]:
    """Return the values of all variables for a message, ``Counter`` last.

    An image without a score is anomalous and has NaN as its score: a PLC that reads one variable
    only must not take it for good.
    """
    values = message.values
    return {
        "Score": float(values.get("score", "nan")),
        "PValue": float(values.get("p_value", "nan")),
        "Threshold": float(values["threshold"]),
        "Anomalous": bool(values.get("anomalous", True)),
        "Decision": values["decision"],
        "Path": values["path"],
        "Part": values.get("part", ""),
        "Time": values["time"],
        "Error": values.get("error", ""),
        "Id": values["id"],
        "Model": values["model"],
        "ModelSha256": values["model_sha256"],
        "Dropped": values["dropped"],
        "Counter": message.n,
    }
