"""The receivers that ``--to`` names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from fre.errors import OptionError
from fre.line.delivery import Sink
from fre.line.sinks.files import CsvFile, LinesFile
from fre.line.sinks.mqtt import MqttSink
from fre.line.sinks.opcua import OpcUaSink
from fre.line.sinks.pictures import PictureFolder
from fre.line.sinks.webhook import Webhook


class Target(NamedTuple):
    """A parsed ``--to``.

    Attributes:
        text: the text as given.
        url: the text without its options.
        options: the options behind the question mark.
    """

    text: str
    url: str
    options: dict[str, str]

    def refuse_others(self, *known: str) -> None:
        """Refuse options that the receiver does not have.

        Raises:
            OptionError: there is such an option.
        """
        for name in self.options:
            if name not in known:
                choices = f"choose from: {', '.join(known)}" if known else "it has none"
                raise OptionError(f"--to {self.url}: no option is called {name!r}; {choices}")


class Receivers(NamedTuple):
    """Who gets the results of an inspection.

    Attributes:
        sinks: receivers of messages.
        pictures: folders for pictures.
    """

    sinks: list[Sink]
    pictures: list[PictureFolder]


def open_sinks(texts: Sequence[str], *, warn: Callable[[str], None]) -> Receivers:
    """Return the receivers that are named.

    Args:
        texts: values of ``--to``: ``mqtt://``, ``mqtts://``, ``http://``, ``https://`` and
            ``opcua://`` URLs, ``pictures:DIR``, and files that end in ``.csv`` or ``.jsonl``.
        warn: called with one line of text for each thing to know.

    Raises:
        OptionError: a text is none of these, or is given twice.
        MissingDependencyError: an extra is not installed.
        OutputError: a file or folder can't be written, or an address is in use.
    """
    targets = [_parse(text) for text in texts]
    urls = [target.url for target in targets]
    for url in urls:
        if urls.count(url) > 1:
            raise OptionError(f"--to {url}: given twice")
    sinks: list[Sink] = []
    pictures: list[PictureFolder] = []
    try:
        for target in targets:
            if target.url.startswith("pictures:"):
                pictures.append(_pictures(target, warn))
            else:
                sinks.append(_sink(target, warn))
    except BaseException:
        for sink in sinks:
            sink.close()
        raise
    return Receivers(sinks, pictures)


def _parse(text: str) -> Target:
    url, _, query = text.partition("?")
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError as error:
        raise OptionError(f"--to {text}: expected options such as ?retain=1 at the end") from error
    return Target(text, url, options)


def _sink(target: Target, warn: Callable[[str], None]) -> Sink:
    try:
        parts = urlsplit(target.url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise OptionError(f"--to {target.url}: {error}") from error
    if "://" not in target.url:
        suffix = Path(target.url).suffix.lower()
        if suffix == ".csv":
            target.refuse_others()
            return CsvFile(Path(target.url))
        if suffix in (".jsonl", ".ndjson"):
            target.refuse_others()
            return LinesFile(Path(target.url))
    elif parts.scheme in ("http", "https") and host:
        # Its options belong to the receiver.
        return Webhook(target.text, warn)
    elif parts.scheme in ("mqtt", "mqtts") and host:
        target.refuse_others("retain", "ca", "cert", "key", "client")
        return MqttSink(parts, port, target.options)
    elif parts.scheme in ("opcua", "opc.tcp") and host:
        target.refuse_others()
        return OpcUaSink(host, port or 4840)
    raise OptionError(
        f"--to {target.text}: expected mqtt://HOST/TOPIC, https://HOST/PATH, opcua://ADDR:PORT, "
        "pictures:DIR, or a file that ends in .csv or .jsonl"
    )


def _pictures(target: Target, warn: Callable[[str], None]) -> PictureFolder:
    target.refuse_others("limit", "good")
    limit, good = target.options.get("limit", "1000"), target.options.get("good", "0")
    if not (limit.isdecimal() and limit.isascii() and int(limit) > 0):
        raise OptionError(f"--to {target.url}: limit: expected a number of MB, got {limit!r}")
    if good not in ("0", "1"):
        raise OptionError(f"--to {target.url}: good: expected 0 or 1, got {good!r}")
    folder = Path(target.url.removeprefix("pictures:"))
    return PictureFolder(folder, int(limit) * 1_000_000, good=good == "1", warn=warn)
