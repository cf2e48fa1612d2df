"""Messages as lines of text: on stdout, in a file of JSON lines, or in a CSV file."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fre.errors import OutputError
from fre.line.delivery import DeliveryError
from fre.line.journal import Message

CSV_COLUMNS = (
    "id",
    "time",
    "taken",
    "source",
    "path",
    "number",
    "part",
    "score",
    "p_value",
    "threshold",
    "anomalous",
    "decision",
    "reason",
    "error",
    "model",
    "model_sha256",
    "dropped",
    "picture",
    "redelivered",
)


class Stdout:
    """Prints messages as JSON lines.

    Args:
        write: prints a line; returns false if the reader has gone, as ``head`` does.
        gone: called once the reader has gone.
    """

    name = "stdout"
    batch = 64
    refused = 0

    def __init__(self, write: Callable[[str], bool], gone: Callable[[], None]) -> None:
        self._write = write
        self._gone = gone
        self._lost = False

    def deliver(self, messages: Sequence[Message]) -> Iterator[int]:
        """Print messages; see `fre.line.delivery.Sink`."""
        for message in messages:
            if self._lost or not self._write(message.text()):
                # The lines stay in the journal for the next start; this run is about to end.
                self._lost = True
                self._gone()
                time.sleep(0.05)
                return
            yield message.n

    def close(self) -> None:
        """Do nothing: stdout stays open."""


class LinesFile:
    """Appends messages to a file, one JSON object a line.

    A line that a crash cut short is removed; its message comes again.

    Args:
        path: file; created if missing.

    Raises:
        OutputError: the file can't be written, or is another kind of file.
    """

    batch = 64
    refused = 0

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        try:
            self._file = path.open("a+b", buffering=0)
            try:
                self._begin()
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise OutputError(f"{path}: can't be written: {error.strerror}") from error

    def _begin(self) -> None:
        self._file.seek(0)
        head = self._file.read(4096)
        self.check_head(head)
        if not head:
            self._append(self.header())
        self._cut_torn_line()

    def check_head(self, head: bytes) -> None:
        """Check that the file is of this kind.

        Raises:
            OutputError: it is not.
        """
        if head and not head.startswith(b"{"):
            raise OutputError(f"{self.path}: expected a file of JSON lines; name another")

    def header(self) -> str:
        """Return the first line of a new file."""
        return ""

    def row(self, message: Message) -> str:
        """Return the line of a message, with its end."""
        return message.text() + "\n"

    def deliver(self, messages: Sequence[Message]) -> Iterator[int]:
        """Append messages; see `fre.line.delivery.Sink`."""
        for message in messages:
            try:
                self._append(self.row(message))
            except OSError as error:
                raise DeliveryError(f"can't be written: {error.strerror}") from error
            yield message.n

    def _append(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        end = self._file.seek(0, os.SEEK_END)
        written = self._file.write(data)
        if written != len(data):
            self._file.truncate(end)
            raise OSError(28, "No space left on device")

    def _cut_torn_line(self) -> None:
        end = self._file.seek(0, os.SEEK_END)
        start = end
        while start > 0:
            before = max(0, start - 65536)
            self._file.seek(before)
            found = self._file.read(start - before).rfind(b"\n")
            if found >= 0:
                start = before + found + 1
                break
            start = before
        if start < end:
            self._file.truncate(start)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class CsvFile(LinesFile):
    """Appends messages to a CSV file, with a header; regions are left out."""

    def check_head(self, head: bytes) -> None:
        """Check that the file has the header of this version."""
        first = head.split(b"\n")[0].decode("utf-8", "replace") + "\n"
        if head and first.replace("\r", "") != self.header():
            raise OutputError(f"{self.path}: has other columns than fre writes; name another file")

    def header(self) -> str:
        """Return the names of the columns."""
        return _csv_line(CSV_COLUMNS)

    def row(self, message: Message) -> str:
        """Return the line of a message."""
        values = {**message.values, "redelivered": message.repeated or None}
        return _csv_line([csv_cell(values.get(column)) for column in CSV_COLUMNS])


def _csv_line(cells: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def csv_cell(value: Any) -> Any:
    """Return a value for a spreadsheet, which would execute a text that looks like a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value
