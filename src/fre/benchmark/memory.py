"""Peak memory of this process."""

from __future__ import annotations

import re
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def reset_peak_memory() -> bool:
    """Measure the peak from now on; return false if the system can't (only Linux can)."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def peak_memory() -> int | None:
    """Return the largest resident size since the last reset, in bytes; ``None`` if unknown."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
