"""Draw pictures of huge images outside the service.

Decoders hold Python's global lock for seconds, and a process returns all of its memory when it
ends. Full-size pictures get a process each (`command`). Small ones share a `Painter`, a process
that waits for the next order: to start Python takes longer than to draw a small picture.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from fre.errors import FREError
from fre.images.formats import pixel_limit, set_pixel_limit
from fre.serve.pictures import PictureRequest, Pictures, StoredImage, draw
from fre.serve.responses import Problem, problem_from

log = logging.getLogger("fre.serve")

DRAW_SECONDS = 120.0
"""Time after which a drawing process is killed, in seconds."""
IDLE_SECONDS = 10.0
"""Time without an order after which the painter ends, in seconds."""

# Without the working folder, which could contain modules of the same names.
PROGRAM = (
    "import sys; sys.path = [folder for folder in sys.path if folder]; "
    "from fre.serve.drawing_process import {0}; sys.exit({0}())"
)


def order(pictures: Pictures, stored: StoredImage, wanted: PictureRequest) -> str:
    """Return what a drawing process needs to know, as a line of JSON."""
    return json.dumps(
        {
            "folder": str(pictures.folder.absolute()),
            "max_pixels": pixel_limit(),
            "stored": asdict(stored),
            "wanted": asdict(wanted),
        }
    )


def command(pictures: Pictures, stored: StoredImage, wanted: PictureRequest) -> list[str]:
    """Return the command that draws a picture to standard output, which must be a file.

    It exits with 0; or with 1 and an error as a line of JSON on standard error.
    """
    return [sys.executable, "-c", PROGRAM.format("main"), order(pictures, stored, wanted)]


def main() -> int:
    """Draw the picture of a `command`; return the exit code."""
    problem = _draw(sys.argv[1], sys.stdout.buffer)
    if problem is None:
        return 0
    print(json.dumps(vars(problem)), file=sys.stderr)
    return 1


def paint() -> int:
    """Draw small pictures until standard input ends; return the exit code.

    Each line of standard input is an `order`. The reply is a line of JSON, ``{"size": BYTES}``
    followed by the picture, or an error.
    """
    for line in sys.stdin:
        buffer = io.BytesIO()
        problem = _draw(line, buffer)
        reply = {"size": buffer.tell()} if problem is None else vars(problem)
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
        if problem is None:
            sys.stdout.buffer.write(buffer.getbuffer())
        sys.stdout.buffer.flush()
    return 0


def told_problem(values: dict[str, Any]) -> Problem:
    """Return the error that a drawing process reported."""
    return Problem(
        values["status"], values["code"], values["message"], retry_after=values["retry_after"]
    )


def too_slow() -> Problem:
    """Return the error for a picture that took too long."""
    return Problem(422, "unreadable", f"the picture takes more than {DRAW_SECONDS:.0f} s to draw")


def died(code: int | None, text: str = "") -> Problem:
    """Log that a drawing process ended without a reply, and return the error."""
    log.error("a picture could not be drawn (exit code %s) %s", code, text.strip())
    return Problem(500, "internal", "the picture could not be drawn; the log has more")


def _draw(text: str, file: IO[bytes]) -> Problem | None:
    """Draw the picture of an order into a file; return the error, if any."""
    values: dict[str, Any] = json.loads(text)
    set_pixel_limit(values["max_pixels"])
    stored = StoredImage(
        values["stored"]["identity"],
        values["stored"]["form"],
        tuple(values["stored"]["size"]),
        tuple(values["stored"]["scale"]),
    )
    try:
        pictures = Pictures(Path(values["folder"]), bound=0)
        draw(pictures, stored, PictureRequest(**values["wanted"]), file)
        file.flush()
        return None
    except Problem as error:
        return error
    except FREError as error:
        return problem_from(error)
    except OSError as error:
        reason = f"the picture can't be written: {error.strerror or error}"
        return Problem(503, "busy", reason, retry_after=10)


class Painter:
    """A process that draws small pictures one after another, and ends when idle.

    `draw` blocks and takes one order at a time. `close` may be called meanwhile.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._idle: threading.Timer | None = None
        self._closed = False

    def draw(self, text: str) -> bytes:
        """Draw the picture of an `order`.

        Raises:
            Problem: it can't be drawn, or takes too long.
        """
        with self._lock:
            process = self._running()
            slow = threading.Event()

            def give_up() -> None:
                slow.set()
                process.kill()

            late = threading.Timer(DRAW_SECONDS, give_up)
            late.daemon = True
            late.start()
            try:
                data = self._ask(process, text)
            finally:
                late.cancel()
                self._rest()
            if data is not None:
                return data
            self._end()
            if self._closed:
                raise self._closing()
            raise too_slow() if slow.is_set() else died(process.returncode)

    def close(self) -> None:
        """End the process; callable from any thread, even while it draws."""
        self._closed = True
        self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._idle is not None:
            self._idle.cancel()
        if self._closed:
            raise self._closing()
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format("paint")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the service, which then ends this process
            )
        return self._process

    @staticmethod
    def _closing() -> Problem:
        return Problem(503, "shutting_down", "the service is stopping", retry_after=1)

    @staticmethod
    def _ask(process: subprocess.Popen[bytes], text: str) -> bytes | None:
        """Return the picture, or ``None`` if the process ended before its reply was complete."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(text.encode() + b"\n")
            process.stdin.flush()
            values = json.loads(process.stdout.readline() or b"null")
            if values is None:
                return None
            if "size" not in values:
                raise told_problem(values)
            data = process.stdout.read(values["size"])
        except (OSError, ValueError):
            return None
        return data if len(data) == values["size"] else None

    def _rest(self) -> None:
        """End the process after a while without an order."""
        self._idle = threading.Timer(IDLE_SECONDS, self._end_idle)
        self._idle.daemon = True
        self._idle.start()

    def _end_idle(self) -> None:
        # An order that came meanwhile holds the lock; it starts the next timer.
        if self._lock.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._lock.release()

    def _end(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # an order that was never read
                if pipe is not None:
                    pipe.close()
