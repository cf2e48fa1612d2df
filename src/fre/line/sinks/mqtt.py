"""Messages to an MQTT broker."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote

from fre.errors import MissingDependencyError, OptionError
from fre.line.delivery import DeliveryError
from fre.line.journal import Message

SECONDS = 5.0
"""Time for the broker to acknowledge a message."""
LAST_SECONDS = 1.0
"""Time for the broker to acknowledge that fre is offline, when it ends."""
KEEP_ALIVE = 15
"""Seconds of silence after which broker and client know that the other has gone."""


class MqttSink:
    """Publishes each message with QoS 1.

    ``TOPIC/state`` is retained and says ``{"state": "online"}`` with the model of the last message,
    or ``{"state": "offline"}``: that is also the last will, which the broker publishes if fre or
    its machine dies.

    Args:
        url: ``mqtt://USER:PASSWORD@HOST/TOPIC``, or ``mqtts://`` for TLS. The password may also
            stand in the environment variable ``FRE_MQTT_PASSWORD``.
        port: port of the broker, or ``None`` for 1883, with TLS 8883.
        options: ``retain=1`` retains the messages, too; ``ca``, ``cert`` and ``key`` are files for
            TLS; ``client`` is the client's id.

    Raises:
        MissingDependencyError: paho-mqtt is not installed.
        OptionError: the topic is missing, or an option or a file is wrong.
    """

    batch = 20
    refused = 0

    def __init__(self, url: SplitResult, port: int | None, options: Mapping[str, str]) -> None:
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise MissingDependencyError("an MQTT broker", "mqtt") from error
        secure = url.scheme == "mqtts"
        self.topic = unquote(url.path.strip("/"))
        port = port or (8883 if secure else 1883)
        self.name = f"{url.scheme}://{url.hostname}:{port}/{self.topic}"
        if not self.topic or any(letter in self.topic for letter in "+#\0"):
            raise OptionError(
                f"--to {self.name}: expected a topic without + and #, as in "
                "mqtt://broker/line1/part"
            )
        if options.get("retain", "0") not in ("0", "1"):
            raise OptionError(f"--to {self.name}: retain: expected 0 or 1")
        self._retain = options.get("retain") == "1"
        self._failure = "gives no answer"
        self._address = (url.hostname or "", port)
        self._tls: ssl.SSLContext | None = None
        self._connected = False
        self._model: dict[str, Any] = {}
        self._in_flight: dict[int, Any] = {}
        client = Client(CallbackAPIVersion.VERSION2, client_id=options.get("client", ""))
        if url.username:
            password = unquote(url.password) if url.password else None
            client.username_pw_set(
                unquote(url.username), password or os.environ.get("FRE_MQTT_PASSWORD")
            )
        if secure:
            self._use_tls(client, options)
        elif {"ca", "cert", "key"} & set(options):
            raise OptionError(f"--to {self.name}: ca, cert and key need mqtts://")
        client.will_set(f"{self.topic}/state", json.dumps({"state": "offline"}), 1, retain=True)
        client.reconnect_delay_set(1, 30)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        self._client = client
        client.connect_async(*self._address, KEEP_ALIVE)
        client.loop_start()

    def _use_tls(self, client: Any, options: Mapping[str, str]) -> None:
        for name in ("ca", "cert", "key"):
            if name in options and not Path(options[name]).is_file():
                raise OptionError(f"--to {self.name}: {name}: {options[name]}: expected a file")
        try:
            context = ssl.create_default_context(cafile=options.get("ca"))
            if "cert" in options:
                context.load_cert_chain(options["cert"], options.get("key"))
        except (OSError, ValueError) as error:
            raise OptionError(f"--to {self.name}: TLS: {error}") from error
        client.tls_set_context(context)
        self._tls = context

    def _on_connect(self, _: Any, __: Any, ___: Any, code: Any, ____: Any) -> None:
        if code.is_failure:
            self._failure = f"the broker refuses the connection: {code}"
            return
        self._connected = True
        self._publish_state()

    def _on_connect_fail(self, *_: Any) -> None:
        # The client does not say why: look again.
        try:
            with socket.create_connection(self._address, SECONDS) as plain:
                if self._tls is not None:
                    self._tls.wrap_socket(plain, server_hostname=self._address[0]).close()
            self._failure = "can't be reached"
        except OSError as error:
            self._failure = f"can't be reached: {error.strerror or error}"

    def _on_disconnect(self, _: Any, __: Any, ___: Any, code: Any, ____: Any) -> None:
        if self._connected:
            self._failure = f"connection lost: {code}"
        self._connected = False

    def _publish_state(self) -> None:
        state = json.dumps({"state": "online", **self._model})
        self._publish(f"{self.topic}/state", state.encode(), retain=True)

    def _publish(self, topic: str, text: bytes, *, retain: bool) -> Any:
        info: Any = self._client.publish(topic, text, 1, retain)
        # Without a connection the client keeps the message and sends it later, but its info would
        # raise an error for ever.
        info.rc = 0
        return info

    def deliver(self, messages: Sequence[Message]) -> Iterator[int]:
        """Publish messages; see `fre.line.delivery.Sink`.

        A message that the client has already is not given to it again: the client repeats it when
        it is connected again.
        """
        if not self._connected and not self._in_flight:
            # A first connection takes a moment.
            self._wait(lambda: self._connected)
            if not self._connected:
                raise DeliveryError(self._failure)
        self._say_model(messages[-1])
        for message in messages:
            if message.n not in self._in_flight:
                text = message.text().encode("utf-8", "backslashreplace")
                self._in_flight[message.n] = self._publish(self.topic, text, retain=self._retain)
        for message in messages:
            info = self._in_flight[message.n]
            self._wait(info.is_published)
            if not info.is_published():
                reason = "does not acknowledge messages" if self._connected else self._failure
                raise DeliveryError(reason, messages[-1].n)
            del self._in_flight[message.n]
            yield message.n

    def _say_model(self, message: Message) -> None:
        keys = ("model", "model_sha256", "threshold", "source")
        model = {key: message.values[key] for key in keys if key in message.values}
        if model != self._model:
            self._model = model
            self._publish_state()

    def _wait(self, condition: Callable[[], bool], seconds: float | None = None) -> None:
        end = time.monotonic() + (SECONDS if seconds is None else seconds)
        while not condition() and time.monotonic() < end:
            time.sleep(0.002)

    def close(self) -> None:
        """Say that fre is offline, and disconnect."""
        if self._connected:
            offline = json.dumps({"state": "offline"})
            info = self._publish(f"{self.topic}/state", offline.encode(), retain=True)
            self._wait(lambda: info.is_published() or not self._connected, LAST_SECONDS)
        self._client.disconnect()
        self._client.loop_stop()
