"""End a service whose interpreter is stuck; run as a script, in a process of its own.

C code that waits for ever with Python's global lock stops every Python thread. No signal handler
runs then, and nothing inside the process can end it. Python's C signal handler still writes each
signal to a pipe, which is the input of this script.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

ENDING = (signal.SIGINT, signal.SIGTERM)


class Guard:
    """The guard process of this process, on POSIX systems.

    Args:
        seconds: time from a signal to the end by force.
    """

    def __init__(self, seconds: float) -> None:
        import subprocess

        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        try:
            self._process = subprocess.Popen(
                # Without site-packages, which would cost memory and time.
                [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(seconds)],
                stdin=read,
                stdout=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,  # Ctrl-C of a terminal must not end the guard
            )
        except BaseException:
            os.close(self._write)
            raise
        finally:
            os.close(read)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def close(self) -> None:
        """End the guard, because this process has finished its work."""
        signal.set_wakeup_fd(self._before)
        os.close(self._write)
        self._process.wait()


def _watch(parent: int, seconds: float) -> None:
    """Wait for a signal, then for the end of the process; kill the process when the time is up."""
    deadline: float | None = None
    while os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], 0.5)
        if readable:
            received = os.read(0, 64)
            if not received:
                return  # the process has ended
            if deadline is None and any(number in ENDING for number in received):
                deadline = time.monotonic() + seconds
        if deadline is not None and time.monotonic() > deadline:
            line = (
                f"fre: ended by force after {seconds:g} seconds, as Python itself was stuck; "
                "every result that was answered is kept\n"
            )
            with contextlib.suppress(OSError):
                os.write(2, line.encode())
            os.kill(parent, signal.SIGKILL)
            return


if __name__ == "__main__":
    _watch(int(sys.argv[1]), float(sys.argv[2]))
